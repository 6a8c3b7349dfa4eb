"""Laplace scores of images on the bench, for exp6 and exp9: fitted on calibration images, computed once and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo.encoders import Encoder
from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.errors import McdoError
from mcdo.estimators import prepared
from mcdo.estimators.laplace import Laplace, ZeroShot, projection_inputs
from mcdo.estimators.posterior import leverage
from mcdo.estimators.scores import pixel_rows
from mcdo.experiments.bench import Bench
from mcdo.images import ImageSet, Pixels
from mcdo.perturbation import PASS_BLOCK, Perturbation, deterministic_features, image_keys, perturbed
from mcdo.threads import one_thread

Array = NDArray[np.float64]


def calibration_images(bench: Bench, n: int, fit: int) -> ImageSet:
    """``fit`` images of other origins than the session's first ``n``: the training digits, or others of the folder.

    Raises:
        McdoError: if the image set has none to spare.

    """
    if bench.settings.images == "digits":
        return bench.images(fit, "digits:train")
    scored, pool = set(bench.images(n).origins), bench.images(n + fit)
    rest = [i for i, origin in enumerate(pool.origins) if origin not in scored]
    if not rest:
        raise McdoError(
            f"{pool.name}: all {len(pool)} images are scored, so none is left to fit a Laplace posterior on; "
            "score fewer"
        )
    spread = np.linspace(0, len(rest) - 1, min(fit, len(rest))).round().astype(int)
    return pool.select([rest[i] for i in spread])


def laplace_scores(bench: Bench, model: str, n: int, fit: int, degradation: str | None = None) -> dict[str, Array]:
    """Scores [N] of the session's first ``n`` images, by name.

    ``head_…`` and ``projection_…`` as :meth:`mcdo.estimators.laplace.Laplace.scores`; ``leverage`` is the published
    score in its full form, on unit features with ridge 1. Also ``prior_head`` and ``prior_projection`` [1], the prior
    precisions that the evidence chose, and ``weight_norm`` [1].
    """
    images, fitted = bench.images(n, None, degradation), calibration_images(bench, n, fit)

    def compute() -> dict[str, NDArray[Any]]:
        encoder = bench.encoder(model)
        pixels, rows = bench.pixels(model, n, None, degradation), pixel_rows(encoder, bench.settings.batch_size)
        head, projection, fit_features = _posteriors(bench, model, fitted)
        inputs, features, norm = _captured(encoder, pixels, rows)
        return {
            **{f"head_{name}": score for name, score in head.scores(images, features).items()},
            **{f"projection_{name}": score for name, score in projection.scores(images, features, inputs).items()},
            "leverage": leverage(_unit(features), _unit(fit_features)),
            "prior_head": np.array([head.prior_precision]),
            "prior_projection": np.array([projection.prior_precision]),
            "weight_norm": np.array([np.sqrt(norm)]),
        }

    identity = {**_identity(fitted), "images": images.fingerprint}
    return bench.kept("laplace 1", model, identity, compute)


def _identity(fitted: ImageSet) -> dict[str, Any]:
    return {"fit": fitted.fingerprint, "classes": list(fitted.class_names), "template": TEMPLATES[0]}


def _posteriors(bench: Bench, model: str, fitted: ImageSet) -> tuple[Laplace, Laplace, Array]:
    """Both posteriors and the calibration features; what they are fitted from is measured once."""

    def compute() -> dict[str, NDArray[Any]]:
        encoder = bench.encoder(model)
        inputs, features, norm = _captured(
            encoder, prepared(encoder, fitted), pixel_rows(encoder, bench.settings.batch_size)
        )
        head = ZeroShot.of(encoder, fitted.class_names, TEMPLATES[0])
        constants = np.array([norm, head.bias, encoder.loss == "softmax"], dtype=np.float64)
        return {"inputs": inputs, "features": features, "weights": head.weights, "constants": constants}

    held = bench.kept("laplace calibration 1", model, _identity(fitted), compute)
    norm, bias, softmax = held["constants"].tolist()
    head = ZeroShot(held["weights"], bias, "softmax" if softmax else "sigmoid")
    return (
        Laplace.last_layer(head, held["features"], fitted.origins),
        Laplace.projection(head, held["inputs"], held["features"], fitted.origins, norm),
        held["features"],
    )


def runtimes(bench: Bench, model: str, n: int, fit: int, dropout: Perturbation, passes: int, seed: int) -> Array:
    """Seconds for 64 images, [4]: one plain pass, T perturbed passes, and a pass with each Laplace score.

    The least of three repetitions, on one thread. Only their ratios mean anything on a shared machine. The fit itself,
    which is paid once, is left out.
    """
    images, fitted = bench.images(n), calibration_images(bench, n, fit)
    few = images.select(slice(0, 64))

    def compute() -> dict[str, NDArray[Any]]:
        encoder = bench.encoder(model)
        head, projection, _ = _posteriors(bench, model, fitted)
        pixels = prepared(encoder, few).batch(slice(None))
        keys = image_keys(few.mask_ids, encoder.device)

        def plain() -> NDArray[np.float32]:
            return np.asarray(deterministic_features(encoder, pixels).cpu().numpy())

        def by_dropout() -> None:
            with perturbed(encoder, dropout, seed) as tower:
                for block in range(-(-passes // PASS_BLOCK)):
                    tower(pixels, keys, 0, block, 0, min(PASS_BLOCK, passes - block * PASS_BLOCK)).cpu()

        def by_projection() -> None:
            inputs, features, _ = projection_inputs(encoder, pixels)
            projection.scores(few, features.cpu().numpy(), inputs.cpu().numpy())

        jobs: tuple[Callable[[], object], ...] = (
            plain, by_dropout, lambda: head.scores(few, plain()), by_projection,
        )  # fmt: skip
        return {"seconds": np.array([_least_seconds(job) for job in jobs])}

    identity = {
        "images": few.fingerprint,
        "fit": fitted.fingerprint,
        "dropout": dropout.as_dict(),
        "passes": passes,
        "seed": seed,
    }
    return bench.kept("laplace runtimes 1", model, identity, compute)["seconds"]


def _least_seconds(job: Callable[[], object], repetitions: int = 3) -> float:
    taken = []
    with one_thread():
        for _ in range(repetitions + 1):  # the first warms caches up
            start = time.perf_counter()
            job()
            taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _captured(encoder: Encoder, pixels: Pixels, rows: int) -> tuple[Array, Array, float]:
    """Inputs of the last linear map ``[N, M]``, features ``[N, D]``, and the squared norm of the map's weights."""
    parts = [projection_inputs(encoder, pixels.batch(slice(i, i + rows))) for i in range(0, len(pixels), rows)]
    inputs = torch.cat([part[0].cpu() for part in parts]).double().numpy()
    features = torch.cat([part[1].cpu() for part in parts]).double().numpy()
    return inputs, features, parts[0][2]


def _unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))
