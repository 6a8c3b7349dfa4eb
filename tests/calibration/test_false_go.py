"""How often a family of cells at the bar is called usable: the published point rule, and the decision by interval."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from mcdo.stats import Reliability, reliability
from mcdo.stats.decision import any_usable, usable_cells

PASSES = (4, 8, 16, 32, 64, 128, 256)
SERIES = [(model, score) for model in ("one", "other") for score in ("trace_pre", "trace_post")]
Cell = tuple[str, str, int]


def scores(rng: np.random.Generator, rho: float, K: int, N: int) -> Iterator[NDArray[np.float64]]:
    """Normal scores [K, N] of nested passes, whose rank correlation is ``rho`` at the most passes."""
    r = 2 * math.sin(math.pi * rho / 6)
    of_one_pass = (1 - r) / r * PASSES[-1]
    own, total, done = rng.normal(size=N), np.zeros((K, N)), 0
    for passes in PASSES:
        total += math.sqrt((passes - done) * of_one_pass) * rng.normal(size=(K, N))
        done = passes
        yield own + total / passes


def family(rng: np.random.Generator, rho: float, K: int, N: int) -> dict[Cell, Reliability]:
    """The 28 cells of a gate: two models, two scores, seven nested T; ``rho`` is that of the largest T."""
    return {
        (*series, passes): reliability(cell, resamples=200, seed=int(rng.integers(5)))
        for series in SERIES
        for passes, cell in zip(PASSES, scores(rng, rho, K, N), strict=True)
    }


CHAINS: list[list[Cell]] = [[(*series, passes) for passes in reversed(PASSES)] for series in SERIES]


def test_a_family_just_below_the_bar_is_seldom_called_usable() -> None:
    runs, rng = 40, np.random.default_rng(0)
    called = np.zeros(3)
    for _ in range(runs):
        cells = family(rng, 0.79, K=5, N=120)
        called += [
            any(found.status == "usable" for found in cells.values()),
            any_usable(usable_cells(cells)) == "met",
            any_usable(usable_cells(cells, chains=CHAINS)) == "met",
        ]
    point, holm, chained = called / runs
    assert point > 0.6  # .76 in longer runs
    assert holm <= 0.05  # .004
    assert chained <= 0.05  # .016


def test_the_correction_holds_where_every_cell_lies_at_the_bar() -> None:
    runs, rng = 40, np.random.default_rng(1)
    called = np.zeros(2)
    for _ in range(runs):
        cells = {
            (*series, passes): reliability(list(scores(rng, 0.8, 5, 120))[-1], resamples=200, seed=0)
            for series in SERIES
            for passes in PASSES
        }
        called += [
            any(found.p_usable <= 0.05 for found in cells.values()),
            any_usable(usable_cells(cells, chains=CHAINS)) == "met",
        ]
    uncorrected, chained = called / runs
    assert uncorrected > 0.2
    assert chained <= 0.08  # at most .05 in longer runs


@pytest.mark.parametrize("chained", [True, False])
def test_a_clearly_usable_family_is_called_usable(chained: bool) -> None:
    rng = np.random.default_rng(2)
    cells = family(rng, 0.88, K=10, N=500)
    assert any_usable(usable_cells(cells, chains=CHAINS if chained else None)) == "met"
