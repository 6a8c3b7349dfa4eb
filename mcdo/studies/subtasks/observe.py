"""What is taken from each image, once: the pre-norm feature, and the three pixel statistics behind the subtasks.

Kept in the store under a key of content (weights, preprocessing, images, versions), so no image is encoded twice.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import provenance
from mcdo.images import ImageSet
from mcdo.images.threads import for_each
from mcdo.store import Store, UnsavedResultWarning

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


def observe(
    encoder: Encoder, images: ImageSet, shown: ImageSet, edge_threshold: int, store: Store | None = None
) -> Observed:
    """Pixel statistics of ``images`` and features of the same as ``shown`` to the encoder, from the store or measured.

    Raises McdoError when a feature is not finite, an image is not what its set was made of, or the ids differ.
    """
    if images.ids != shown.ids:
        raise McdoError(f"{images.name}: the images shown to the encoder are others than those that are labelled")
    if store is None:
        return _measure(encoder, images, shown, edge_threshold)
    facts = {**provenance(encoder, shown), "labelled": images.fingerprint}
    del facts["encoder"]  # a key is only a name: the weights decide
    key = store.key({"kind": "subtasks observed 2", "edge_threshold": edge_threshold, **facts})
    found = store.get(key)
    if found is not None:
        return Observed(**found[0])
    measured = _measure(encoder, images, shown, edge_threshold)
    keep(store, key, vars(measured), facts)
    return measured


def keep(store: Store, key: str, arrays: dict[str, Any], facts: dict[str, Any]) -> None:
    """Put a result into the store; a full disk costs a warning, not the result."""
    try:
        store.put(key, arrays, facts)
    except McdoError as error:
        warnings.warn(f"a result of the subtasks study is not kept: {error}", UnsavedResultWarning, stacklevel=3)


def _measure(encoder: Encoder, images: ImageSet, shown: ImageSet, edge_threshold: int) -> Observed:
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
