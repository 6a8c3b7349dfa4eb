"""One deterministic pass of every image: in blocks, with progress, fewer at once where memory runs out."""

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


def of_every_image(
    encoder: Encoder,
    pixels: Prepared,
    look: Callable[[Tensor], Sequence[Tensor]],
    batch_size: int | None = None,
    progress: Reporting = True,
) -> list[NDArray[Any]]:
    """What ``look`` gives of the images, each of its tensors ``[N, ...]``.

    Args:
        encoder: the encoder.
        pixels: of N images.
        look: tensors ``[B, ...]`` of pixels ``[B, ...]``.
        batch_size: images of one call; halved when memory runs out.
        progress: report progress, or what makes the report.

    """
    loop = BlockLoop(encoder, len(pixels), pixel_rows(encoder, batch_size), rows_per_image=1)
    seen: dict[int, list[NDArray[Any]]] = {}

    def measure(start: int, stop: int) -> None:
        seen[start] = [value.cpu().numpy() for value in look(pixels.batch(slice(start, stop)))]
        loop.tick(stop - start)

    with progress_of(progress, len(pixels), f"{encoder.key}, one pass of every image", "images") as bar:
        loop.run(measure, unkept(), bar)
    return [np.concatenate(parts) for parts in zip(*(seen[start] for start in sorted(seen)), strict=True)]
