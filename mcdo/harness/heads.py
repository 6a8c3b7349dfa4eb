"""What a head says of the images, and whether that is anything: one of random weights has targets too, of nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.images import ImageSet
from mcdo.stats import AmbiguityTargets, Estimate, above_chance, ambiguity_targets, share


@dataclass(frozen=True)
class ReadHead:
    """What the zero-shot head says of images; that of class prototypes, for an encoder without a text tower.

    Attributes:
        targets: "softmax", and of a zero-shot head "sigmoid", of prototypes "neighbours".
        accuracy: where labels are known.
        advantage: of the accuracy over always naming the largest class; None without labels.

    """

    targets: Mapping[str, AmbiguityTargets]
    accuracy: Estimate | None
    advantage: Estimate | None

    @property
    def by_prototypes(self) -> bool:
        """Whether there is no text tower, and the head is one of class prototypes."""
        return "neighbours" in self.targets

    @property
    def head_reason(self) -> str:
        """Why the targets mean nothing, or "": the head must be right more often than a constant answer.

        Without labels nobody can tell.
        """
        if self.accuracy is None or self.advantage is None or self.advantage.low > 0:
            return ""
        head, look = ("prototype head", "encoder") if self.by_prototypes else ("zero-shot head", "text tower")
        return (
            f"the {head} is right on {self.accuracy}, which is {self.advantage} more than always naming the largest "
            f"class, as random weights would at best: its entropy is no ambiguity; look at the weights of the {look}"
        )


def read_head(read: dict[str, NDArray[Any]], images: ImageSet, seed: int) -> ReadHead:
    """Of what :class:`~mcdo.harness.Logits` gives of ``images``."""
    labels, origins = images.labels, images.origins
    softmax = ambiguity_targets(read["logits"], labels)
    other = (
        {"neighbours": ambiguity_targets(read["neighbours"], labels)}
        if "neighbours" in read
        else {"sigmoid": ambiguity_targets(read["logits"], labels, head="sigmoid")}
    )
    targets = {"softmax": softmax, **other}
    if softmax.correct is None or labels is None:
        return ReadHead(targets, None, None)
    advantage = above_chance(softmax.correct, labels, origins=origins, seed=seed)
    return ReadHead(targets, share(softmax.correct, origins=origins), advantage)


def target_arrays(targets: AmbiguityTargets) -> dict[str, NDArray[Any]]:
    """As files hold them under the published names, [N] each; what there is not is empty."""
    sensitivity = targets.prompt_sensitivity
    return {
        "margin": -targets.neg_margin,
        "entropy": targets.entropy,
        "prompt_sensitivity": np.array([]) if sensitivity is None else sensitivity,
    }
