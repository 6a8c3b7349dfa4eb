"""What is taken from each image, once: the pre-norm feature, and the three pixel statistics behind the subtasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.images import ImageSet
from mcdo.images.threads import for_each

Floats = NDArray[np.float64]
_ROWS = 256


@dataclass(frozen=True, eq=False)
class Observed:
    """``features`` float32 [N, D]; ``grey`` and ``variance`` float64 [N] of the grey picture; ``edges`` float64 [N]."""

    features: NDArray[np.float32]
    grey: Floats
    variance: Floats
    edges: Floats


def pixel_statistics(image: Image.Image, edge_threshold: int) -> tuple[float, float, float]:
    """Mean grey (0–255), variance of grey, and the number of pixels whose FIND_EDGES response exceeds the threshold.

    The document filters the picture as it is; here the grey one, so that an edge is counted once, not per channel.
    Pillow copies the outermost pixels unfiltered, so they are left out: a bright border is no edge.
    """
    grey = image.convert("L")
    values = np.asarray(grey, dtype=np.float64)
    edges = np.asarray(grey.filter(ImageFilter.FIND_EDGES))
    return float(values.mean()), float(values.var()), float((edges[1:-1, 1:-1] > edge_threshold).sum())


def observe(encoder: Encoder, images: ImageSet, shown: ImageSet, edge_threshold: int) -> Observed:
    """Pixel statistics of ``images`` and features of the same as ``shown`` to the encoder.

    Raises McdoError when a feature is not finite, an image is not what its set was made of, or the ids differ.
    """
    if images.ids != shown.ids:
        raise McdoError(f"{images.name}: the images shown to the encoder are others than those that are labelled")
    pixels: dict[int, Tensor] = {}

    def one(i: int) -> tuple[float, float, float]:
        image = images.image(i)
        pixels[i] = encoder.to_uint8(image if shown is images else shown.image(i))
        return pixel_statistics(image, edge_threshold)

    features, statistics = [], []
    for start in range(0, len(images), _ROWS):  # block by block: 10 000 pictures at 336 px would take 3 GB
        pixels.clear()
        block = range(start, min(start + _ROWS, len(images)))
        statistics += for_each(lambda j, block=block: one(block[j]), len(block), images.name)  # type: ignore[misc]
        with torch.inference_mode():
            batch = encoder.normalise(torch.stack([pixels[i] for i in block]))
            features.append(encoder.forward_image(batch).float().cpu().numpy())
    grey, variance, edges = np.array(statistics, dtype=np.float64).T
    whole = np.concatenate(features)
    bad = np.flatnonzero(~np.isfinite(whole).all(axis=1))
    if len(bad):
        raise McdoError(f"{encoder.key}: the feature of {images.ids[bad[0]]} is not finite ({len(bad)} such images)")
    return Observed(whole, grey.copy(), variance.copy(), edges.copy())
