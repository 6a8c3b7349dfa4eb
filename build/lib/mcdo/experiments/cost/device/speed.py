"""Sections of the device check that read clocks and count bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import mcdo.estimators as estimators
from mcdo.encoders import Encoder
from mcdo.estimators import prepared
from mcdo.estimators.jacobian import SiteGraph
from mcdo.estimators.provenance import versions
from mcdo.estimators.rows import graph_images
from mcdo.estimators.scores import covariance_spectrum
from mcdo.experiments.cost import pass_cost
from mcdo.experiments.cost.device.setup import Machine, Row, guarded
from mcdo.images import load_images
from mcdo.perturbation import PASS_BLOCK, Dropout, check_alive, context, perturbed
from mcdo.perturbation.context import PerturbedTower

CEILING = 1.05
"""Forward equivalents of a keyed pass that are allowed on CUDA."""

_PRODUCTS = {
    "bfloat16": (torch.bfloat16, "highest"),
    "tf32": (torch.float32, "high"),
    "float32": (torch.float32, "highest"),
}


def card(machine: Machine) -> Iterator[Row]:
    """What the device is, and how fast it multiplies and copies."""
    about: Row = {"what": "device", "value": torch.cuda.get_device_name(machine.device) if machine.cuda else "cpu"}
    yield about
    if machine.cuda:
        yield {"what": "memory (GiB)", "value": torch.cuda.get_device_properties(machine.device).total_memory / 2**30}
    yield {"what": "CUDA", "value": torch.version.cuda}
    for name, version in versions().items():
        yield {"what": name, "value": version}
    n = machine.sizes.product
    for name, (dtype, precision) in _PRODUCTS.items():
        a, b = (torch.randn(n, n, device=machine.device).to(dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        machine.peak[name] = 2 * n**3 / machine.timed(lambda a=a, b=b: a @ b, 3, 10)  # type: ignore[misc]
        torch.set_float32_matmul_precision(before)
        yield {"what": f"{n}³ product, {name} (TFLOP/s)", "value": machine.peak[name] / 1e12}
    source = torch.randn(n * n * 4, device=machine.device)
    target = torch.empty_like(source)
    seconds = machine.timed(lambda: target.copy_(source), 3, 10)
    yield {"what": "copy, read and written (GB/s)", "value": 2 * source.numel() * 4 / seconds / 1e9}


def passes(machine: Machine) -> Iterator[Row]:
    """The keyed pass beside the deterministic one, for every tower and precision."""
    machine.all_loaded()
    for key in dict.fromkeys((*machine.sizes.towers, *machine.sizes.embedded)):
        for precision in machine.sizes.precisions:
            yield guarded({"encoder": key, "precision": precision}, partial(_cost, machine, key, precision))


def _cost(machine: Machine, key: str, precision: str) -> Row:
    encoder = machine.encoder(key)
    with machine.precision(encoder, precision):
        return _ratio(machine, encoder, precision, machine.flops(encoder))


def _ratio(machine: Machine, encoder: Encoder, precision: str, flops: float) -> Row:
    chosen, rows = machine.rows(encoder, precision)
    pixels, keys = machine.inputs(encoder, rows // PASS_BLOCK)
    plain = pass_cost.deterministic(encoder, pixels, PASS_BLOCK)
    used = {"plain": machine.memory(plain), "keyed": machine.memory(lambda: _few_keyed(encoder, pixels, keys))}
    with perturbed(encoder, Dropout(), 0) as tower:
        keyed = _keyed(tower, pixels, keys)
        methods = {
            pass_cost.DETERMINISTIC: plain,
            "native": pass_cost.native(encoder, pixels, PASS_BLOCK, Dropout()),
            "convolved once": pass_cost.convolved_once(encoder, pixels, PASS_BLOCK),
            "keyed": keyed,
        }
        for _ in range(3):
            keyed()  # captured
        costs = machine.costs(methods)
        refused = "" if tower.graphs is None else tower.graphs.refused
    second, beside = costs[pass_cost.DETERMINISTIC].seconds, costs["convolved once"].seconds
    return {
        "rows chosen": chosen, "rows timed": rows, "images/s": 1 / second, "passes/s": 1 / costs["keyed"].seconds,
        "ratio": costs["keyed"].ratio, "quartiles": f"{costs['keyed'].q25:.3f}-{costs['keyed'].q75:.3f}",
        "ratio, convolved once": costs["keyed"].seconds / beside, "native": costs["native"].ratio,
        "GFLOP": flops / 1e9, "of peak": flops / second / machine.peak[precision],
        "keyed, of peak": flops / costs["keyed"].seconds / machine.peak[precision],
        "MiB": used["plain"], "MiB keyed": used["keyed"], "no graph": refused or None,
        "ok": costs["keyed"].ratio <= CEILING if machine.cuda else None,
    }  # fmt: skip


def _few_keyed(encoder: Encoder, pixels: Tensor, keys: Tensor) -> None:
    """As many passes as it takes until a graph is held."""
    with perturbed(encoder, Dropout(), 0) as tower:
        for block in range(4):
            tower(pixels, keys, 0, block)


def _keyed(tower: PerturbedTower, pixels: Tensor, keys: Tensor) -> Callable[[], int]:
    blocks = iter(range(10**9))

    def run() -> int:
        tower(pixels, keys, 0, next(blocks))
        return len(pixels) * PASS_BLOCK

    return run


def profile(machine: Machine) -> Iterator[Row]:
    """The kernels that take most of a pass, deterministic and keyed."""
    from torch.profiler import ProfilerActivity, profile

    encoder = machine.encoder(machine.sizes.compared)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if machine.cuda else [])]
    with machine.precision(encoder, machine.sizes.precisions[0]), perturbed(encoder, Dropout(), 0) as tower:
        _, rows = machine.rows(encoder, machine.sizes.precisions[0])
        pixels, keys = machine.inputs(encoder, rows // PASS_BLOCK)
        sites = check_alive(encoder, pixels[:1], Dropout())
        probe = torch.ones(encoder.feature_dim, device=encoder.device)
        ways: dict[str, Callable[[], object]] = {
            "plain": pass_cost.deterministic(encoder, pixels, PASS_BLOCK),
            "keyed": _keyed(tower, pixels, keys),
            "first order": lambda: SiteGraph(encoder, pixels[:64], Dropout(), sites).terms(probe, last=True),
        }
        for way, do in ways.items():
            do()
            machine.sync()
            with profile(activities=activities) as seen:
                do()
                machine.sync()
            name = "self_device_time_total" if machine.cuda else "self_cpu_time_total"
            events = [event for event in seen.key_averages() if getattr(event, name, 0) > 0]
            events = [e for e in events if not machine.cuda or "CUDA" in str(getattr(e, "device_type", ""))]
            total = sum(getattr(event, name) for event in events)
            yield {"pass": way, "kernel": "all", "calls": sum(e.count for e in events), "ms": total / 1e3}
            for event in sorted(events, key=lambda e: -getattr(e, name))[:12]:
                yield {"pass": way, "kernel": event.key[:90], "calls": event.count, "ms": getattr(event, name) / 1e3}


def loop(machine: Machine) -> Iterator[Row]:
    """The pass loop from end to end beside bare passes, by rows of a pass, blocks at once, and scores."""
    encoder, (count, passes, trials) = machine.encoder(machine.sizes.compared), machine.sizes.loop
    images = load_images("digits", n=count)
    pixels = prepared(encoder, images)
    with machine.precision(encoder, machine.sizes.precisions[0]):
        chosen, rows = machine.rows(encoder, machine.sizes.precisions[0])
        shown, keys = machine.inputs(encoder, rows // PASS_BLOCK)
        with perturbed(encoder, Dropout(), 0) as tower:
            bare = len(shown) * PASS_BLOCK / machine.timed(_keyed(tower, shown, keys), warm=3)
        small = min(256, rows)
        few = images.select(slice(0, 2))
        _whole(encoder, few, prepared(encoder, few), 4, 1, ())
        cases: list[tuple[int, bool, tuple[int, ...]]] = [
            (small, False, ()), (small, True, ()), (chosen, True, ()), (chosen, True, (passes,)),
        ]  # fmt: skip
        for rows, graphs, geometry in cases:
            with nullcontext() if graphs else patch.object(context, "PassGraphs", lambda capture: None):
                start = time.perf_counter()
                _whole(encoder, images, pixels, passes, trials, geometry, rows)
                rate = count * passes * trials / (time.perf_counter() - start)
            yield {
                "encoder": machine.sizes.compared, "rows": rows, "graphs": graphs and machine.cuda,
                "scores": "all" if geometry else "moments",
                "passes/s": rate, "bare passes/s": bare, "share": rate / bare,
            }  # fmt: skip


def _whole(encoder: Encoder, images: Any, pixels: Any, passes: int, trials: int, geometry: Any, rows: int = 32) -> None:
    estimators.monte_carlo(
        encoder, images, Dropout(), (passes,), trials, geometry=geometry, batch_size=rows, pixels=pixels, progress=False
    )


def first_order(machine: Machine) -> Iterator[Row]:
    """Eight products of first order in forward passes."""
    for key in machine.sizes.towers:
        for precision in (name for name in machine.sizes.precisions if name in ("tf32", "float32")):
            yield guarded({"encoder": key, "precision": precision}, partial(_products, machine, key, precision))


def _products(machine: Machine, key: str, precision: str) -> Row:
    encoder = machine.encoder(key)
    with machine.precision(encoder, precision):
        sites = check_alive(encoder, encoder.calibration_inputs(1), Dropout())
        fits = graph_images(encoder, Dropout(), sites)
        images = max(1, min(fits, machine.rows(encoder, precision)[1] // 4))
        pixels, _ = machine.inputs(encoder, images)
        methods = {
            pass_cost.DETERMINISTIC: pass_cost.deterministic(encoder, pixels, 1),
            "one": pass_cost.first_order(encoder, pixels, 1, Dropout()),
            "eight": pass_cost.first_order(encoder, pixels, 8, Dropout()),
        }
        costs = machine.costs(methods)
        used = machine.memory(methods["eight"])
    eight, one = costs["eight"].ratio, costs["one"].ratio
    return {
        "images chosen": fits, "images timed": images,
        "forwards (8 products)": eight, "each further product": (eight - one) / 7,
        "images/s": 1 / costs["eight"].seconds, "MiB": used,
    }  # fmt: skip


def graphs(machine: Machine) -> Iterator[Row]:
    """The same passes launched one by one, and replayed as a CUDA graph."""
    for key in dict.fromkeys((machine.sizes.compared, machine.sizes.embedded[0])):
        encoder, precision = machine.encoder(key), machine.sizes.precisions[0]
        with machine.precision(encoder, precision):
            many = machine.rows(encoder, precision)[1]
            for rows in sorted({min(256, many), many}):
                for way in ("plain", "keyed"):
                    facts = {"encoder": key, "precision": precision, "pass": way, "rows": rows}
                    yield guarded(facts, partial(_replayed, machine, encoder, way, rows))


def _replayed(machine: Machine, encoder: Encoder, way: str, rows: int) -> Row:
    pixels, keys = machine.inputs(encoder, rows // PASS_BLOCK)
    repeated = pixels.repeat_interleave(PASS_BLOCK, dim=0)
    with (
        patch.object(context, "PassGraphs", lambda capture: None),
        perturbed(encoder, Dropout(), 0) as tower,
        torch.inference_mode(),
    ):
        ways: dict[str, Callable[[], Tensor]] = {
            "plain": lambda: encoder.forward_image(repeated),
            "keyed": lambda: tower(pixels, keys, 0, 0),
        }
        expected = ways[way]()
        replay, found = _graphed(machine, ways[way])
        one_by_one, replayed = machine.timed(ways[way]), machine.timed(replay)
    row: Row = {"one by one (ms)": 1e3 * one_by_one}
    if machine.cuda:
        row |= {"graph (ms)": 1e3 * replayed, "gain": one_by_one / replayed}
    return {**row, "ok": torch.equal(expected, found)}


def _graphed(machine: Machine, do: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """A replay of what ``do`` launches, and its output; ``do`` itself where there are no graphs."""
    if not machine.cuda:
        return do, do()
    beside = torch.cuda.Stream(machine.device)  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream(machine.device))
    with torch.cuda.stream(beside):
        do()
    torch.cuda.current_stream(machine.device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = do()
    graph.replay()
    machine.sync()
    return graph.replay, output


def compiled(machine: Machine) -> Iterator[Row]:
    """Passes under ``torch.compile``; one that it cannot carry out is named with its error."""
    encoder, precision = machine.encoder(machine.sizes.compared), machine.sizes.precisions[0]
    with (
        machine.precision(encoder, precision),
        patch.object(context, "PassGraphs", lambda capture: None),
        perturbed(encoder, Dropout(), 0) as tower,
    ):
        _, rows = machine.rows(encoder, precision)
        pixels, keys = machine.inputs(encoder, rows // PASS_BLOCK)
        repeated = pixels.repeat_interleave(PASS_BLOCK, dim=0)
        ways: dict[str, Callable[[], Tensor]] = {
            "plain": lambda: encoder.forward_image(repeated),
            "keyed": lambda: tower(pixels, keys, 0, 0),
        }
        if machine.sizes.compiler == "eager":
            del ways["keyed"]  # tracing our handlers takes most of a minute on a CPU
        for way, do in ways.items():
            row: Row = {"encoder": machine.sizes.compared, "pass": way, "rows": rows, "backend": machine.sizes.compiler}
            torch.compiler.reset()
            with torch.inference_mode():
                expected = do().clone()
                eager = machine.timed(do)
                fast = torch.compile(do, backend=machine.sizes.compiler)
                start = time.perf_counter()
                try:
                    apart = float((fast() - expected).abs().max() / expected.abs().max())
                    first = time.perf_counter() - start
                    took = machine.timed(fast)
                    row |= {"first call (s)": first, "eager (ms)": 1e3 * eager, "compiled (ms)": 1e3 * took}
                    row |= {"gain": eager / took, "largest difference": apart}
                except Exception as error:  # whatever the compiler makes of it is what is to be found out
                    row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            yield row


def spectrum(machine: Machine) -> Iterator[Row]:
    """Eigenvalues of a trial's Gram matrices, where they are taken (the CPU) and on the device."""
    count, passes = min(640, 16 * machine.sizes.images), machine.sizes.passes
    drawn = torch.randn(count, passes, 2 * passes, dtype=torch.float64, device=machine.device)
    gram = drawn @ drawn.mT
    yield {"where": "CPU", "matrices": count, "T": passes, "s": machine.timed(lambda: covariance_spectrum(drawn))}
    if machine.cuda:
        seconds = machine.timed(lambda: torch.linalg.eigvalsh(gram))
        yield {"where": str(machine.device), "matrices": count, "T": passes, "s": seconds}
