"""The published status of a score: a point rule on Spearman, SNR and ICC."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mcdo.errors import McdoError

_ROUNDING = 1e-9
Status = Literal["usable", "marginal", "failed", "insufficient_trials"]


@dataclass(frozen=True)
class Thresholds:
    """Usable: all three reached. Failed: ρ or SNR below its lower bound. Marginal: between."""

    usable_spearman: float = 0.80
    usable_snr: float = 2.0
    usable_icc: float = 0.75
    failed_spearman: float = 0.60
    failed_snr: float = 1.0


THRESHOLDS = Thresholds()


def status_of(spearman: float, snr: float, icc: float, thresholds: Thresholds = THRESHOLDS) -> Status:
    """The published status of three figures; bounds are inclusive on the better side.

    Raises:
        McdoError: for a correlation or an ICC beyond 1, such as one in per cent, and an SNR below 0.

    """
    for name, value, low, high in (("spearman", spearman, -1, 1), ("snr", snr, 0, math.inf), ("icc", icc, -1, 1)):
        if value < low - _ROUNDING or value > high + _ROUNDING:
            raise McdoError(f"{name} = {value:g}: it lies between {low} and {high}")
    if any(math.isnan(value) for value in (spearman, snr, icc)):
        return "insufficient_trials"
    if spearman < thresholds.failed_spearman or snr < thresholds.failed_snr:
        return "failed"
    reached = (
        spearman >= thresholds.usable_spearman and snr >= thresholds.usable_snr and icc >= thresholds.usable_icc
    )  # fmt: skip
    return "usable" if reached else "marginal"
