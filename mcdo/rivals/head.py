"""Scores of the zero-shot head: how sure one pass is of its class."""

from __future__ import annotations

import numpy as np
import scipy

from mcdo.rivals import logits
from mcdo.rivals.seen import Array, Seen
from mcdo.rivals.table import rival


@rival("head")
def mcm(seen: Seen) -> Array:
    """Minus the largest softmax of the cosines at temperature 1: maximum concept matching (Ming et al. 2022)."""
    return -np.asarray(scipy.special.softmax(_cosines(seen), axis=1).max(axis=1))


@rival("head")
def msp(seen: Seen) -> Array:
    """Minus the largest softmax of the head's own logits (Hendrycks & Gimpel 2017)."""
    return -np.asarray(scipy.special.softmax(_logits(seen), axis=1).max(axis=1))


@rival("head")
def energy(seen: Seen) -> Array:
    """Minus the log-sum-exp of the logits (Liu et al. 2020)."""
    return -np.asarray(scipy.special.logsumexp(_logits(seen), axis=1))


@rival("head")
def max_cosine(seen: Seen) -> Array:
    """Minus the largest cosine with a class prompt."""
    return -np.asarray(_cosines(seen).max(axis=1))


@rival("head")
def entropy(seen: Seen) -> Array:
    """Entropy of the softmax of the logits."""
    return logits.entropy(_logits(seen))


@rival("head")
def margin(seen: Seen) -> Array:
    """Minus the difference of the two largest logits."""
    return -logits.margin(_logits(seen))


@rival("sigmoid head")
def sigmoid_entropy(seen: Seen) -> Array:
    """Mean over classes of the entropy of a yes or no."""
    return logits.sigmoid_entropy(_logits(seen))


@rival("sigmoid head")
def sigmoid_margin(seen: Seen) -> Array:
    """Minus the difference of the two largest sigmoids."""
    return -logits.sigmoid_margin(_logits(seen))


def _logits(seen: Seen) -> Array:
    assert seen.logits is not None
    return seen.logits


def _cosines(seen: Seen) -> Array:
    assert seen.cosines is not None
    return seen.cosines
