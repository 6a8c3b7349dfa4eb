"""Whether a head says anything of the images: one of random weights has targets as well, of nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcdo.images import ImageSet
from mcdo.stats import AmbiguityTargets, Estimate, above_chance, ambiguity_targets, share


def head_reason(accuracy: Estimate | None, advantage: Estimate | None, *, by_prototypes: bool = False) -> str:
    """Why a head's targets mean nothing, or ""."""
    if accuracy is None or advantage is None or advantage.low > 0:
        return ""
    head, look = ("prototype head", "encoder") if by_prototypes else ("zero-shot head", "text tower")
    return (
        f"the {head} is right on {accuracy}, which is {advantage} more than always naming the largest class, as random "
        f"weights would at best: its entropy is no ambiguity; look at the weights of the {look}"
    )


def advantage_of(targets: AmbiguityTargets, images: ImageSet, seed: int) -> Estimate | None:
    """Of a head's accuracy over always naming the largest class; None without labels."""
    if targets.correct is None or images.labels is None:
        return None
    return above_chance(targets.correct, images.labels, origins=images.origins, seed=seed)


def reason_of(read: Mapping[str, Any], images: ImageSet, seed: int) -> str:
    """Why the targets of logits mean nothing, or ""; ``read`` is what :class:`~mcdo.harness.Logits` gives."""
    targets = ambiguity_targets(read["logits"], images.labels)
    accuracy = None if targets.correct is None else share(targets.correct, origins=images.origins)
    return head_reason(accuracy, advantage_of(targets, images, seed), by_prototypes="neighbours" in read)
