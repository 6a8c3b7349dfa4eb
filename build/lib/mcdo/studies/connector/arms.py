"""The arms of the ablation: what stands in the places of the visual tokens.

correct, shuffled (another item's image), zeroed, noise (Gaussian with the mean and standard deviation of the projected
embeddings, over all of their entries), blank (an image of one colour, through tower and projector), and caption_only
(no visual tokens at all). Random numbers follow from (seed, item), so batches cannot change them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.errors import McdoError
from mcdo.studies.connector.models import ConnectorModel

CORRECT, CAPTION_ONLY = "correct", "caption_only"
ARMS = (CORRECT, "shuffled", "zeroed", "noise", "blank", CAPTION_ONLY)
_SHUFFLED, _NOISE = 1, 2


def derangement(images: Sequence[Hashable], seed: int) -> NDArray[np.intp]:
    """For each item the place of another item whose image is a different one, [N]; a permutation.

    Items are laid in a seeded random order with equal images side by side, and each takes the image that lies as many
    places further as the most frequent image is frequent. Where all images differ, that is one random cycle.

    Raises:
        McdoError: where more than half of the items share an image, so that none exists (or there are fewer than two).

    """
    rng = np.random.default_rng([seed, _SHUFFLED])
    counts = Counter(images)
    if len(images) < 2 or 2 * (most := max(counts.values())) > len(images):
        raise McdoError(f"{len(images)} items cannot all be given another image: too many share one; add other images")
    turn = dict(zip(counts, rng.permutation(len(counts)), strict=True))
    order = np.lexsort((rng.permutation(len(images)), [turn[image] for image in images]))
    other = np.empty(len(images), dtype=np.intp)
    other[order] = np.roll(order, -most)
    return other


def noise_like(visual: Tensor, seed: int) -> Tensor:
    """Gaussian embeddings [N, V, E] with the mean and standard deviation of all entries of ``visual``."""
    mean, std = float(visual.double().mean()), float(visual.double().std())
    rows = [np.random.default_rng([seed, _NOISE, i]).normal(mean, std, visual.shape[1:]) for i in range(len(visual))]
    return torch.from_numpy(np.stack(rows)).to(visual)


def visual_for(
    arm: str, model: ConnectorModel, visual: Tensor, blank: Tensor, images: Sequence[Hashable], seed: int
) -> Tensor | None:
    """The visual embeddings [N, V, E] of an arm; None for caption_only.

    Args:
        arm: one of ARMS.
        model: makes the embeddings of the blank image.
        visual: projected embeddings of the items' own images, [N, V, E].
        blank: the blank image, normalised, [1, 3, H, W].
        images: which image each item has; the shuffled one differs from it.
        seed: of derangement and noise.

    """
    if arm == CAPTION_ONLY:
        return None
    if arm == "shuffled":
        return visual[torch.from_numpy(derangement(images, seed))]
    if arm == "zeroed":
        return torch.zeros_like(visual)
    if arm == "noise":
        return noise_like(visual, seed)
    if arm == "blank":
        with torch.no_grad():
            return model.visual(blank).to(visual).expand_as(visual)
    if arm != CORRECT:
        raise McdoError(f"there is no arm {arm!r}; name one of {', '.join(ARMS)}")
    return visual
