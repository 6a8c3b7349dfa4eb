"""Monte Carlo dropout on the meta-learner, and the triage that S2 builds on it.

S2's code calls ``model.train()``, which also puts BatchNorm into training mode: an image's prediction then depends on
the images beside it, and the test images change the network. Here only dropout is on. Masks are keyed by (seed, image
id), with one row per pass, so neither the batch nor the number of passes changes an earlier pass.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
import torch
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError
from mcdo.names import as_bytes
from mcdo.studies.subtasks.network import Perceptron
from mcdo.studies.subtasks.splits import Split

Floats = NDArray[np.float64]
Reading = Literal["probability", "calibrated", "logit"]
READINGS: tuple[Reading, ...] = ("probability", "calibrated", "logit")
CLASSES = ("review", "accept", "spot_check")
_IMAGES = 64


def mc_logits(network: Perceptron, split: Split, x: NDArray[np.float32], passes: int = 25, seed: int = 0) -> Floats:
    """Logits under dropout, float64 [passes, N, C], for inputs ``x`` [N, inputs] of the images of ``split``.

    Raises McdoError for a network without dropout, or fewer than two passes.
    """
    p = network.architecture.dropout
    if p == 0 or passes < 2:
        raise McdoError(f"dropout {p}, passes {passes}: Monte Carlo dropout needs dropout and at least 2 passes")
    network.eval()  # BatchNorm by its running statistics; the masks come from outside
    device = next(network.parameters()).device
    blocks = []
    with torch.inference_mode():
        for start in range(0, len(x), _IMAGES):
            rows = slice(start, start + _IMAGES)
            kept = np.stack([keyed_keeps(network, image_id, passes, seed) for image_id in split.ids[rows]], axis=1)
            masks = torch.from_numpy(kept).to(device).flatten(0, 1) / (1 - p)
            shown = torch.from_numpy(x[rows].copy()).to(device).repeat(passes, 1)
            found = network(shown, torch.split(masks, list(network.architecture.hidden), dim=1))
            blocks.append(found.reshape(passes, kept.shape[1], -1).double().cpu().numpy())
    return np.concatenate(blocks, axis=1)


def keyed_keeps(network: Perceptron, image_id: str, passes: int, seed: int) -> NDArray[np.float32]:
    """Which hidden units stay, 0 or 1, float32 [passes, all hidden units], drawn from (seed, image id)."""
    key = int.from_bytes(hashlib.sha256(as_bytes(f"subtasks {seed} {image_id}")).digest()[:16], "big")
    source = np.random.Generator(np.random.Philox(key=key))
    units = sum(network.architecture.hidden)
    drawn = source.random((passes, units), dtype=np.float32)
    return np.asarray(drawn >= network.architecture.dropout, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Per image [N]: predicted class of the mean over passes, its mean probability, and the standard deviation."""

    predicted: NDArray[np.int64]
    confidence: Floats
    std: Floats


def uncertainty(samples: ArrayLike, reading: Reading = "probability", temperature: float = 1.0) -> Uncertainty:
    """What triage needs, from logits [passes, N, C].

    "probability" is S2's code as written for a network that returns probabilities: std over passes (ddof 1, as
    torch.std) of the probability of the predicted class. "calibrated": the same of softmax(logits / temperature).
    "logit": std of the logit of the predicted class, beside the confidence of "probability".
    """
    logits = np.asarray(samples, dtype=np.float64)
    probabilities = scipy.special.softmax(logits / (temperature if reading == "calibrated" else 1.0), axis=-1)
    mean = probabilities.mean(axis=0)
    predicted = mean.argmax(axis=1)
    rows = np.arange(len(predicted))
    spread = logits if reading == "logit" else probabilities
    return Uncertainty(predicted, mean[rows, predicted], spread[:, rows, predicted].std(axis=0, ddof=1))


def triage(
    confidence: ArrayLike,
    std: ArrayLike,
    review_std: float = 0.35,
    accept_std: float = 0.25,
    accept_confidence: float = 0.90,
) -> NDArray[np.int64]:
    """Index into ``CLASSES`` [N]: std > .35 review; else confidence > .90 and std < .25 accept; else spot-check."""
    sure, wide = np.asarray(confidence, dtype=np.float64), np.asarray(std, dtype=np.float64)
    accept = (sure > accept_confidence) & (wide < accept_std)
    return np.where(wide > review_std, 0, np.where(accept, 1, 2)).astype(np.int64)
