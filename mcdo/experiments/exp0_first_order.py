"""Exp0, first order: is the cheap estimator reliable, and does it say here what Monte Carlo dropout would say?

Its reliability over trials says how well few random probes rank the images. That alone would be no merit: an estimator
may be reliable and estimate something else. So Monte Carlo on a subset states the validity domain: by p, the ratio of
the two and their rank correlation, corrected for the noise of the Monte Carlo scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.experiments.bench import Bench
from mcdo.experiments.phase1.exp0_nested_mc import SPACES
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.report.panels import interval_panel
from mcdo.stats import THRESHOLDS, Estimate, Reliability, bootstrap, disattenuated, reliability, spearman
from mcdo.stats.resampling import Verdict

FOLDER = "exp0_first_order"
RATIO_BAND = (0.8, 1.25)
"""Median ratio of Monte Carlo to first order that is accepted."""
SPEARMAN_BAR = 0.9
"""Rank correlation of the two that is asked for, corrected for the noise of Monte Carlo."""
EXACT_UP_TO = 64
"""Feature sizes for which the subset's first order is taken with all probes, so without noise of its own."""


@dataclass(frozen=True)
class Exp0FirstOrderConfig(ExperimentConfig):
    """N images, K trials, R probes; the domain on ``subset`` images with T passes in ``domain_trials`` trials."""

    QUICK: ClassVar[Mapping[str, Any]] = {
        "n": 120,
        "trials": 5,
        "subset": 60,
        "passes": 64,
        "domain_trials": 4,
        "domain_p": (0.01, 0.05),
    }

    n: int = 500
    probes: tuple[int, ...] = (2, 4, 8)
    trials: int = 10
    subset: int = 100
    passes: int = 256
    domain_trials: int = 4
    domain_p: tuple[float, ...] = (0.001, 0.01, 0.05)

    @property
    def all_p(self) -> tuple[float, ...]:
        """Those of the domain and the session's own."""
        return tuple(sorted({*self.domain_p, self.dropout.p}))


@dataclass(frozen=True)
class Domain:
    """Monte Carlo beside first order at one p: median ratio, and rank correlation, raw and noise-corrected."""

    ratio: Estimate
    spearman: Estimate
    corrected: Estimate

    @property
    def holds(self) -> Verdict:
        """``met`` where the ratio lies in the band and the corrected correlation above its bar."""
        low, high = RATIO_BAND
        verdicts = {
            self.ratio.verdict(low, ">="),
            self.ratio.verdict(high, "<="),
            self.corrected.verdict(SPEARMAN_BAR, ">="),
        }
        return "not met" if "not met" in verdicts else "undecided" if "undecided" in verdicts else "met"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        estimates = {"ratio": self.ratio, "spearman": self.spearman, "spearman_corrected": self.corrected}
        return {**{name: estimate.as_dict() for name, estimate in estimates.items()}, "holds": self.holds}


@dataclass(frozen=True)
class Exp0FirstOrderResult:
    """Reliability by R and space; the domain by p and space."""

    reliability: dict[int, dict[str, Reliability]]
    domain: dict[float, dict[str, Domain]]


def needs(config: Exp0FirstOrderConfig, model: str) -> list[Need]:
    """Monte Carlo on the subset at every p."""
    return [
        Need(
            model,
            config.subset,
            MonteCarloConfig(config.dropout.with_p(p), (config.passes,), config.domain_trials, config.seed),
        )
        for p in config.all_p
    ]


def need(config: Exp0FirstOrderConfig, model: str) -> Need:
    """What the first-order runs are asked for."""
    return Need(model, config.n, MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed))


def subset_need(config: Exp0FirstOrderConfig, model: str) -> Need:
    """What the first-order run on the subset is asked for."""
    return Need(model, config.subset, MonteCarloConfig(config.dropout, (config.passes,), 1, config.seed))


def subset_probes(feature_dim: int) -> int:
    """Probes on the subset: all of them where that is affordable."""
    return feature_dim + 1 if feature_dim <= EXACT_UP_TO else EXACT_UP_TO


def measure(bench: Bench, config: Exp0FirstOrderConfig, model: str) -> Exp0FirstOrderResult:
    """The result on a model, measured once in a session."""
    return bench.once(config, model, lambda: compute(config, *runs_of(bench, config, model)))


