"""Exp0b: what shape does the cloud of passes have, and do the ways to measure its size agree?

Off-diagonal mass is near one for independent noise already when T is small beside D, so it stands beside its floor: the
mass that independent dimensions of the same variances have, image by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import NotApplicableError
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Passes, View
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import Estimate, mean, trial_spearman
from mcdo.stats.trials import few_trials

ARRAYS = {
    "trace_pre_per_d": "trace_pre",
    "trace_post_per_d": "trace_post",
    "angular_var": "angular_var",
    "offdiag_pre": "offdiag_l1_pre",
    "offdiag_post": "offdiag_l1_post",
    "offdiag_frobenius_pre": "offdiag_frobenius_pre",
    "offdiag_frobenius_post": "offdiag_frobenius_post",
    "offdiag_pre_floor": "offdiag_l1_pre_floor",
    "offdiag_post_floor": "offdiag_l1_post_floor",
    "offdiag_frobenius_pre_floor": "offdiag_frobenius_pre_floor",
    "offdiag_frobenius_post_floor": "offdiag_frobenius_post_floor",
    "effective_rank": "effective_rank",
    "top1_ratio": "top1_ratio",
}
"""Names in the files, and the score behind each."""

PAIRS = {
    "corr_trace_pre_angular": ("trace_pre", "angular_var"),
    "corr_trace_post_angular": ("trace_post", "angular_var"),
    "corr_trace_pre_post": ("trace_pre", "trace_post"),
}
COUPLED = ("offdiag_pre", "offdiag_post", "offdiag_frobenius_pre", "offdiag_frobenius_post")


@dataclass(frozen=True)
class GeometryResult:
    """The cloud of passes, in the mean.

    Attributes:
        means: over images and trials, by the names of :data:`ARRAYS`.
        correlations: rank correlations averaged over trials, by the names of :data:`PAIRS`.
        above_floor: off-diagonal mass less its floor, image by image.
        eigenvalues: the leading ones.

    """

    means: Mapping[str, Estimate]
    correlations: Mapping[str, Estimate]
    above_floor: Mapping[str, Estimate]
    eigenvalues: tuple[float, ...]


@dataclass(frozen=True)
class NormGeometry(Experiment[GeometryResult]):
    """N images, K trials at one T."""

    key = "exp0b"
    name = "exp0b_norm_geometry"
    phase = "phase1"
    about_estimator = "mc"
    files = Files(summary="exp0b_summary.json", figure="exp0b_norm_geometry.png")
    of_one_model = True
    quick = {"n": 120}
    knows_shared_noise = True

    n: int = 500
    passes: int = 64
    trials: int = 5

    def run(self, model: str) -> Passes:
        """A part of exp0's run, with the geometry at T."""
        t = (self.passes,)
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, t, self.trials, self.seed, geometry=t))

    def obstacles(self, about: View) -> Iterable[str]:
        """Too few trials, where all images of a pass share its noise."""
        return few_trials(self.trials) if self.dropout.shared_by_images else ()

    def requests(self, about: View) -> Iterable[Passes]:
        return (self.run(about.model),)

    def compute(self, inputs: Inputs) -> GeometryResult:
        run = inputs[self.run(inputs.model)]
        same = ~np.isfinite(run.scores(ARRAYS["offdiag_pre"]))
        if same.any():
            raise NotApplicableError(
                f"{inputs.model}: in {same.sum()} of {same.size} trials of an image all {self.passes} passes agree, "
                "and what does not vary has no geometry: more --passes, or a larger --dropout"
            )
        shared = self.dropout.shared_by_images
        how: dict[str, Any] = {"origins": run.origins, "shared_noise": shared, "seed": self.seed}

        def above(name: str) -> Estimate:
            return mean(run.scores(ARRAYS[name]) - run.scores(ARRAYS[f"{name}_floor"]), **how)

        return GeometryResult(
            means={name: mean(run.scores(score), **how) for name, score in ARRAYS.items()},
            correlations={
                name: trial_spearman(run.scores(one), run.scores(other), **how) for name, (one, other) in PAIRS.items()
            },
            above_floor={name: above(name) for name in COUPLED},
            eigenvalues=tuple(float(value) for value in run.eigenvalues(self.passes).mean(axis=(0, 1))),
        )

    def claims(self) -> Sequence[Claim[GeometryResult]]:
        """Dimensions that are coupled at all have more off-diagonal mass than independent ones of their variances."""
        return [
            Claim(
                f"coupled/{name}",
                lambda r, name=name: r.above_floor[name],  # type: ignore[misc]
                above=0.0,
                beside=lambda r, name=name: f"{r.means[name]} over a floor of {r.means[f'{name}_floor']}",  # type: ignore[misc]
            )
            for name in COUPLED
        ]

    def summary(self, result: GeometryResult) -> Mapping[str, Any]:
        flat: dict[str, Any] = {}
        for name, estimate in result.means.items():
            flat |= {f"{name}_mean": estimate.value, f"{name}_mean_ci": [estimate.low, estimate.high]}
        for name, estimate in result.correlations.items():
            flat |= {name: estimate.value, f"{name}_ci": [estimate.low, estimate.high]}
        return {**flat, "above_floor": result.above_floor, "top_eigenvalues_mean": list(result.eigenvalues)}

    def arrays(self, inputs: Inputs, result: GeometryResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        scores = {name: run.scores(score) for name, score in ARRAYS.items()}
        geometry = {"paths": np.array(run.ids), "eigenvalues": run.eigenvalues(self.passes), **scores}
        return {"exp0b_geometry_trials.npz": geometry}

    def title(self) -> str:
        return f"geometry of the passes (N={self.n}, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: GeometryResult) -> Sequence[Panel]:
        mass = {
            "measured": {name: result.means[name] for name in COUPLED},
            "independent dimensions": {name: result.means[f"{name}_floor"] for name in COUPLED},
        }
        agreement = {"within one trial": {name.removeprefix("corr_"): e for name, e in result.correlations.items()}}
        return (
            lambda axes: interval_panel(axes, mass, None, "off-diagonal mass (share) [95 %]", "measure"),
            lambda axes: interval_panel(axes, agreement, None, "Spearman's ρ [95 %]", "pair of scores"),
        )
