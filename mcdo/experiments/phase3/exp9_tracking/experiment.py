"""Exp9: does an uncertainty help a tracker to know when not to trust what it sees?

Three experiments share a folder: synthetic sequences, whose appearance noise has a known variance (what could an
uncertainty achieve?), sequences of images seen by an encoder (does *its* uncertainty achieve it?, in
:mod:`~mcdo.experiments.phase3.exp9_tracking.images`), and sequences of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.experiments.phase3.exp9_tracking.association import BASELINE, COUNTS, Gain, TrackingResult, compared, modes
from mcdo.experiments.phase3.exp9_tracking.frames import Frame, read_sequence
from mcdo.experiments.phase3.exp9_tracking.sequences import Scene, SyntheticLooks, synthetic_sequence
from mcdo.harness import Claim, Experiment, Files, Inputs, Request, Settings, Subject, View
from mcdo.names import words
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import Estimate

OWN = "--tracking"


@dataclass(frozen=True)
class Tracking(Experiment[TrackingResult]):
    """What they share: the published weights ``alpha`` and ``beta``, and what is written."""

    key = "exp9"
    name = "exp9_mot_adaptive"
    phase = "phase3"
    files = Files.of_each("exp9", "exp9_mot_adaptive")

    alpha: float = 1.0
    beta: float = 1.0

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return ()

    def at_published_weights(self, sequences: Sequence[Sequence[Frame]]) -> TrackingResult:
        """Every mode at α and β as published; each sequence is a draw of its own."""
        return compared(sequences, self.alpha, dict.fromkeys(modes(sequences), self.beta))

    def gain_of(self, mode: str) -> Claim[TrackingResult]:
        return Claim(
            f"gain/{mode}",
            lambda r: r.gains[mode].difference,
            above=0.0,
            beside=lambda r: r.gains[mode],
            p_holm=lambda r: r.gains[mode].p_holm,
        )

    def summary(self, result: TrackingResult) -> Mapping[str, Any]:
        return {
            "n_sequences": len(result.metrics[BASELINE]),
            "modes": {
                mode: {
                    "beta": result.betas[mode],
                    **{count: result.total(mode, count) for count in COUNTS},
                    **(result.gains[mode].as_dict() if mode in result.gains else {}),
                }
                for mode in result.metrics
            },
        }

    def arrays(self, inputs: Inputs, result: TrackingResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        figures = {
            key: np.array([[getattr(metrics, key) for metrics in found] for found in result.metrics.values()])
            for key in ("assignment_accuracy", "id_switches", "fragmentation")
        }
        return {"{}/exp9_outputs.npz": {"modes": np.array(list(result.metrics)), **figures}}

    def title(self) -> str:
        return "an uncertainty divides the appearance cost"

    def panels(self, inputs: Inputs, result: TrackingResult) -> Sequence[Panel]:
        gains = {mode: _in_points(gain) for mode, gain in result.gains.items() if mode != BASELINE}
        if not gains:
            return ()
        base = result.gains[BASELINE].accuracy
        label = f"gain in right associations over {base.value:.1%} (percentage points) [95 %]"
        return (
            lambda axes: interval_panel(
                axes, {f"mode, n = {base.n}": gains}, 0.0, label, "what divides the appearance cost"
            ),
        )


def _in_points(gain: Gain) -> Estimate:
    found = gain.difference
    return replace(found, value=100 * found.value, low=100 * found.low, high=100 * found.high)


@dataclass(frozen=True)
class SyntheticTracking(Tracking):
    """``sequences`` of ``scene`` with ``looks``; each draws its own templates, so each is a draw of its own."""

    quick = {"sequences": 40}

    sequences: int = 200
    scene: Scene = field(default_factory=Scene)
    looks: SyntheticLooks = field(default_factory=SyntheticLooks)

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return (Subject("synthetic", ()),)

    def generated(self) -> list[tuple[Frame, ...]]:
        return [synthetic_sequence(self.scene, self.looks, (self.seed, 0, i)) for i in range(self.sequences)]

    def compute(self, inputs: Inputs) -> TrackingResult:
        return self.at_published_weights(self.generated())

    def claims(self) -> Sequence[Claim[TrackingResult]]:
        """A known noise level helps; an uninformative one does harm, so it does not help."""
        return (
            *(self.gain_of(mode) for mode in ("oracle", "adaptive")),
            Claim(
                "no_gain/shuffled",
                lambda r: r.gains["shuffled"].difference,
                below=0.0,
                beside=lambda r: r.gains["shuffled"],
                p_holm=lambda r: r.gains["shuffled"].p_holm,
            ),
        )


@dataclass(frozen=True)
class OwnTracking(Tracking):
    """Sequences of one's own, one in each file of ``sources``, at the published weights.

    There are no other sequences to choose β on. Each file counts as a draw of its own: parts of one video are not.
    """

    sources: tuple[str, ...] = ()

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        named = settings.own_data.get(OWN, "")
        return {"sources": words(named)}

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return (Subject("own", ()),) if cls.options(settings)["sources"] else ()

    def compute(self, inputs: Inputs) -> TrackingResult:
        return self.at_published_weights([read_sequence(path) for path in self.sources])
