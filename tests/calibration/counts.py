"""Counts how often 95 % intervals hold the truth, and holds the counts against what is stated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import scipy
from figures import LARGE, Group, drawn, truth
from groups import GROUPS
from populations import POPULATIONS

from mcdo.errors import McdoError

AIM = (0.92, 0.98)
SEED = 9


class Cell(NamedTuple):
    interval: str
    population: str
    K: int
    N: int


@dataclass(frozen=True)
class Count:
    """``hits`` of ``defined`` intervals held the truth; the other data sets of ``runs`` were refused one."""

    hits: int
    defined: int
    runs: int

    @property
    def share(self) -> float:
        return self.hits / self.defined if self.defined else math.nan

    def range(self, level: float = 0.95) -> tuple[float, float]:
        """What the coverage may be, given as many data sets (Clopper & Pearson 1934)."""
        found = scipy.stats.binomtest(self.hits, self.defined).proportion_ci(level)
        return float(found.low), float(found.high)

    def right(self, level: float = 0.95) -> bool:
        low, high = self.range(level)
        return low <= AIM[1] and high >= AIM[0]


def counted(
    group: Group,
    name: str,
    K: int,
    N: int,
    runs: int,
    *,
    resamples: int = 200,
    as_images: bool = False,
    large: int = 3 * LARGE,
) -> Mapping[Cell, Count]:
    """The intervals of ``group`` in one population; a data set that is refused has none."""
    population = POPULATIONS[name]
    goal = truth(group, population, K, large)
    hits, defined = dict.fromkeys(goal, 0), dict.fromkeys(goal, 0)
    for i, sample in enumerate(population.samples(runs, K, N, seed=SEED)):
        try:
            found = group.found(drawn(population, sample, i, resamples, seed=4 * i // runs, as_images=as_images))
        except McdoError:  # refused for every data set of this K
            break
        for figure, estimate in found.items():
            defined[figure] += not math.isnan(estimate.low)
            hits[figure] += estimate.low - 1e-12 <= goal[figure] <= estimate.high + 1e-12
    return {Cell(figure, name, K, N): Count(hits[figure], defined[figure], runs) for figure in goal}


def plan(sizes: tuple[int, ...] = (100, 500)) -> Iterator[tuple[Group, str, int, int]]:
    """All data sets of the suite."""
    return ((group, name, K, N) for group in GROUPS for name in group.populations for K in group.trials for N in sizes)
