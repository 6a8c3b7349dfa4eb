"""How often a verdict is wrong, before and after: the published point rule, and the decision by interval.

Families of cells just below the bar (false GO), single cells above it (power), and scores that hold nothing of the
images or nothing but the norm (null gates). ``python tests/calibration false-go`` counts them and writes the tables
to docs/coverage.md.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.phase1.exp5_subset_ambiguity import (
    AUROC_ENTROPY_BAR,
    BEYOND_NORM,
    BEYOND_NORM_BAR,
    RHO_ENTROPY_BAR,
)
from mcdo.stats import AmbiguityTargets, Reliability, ambiguity_estimates, proportion, reliability
from mcdo.stats.decision import Usable, usable_cells

Array = NDArray[np.float64]
Cell = tuple[str, str, int]
PASSES = (4, 8, 16, 32, 64, 128, 256)
SERIES = [(model, score) for model in ("one", "other") for score in ("trace_pre", "trace_post")]
CELLS: list[Cell] = [(*series, passes) for series in SERIES for passes in PASSES]
CHAINS: list[list[Cell]] = [[(*series, passes) for passes in reversed(PASSES)] for series in SERIES]
SIZES = ((500, 10), (120, 5))
"""N and K of the full and of the quick protocol."""
POWER_SIZES = ((120, 5), (120, 10), (500, 5), (500, 10), (500, 20), (2000, 10), (5000, 10))
RESAMPLES, ALPHA, STEPS = 200, 0.05, 7


def correlation(rho: float) -> float:
    """Pearson's r of normals whose rank correlation is ``rho`` (Pearson 1907)."""
    return 2 * math.sin(math.pi * rho / 6)


def normal(rng: np.random.Generator, rho: float, K: int, N: int) -> Array:
    """Normal scores [K, N] whose trials have the rank correlation ``rho``."""
    r = correlation(rho)
    return np.asarray(rng.normal(size=N) + math.sqrt((1 - r) / r) * rng.normal(size=(K, N)))


def nested(rng: np.random.Generator, rho: float, K: int, N: int) -> Iterator[Array]:
    """Normal scores [K, N] of nested passes, whose rank correlation is ``rho`` at the most passes."""
    r = correlation(rho)
    of_one_pass = (1 - r) / r * PASSES[-1]
    own, total, done = rng.normal(size=N), np.zeros((K, N)), 0
    for passes in PASSES:
        total += math.sqrt((passes - done) * of_one_pass) * rng.normal(size=(K, N))
        done = passes
        yield own + total / passes


def judged(scores: Array, seed: int = 0) -> Reliability:
    return reliability(scores, resamples=RESAMPLES, seed=seed)


def nested_family(rng: np.random.Generator, rho: float, K: int, N: int) -> dict[Cell, Reliability]:
    """The 28 cells of a gate: two models, two scores, seven nested T; ``rho`` is that of the largest T."""
    return {
        (*series, passes): judged(scores)
        for series in SERIES
        for passes, scores in zip(PASSES, nested(rng, rho, K, N), strict=True)
    }


def independent_family(rng: np.random.Generator, rho: float, K: int, N: int) -> dict[Cell, Reliability]:
    """As many cells of their own, all at ``rho``."""
    return {cell: judged(normal(rng, rho, K, N)) for cell in CELLS}


@dataclass(frozen=True)
class Called:
    """Whether a family was called usable: by the point rule, by a cell's own p, by Holm, in chains."""

    point: bool
    alone: bool
    holm: bool
    chains: bool

    @classmethod
    def of(cls, family: dict[Cell, Reliability], chains: Sequence[Sequence[Cell]]) -> Called:
        return cls(
            any(found.status == "usable" for found in family.values()),
            any(found.p_usable <= ALPHA for found in family.values()),
            _called(usable_cells(family)),
            _called(usable_cells(family, chains=chains)),
        )


def _called(family: dict[Cell, Usable]) -> bool:
    """One usable cell is enough."""
    return any(cell.decision == "met" for cell in family.values())


def false_go(N: int, K: int, runs: int, rho: float = 0.79) -> dict[str, list[float]]:
    """How often families at ``rho``, below the bar, are called: by shape, for each field of :class:`Called`."""
    rng = np.random.default_rng((0, N, K))
    apart = [independent_family(rng, rho, K, N) for _ in range(runs)]
    fours = [{cell: family[cell] for cell in CELLS[at : at + 4]} for family in apart for at in range(0, len(CELLS), 4)]
    shapes = {
        "one score": [Called.of({cell: found}, [[cell]]) for family in apart for cell, found in family.items()],
        "4 independent": [Called.of(four, [[cell] for cell in four]) for four in fours],
        "28: 4 series of 7 nested T, at the largest": [
            Called.of(nested_family(rng, rho, K, N), CHAINS) for _ in range(runs)
        ],
        "28 independent": [Called.of(family, CHAINS) for family in apart],
    }
    return {
        shape: [float(np.mean([getattr(one, rule.name) for one in called])) for rule in fields(Called)]
        for shape, called in shapes.items()
    }


def needed(N: int, K: int, runs: int, power: float = 0.8) -> list[float]:
    """The true ρ at which a cell is called usable with that power: point rule, alone, in 4 chains, 1 of 28 by Holm."""
    grid = 0.8 + 0.31 / math.sqrt(N) * np.linspace(0.3, 5.0, STEPS)
    shares = []
    for rho in grid:
        rng = np.random.default_rng((1, N, K, int(1e6 * rho)))
        found = [judged(normal(rng, rho, K, N)) for _ in range(runs)]
        p = np.array([each.p_usable for each in found])
        shares.append([
            np.mean([each.status == "usable" for each in found]), *(np.mean(p <= ALPHA / m) for m in (1, 4, 28))
        ])  # fmt: skip
    rising = np.maximum.accumulate(np.array(shares), axis=0)
    return [float(np.interp(power, column, grid)) if column[-1] >= power else math.nan for column in rising.T]


