"""Where numbers come from: for result files, and as the keys under which the store keeps them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo.encoders import Encoder
from mcdo.estimators.shown import Shown
from mcdo.perturbation import SCHEME
from mcdo.store.fingerprint import measuring_code

LIBRARIES = ("torch", "numba", "pillow", "open_clip_torch", "timm", "transformers", "numpy")
"""Libraries that take part in a number, from decoding an image to its score."""


@cache
def versions() -> Mapping[str, str]:
    """Versions of the libraries that take part in a number."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def provenance(encoder: Encoder, images: Shown) -> dict[str, Any]:
    """Where numbers come from: for result files and, where it changes them, for store keys."""
    return {
        "encoder": encoder.key,
        "weights": encoder.weights_hash,
        "random_weights": encoder.random_weights,
        "preprocessing": encoder.preprocess_id,
        "images": images.fingerprint,
        "device": encoder.device.type,
        "dtype": encoder.dtype,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "masks": SCHEME,
        "versions": dict(versions()),
        "machine": platform.machine(),
    }


def identity(encoder: Encoder, images: Shown) -> dict[str, Any]:
    """What decides numbers wherever they are stored, but for the images and the protocol: part of every store key.

    An encoder's key is only a name, so it is not in here: the weights decide.
    """
    facts = provenance(encoder, images)
    del facts["encoder"], facts["images"]
    return {"code": measuring_code(), "modules": encoder.modules_hash, **facts}


def image_tokens(images: Shown) -> NDArray[np.uint64]:
    """``[N, 2]``: 128 bits of a digest of what decides the numbers of each image: its content and its masks' name."""
    named = zip(images.content_hashes, images.mask_ids, strict=True)
    digests = b"".join(hashlib.sha256(json.dumps(name).encode()).digest()[:16] for name in named)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)
