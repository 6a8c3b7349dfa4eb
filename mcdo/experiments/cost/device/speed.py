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
from mcdo.experiments.cost.device.setup import Bench, Row, guarded
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


def card(bench: Bench) -> Iterator[Row]:
    """What the device is, and how fast it multiplies and copies."""
    about: Row = {"what": "device", "value": torch.cuda.get_device_name(bench.device) if bench.cuda else "cpu"}
    yield about
    if bench.cuda:
        yield {"what": "memory (GiB)", "value": torch.cuda.get_device_properties(bench.device).total_memory / 2**30}
    yield {"what": "CUDA", "value": torch.version.cuda}
    for name, version in versions().items():
        yield {"what": name, "value": version}
    n = bench.sizes.product
    for name, (dtype, precision) in _PRODUCTS.items():
        a, b = (torch.randn(n, n, device=bench.device).to(dtype) for _ in range(2))
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        bench.peak[name] = 2 * n**3 / bench.timed(lambda a=a, b=b: a @ b, 3, 10)  # type: ignore[misc]
        torch.set_float32_matmul_precision(before)
        yield {"what": f"{n}³ product, {name} (TFLOP/s)", "value": bench.peak[name] / 1e12}
    source = torch.randn(n * n * 4, device=bench.device)
    target = torch.empty_like(source)
    seconds = bench.timed(lambda: target.copy_(source), 3, 10)
    yield {"what": "copy, read and written (GB/s)", "value": 2 * source.numel() * 4 / seconds / 1e9}


def passes(bench: Bench) -> Iterator[Row]:
    """The keyed pass beside the deterministic one, for every tower and precision."""
    bench.all_loaded()
    for key in dict.fromkeys((*bench.sizes.towers, *bench.sizes.embedded)):
        for precision in bench.sizes.precisions:
            yield guarded({"encoder": key, "precision": precision}, partial(_cost, bench, key, precision))


def _cost(bench: Bench, key: str, precision: str) -> Row:
    encoder = bench.encoder(key)
    with bench.precision(encoder, precision):
        return _ratio(bench, encoder, precision, bench.flops(encoder))


