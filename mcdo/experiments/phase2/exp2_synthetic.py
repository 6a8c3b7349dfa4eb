"""Exp2: is the score lower on images of the kind the encoder knows than on solid colours, gradients and noise?

If the score measured familiarity, natural images would have the lowest mean. Each category holds images that all
differ, made at the encoder's own input resolution: noise of 224 px shown to an encoder of 32 px is averaged to grey.
Categories hold different images, so comparisons are unpaired; the six pairs of one score are corrected by Holm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.estimators import TRACES, MonteCarloRun
from mcdo.harness import ALPHA, Claim, Experiment, Files, Images, Inputs, Outcome, Passes, View
from mcdo.harness.sheets import EACH, Sheet, Tile
from mcdo.report.figures import Panel
from mcdo.stats import Estimate, GroupDifference, Reliability, group_differences, mean, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SYNTHETIC = ("solid", "gradient", "noise")
NATURAL = "natural"
PREDICTED = ("natural", "gradient", "noise", "solid")
"""Ascending order of mean scores that the published plan predicts if the score measures familiarity."""
NORM = "feature_norm"
"""The norm of the deterministic feature, as a score that costs nothing."""
JUDGED = TRACES
UNITS = {"trace_pre": "squared feature units", NORM: "feature units"}
LEAST_IMAGES = 10
"""Of each category, for a comparison of means."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class SyntheticResult:
    """Categories compared.

    Attributes:
        values: by score and category, per-image means over trials, [n] each.
        means: of these.
        pairs: by score, every two categories.
        reliability: by category, of trace_pre.

    """

    values: Mapping[str, Mapping[str, Array]]
    means: Mapping[str, Mapping[str, Estimate]]
    pairs: Mapping[str, Mapping[tuple[str, str], GroupDifference]]
    reliability: Mapping[str, Reliability]

    def order(self, score: str) -> tuple[str, ...]:
        return tuple(sorted(self.means[score], key=lambda category: self.means[score][category].value))

    def above(self, score: str, category: str) -> GroupDifference:
        return self.pairs[score][category, NATURAL]

    def familiarity(self, score: str) -> Outcome:
        """Whether natural images have a lower mean than every synthetic category.

        Met when all three differences are significant, not met when one is in the other direction.
        """
        against = [self.above(score, category) for category in SYNTHETIC]
        if any(d.p_holm < ALPHA and d.difference.value > 0 for d in against):
            return "not met"
        return "met" if all(d.p_holm < ALPHA and d.difference.value < 0 for d in against) else "undecided"


