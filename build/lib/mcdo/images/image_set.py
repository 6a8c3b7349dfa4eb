"""The image set: an ordered choice of images by id, and the source that knows how to get each one.

A set holds ids and hashes, never decoded pixels, so its size in memory does not grow with resolution. Where the pixels
come from (a folder, scikit-learn's digits, synthetic or degraded images) is behind :class:`Source`; a new kind of
images is one file with one source.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError


class Source(Protocol):
    """Where pixels come from. Both methods raise McdoError, naming the image, when it is not there or unreadable."""

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """The image (mode RGB) and the hash of the content it was decoded from; safe to call from several threads."""
        ...

    def content_hash(self, image_id: str) -> str:
        """The same hash without decoding: sha256 in hexadecimal."""
        ...


@dataclass(frozen=True)
class Skipped:
    """A path that was left out, relative to the folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images in a fixed order; see :func:`mcdo.images.load_images`.

    ``name`` is the specification as asked for. ``ids`` are unique, and an image has the same id whatever n, seed or
    order was asked for. ``labels`` is int64 [N], an index into ``class_names``, or None where nobody labelled the
    images. ``class_names`` holds every class of the source, also those that the choice of n images left out, because
    a zero-shot head is built from all of them. ``mask_ids`` key the masks of a perturbation: they are the ids, but
    where two images are to be seen under the same masks (a clean one and its degraded version) they are equal.

    ``origins`` name the unit that was sampled, such as a handwritten digit or a photo: images made from one original
    (variants, degraded versions, exact copies of a file) share theirs, so intervals and splits count origins. They are
    the ids where nothing else is given, and the same whatever n, seed or order was asked for. They decide no score,
    so neither the fingerprint nor any key of the store depends on them.
    """

    name: str
    ids: tuple[str, ...]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...]
    seed: int
    source: Source
    content_hashes: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    mask_ids: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            raise McdoError(f"{self.name}: an image id occurs twice; scores are keyed by id, so ids must be unique")
        for named in ("mask_ids", "origins"):
            if not getattr(self, named):
                object.__setattr__(self, named, self.ids)
        for named in ("mask_ids", "origins", "content_hashes"):
            if len(getattr(self, named)) != len(self.ids):
                count, what = len(getattr(self, named)), named.replace("_", " ")
                raise McdoError(f"{self.name}: {len(self.ids)} ids but {count} {what}; give one for each image")
        if self.labels is not None:
            object.__setattr__(self, "labels", self._checked(self.labels))

    def __repr__(self) -> str:
        originals = len(set(self.origins))
        return f"<ImageSet {self.name}: {len(self)} images of {originals} originals, {len(self.class_names)} classes>"

    def _checked(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        labels = np.array(labels, dtype=np.int64)
        if labels.shape != (len(self.ids),):
            raise McdoError(f"{self.name}: {len(self.ids)} ids but labels of shape {labels.shape}")
        if labels.size and not (labels.min() >= 0 and labels.max() < len(self.class_names)):
            raise McdoError(f"{self.name}: a label lies outside the {len(self.class_names)} class names")
        labels.setflags(write=False)
        return labels

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Image.Image]:
        """The images in order, each decoded when it is reached."""
        return (self.image(i) for i in range(len(self)))

    def image(self, i: int) -> Image.Image:
        """Image ``i``, mode RGB. Raises McdoError when its content is no longer what the set was made of."""
        image, found = self.source.load(self.ids[i])
        if found != self.content_hashes[i]:
            raise McdoError(f"{self.ids[i]} ({self.name}): the content changed since the set was made; load it again")
        return image

    def select(self, indices: slice | Sequence[int] | NDArray[Any]) -> ImageSet:
        """The images at ``indices`` (anything that indexes a NumPy vector), in that order; class names stay."""
        chosen = np.arange(len(self))[indices]
        return ImageSet(
            name=self.name,
            ids=tuple(self.ids[i] for i in chosen),
            labels=None if self.labels is None else self.labels[chosen],
            class_names=self.class_names,
            seed=self.seed,
            source=self.source,
            content_hashes=tuple(self.content_hashes[i] for i in chosen),
            skipped=self.skipped,
            mask_ids=tuple(self.mask_ids[i] for i in chosen),
            origins=tuple(self.origins[i] for i in chosen),
        )

    def with_common_masks(self) -> ImageSet:
        """The same images, all to be seen under the same masks: common random numbers over images."""
        return replace(self, mask_ids=("common",) * len(self))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over ids and content hashes in order: it follows content, not paths above the folder or times."""
        named = [self.ids, self.content_hashes] + ([self.mask_ids] if self.mask_ids != self.ids else [])
        return hashlib.sha256(json.dumps(named).encode("ascii")).hexdigest()

    def manifest(self) -> dict[str, Any]:
        """The set, JSON-able."""
        return {
            "num_images": len(self),
            "name": self.name,
            "seed": self.seed,
            "fingerprint": self.fingerprint,
            "class_names": self.class_names,
            "skipped": [{"path": each.path, "reason": each.reason} for each in self.skipped],
            "paths": self.ids,
            "labels": None if self.labels is None else self.labels.tolist(),
            "hashes": self.content_hashes,
            "origins": self.origins,
            "mask_ids": None if self.mask_ids == self.ids else self.mask_ids,
        }

    def write_manifest(self, path: str | Path) -> None:
        """Write :meth:`manifest`, atomically; :func:`mcdo.images.read_manifest` gives the set back."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.manifest(), indent=1) + "\n", encoding="ascii")
        unfinished.replace(path)
