"""Exp2: is the score lower on images of the kind the encoder knows than on solid colours, gradients and noise?

If the score measured familiarity, natural images would have the lowest mean. Each category holds images that all
differ, made at the encoder's own input resolution: noise of 224 px shown to an encoder of 32 px is averaged to grey.
Categories hold different images, so comparisons are unpaired; the six pairs of one score are corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.encoders import find_spec
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.stats import Estimate, GroupDifference, Reliability, bootstrap, group_differences, reliability
from mcdo.stats.resampling import Verdict

FOLDER = "exp2_synthetic_natural"
SYNTHETIC = ("solid", "gradient", "noise")
NATURAL = "natural"
PREDICTED = ("natural", "gradient", "noise", "solid")
"""Ascending order of mean scores that the published plan predicts if the score measures familiarity."""
SCORES = ("trace_pre", "trace_pre_relative", "trace_post", "feature_norm")
"""Scores, and the norm of the deterministic feature as a score that costs nothing."""
ALPHA = 0.05
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Exp2Config(ExperimentConfig):
    """n images of each category, K trials at one T. The published n of 10 (with 4 distinct gradients) is too few."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 40, "passes": 32}

    n: int = 100
    passes: int = 64
    trials: int = 5


@dataclass(frozen=True)
class Exp2Result:
    """By score: per-image means over trials by category, their means, and all pairs. By category: reliability."""

    values: dict[str, dict[str, Scores]]
    means: dict[str, dict[str, Estimate]]
    pairs: dict[str, dict[tuple[str, str], GroupDifference]]
    reliability: dict[str, Reliability]

    def order(self, score: str) -> tuple[str, ...]:
        """Categories by ascending mean score."""
        return tuple(sorted(self.means[score], key=lambda category: self.means[score][category].value))

    def familiarity(self, score: str) -> Verdict:
        """Whether natural images have a lower mean than every synthetic category.

        Met when all three differences are significant, not met when one is in the other direction.
        """
        against = [self.pairs[score][category, NATURAL] for category in SYNTHETIC]
        if any(d.p_holm < ALPHA and d.difference.value > 0 for d in against):
            return "not met"
        return "met" if all(d.p_holm < ALPHA and d.difference.value < 0 for d in against) else "undecided"


def needs(config: Exp2Config, model: str) -> list[Need]:
    """One run per category; synthetic images have the encoder's input size."""
    size = find_spec(model).resolution
    specs = [*(f"synthetic:{category}:{size}" for category in SYNTHETIC), None]
    run = MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed)
    return [Need(model, config.n, run, images=spec) for spec in specs]


def compute(config: Exp2Config, runs: Mapping[str, MonteCarloRun]) -> Exp2Result:
    """Means, their order and all comparisons, from the run of each category.

    Raises:
        McdoError: if a category has too few images to be compared.

    """
    short = {name: len(run.ids) for name, run in runs.items() if len(run.ids) < 10}
    if short:
        raise McdoError(f"exp2: too few images to compare means: {short}; at least 10 of each category")
    values = {score: {name: _per_image(config, run, score) for name, run in runs.items()} for score in SCORES}
    seed = config.seed
    return Exp2Result(
        values=values,
        means={
            score: {name: bootstrap(np.mean, v, seed=seed) for name, v in groups.items()}
            for score, groups in values.items()
        },
        pairs={score: group_differences(groups, seed=seed) for score, groups in values.items()},
        reliability={
            name: reliability(run.scores("trace_pre", config.passes)[: config.trials], seed=seed)
            for name, run in runs.items()
        },
    )


def _per_image(config: Exp2Config, run: MonteCarloRun, score: str) -> Scores:
    if score == "feature_norm":
        return run.feature_norm
    return np.asarray(run.scores(score, config.passes)[: config.trials].mean(axis=0))


def summary(result: Exp2Result) -> dict[str, Any]:
    """What stands in ``exp2_summary.json``, apart from the origin."""
    table = {
        score: {
            "category_stats": {name: _statistics(v, result.means[score][name]) for name, v in groups.items()},
            "ascending_uncertainty_order": list(result.order(score)),
            "pairs": {f"{b} - {a}": d.as_dict() for (a, b), d in result.pairs[score].items()},
            "natural_is_lowest": result.familiarity(score),
        }
        for score, groups in result.values.items()
    }
    return {
        **table["trace_pre"],
        "scores": table,
        "predicted_order": list(PREDICTED),
        "correction": "Holm over the six pairs of one score",
        "reliability_by_category": {name: r.as_dict() for name, r in result.reliability.items()},
    }


def _statistics(values: Scores, mean: Estimate) -> dict[str, Any]:
    p25, median, p75 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    spread = float(values.std(ddof=1))
    return {"mean": mean.value, "mean_ci": [mean.low, mean.high], "n": mean.n, "std": spread,
            "median": median, "p25": p25, "p75": p75}  # fmt: skip


def write(
    config: Exp2Config, runs: Mapping[str, MonteCarloRun], result: Exp2Result, reports: Path, session: str
) -> Path:
    """Per model ``exp2_summary.json``, ``exp2_uncertainty_by_category.npz`` and the figure; an overall summary."""
    natural = runs[NATURAL]
    folder = reports / FOLDER / file_name(natural.encoder)
    arrays = {f"{name}_{score}": v for score, groups in result.values.items() for name, v in groups.items()}
    paths = {f"{name}_paths": np.array(run.ids) for name, run in runs.items()}
    write_npz(folder / "exp2_uncertainty_by_category.npz", **paths, **arrays)
    found = {"model": natural.encoder, **summary(result), **origin(config, natural)}
    write_json(folder / "exp2_summary.json", found)
    save_figure(figure(config, natural.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp2_overall_summary.json"
    add_to_json(overall, session, "results", natural.encoder, found)
    return overall


def figure(config: Exp2Config, model: str, result: Exp2Result) -> Figure:
    """Every image by category, with the mean and its interval, for each score."""
    drawn = Figure(figsize=(4.2 * len(SCORES), 4.5), layout="constrained")
    drawn.suptitle(f"{model}: synthetic and natural images (T={config.passes}, K={config.trials})")
    units = {"trace_pre": "squared feature units", "feature_norm": "feature units"}
    for axes, score in zip(np.atleast_1d(drawn.subplots(1, len(SCORES))), SCORES, strict=True):
        for place, (name, values) in enumerate(result.values[score].items()):
            spread = np.linspace(-0.25, 0.25, len(values))
            mean = result.means[score][name]
            axes.plot(place + spread, values, ".", markersize=3, color="tab:gray", label=None if place else "image")
            arms = [[mean.value - mean.low], [mean.high - mean.value]]
            axes.errorbar([place], [mean.value], yerr=arms, fmt="o", color="tab:red", capsize=4,
                          label=None if place else "mean [95 %]")  # fmt: skip
        axes.set_xticks(range(len(result.values[score])), list(result.values[score]))
        axes.set_xlabel("category")
        axes.set_ylabel(f"{score} ({units.get(score, 'no unit')})")
        axes.set_title(f"natural lowest: {result.familiarity(score)}")
    axes.legend()
    return drawn
