"""Does the mean over passes tend to the deterministic feature? A fit with a bias, instead of a bare slope.

With x̄ the mean of T passes and x the deterministic feature, r(T) = ‖x̄ − x‖/‖x‖. Passes are independent, so
E r(T)² = b² + c/T exactly: c is the trace of the covariance over ‖x‖², and b the relative bias of the perturbed mean,
which no number of passes removes. A straight line through log r against log T has slope −1/2 only where b = 0; with a
bias its slope is anything between −1/2 and 0, depending on which T were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, finite, numbers
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.sample import Sample


@dataclass(frozen=True)
class MeanBias:
    """What :func:`mean_bias` found.

    Attributes:
        bias: b, the square root of ``bias_squared`` where that is positive, else 0.
        bias_squared: b² as fitted; sampling noise can make it negative, so its interval can hold 0.
        noise: c.
        slope: bare slope of log mean r on log T, for comparison.
        rms: measured √(mean r²) by T.
        fitted: √(b² + c/T) by T; NaN where the fit is negative.

    """

    bias: Estimate
    bias_squared: Estimate
    noise: Estimate
    slope: Estimate
    rms: Mapping[int, Estimate]
    fitted: Mapping[int, float]

    def noise_share(self, passes: int) -> float:
        """The share of r² at T that is sampling noise, (c/T)/(b² + c/T): what more passes can still remove."""
        left = max(0.0, self.noise.value) / passes
        total = max(0.0, self.bias_squared.value) + left
        return left / total if total > 0 else math.nan

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "bias": self.bias.as_dict(),
            "bias_squared": self.bias_squared.as_dict(),
            "noise": self.noise.as_dict(),
            "bare_slope": self.slope.as_dict(),
            "rms_by_T": {str(t): e.as_dict() for t, e in self.rms.items()},
            "fitted_by_T": {str(t): value if math.isfinite(value) else None for t, value in self.fitted.items()},
        }


def mean_bias(
    shift: ArrayLike,
    passes: Sequence[int],
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> MeanBias:
    """Fit r² = b² + c/T to ``shift`` [len(passes), K, N], r of K trials on N images at each T.

    r² is averaged over trials and images; least squares weighted by the inverse of each T's variance over images. The
    interval is a percentile bootstrap over origins, so it holds for nested T, which share passes.

    Raises:
        McdoError: for fewer than two different T (three are needed to see a misfit), or negative shifts.

    """
    r, T = numbers("shift", shift), np.asarray(passes, dtype=np.float64)
    if r.ndim != 3 or r.shape[0] != len(T) or len(np.unique(T)) < 2 or len(np.unique(T)) != len(T) or r.shape[2] < 3:
        raise McdoError(
            f"shift has shape {list(r.shape)} for T = {list(passes)}; give [T, K, N] for at least 2 different T, N >= 3"
        )
    finite("shift", r, ("T", "trial", "image"))
    if (r < 0).any() or (T < 1).any():
        raise McdoError("shift holds a negative distance, or a T below 1")
    sample = Sample(r.shape[2], origins, seed, resamples, level)
    squares, plain = np.square(r).mean(axis=1), r.mean(axis=1)
    solve = _solver(squares, T)

    def figures(weights: Array) -> Array:
        """b, b², c and the bare slope, then the root mean square at each T."""
        total = weights.sum(axis=1, keepdims=True)
        mean = weights @ squares.T / total
        fit = mean @ solve
        slope = _slope(weights @ plain.T / total, T)
        return np.column_stack([np.sqrt(fit[:, 0].clip(0)), fit, slope, np.sqrt(mean)])

    whole, draws = sample.both(figures)
    bias, squared, noise, slope, *rms = (sample.estimate(value, draws[:, i]) for i, value in enumerate(whole))
    return MeanBias(
        bias=bias,
        bias_squared=squared,
        noise=noise,
        slope=slope,
        rms={int(t): estimate for t, estimate in zip(T, rms, strict=True)},
        fitted={int(t): math.sqrt(v) if (v := squared.value + noise.value / t) >= 0 else math.nan for t in T},
    )


def _solver(squares: Array, T: Array) -> Array:
    """[T, 2], so that (mean squares [.., T]) @ it gives (b², c): weighted least squares on 1/T."""
    spread = squares.var(axis=1, ddof=1)
    weights = 1 / np.sqrt(spread) if (spread > 0).all() else np.ones(len(T))
    design = np.stack([np.ones_like(T), 1 / T], axis=1)
    return np.asarray((np.linalg.pinv(design * weights[:, None]) * weights).T)


def _slope(mean: Array, T: Array) -> Array:
    """Least-squares slope of log ``mean`` [R, T] on log T; NaN where a mean is 0."""
    x = np.log(T) - np.log(T).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.log(mean) @ x / (x @ x))
