"""How ambiguous is an image to the zero-shot head? Targets from one deterministic pass, for validity tests.

Softmax heads are read by the margin and the softmax entropy of :mod:`mcdo.rivals.logits`, heads trained with a sigmoid
loss by those of sigmoid probabilities, and both by how the top probability changes with the prompt's template.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.rivals import logits as formulas
from mcdo.stats._checks import Array, finite, flags, images, numbers
from mcdo.stats.resampling import Estimate, Origins

Head = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class AmbiguityTargets:
    """Per image, larger meaning more ambiguous: ``neg_margin``, ``entropy``, ``prompt_sensitivity`` (each [N]).

    ``prompt_sensitivity`` is None with fewer than two templates, ``correct`` without labels; ``predicted`` is the
    class index that the first template gives.
    """

    neg_margin: Array
    entropy: Array
    prompt_sensitivity: Array | None
    correct: NDArray[np.bool_] | None
    predicted: NDArray[np.intp]


def ambiguity_targets(
    logits: ArrayLike, labels: ArrayLike | None = None, *, head: Head = "softmax"
) -> AmbiguityTargets:
    """Targets from ``logits`` [N, C], or [templates, N, C], and class indices ``labels`` [N] where known.

    Margin, entropy, prediction and correctness come from the first template, as published; prompt sensitivity from
    all. Fewer than two classes, a label outside 0…C−1, NaN and infinity are errors.
    """
    _check_head(head)
    stack = numbers("logits", logits)
    stack = _checked(stack[None] if stack.ndim == 2 else stack, ("template", "image", "class"))
    first = stack[0]
    softmax, predicted = head == "softmax", first.argmax(axis=1)
    return AmbiguityTargets(
        neg_margin=-(formulas.margin if softmax else formulas.sigmoid_margin)(first),
        entropy=(formulas.entropy if softmax else formulas.sigmoid_entropy)(first),
        prompt_sensitivity=prompt_sensitivity(stack, head=head) if len(stack) > 1 else None,
        correct=None if labels is None else predicted == _labels(labels, *first.shape),
        predicted=predicted,
    )


def above_chance(correct: ArrayLike, labels: ArrayLike, *, origins: Origins | None = None, seed: int = 0) -> Estimate:
    """Accuracy of a head less that of always naming the largest class, in pairs of images, [N] each.

    A head of random weights knows nothing of the classes, so at best it is as often right as that.
    """
    from mcdo.stats.means import mean

    right, known = images(2, correct=correct, labels=labels)
    classes, counts = np.unique(known, return_counts=True)
    gain = flags("correct", right).astype(np.float64) - (known == classes[counts.argmax()])
    return mean(gain, origins=origins, seed=seed)


def prompt_sensitivity(logits: ArrayLike, *, head: Head = "softmax") -> Array:
    """Sample variance (ddof 1) over templates of the top probability, ``[templates, N, C] -> [N]``, templates >= 2."""
    _check_head(head)
    stack = _checked(numbers("logits", logits), ("template", "image", "class"))
    if len(stack) < 2:
        raise McdoError("prompt sensitivity needs logits of at least 2 templates, shape [templates, N, C]")
    top = stack.max(axis=2)
    probability = (
        np.exp(top - scipy.special.logsumexp(stack, axis=2)) if head == "softmax" else scipy.special.expit(top)
    )
    return np.asarray((probability - probability[0]).var(axis=0, ddof=1))


def _check_head(head: str) -> None:
    if head not in ("softmax", "sigmoid"):
        raise McdoError(f"head {head!r}; give softmax or sigmoid")


def _checked(array: Array, axes: tuple[str, ...]) -> Array:
    if array.ndim != len(axes) or 0 in array.shape:
        raise McdoError(f"logits have shape {list(array.shape)}; give [{', '.join(axes)}]")
    if array.shape[-1] < 2:
        raise McdoError("logits of one class only: an image cannot be ambiguous; give at least two classes")
    finite("logits", array, axes)
    return array


def _labels(labels: ArrayLike, N: int, C: int) -> Array:
    known = numbers("labels", labels)
    if known.shape != (N,):
        raise McdoError(f"labels have shape {list(known.shape)}; give [{N}], one per image")
    bad = np.flatnonzero(~((known >= 0) & (known < C) & (known == np.floor(known))))
    if len(bad):
        raise McdoError(f"label {known[bad[0]]} at image {bad[0]}; the logits have classes 0 to {C - 1}")
    return known
