"""Expected cosines under a posterior over both projections (BayesVLM: Baumann et al. 2025).

The last linear maps of the image and of the text tower have one Kronecker-factored Laplace posterior each, so a feature
before normalisation is Gaussian in every dimension, on both sides. Mean and variance of their cosine then have a closed
form, in which each squared norm is replaced by its mean: no sample is drawn, and one pass is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo.encoders.zero_shot import unit
from mcdo.errors import McdoError
from mcdo.estimators.laplace import ZeroShot
from mcdo.estimators.posterior import Array, Posterior, fit_posterior, output_curvature
from mcdo.rivals.logits import entropy

EXPECTED: Mapping[str, str] = {
    "expected_msp": "minus the largest softmax of the expected logits, shrunk by their variance",
    "expected_entropy": "entropy of that softmax",
    "cosine_variance": "variance of the cosine with the likeliest class",
}
"""Scores by name, and what each means; larger is more uncertain."""


@dataclass(frozen=True, eq=False)
class Uncertain:
    """Features before normalisation, ``mean`` and ``variance`` [B, D], dimensions taken as independent."""

    mean: Array
    variance: Array

    @property
    def squared_norm(self) -> Array:
        """Mean of the squared norm, [B]."""
        return np.asarray((self.mean**2 + self.variance).sum(axis=1))


def text_posterior(
    head: ZeroShot,
    features: ArrayLike,
    texts: ArrayLike,
    inputs: ArrayLike,
    squared_norm: float,
    *,
    prior_precision: float | None = None,
) -> Posterior:
    """Over the text tower's last linear map, by Kronecker factors, the image tower being as it is.

    Args:
        head: the zero-shot head that the texts make.
        features: of calibration images, before normalisation [N, D].
        texts: of the class prompts, before normalisation [C, D].
        inputs: of the map for each class prompt [C, M].
        squared_norm: of the map's weights.
        prior_precision: δ; None takes that of the largest evidence.

    Raises:
        McdoError: if texts and inputs are not one row for each class of the head.

    """
    said, x = np.asarray(texts, dtype=np.float64), np.asarray(inputs, dtype=np.float64)
    if said.shape != head.weights.shape or len(x) != len(said):
        raise McdoError(
            f"texts {list(said.shape)} and inputs {list(x.shape)} for a head of {list(head.weights.shape)}; give one "
            "row for each class"
        )
    images, logits = unit(features), head.logits(features)
    weight = np.einsum("ncc->cn", output_curvature(logits, head.likelihood))
    scale = np.linalg.norm(head.weights, axis=1) / np.linalg.norm(said, axis=1)

    def curvature(part: slice) -> Array:
        """∂ logit/∂ text is s (I − t̂ t̂ᵀ) f̂ / |t|; what two classes share is left out, as Kronecker factors do."""
        found = []
        for c in range(*part.indices(len(said))):
            along = unit(said[c])
            J = scale[c] * (images - (images @ along)[:, None] * along)
            found.append((weight[c][:, None] * J).T @ J)
        return np.stack(found)

    return fit_posterior(
        x, curvature, said.shape[1], squared_norm, structure="kronecker", prior_precision=prior_precision
    )


def expected_cosines(images: Uncertain, texts: Uncertain) -> tuple[Array, Array]:
    """Mean and variance of the cosine between each image and each text, both [N, C]."""
    norms = images.squared_norm[:, None] * texts.squared_norm
    mean = images.mean @ texts.mean.T / np.sqrt(norms)
    shared = images.variance @ (texts.mean**2 + texts.variance).T + images.mean**2 @ texts.variance.T
    return mean, shared / norms


def expected_scores(mean: Array, variance: Array, scale: float, bias: float) -> dict[str, Array]:
    """The scores of :data:`EXPECTED`, [N] each, from mean and variance [N, C] of the cosines.

    Logits are ``scale`` times the cosine plus ``bias``; the mean of their softmax is that of the probit approximation,
    z / sqrt(1 + π/8 Var z) (MacKay 1992).
    """
    logits = (scale * mean + bias) / np.sqrt(1 + np.pi / 8 * scale**2 * variance)
    likeliest = logits.argmax(axis=1)[:, None]
    return {
        "expected_msp": -np.asarray(scipy.special.softmax(logits, axis=1).max(axis=1)),
        "expected_entropy": entropy(logits),
        "cosine_variance": np.take_along_axis(variance, likeliest, axis=1)[:, 0],
    }
