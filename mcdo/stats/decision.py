"""Is any cell of a family usable? The published bars by interval, corrected over the cells that were looked at.

GO asks for one cell (model, score, T) whose three figures all reach their bars. Within a cell a wrong "met" needs all
three tests to err at once, so each may have the full level (intersection–union test, Berger 1982). Over cells one error
is enough, so p is adjusted: by Holm, or in *chains* whose order is set beforehand, as nested T are from the most passes
down. In a chain a cell is tested only if those before it were met, which costs no correction (fixed sequence, Maurer et
al. 1995); chains share the level (Bonferroni).

**False GO** of normal scores at a true ρ of .79 (bar .80), by simulation: the point rule calls .19 of single cells
usable at N = 500, K = 10, and .64 of families of four series of seven nested T; by interval it is .01 and .00. At
N = 120, K = 5 it is .34 and .76; by interval .02 and .01. **What it costs**: the ρ at which a single usable cell is
called so with probability .8 rises from .814 to .837 (in one of four chains, N = 500, K = 10). More trials hardly help
from K = 10 on, more originals do: N = 5000 restores it, .813. ``python tests/calibration false-go`` counts all of it,
and the null gates, for the page docs/coverage.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

import numpy as np

from mcdo.errors import McdoError
from mcdo.stats.reliability import Reliability
from mcdo.stats.resampling import IntervalOutcome, holm

Cell = TypeVar("Cell", bound=Hashable)


@dataclass(frozen=True)
class Usable:
    """Whether a cell is usable, with one-sided ``p`` of "it is not" and ``p_adjusted`` over the family."""

    decision: IntervalOutcome
    p: float
    p_adjusted: float


def usable_cells(
    cells: Mapping[Cell, Reliability], *, chains: Sequence[Sequence[Cell]] | None = None, alpha: float = 0.05
) -> dict[Cell, Usable]:
    """For each of ``cells`` whether it is usable, with at most ``alpha`` chance of any wrong "met" among them.

    The bound holds for noise that is independent, or shared and seen to be, which takes about five trials. With three,
    noise that is half shared and stays unseen makes one cell in ten below the bar a wrong "met".

    "Not met" is each cell's own: one of its intervals at 1 − ``alpha`` lies below the bar. A cell without intervals is
    undecided, and counts as looked at.

    Args:
        cells: reliability by cell; all that were looked at, whatever came out.
        chains: cells in the order in which they are tested, each in one chain; None: all at once, by Holm.
        alpha: of the family.

    Raises:
        McdoError: where the chains do not hold every cell once.

    """
    if not 0 < alpha < 0.5:
        raise McdoError(f"alpha {alpha}; give the family-wise error between 0 and 0.5, such as 0.05")
    p = {cell: found.p_usable for cell, found in cells.items()}
    tested = {cell: 1.0 if np.isnan(value) else value for cell, value in p.items()}
    adjusted = (
        dict(zip(tested, holm(list(tested.values())), strict=True)) if chains is None else _chained(tested, chains)
    )
    return {
        cell: Usable(_decided(found, adjusted[cell], alpha), p[cell], float(adjusted[cell]))
        for cell, found in cells.items()
    }


def _decided(found: Reliability, p_adjusted: float, alpha: float) -> IntervalOutcome:
    if p_adjusted <= alpha:
        return "met"
    return "not met" if found.decision(level=1 - alpha) == "not met" else "undecided"


def _chained(p: Mapping[Cell, float], chains: Sequence[Sequence[Cell]]) -> dict[Cell, float]:
    listed = [cell for chain in chains for cell in chain]
    if len(listed) != len(set(listed)) or set(listed) != set(p):
        odd = {cell for cell in listed if listed.count(cell) > 1} | (set(listed) ^ set(p))
        raise McdoError(f"chains must hold every cell once; look at {', '.join(map(str, sorted(odd, key=str)))}")
    return {
        cell: min(1.0, len(chains) * worst)
        for chain in chains
        for cell, worst in zip(chain, accumulate((p[cell] for cell in chain), max), strict=True)
    }
