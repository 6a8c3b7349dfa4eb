"""The choice of sites and score on one half of the origins, and what the other half says of it.

Objective: the largest lower end, to two digits, of the interval of the share of images that damage raises, among the
candidates whose reliability is usable at the stated probes (ρ, SNR and ICC by their point estimates, where the choice
is made; by their intervals where it is reported); of equal ones the cheapest, then the largest lower end. Candidates
with fitted weights are judged across two folds of the choosing half, each by weights that the other fitted.

Reference is "all sites" under whichever score does best with it, and the best baseline that needs no perturbation, in
whichever direction does best: both are chosen on the same half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.experiments.recipe.halves import (
    Array,
    Baseline,
    Half,
    Rows,
    check_apart,
    difference,
    lower_ends,
    share_raised,
)
from mcdo.experiments.recipe.sites import ALL, Tower
from mcdo.images.sampling import second_half
from mcdo.stats import Difference, Estimate, proportion
from mcdo.stats.comparison import differences

RIDGES = (0.1, 1.0, 10.0)
"""Regularisation of fitted weights, as a multiple of a site's mean square."""
LEVELS = 4
"""Fitted weights are rounded to this many steps of the largest, so that passes, with a p for each step, can follow."""


@dataclass(frozen=True, eq=False)
class Choice:
    """A candidate, and what it reached where it was chosen.

    Attributes:
        name: of the sites.
        score: of the images.
        weights: over sites, [S], at least 0.
        low: lower end of the interval of ``share``.
        share: of images raised.
        status: of its reliability, by point estimates.
        cost: of an image. To first order 1 + probes · (share of the sites that a gradient passes on its way to the
            first one with weight): passes through the whole tower, a product counted as one.
        origins: that it was chosen on.

    """

    name: str
    score: str
    weights: Array
    low: float
    share: float
    status: str
    cost: float
    origins: frozenset[str] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Sets of sites by name, as weights [C, S], for every score; ``fitted`` adds weights that are fitted.

    ``cost`` gives what an image costs under weights [S].
    """

    names: tuple[str, ...]
    weights: Array
    cost: Callable[[Array], float]
    fitted: bool = True
    _status: dict[tuple[str, str], str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, tower: Tower, probes: int) -> Candidates:
        """All that :meth:`Tower.candidates` has, and fitted weights; see :class:`Choice` for what an image costs."""
        named = tower.candidates()
        weights = np.stack(list(named.values())).astype(np.float64)
        return cls(tuple(named), weights, lambda each: 1 + probes * tower.reach(each))

    def status(self, name: str, score: str, half: Half, weights: Array) -> str:
        """Computed once: exchanging clean and degraded copies leaves it as it is."""
        if name not in self.names:
            return half.status(weights)
        if (name, score) not in self._status:
            self._status[name, score] = half.status(weights)
        return self._status[name, score]

    def on_other_halves(self) -> Candidates:
        """Without what is remembered of the statuses on one half."""
        return replace(self, _status={})


@dataclass(frozen=True, eq=False)
class Data:
    """All images: by score, and the baselines; halved by origin.

    Attributes:
        scores: by name.
        baselines: by name.
        chosen_on: degradations that the choice sees.
        unseen: further degradations, by family.
        seed: of the halves.
        apart: further scores, on the choosing half and, where that was measured, on the reporting half: those with
            weights of dimensions, which were fitted on other images than they score (of the choosing half, each fold by
            the other).
        flips: by degradation, images whose clean and degraded copies are exchanged, [N]; for a null.
        before: the same before that, which is halved only once.

    """

    scores: Mapping[str, Half]
    baselines: Mapping[str, Baseline]
    chosen_on: tuple[str, ...]
    unseen: Mapping[str, tuple[str, ...]]
    seed: int
    flips: Mapping[str, Rows] = field(default_factory=dict)
    apart: Mapping[str, tuple[Half, Half | None]] = field(default_factory=dict)
    before: Data | None = field(default=None, repr=False)

    @property
    def origins(self) -> tuple[str, ...]:
        return next(iter(self.scores.values())).origins

    @cached_property
    def second(self) -> Rows:
        """Which images report."""
        return second_half(self.origins, self.seed)

    @cached_property
    def choosing(self) -> dict[str, Half]:
        return self._half(~self.second, 0)

    @cached_property
    def reporting(self) -> dict[str, Half]:
        return self._half(self.second, 1)

    def _half(self, take: Rows, which: Literal[0, 1]) -> dict[str, Half]:
        if self.before is not None:
            flips = {spec: rows[take] for spec, rows in self.flips.items()}
            halves = self.before.choosing if which == 0 else self.before.reporting
            return {score: half.flipped(flips) for score, half in halves.items()}
        halves = {score: half.rows(take) for score, half in self.scores.items()}
        return halves | {score: part for score, parts in self.apart.items() if (part := parts[which]) is not None}

    def baseline(self, name: str, specs: Sequence[str], take: Rows, sign: int) -> Array:
        """As :meth:`Baseline.raised`."""
        flips = {spec: rows[take] for spec, rows in self.flips.items()}
        return self.baselines[name].raised(specs, take, flips, sign)

    def exchanged(self, rng: np.random.Generator) -> Data:
        """Clean and degraded copies exchanged at random, degradation by degradation, whole origins together."""
        names, members = np.unique(self.origins, return_inverse=True)
        specs = (*self.chosen_on, *(spec for specs in self.unseen.values() for spec in specs))
        flips = {spec: (rng.random(len(names)) < 0.5)[members] for spec in specs}
        return replace(self, flips=flips, before=self)

    def measured(self) -> Data:
        """Without the scores that the reporting half does not have."""
        assert self.before is None, "copies are exchanged last"
        return replace(self, apart={score: parts for score, parts in self.apart.items() if parts[1] is not None})

    def split_anew(self, seed: int) -> Data:
        """Other halves; without the scores whose weights of dimensions were fitted on one of these."""
        assert self.before is None, "copies are exchanged last"
        return replace(self, seed=seed, apart={})


def fit(half: Half, specs: Sequence[str], ridge: float, take: Rows | slice = slice(None)) -> Array:
    """Non-negative weights [S] under which damage raises the score, by regularised least squares, rounded.

    A row is the relative rise of one image and degradation (of the images ``take``, by default of all); its product
    with the weights is to be 1. Zeros where nothing rises.
    """
    X = np.concatenate([half.relative_rise(spec)[take] for spec in specs])
    S = X.shape[1]
    if not X.any():
        return np.zeros(S)
    gram = X.T @ X / len(X)
    gram += ridge * np.trace(gram) / S * np.eye(S)
    # min ‖Xw − 1‖² + ridge through the Cholesky factor of the normal equations: S rows in place of N
    factor = np.linalg.cholesky(gram + 1e-12 * np.trace(gram) * np.eye(S))
    weights, _ = scipy.optimize.nnls(factor.T, np.linalg.solve(factor, X.mean(axis=0)))
    largest = weights.max()
    return np.asarray(np.round(weights / largest * LEVELS) / LEVELS if largest > 0 else weights)


def choose(data: Data, candidates: Candidates) -> tuple[Choice, Choice]:
    """The best candidate on the choosing half, and "all sites" under the score that does best with it.

    That reference has no weights of dimensions.

    Raises:
        McdoError: where no candidate has a share.

    """
    found: list[tuple[float, float, Callable[[], Choice]]] = []
    best_all: tuple[float, Callable[[], Choice]] | None = None
    for score, half in data.choosing.items():
        raised = half.raised(candidates.weights, data.chosen_on)
        lows = lower_ends(raised, half)
        for i, name in enumerate(candidates.names):
            make = _maker(candidates, name, score, half, candidates.weights[i], float(lows[i]), raised[i])
            found.append((float(lows[i]), candidates.cost(candidates.weights[i]), make))
            if name == ALL and score in data.scores and (best_all is None or lows[i] > best_all[0]):
                best_all = float(lows[i]), make
        for name, weights, across in _fitted(half, data) if candidates.fitted else ():
            low = float(lower_ends(across[None], half)[0])
            make = _maker(candidates, name, score, half, weights, low, across)
            found.append((low, candidates.cost(weights), make))
    if not found or best_all is None:
        raise McdoError("no candidate: there are no sites to choose from")
    found.sort(key=lambda each: (-round(each[0], 2), each[1], -each[0]))
    made = (make() for _, _, make in found)
    return next((choice for choice in made if choice.status == "usable"), found[0][2]()), best_all[1]()


def _maker(
    candidates: Candidates, name: str, score: str, half: Half, weights: Array, low: float, raised: Array
) -> Callable[[], Choice]:
    """Makes a choice when it is asked for: its status takes longer than its share."""

    def make() -> Choice:
        status = candidates.status(name, score, half, weights)
        cost = candidates.cost(weights)
        return Choice(name, score, weights, low, float(raised.mean()), status, cost, frozenset(half.origins))

    return make


def _fitted(half: Half, data: Data) -> Iterable[tuple[str, Array, Array]]:
    """Fitted weights of the half, and the shares [K, n] that weights of the other fold reach, for each ridge."""
    fold = second_half(half.origins, data.seed + 1)
    for ridge in RIDGES:
        weights = fit(half, data.chosen_on, ridge)
        if not weights.any():
            continue
        others = np.stack([fit(half, data.chosen_on, ridge, rows) for rows in (~fold, fold)])
        raised = half.raised(others, data.chosen_on)
        yield f"fitted weights, ridge {ridge:g}", weights, np.where(fold, raised[0], raised[1])


@dataclass(frozen=True, eq=False)
class Trivial:
    """The best baseline on the choosing half, read upwards (1) or downwards (−1)."""

    name: str
    sign: int
    share: float

    @classmethod
    def on(cls, data: Data) -> Trivial:
        """Of all baselines in both directions."""
        return max(
            (
                cls(name, sign, float(data.baseline(name, data.chosen_on, ~data.second, sign).mean()))
                for name in data.baselines
                for sign in (1, -1)
            ),
            key=lambda each: each.share,
        )

    @property
    def label(self) -> str:
        """With its direction."""
        return f"{self.name} {'up' if self.sign > 0 else 'down'}"


@dataclass(frozen=True, eq=False)
class Reported:
    """What the reporting half says.

    Attributes:
        shares: of images raised, by (candidate or baseline, degradation or scope).
        gains: of the choice, by (over what, scope); Holm over all of them.
        inside: the same gains where the choice was made, of the scope that it saw.

    """

    choice: Choice
    every: Choice
    trivial: Trivial
    shares: Mapping[tuple[str, str], Estimate]
    gains: Mapping[tuple[str, str], Difference]
    inside: Mapping[str, float]

    def optimism(self, over: str) -> float:
        """How much larger the gain looked where it was chosen."""
        return self.inside[over] - self.gains[over, CHOSEN_ON].estimate.value


CHOSEN_ON = "chosen on"
"""The scope that the choice saw; the others are families that it did not."""
UNSEEN = "not chosen on"
"""All degradations of other families together."""
OVER_ALL, OVER_TRIVIAL = "all sites", "best trivial score"


def scopes(data: Data) -> dict[str, tuple[str, ...]]:
    """Degradations by scope: those of the choice, each other family, and the other families together."""
    others = tuple(spec for specs in data.unseen.values() for spec in specs)
    return {CHOSEN_ON: data.chosen_on, **data.unseen, **({UNSEEN: others} if others else {})}


def report(data: Data, choice: Choice, every: Choice) -> Reported:
    """The choice beside all sites and the best baseline, on the half that chose nothing."""
    trivial, half = Trivial.on(data), data.reporting[choice.score]
    raised = _raised(data, choice, every, trivial)
    shares: dict[tuple[str, str], Estimate] = {}
    for scope, specs in scopes(data).items():
        shares |= {(name, scope): share_raised(each, half) for name, each in raised[scope].items()}
        for spec in specs if scope != UNSEEN else ():
            shares["chosen", spec] = share_raised(half.raised(choice.weights[None], [spec])[0], half)
    inside = {OVER_ALL: choice.share - every.share, OVER_TRIVIAL: choice.share - trivial.share}
    return Reported(choice, every, trivial, shares, _gains(raised, half), inside)


def _raised(data: Data, choice: Choice, every: Choice, trivial: Trivial) -> dict[str, dict[str, Array]]:
    """By scope: shares raised of the choice, of all sites and of the baseline, on the half that chose nothing."""
    check_apart(tuple(choice.origins), data.reporting[choice.score].origins)
    half, whole = data.reporting[choice.score], data.reporting[every.score]
    return {
        scope: {
            "chosen": half.raised(choice.weights[None], specs)[0],
            OVER_ALL: whole.raised(every.weights[None], specs)[0],
            OVER_TRIVIAL: data.baseline(trivial.name, specs, data.second, trivial.sign),
        }
        for scope, specs in scopes(data).items()
    }


def _gains(raised: Mapping[str, Mapping[str, Array]], half: Half) -> dict[tuple[str, str], Difference]:
    """Of the choice over the others in every scope."""
    tests = {
        (over, scope): difference(by["chosen"], by[over], half)
        for scope, by in raised.items()
        for over in (OVER_ALL, OVER_TRIVIAL)
    }
    return differences(list(tests), list(tests.values()))


@dataclass(frozen=True)
class Resplit:
    """One other halving: what was chosen, and its gain over all sites on either half."""

    name: str
    score: str
    inside: float
    outside: float


def resplit(data: Data, candidates: Candidates, times: int) -> list[Resplit]:
    """The whole choice on other halves, so that its optimism and how often it comes out alike are known."""
    found = []
    for seed in range(data.seed + 1, data.seed + 1 + times):
        other = data.split_anew(seed)
        choice, every = choose(other, candidates.on_other_halves())
        shares = [
            float(other.reporting[each.score].raised(each.weights[None], data.chosen_on).mean())
            for each in (choice, every)
        ]
        found.append(Resplit(choice.name, choice.score, choice.share - every.share, shares[0] - shares[1]))
    return found


def false_gains(data: Data, candidates: Candidates, times: int, seed: int, alpha: float = 0.05) -> Estimate:
    """How often a choice among exchanged copies seems to gain over all sites or a baseline, by p after Holm.

    With clean and degraded copies exchanged at random nothing can be chosen, so the rate is at most ``alpha``. Scores
    with weights of dimensions take part where the reporting half has them.
    """
    rng: np.random.Generator = np.random.default_rng(seed)
    false, kept, measured = 0, candidates.on_other_halves(), data.measured()
    for _ in range(times):
        null = measured.exchanged(rng)
        choice, every = choose(null, kept)
        gains = _gains(_raised(null, choice, every, Trivial.on(null)), null.reporting[choice.score]).values()
        false += any(gain.p_holm < alpha and gain.estimate.value > 0 for gain in gains)
    return proportion(false, times, method="exact")


def frequencies(names: Iterable[str]) -> dict[str, float]:
    """Shares of each name, the most frequent first."""
    found: NDArray[np.str_] = np.array(list(names))
    kinds, counts = np.unique(found, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(kinds[i]): float(counts[i] / len(found)) for i in order}
