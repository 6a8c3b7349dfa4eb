"""Laplace: what the curvature of the zero-shot loss says about single weights of a frozen encoder.

Two linear maps are served: the zero-shot head itself (the class weights, "last layer"), and the last linear map of the
image tower (the projection). Their posteriors are fitted on *calibration* images; one deterministic pass then gives the
variance that the posterior causes in the logits of any other image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.encoders.zero_shot import unit
from mcdo.errors import McdoError
from mcdo.estimators.posterior import Array, Likelihood, Posterior, fit_posterior, output_curvature, slices
from mcdo.images import ImageSet
from mcdo.perturbation.intercept import Compute, LinearMaps
from mcdo.perturbation.sites import find_sites


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """The zero-shot head of an encoder: ``weights`` s·t̂ [C, D] (scale times unit text features), and its ``bias``."""

    weights: Array
    bias: float
    likelihood: Likelihood

    @classmethod
    def of(cls, encoder: Encoder, text: ArrayLike) -> ZeroShot:
        """The head of text features [C, D], one prompt a class; its likelihood is the encoder's loss in training."""
        return cls(encoder.logit_scale * unit(text), encoder.logit_bias, encoder.loss)

    def logits(self, features: ArrayLike) -> Array:
        """``[N, D]`` pre-norm features to ``[N, C]``."""
        return np.asarray(unit(features) @ self.weights.T + self.bias)

    def jacobian(self, features: ArrayLike) -> Array:
        """∂ logits/∂ feature, ``[N, C, D]``: (I − f̂ f̂ᵀ)/|f| in front of the weights."""
        f, hat = np.asarray(features, dtype=np.float64), unit(features)
        along = hat @ self.weights.T
        turned = self.weights - along[:, :, None] * hat[:, None, :]
        return np.asarray(turned / np.linalg.norm(f, axis=1)[:, None, None])


