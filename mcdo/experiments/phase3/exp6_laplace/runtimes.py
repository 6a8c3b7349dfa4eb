"""What a score costs beside one plain pass: times of the same few images, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.estimators import prepared
from mcdo.estimators.laplace import projection_inputs
from mcdo.harness.laplace_requests import Fitted
from mcdo.harness.requests import Arrays
from mcdo.harness.session import Session
from mcdo.images import ImageSet
from mcdo.perturbation import Perturbation, deterministic_features, image_keys, perturbed
from mcdo.threads import one_thread

TIMED = ("plain", "mc_dropout", "laplace_head", "laplace_projection")
REPETITIONS = 3


@dataclass(frozen=True)
class Runtimes(Fitted):
    """Seconds for the first ``timed`` images: ``seconds`` [4, repetitions] in the order of ``TIMED``.

    One plain pass, T perturbed passes, and a pass with each Laplace score. Only their ratios mean anything on a shared
    machine. The fit itself, which is paid once, is left out.
    """

    what = "laplace runtimes"

    dropout: Perturbation
    passes: int
    seed: int
    timed: int

    def few(self, session: Session) -> ImageSet:
        return session.image_set(self.shown).select(slice(0, self.timed))

    def identity(self, session: Session) -> Mapping[str, Any]:
        protocol = {"dropout": self.dropout.as_dict(), "passes": self.passes, "seed": self.seed}
        return {**super().identity(session), "images": self.few(session).fingerprint, **protocol}

    def compute(self, session: Session) -> Arrays:
        encoder, images = session.encoder(self.model), self.few(session)
        head, projection, _ = self.posteriors(session)
        pixels, keys = prepared(encoder, images).batch(slice(None)), image_keys(images.mask_ids, encoder.device)

        def plain() -> NDArray[np.float32]:
            return np.asarray(deterministic_features(encoder, pixels).cpu().numpy())

        def by_dropout() -> None:
            with perturbed(encoder, self.dropout, self.seed) as tower:
                for piece in tower.passes(pixels, keys, 0, self.passes):
                    piece.cpu()

        def by_projection() -> None:
            inputs, features, _ = projection_inputs(encoder, pixels)
            projection.scores(images, features.cpu().numpy(), inputs.cpu().numpy())

        jobs = (plain, by_dropout, lambda: head.scores(images, plain()), by_projection)
        return {"seconds": np.array([_seconds(job) for job in jobs])}


def in_plain_passes(seconds: NDArray[np.float64]) -> dict[str, float]:
    """The least time of each job as a multiple of that of one plain pass."""
    least = seconds.min(axis=1)
    return {name: float(each / least[0]) for name, each in zip(TIMED, least, strict=True)}


def _seconds(job: Callable[[], object]) -> list[float]:
    taken = []
    with one_thread():
        for _ in range(REPETITIONS + 1):  # the first warms caches up
            start = time.perf_counter()
            job()
            taken.append(time.perf_counter() - start)
    return taken[1:]
