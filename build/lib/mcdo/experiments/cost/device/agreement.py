"""Sections of the device check that compare a device's numbers with the CPU's, or one precision's with another's."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import numpy as np
import scipy
import torch
from numpy.typing import NDArray

import mcdo.estimators as estimators
from mcdo.encoders import Encoder
from mcdo.estimators import DimensionWeights, FirstOrderRun, MonteCarloConfig, MonteCarloRun, prepared
from mcdo.estimators.jacobian import SiteGraph
from mcdo.estimators.measurement import Measurement
from mcdo.experiments.cost.device.setup import Machine, Row
from mcdo.images import ImageSet, load_images
from mcdo.perturbation import (
    PASS_BLOCK,
    AttentionDropout,
    Dropout,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
    check_alive,
    deterministic_features,
    image_keys,
    perturbed,
)
from mcdo.perturbation.context import PerturbedTower

Scores = NDArray[np.float64]

SCORE_TOLERANCE = 1e-3
"""Largest relative difference of a score between a device and the CPU, in float32: that of the harness's own gate."""

NORMAL_TOLERANCE = 1e-4
"""Largest difference of a normal factor: logarithms and cosines in float32 are not the same in every library."""

_SEED = 42
_NAMES = (*estimators.names_from("moments"), *estimators.names_from("passes"))


def masks(machine: Machine) -> Iterator[Row]:
    """Every site's masks on the device and on the CPU, bit by bit."""
    here, there = machine.encoder(machine.sizes.compared, "cpu"), machine.encoder(machine.sizes.compared)
    cases: list[tuple[Perturbation, torch.dtype, int, int]] = [
        (Dropout(p), torch.float32, 0, PASS_BLOCK) for p in machine.sizes.probabilities
    ]
    cases += [(Dropout(0.01), torch.bfloat16, 0, PASS_BLOCK), (Dropout(0.01), torch.float32, 5, 7)]
    others = TiedDropout(), HiddenDropout(), AttentionDropout(), StochasticDepth(0.3), Multiplicative()
    cases += [(other, torch.float32, 3, 9) for other in others]
    for kind, dtype, first, last in cases:
        yield _masks(here, there, kind, dtype, first, last)


def _masks(here: Encoder, there: Encoder, kind: Perturbation, dtype: torch.dtype, first: int, last: int) -> Row:
    names = ["one image", "another"]
    on_cpu, on_device = PerturbedTower(here, kind, _SEED), PerturbedTower(there, kind, _SEED)
    disturbs = [
        tower.disturbance(image_keys(names, tower.encoder.device), 1, 2, first, last) for tower in (on_cpu, on_device)
    ]
    units, different, apart = 0, 0, 0.0
    for index, size in enumerate(on_cpu.sizes):
        ones = torch.ones(len(names) * (last - first), size)
        expected = disturbs[0](ones.clone(), index)
        found = disturbs[1](ones.to(there.device, dtype), index).cpu()
        units += ones.numel()
        if kind.noise == "bernoulli":
            different += int(((found == 0) != (expected == 0)).sum())
        else:
            apart = max(apart, float((found - expected).abs().max()))
    row: Row = {
        "kind": type(kind).__name__, "p": kind.p, "type": str(dtype).removeprefix("torch."), "passes": last - first,
        "sites": len(on_cpu.sizes), "units": units, "different units": different, "largest difference": apart,
    }  # fmt: skip
    return {**row, "ok": different == 0 and apart <= NORMAL_TOLERANCE}


@contextlib.contextmanager
def _unsynchronised(machine: Machine) -> Iterator[None]:
    """CUDA raises where the host would wait for the device."""
    if machine.cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if machine.cuda:
            torch.cuda.set_sync_debug_mode("default")


def synchronisation(machine: Machine) -> Iterator[Row]:
    """A trial with every score, and first order's products, where the host may not wait for the device."""
    machine.all_loaded()  # a copy to the device may wait
    encoder, kind = machine.encoder(machine.sizes.compared), Dropout()
    images = load_images("digits", n=4)
    pixels, ladder = prepared(encoder, images), machine.sizes.ladder
    weights = DimensionWeights.fit(
        np.random.default_rng(0).normal(size=(8, encoder.feature_dim)), [f"other {i}" for i in range(8)]
    )
    config = MonteCarloConfig(kind, ladder, 2, _SEED, ladder)
    for precision in machine.sizes.precisions:
        with machine.precision(encoder, precision), perturbed(encoder, kind, _SEED) as tower:
            measurement = Measurement(encoder, images, config, pixels, weights, len(images) * PASS_BLOCK)

            def trial(number: int, measurement: Measurement = measurement, tower: PerturbedTower = tower) -> None:
                shown = pixels.batch(slice(0, len(images)))
                measurement.trial(tower, shown, deterministic_features(encoder, shown), 0, number)

            yield {"what": "Monte Carlo, all scores", "precision": precision, **_without_waiting(machine, trial)}
    sites = check_alive(encoder, pixels.batch(slice(0, 1)), kind)
    probe = torch.randn(encoder.feature_dim, generator=torch.Generator().manual_seed(0)).to(encoder.device)

    def products(number: int) -> None:
        graph = SiteGraph(encoder, pixels.batch(slice(0, 2)), kind, sites)
        graph.terms(probe)
        graph.terms(probe, last=True)

    yield {"what": "first order", "precision": "float32", **_without_waiting(machine, products)}


