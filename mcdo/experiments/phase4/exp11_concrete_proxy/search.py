"""Searching a drop probability for each depth of a tower, so that what is chosen is never reported where it was chosen.

A :class:`ChoosingHalf` has the searches and no report; a :class:`ReportingHalf` has the report and no search, and
refuses a choice that saw one of its origins. Everything is pure: arrays of first-order contributions, by group.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.experiments.phase4.exp11_concrete_proxy.objective import (
    ICC_WEIGHT,
    WEIGHTS,
    Array,
    Targets,
    compare,
    objectives,
    published_targets,
)
from mcdo.images.sampling import second_half
from mcdo.stats import AmbiguityTargets, Difference, Estimate
from mcdo.stats.ranks import mid_ranks

UNIFORM, RANDOM, GRADIENT = "uniform", "random", "gradient"


@dataclass(frozen=True)
class Budget:
    """What either search may do: ``candidates`` evaluations with p in [low, high], from the ``uniform`` p on."""

    uniform: float = 0.01
    candidates: int = 24
    low: float = 0.001
    high: float = 0.1
    seed: int = 42


def depth_groups(names: Sequence[str], count: int) -> tuple[tuple[str, ...], ...]:
    """Cut sites into ``count`` groups by depth, as equal in size as can be without cutting a block in two.

    ``names`` come in the order of a forward pass (as a run has them), and that is their depth: a pooling head, which
    has no number, comes last because it is carried out last, and block 10 after block 9.

    Raises:
        McdoError: if block numbers do not rise (names sorted as text), or there are fewer blocks than groups.

    """
    numbered = [(re.search(r"\.(\d+)\.", name), name) for name in names]
    blocks = [int(found[1]) for found, _ in numbered if found]
    if blocks != sorted(blocks):
        raise McdoError("sites are not in the order of a forward pass (block 10 after block 9, not after block 1)")
    runs = itertools.groupby(numbered, key=lambda pair: pair[0][1] if pair[0] else "")
    units = [tuple(name for _, name in members) for _, members in runs]
    if len(units) < count:
        raise McdoError(f"{len(units)} blocks cannot make {count} depth groups; perturb more sites, or ask for fewer")
    cuts = min(
        ((0, *inner, len(units)) for inner in itertools.combinations(range(1, len(units)), count - 1)),
        key=lambda c: sum(sum(map(len, units[a:b])) ** 2 for a, b in itertools.pairwise(c)),
    )
    return tuple(tuple(itertools.chain(*units[a:b])) for a, b in itertools.pairwise(cuts))


@dataclass(frozen=True, eq=False)
class Choice:
    """A vector of drop probabilities ``p`` [G], where it came from, and what it reached where it was chosen."""

    name: str
    p: Array
    in_sample: float
    chosen_on: frozenset[str] = field(repr=False)

    @property
    def odds(self) -> Array:
        """p/(1 − p)."""
        return np.asarray(self.p / (1 - self.p))


@dataclass(frozen=True, eq=False)
class _Half:
    """Contributions [K, n, G], targets [n] and the origin of each image."""

    contributions: Array
    targets: Targets
    origins: tuple[str, ...]

    def objective(self, odds: Array) -> float:
        return float(objectives((self.contributions @ odds)[None], self.targets)[0])


class ChoosingHalf(_Half):
    """What searches see. It reports nothing."""

    def choice(self, name: str, p: Array) -> Choice:
        return Choice(name, p, self.objective(p / (1 - p)), frozenset(self.origins))

    def random(self, budget: Budget) -> tuple[Choice, list[Choice]]:
        """The best of ``candidates`` log-uniform vectors, the first of which is the uniform p; and all of them."""
        shape = (budget.candidates - 1, self.contributions.shape[-1])
        drawn = np.exp(np.random.default_rng(budget.seed).uniform(np.log(budget.low), np.log(budget.high), shape))
        tried = [self.choice(RANDOM, p) for p in (np.full(shape[1], budget.uniform), *drawn)]
        return max(tried, key=lambda choice: choice.in_sample), tried

    def gradient(self, budget: Budget) -> Choice:
        """Ascent of :meth:`surrogate` from the uniform p by L-BFGS-B, within ``candidates`` evaluations in all.

        Two of them are of the objective itself: the uniform p is kept where the surrogate's best is no better.
        """
        G = self.contributions.shape[-1]
        start = np.full(G, scipy.special.logit(budget.uniform))
        seen: list[tuple[float, Array]] = []

        def loss(log_odds: Array) -> tuple[float, Array]:
            if len(seen) >= budget.candidates - 2:
                raise StopIteration
            value, slope = self.surrogate(log_odds)
            seen.append((value, log_odds.copy()))
            return -value, -slope

        bounds = [(scipy.special.logit(budget.low), scipy.special.logit(budget.high))] * G
        with suppress(StopIteration):  # the budget is spent
            scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        best = max(seen, key=lambda pair: pair[0])[1]
        return max(
            (self.choice(GRADIENT, np.asarray(scipy.special.expit(x))) for x in (start, best)),
            key=lambda choice: choice.in_sample,
        )

    def surrogate(self, log_odds: Array) -> tuple[float, Array]:
        """A smooth stand-in for the objective, and its gradient in the log-odds of p.

        Ranks of the score are replaced by its logarithm; the targets keep their ranks, so each ρ becomes a Pearson r.
        """
        odds, mean = np.exp(log_odds), self.contributions.mean(0)
        u = mean @ odds
        z = np.log(u) - np.log(u).mean()
        aim = sum((w * _unit_ranks(self.targets[name]) for name, w in WEIGHTS.items()), np.zeros(len(u)))
        length = np.linalg.norm(z)
        r = float(z @ aim / length)
        in_z = (aim - r * z / length) / length
        value, slope = r, (in_z / u) @ mean * odds
        if len(self.contributions) > 1:
            icc, of_odds = self._icc(odds)
            value, slope = value + ICC_WEIGHT * icc, slope + ICC_WEIGHT * of_odds * odds
        return value, np.asarray(slope)

    def _icc(self, odds: Array) -> tuple[float, Array]:
        """ICC(1) and its gradient: signal and noise are quadratic forms of the odds."""
        C, K = self.contributions, len(self.contributions)
        centred, within = C.mean(0) - C.mean((0, 1)), C - C.mean(0)
        B = K * centred.T @ centred / (C.shape[1] - 1)
        W = np.einsum("kng,knh->gh", within, within) / ((K - 1) * C.shape[1])
        b, w = odds @ B @ odds, odds @ W @ odds
        total = b + (K - 1) * w
        return float((b - w) / total), 2 * K * (w * (B @ odds) - b * (W @ odds)) / total**2


def _unit_ranks(values: Array) -> Array:
    """Ranks, centred and of norm one."""
    ranks = mid_ranks(values) - (len(values) + 1) / 2
    return np.asarray(ranks / np.linalg.norm(ranks))


class ReportingHalf(_Half):
    """What is reported. It has no search, and refuses a choice that saw one of its origins."""

    def check_unseen(self, choices: Sequence[Choice]) -> None:
        """Raise McdoError where a choice was made on an origin of this half."""
        for choice in choices:
            seen = choice.chosen_on & set(self.origins)
            if seen:
                raise McdoError(
                    f"{choice.name}: it was chosen on {len(seen)} of the origins that it is to be reported on "
                    f"({min(seen)}, ...); report on the other half"
                )

    def compare(self, choices: Sequence[Choice], seed: int) -> tuple[dict[str, Estimate], dict[str, Difference]]:
        """The objective of each choice, and the differences of the pairs, paired over origins.

        Several trials are of first order, and share their probes over the images.
        """
        self.check_unseen(choices)
        scores = {choice.name: self.contributions @ choice.odds for choice in choices}
        shared = len(self.contributions) > 1
        return compare(scores, self.targets, self.origins, shared_noise=shared, seed=seed)


def split(
    contributions: Array, targets: AmbiguityTargets, origins: Sequence[str], seed: int
) -> tuple[ChoosingHalf, ReportingHalf]:
    """Halve the origins at random, with all their images: none is in both halves."""
    ambiguous, second = published_targets(targets), second_half(origins, seed)

    def part(rows: NDArray[np.bool_]) -> tuple[Array, Targets, tuple[str, ...]]:
        named = tuple(origin for origin, take in zip(origins, rows, strict=True) if take)
        return contributions[:, rows], {name: values[rows] for name, values in ambiguous.items()}, named

    return ChoosingHalf(*part(~second)), ReportingHalf(*part(second))


@dataclass(frozen=True, eq=False)
class Search:
    """What one half chose.

    Attributes:
        choices: the uniform p and the best of either search, by name.
        tried: all random candidates.
        level: p of each choice [G], with its odds multiplied so that the mean score is that of the uniform p.

    """

    choices: dict[str, Choice]
    tried: tuple[Choice, ...]
    level: dict[str, Array]

    @classmethod
    def on(cls, half: ChoosingHalf, budget: Budget) -> Search:
        uniform = half.choice(UNIFORM, np.full(half.contributions.shape[-1], budget.uniform))
        best, tried = half.random(budget)
        choices = {choice.name: choice for choice in (uniform, best, half.gradient(budget))}
        mean = half.contributions.mean((0, 1))
        odds = {name: c.odds * (uniform.odds @ mean) / (c.odds @ mean) for name, c in choices.items()}
        return cls(choices, tuple(tried), {name: np.asarray(held / (1 + held)) for name, held in odds.items()})
