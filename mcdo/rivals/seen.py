"""What one deterministic pass of some images gives, and what a calibration set has taught."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Images that are not scored, and share no origin with those that are.

    Attributes:
        features: before normalisation, [M, D].
        labels: [M]; None where nobody labelled them.

    """

    features: Array
    labels: NDArray[np.int64] | None = None

    @cached_property
    def unit(self) -> Array:
        """Features at norm one, [M, D]."""
        from mcdo.encoders.zero_shot import unit

        return unit(self.features)


@dataclass(frozen=True, eq=False)
class Seen:
    """N images as a deterministic pass gives them.

    Attributes:
        features: before normalisation, [N, D].
        logits: of the zero-shot head, [N, C]; None without a text tower or class names.
        cosines: between images and class prompts, [N, C]; None likewise.
        loss: what the head was trained with.
        calibration: a fit's images; None where there are none to spare.

    """

    features: Array
    logits: Array | None = None
    cosines: Array | None = None
    loss: Literal["softmax", "sigmoid"] = "softmax"
    calibration: Calibration | None = field(default=None, repr=False)

    @cached_property
    def unit(self) -> Array:
        """Features at norm one, [N, D]."""
        from mcdo.encoders.zero_shot import unit

        return unit(self.features)
