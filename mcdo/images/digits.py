"""Scikit-learn's handwritten digits: 1797 real images of 8 x 8 that need no download.

They are split once and for all into 600 held-out images, 60 of each digit, and 1197 to train on. When more than the
held-out images are asked for, seeded affine variants of them follow; each variant is drawn from its own id, so it is
the same image whatever n or seed it was asked for with.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mcdo.errors import McdoError, nearest
from mcdo.images.image_set import ImageSet
from mcdo.images.sampling import spread_order

HELDOUT, TRAIN = "heldout", "train"
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIZE = 32
_HELDOUT_PER_CLASS = 60
_SPLIT_SEED = 1797
# Part of every content hash: to be changed with anything below that changes a pixel.
_RECIPE = "digits 1"
_AFFINE = "/affine"


@dataclass(frozen=True)
class Affine:
    """A variant's distortion: degrees, output pixels, and a factor."""

    rotation: float
    shear: float
    scale: float
    shift_x: float
    shift_y: float

    @staticmethod
    def of(image_id: str) -> Affine:
        """The distortion that belongs to an id: uniform in ±12°, ±6°, 0.9–1.1 and ±2 px, from the id's sha256."""
        digest = hashlib.sha256(f"{_RECIPE} {image_id}".encode()).digest()
        unit = [int.from_bytes(digest[6 * i : 6 * i + 6], "big") / 2**47 - 1 for i in range(5)]
        return Affine(12 * unit[0], 6 * unit[1], 1 + 0.1 * unit[2], 2 * unit[3], 2 * unit[4])

    def apply(self, image: Image.Image) -> Image.Image:
        """Rotate, shear and scale about the centre, then shift; what comes from outside is background."""
        angle = math.radians(self.rotation)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        forward = self.scale * turn @ np.array([[1.0, math.tan(math.radians(self.shear))], [0.0, 1.0]])
        back = np.linalg.inv(forward)
        centre = np.array(image.size) / 2
        offset = centre - back @ (centre + np.array([self.shift_x, self.shift_y]))
        rows = (*back[0], offset[0], *back[1], offset[1])
        return image.transform(
            image.size, Image.Transform.AFFINE, tuple(float(value) for value in rows), Image.Resampling.BICUBIC
        )


class DigitSource:
    """Digits by id: ``digits/SPLIT/NNNN`` with the number in scikit-learn's order, and ``…/affineK`` for variants."""

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """32 x 32, RGB."""
        image = _render(_base(image_id))
        if _is_variant(image_id):
            image = Affine.of(image_id).apply(image)
        return image.convert("RGB"), self.content_hash(image_id)

    def content_hash(self, image_id: str) -> str:
        """Over the 8 x 8 original and the recipe, not the rendered pixels, so it is the same on every platform."""
        return _content_hash(image_id)


def digits(n: int | None = None, seed: int = 42, split: str = HELDOUT) -> ImageSet:
    """``n`` digits (None: the whole split), spread over the classes by ``seed`` and sorted by id.

    The first 600 held-out images are real, the rest affine variants, one more of each image per round.
    """
    members, every_label = _split(split), _originals()[1]
    order = members[spread_order(every_label[members], seed)]
    chosen = [divmod(i, len(order)) for i in range(len(order) if n is None else n)]
    labelled = sorted(
        (_id(split, int(order[place]), variant), int(every_label[order[place]])) for variant, place in chosen
    )
    ids = tuple(image_id for image_id, _ in labelled)
    source = DigitSource()
    return ImageSet(
        name="digits" if split == HELDOUT else f"digits:{split}",
        ids=ids,
        labels=np.array([label for _, label in labelled], dtype=np.int64),
        class_names=CLASS_NAMES,
        seed=seed,
        source=source,
        content_hashes=tuple(source.content_hash(image_id) for image_id in ids),
        origins=tuple(map(digit_origin, ids)),
    )


def digit_origin(image_id: str) -> str:
    """The id of the handwritten digit behind an image: its own, or for an affine variant that of the real one."""
    _base(image_id)  # refuses what is no digit
    return image_id.partition(_AFFINE)[0]


