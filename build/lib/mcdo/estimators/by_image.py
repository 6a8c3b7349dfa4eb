"""Arrays by image, measured in blocks: with progress, fewer at once where memory runs out, and kept as they come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.progress import Reporting, progress_of
from mcdo.estimators.resumption import Keeper, check_columns
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.shown import Prepared
from mcdo.perturbation import PASS_BLOCK
from mcdo.store import Arrays, Unfinished

Look = Callable[[slice, BlockLoop], Sequence[NDArray[Any]]]
"""Arrays ``[B, ...]`` of a slice of the images; called from several threads, it ticks the loop as it goes."""


def of_every_image(
    encoder: Encoder,
    pixels: Prepared,
    look: Callable[[Tensor], Sequence[Tensor]],
    batch_size: int | None = None,
    progress: Reporting = True,
    parts: Unfinished | None = None,
) -> list[NDArray[Any]]:
    """What ``look`` gives of one pass of the images, each of its tensors ``[N, ...]``.

    Args:
        encoder: the encoder.
        pixels: of N images.
        look: tensors ``[B, ...]`` of pixels ``[B, ...]``.
        batch_size: images of one call; halved when memory runs out.
        progress: report progress, or what makes the report.
        parts: where finished blocks are kept, for whoever goes on where this process is killed.

    """

    def plain(part: slice, loop: BlockLoop) -> list[NDArray[Any]]:
        seen = [value.cpu().numpy() for value in look(pixels.batch(part))]
        loop.tick(part.stop - part.start)
        return seen

    return of_images(encoder, len(pixels), plain, "one pass of every image", batch_size, progress, parts)


def of_images(
    encoder: Encoder,
    images: int,
    look: Look,
    what: str,
    batch_size: int | None = None,
    progress: Reporting = True,
    parts: Unfinished | None = None,
) -> list[NDArray[Any]]:
    """What ``look`` gives of one pass of each of the ``images``, which it loads itself; as :func:`of_every_image`."""
    said = (f"{encoder.key}, {what}", "images")
    return _in_blocks(encoder, images, look, batch_size, 1, images, said, progress, parts)


def of_passes(
    encoder: Encoder,
    images: int,
    look: Look,
    passes: int,
    what: str,
    batch_size: int | None = None,
    progress: Reporting = True,
    parts: Unfinished | None = None,
) -> list[NDArray[Any]]:
    """What ``look`` gives of many passes of each of the ``images``, each of its arrays ``[N, ...]``.

    Args:
        encoder: the encoder.
        images: N.
        look: makes ``passes`` passes of each image of its slice, :attr:`BlockLoop.rows` rows at once.
        passes: of one image, counted in the report.
        what: names the measurement in the report.
        batch_size: rows (images × passes) of one forward pass; halved when memory runs out.
        progress: report progress, or what makes the report.
        parts: as in :func:`of_every_image`.

    """
    said = (f"{encoder.key}, {what}", "passes")
    return _in_blocks(encoder, images, look, batch_size, PASS_BLOCK, images * passes, said, progress, parts)


def _in_blocks(
    encoder: Encoder,
    images: int,
    look: Look,
    batch_size: int | None,
    rows_per_image: int,
    total: int,
    said: tuple[str, str],
    progress: Reporting,
    parts: Unfinished | None,
) -> list[NDArray[Any]]:
    loop, held = BlockLoop(encoder, images, pixel_rows(encoder, batch_size), rows_per_image), _ByImage(images)
    for part in parts.parts(held.check) if parts else ():
        held.put(part["columns"], [part[str(i)] for i in range(len(part) - 1)])
        loop.restored[part["columns"]] = True

    def measure(start: int, stop: int) -> None:
        held.put(slice(start, stop), look(slice(start, stop), loop))

    keeper = Keeper(parts, held.of, {"label": {"encoder": encoder.key, "images": str(images), "protocol": said[0]}})
    with progress_of(progress, total * loop.left // images, *said) as bar:
        loop.run(measure, keeper, bar)
    return held.arrays


class _ByImage:
    """Arrays ``[N, ...]`` that are made when the first of their rows are known."""

    def __init__(self, images: int) -> None:
        self._n = images
        self._lock = threading.Lock()
        self.arrays: list[NDArray[Any]] = []

    def put(self, columns: slice | NDArray[np.int64], rows: Sequence[NDArray[Any]]) -> None:
        with self._lock:
            if not self.arrays:
                self.arrays = [np.zeros((self._n, *each.shape[1:]), each.dtype) for each in rows]
        for array, each in zip(self.arrays, rows, strict=True):
            array[columns] = each

    def of(self, columns: NDArray[np.int64]) -> Arrays:
        return {str(i): array[columns] for i, array in enumerate(self.arrays)}

    def check(self, part: Arrays, facts: Mapping[str, Any]) -> None:
        """Raise ValueError or KeyError for a part that is not one of these arrays."""
        n = check_columns(part["columns"], self._n)
        for i in range(len(part) - 1):
            if part[str(i)].shape[:1] != (n,) or (self.arrays and part[str(i)].shape[1:] != self.arrays[i].shape[1:]):
                raise ValueError("it holds arrays of other shapes")
