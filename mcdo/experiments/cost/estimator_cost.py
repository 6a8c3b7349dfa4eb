"""Reliability against cost: what a trustworthy ranking of images costs with each way of measuring it.

Every way gives scores [K, N] at several budgets; its reliability is the Spearman correlation of two trials, and its
cost is in forward passes of one image, measured in the same run (:mod:`~mcdo.experiments.cost.pass_cost`). Native
dropout has the same distribution as keyed masks, so it has their reliability at its own cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import mcdo.estimators as estimators
from mcdo.estimators.probes import CALIBRATION_IMAGES, CALIBRATION_PASSES
from mcdo.experiments.cost.pass_cost import Cost
from mcdo.harness import Images, Session, Settings
from mcdo.names import file_name
from mcdo.perturbation import Dropout, Perturbation, TiedDropout
from mcdo.report.figures import save_figure
from mcdo.report.files import write_json, write_text
from mcdo.stats import Estimate, Reliability, reliability

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "estimator_cost"
NATIVE, SPARSE, TIED, TIED_OVER_IMAGES = "native", "sparse", "tied over tokens", "tied over tokens and images"
COMMON, FIRST_ORDER = "sparse, common masks", "first order"
JUDGED_PROBES = 8
GAIN_BARS = {0.01: 10.0, 0.001: 50.0}
"""By p: how many times cheaper than native dropout first order should be, at its own reliability with eight probes."""


@dataclass(frozen=True)
class EstimatorCostConfig:
    """N images, K trials, at every p; budgets of passes and of probes."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 60, "trials": 4, "passes": (4, 16, 64)}

    seed: int = 42
    dropout: Perturbation = field(default_factory=Dropout)
    n: int = 150
    trials: int = 5
    p: tuple[float, ...] = (0.01, 0.001)
    passes: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    probes: tuple[int, ...] = (2, 4, 8, 16)

    @classmethod
    def of(cls, settings: Settings) -> EstimatorCostConfig:
        """Under a session's settings."""
        sizes = cls.QUICK if settings.protocol == "quick" else {}
        return cls(**sizes, seed=settings.seed, dropout=settings.dropout)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "dropout": self.dropout.as_dict()}


@dataclass(frozen=True)
class Point:
    """One way at one budget: what an image costs, and how reliable its score is then."""

    way: str
    p: float
    budget: int
    cost: float
    reliability: Reliability

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        kept = {"way": self.way, "p": self.p, "budget": self.budget, "cost": self.cost}
        return {**kept, "reliability": self.reliability.as_dict()}


def measure(
    session: Session, config: EstimatorCostConfig, model: str, costs: Mapping[str, Cost]
) -> dict[str, list[Point]]:
    """Points by score, for every way, p and budget.

    Args:
        session: the session.
        config: the protocol.
        model: the encoder.
        costs: forward equivalents of one pass, by way; of first order by ``first order R=…``.

    """
    points: dict[str, list[Point]] = {"trace_pre": [], "trace_post": []}
    for p in config.p:
        for way, scores in _passes(session, config, model, p):
            for (score, t), trials in scores.items():
                found = reliability(trials, seed=config.seed)
                points[score].append(Point(way, p, t, t * costs[way].ratio, found))
                if way == SPARSE:
                    points[score].append(Point(NATIVE, p, t, t * costs[NATIVE].ratio, found))
    calibration = CALIBRATION_IMAGES * CALIBRATION_PASSES / config.n * costs[SPARSE].ratio
    for count in config.probes:
        run = _first_order(session, config, model, count)
        for score, p in ((score, p) for score in points for p in config.p):
            found = reliability(run.scores(score, p), seed=config.seed)
            cost = costs[f"{FIRST_ORDER} R={count}"].ratio + calibration
            points[score].append(Point(FIRST_ORDER, p, count, cost, found))
    return points


