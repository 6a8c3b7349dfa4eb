"""Confidence limits of a figure at every level, so that an interval, a p and a corrected decision agree.

A confidence distribution (Xie & Singh 2013) gives for every bar the confidence that the figure lies below it. Here it
is put together from what could have come out differently:

- the images: errors near Student's t on a working scale (log for SNR, Fisher's z for ρ), each arm with its own
  standard error;
- the trials, where images of one trial share a part of their noise. That part is a variance from K − 1 degrees of
  freedom, so the noise may be larger by 1 + share · ((K − 1)/χ² − 1). What trials do to the *signal* is another t.

Arms join in quadrature (method of variance estimates recovery: Graybill & Wang 1980, Zou & Donner 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import scipy

_SMALLEST = 1e-9  # p below it are not told apart
_LARGEST_LOG = 700.0  # exp of more is no float


@dataclass(frozen=True)
class Confidence:
    """Confidence limits of one figure.

    Attributes:
        centre: the estimate on the working scale.
        below, above: standard error of the arm on either side.
        freedom: degrees of freedom of Student's t for both.
        scale: working scale: "log" of a ratio signal/noise, or Fisher's "z" of a correlation.
        trials: K.
        shared: share of the noise that images of one trial have in common; 0: none.
        signal: variance of the centre over trials that does not come from the noise's size.

    """

    centre: float
    below: float
    above: float
    freedom: float
    scale: Literal["log", "z"]
    trials: int
    shared: float = 0.0
    signal: float = 0.0

    def lower(self, confidence: float) -> float:
        """The figure lies above this with one-sided ``confidence`` >= 1/2."""
        return self._figure(self.centre - self._reach(confidence, down=True))

    def upper(self, confidence: float) -> float:
        """The figure lies below this with one-sided ``confidence`` >= 1/2."""
        return self._figure(self.centre + self._reach(confidence, down=False))

    def interval(self, level: float) -> tuple[float, float]:
        """Equal-tailed interval at ``level``."""
        return self.lower((1 + level) / 2), self.upper((1 + level) / 2)

    def p(self, bar: float) -> float:
        """One-sided p of "the figure is at most ``bar``"; small where it lies above. NaN where undefined.

        The share at which the limit just reaches the bar, so p < α exactly where ``lower(1 − α) > bar``.
        """
        if math.isnan(self.centre):
            return math.nan
        if self._figure(self.centre) > bar:
            return self._crossing(lambda p: self.lower(1 - p) - bar)
        return 1 - self._crossing(lambda p: bar - self.upper(1 - p))

    def _crossing(self, clearance: Callable[[float], float]) -> float:
        """The p in (0, 1/2] at which ``clearance``, which grows with p, turns positive."""
        if clearance(0.5) <= 0:
            return 0.5
        if clearance(_SMALLEST) > 0:
            return _SMALLEST
        root: float = scipy.optimize.brentq(
            lambda x: clearance(math.exp(x)), math.log(_SMALLEST), math.log(0.5), rtol=1e-6
        )
        return math.exp(root)

    def _reach(self, confidence: float, *, down: bool) -> float:
        t = float(scipy.special.stdtrit(self.freedom, confidence))
        images = (self.below if down else self.above) * t if t > 0 else 0.0  # an unbounded arm times t = 0 would be NaN
        if not self.shared and not self.signal:
            return images
        freedom = self.trials - 1
        chi = float(scipy.special.chdtri(freedom, confidence if down else 1 - confidence))
        factor = max(1 + self.shared * (freedom / chi - 1), _SMALLEST)
        noise = max(0.0, -self._moved(factor, 0.0) if down else self._moved(factor, self.shared / self.trials))
        signal = math.sqrt(self.signal) * float(scipy.special.stdtrit(freedom, confidence))
        return math.hypot(images, noise, signal)

    def _moved(self, factor: float, signal: float) -> float:
        """How far the centre moves when the noise is ``factor`` times as large, and the signal has ``signal`` more.

        ρ moves as if its odds ρ/(1 − ρ) were the signal in units of the noise. Where trials happen to lie far apart,
        their common part has lowered the covariances between them by its variance over K: ``signal`` gives it back.
        """
        if self.scale == "log":
            return -math.log(factor)
        rho = math.tanh(self.centre)
        odds = (rho / (1 - rho) + signal) / factor if rho < 1 else math.inf
        return math.atanh(odds / (1 + odds)) - self.centre if 0 < odds < math.inf else 0.0

    def _figure(self, working: float) -> float:
        if self.scale == "z":
            return math.tanh(working)
        return math.exp(working) if working < _LARGEST_LOG or math.isnan(working) else math.inf