@dataclass(frozen=True, eq=False)
class Laplace:
    """A fitted posterior, the head that it is read through, and the origins it was fitted on, which it may not score.

    ``layer`` says which map: "head", whose input is the unit feature, or "projection", whose input is captured by
    :func:`projection_inputs` and whose output is the pre-norm feature (up to what is added to it).
    """

    layer: Literal["head", "projection"]
    head: ZeroShot
    posterior: Posterior
    fitted_on: frozenset[str]

    @property
    def prior_precision(self) -> float:
        """The prior precision that was stated, or that maximised the evidence."""
        return self.posterior.prior_precision

    @classmethod
    def last_layer(
        cls, head: ZeroShot, features: ArrayLike, origins: Sequence[str], *, prior_precision: float | None = None
    ) -> Laplace:
        """Over the class weights, from pre-norm ``features`` [N, D] of calibration images, and their ``origins``."""
        x, logits = unit(_paired(features, origins)), head.logits(features)

        def curvature(part: slice) -> Array:
            return output_curvature(logits[part], head.likelihood)

        norm = float(np.square(head.weights).sum())
        posterior = fit_posterior(x, curvature, len(head.weights), norm, prior_precision=prior_precision)
        return cls("head", head, posterior, frozenset(origins))

    @classmethod
    def projection(
        cls,
        head: ZeroShot,
        inputs: ArrayLike,
        features: ArrayLike,
        origins: Sequence[str],
        squared_norm: float,
        *,
        prior_precision: float | None = None,
        structure: Literal["full", "kronecker"] = "kronecker",
    ) -> Laplace:
        """Over the tower's last linear map, from its ``inputs`` [N, M] and the ``features`` [N, D] that follow.

        ``squared_norm`` is that of the map's weights.
        """
        f, logits = _paired(features, origins), head.logits(features)

        def curvature(part: slice) -> Array:
            J = head.jacobian(f[part])
            return np.asarray(J.transpose(0, 2, 1) @ output_curvature(logits[part], head.likelihood) @ J)

        posterior = fit_posterior(
            _paired(inputs, origins), curvature, f.shape[1], squared_norm, structure=structure,
            prior_precision=prior_precision,
        )  # fmt: skip
        return cls("projection", head, posterior, frozenset(origins))

    def scores(
        self, images: ImageSet | Sequence[str], features: ArrayLike, inputs: ArrayLike | None = None
    ) -> dict[str, Array]:
        """Per image [N] of ``images`` (a set, or ids): larger is more uncertain.

        - logit_variance: mean over classes of the posterior variance of the logit;
        - margin_variance: of the difference between the two largest logits;
        - feature_variance (projection only): mean over dimensions of the variance of the pre-norm feature, the
          counterpart of trace_pre.

        Raises:
            McdoError: if an image of the same origin took part in the fit, or the projection's ``inputs`` are missing.

        """
        f, x = self._inputs(images, features, inputs)
        parts = [self._scores(f[part], x[part]) for part in slices(len(f), self.head.weights.size * 2)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def feature_variances(self, images: ImageSet | Sequence[str], features: ArrayLike, inputs: ArrayLike) -> Array:
        """Of the projection: the variance of each dimension of the pre-norm feature, [N, D].

        Raises:
            McdoError: as :meth:`scores`.

        """
        if self.layer != "projection":
            raise McdoError("the head's posterior leaves the features as they are; ask that of the projection")
        f, x = self._inputs(images, features, inputs)
        return self.posterior.variance_along(x, np.eye(f.shape[1]))

    def _inputs(
        self, images: ImageSet | Sequence[str], features: ArrayLike, inputs: ArrayLike | None
    ) -> tuple[Array, Array]:
        """Features [N, D], and what the layer is given [N, M]."""
        ids = images.ids if isinstance(images, ImageSet) else tuple(images)
        names = (*ids, *images.mask_ids, *images.origins) if isinstance(images, ImageSet) else ids
        seen = self.fitted_on.intersection(names)
        if seen:
            raise McdoError(
                f"{len(seen)} of the scored originals were fitted on, such as {min(seen)}: use other images"
            )
        f = _paired(features, ids)
        if self.layer == "head":
            return f, unit(f)
        if inputs is None:
            raise McdoError("the projection's posterior needs the inputs of the projection: projection_inputs()")
        return f, _paired(inputs, ids)

    def _scores(self, f: Array, x: Array) -> dict[str, Array]:
        top = np.argsort(self.head.logits(f), axis=1)[:, -2:]
        J = np.eye(len(self.head.weights)) if self.layer == "head" else self.head.jacobian(f)
        each = np.broadcast_to(J, (len(f), *J.shape[-2:]))
        margin = np.take_along_axis(each, top[:, 1:, None], 1) - np.take_along_axis(each, top[:, :1, None], 1)
        scores = {
            "logit_variance": self.posterior.variance_along(x, J).mean(1),
            "margin_variance": self.posterior.variance_along(x, margin)[:, 0],
        }
        if self.layer == "projection":
            scores["feature_variance"] = self.posterior.variance_along(x, np.eye(f.shape[1])).mean(1)
        return scores


@torch.inference_mode()
def projection_inputs(encoder: Encoder, pixels: Tensor) -> tuple[Tensor, Tensor, float]:
    """What the tower's last linear map is given, with what follows from it.

    Args:
        encoder: the encoder.
        pixels: normalised, ``[B, 3, H, W]``.

    Returns:
        inputs ``[B, M]``, pre-norm features ``[B, D]``, and the squared norm of the map's weights.

    Raises:
        McdoError: if the tower does more with the map's output than to add to it, because the posterior's variance
            would then not be that of the feature.

    """
    last = [site for site in find_sites(encoder).sites if site.calls][-1]
    table, held, shift = find_sites(encoder), [], torch.zeros(encoder.feature_dim, device=encoder.device)
    norm = 0.0

    def keep(x: Tensor) -> Tensor:
        held.append(x)
        return x

    def watch(weight: Tensor, part: str, compute: Compute) -> Tensor:
        nonlocal norm
        site = table.at(weight, part)
        if site is None or site.name != last.name:
            return compute(1.0)
        norm = float(weight.double().square().sum())
        y = compute(1.0, keep)
        return y + shift if last.units == len(shift) else y

    with LinearMaps(watch):
        features = encoder.forward_image(pixels)
    shift = torch.linspace(-1.0, 1.0, len(shift), device=shift.device)
    with LinearMaps(watch):
        moved = encoder.forward_image(pixels[:1]) - features[:1]
    inputs = held[0]
    single = inputs.numel() == len(pixels) * inputs.shape[-1]
    if last.units != encoder.feature_dim or not single or not torch.allclose(moved[0], shift, atol=1e-4):
        raise McdoError(
            f"{encoder.key}: the output of its last linear map {last.name} is not simply added to the feature, so a "
            "posterior over that map says nothing exact about the feature; use the head's posterior"
        )
    return inputs.reshape(len(pixels), -1), features, norm


def _paired(values: ArrayLike, ids: Sequence[str]) -> Array:
    held = np.asarray(values, dtype=np.float64)
    if held.ndim != 2 or len(held) != len(ids):
        raise McdoError(f"values of shape {list(held.shape)} for {len(ids)} images; give [N, D], one row per image")
    return held
