"""Keyed signs: which of two factors a unit is multiplied with follows from (seed, trial, pass, site, unit) alone.

One word of SplitMix64 gives the signs of 64 units of a pass. All images of a pass have the same signs: what they do to
the trace is then common to the images, and cancels where these are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.compiled import compiled
from mcdo.perturbation.masks import _GAMMA, _MIX1, _MIX2, _WORD, MaskedSite, _mix, _mix_, _signed, name_key

_BITS = 64


class KeyedSigns:
    """Outputs of sites times 1 ± ``sd``.

    Args:
        sites: the disturbed sites; every element has its own sign.
        seed: the run's seed.
        sd: standard deviation of the factor.

    """

    def __init__(self, sites: Sequence[MaskedSite], seed: int, sd: float) -> None:
        self.sites, self._sd = tuple(sites), sd
        self._seed = _mix(seed % _WORD)
        self._site_keys = [name_key(site.name) for site in self.sites]

    def disturb_(self, y: Tensor, index: int, trial: int, block: int, keys: Tensor, first: int, last: int) -> Tensor:
        """Disturb passes ``first:last`` of site number ``index`` in place; ``keys`` give the number of images alone.

        Args and result as for :meth:`mcdo.perturbation.normals.KeyedNormals.disturb_`.
        """
        size = self.sites[index].size
        run = _mix(_mix(_mix(self._seed ^ trial) ^ block) ^ self._site_keys[index])
        rows = y.view(len(keys), last - first, size)
        if y.device.type == "cpu" and y.dtype == torch.float32:
            _flip(rows.numpy(), np.uint64(run), first, np.float32(1 + self._sd), np.float32(1 - self._sd))
            return y
        plus = _plus(run, size, first, last, y.device)
        rows.mul_(torch.where(plus, 1 + self._sd, 1 - self._sd))  # float32 factors, and rounded only here
        return y


def _plus(run: int, size: int, first: int, last: int, device: torch.device) -> Tensor:
    """Whether the sign of each unit is a plus: bool ``[last - first, size]``."""
    words = -(-size // _BITS)
    counters = torch.arange(first * words + 1, last * words + 1, device=device).mul_(_signed(_GAMMA))
    bits = _mix_(counters.add_(_signed(run)))[:, None] >> torch.arange(_BITS, device=device)
    return bits.bitwise_and_(1).bool().view(last - first, -1)[:, :size]


@compiled()
def _flip(rows: NDArray[np.float32], run: np.uint64, first: int, plus: np.float32, minus: np.float32) -> None:
    images, passes, size = rows.shape
    words = (size + 63) // 64
    for image in range(images):
        for i in range(passes):
            for j in range(words):
                word = run + np.uint64(_GAMMA) * np.uint64((first + i) * words + j + 1)
                word = (word ^ (word >> np.uint64(30))) * np.uint64(_MIX1)
                word = (word ^ (word >> np.uint64(27))) * np.uint64(_MIX2)
                word ^= word >> np.uint64(31)
                for unit in range(64 * j, min(64 * j + 64, size)):
                    rows[image, i, unit] *= plus if (word >> np.uint64(unit - 64 * j)) & np.uint64(1) else minus
