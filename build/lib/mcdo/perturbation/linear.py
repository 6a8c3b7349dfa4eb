"""The linear part of a perturbation: what its own masks would do if the tower were linear.

The masks of a pass act in full on one tower, and by a small step on another: the difference between the two is what the
tower bends. To first order the variance of such passes, divided by the squared step, is the one that vector-Jacobian
products give, so it can serve as their control variate (:mod:`mcdo.estimators.multi_fidelity`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mcdo.errors import McdoError
from mcdo.perturbation.kinds import Dropout, Perturbation

STEP = 0.02
"""Small enough for the tower to be straight, large enough for float32 to see it."""


@dataclass(frozen=True, init=False)
class LinearPart(Perturbation):
    """The masks and the noise of ``of``, number for number, of which ``step`` is carried out, in float32.

    Variances of its passes are ``step`` squared times those of the linear part.
    """

    of: Perturbation = field(default_factory=Dropout)
    step: float = STEP

    def __init__(self, of: Perturbation, step: float = STEP) -> None:
        super().__init__(of.p, of.sites)
        if not 0 < step <= 1:
            raise McdoError(f"LinearPart step = {step!r}: it must be in (0, 1]")
        own = {"of": of, "step": float(step), "where": of.where, "together": of.together, "noise": of.noise}
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @property
    def rescaling(self) -> float:
        """As of the kind itself."""
        return self.of.rescaling

    @property
    def scale(self) -> float:
        """What kept units are multiplied by."""
        return 1 + self.step * (self.of.scale - 1)

    @property
    def shared_by_images(self) -> bool:
        """As of the kind itself."""
        return self.of.shared_by_images

    def at(self, *sites: str) -> LinearPart:
        """The linear part at these sites only."""
        return LinearPart(self.of.at(*sites), self.step)

    def with_p(self, p: float) -> LinearPart:
        """The linear part with another drop probability."""
        return LinearPart(self.of.with_p(p), self.step)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"kind": type(self).__name__, "of": self.of.as_dict(), "step": self.step}
