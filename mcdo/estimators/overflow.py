"""Passes that are not finite: named with their image, and with what to do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError


def advice(encoder: Encoder) -> str:
    """What to do about numbers that are not finite."""
    if encoder.precision == "float16":
        return "numbers beyond 65504 overflow in float16: measure with --precision=bfloat16 or float32"
    return f"look at its pixels and at the model's weights (--precision={encoder.precision})"


def check_features(
    encoder: Encoder, good: NDArray[np.bool_], ids: Sequence[str], wrong: str = "zero or not finite"
) -> None:
    """Raise McdoError for the first of some images ``ids`` [B] whose features are not ``good`` [B]."""
    if not good.all():
        raise McdoError(f"{encoder.key}: the features of {ids[int(good.argmin())]} are {wrong}; {advice(encoder)}")


def check_finite(encoder: Encoder, finite: Tensor, ids: Sequence[str], first_trial: int = 0) -> None:
    """Raise McdoError for the first pass that is not finite.

    Args:
        encoder: whose passes they are.
        finite: bool ``[K, B, T]``, whether each pass of each trial is finite.
        ids: of the images ``[B]``.
        first_trial: number of the first of these trials.

    """
    bad = finite.logical_not().nonzero()
    if len(bad):
        trial, image, number = bad[0].tolist()
        raise McdoError(
            f"{encoder.key}: pass {number} of {ids[image]} in trial {first_trial + trial} is not finite, though its "
            f"features without perturbation are (so are {len(bad)} of {finite.numel()} passes): {advice(encoder)}"
        )
