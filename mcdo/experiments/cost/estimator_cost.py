"""Reliability against cost: what a trustworthy ranking of images costs with each way of measuring it.

Every way gives scores [K, N] at several budgets; its reliability is the Spearman correlation of two trials, and its
cost is in forward passes of one image, measured in the same run (:mod:`~mcdo.experiments.cost.pass_cost`): the
deterministic one, which every way takes, then passes or products, and what the store keeps for later runs, spread over
the images: first order's noise basis, and the choice of passes on other images.
Native dropout has the same distribution as keyed masks, so it has their reliability at its own cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from mcdo.estimators import MonteCarloConfig, MultiFidelityRun, PairedRun, forward_differences
from mcdo.estimators.chosen_passes import CANDIDATES
from mcdo.estimators.probes import CALIBRATION_IMAGES, CALIBRATION_PASSES
from mcdo.experiments.cost.pass_cost import (
    DIFFERENCES,
    FIRST_ORDER,
    LINEAR,
    NATIVE,
    SIGNS,
    SPARSE,
    TIED,
    TIED_OVER_IMAGES,
    Cost,
    PassCost,
    PassCosts,
    small_subjects,
    with_probes,
    within,
)
from mcdo.harness import Claim, Experiment, Files, FirstOrder, Images, Inputs, Passes, Request, Settings, Subject, View
from mcdo.harness.requests import Arrays, StoredArrays
from mcdo.harness.session import Session
from mcdo.perturbation import Dropout, LinearPart, Rademacher, TiedDropout
from mcdo.report.figures import Panel
from mcdo.report.panels import band
from mcdo.stats import Estimate, Reliability, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mcdo.images import ImageSet

COMMON = "sparse, common masks"
CHOSEN = "forward differences, passes chosen"
MULTI_FIDELITY = "passes and first order"
FAMILIES = {
    "passes of dropout": (SPARSE, NATIVE, COMMON),
    "one draw for many": (TIED, TIED_OVER_IMAGES, SIGNS),
    "by derivatives": (FIRST_ORDER, DIFFERENCES, CHOSEN, MULTI_FIDELITY),
}
"""Ways that are drawn together."""
SCORES = ("trace_pre", "trace_post")
JUDGED_PROBES, CONTROL_PROBES = 8, 16
"""Of first order alone, and of first order as control of passes, where its noise is what is left."""
GAIN_BARS = {0.01: 10.0, 0.001: 50.0}
"""By p: how many times cheaper than native dropout first order should be, at its own reliability with eight probes."""


@dataclass(frozen=True)
class Differences(StoredArrays):
    """Scores [K, N] of forward differences at a nominal cost, for p / (1 - p) = 1, by name.

    Passes are chosen on ``calibration`` images of the same source that are not ``shown``, if there are to be any.
    """

    what = "forward differences"
    code = "mcdo.estimators"
    text = False

    shown: Images
    sites: str | tuple[str, ...]
    forwards: int
    trials: int
    seed: int
    calibration: int = 0

    def expected_passes(self, session: Session) -> int:
        images = session.count(self.shown) + CANDIDATES * self.calibration
        return images * self.trials * self.forwards

    def others(self, session: Session) -> ImageSet | None:
        """The images to choose on: of no original that is shown."""
        if not self.calibration:
            return None
        shown = session.image_set(self.shown)
        every = session.image_set(replace(self.shown, n=len(shown) + self.calibration))
        unseen = np.flatnonzero(~np.isin(every.origins, shown.origins))
        return every.select(unseen[: self.calibration])

    def identity(self, session: Session) -> Mapping[str, Any]:
        asked = {"sites": self.sites, "forwards": self.forwards, "trials": self.trials, "seed": self.seed}
        others = self.others(session)
        chosen = {} if others is None else {"calibration": others.fingerprint}
        return {"images": session.image_set(self.shown).fingerprint, **asked, **chosen}

    def compute(self, session: Session) -> Arrays:
        encoder, images, pixels = session.tower(self.model, self.shown)
        with session.unmuted():
            run = forward_differences(
                encoder, images, Rademacher(0.5, self.sites), self.forwards, self.trials, self.seed,
                calibration=self.others(session), pixels=pixels, progress=session.progress(self),
            )  # fmt: skip
        return {name: run.scores(name) for name in SCORES}


@dataclass(frozen=True)
class Point:
    """One way at one budget: what an image costs, and how reliable its score is then.

    ``kept`` is the part of the cost that a later run does not pay: the store keeps what it was for.
    """

    way: str
    p: float
    budget: int
    cost: float
    reliability: Reliability
    kept: float = 0.0


@dataclass(frozen=True)
class EstimatorCosts:
    """Reliability against cost.

    Attributes:
        passes: what an image-pass costs with each way.
        points: of every way, p and budget, by score.
        gains: by score and p, how many times more each way costs than first order at first order's reliability.

    """

    passes: PassCosts
    points: Mapping[str, Sequence[Point]]
    gains: Mapping[tuple[str, float], Mapping[str, Estimate]]


@dataclass(frozen=True)
class EstimatorCost(Experiment[EstimatorCosts]):
    """N images, K trials, at every p; budgets of passes and of probes. Inputs up to 64 px: others would take hours."""

    key = "perf"
    name = "estimator_cost"
    phase = "perf"
    files = Files(summary="{}.json", figure="{}.png")
    columns = len(FAMILIES)
    quick = {"n": 60, "trials": 4, "passes": (4, 11, 16, 64), "paired_passes": (4, 16), "calibration": 24}
    sized = {"passes": "passes"}
    knows_shared_noise = True

    n: int = 150
    trials: int = 5
    p: tuple[float, ...] = (0.01, 0.001)
    passes: tuple[int, ...] = (4, 8, 11, 16, 32, 64, 128, 256)
    paired_passes: tuple[int, ...] = (4, 8, 16, 32)
    probes: tuple[int, ...] = (2, 4, 8, 16)
    forwards: tuple[int, ...] = (8, 10, 12, 20)
    calibration: int = 192

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return small_subjects(settings)

    def runs(self, model: str, p: float) -> dict[str, Passes]:
        """Passes of every way; those of native dropout have the distribution of keyed masks."""
        sites, images = self.dropout.sites, Images(self.n)
        kinds = {
            SPARSE: (Dropout(p, sites), images),
            COMMON: (Dropout(p, sites), Images(self.n, common_masks=True)),
            TIED: (TiedDropout(p, sites), images),
            TIED_OVER_IMAGES: (TiedDropout(p, sites, over_images=True), images),
            SIGNS: (Rademacher(p, sites), images),
        }
        return {
            way: Passes(model, shown, MonteCarloConfig(kind, self.passes, self.trials, self.seed, geometry=()))
            for way, (kind, shown) in kinds.items()
        }

    def paired(self, model: str, p: float) -> tuple[Passes, Passes]:
        """Passes, and the linear part of the same; those that first order controls."""
        own = Dropout(p, self.dropout.sites)
        run, part = (
            MonteCarloConfig(kind, self.paired_passes, self.trials, self.seed) for kind in (own, LinearPart(own))
        )
        return Passes(model, Images(self.n), run), Passes(model, Images(self.n), part)

    def first_order(self, model: str, probes: int) -> FirstOrder:
        """One run serves every p."""
        dropout = Dropout(self.p[0], self.dropout.sites)
        return FirstOrder(model, Images(self.n), dropout, probes, self.trials, self.seed)

    def differences(self, model: str, forwards: int, calibration: int = 0) -> Differences:
        """One run serves every p."""
        return Differences(model, Images(self.n), self.dropout.sites, forwards, self.trials, self.seed, calibration)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        for calibration in (0, self.calibration):
            yield from (self.differences(about.model, forwards, calibration) for forwards in self.forwards)
        yield from (run for p in self.p for run in self.runs(about.model, p).values())
        yield from (run for p in self.p for run in self.paired(about.model, p))
        yield from (self.first_order(about.model, probes) for probes in self.probes)

    def compute(self, inputs: Inputs) -> EstimatorCosts:
        passes = inputs.result(PassCost, inputs.subject)
        points = {score: self._points(inputs, score, passes.by_way) for score in SCORES}
        found = {(score, p): gains(points[score], p, JUDGED_PROBES) for score in SCORES for p in self.p}
        return EstimatorCosts(passes, points, found)

    def _points(self, inputs: Inputs, score: str, costs: Mapping[str, Cost]) -> list[Point]:
        per_pass = {name: cost.ratio for name, cost in costs.items()} | {COMMON: costs[SPARSE].ratio}
        points = []
        for p in self.p:
            for way, request in self.runs(inputs.model, p).items():
                run = inputs[request]
                for t in self.passes:
                    found = reliability(run.scores(score, t), origins=run.origins, seed=self.seed)
                    points += [
                        Point(name, p, t, 1 + t * per_pass[name], found)
                        for name in ((way, NATIVE) if way == SPARSE else (way,))
                    ]
        basis = CALIBRATION_IMAGES * CALIBRATION_PASSES / self.n * per_pass[SPARSE]
        for probes in self.probes:
            linear = inputs[self.first_order(inputs.model, probes)]
            for p in self.p:
                found = reliability(linear.scores(score, p), origins=linear.origins, seed=self.seed)
                points.append(Point(FIRST_ORDER, p, probes, per_pass[with_probes(probes)] + basis, found, basis))
        for way, calibration in ((DIFFERENCES, 0), (CHOSEN, self.calibration)):
            for forwards in self.forwards:
                unscaled = inputs[self.differences(inputs.model, forwards, calibration)][score]
                cost = per_pass[within(forwards)]
                choice = CANDIDATES * calibration / self.n * cost  # of one trial
                for p in self.p:
                    found = reliability(unscaled * (p / (1 - p)), origins=linear.origins, seed=self.seed)
                    points.append(Point(way, p, forwards, cost + choice, found, choice))
        linear = inputs[self.first_order(inputs.model, CONTROL_PROBES)]
        both, control = per_pass[SPARSE] + per_pass[LINEAR], per_pass[with_probes(CONTROL_PROBES)] + basis
        for p in self.p:
            pair = PairedRun(*(inputs[request] for request in self.paired(inputs.model, p)))
            scaled = replace(linear, config=replace(linear.config, dropout=linear.config.dropout.with_p(p)))
            controlled = MultiFidelityRun(pair, scaled)
            for t in self.paired_passes:
                found = reliability(controlled.scores(score, t), origins=linear.origins, seed=self.seed)
                points.append(Point(MULTI_FIDELITY, p, t, t * both + control, found, basis))
        return points

    def claims(self) -> Sequence[Claim[EstimatorCosts]]:
        return [self._cheaper(score, p) for p in self.p if p in GAIN_BARS for score in SCORES]

    def _cheaper(self, score: str, p: float) -> Claim[EstimatorCosts]:
        return Claim(
            f"first_order_gain/{score}/p={p:g}",
            lambda r: r.gains[score, p][NATIVE],
            at_least=GAIN_BARS[p],
            beside=lambda r: ", ".join(f"{way} {gain}" for way, gain in r.gains[score, p].items() if way != NATIVE),
        )

    def summary(self, result: EstimatorCosts) -> Mapping[str, Any]:
        gained = {score: {f"{p:g}": result.gains[score, p] for p in self.p} for score in SCORES}
        return {
            "machine": dict(result.passes.machine),
            "costs": result.passes.by_way,
            "gains": gained,
            "points": result.points,
        }

    def title(self) -> str:
        return f"reliability against cost (N={self.n}, K={self.trials})"

    def panels(self, inputs: Inputs, result: EstimatorCosts) -> Sequence[Panel]:
        """A row for each score and p, a column for each family of ways; all on the same axes."""
        every = [point for points in result.points.values() for point in points]
        drawn = {way for ways in FAMILIES.values() for way in ways}
        assert drawn >= {point.way for point in every}, "a way of no family would not be drawn"
        costs = [point.cost for point in every]
        lows = [point.reliability.estimate("spearman").low for point in every]
        lowest = min([0.0, *filter(math.isfinite, lows)])

        def panel(axes: Axes, score: str, p: float, family: str) -> None:
            for way in FAMILIES[family]:
                curve = sorted((q for q in result.points[score] if (q.way, q.p) == (way, p)), key=lambda q: q.cost)
                band(axes, [q.cost for q in curve], [q.reliability.estimate("spearman") for q in curve], way)
            axes.axhline(0.8, color="grey", linestyle=":", label="bar 0.8")
            axes.set(xscale="log", xlabel="cost of an image (forward passes)", ylabel="Spearman of two trials [95 %]")
            axes.set(xlim=(min(costs) / 1.2, max(costs) * 1.2), ylim=(lowest - 0.05, 1.05))
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            axes.set_title(f"{score}, p = {p:g}\n{family}")
            axes.legend()

        each = product(SCORES, self.p, FAMILIES)
        return [lambda axes, of=of: panel(axes, *of) for of in each]  # type: ignore[misc]


def cost_at(points: Sequence[Point], way: str, p: float, spearman: float) -> float | None:
    """Cost at which ``way`` first reaches a reliability, interpolated in the logarithm of the cost; None if never."""
    mine = sorted((q for q in points if (q.way, q.p) == (way, p)), key=lambda q: q.cost)
    reached = next((i for i, q in enumerate(mine) if q.reliability.spearman >= spearman), None)
    if reached is None:
        return None
    after = mine[reached]
    if reached == 0:
        return after.cost
    before = mine[reached - 1]
    low, high = before.reliability.spearman, after.reliability.spearman
    return float(before.cost * (after.cost / before.cost) ** ((spearman - low) / (high - low)))


def gains(points: Sequence[Point], p: float, probes: int) -> dict[str, Estimate]:
    """How many times more each way costs than first order, at first order's own reliability with ``probes``.

    The interval is that of first order's reliability. Where a way does not get there with its largest budget, what it
    costs is not known: infinite, and the lower end is no more than what that budget costs.
    """
    own = next(q for q in points if (q.way, q.p, q.budget) == (FIRST_ORDER, p, probes))
    rho = own.reliability.estimate("spearman")
    found: dict[str, Estimate] = {}
    for way in dict.fromkeys(q.way for q in points if q.way != FIRST_ORDER):
        costs = [cost_at(points, way, p, level) for level in (rho.value, rho.low, rho.high)]
        value, low, high = (math.inf if cost is None else cost / own.cost for cost in costs)
        largest = max(q.cost for q in points if (q.way, q.p) == (way, p)) / own.cost
        found[way] = Estimate(value, min(low, largest), high, rho.n)
    return found
