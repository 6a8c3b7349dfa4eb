"""A mean over images with its interval."""

from __future__ import annotations

from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.stats._checks import finite, numbers
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.sample import Sample


def mean(
    values: ArrayLike, *, origins: Origins | None = None, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Estimate:
    """The mean of ``values`` [N], or of [K, N] for K trials, N >= 2, with the percentile bootstrap over origins.

    Every image counts once, so an origin with more images counts more. What trials share over images (common masks,
    first-order probes) is outside of the interval.
    """
    held = numbers("values", values)
    if held.ndim not in (1, 2) or held.shape[-1] < 2:
        raise McdoError(f"values have shape {list(held.shape)}; give [N] or [K, N], N >= 2 images")
    finite("values", held, ("trial", "image")[-held.ndim :])
    by_image = held.reshape(-1, held.shape[-1]).mean(axis=0)
    sample = Sample(len(by_image), origins, seed, resamples, level)
    whole, draws = sample.both(lambda weights: (weights @ by_image / weights.sum(axis=1))[:, None])
    return sample.estimate(whole[0], draws[:, 0])
