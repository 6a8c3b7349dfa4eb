"""Captions that need the image: a digit's class, and its stroke, brightness and tilt as measured on its pixels.

"a thin dark seven , tilted left". The class is the digit's label; the other words say in which part of the training
digits a measured property lies (thirds for stroke and tilt, halves for brightness), so nobody judged them by eye and
the words follow a variant of an image, such as a rotated one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images.digits import CLASS_NAMES, training_split

STROKES = ("thin", "medium", "thick")
LIGHTS = ("dark", "bright")
TILTS = ("tilted left", "upright", "tilted right")


@dataclass(frozen=True)
class Properties:
    """Measured on one digit.

    ``stroke`` is the width of the line in pixels, ``light`` the mean grey of the inked pixels in 0…255, ``tilt`` the
    horizontal shift per pixel of height, positive where the top leans to the right.
    """

    stroke: float
    light: float
    tilt: float


def measure(grey: NDArray[np.uint8]) -> Properties:
    """Properties of a bright digit on a dark ground, uint8 [H, W].

    Ink is what is at least half as bright as the brightest pixel. A line of width w has a mean distance to its
    outside of w/4, hence the factor of stroke; tilt is the slope that deskewing takes out, -cov(x, y)/var(y) with y
    downwards and brightness as weight.

    Raises:
        McdoError: for a picture with no ink, or with all of it in one row.

    """
    ink = grey >= max(1.0, float(grey.max()) / 2)
    if not ink.any() or not np.ptp(np.nonzero(ink)[0]):
        raise McdoError("the picture holds no bright digit on a dark ground; give one of mcdo's digits")
    weight = np.where(ink, grey, 0).astype(np.float64)
    down, across = np.indices(grey.shape)
    y, x = down - np.average(down, weights=weight), across - np.average(across, weights=weight)
    slope = float((weight * x * y).sum() / (weight * y * y).sum())
    stroke = 4 * float(scipy.ndimage.distance_transform_edt(np.pad(ink, 1))[1:-1, 1:-1][ink].mean())
    return Properties(stroke, float(grey[ink].mean()), -slope)


@dataclass(frozen=True)
class Bounds:
    """Where one word gives way to the next: strokes and tilts at thirds, lights at the median."""

    stroke: tuple[float, float]
    light: float
    tilt: tuple[float, float]

    def words(self, properties: Properties) -> tuple[str, str, str]:
        """Words for stroke, light and tilt; a value on a bound takes the higher word."""
        return (
            STROKES[int(np.searchsorted(self.stroke, properties.stroke, side="right"))],
            LIGHTS[int(properties.light >= self.light)],
            TILTS[int(np.searchsorted(self.tilt, properties.tilt, side="right"))],
        )


@lru_cache(maxsize=1)
def bounds() -> Bounds:
    """Thirds and median of the 1197 training digits; the held-out ones have no part in it."""
    every = [measure(grey) for grey in training_split()[0]]
    stroke, tilt = (np.quantile([getattr(p, name) for p in every], [1 / 3, 2 / 3]) for name in ("stroke", "tilt"))
    light = float(np.median([p.light for p in every]))
    return Bounds((float(stroke[0]), float(stroke[1])), light, (float(tilt[0]), float(tilt[1])))


def caption(image: Image.Image, label: int) -> str:
    """The caption of a digit."""
    stroke, light, tilt = bounds().words(measure(np.asarray(image.convert("L"))))
    return f"a {stroke} {light} {CLASS_NAMES[label]} , {tilt}"
