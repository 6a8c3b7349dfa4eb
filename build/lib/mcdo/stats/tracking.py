"""How good is an association of detections with tracks, when the truth is known?

Three figures of multi-object tracking, for tracks that are given in every frame: the share of right associations, how
often a track changes the object it follows, and how often a followed object is lost and found again.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

Identity = Hashable | None


class Association(NamedTuple):
    """One detection: its true object, and the track it was given with that track's true object.

    ``truth`` is None for a detection that nobody labelled; ``track`` is None where it was given to no track, and
    ``track_truth`` where that track is not labelled.
    """

    truth: Identity
    track: Identity
    track_truth: Identity


@dataclass(frozen=True)
class TrackingMetrics:
    """What :func:`tracking_metrics` found; ``assignment_accuracy`` is NaN when nothing labelled was assigned.

    ``correct`` of ``labelled`` associations were right. Counts, not rates: they grow with the length of a sequence.
    """

    assignment_accuracy: float
    id_switches: int
    fragmentation: int
    correct: int
    labelled: int

    def as_dict(self) -> dict[str, float | int | None]:
        """JSON-able form."""
        accuracy = None if math.isnan(self.assignment_accuracy) else self.assignment_accuracy
        return {**asdict(self), "assignment_accuracy": accuracy}


def tracking_metrics(frames: Iterable[Sequence[Association]]) -> TrackingMetrics:
    """Accuracy, identity switches and fragmentation over ``frames``, each the associations of all its detections.

    - accuracy: an association counts where both sides are labelled, and is right where they agree; the published form
      counts an unlabelled pair as wrong.
    - identity switch: a track is given another object than the last labelled one that it was given.
    - fragmentation: an object is rightly associated again after one or more frames in which it was detected and not
      rightly associated. A frame without a detection of the object is nobody's mistake and breaks nothing.
    """
    correct = labelled = switches = fragmentation = 0
    followed: dict[Identity, Identity] = {}
    state: dict[Identity, bool] = {}  # of every object once rightly associated: whether it was so when last detected
    for frame in frames:
        for truth, track, track_truth in frame:
            if truth is None:
                continue
            right = track is not None and truth == track_truth
            if track is not None and track_truth is not None:
                labelled += 1
                correct += right
            if track is not None:
                switches += followed.get(track, truth) != truth
                followed[track] = truth
            fragmentation += right and not state.get(truth, True)
            if right or truth in state:
                state[truth] = right
    return TrackingMetrics(correct / labelled if labelled else math.nan, switches, fragmentation, correct, labelled)
