"""The images of one angle: what their scores follow, and which metric follows it most closely."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders.zero_shot import unit
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    Origins,
    Relation,
    advantages,
    ambiguity_estimates,
    ambiguity_targets,
    rank_relations,
)

METRICS = ("trace_pre", "trace_post", "mean_cosine_dev", "top_eigenvalue", "max_dim_var", "norm_var")
NORM = "feature_norm"
CONTROLS = ("trace_pre_relative", NORM)
"""Beside the six: the trace without the norm's share in it, and the norm itself, which costs nothing."""
FOLLOWED = ("trace_pre", "trace_post", "trace_pre_relative")
"""The scores of angle 3."""
CORRELATES = ("centroid_distance", "feature_norm", "max_logit", "entropy", "negative_margin", "correct")
Array = NDArray[np.float64]


def centroid_distance(features: NDArray[np.floating]) -> Array:
    """1 − cosine of each feature [N, D] to the mean of the unit features: how untypical an image is."""
    directions = unit(features)
    return np.asarray(1 - directions @ unit(directions.mean(axis=0)))


@dataclass(frozen=True, eq=False)
class AngleView:
    """The images of one angle: their scores by name, each [N], and what those are set beside."""

    scores: Mapping[str, Array]
    logits: Array
    labels: NDArray[np.int64] | None
    centroid_distance: Array
    origins: Origins
    seed: int

    @property
    def softmax(self) -> AmbiguityTargets:
        return ambiguity_targets(self.logits, self.labels, head="softmax")

    @property
    def others(self) -> dict[str, Array]:
        """The correlates of angle 3; correctness only where labels are known."""
        softmax = self.softmax
        correct = {} if softmax.correct is None else {"correct": softmax.correct.astype(np.float64)}
        return {
            "centroid_distance": self.centroid_distance,
            NORM: self.scores[NORM],
            "max_logit": self.logits[0].max(axis=1),
            "entropy": softmax.entropy,
            "negative_margin": softmax.neg_margin,
            **correct,
        }

    def _relations(self, scores: Mapping[str, Array], others: Mapping[str, Array]) -> dict[tuple[str, str], Relation]:
        return rank_relations(scores, others, given=self.scores[NORM], origins=self.origins, seed=self.seed)

    def metrics(self) -> dict[tuple[str, str], Relation]:
        softmax, sigmoid = self.softmax, ambiguity_targets(self.logits, self.labels, head="sigmoid")
        targets = {
            "entropy": softmax.entropy,
            "negative_margin": softmax.neg_margin,
            "sigmoid_entropy": sigmoid.entropy,
            "sigmoid_negative_margin": sigmoid.neg_margin,
        }
        return self._relations(self.scores, targets)

    def correlates(self) -> dict[tuple[str, str], Relation]:
        return self._relations({name: self.scores[name] for name in FOLLOWED}, self.others)

    def ambiguity(self) -> dict[str, Estimate]:
        return ambiguity_estimates(
            self.scores["trace_pre"], self.softmax, self.scores[NORM], origins=self.origins, seed=self.seed
        )

    def _advantages(
        self, scores: Mapping[str, Array], baselines: Mapping[str, Array], follows: Mapping[str, Array]
    ) -> dict[tuple[str, str, str], Difference]:
        return advantages(scores, baselines, follows=follows, detects={}, origins=self.origins, seed=self.seed)

    def strongest(self) -> dict[str, Difference]:
        """How far trace_pre is ahead of every other metric at entropy."""
        others = {name: self.scores[name] for name in METRICS if name != "trace_pre"}
        ahead = self._advantages({"trace_pre": self.scores["trace_pre"]}, others, {"entropy": self.softmax.entropy})
        return {other: difference for (_, other, _), difference in ahead.items()}

    def against(self, one: str, other: str) -> dict[str, Difference]:
        """ρ(score, one) − |ρ(score, other)| by score."""
        named = self.others
        followed = {name: self.scores[name] for name in FOLLOWED}
        ahead = self._advantages({one: named[one]}, {other: named[other]}, followed)
        return {score: difference for (_, _, score), difference in ahead.items()}

    def means(self) -> dict[str, dict[str, float | None]]:
        """Of each followed score over correctly and over wrongly classified images; None where there are none."""
        correct = self.softmax.correct
        if correct is None:
            return {name: {"correct": None, "wrong": None} for name in FOLLOWED}
        groups = {"correct": correct, "wrong": ~correct}
        return {
            name: {group: float(self.scores[name][at].mean()) if at.any() else None for group, at in groups.items()}
            for name in FOLLOWED
        }