def _passes(
    session: Session, config: EstimatorCostConfig, model: str, p: float
) -> list[tuple[str, dict[tuple[str, int], NDArray[np.float64]]]]:
    images, sites = session.image_set(Images(config.n)), config.dropout.sites
    ways = [
        (SPARSE, Dropout(p, sites), images),
        (COMMON, Dropout(p, sites), images.with_common_masks()),
        (TIED, TiedDropout(p, sites), images),
        (TIED_OVER_IMAGES, TiedDropout(p, sites, over_images=True), images),
    ]
    found = []
    for way, kind, shown in ways:
        run = estimators.monte_carlo(
            session.encoder(model),
            shown,
            kind,
            config.passes,
            config.trials,
            config.seed,
            geometry=(),
            store=session.settings.store,
            pixels=lambda: session.pixels(model, Images(config.n)),
            progress=False,
        )
        found.append((way, {(s, t): run.scores(s, t) for s in ("trace_pre", "trace_post") for t in config.passes}))
    return found


def _first_order(session: Session, config: EstimatorCostConfig, model: str, probes: int) -> estimators.FirstOrderRun:
    return estimators.first_order(
        session.encoder(model),
        session.image_set(Images(config.n)),
        Dropout(config.p[0], config.dropout.sites),
        probes,
        config.trials,
        config.seed,
        store=session.settings.store,
        pixels=lambda: session.pixels(model, Images(config.n)),
        progress=False,
    )


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


def write(
    config: EstimatorCostConfig,
    model: str,
    costs: Mapping[str, Cost],
    points: Mapping[str, Sequence[Point]],
    machine: Mapping[str, Any],
    reports: Path,
) -> Path:
    """Table as JSON and Markdown, and the curve."""
    folder, name = reports / FOLDER, file_name(model)
    listed = {score: [point.as_dict() for point in found] for score, found in points.items()}
    per_pass = {way: cost.as_dict() for way, cost in costs.items()}
    gained = {
        score: {
            f"{p:g}": {way: gain.as_dict() for way, gain in gains(found, p, JUDGED_PROBES).items()} for p in config.p
        }
        for score, found in points.items()
    }
    value = {"config": config.as_dict(), "machine": dict(machine), "costs": per_pass, "gains": gained, "points": listed}
    write_json(folder / f"{name}.json", value)
    write_text(folder / f"{name}.md", "\n".join(table(points)) + "\n")
    save_figure(_figure(points, config, model), folder / f"{name}.png")
    return folder


def table(points: Mapping[str, Sequence[Point]]) -> list[str]:
    """Markdown: reliability of every way at every budget, beside its cost."""
    lines = ["| score | p | way | T or R | cost (forwards) | Spearman [95 %] | SNR |", "|---|---|---|---|---|---|---|"]
    for score, found in points.items():
        for q in found:
            rho = q.reliability.estimate("spearman")
            interval = f"{rho.value:.3f} [{rho.low:.2f}, {rho.high:.2f}]"
            lines.append(
                f"| {score} | {q.p:g} | {q.way} | {q.budget} | {q.cost:.1f} | {interval} | {q.reliability.snr:.1f} |"
            )
    return lines


def _figure(points: Mapping[str, Sequence[Point]], config: EstimatorCostConfig, model: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * len(config.p), 4.5 * len(points)), layout="constrained")
    panels = figure.subplots(len(points), len(config.p), squeeze=False)
    for row, (score, found) in zip(panels, points.items(), strict=True):
        for axes, p in zip(row, config.p, strict=True):
            for way in dict.fromkeys(q.way for q in found):
                curve = sorted((q for q in found if (q.way, q.p) == (way, p)), key=lambda q: q.cost)
                estimates = [q.reliability.estimate("spearman") for q in curve]
                middle = np.array([e.value for e in estimates])
                arms = [middle - [e.low for e in estimates], np.array([e.high for e in estimates]) - middle]
                axes.errorbar([q.cost for q in curve], middle, np.clip(arms, 0, None), marker="o", capsize=2, label=way)
            axes.axhline(0.8, color="grey", linestyle=":")
            axes.set(xscale="log", xlabel="cost of an image (forward passes)", ylabel="Spearman of two trials")
            axes.set_title(f"{model}, {score}, p = {p:g}")
    panels[0][0].legend(fontsize=7)
    return figure