def training_split() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The 1197 training digits, rendered exactly as held-out ones are: uint8 [1197, 32, 32] grey and labels [1197]."""
    members = _split(TRAIN)
    originals, labels = _originals()
    return np.stack([np.asarray(_render(originals[i])) for i in members]), labels[members].copy()


def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
    """A random affine view of each image: ±20°, shear ±12°, scale 0.8–1.2, shift ±4 of 32 px; background is zero.

    ``batch`` is uint8 or float [B, C, S, S]; the result is float32 of the same shape and device, uint8 divided by 255.
    ``generator`` lives on the CPU, so that the views do not depend on the device.
    """
    images = batch.to(torch.float32) / 255 if batch.dtype == torch.uint8 else batch.to(torch.float32)
    unit = torch.rand((5, len(batch)), generator=generator) * 2 - 1
    angle, shear, scale = math.radians(20) * unit[0], torch.tan(math.radians(12) * unit[1]), 1 + 0.2 * unit[2]
    cos, sin, shift = angle.cos() * scale, angle.sin() * scale, 0.25 * unit[3:]
    rows = torch.stack([cos, cos * shear - sin, shift[0], sin, sin * shear + cos, shift[1]], dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), list(batch.shape), align_corners=False)
    return functional.grid_sample(images, grid.to(batch.device), align_corners=False)


@lru_cache(maxsize=1)
def _originals() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All digits, uint8 [1797, 8, 8] with values 0 to 16, and labels [1797]; read-only.

    From scikit-learn's own file where it is found: its import takes a second of every start.
    """
    library = find_spec("sklearn")
    path = Path(str(library and library.origin)).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    else:
        from sklearn.datasets import load_digits

        table = np.column_stack(load_digits(return_X_y=True)).astype(np.uint8)
    images, labels = table[:, :-1].reshape(-1, 8, 8).copy(), table[:, -1].astype(np.int64)
    images.setflags(write=False)
    labels.setflags(write=False)
    return images, labels


@lru_cache(maxsize=2)
def _split(split: str) -> NDArray[np.int64]:
    """The numbers of the digits in a split, ascending."""
    if split not in (HELDOUT, TRAIN):
        raise McdoError(f"the digits have no split {split!r}; the nearest: {nearest(split, (HELDOUT, TRAIN))}")
    labels = _originals()[1]
    heldout = spread_order(labels, _SPLIT_SEED)[: _HELDOUT_PER_CLASS * len(CLASS_NAMES)]
    return np.sort(heldout) if split == HELDOUT else np.setdiff1d(np.arange(len(labels)), heldout)


@lru_cache(maxsize=2)
def _members(split: str) -> frozenset[int]:
    """:func:`_split` to look in, which is done for every image."""
    return frozenset(_split(split).tolist())


@cache  # the same images are in many sets
def _content_hash(image_id: str) -> str:
    affine = vars(Affine.of(image_id)) if _is_variant(image_id) else None
    recipe = json.dumps([_RECIPE, affine])
    return hashlib.sha256(_base(image_id).tobytes() + recipe.encode("ascii")).hexdigest()


def _id(split: str, number: int, variant: int) -> str:
    return f"digits/{split}/{number:04d}" + (f"{_AFFINE}{variant}" if variant else "")


def _is_variant(image_id: str) -> bool:
    return _AFFINE in image_id


def _base(image_id: str) -> NDArray[np.uint8]:
    """The 8 x 8 original that an id names."""
    match = re.fullmatch(rf"digits/({HELDOUT}|{TRAIN})/(\d{{4}})({_AFFINE}[1-9]\d*)?", image_id)
    if match is None or int(match[2]) not in _members(match[1]):
        raise McdoError(f"there is no digit {image_id!r}; ids look like digits/{HELDOUT}/0123 or …/0123/affine2")
    original: NDArray[np.uint8] = _originals()[0][int(match[2])]
    return original


def _render(original: NDArray[np.uint8]) -> Image.Image:
    """Values 0 to 16 to grey 0 to 255, 8 x 8 to 32 x 32, bicubic; mode L."""
    grey = np.rint(original * (255 / 16)).astype(np.uint8)
    return Image.fromarray(grey).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
