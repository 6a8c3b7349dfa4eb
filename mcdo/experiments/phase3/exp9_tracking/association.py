"""Which detection belongs to which track: the assignment of least cost, where an uncertain appearance counts less.

The cost is α·motion + β·appearance/s, where s is the detection's uncertainty relative to its median over the sequence.
Dividing by the raw score instead, as published, multiplies every appearance cost by about a hundred, because traces are
near 0.01.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.experiments.phase3.exp9_tracking.frames import Array, Frame, modes_of
from mcdo.stats import Association, Estimate, Origins, TrackingMetrics, mean_differences, t_mean, tracking_metrics

BASELINE = "baseline"
COUNTS = ("correct", "labelled", "id_switches", "fragmentation")
Sequences = Sequence[Sequence[Frame]]


@dataclass(frozen=True)
class Gain:
    """A mode against the baseline, paired over sequences: difference of accuracy, two-sided p before and after Holm."""

    accuracy: Estimate
    difference: Estimate
    p_value: float
    p_holm: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "assignment_accuracy": self.accuracy,
            "difference_to_baseline": self.difference,
            "p_value": self.p_value,
            "p_holm": self.p_holm,
        }

    def __str__(self) -> str:
        found = self.difference
        return f"gain {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] over n={found.n}"


@dataclass(frozen=True)
class TrackingResult:
    """Every mode on every sequence.

    Attributes:
        metrics: by mode, of each sequence.
        gains: of each mode over the baseline; empty for one sequence.
        betas: by mode, what each was run with.

    """

    metrics: Mapping[str, Sequence[TrackingMetrics]]
    gains: Mapping[str, Gain]
    betas: Mapping[str, float]

    def total(self, mode: str, count: str) -> int:
        """Sum of one of ``COUNTS`` over the sequences."""
        return sum(int(getattr(metrics, count)) for metrics in self.metrics[mode])


def relative_to_median(frames: Sequence[Frame], mode: str) -> list[Array]:
    """The uncertainty of every detection, over the median of all detections of the sequence; one [m] per frame.

    The scale of a score says nothing about how large it is *for this score*, so none of it may reach the costs.
    """
    scores = [frame.uncertainty.get(mode, np.empty(0)) for frame in frames]
    pooled = np.concatenate(scores) if scores else np.empty(0)
    if not len(pooled):
        raise McdoError(f"no detection carries the uncertainty of mode {mode!r}")
    median = np.median(pooled)
    return [score / median for score in scores]


def association_cost(frame: Frame, s: Array | None, alpha: float, beta: float) -> Array:
    """α·motion + β·appearance/s, ``[n, m]``; ``s`` [m] divides the columns, None stands for ones."""
    return np.asarray(alpha * frame.motion + beta * frame.appearance / (1.0 if s is None else s[None]))


def associate(
    frames: Sequence[Frame], mode: str = BASELINE, *, alpha: float = 1.0, beta: float = 1.0
) -> list[list[Association]]:
    """The Hungarian assignment of every frame under a mode: one entry per detection, in order."""
    associations = []
    for frame, s in zip(frames, _divisors(frames, mode), strict=True):
        tracks, detections = scipy.optimize.linear_sum_assignment(association_cost(frame, s, alpha, beta))
        given = dict(zip(detections.tolist(), tracks.tolist(), strict=True))
        associations.append([_association(frame, j, given.get(j)) for j in range(len(frame.detections))])
    return associations


def _association(frame: Frame, detection: int, track: int | None) -> Association:
    if track is None:
        return Association(frame.truth[detection], None, None)
    return Association(frame.truth[detection], frame.tracks[track], frame.track_truth[track])


def _divisors(frames: Sequence[Frame], mode: str) -> Sequence[Array | None]:
    return [None] * len(frames) if mode == BASELINE else relative_to_median(frames, mode)


def chosen_betas(sequences: Sequences, alpha: float, betas: Sequence[float]) -> dict[str, float]:
    """For every mode the one of ``betas`` with the most right associations on calibration ``sequences``."""
    relative = {mode: [s for frames in sequences for s in _divisors(frames, mode)] for mode in modes(sequences)}
    every = [(frame, _matches(frame)) for frames in sequences for frame in frames]

    def right(mode: str, beta: float) -> int:
        """The numerator of the accuracy, without the events between frames."""
        costs = ((association_cost(f, s, alpha, beta), m) for (f, m), s in zip(every, relative[mode], strict=True))
        return sum(int(matches[scipy.optimize.linear_sum_assignment(cost)].sum()) for cost, matches in costs)

    return {mode: max(betas, key=lambda beta: right(mode, beta)) for mode in relative}


def _matches(frame: Frame) -> NDArray[np.bool_]:
    """Whether a track and a detection are of one object, ``[n, m]``."""
    same = [[track is not None and track == truth for truth in frame.truth] for track in frame.track_truth]
    return np.array(same, dtype=bool).reshape(len(frame.track_truth), len(frame.truth))


def modes(sequences: Sequences) -> tuple[str, ...]:
    """The baseline, and every mode for which detections carry an uncertainty."""
    return (BASELINE, *modes_of([frame for frames in sequences for frame in frames]))


def compared(
    sequences: Sequences, alpha: float, betas: Mapping[str, float], origins: Origins | None = None
) -> TrackingResult:
    """Every mode on every sequence, and its gain over the baseline, with Holm over the modes.

    Args:
        sequences: those reported.
        alpha: weight of the motion.
        betas: weight of the appearance by mode; the baseline is one.
        origins: the sampled unit behind each sequence; None where sequences share nothing.

    Raises:
        McdoError: for a sequence in which nothing labelled is associated: it has no accuracy.

    """
    metrics = {
        mode: [tracking_metrics(associate(frames, mode, alpha=alpha, beta=beta)) for frames in sequences]
        for mode, beta in betas.items()
    }
    accuracy = {mode: np.array([m.assignment_accuracy for m in found]) for mode, found in metrics.items()}
    for mode, values in accuracy.items():
        if np.isnan(values).any():
            raise McdoError(
                f"sequence {int(np.isnan(values).argmax())}, mode {mode!r}: no association has a gt_id on both sides, "
                "so none can be right or wrong; label the sequence, or leave it out"
            )
    return TrackingResult(metrics, _gains(accuracy, origins) if len(sequences) > 1 else {}, dict(betas))


def _gains(accuracy: Mapping[str, Array], origins: Origins | None) -> dict[str, Gain]:
    own = {mode: t_mean(values, origins=origins) for mode, values in accuracy.items()}
    over = mean_differences(accuracy, BASELINE, origins=origins) if len(accuracy) > 1 else {}
    none = Estimate(0.0, 0.0, 0.0, own[BASELINE].n)
    gains = {mode: Gain(own[mode], d.estimate, d.p_value, d.p_holm) for mode, d in over.items()}
    return {BASELINE: Gain(own[BASELINE], none, 1.0, 1.0), **gains}
