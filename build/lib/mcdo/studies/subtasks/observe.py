"""What is taken from each image, once: the pre-norm feature, and the three pixel statistics behind the subtasks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, stack

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.by_image import of_images
from mcdo.estimators.progress import Reporting
from mcdo.images import ImageSet
from mcdo.images.threads import for_each
from mcdo.perturbation import deterministic_features
from mcdo.store import Unfinished

Floats = NDArray[np.float64]


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


def observe(
    encoder: Encoder,
    images: ImageSet,
    shown: ImageSet,
    edge_threshold: int,
    batch_size: int | None = None,
    progress: Reporting = False,
    parts: Unfinished | None = None,
) -> Observed:
    """Pixel statistics of ``images`` and features of the same as ``shown`` to the encoder.

    ``parts`` keep what is finished, for whoever goes on where this process is killed. Raises McdoError when a feature
    is not finite, an image is not what its set was made of, or the ids differ.
    """
    if images.ids != shown.ids:
        raise McdoError(f"{images.name}: the images shown to the encoder are others than those that are labelled")

    def one(i: int) -> tuple[Tensor, tuple[float, float, float]]:
        image = images.image(i)
        pixels = encoder.to_uint8(image if shown is images else shown.image(i))
        return pixels, pixel_statistics(image, edge_threshold)

    def look(part: slice, loop: BlockLoop) -> tuple[NDArray[np.float32], Floats]:
        rows = range(part.start, part.stop)
        pixels, statistics = zip(*for_each(lambda j: one(rows[j]), len(rows), images.name), strict=True)
        features = deterministic_features(encoder, encoder.normalise(stack(pixels))).cpu().numpy()
        loop.tick(len(rows))
        return features, np.array(statistics, dtype=np.float64)

    whole, statistics = of_images(encoder, len(images), look, images.name, batch_size, progress, parts)
    grey, variance, edges = statistics.T
    bad = np.flatnonzero(~np.isfinite(whole).all(axis=1))
    if len(bad):
        raise McdoError(f"{encoder.key}: the feature of {images.ids[bad[0]]} is not finite ({len(bad)} such images)")
    return Observed(whole, grey.copy(), variance.copy(), edges.copy())
