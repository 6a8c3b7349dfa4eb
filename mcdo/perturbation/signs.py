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
        size = self.sites[index].size
        run = _mix(_mix(_mix(self._seed ^ trial) ^ block) ^ self._site_keys[index])
        factors = torch.where(_plus(run, size, first, last, y.device), 1 + self._sd, 1 - self._sd)
        y.view(len(keys), last - first, size).mul_(factors)  # float32 factors, and rounded only here
        return y


def _plus(run: int, size: int, first: int, last: int, device: torch.device) -> Tensor:
    """Whether the sign of each unit is a plus: bool ``[last - first, size]``."""
    words = -(-size // _BITS)
    counters = torch.arange(first * words + 1, last * words + 1, device=device).mul_(_signed(_GAMMA))
    bits = _mix_(counters.add_(_signed(run)))[:, None] >> torch.arange(_BITS, device=device)
    return bits.bitwise_and_(1).bool().view(last - first, -1)[:, :size]
