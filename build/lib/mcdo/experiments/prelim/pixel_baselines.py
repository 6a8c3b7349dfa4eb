"""What the pictures alone say, without any model: their sharpness, and the entropy of their grey values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from PIL import Image

from mcdo.harness import Images, Session, StoredArrays
from mcdo.images import ImageSet

PIXELS = ("laplacian_variance", "grey_entropy")


@dataclass(frozen=True)
class PixelBaselines(StoredArrays):
    """The baselines that need the pictures only: ``laplacian_variance`` and ``grey_entropy``, float64 ``[N]``."""

    what = "pixel baselines"
    text = False

    shown: Images

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"images": session.image_set(self.shown).fingerprint}

    def compute(self, session: Session) -> dict[str, NDArray[Any]]:
        return pixel_baselines(session.image_set(self.shown))


def laplacian_variance(image: Image.Image) -> float:
    """Variance over pixels of the Laplacian (5-point, edges repeated) of the grey picture in [0, 1]: its sharpness."""
    grey = np.asarray(image.convert("L"), dtype=np.float64) / 255
    return float(scipy.ndimage.laplace(grey, mode="nearest").var())


def grey_entropy(image: Image.Image) -> float:
    """Entropy in bits of the histogram of the 256 grey values (Shannon 1948)."""
    return float(image.convert("L").entropy())


def pixel_baselines(images: ImageSet) -> dict[str, NDArray[Any]]:
    """The baselines that need the pictures only, each [N], at native resolution."""
    pairs = [(laplacian_variance(image), grey_entropy(image)) for image in images]
    return dict(zip(PIXELS, np.array(pairs).T, strict=True))
