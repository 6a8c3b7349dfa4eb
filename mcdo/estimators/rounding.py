"""Whether what rounding adds to the variance over passes is small beside it.

A number that is moved is rounded anew, in its own map and in all that follow, so passes in reduced precision differ by
rounding as well as by the perturbation. What that adds is the same whatever p is (in bfloat16 3e-5 of trace_pre of
``clip_tiny``), so it counts where little is disturbed: at a small p, or at one early site.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.shown import Prepared
from mcdo.perturbation import PASS_BLOCK, Perturbation, perturbed

MOST = 0.05
"""Of the variance in float32, what rounding may add to it."""

_IMAGES = 4


def check_rounding(encoder: Encoder, kind: Perturbation, seed: int, pixels: Prepared, keys: Tensor) -> None:
    """Look at ``PASS_BLOCK`` passes of the first images, in the encoder's precision and by the same masks in float32.

    Args:
        encoder: the encoder.
        kind: the perturbation that is to be measured.
        seed: of its masks.
        pixels: of N images.
        keys: int64 ``[N]``, theirs.

    Raises:
        McdoError: if the variance of the difference is more than :data:`MOST` of that in float32.

    """
    if encoder.precision == "float32":
        return
    few, found = pixels.batch(slice(0, _IMAGES)), []
    for exact in (False, True):
        with perturbed(encoder, kind, seed, exact=exact) as tower:
            pieces = list(tower.passes(few, keys[:_IMAGES], 0, PASS_BLOCK, PASS_BLOCK))
        found.append(torch.cat(pieces, dim=1).cpu().double())
    low, high = found
    added, moved = float((low - high).var(dim=1).sum()), float(high.var(dim=1).sum())
    if added > MOST * moved:
        raise McdoError(
            f"{encoder.key}: rounding to {encoder.precision} adds {added / moved:.0%} to the variance that {kind} has "
            f"in float32, more than {MOST:.0%}: it adds as much whatever p is, so the scores would be of rounding in "
            "part. Take precision=float32 (--precision=float32), float16 where that holds the numbers, or a larger p"
        )
