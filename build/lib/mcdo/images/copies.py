"""Whether images look like each other: photos saved again, resized or a little damaged are no draws of their own.

What a picture looks like is its brightness on a grid of 8 × 8, and how alike two are the correlation of these. Of sixty
photos no two came above .74; saved as JPEG of quality 30, halved, under noise of 10 grey levels or a blur of 5 pixels
each stayed above .995 with itself. A crop by a twentieth at each side (.94) and a mirror image are not seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import LookAlikeWarning

_SIDE = 8
_LEAST_SPREAD = 2.0
"""Grey levels (standard deviation) below which a picture is too plain to be told from another."""
_ALIKE = 0.99
_MANY = 0.05
_MOST_COMPARED = 4000

Look = NDArray[np.float32]


def look_of(image: Image.Image) -> Look | None:
    """The 64 values of ``image``, centred and of length 1; None for one that is too plain."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX, reducing_gap=2.0).convert("L")
    grey = np.asarray(small, dtype=np.float32).ravel()
    grey -= grey.mean()
    return None if grey.std() < _LEAST_SPREAD else grey / np.linalg.norm(grey)


def share_of_look_alikes(looks: Mapping[str, Look | None], seed: int = 0) -> float:
    """The share of ``looks`` (by content, so that exact copies are one) that have another one like them.

    Of more than 4 000 a random 4 000 are compared, so of large sets only those with several look-alikes each are seen.
    """
    held = list(looks.values())
    if len(held) > _MOST_COMPARED:
        chosen = np.random.default_rng(seed).choice(len(held), _MOST_COMPARED, replace=False)
        held = [held[i] for i in chosen]
    known = [each for each in held if each is not None]
    if len(known) < 2:
        return 0.0
    stacked = np.stack(known)
    alike = stacked @ stacked.T
    np.fill_diagonal(alike, -1.0)
    return float((alike.max(axis=1) > _ALIKE).sum()) / len(held)


def warn_of_look_alikes(where: str, looks: Mapping[str, Look | None]) -> None:
    """Say where more images than a few look like another, though each counts as an original of its own."""
    share = share_of_look_alikes(looks)
    if share > _MANY:
        warnings.warn(
            f"{where}: {share:.0%} of the images look like another one. Each counts as an original of its own; if they "
            "are versions of the same photo, intervals are too narrow: name the original of each in the column origin "
            "of csv:FILE.csv",
            LookAlikeWarning,
            stacklevel=3,
        )
