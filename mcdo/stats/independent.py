"""Do two estimates from separate samples differ? The interval of their difference from their own two intervals.

The interval is recovered from those of the two estimates, which need be neither symmetric nor of one kind (MOVER;
Zou & Donner 2008, Stat. Med. 27:1693): l = d − √((a − l_a)² + (u_b − b)²) and u = d + √((u_a − a)² + (b − l_b)²).
"""

from __future__ import annotations

import math

import scipy

from mcdo.errors import McdoError
from mcdo.stats.resampling import Estimate
from mcdo.stats.sample import Inferred


def difference(first: Estimate, second: Estimate) -> Inferred:
    """``first`` less ``second``, estimated on samples that share nothing.

    n is the smaller of the two. The error of the test of "no difference" is that of the arms which point at zero, over
    the normal quantile of the level. Undefined where an estimate or its interval is.

    Raises:
        McdoError: if the two levels differ.

    """
    if first.level != second.level:
        raise McdoError(f"intervals at levels {first.level} and {second.level} cannot be compared")
    value = first.value - second.value
    below = math.hypot(_arm(first.value - first.low), _arm(second.high - second.value))
    above = math.hypot(_arm(first.high - first.value), _arm(second.value - second.low))
    estimate = Estimate(value, value - below, value + above, min(first.n, second.n), first.level)
    arm = below if value > 0 else above
    return Inferred(estimate, arm / float(scipy.special.ndtri((1 + first.level) / 2)))


def _arm(length: float) -> float:
    """An interval need not hold its own estimate (BCa, corrected figures): such an arm is as long as none."""
    return max(length, 0.0) if not math.isnan(length) else math.nan
