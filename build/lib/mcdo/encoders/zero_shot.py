"""The zero-shot head: logits of images against prompts made of class names, under each template."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from mcdo.encoders.encoder import Encoder
from mcdo.errors import McdoError
from mcdo.images import ImageSet

TEMPLATES = ("a photo of a {}", "a {}", "an image of a {}")


def unit(features: ArrayLike) -> NDArray[np.float64]:
    """Features ``[..., D]`` at norm one, in float64."""
    held = np.asarray(features, dtype=np.float64)
    return np.asarray(held / np.linalg.norm(held, axis=-1, keepdims=True))


def class_prompts(encoder: Encoder, images: ImageSet) -> tuple[str, ...]:
    """The prompt of every class under the first template, then under the second, and so on, ``[templates · C]``.

    Raises:
        McdoError: if the images have fewer than two classes, or two prompts are the same tokens.

    """
    names = images.class_names
    if len(names) < 2:
        raise McdoError(
            f"{images.name}: zero-shot targets need at least two classes; use a folder with one directory each"
        )
    prompts: list[str] = []
    for template in TEMPLATES:
        of_template = [template.format(name) for name in names]
        encoder.check_distinct(of_template, names)
        prompts += of_template
    return tuple(prompts)


def zero_shot_logits(encoder: Encoder, features: NDArray[np.float32], text: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits of image ``features`` [N, D] and the text features [templates · C, D] of :func:`class_prompts`.

    Returns:
        float64 ``[templates, N, C]``.

    """
    seen = torch.from_numpy(features)
    with torch.inference_mode():
        stack = [
            encoder.text_logits(seen, functional.normalize(torch.from_numpy(part), dim=-1)).double().cpu().numpy()
            for part in np.split(text, len(TEMPLATES))
        ]
    return np.stack(stack)
