"""Means where origins are few, and paired differences of means: Student's t over origins.

The percentile bootstrap of :func:`~mcdo.stats.mean` is too short there: with ten normal origins it covers .88 for 95 %.
The mean over images is a ratio, the sum over all origins divided by their number of images; its error is that of the
delete-one-origin jackknife (Tukey 1958),

    V = (n − 1)/n Σ_u (s_u − m_u ȳ)² / (N − m_u)²

for n origins u with the sum s_u over m_u of the N images, and the critical value is Student's at one degree of freedom
less than Kish's number of origins, N²/Σ m² (1965); where every image is an origin of its own this is the ordinary t
interval. The linearised error of a ratio, with N² below (Cochran, *Sampling Techniques*, 1977, ch. 6 and 9A), all but
vanishes where one origin has most images and the mean is its own: it covered .23 there. Coverage of 95 % in simulation
(2000 data sets each) for 6, 12 and 50 origins: normal .95, .95, .96; log-normal with sd .5 of the logarithm .92, .93,
.94; origins of 1 to 9 images whose values go with their size .95, .95, .94; one origin of 60 images
beside 19 of one each 1.00.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo.stats._checks import Array, images, of_order_one
from mcdo.stats.comparison import Difference, differences, others_than
from mcdo.stats.resampling import Estimate, Origins, Units, check_resampling
from mcdo.stats.sample import Inferred


def t_mean(values: ArrayLike, *, origins: Origins | None = None, level: float = 0.95) -> Estimate:
    """Mean of ``values`` [N], N >= 2, with Student's interval over the origins."""
    (held,) = images(2, values=values)
    return t_inferred(held, Units.of(origins, len(held)), level).estimate


def mean_differences(
    values: Mapping[str, ArrayLike], reference: str, *, origins: Origins | None = None, level: float = 0.95
) -> dict[str, Difference]:
    """Mean of every other one of ``values`` ([N] each, of the same images) less that of ``reference``, paired.

    p by the same t; no difference in any image has p = 1. Holm runs over the call.

    Raises:
        McdoError: for an unknown reference, or nothing to compare with it.

    """
    others = others_than(values, reference)
    held = dict(zip(values, images(2, **values), strict=True))
    units = Units.of(origins, len(held[reference]))
    return differences(others, [t_inferred(held[name] - held[reference], units, level) for name in others])


def t_inferred(values: Array, units: Units, level: float = 0.95) -> Inferred:
    """The mean of ``values`` [N] with its interval, and the error and degrees of freedom behind it."""
    check_resampling(1, level)
    n, N = units.n, len(values)
    # relative to the first value, so that equal values have exactly no spread
    shifted = values - values[0]
    centre = float(shifted.mean())
    sums = np.bincount(units.members, shifted - centre, n)
    moved = sums / (N - np.bincount(units.members, minlength=n))  # the mean, by leaving each origin out
    moved, exponent = of_order_one(moved)
    error = math.ldexp(math.sqrt((n - 1) / n * float(moved @ moved)), exponent)
    freedom = max(1.0, units.effective - 1)
    value = float(values[0]) + centre
    reach = error * float(scipy.special.stdtrit(freedom, (1 + level) / 2))
    return Inferred(Estimate(value, value - reach, value + reach, n, level), error, freedom)
