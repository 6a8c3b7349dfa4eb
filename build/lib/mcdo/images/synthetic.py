"""Synthetic images: solid colours, linear gradients and pixel noise, all different from one another.

Image i of a kind is drawn from (seed, kind, size, i) alone, in integers, so it is the same whatever n it was asked for
with and on every platform. A draw whose pixels are those of an earlier one is left out, so a set of n has n distinct
images, each its own origin; the published set of 10 gradients held 4.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError, nearest
from mcdo.images.image_set import ImageSet

SIZE = 224
"""Side in pixels where the specification names none."""

DEFAULT_N = 40
_LARGEST = 4096
_ID = re.compile(r"synthetic/(\w+)/(\d+)px/seed(\d+)/(\d+)")

RGB = NDArray[np.uint8]


def solid(rng: np.random.Generator, size: int) -> RGB:
    """One colour, each channel uniform in 0 to 255; uint8 [size, size, 3]."""
    return np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (size, size, 3))


def gradient(rng: np.random.Generator, size: int) -> RGB:
    """A linear ramp between two random colours in a random direction; uint8 [size, size, 3].

    Integers throughout: a rounding that differs between platforms would be another image.
    """
    first, last = rng.integers(0, 256, (2, 3))
    across, down = rng.integers(-1000, 1001, 2)
    y, x = np.mgrid[:size, :size]
    place = across * x + down * y
    place -= place.min()
    span = max(1, int(place.max()))
    ramp = (first * (span - place[..., None]) + last * place[..., None] + span // 2) // span
    return np.asarray(ramp, dtype=np.uint8)


def noise(rng: np.random.Generator, size: int) -> RGB:
    """Every channel of every pixel on its own, uniform in 0 to 255; uint8 [size, size, 3]."""
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


PATTERNS: dict[str, Callable[[np.random.Generator, int], RGB]] = {"solid": solid, "gradient": gradient, "noise": noise}
"""Kinds by name; a new one is appended, because an image's random numbers follow from its kind's place."""


class SyntheticSource:
    """Synthetic images by id, ``synthetic/KIND/SIZEpx/seedSEED/NNNN``; the content is the pixels themselves."""

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """RGB, size x size."""
        pixels = _pixels(image_id)
        return Image.fromarray(pixels), _hash(pixels)

    def content_hash(self, image_id: str) -> str:
        """sha256 over shape and pixels."""
        return _hash(_pixels(image_id))


def synthetic(argument: str, n: int | None = None, seed: int = 42) -> ImageSet:
    """``n`` distinct images (None: 40) of ``"solid"``, ``"gradient"`` or ``"noise"``, as in ``"noise:32"`` of 32 px.

    Raises McdoError for an unknown kind, a size that is no number of pixels from 1 to 4096, or more images than there
    are distinct ones.
    """
    kind, size = _parse(argument)
    source, wanted = SyntheticSource(), DEFAULT_N if n is None else n
    chosen: dict[str, str] = {}
    for image_id in _candidates(kind, size, seed, wanted):
        chosen.setdefault(source.content_hash(image_id), image_id)
        if len(chosen) == wanted:
            break
    if len(chosen) < wanted:
        raise McdoError(
            f"synthetic:{argument}: only {len(chosen)} distinct images of {size} px were found for n = {wanted}; "
            "ask for fewer, or for larger ones"
        )
    return ImageSet(
        name=f"synthetic:{argument}",
        ids=tuple(chosen.values()),
        labels=None,
        class_names=(),
        seed=seed,
        source=source,
        content_hashes=tuple(chosen),
    )


def _candidates(kind: str, size: int, seed: int, wanted: int) -> Iterator[str]:
    """Ids in order, a tenth more than wanted and then some, so that repeats can be left out."""
    return (f"synthetic/{kind}/{size}px/seed{seed}/{i:06d}" for i in range(wanted + wanted // 10 + 100))


def _parse(argument: str) -> tuple[str, int]:
    kind, colon, size = argument.partition(":")
    if kind not in PATTERNS:
        raise McdoError(f"unknown images 'synthetic:{argument}'; the nearest: synthetic:{nearest(kind, PATTERNS, 1)}")
    if colon and not (size.isascii() and size.isdigit() and 1 <= int(size) <= _LARGEST):
        raise McdoError(f"'synthetic:{argument}': the size {size!r} is no number of pixels from 1 to {_LARGEST}")
    return kind, int(size) if colon else SIZE


def _pixels(image_id: str) -> RGB:
    match = _ID.fullmatch(image_id)
    if match is None or match[1] not in PATTERNS:
        raise McdoError(
            f"there is no synthetic image {image_id!r}; ids look like synthetic/noise/{SIZE}px/seed42/000001"
        )
    size, seed, number = (int(part) for part in match.groups()[1:])
    rng = np.random.default_rng([seed, list(PATTERNS).index(match[1]), size, number])
    return np.ascontiguousarray(PATTERNS[match[1]](rng, size))


def _hash(pixels: RGB) -> str:
    return hashlib.sha256(repr(pixels.shape).encode("ascii") + pixels.tobytes()).hexdigest()
