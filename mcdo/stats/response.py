"""How does a score respond to damage of known severity, and which severity does a score amount to?

The mean score at each severity is fitted by the nearest non-decreasing curve (isotonic regression) and read backwards:
"this image is as uncertain as a blur of r". Backwards reading is refused where the measured response is
not a rise: where some stronger damage has a reliably lower score than a weaker one, or where nothing reliably rises. An
isotonic curve alone would hide both.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import Array, finite, numbers
from mcdo.stats.resampling import Estimate, Origins, holm, percentile_estimate
from mcdo.stats.sample import Sample

Shape = Literal["rising", "flat", "not monotone"]


@dataclass(frozen=True, eq=False)
class ResponseCurve:
    """What :func:`response_curve` found.

    Attributes:
        severities: ascending, the first is 0: the clean image.
        measured: mean score at each severity.
        fitted: its non-decreasing fit, one value per severity.
        rise: mean score at the strongest severity less that of the clean image.
        shape: "rising"; "not monotone" where a stronger damage scores lower (Holm over all pairs of severities, one
            minus ``level``); otherwise "flat".
        reason: why it is not rising; empty where it is.

    """

    severities: tuple[float, ...]
    measured: tuple[Estimate, ...]
    fitted: tuple[Estimate, ...]
    rise: Estimate
    shape: Shape
    reason: str
    _draws: Array = field(repr=False)

    def inverse(self, scores: ArrayLike) -> Array:
        """The severity whose fitted score is each of ``scores``: 0 at or below the clean score, inf above the largest.

        Linear between severities; on a flat piece the smallest severity that reaches the score.

        Raises:
            McdoError: where the response is not a rise, with the reason.

        """
        self._check_rising()
        return _inverse(np.array([e.value for e in self.fitted]), self.severities, numbers("scores", scores))

    def equivalent(self, score: float) -> Estimate:
        """:meth:`inverse` of one score with the interval that the curve's own uncertainty leaves.

        Raises:
            McdoError: where the response is not a rise, with the reason.

        """
        value = float(self.inverse([score])[0])
        drawn = np.array([_inverse(draw, self.severities, np.array([score]))[0] for draw in self._draws])
        return percentile_estimate(value, drawn, self.rise.n, self.rise.level)

    def _check_rising(self) -> None:
        if self.shape != "rising":
            raise McdoError(f"the response is {self.shape}: {self.reason}; no severity can be read from it")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "severities": list(self.severities),
            "measured": [e.as_dict() for e in self.measured],
            "fitted": [e.as_dict() for e in self.fitted],
            "rise": self.rise.as_dict(),
            "shape": self.shape,
            "reason": self.reason,
        }


def response_curve(
    severities: Sequence[float],
    scores: ArrayLike,
    *,
    origins: Origins | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
    logarithms: bool = False,
) -> ResponseCurve:
    """The curve of ``scores`` [S, N]: N images, each at every one of S severities, the first of which is 0.

    ``logarithms``: they are logarithms of scores, so a fall in them is told as that of the scores.

    Intervals: percentile bootstrap over origins, the isotonic fit repeated in each resample.

    Raises:
        McdoError: for severities that do not ascend from 0, or scores of another shape.

    """
    x, y = checked(severities, scores)
    sample = Sample(y.shape[1], origins, seed, resamples, level)
    means, drawn = sample.both(lambda weights: weights @ y.T / weights.sum(axis=1, keepdims=True))
    fit, fits = _isotonic(means[None])[0], _isotonic(drawn)
    rise = sample.estimate(means[-1] - means[0], drawn[:, -1] - drawn[:, 0])
    shape, reason = _shape(x, means, drawn, rise, logarithms, sample)
    return ResponseCurve(
        severities=x,
        measured=tuple(sample.estimate(mean, drawn[:, i]) for i, mean in enumerate(means)),
        fitted=tuple(sample.estimate(value, fits[:, i]) for i, value in enumerate(fit)),
        rise=rise,
        shape=shape,
        reason=reason,
        _draws=fits,
    )


def checked(severities: ArrayLike, scores: ArrayLike) -> tuple[tuple[float, ...], Array]:
    """The S severities and the scores [S, N], or McdoError as of :func:`response_curve`."""
    at, y = numbers("severities", severities), numbers("scores", scores)
    if at.ndim != 1 or y.ndim != 2 or len(y) != len(at) or len(at) < 2 or y.shape[1] < 3:
        raise McdoError(
            f"scores have shape {list(y.shape)} for severities {list(at.shape)}; give [S, N] for [S], S >= 2, N >= 3"
        )
    x = tuple(at.tolist())
    if x[0] != 0 or not all(a < b < math.inf for a, b in itertools.pairwise(x)):
        raise McdoError(f"severities {list(x)}: they must ascend from 0, the clean image")
    finite("scores", y, ("severity", "image"))
    return x, y


def _isotonic(rows: Array) -> Array:
    """The nearest non-decreasing row to each of ``rows`` [R, S]: max over a <= i of min over b >= i of mean(a…b).

    The max-min formula (Robertson, Wright & Dykstra 1988), because scikit-learn's fit of one row at a time takes a
    thousand times longer than a resample; the tests compare the two.
    """
    S = rows.shape[1]
    sums = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(rows, axis=1)], axis=1)
    fitted = np.empty_like(rows)
    for i in range(S):
        lowest = [
            ((sums[:, i + 1 :] - sums[:, a, None]) / np.arange(i + 1 - a, S + 1 - a)).min(axis=1) for a in range(i + 1)
        ]
        fitted[:, i] = np.max(lowest, axis=0)
    return np.asarray(np.maximum.accumulate(fitted, axis=1))


def _shape(
    x: tuple[float, ...], means: Array, drawn: Array, rise: Estimate, logarithms: bool, sample: Sample
) -> tuple[Shape, str]:
    if rise.reason:
        return "flat", rise.reason
    pairs = list(itertools.combinations(range(len(x)), 2))
    p = holm([sample.inferred(means[j] - means[i], drawn[:, j] - drawn[:, i]).p_value for i, j in pairs])
    falls = [(i, j) for (i, j), at in zip(pairs, p, strict=True) if means[j] < means[i] and at < 1 - rise.level]
    if falls:
        i, j = max(falls, key=lambda pair: means[pair[0]] - means[pair[1]])
        ratio = math.exp(means[j] - means[i]) if logarithms else means[j] / means[i] if means[i] else math.nan
        said = f" ({ratio - 1:+.0%})" if math.isfinite(ratio) else ""
        return "not monotone", f"the mean score falls from severity {x[i]:g} to {x[j]:g}{said}"
    if rise.outcome(0, ">") != "met":
        return "flat", f"no reliable rise from the clean image to severity {x[-1]:g}"
    return "rising", ""


def _inverse(fitted: Array, severities: Sequence[float], scores: Array) -> Array:
    """Linear between the severities of a non-decreasing curve; the first of several that have exactly the score."""
    x = np.asarray(severities, dtype=np.float64)
    first = np.searchsorted(fitted, scores).clip(max=len(x) - 1)
    found = np.where(fitted[first] == scores, x[first], np.interp(scores, fitted, x))
    return np.asarray(np.where(scores > fitted[-1], math.inf, np.where(scores <= fitted[0], 0.0, found)))
