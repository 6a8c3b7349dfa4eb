"""Preliminary investigation: does the mean over passes converge on the deterministic feature, or on something else?

r(T) = ‖mean_t x_t − x‖/‖x‖ is fitted as √(b² + c/T), b being the bias that no number of passes removes. The noise term
is known without the fit: c = D · trace_pre/‖x‖². The published reading took the bare slope of log r on log T, which is
−1/2 without a bias and anything up to 0 with one; it stands beside the fit as a warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.estimators import MonteCarloConfig
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Passes, View
from mcdo.report.figures import Panel
from mcdo.stats import Estimate, MeanBias, mean, mean_bias

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLOPE = -0.5
SLOPE_TOLERANCE = 0.05
"""What the published reading expects of a mean that converges."""


@dataclass(frozen=True)
class MeanConvergenceResult:
    """What the mean over passes tends to.

    Attributes:
        fit: of r² = b² + c/T.
        predicted_noise: c as the trace predicts it.
        direct_bias_squared: b² without a fit, r² − c/T at the largest T.
        distances: statistics of r, by T.

    """

    fit: MeanBias
    predicted_noise: Estimate
    direct_bias_squared: Estimate
    distances: Mapping[int, Mapping[str, float]]


@dataclass(frozen=True)
class MeanConvergence(Experiment[MeanConvergenceResult]):
    """N images, K trials, nested T."""

    key = "prelim_mean_convergence"
    name = "prelim_mean_convergence"
    phase = "prelim"
    files = Files.of_each("prelim_mean_convergence", "prelim_mean_convergence")
    quick = {"n": 100, "passes": (4, 8, 16, 32)}

    n: int = 500
    passes: tuple[int, ...] = (4, 8, 16, 32, 64)
    trials: int = 3

    def run(self, model: str) -> Passes:
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, self.passes, self.trials, self.seed))

    def requests(self, about: View) -> Iterable[Passes]:
        return (self.run(about.model),)

    def shifts(self, inputs: Inputs) -> NDArray[np.float64]:
        """r, ``[T, K, N]``."""
        run = inputs[self.run(inputs.model)]
        return np.stack([run.scores("mean_shift", t) for t in self.passes])

    def compute(self, inputs: Inputs) -> MeanConvergenceResult:
        run, r, last = inputs[self.run(inputs.model)], self.shifts(inputs), self.passes[-1]
        noise = run.features.shape[1] * run.scores("trace_pre_relative", last)
        sampling: dict[str, Any] = {"origins": run.origins, "seed": self.seed}
        return MeanConvergenceResult(
            fit=mean_bias(r, self.passes, **sampling),
            predicted_noise=mean(noise, **sampling),
            direct_bias_squared=mean(np.square(r[-1]) - noise / last, **sampling),
            distances={t: _statistics(r[i]) for i, t in enumerate(self.passes)},
        )

    def claims(self) -> Sequence[Claim[MeanConvergenceResult]]:
        return [
            # the interval of b lies above 0 exactly where that of b² does
            Claim("bias", lambda r: r.fit.bias, above=0.0, beside=self._beside_bias),
            Claim(
                "slope",
                lambda r: r.fit.slope,
                within=(SLOPE - SLOPE_TOLERANCE, SLOPE + SLOPE_TOLERANCE),
                beside=lambda r: f"bias {r.fit.bias.value:.4f}",
            ),
        ]

    def _beside_bias(self, result: MeanConvergenceResult) -> str:
        bias, share = result.fit.bias, result.fit.noise_share(self.passes[-1])
        return (
            f"b = {bias.value:.4f} [{bias.low:.4f}, {bias.high:.4f}]; at the largest T {share:.0%} of r² is noise that "
            "more passes remove"
        )

    def summary(self, result: MeanConvergenceResult) -> Mapping[str, Any]:
        return {
            **result.fit.as_dict(),
            "noise_predicted_by_the_trace": result.predicted_noise,
            "bias_squared_without_a_fit": result.direct_bias_squared,
            "share_of_noise_by_T": {str(t): result.fit.noise_share(t) for t in self.passes},
            "distances_by_T": {str(t): statistics for t, statistics in result.distances.items()},
        }

    def arrays(self, inputs: Inputs, result: MeanConvergenceResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        r = self.shifts(inputs)
        return {
            "{}/prelim_mean_convergence.npz": {
                "paths": np.array(inputs.images(Images(self.n)).ids),
                "passes": np.array(self.passes),
                **{f"rel_dist_T{t}": r[i] for i, t in enumerate(self.passes)},
            }
        }

    def title(self) -> str:
        return f"convergence of the mean (N={self.n}, K={self.trials}, p={self.dropout.p:g})"

    def panels(self, inputs: Inputs, result: MeanConvergenceResult) -> Sequence[Panel]:
        return (lambda axes: _draw(axes, result.fit, self.passes),)


def _statistics(r: NDArray[np.float64]) -> dict[str, float]:
    return {
        "rel_dist_mean": float(r.mean()),
        "rel_dist_median": float(np.median(r)),
        "rel_dist_std": float(r.std(ddof=1)),
        "rel_dist_q95": float(np.quantile(r, 0.95)),
        "rel_dist_max": float(r.max()),
    }


def _draw(axes: Axes, fit: MeanBias, passes: tuple[int, ...]) -> None:
    """R by T with the fit, its floor b, and the straight line of slope −1/2 that would have no floor."""
    T = np.array(passes, dtype=np.float64)
    rms = np.array([e.value for e in fit.rms.values()])
    arms = np.array([[e.value - e.low, e.high - e.value] for e in fit.rms.values()]).T.clip(0)
    axes.errorbar(T, rms, yerr=arms, fmt="o", capsize=3, label="measured, root mean square [95 %]")
    grid = np.geomspace(T[0], 16 * T[-1], 200)
    b2, c = fit.bias_squared.value, fit.noise.value
    axes.plot(grid, np.sqrt(np.clip(b2 + c / grid, 1e-300, None)), label="√(b² + c/T)")
    axes.set_title(f"slope of a straight line: {fit.slope}")
    axes.plot(grid, rms[0] * np.sqrt(T[0] / grid), ":", label="slope −1/2: no bias")
    axes.axhline(fit.bias.value, color="black", linestyle="--", linewidth=1, label=f"bias b = {fit.bias.value:.4f}")
    axes.axhspan(fit.bias.low, fit.bias.high, color="black", alpha=0.1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("passes T")
    axes.set_ylabel("‖mean − deterministic‖ / ‖deterministic‖")
    axes.legend()
