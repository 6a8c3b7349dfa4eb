"""Keyed normal numbers: the noise of an output element follows from (seed, trial, pass, image id, site, element) alone.

As with the masks, one SplitMix64 stream runs over ``PASS_BLOCK`` passes of one image at one site; here each of its
words gives two normal numbers (Box and Muller 1958). Unlike a mask, this noise is dense: it costs a logarithm and a
rotation per pair of elements, several forward passes of a small tower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.compiled import compiled
from mcdo.perturbation.masks import _GAMMA, _MIX1, _MIX2, _WORD, MaskedSite, _mix, _mix_, _signed, name_key


class KeyedNormals:
    """Normal noise on the outputs of sites.

    Args:
        sites: the disturbed sites; ``p`` sets the variance p / (1 - p). Every element has its own noise.
        seed: the run's seed.
        additive: whether noise is added, on the scale of the image's root mean square, or multiplied.

    """

    def __init__(self, sites: Sequence[MaskedSite], seed: int, additive: bool) -> None:
        self.sites, self.additive = tuple(sites), additive
        self._seed = _mix(seed % _WORD)
        self._site_keys = [name_key(site.name) for site in self.sites]

    def disturb_(self, y: Tensor, index: int, trial: int, block: int, keys: Tensor, first: int, last: int) -> Tensor:
        """Disturb passes ``first:last`` of site number ``index`` in place.

        Args:
            y: contiguous ``[B * (last - first), ...]``, image-major.
            index: number of the site.
            trial: trial number.
            block: number of the block of passes.
            keys: int64 ``[B]``.
            first: first pass, counted within the block.
            last: one past the last pass.

        Returns:
            ``y``.

        """
        site = self.sites[index]
        run = _mix(_mix(_mix(self._seed ^ trial) ^ block) ^ self._site_keys[index])
        sd = math.sqrt(site.p / (1 - site.p))
        rows = y.view(len(keys), last - first, site.size)
        # in float32 or better: the square of a large activation overflows float16
        exact = rows.to(torch.promote_types(rows.dtype, torch.float32))
        scale = exact.square().mean(-1).sqrt_().mul_(sd) if self.additive else exact.new_full(rows.shape[:2], sd)
        if y.device.type == "cpu" and y.dtype == torch.float32:
            streams = keys.numpy().view(np.uint64)
            _disturb_streams(rows.numpy(), scale.numpy(), streams, np.uint64(run), site.size * first, self.additive)
            return y
        noise = _normals(keys, run, site.size * first, site.size * last).view_as(rows).mul_(scale[..., None])
        rows.add_(noise if self.additive else noise.mul_(rows))  # the noise is float32, and rounded only here
        return y


def _normals(keys: Tensor, run: int, start: int, stop: int) -> Tensor:
    """float32 ``[B, stop - start]``: elements ``start:stop`` of each image's stream."""
    pairs = torch.arange(start // 2 + 1, (stop + 1) // 2 + 1, device=keys.device).mul_(_signed(_GAMMA))
    words = _mix_(keys[:, None] + (pairs + _signed(run)))
    first, second = ((half & 0xFFFFFFFF).to(torch.float32).mul_(2.0**-32) for half in (words, words >> 32))
    radius = first.clamp_(2.0**-33, 1 - 2.0**-24).log_().mul_(-2).sqrt_()
    angle = second.mul_(2 * math.pi)
    pair = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pair.view(len(keys), -1)[:, start % 2 : start % 2 + stop - start]


@compiled()
def _disturb_streams(
    rows: NDArray[np.float32],
    scale: NDArray[np.float32],
    keys: NDArray[np.uint64],
    site: np.uint64,
    skip: int,
    additive: bool,
) -> None:
    images, passes, size = rows.shape
    for image in range(images):
        element = skip
        ready = False
        other = np.float32(0)
        for i in range(passes):
            for j in range(size):
                if ready:
                    normal, ready = other, False
                else:
                    word = keys[image] + site + np.uint64(_GAMMA) * np.uint64(element // 2 + 1)
                    word = (word ^ (word >> np.uint64(30))) * np.uint64(_MIX1)
                    word = (word ^ (word >> np.uint64(27))) * np.uint64(_MIX2)
                    word ^= word >> np.uint64(31)
                    first = np.float32(word & np.uint64(0xFFFFFFFF)) * np.float32(2.0**-32)
                    second = np.float32(word >> np.uint64(32)) * np.float32(2.0**-32)
                    first = min(max(first, np.float32(2.0**-33)), np.float32(1 - 2.0**-24))
                    radius = np.sqrt(np.float32(-2) * np.log(first))
                    angle = second * np.float32(2 * math.pi)
                    normal, other = radius * np.cos(angle), radius * np.sin(angle)
                    if element % 2:
                        normal = other
                    else:
                        ready = True
                if additive:
                    rows[image, i, j] += scale[image, i] * normal
                else:
                    rows[image, i, j] *= np.float32(1) + scale[image, i] * normal
                element += 1