def runs_of(
    bench: Bench, config: Exp0FirstOrderConfig, model: str
) -> tuple[dict[int, FirstOrderRun], FirstOrderRun, dict[float, MonteCarloRun]]:
    """First order by R, first order on the subset, and Monte Carlo on the subset by p."""
    wanted = need(config, model)
    runs = {count: bench.first_order(wanted, count) for count in config.probes}
    subset = bench.first_order(subset_need(config, model), subset_probes(bench.encoder(model).feature_dim))
    return runs, subset, {each.config.dropout.p: bench.run(each) for each in needs(config, model)}


def compute(
    config: Exp0FirstOrderConfig,
    runs: Mapping[int, FirstOrderRun],
    subset: FirstOrderRun,
    passes: Mapping[float, MonteCarloRun],
) -> Exp0FirstOrderResult:
    """Reliability of the runs (by R), and the domain from first order and Monte Carlo (by p) on the subset."""
    return Exp0FirstOrderResult(
        reliability={
            count: {space: reliability(run.scores(score), seed=config.seed) for space, score in SPACES.items()}
            for count, run in runs.items()
        },
        domain={
            p: {
                space: domain(run.scores(score, config.passes), subset.scores(score, p)[0], config.seed)
                for space, score in SPACES.items()
            }
            for p, run in passes.items()
        },
    )


def domain(passes: NDArray[np.float64], first_order: NDArray[np.float64], seed: int) -> Domain:
    """Compare Monte Carlo scores ``[K, N]`` with first-order ones ``[N]`` of the same images."""

    def ratio(trials: NDArray[np.float64], linear: NDArray[np.float64]) -> float:
        return float(np.median(trials.mean(0) / linear))

    def rank(trials: NDArray[np.float64], linear: NDArray[np.float64]) -> float:
        return spearman(trials.mean(0), linear, resamples=1).value

    def corrected(trials: NDArray[np.float64], linear: NDArray[np.float64]) -> float:
        return disattenuated(rank(trials, linear), _reliability_of_mean(trials), 1.0)

    estimates = [bootstrap(of, passes, first_order, seed=seed, resamples=500) for of in (ratio, rank, corrected)]
    return Domain(*estimates)


def _reliability_of_mean(trials: NDArray[np.float64]) -> float:
    """ICC(1, K) = (MSB - MSW) / MSB of the mean over trials (Shrout and Fleiss 1979)."""
    within, between = trials.var(axis=0, ddof=1).mean(), len(trials) * trials.mean(axis=0).var(ddof=1)
    return float(1 - within / between)


def write(
    config: Exp0FirstOrderConfig,
    runs: Mapping[int, FirstOrderRun],
    result: Exp0FirstOrderResult,
    reports: Path,
    session: str,
) -> Path:
    """Per model a summary, the trials at every R and the figure; ``exp0_first_order_summary.json`` for all."""
    run = next(iter(runs.values()))
    folder = reports / FOLDER / file_name(run.encoder)
    for count, one in runs.items():
        pre, post = (one.scores(score) for score in SPACES.values())
        write_npz(folder / f"exp0_trials_R{count}.npz", paths=np.array(one.ids), trial_pre=pre, trial_post=post)
    table = {f"R={r}": {space: found.as_dict() for space, found in by.items()} for r, by in result.reliability.items()}
    limits = {f"p={p:g}": {space: found.as_dict() for space, found in by.items()} for p, by in result.domain.items()}
    write_json(folder / "exp0_summary.json", {"results": table, "domain": limits, **origin(config, run)})
    save_figure(_figure(result, run.encoder), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp0_first_order_summary.json"
    add_to_json(overall, session, "results", run.encoder, table)
    add_to_json(overall, session, "domain", run.encoder, limits)
    return overall


def _figure(result: Exp0FirstOrderResult, model: str) -> Figure:
    figure = Figure(figsize=(11, 4))
    left, right = figure.subplots(1, 2)
    rho = {
        score: {f"R={r}": by[space].estimate("spearman") for r, by in result.reliability.items()}
        for space, score in SPACES.items()
    }
    interval_panel(left, rho, THRESHOLDS.usable_spearman, "Spearman of two trials")
    left.set_title(f"{model}: reliability of first order")
    ratios = {
        score: {f"p={p:g}": by[space].ratio for p, by in result.domain.items()} for space, score in SPACES.items()
    }
    interval_panel(right, ratios, None, "Monte Carlo / first order, median over images")
    right.axhspan(*RATIO_BAND, color="grey", alpha=0.2)
    right.set_title("validity domain (shaded: accepted)")
    return figure