def _ratio(bench: Bench, encoder: Encoder, precision: str, flops: float) -> Row:
    chosen, rows = bench.rows(encoder, precision)
    pixels, keys = bench.inputs(encoder, rows // PASS_BLOCK)
    plain = pass_cost.deterministic(encoder, pixels, PASS_BLOCK)
    used = {"plain": bench.memory(plain), "keyed": bench.memory(lambda: _few_keyed(encoder, pixels, keys))}
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
        costs = bench.costs(methods)
        refused = "" if tower.graphs is None else tower.graphs.refused
    second, beside = costs[pass_cost.DETERMINISTIC].seconds, costs["convolved once"].seconds
    return {
        "rows chosen": chosen, "rows timed": rows, "images/s": 1 / second, "passes/s": 1 / costs["keyed"].seconds,
        "ratio": costs["keyed"].ratio, "quartiles": f"{costs['keyed'].q25:.3f}-{costs['keyed'].q75:.3f}",
        "ratio, convolved once": costs["keyed"].seconds / beside, "native": costs["native"].ratio,
        "GFLOP": flops / 1e9, "of peak": flops / second / bench.peak[precision],
        "keyed, of peak": flops / costs["keyed"].seconds / bench.peak[precision],
        "MiB": used["plain"], "MiB keyed": used["keyed"], "no graph": refused or None,
        "ok": costs["keyed"].ratio <= CEILING if bench.cuda else None,
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


def profile(bench: Bench) -> Iterator[Row]:
    """The kernels that take most of a pass, deterministic and keyed."""
    from torch.profiler import ProfilerActivity, profile

    encoder = bench.encoder(bench.sizes.compared)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.cuda else [])]
    with bench.precision(encoder, bench.sizes.precisions[0]), perturbed(encoder, Dropout(), 0) as tower:
        _, rows = bench.rows(encoder, bench.sizes.precisions[0])
        pixels, keys = bench.inputs(encoder, rows // PASS_BLOCK)
        sites = check_alive(encoder, pixels[:1], Dropout())
        probe = torch.ones(encoder.feature_dim, device=encoder.device)
        ways: dict[str, Callable[[], object]] = {
            "plain": pass_cost.deterministic(encoder, pixels, PASS_BLOCK),
            "keyed": _keyed(tower, pixels, keys),
            "first order": lambda: SiteGraph(encoder, pixels[:64], Dropout(), sites).terms(probe, last=True),
        }
        for way, do in ways.items():
            do()
            bench.sync()
            with profile(activities=activities) as seen:
                do()
                bench.sync()
            name = "self_device_time_total" if bench.cuda else "self_cpu_time_total"
            events = [event for event in seen.key_averages() if getattr(event, name, 0) > 0]
            events = [e for e in events if not bench.cuda or "CUDA" in str(getattr(e, "device_type", ""))]
            total = sum(getattr(event, name) for event in events)
            yield {"pass": way, "kernel": "all", "calls": sum(e.count for e in events), "ms": total / 1e3}
            for event in sorted(events, key=lambda e: -getattr(e, name))[:12]:
                yield {"pass": way, "kernel": event.key[:90], "calls": event.count, "ms": getattr(event, name) / 1e3}


def loop(bench: Bench) -> Iterator[Row]:
    """The pass loop from end to end beside bare passes, by rows of a pass, blocks at once, and scores."""
    encoder, (count, passes, trials) = bench.encoder(bench.sizes.compared), bench.sizes.loop
    images = load_images("digits", n=count)
    pixels = prepared(encoder, images)
    with bench.precision(encoder, bench.sizes.precisions[0]):
        chosen, rows = bench.rows(encoder, bench.sizes.precisions[0])
        shown, keys = bench.inputs(encoder, rows // PASS_BLOCK)
        with perturbed(encoder, Dropout(), 0) as tower:
            bare = len(shown) * PASS_BLOCK / bench.timed(_keyed(tower, shown, keys), warm=3)
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
                "encoder": bench.sizes.compared, "rows": rows, "graphs": graphs and bench.cuda,
                "scores": "all" if geometry else "moments",
                "passes/s": rate, "bare passes/s": bare, "share": rate / bare,
            }  # fmt: skip


def _whole(encoder: Encoder, images: Any, pixels: Any, passes: int, trials: int, geometry: Any, rows: int = 32) -> None:
    estimators.monte_carlo(
        encoder, images, Dropout(), (passes,), trials, geometry=geometry, batch_size=rows, pixels=pixels, progress=False
    )


def first_order(bench: Bench) -> Iterator[Row]:
    """Eight products of first order in forward passes."""
    for key in bench.sizes.towers:
        for precision in (name for name in bench.sizes.precisions if name in ("tf32", "float32")):
            yield guarded({"encoder": key, "precision": precision}, partial(_products, bench, key, precision))


def _products(bench: Bench, key: str, precision: str) -> Row:
    encoder = bench.encoder(key)
    with bench.precision(encoder, precision):
        sites = check_alive(encoder, encoder.calibration_inputs(1), Dropout())
        fits = graph_images(encoder, Dropout(), sites)
        images = max(1, min(fits, bench.rows(encoder, precision)[1] // 4))
        pixels, _ = bench.inputs(encoder, images)
        methods = {
            pass_cost.DETERMINISTIC: pass_cost.deterministic(encoder, pixels, 1),
            "one": pass_cost.first_order(encoder, pixels, 1, Dropout()),
            "eight": pass_cost.first_order(encoder, pixels, 8, Dropout()),
        }
        costs = bench.costs(methods)
        used = bench.memory(methods["eight"])
    eight, one = costs["eight"].ratio, costs["one"].ratio
    return {
        "images chosen": fits, "images timed": images,
        "forwards (8 products)": eight, "each further product": (eight - one) / 7,
        "images/s": 1 / costs["eight"].seconds, "MiB": used,
    }  # fmt: skip


def graphs(bench: Bench) -> Iterator[Row]:
    """The same passes launched one by one, and replayed as a CUDA graph."""
    for key in dict.fromkeys((bench.sizes.compared, bench.sizes.embedded[0])):
        encoder, precision = bench.encoder(key), bench.sizes.precisions[0]
        with bench.precision(encoder, precision):
            many = bench.rows(encoder, precision)[1]
            for rows in sorted({min(256, many), many}):
                for way in ("plain", "keyed"):
                    facts = {"encoder": key, "precision": precision, "pass": way, "rows": rows}
                    yield guarded(facts, partial(_replayed, bench, encoder, way, rows))


def _replayed(bench: Bench, encoder: Encoder, way: str, rows: int) -> Row:
    pixels, keys = bench.inputs(encoder, rows // PASS_BLOCK)
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
        replay, found = _graphed(bench, ways[way])
        one_by_one, replayed = bench.timed(ways[way]), bench.timed(replay)
    row: Row = {"one by one (ms)": 1e3 * one_by_one}
    if bench.cuda:
        row |= {"graph (ms)": 1e3 * replayed, "gain": one_by_one / replayed}
    return {**row, "ok": torch.equal(expected, found)}


def _graphed(bench: Bench, do: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
    """A replay of what ``do`` launches, and its output; ``do`` itself where there are no graphs."""
    if not bench.cuda:
        return do, do()
    beside = torch.cuda.Stream(bench.device)  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream(bench.device))
    with torch.cuda.stream(beside):
        do()
    torch.cuda.current_stream(bench.device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = do()
    graph.replay()
    bench.sync()
    return graph.replay, output


def compiled(bench: Bench) -> Iterator[Row]:
    """Passes under ``torch.compile``; one that it cannot carry out is named with its error."""
    encoder, precision = bench.encoder(bench.sizes.compared), bench.sizes.precisions[0]
    with (
        bench.precision(encoder, precision),
        patch.object(context, "PassGraphs", lambda capture: None),
        perturbed(encoder, Dropout(), 0) as tower,
    ):
        _, rows = bench.rows(encoder, precision)
        pixels, keys = bench.inputs(encoder, rows // PASS_BLOCK)
        repeated = pixels.repeat_interleave(PASS_BLOCK, dim=0)
        ways: dict[str, Callable[[], Tensor]] = {
            "plain": lambda: encoder.forward_image(repeated),
            "keyed": lambda: tower(pixels, keys, 0, 0),
        }
        if bench.sizes.compiler == "eager":
            del ways["keyed"]  # tracing our handlers takes most of a minute on a CPU
        for way, do in ways.items():
            row: Row = {"encoder": bench.sizes.compared, "pass": way, "rows": rows, "backend": bench.sizes.compiler}
            torch.compiler.reset()
            with torch.inference_mode():
                expected = do().clone()
                eager = bench.timed(do)
                fast = torch.compile(do, backend=bench.sizes.compiler)
                start = time.perf_counter()
                try:
                    apart = float((fast() - expected).abs().max() / expected.abs().max())
                    first = time.perf_counter() - start
                    took = bench.timed(fast)
                    row |= {"first call (s)": first, "eager (ms)": 1e3 * eager, "compiled (ms)": 1e3 * took}
                    row |= {"gain": eager / took, "largest difference": apart}
                except Exception as error:  # whatever the compiler makes of it is what is to be found out
                    row["error"] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
            yield row


def spectrum(bench: Bench) -> Iterator[Row]:
    """Eigenvalues of a trial's Gram matrices, where they are taken (the CPU) and on the device."""
    count, passes = min(640, 16 * bench.sizes.images), bench.sizes.passes
    drawn = torch.randn(count, passes, 2 * passes, dtype=torch.float64, device=bench.device)
    gram = drawn @ drawn.mT
    yield {"where": "CPU", "matrices": count, "T": passes, "s": bench.timed(lambda: covariance_spectrum(drawn))}
    if bench.cuda:
        seconds = bench.timed(lambda: torch.linalg.eigvalsh(gram))
        yield {"where": str(bench.device), "matrices": count, "T": passes, "s": seconds}
