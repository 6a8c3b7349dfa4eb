"""Arrays by image that keep nothing between blocks: with progress, and fewer at once where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.progress import Reporting, progress_of
from mcdo.estimators.resumption import unkept
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.shown import Prepared
from mcdo.perturbation import PASS_BLOCK

Look = Callable[[slice, BlockLoop], Sequence[NDArray[Any]]]
"""Arrays ``[B, ...]`` of a slice of the images; called from several threads, it ticks the loop as it goes."""


def of_every_image(
    encoder: Encoder,
    pixels: Prepared,
    look: Callable[[Tensor], Sequence[Tensor]],
    batch_size: int | None = None,
    progress: Reporting = True,
) -> list[NDArray[Any]]:
    """What ``look`` gives of one pass of the images, each of its tensors ``[N, ...]``.

    Args:
        encoder: the encoder.
        pixels: of N images.
        look: tensors ``[B, ...]`` of pixels ``[B, ...]``.
        batch_size: images of one call; halved when memory runs out.
        progress: report progress, or what makes the report.

    """

    def plain(part: slice, loop: BlockLoop) -> list[NDArray[Any]]:
        seen = [value.cpu().numpy() for value in look(pixels.batch(part))]
        loop.tick(part.stop - part.start)
        return seen

    what = f"{encoder.key}, one pass of every image"
    return _in_blocks(encoder, len(pixels), plain, batch_size, 1, len(pixels), (what, "images"), progress)


def of_passes(
    encoder: Encoder,
    images: int,
    look: Look,
    passes: int,
    what: str,
    batch_size: int | None = None,
    progress: Reporting = True,
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

    """
    said = (f"{encoder.key}, {what}", "passes")
    return _in_blocks(encoder, images, look, batch_size, PASS_BLOCK, images * passes, said, progress)


def _in_blocks(
    encoder: Encoder,
    images: int,
    look: Look,
    batch_size: int | None,
    rows_per_image: int,
    total: int,
    said: tuple[str, str],
    progress: Reporting,
) -> list[NDArray[Any]]:
    loop = BlockLoop(encoder, images, pixel_rows(encoder, batch_size), rows_per_image)
    seen: dict[int, Sequence[NDArray[Any]]] = {}

    def measure(start: int, stop: int) -> None:
        seen[start] = look(slice(start, stop), loop)

    with progress_of(progress, total, *said) as bar:
        loop.run(measure, unkept(), bar)
    return [np.concatenate(parts) for parts in zip(*(seen[start] for start in sorted(seen)), strict=True)]