NOISE: dict[str, Callable[[np.random.Generator, int, int], Array]] = {
    "pure noise": lambda rng, K, N: rng.normal(size=(K, N)),
    "heavy-tailed noise (t2)": lambda rng, K, N: rng.standard_t(2, size=(K, N)),
    "noise shared by trials": lambda rng, K, N: rng.normal(size=(K, 1)) * rng.normal(size=N) + rng.normal(size=(K, N)),
}
"""Scores [K, N] that hold nothing of the images."""


def null_usable(noise: str, N: int, K: int, runs: int) -> tuple[int, int]:
    """How many of ``runs`` noises are usable: by the point rule, and by interval."""
    rng = np.random.default_rng((2, N, K))
    found = [judged(NOISE[noise](rng, K, N)) for _ in range(runs)]
    return sum(each.status == "usable" for each in found), sum(each.decision() == "met" for each in found)


def norm_plus_noise(N: int, K: int, runs: int) -> dict[str, int]:
    """The norm, which follows the entropy at ρ .7, plus noise: how many of ``runs`` pass each bar, by interval."""
    rng, passed = np.random.default_rng((3, N, K)), dict.fromkeys(("usable", "ρ", "AUROC", "beyond the norm"), 0)
    r = correlation(0.7)
    for _ in range(runs):
        norm = rng.normal(size=N)
        entropy = r * norm + math.sqrt(1 - r**2) * rng.normal(size=N)
        targets = AmbiguityTargets(entropy, entropy, None, None, np.zeros(N, dtype=np.intp))
        scores = norm + 0.3 * rng.normal(size=(K, N))
        found = ambiguity_estimates(scores.mean(axis=0), targets, norm, resamples=RESAMPLES)
        passed["usable"] += judged(scores).decision() == "met"
        passed["ρ"] += found["rho_uncertainty_vs_entropy"].outcome(RHO_ENTROPY_BAR, ">") == "met"
        passed["AUROC"] += found["auroc_high_entropy"].outcome(AUROC_ENTROPY_BAR, ">") == "met"
        passed["beyond the norm"] += found[BEYOND_NORM].outcome(BEYOND_NORM_BAR, ">") == "met"
    return passed


def tables(families: int, cells: int, nulls: int, workers: int = 1) -> Iterator[str]:
    """The lines of the page, from so many families, cells at each ρ, and data sets of each noise."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        found = {size: pool.submit(false_go, *size, families) for size in SIZES}
        powers = {size: pool.submit(needed, *size, cells) for size in reversed(POWER_SIZES)}
        nothing = {(noise, size): pool.submit(null_usable, noise, *size, nulls) for noise in NOISE for size in SIZES}
        norms = {size: pool.submit(norm_plus_noise, *size, nulls) for size in SIZES}
        yield from (
            "Written by `python tests/calibration false-go`; `pytest tests/calibration/test_false_go.py` simulates",
            "less.",
            "",
            "**False GO**: a family is called usable although no cell of it is. Normal scores, true ρ .79 where the",
            f"bar is .80; {families} families of 28 cells, {7 * families} of 4, {28 * families} single cells. Before:",
            "the published point rule. Now: by interval, in chains from the largest T down; beside it each cell alone",
            "at p < .05, and Holm over all cells.",
            "",
            "| N, K | cells | before: point rule | each cell's p < .05 | Holm | now: chains |",
            "|---|---|---|---|---|---|",
        )
        for (N, K), shapes in found.items():
            for shape, shares in shapes.result().items():
                yield f"| {N}, {K} | {shape} | " + " | ".join(map(_two, shares)) + " |"
        yield from (
            "",
            "**What it costs**: the true ρ at which a single usable cell is called so with probability .8, from",
            f"{cells} cells at each of {STEPS} ρ:",
            "",
            "| N, K | before: point rule | alone, p < .05 | now: in one of 4 chains | one of 28 by Holm |",
            "|---|---|---|---|---|",
        )
        for N, K in POWER_SIZES:
            yield f"| {N}, {K} | " + " | ".join(map(_three, powers[N, K].result())) + " |"
        yield from (
            "",
            f"**Null gates**: the share of {nulls} data sets that pass, with its exact 95 % interval. The norm plus",
            "noise follows the entropy as the norm does, at ρ .7: it is reliable, and follows ambiguity, but not",
            "beyond the norm.",
            "",
            "| scores | N, K | before: point rule | now: by interval |",
            "|---|---|---|---|",
        )
        for (noise, (N, K)), passed in nothing.items():
            rates = " | ".join(_rate(count, nulls) for count in passed.result())
            yield f"| {noise}: usable | {N}, {K} | {rates} |"
        for (N, K), counts in norms.items():
            for what, count in counts.result().items():
                yield f"| norm plus noise: {what} | {N}, {K} | | {_rate(count, nulls)} |"


def _rate(passed: int, n: int) -> str:
    found = proportion(passed, n, method="exact")
    return f"{_two(found.value)} [{_two(found.low)}, {_two(found.high)}]"


def _two(share: float) -> str:
    return f"{share:.2f}".removeprefix("0") if share < 1 else "1.00"


def _three(rho: float) -> str:
    return "–" if math.isnan(rho) else f"{rho:.3f}".removeprefix("0")
