"""Kinds of perturbation: what is done to the output of a linear map, as frozen configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mcdo.errors import McdoError


@dataclass(frozen=True)
class Dropout:
    """Dropout on the output of linear maps: inverted scaling, every unit of every token on its own.

    Args:
        p: probability that a unit is zeroed, in [0, 1). The published value is 0.01.
        sites: ``"all"``, a group (``"mlp"``, ``"attention"``, ``"projection"``), a role (``"qkv"``, ...), a site name,
            or a sequence of these. ``"all"`` leaves out the patch embedding, which must be asked for.

    Raises:
        McdoError: if ``p`` is not a number in [0, 1), or ``sites`` is empty.

    """

    p: float = 0.01
    sites: str | tuple[str, ...] = "all"

    def __init__(self, p: float = 0.01, sites: str | Sequence[str] = "all") -> None:
        if isinstance(p, bool) or not isinstance(p, (int, float)) or not math.isfinite(p) or not 0 <= p < 1:
            raise McdoError(f"dropout p = {p!r}: it must be a number in [0, 1); the published value is 0.01")
        if not sites:
            raise McdoError("dropout sites are empty: name at least one, or say sites='all'")
        object.__setattr__(self, "p", float(p))
        object.__setattr__(self, "sites", sites if isinstance(sites, str) else tuple(sites))

    @property
    def scale(self) -> float:
        """What kept units are multiplied by, so that the mean is unchanged."""
        return 1.0 / (1.0 - self.p)
