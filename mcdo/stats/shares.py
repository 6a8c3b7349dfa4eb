"""A share of images with an interval: Wilson's where each image is a draw, by effective size where origins are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mcdo.stats._checks import flags, images
from mcdo.stats.resampling import Estimate, Origins, Units, check_resampling


def share(values: ArrayLike, *, origins: Origins | None = None, level: float = 0.95) -> Estimate:
    """The share of ones among 0/1 ``values`` [N], with Wilson's score interval (1927) at the effective sample size.

    The effective size is p(1 − p)/V with the variance of the share as its origins show it, the ratio estimator's
    V = Σ_u (s_u − m_u p)²/N² for origin u with s_u ones among m_u images (Korn & Graubard 1998 on the effective size,
    Dean & Pagano 2015 on Wilson's interval with it). It is at most N, and N where each image is its own origin. Where
    all values agree V says nothing, and the size is the number of origins.
    """
    held = flags("values", images(1, values=values)[0]).astype(np.float64)
    units = Units.of(origins, len(held))
    p, sizes = float(held.mean()), np.bincount(units.members, minlength=units.n)
    variance = float((np.square(np.bincount(units.members, held, units.n) - sizes * p)).sum()) / len(held) ** 2
    effective = min(len(held), p * (1 - p) / variance) if 0 < p < 1 and variance > 0 else units.n
    low, high = _wilson(p, effective, level)
    return Estimate(p, low, high, units.n, level)


def _wilson(p: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's interval for a share of ``n`` draws, which need not be whole: SciPy's takes whole ones only."""
    check_resampling(1, level)
    z2 = float(special.ndtri((1 + level) / 2)) ** 2
    centre, half = p + z2 / (2 * n), np.sqrt(z2 * (p * (1 - p) + z2 / (4 * n)) / n)
    low, high = (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)
    return (0.0 if p == 0 else float(low)), (1.0 if p == 1 else float(high))