def _without_waiting(machine: Machine, do: object) -> Row:
    assert callable(do)
    for _ in range(3):  # what is laid out once may wait, and so may the capture of a graph
        do(0)
    machine.sync()
    try:
        with _unsynchronised(machine):
            do(1)
    except RuntimeError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "mcdo" in frame.filename]
        at = f"{frames[-1].filename.rpartition('mcdo/')[2]}:{frames[-1].lineno} {frames[-1].line}"
        return {"ok": False, "at": f"{at}: {error}"}
    return {"ok": True if machine.cuda else None, "at": None}


def scores(machine: Machine) -> Iterator[Row]:
    """Scores of both estimators on the device and on the CPU, in float32."""
    for key in machine.compared:
        large = machine.encoder(key).resolution > 64
        count, passes = min(4 if large else 16, machine.sizes.images), machine.sizes.passes
        images = load_images("digits", n=count)
        expected = _estimates(machine.encoder(key, "cpu"), images, passes)
        for tf32 in (True, False) if machine.cuda else (False,):
            with _convolutions_in(tf32):
                found = _estimates(machine.encoder(key), images, passes)
            apart = {name: _apart(expected[0].scores(name, passes), found[0].scores(name, passes)) for name in _NAMES}
            worst = max(apart, key=lambda name: apart[name])
            yield {
                "encoder": key, "images": count, "passes": passes, "cuDNN's TF32": tf32,
                "features": _apart(expected[0].features, found[0].features, scale=True),
                "trace_pre": apart["trace_pre"], "trace_post": apart["trace_post"],
                "worst score": worst, "worst": apart[worst],
                "first order, one direction": _apart(expected[2], found[2]),
                "first order, random probes": _apart(expected[1].scores("trace_pre"), found[1].scores("trace_pre")),
                "ok": max(apart["trace_pre"], apart["trace_post"], _apart(expected[2], found[2])) <= SCORE_TOLERANCE,
            }  # fmt: skip


@contextlib.contextmanager
def _convolutions_in(tf32: bool) -> Iterator[None]:
    """CuDNN rounds the inputs of a float32 convolution to TF32 by default, whatever the precision of products is."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _estimates(
    encoder: Encoder, images: ImageSet, passes: int
) -> tuple[MonteCarloRun, FirstOrderRun, NDArray[np.float64]]:
    """Both estimators, and what first order finds along one fixed direction, ``[B]``.

    Random probes lie along eigenvectors of a sample covariance. Where eigenvalues are close, or the covariance has no
    full rank, eigenvectors follow from rounding, so on two devices these are two draws of the probes.
    """
    probes = min(4, encoder.feature_dim)
    first = estimators.first_order(encoder, images, Dropout(), probes, 1, _SEED, progress=False)
    pixels = prepared(encoder, images).batch(slice(None))
    graph = SiteGraph(encoder, pixels, Dropout(), check_alive(encoder, pixels[:1], Dropout()))
    fixed = torch.randn(encoder.feature_dim, generator=torch.Generator().manual_seed(0)).to(encoder.device)
    terms = graph.terms(fixed, last=True).sum(-1).double().cpu().numpy()
    return _monte_carlo(encoder, images, passes, 1), first, terms


def _monte_carlo(encoder: Encoder, images: ImageSet, passes: int, trials: int) -> MonteCarloRun:
    return estimators.monte_carlo(encoder, images, Dropout(), (passes,), trials, _SEED, progress=False)


def _apart(expected: NDArray[np.floating], found: NDArray[np.floating], scale: bool = False) -> float:
    """Largest relative difference; with ``scale`` relative to the largest number."""
    size = np.abs(expected).max() if scale else np.abs(expected)
    return float(np.max(np.abs(found - expected) / np.maximum(size, np.finfo(np.float32).tiny)))


def fidelity(machine: Machine) -> Iterator[Row]:
    """Whether a lower precision ranks images as float32 does, under the very same masks."""
    for key in machine.compared:
        encoder, images = machine.encoder(key), load_images("digits", n=machine.sizes.images)
        with machine.precision(encoder, "float32"):
            reference = _monte_carlo(encoder, images, machine.sizes.passes, 2)
        for precision in ("tf32", "bfloat16", "float16"):
            with machine.precision(encoder, precision):
                run = _monte_carlo(encoder, images, machine.sizes.passes, 1)
            row: Row = {"encoder": key, "images": len(images), "passes": machine.sizes.passes, "precision": precision}
            for score in ("trace_pre", "trace_post"):
                a, b = reference.scores(score)[:2]
                found = run.scores(score)[0]
                row |= {
                    f"{score}: Spearman with float32": float(scipy.stats.spearmanr(a, found).statistic),
                    f"{score}: two trials in float32": float(scipy.stats.spearmanr(a, b).statistic),
                    f"{score}: mean over float32's": float(found.mean() / a.mean()),
                }
            yield row
