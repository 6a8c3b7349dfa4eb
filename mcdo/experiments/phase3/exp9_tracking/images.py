"""Exp9 on images: detections are degraded images, and the uncertainties are those of the encoder that sees them.

Originals are dealt into groups, one original for each object of a scene. Sequences of one group show the same
originals, so the group is what intervals count; and β is chosen, for each mode, on sequences of other groups than those
reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders.zero_shot import unit
from mcdo.errors import NotApplicableError
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.phase3.exp9_tracking.association import TrackingResult, chosen_betas, compared
from mcdo.experiments.phase3.exp9_tracking.experiment import Tracking
from mcdo.experiments.phase3.exp9_tracking.frames import Array, Frame
from mcdo.experiments.phase3.exp9_tracking.sequences import Group, Scene, dealt, image_sequence
from mcdo.harness import Claim, Features, Images, Inputs, Logits, Passes, Request, View
from mcdo.harness.laplace_requests import LaplaceScores
from mcdo.stats import ambiguity_targets

MODES = ("adaptive", "adaptive_post", "adaptive_relative", "laplace")
CONTROLS = ("inverse_norm", "entropy")
"""What costs nothing: reported beside the modes, without a claim."""
LEAST_GROUPS = 3
"""One to choose β on, and two for an interval."""


@dataclass(frozen=True)
class ImageTracking(Tracking):
    """``sequences`` of ``scene``, and ``calibration`` further ones; ``n`` images seen at every one of ``degradations``.

    ``fit`` images calibrate the Laplace score. ``betas`` is the grid from which β is taken.
    """

    quick = {"sequences": 40, "calibration": 10, "n": 120, "passes": 32, "fit": 399}

    sequences: int = 200
    calibration: int = 50
    scene: Scene = field(default_factory=Scene)
    betas: tuple[float, ...] = tuple(2.0**k for k in range(-4, 7))
    n: int = 500
    passes: int = 64
    trials: int = 1
    fit: int = 1197
    degradations: tuple[str, ...] = ("noise:0.05", "noise:0.4", "blur:4%", "blur:14%", "occlusion:0.1", "occlusion:0.5")

    @property
    def shown(self) -> tuple[Images, ...]:
        return tuple(Images(self.n, degradation=each) for each in self.degradations)

    def runs(self, model: str) -> tuple[Passes, ...]:
        config = MonteCarloConfig(self.dropout, (self.passes,), self.trials, self.seed)
        return tuple(Passes(model, images, config) for images in self.shown)

    def logits(self, model: str) -> tuple[Logits, ...]:
        return tuple(Logits(model, images) for images in self.shown)

    def laplace(self, model: str) -> tuple[LaplaceScores, ...]:
        return tuple(LaplaceScores(model, images, self.fit) for images in self.shown)

    def clean(self, model: str) -> Features:
        """What tracks look like."""
        return Features(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        model = about.model
        return (*self.runs(model), *self.logits(model), *self.laplace(model), self.clean(model))

    def compute(self, inputs: Inputs) -> TrackingResult:
        images, model = inputs.images(Images(self.n)), inputs.model
        runs = [inputs[request] for request in self.runs(model)]
        logits = [inputs[request]["logits"] for request in self.logits(model)]
        laplace = [inputs[request] for request in self.laplace(model)]
        scores = {
            "adaptive": np.stack([run.scores("trace_pre").mean(axis=0) for run in runs]),
            "adaptive_post": np.stack([run.scores("trace_post").mean(axis=0) for run in runs]),
            "adaptive_relative": np.stack([run.scores("trace_pre_relative").mean(axis=0) for run in runs]),
            "laplace": np.stack([found["projection_logit_variance"] for found in laplace]),
            "inverse_norm": np.stack([1 / run.feature_norm for run in runs]),
            # an entropy may underflow to zero, and an uncertainty must be positive
            "entropy": np.stack([ambiguity_targets(found).entropy for found in logits]) + np.finfo(np.float32).eps,
        }
        clean, degraded = inputs[self.clean(model)]["features"], np.stack([run.features for run in runs])
        chosen_on, reported = self.groups(images.origins)
        betas = chosen_betas(
            self.generated(clean, degraded, scores, chosen_on, self.calibration, 2), self.alpha, self.betas
        )
        made = self.generated(clean, degraded, scores, reported, self.sequences, 1)
        return compared(made, self.alpha, betas, origins=np.arange(self.sequences) % len(reported))

    def groups(self, origins: Sequence[str]) -> tuple[list[Group], list[Group]]:
        """Groups of originals to choose β on, and those to report, in proportion to their sequences.

        Raises:
            NotApplicableError: for too few originals.

        """
        groups = dealt(origins, self.scene.objects, (self.seed, 0))
        if len(groups) < LEAST_GROUPS:
            raise NotApplicableError(
                f"{len(set(origins))} originals make {len(groups)} groups of {self.scene.objects}, but exp9 needs at "
                f"least {LEAST_GROUPS}: one to choose beta on and two to report; show it more images"
            )
        wanted = round(len(groups) * self.calibration / (self.calibration + self.sequences))
        first = min(max(1, wanted), len(groups) - 2)
        return groups[:first], groups[first:]

    def generated(
        self,
        clean: NDArray[np.floating],
        degraded: NDArray[np.floating],
        scores: Mapping[str, Array],
        groups: Sequence[Group],
        count: int,
        stream: int,
    ) -> list[tuple[Frame, ...]]:
        """``count`` sequences that show ``groups`` in turn.

        Args:
            clean: features ``[N, D]``.
            degraded: features ``[L, N, D]`` at every degradation.
            scores: by mode, uncertainties ``[L, N]``, all positive.
            groups: of originals.
            count: of sequences.
            stream: of random numbers, another for each use.

        """
        templates, seen = unit(clean), unit(degraded)
        return [
            image_sequence(self.scene, templates, seen, scores, groups[i % len(groups)], (self.seed, stream, i))
            for i in range(count)
        ]

    def claims(self) -> Sequence[Claim[TrackingResult]]:
        return [self.gain_of(mode) for mode in ("oracle", *MODES)]

    def summary(self, result: TrackingResult) -> Mapping[str, Any]:
        ends = (min(self.betas), max(self.betas))
        return {
            **super().summary(result),
            "betas_at_an_end_of_the_grid": [mode for mode, beta in result.betas.items() if beta in ends],
        }
