"""Where numbers come from: for result files, and as the keys under which the store keeps them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo.encoders import Encoder, Prompts
from mcdo.estimators.shown import Shown
from mcdo.perturbation import SCHEME
from mcdo.store.fingerprint import measuring_code

LIBRARIES = (
    *("torch", "torchvision", "numpy", "numba", "pillow", "open_clip_torch", "timm"),
    *("transformers", "tokenizers", "sentencepiece"),
)
"""Libraries that take part in a number, from decoding an image to its score."""


@cache
def versions() -> Mapping[str, str]:
    """Versions of the libraries that take part in a number."""
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def provenance(encoder: Encoder, images: Shown) -> dict[str, Any]:
    """Where numbers come from: for result files and, where it changes them, for store keys."""
    return {"images": images.fingerprint, "masks": SCHEME, **encoder_provenance(encoder)}


def encoder_provenance(encoder: Encoder) -> dict[str, Any]:
    """The same without images and passes: for results in which nothing was perturbed."""
    return {"encoder": encoder.key, **_made_by(encoder)}


def _made_by(encoder: Encoder) -> dict[str, Any]:
    return {
        "weights": encoder.weights_hash,
        "random_weights": encoder.random_weights,
        "architecture": encoder.architecture,
        "preprocessing": encoder.preprocess_id,
        "device": encoder.device.type,
        "dtype": encoder.dtype,
        "matmul_precision": torch.get_float32_matmul_precision(),
        "versions": dict(versions()),
        "machine": platform.machine(),
    }


def encoder_identity(encoder: Encoder, *, text: bool = False) -> dict[str, Any]:
    """What decides an encoder's features, of ``text`` if asked for: part of every store key.

    An encoder's key is only a name, so it is not in here: what it does decides.
    """
    made = _made_by(encoder)
    now = made["weights"], made["architecture"]
    identity = {"probe": encoder.probe_of(now), **made}
    return identity | ({"text": encoder.text_identity_of(now)} if text else {})


def identity(encoder: Encoder, images: Shown) -> dict[str, Any]:
    """What decides numbers wherever they are stored, but for the images and the protocol: part of every store key."""
    shown = encoder_identity(encoder, text=isinstance(images, Prompts))
    return {"code": measuring_code(), "masks": SCHEME, **shown}


def origin_numbers(images: Shown) -> NDArray[np.int64]:
    """``[N]``: images of one origin have one number, so that what is stored can be judged by the unit sampled."""
    return np.unique(np.array(images.origins), return_inverse=True)[1].astype(np.int64)


def image_tokens(images: Shown) -> NDArray[np.uint64]:
    """``[N, 2]``: 128 bits of a digest of what decides the numbers of each image: its content and its masks' name."""
    digests = b"".join(map(_token, images.content_hashes, images.mask_ids))
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


@lru_cache(maxsize=2**16)  # the same images are looked up under many protocols
def _token(content: str, masks: str) -> bytes:
    return hashlib.sha256(json.dumps((content, masks)).encode()).digest()[:16]