@dataclass(frozen=True)
class SyntheticNatural(Experiment[SyntheticResult]):
    """n images of each category, K trials at one T. The published n of 10 (with 4 distinct gradients) is too few."""

    key = "exp2"
    name = "exp2_synthetic_natural"
    phase = "phase2"
    files = Files.of_each("exp2", "exp2_synthetic_natural")
    quick = {"n": 40, "passes": 32, "trials": 3}
    published = JUDGED

    n: int = 100
    passes: int = 64
    trials: int = 5

    def images(self, size: int) -> dict[str, Images]:
        """By category, the session's last; synthetic ones have ``size``, the encoder's input's."""
        return {
            **{category: Images(self.n, f"synthetic:{category}:{size}") for category in SYNTHETIC},
            NATURAL: Images(self.n),
        }

    def run(self, model: str, shown: Images) -> Passes:
        return Passes(model, shown, self.protocol((self.passes,), self.trials))

    def requests(self, about: View) -> Iterable[Passes]:
        images = self.images(about.encoder().resolution)
        first = {NATURAL: images[NATURAL]}  # whose number of images stands in the summary
        return [self.run(about.model, shown) for shown in {**first, **images}.values()]

    def runs(self, inputs: Inputs) -> dict[str, MonteCarloRun]:
        """By category.

        Raises:
            McdoError: if one has too few images to be compared.

        """
        runs = {
            name: inputs[self.run(inputs.model, shown)]
            for name, shown in self.images(inputs.encoder().resolution).items()
        }
        short = {name: len(run.ids) for name, run in runs.items() if len(run.ids) < LEAST_IMAGES}
        if short:
            raise McdoError(f"exp2: too few images to compare means: {short}; at least {LEAST_IMAGES} of each category")
        return runs

    def compute(self, inputs: Inputs) -> SyntheticResult:
        runs, seed = self.runs(inputs), self.seed
        origins = {name: run.origins for name, run in runs.items()}
        scores = (*self.reported, NORM)
        values = {score: {name: _per_image(run, score) for name, run in runs.items()} for score in scores}
        return SyntheticResult(
            values=values,
            means={
                score: {name: mean(v, origins=origins[name], seed=seed) for name, v in groups.items()}
                for score, groups in values.items()
            },
            pairs={score: group_differences(groups, origins=origins, seed=seed) for score, groups in values.items()},
            reliability={
                name: reliability(run.scores("trace_pre"), origins=run.origins, seed=seed) for name, run in runs.items()
            },
        )

    def claims(self) -> Sequence[Claim[SyntheticResult]]:
        return [_natural_is_lowest(score) for score in self.reported]

    def summary(self, result: SyntheticResult) -> Mapping[str, Any]:
        table = {
            score: {
                "category_stats": {name: _statistics(v, result.means[score][name]) for name, v in groups.items()},
                "ascending_uncertainty_order": list(result.order(score)),
                "pairs": {f"{b} - {a}": d for (a, b), d in result.pairs[score].items()},
                "natural_is_lowest": result.familiarity(score),
            }
            for score, groups in result.values.items()
        }
        return {
            **table["trace_pre"],
            "scores": table,
            "predicted_order": list(PREDICTED),
            "correction": "Holm over the six pairs of one score",
            "reliability_by_category": result.reliability,
            "intervals": "over originals; n of an interval counts originals",
        }

    def arrays(self, inputs: Inputs, result: SyntheticResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        runs = self.runs(inputs)
        return {
            "{}/exp2_uncertainty_by_category.npz": {
                **{f"{name}_paths": np.array(run.ids) for name, run in runs.items()},
                **{f"{name}_origins": np.array(run.origins) for name, run in runs.items()},
                **{f"{name}_{score}": v for score, groups in result.values.items() for name, v in groups.items()},
            }
        }

    def sheets(self, inputs: Inputs, result: SyntheticResult) -> Sequence[Sheet]:
        """Of each category the images at even steps from the lowest score to the highest."""
        score, found = JUDGED[-1], []
        for category, shown in self.images(inputs.encoder().resolution).items():
            values = result.values[score][category]
            chosen = np.argsort(values, kind="stable")[np.linspace(0, len(values) - 1, EACH).astype(int)]
            tiles = tuple(Tile(shown, int(i), f"{score} {values[i]:.3g}") for i in chosen)
            found.append(Sheet(f"{category} images, from the lowest {score} to the highest", tiles))
        return found

    def title(self) -> str:
        return f"synthetic and natural images (n={self.n} of each, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: SyntheticResult) -> Sequence[Panel]:
        """Every image by category, with the mean and its interval, one panel a score."""
        return [lambda axes, score=score: _draw(axes, result, score) for score in result.values]  # type: ignore[misc]


def _per_image(run: MonteCarloRun, score: str) -> Array:
    return run.feature_norm if score == NORM else np.asarray(run.scores(score).mean(axis=0))


def _natural_is_lowest(score: str) -> Claim[SyntheticResult]:
    def lowest(result: SyntheticResult) -> str:
        return next(category for category in result.order(score) if category != NATURAL)

    def beside(result: SyntheticResult) -> str:
        means = ", ".join(f"{name} {result.means[score][name].value:.3g}" for name in result.order(score))
        against = {category: result.above(score, category) for category in SYNTHETIC}
        gaps = ", ".join(f"{category} {d.exceedance} p_holm={d.p_holm:.2g}" for category, d in against.items())
        return f"figure: P(natural above {lowest(result)}), the lowest; means {means}; P(natural above) {gaps}"

    return Claim(
        f"natural_lowest/{score}",
        lambda r: r.above(score, lowest(r)).exceedance,
        rule=("a natural mean below that of each synthetic category, by p_holm", lambda r: r.familiarity(score)),
        beside=beside,
    )


def _statistics(values: Array, average: Estimate) -> dict[str, Any]:
    p25, median, p75 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75)))
    spread = float(values.std(ddof=1))
    return {"mean": average.value, "mean_ci": [average.low, average.high], "n": average.n, "std": spread,
            "median": median, "p25": p25, "p75": p75}  # fmt: skip


def _draw(axes: Axes, result: SyntheticResult, score: str) -> None:
    for place, (name, values) in enumerate(result.values[score].items()):
        average, once = result.means[score][name], place == 0
        spread = np.linspace(-0.25, 0.25, len(values))
        axes.plot(place + spread, values, ".", markersize=3, color="grey", label="image" if once else None)
        arms = [[average.value - average.low], [average.high - average.value]]
        axes.errorbar([place], [average.value], yerr=arms, fmt="o", color="C1", capsize=4,
                      label="mean [95 %]" if once else None)  # fmt: skip
    axes.set_xticks(range(len(result.values[score])), list(result.values[score]))
    axes.set_xlabel("category")
    axes.set_ylabel(f"{score} ({UNITS.get(score, 'no unit')})")
    axes.set_title(f"natural lowest: {result.familiarity(score)}")
    axes.legend()
