"""The zero-shot head: logits of images against prompts made of class names, under each template."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders.encoder import Encoder
from mcdo.errors import McdoError
from mcdo.images import ImageSet

TEMPLATES = ("a photo of a {}", "a {}", "an image of a {}")


def unit(features: ArrayLike) -> NDArray[np.float64]:
    """Features ``[..., D]`` at norm one, in float64."""
    held = np.asarray(features, dtype=np.float64)
    return np.asarray(held / np.linalg.norm(held, axis=-1, keepdims=True))


def zero_shot_logits(encoder: Encoder, features: NDArray[np.float32], images: ImageSet) -> NDArray[np.float64]:
    """Zero-shot logits of ``features`` [N, D] under every template, float64 ``[templates, N, C]``.

    Raises:
        McdoError: if the images have fewer than two classes.

    """
    if len(images.class_names) < 2:
        raise McdoError(
            f"{images.name}: zero-shot targets need at least two classes; use a folder with one directory each"
        )
    with torch.inference_mode():
        stack = [
            encoder.zero_shot_logits(torch.from_numpy(features), images.class_names, template).double().cpu().numpy()
            for template in TEMPLATES
        ]
    return np.stack(stack)
