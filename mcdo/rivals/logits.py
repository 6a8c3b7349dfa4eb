"""How unsure is a head of the class? Formulas of its logits [N, C], shared by rivals and by what validity asks for.

Softmax heads are read by the margin of logits and the softmax entropy. Heads trained with a sigmoid loss treat every
class as a question of its own, so for them both exist in terms of sigmoid probabilities.
"""

from __future__ import annotations

import numpy as np
import scipy

from mcdo.rivals.seen import Array


def margin(logits: Array) -> Array:
    """Largest less second largest logit, ``[N, C] -> [N]``; 0 when they tie."""
    high, low = _top_two(logits)
    return high - low


def entropy(logits: Array) -> Array:
    """Entropy of the softmax in nats, ``[N, C] -> [N]``, between 0 and ln C (Shannon 1948)."""
    log_p = scipy.special.log_softmax(logits, axis=1)
    return np.asarray(scipy.special.entr(np.exp(log_p)).sum(axis=1))


def sigmoid_margin(logits: Array) -> Array:
    """σ(largest) − σ(second largest), ``[N, C] -> [N]``, without cancellation: σ(a)σ(−b)(1 − e^(b−a))."""
    high, low = _top_two(logits)
    return np.asarray(scipy.special.expit(high) * scipy.special.expit(-low) * -np.expm1(low - high))


def sigmoid_entropy(logits: Array) -> Array:
    """Mean over classes of the binary entropy of σ(logit) in nats, ``[N, C] -> [N]``, between 0 and ln 2."""
    bits = -scipy.special.expit(logits) * scipy.special.log_expit(logits)
    bits -= scipy.special.expit(-logits) * scipy.special.log_expit(-logits)
    return np.asarray(bits.mean(axis=1))


def _top_two(logits: Array) -> tuple[Array, Array]:
    two = np.partition(logits, logits.shape[1] - 2, axis=1)[:, -2:]
    return two[:, 1], two[:, 0]
