"""Keyed signs: which of two factors a unit is multiplied with follows from (seed, trial, pass, site, unit) alone.

One word of SplitMix64 gives the signs of 64 units of a pass. All images of a pass have the same signs: what they do to
the trace is then common to the images, and cancels where these are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mcdo.perturbation.masks import _GAMMA, _WORD, MaskedSite, _mix, _mix_, _signed, name_key

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
        return self.disturb_passes_(y, index, trial, block, len(keys), torch.arange(first, last, device=y.device))

    def disturb_passes_(self, y: Tensor, index: int, trial: int, block: int, images: int, passes: Tensor) -> Tensor:
        """As :meth:`disturb_`, of the passes with these numbers (int64, on the device of ``y``)."""
        size = self.sites[index].size
        run = _mix(_mix(_mix(self._seed ^ trial) ^ block) ^ self._site_keys[index])
        factors = torch.where(_plus(run, size, passes), 1 + self._sd, 1 - self._sd)
        y.view(images, len(passes), size).mul_(factors)  # float32 factors, and rounded only here
        return y


def _plus(run: int, size: int, passes: Tensor) -> Tensor:
    """Whether the sign of each unit is a plus: bool ``[len(passes), size]``."""
    words = -(-size // _BITS)
    counters = passes[:, None] * words + torch.arange(1, words + 1, device=passes.device)
    bits = _mix_(counters.flatten().mul_(_signed(_GAMMA)).add_(_signed(run)))[:, None]
    bits = bits >> torch.arange(_BITS, device=passes.device)
    return bits.bitwise_and_(1).bool().view(len(passes), -1)[:, :size]
