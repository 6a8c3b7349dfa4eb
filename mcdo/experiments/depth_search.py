"""Searching a drop probability for each depth of a tower, so that what is chosen is never reported where it was chosen.

A :class:`ChoosingHalf` has the searches and no report; a :class:`ReportingHalf` has the report and no search, and
refuses a choice that saw one of its originals. Everything is pure: arrays of first-order contributions, by group.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from mcdo.errors import McdoError
from mcdo.stats import AmbiguityTargets, Difference, Estimate, corrected, icc_from_snr, normal_p
from mcdo.stats.resampling import percentile_estimate

UNIFORM, RANDOM, GRADIENT = "uniform", "random", "gradient"
WEIGHTS = {"neg_margin": 1.0, "entropy": 1.0, "prompt_sensitivity": 0.5}
ICC_WEIGHT = 0.10
"""The published objective: ρ(−margin) + ρ(entropy) + .5 ρ(prompt sensitivity) + .10 ICC."""
Array = NDArray[np.float64]
Targets = Mapping[str, Array]


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


def agreements(scores: Array, targets: Targets) -> Array:
    """The published objective of each of S scores ``[S, K, N]``: the mean over trials is ranked. ``[S]``."""
    mean = scores.mean(1)
    ranks = stats.rankdata(np.stack([*mean, *(targets[name] for name in WEIGHTS)]), axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    ranks /= np.linalg.norm(ranks, axis=1, keepdims=True)
    rho = ranks[: len(scores)] @ ranks[len(scores) :].T @ np.array(list(WEIGHTS.values()))
    K = scores.shape[1]
    if K < 2:
        return np.asarray(rho)
    snr = mean.var(1, ddof=1) / scores.var(1, ddof=1).mean(1)
    return np.asarray(rho + ICC_WEIGHT * np.array([icc_from_snr(float(value), K) for value in snr]))


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
    """Contributions [K, n, G], targets [n] and the original of each image."""

    contributions: Array
    targets: Targets
    originals: tuple[str, ...]

    def objective(self, odds: Array) -> float:
        return float(agreements((self.contributions @ odds)[None], self.targets)[0])


class ChoosingHalf(_Half):
    """What searches see. It reports nothing."""

    def choice(self, name: str, p: Array) -> Choice:
        """A vector with what it reaches here."""
        return Choice(name, p, self.objective(p / (1 - p)), frozenset(self.originals))

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
        start = np.full(G, special.logit(budget.uniform))
        seen: list[tuple[float, Array]] = []

        def loss(log_odds: Array) -> tuple[float, Array]:
            if len(seen) >= budget.candidates - 2:
                raise StopIteration
            value, slope = self.surrogate(log_odds)
            seen.append((value, log_odds.copy()))
            return -value, -slope

        bounds = [(special.logit(budget.low), special.logit(budget.high))] * G
        with suppress(StopIteration):  # the budget is spent
            optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
        best = max(seen, key=lambda pair: pair[0])[1]
        return max(
            (self.choice(GRADIENT, np.asarray(special.expit(x))) for x in (start, best)),
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
    ranks = stats.rankdata(values) - (len(values) + 1) / 2
    return np.asarray(ranks / np.linalg.norm(ranks))


class ReportingHalf(_Half):
    """What is reported. It has no search, and refuses a choice that saw one of its originals."""

    def check_unseen(self, choices: Sequence[Choice]) -> None:
        """Raise McdoError where a choice was made on an original of this half."""
        for choice in choices:
            seen = choice.chosen_on & set(self.originals)
            if seen:
                raise McdoError(
                    f"{choice.name}: it was chosen on {len(seen)} of the originals that it is to be reported on "
                    f"({min(seen)}, ...); report on the other half"
                )

    def compare(self, choices: Sequence[Choice], seed: int) -> tuple[dict[str, Estimate], dict[str, Difference]]:
        """The objective of each choice, and the differences of the pairs, paired over originals."""
        self.check_unseen(choices)
        scores = {choice.name: self.contributions @ choice.odds for choice in choices}
        return compare(scores, self.targets, self.originals, seed)


def split(
    parts: Array, targets: AmbiguityTargets, originals: Sequence[str], seed: int
) -> tuple[ChoosingHalf, ReportingHalf]:
    """Halve the originals at random, with all their variants: none is in both halves."""
    ambiguous = published_targets(targets)
    first = chosen_originals(originals, seed)
    of = np.array([name in first for name in originals])
    halves = []
    for kind, rows in ((ChoosingHalf, of), (ReportingHalf, ~of)):
        held = tuple(name for name, take in zip(originals, rows, strict=True) if take)
        halves.append(kind(parts[:, rows], {name: values[rows] for name, values in ambiguous.items()}, held))
    choosing, reporting = halves
    assert isinstance(choosing, ChoosingHalf)
    assert isinstance(reporting, ReportingHalf)
    return choosing, reporting


def chosen_originals(originals: Sequence[str], seed: int) -> frozenset[str]:
    """The half of the originals on which p is chosen."""
    names = sorted(set(originals))
    if len(names) < 10:
        raise McdoError(f"{len(names)} originals cannot be halved for choosing and reporting; give at least 10")
    order = np.random.default_rng(seed).permutation(len(names))
    return frozenset(names[i] for i in order[: len(names) // 2])


def published_targets(targets: AmbiguityTargets) -> dict[str, Array]:
    """The three targets of the objective."""
    if targets.prompt_sensitivity is None:
        raise McdoError("the objective needs prompt sensitivity: give logits of at least two templates")
    return {
        "neg_margin": targets.neg_margin,
        "entropy": targets.entropy,
        "prompt_sensitivity": targets.prompt_sensitivity,
    }


def compare(
    scores: Mapping[str, Array], targets: Targets, originals: Sequence[str], seed: int, resamples: int = 1000
) -> tuple[dict[str, Estimate], dict[str, Difference]]:
    """Objectives of scores [K, n], and later less earlier for each pair; whole originals are resampled, for all alike.

    p by :func:`~mcdo.stats.normal_p`; Holm over the pairs.
    """
    names, which = np.unique(np.asarray(originals), return_inverse=True)
    members = [np.flatnonzero(which == i) for i in range(len(names))]
    stack, rng, N = np.stack(list(scores.values())), np.random.default_rng(seed), len(names)

    def on(rows: NDArray[np.intp]) -> Array:
        return agreements(stack[..., rows], {name: values[rows] for name, values in targets.items()})

    whole = on(np.arange(stack.shape[-1]))
    draws = np.stack([on(np.concatenate([members[i] for i in rng.integers(0, N, N)])) for _ in range(resamples)])
    place = {name: i for i, name in enumerate(scores)}
    found = {name: percentile_estimate(float(whole[i]), draws[:, i], N, 0.95) for name, i in place.items()}
    differences = {}
    for (first, a), (second, b) in itertools.combinations(place.items(), 2):
        gap, gaps = float(whole[b] - whole[a]), draws[:, b] - draws[:, a]
        p = normal_p(gap, gaps)
        differences[f"{second} - {first}"] = Difference(percentile_estimate(gap, gaps, N, 0.95), p, p)
    return found, corrected({"": differences})[""]
