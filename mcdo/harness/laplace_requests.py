"""Laplace scores of images, from posteriors fitted on calibration images that share no origin with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.encoders.zero_shot import TEMPLATES, class_prompts, unit
from mcdo.errors import NotApplicableError
from mcdo.estimators import prepared
from mcdo.estimators.by_image import of_every_image
from mcdo.estimators.laplace import Laplace, ZeroShot, projection_inputs
from mcdo.estimators.posterior import leverage
from mcdo.harness.requests import Arrays, Images, StoredArrays, TextFeatures
from mcdo.harness.session import Session
from mcdo.harness.settings import Settings
from mcdo.images import ImageSet, Pixels

Array = NDArray[np.float64]


def calibration_images(
    image_set: Callable[[Images], ImageSet], settings: Settings, scored: Images, fit: int
) -> ImageSet:
    """``fit`` images of other origins than ``scored``: the training digits, or others of the same source.

    Args:
        image_set: the images of a request, from a session or a view.
        settings: of the session; the held-out digits have a training split.
        scored: the images that will be scored, degraded or not.
        fit: how many; fewer where there are no more.

    Raises:
        NotApplicableError: if the image set has none to spare.

    """
    if settings.images == "digits" and scored.source is None:
        return image_set(Images(fit, "digits:train"))
    taken = image_set(Images(scored.n, scored.source))
    pool = image_set(Images(None if scored.n is None else scored.n + fit, scored.source))
    origins = set(taken.origins)
    rest = [i for i, origin in enumerate(pool.origins) if origin not in origins]
    if not rest:
        raise NotApplicableError(
            f"{pool.name}: all {len(pool)} images are scored, or share an origin with one that is, so none is left to "
            "fit a Laplace posterior on; score fewer"
        )
    spread = np.linspace(0, len(rest) - 1, min(fit, len(rest))).round().astype(int)
    return pool.select([rest[i] for i in spread])


@dataclass(frozen=True)
class Fitted(StoredArrays):
    """What follows from ``fit`` calibration images of other origins than ``shown``."""

    needs_classes = True

    shown: Images
    fit: int

    def calibration(self, session: Session) -> ImageSet:
        return calibration_images(session.image_set, session.settings, self.shown, self.fit)

    def identity(self, session: Session) -> Mapping[str, Any]:
        fitted = self.calibration(session)
        return {"fit": fitted.fingerprint, "classes": list(fitted.class_names), "template": TEMPLATES[0]}

    def posteriors(self, session: Session) -> tuple[Laplace, Laplace, Array]:
        """Over the zero-shot head and over the projection, with the features that they were fitted from."""
        fitted = self.calibration(session)
        held = session.measure(LaplaceCalibration(self.model, replace(self.shown, degradation=None), self.fit))
        norm, bias, softmax = held["constants"].tolist()
        head = ZeroShot(held["weights"], bias, "softmax" if softmax else "sigmoid")
        return (
            Laplace.last_layer(head, held["features"], fitted.origins),
            Laplace.projection(head, held["inputs"], held["features"], fitted.origins, norm),
            held["features"],
        )


@dataclass(frozen=True)
class LaplaceCalibration(Fitted):
    """What posteriors are fitted from.

    ``inputs`` [M, I] of the last linear map and ``features`` [M, D] of the calibration images, ``weights`` [C, D] of
    the zero-shot head, and ``constants`` [3]: squared norm of the map's weights, the head's bias, and 1 for a softmax.
    """

    what = "laplace calibration"

    def compute(self, session: Session) -> Arrays:
        encoder, fitted = session.encoder(self.model), self.calibration(session)
        inputs, features, norm = captured(encoder, prepared(encoder, fitted), session, self)
        prompts = class_prompts(encoder, fitted)
        text = session.measure(TextFeatures(self.model, prompts))["features"][: len(fitted.class_names)]
        head = ZeroShot.of(encoder, text)
        constants = np.array([norm, head.bias, encoder.loss == "softmax"], dtype=np.float64)
        return {"inputs": inputs, "features": features, "weights": head.weights, "constants": constants}


@dataclass(frozen=True)
class LaplaceScores(Fitted):
    """Scores [N] of ``shown`` by name, larger meaning more uncertain.

    ``head_…`` and ``projection_…`` as :meth:`mcdo.estimators.laplace.Laplace.scores`; ``leverage`` is the published
    score in its full form, on unit features with ridge 1. Also ``prior_head`` and ``prior_projection`` [1], the prior
    precisions that the evidence chose, and ``weight_norm`` [1].
    """

    what = "laplace"

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {**super().identity(session), "images": session.image_set(self.shown).fingerprint}

    def compute(self, session: Session) -> Arrays:
        encoder, images = session.encoder(self.model), session.image_set(self.shown)
        head, projection, fit_features = self.posteriors(session)
        inputs, features, norm = captured(encoder, session.pixels(self.model, self.shown), session, self)
        return {
            **{f"head_{name}": score for name, score in head.scores(images, features).items()},
            **{f"projection_{name}": score for name, score in projection.scores(images, features, inputs).items()},
            "leverage": leverage(unit(features), unit(fit_features)),
            "prior_head": np.array([head.prior_precision]),
            "prior_projection": np.array([projection.prior_precision]),
            "weight_norm": np.array([np.sqrt(norm)]),
        }


def captured(encoder: Encoder, pixels: Pixels, session: Session, request: Fitted) -> tuple[Array, Array, float]:
    """Inputs of the last linear map ``[N, I]``, features ``[N, D]``, and the squared norm of the map's weights."""

    def look(batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs, features, norm = projection_inputs(encoder, batch)
        return inputs.cpu().double(), features.cpu().double(), torch.full((len(batch),), norm, dtype=torch.float64)

    with session.unmuted():
        inputs, features, norms = of_every_image(
            encoder, pixels, look, session.settings.batch_size, session.progress(request), session.parts
        )
    return inputs, features, float(norms[0])
