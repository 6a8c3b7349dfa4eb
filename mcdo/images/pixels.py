"""The pixels of an image set, prepared once for one encoder.

They are kept as uint8 (10 000 images at 224 px take 1.5 GB) and normalised on the encoder's device batch by batch. For
CUDA they stay in page-locked memory of the host, from which a batch is copied while the GPU works. Whoever needs them
holds the object: there is no cache to hand out one set's pixels for another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mcdo.errors import McdoError
from mcdo.images.image_set import ImageSet
from mcdo.images.threads import for_each


@dataclass(frozen=True, eq=False)
class Pixels:
    """``data`` uint8 [N, 3, H, W] in the image set's order; ``mean`` and ``std`` float32 [3] on the device."""

    data: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: slice | Sequence[int] | NDArray[Any] | Tensor) -> Tensor:
        """What the encoder is shown: (data / 255 - mean) / std, float32 [B, 3, H, W] on its device."""
        chosen = self.data[indices].to(self.mean.device, non_blocking=True).to(torch.float32).div_(255)
        return chosen.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])


def prepare_pixels(
    images: ImageSet,
    to_uint8: Callable[[Image.Image], Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    device: str | torch.device = "cpu",
    workers: int | None = None,
) -> Pixels:
    """Decode and resize every image once, in ``workers`` threads, for an encoder on ``device``.

    ``to_uint8`` turns an RGB image into uint8 [3, H, W], the same H and W for all, and is called from several threads.
    Raises McdoError naming the image that cannot be decoded, has changed, or comes out in another shape.
    """
    if not len(images):
        raise McdoError(f"{images.name}: there are no images to prepare")
    first = _shown(images, 0, to_uint8)
    stays = torch.device(device).type == "cuda"
    with torch.inference_mode(False):  # the threads that fill it are in no inference mode
        data = torch.empty((len(images), *first.shape), dtype=torch.uint8, pin_memory=stays)

    def prepare(i: int) -> None:
        pixels = _shown(images, i, to_uint8)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or len(pixels) != 3 or pixels.shape != first.shape:
            raise McdoError(
                f"{images.ids[i]}: the encoder's preprocessing gave {pixels.dtype} of shape {tuple(pixels.shape)}; "
                f"expected uint8 [3, H, W], like {tuple(first.shape)} of the first image"
            )
        data[i] = pixels

    for_each(prepare, len(images), "preparing pixels", workers)
    statistics = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
    return Pixels(data if stays else data.to(device), *statistics)


def _shown(images: ImageSet, i: int, to_uint8: Callable[[Image.Image], Tensor]) -> Tensor:
    image = images.image(i)
    try:
        return to_uint8(image)
    except Exception as error:  # whatever a library makes of an odd shape
        raise McdoError(
            f"{images.ids[i]}: the encoder's preprocessing fails on its {image.width} x {image.height} pixels: {error}"
        ) from error
