"""Exp9: does an uncertainty help a tracker to know when not to trust what it sees?

Detections are associated with tracks at the least cost α·motion + β·appearance/s, where s is the detection's
uncertainty relative to its median over the sequence: an uncertain appearance counts less. Dividing by the raw score
instead, as published, multiplies every appearance cost by about a hundred, because traces are near 0.01.

Two kinds of sequences: synthetic ones, whose appearance noise has a known variance (what could an uncertainty
achieve?), and ones whose detections are images under graded degradation, seen by the encoder itself (does *its*
uncertainty achieve it?). There β is chosen for each mode on other sequences than those reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import wilcoxon

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, write_json, write_npz
from mcdo.experiments.tracking_frames import Array, Frame, modes_of
from mcdo.experiments.tracking_sequences import Scene, SyntheticLooks, image_sequence, synthetic_sequence, unit
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.stats import Association, Estimate, TrackingMetrics, bootstrap, holm, tracking_metrics

FOLDER = "exp9_mot_adaptive"
BASELINE = "baseline"


@dataclass(frozen=True)
class Exp9Config(ExperimentConfig):
    """Sequences of ``scene``; ``n`` images seen at every one of ``degradations`` for the encoder's part.

    ``fit`` images calibrate the Laplace score. ``alpha`` and ``beta`` are the published weights; ``betas`` is the grid
    from which the encoder's part takes β, on ``calibration`` further sequences.
    """

    QUICK: ClassVar[Mapping[str, Any]] = {"sequences": 40, "calibration": 10, "n": 60, "passes": 32}

    sequences: int = 200
    calibration: int = 50
    scene: Scene = field(default_factory=Scene)
    looks: SyntheticLooks = field(default_factory=SyntheticLooks)
    alpha: float = 1.0
    beta: float = 1.0
    betas: tuple[float, ...] = tuple(2.0**k for k in range(-4, 7))
    n: int = 500
    passes: int = 64
    trials: int = 1
    fit: int = 1197
    degradations: tuple[str, ...] = ("noise:0.05", "noise:0.4", "blur:4%", "blur:14%", "occlusion:0.1", "occlusion:0.5")


@dataclass(frozen=True)
class Gain:
    """A mode against the baseline, paired over sequences: difference of accuracy, two-sided p before and after Holm."""

    accuracy: Estimate
    difference: Estimate
    p_value: float
    p_holm: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "assignment_accuracy": self.accuracy.as_dict(),
            "difference_to_baseline": self.difference.as_dict(),
            "p_value": self.p_value,
            "p_holm": self.p_holm,
        }


@dataclass(frozen=True)
class Exp9Result:
    """Metrics of every mode on every sequence, the gain of each mode over the baseline, and the β each was run with."""

    metrics: dict[str, list[TrackingMetrics]]
    gains: dict[str, Gain]
    betas: dict[str, float]

    def total(self, mode: str, count: str) -> int:
        """Sum of a count ("id_switches", "fragmentation", "correct", "labelled") over the sequences."""
        return sum(int(getattr(metrics, count)) for metrics in self.metrics[mode])


def relative_to_median(frames: Sequence[Frame], mode: str) -> list[Array]:
    """The uncertainty of every detection, over the median of all detections of the sequence; one [m] per frame.

    The scale of a score says nothing about how large it is *for this score*, so none of it may reach the costs.
    """
    scores = [frame.uncertainty.get(mode, np.empty(0)) for frame in frames]
    pooled = np.concatenate(scores) if scores else np.empty(0)
    if not len(pooled):
        raise McdoError(f"no detection carries the uncertainty of mode {mode!r}")
    return [score / np.median(pooled) for score in scores]


def association_cost(frame: Frame, s: Array | None, alpha: float, beta: float) -> Array:
    """α·motion + β·appearance/s, ``[n, m]``; ``s`` [m] divides the columns, None stands for ones."""
    return np.asarray(alpha * frame.motion + beta * frame.appearance / (1.0 if s is None else s[None]))


def associate(
    frames: Sequence[Frame], mode: str = BASELINE, *, alpha: float = 1.0, beta: float = 1.0
) -> list[list[Association]]:
    """The Hungarian assignment of every frame under a mode: one entry per detection, in order."""
    associations = []
    for frame, s in zip(frames, _divisors(frames, mode), strict=True):
        tracks, detections = linear_sum_assignment(association_cost(frame, s, alpha, beta))
        given = dict(zip(detections.tolist(), tracks.tolist(), strict=True))
        associations.append([_association(frame, j, given.get(j)) for j in range(len(frame.detections))])
    return associations


def _association(frame: Frame, detection: int, track: int | None) -> Association:
    if track is None:
        return Association(frame.truth[detection], None, None)
    return Association(frame.truth[detection], frame.tracks[track], frame.track_truth[track])


def needs(config: Exp9Config, model: str) -> list[Need]:
    """One trial at every degradation."""
    measured = MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed)
    return [Need(model, config.n, measured, degradation=each) for each in config.degradations]


def synthetic_sequences(config: Exp9Config) -> list[tuple[Frame, ...]]:
    """The generated sequences of the protocol."""
    return [synthetic_sequence(config.scene, config.looks, (config.seed, 0, i)) for i in range(config.sequences)]


def image_sequences(
    config: Exp9Config,
    clean: NDArray[np.floating],
    degraded: NDArray[np.floating],
    scores: Mapping[str, Array],
    *,
    calibration: bool,
) -> list[tuple[Frame, ...]]:
    """Sequences of images seen by an encoder; those on which β is chosen, or those reported.

    Args:
        config: the protocol.
        clean: features ``[N, D]``.
        degraded: features ``[L, N, D]`` at every degradation.
        scores: by mode, uncertainties ``[L, N]``, all positive.
        calibration: which of the two.

    """
    templates, seen, n = unit(clean), unit(degraded), config.calibration if calibration else config.sequences
    seeds = [(config.seed, 2 if calibration else 1, i) for i in range(n)]
    return [image_sequence(config.scene, templates, seen, scores, seed) for seed in seeds]


def chosen_betas(config: Exp9Config, sequences: Sequence[Sequence[Frame]]) -> dict[str, float]:
    """For every mode the β of the grid with the most right associations on calibration ``sequences``."""
    modes = _modes(sequences)
    relative = {mode: [s for frames in sequences for s in _divisors(frames, mode)] for mode in modes}
    every = [frame for frames in sequences for frame in frames]

    def right(mode: str, beta: float) -> int:
        return sum(_right(frame, s, config.alpha, beta) for frame, s in zip(every, relative[mode], strict=True))

    return {mode: max(config.betas, key=lambda beta: right(mode, beta)) for mode in modes}


def _right(frame: Frame, s: Array | None, alpha: float, beta: float) -> int:
    """Right associations in a frame: the numerator of the accuracy, without the events between frames."""
    tracks, detections = linear_sum_assignment(association_cost(frame, s, alpha, beta))
    pairs = ((frame.track_truth[t], frame.truth[d]) for t, d in zip(tracks, detections, strict=True))
    return sum(track is not None and track == truth for track, truth in pairs)


def _divisors(frames: Sequence[Frame], mode: str) -> Sequence[Array | None]:
    return [None] * len(frames) if mode == BASELINE else relative_to_median(frames, mode)


def compute(
    config: Exp9Config, sequences: Sequence[Sequence[Frame]], betas: Mapping[str, float] | None = None
) -> Exp9Result:
    """Every mode on every sequence, and the gain over the baseline, with Holm over the modes.

    Args:
        config: the protocol.
        sequences: those reported.
        betas: β by mode, chosen on other sequences; the published one where None.

    """
    used = {mode: config.beta if betas is None else betas[mode] for mode in _modes(sequences)}
    metrics = {
        mode: [tracking_metrics(associate(f, mode, alpha=config.alpha, beta=beta)) for f in sequences]
        for mode, beta in used.items()
    }
    accuracy = {mode: np.array([m.assignment_accuracy for m in found]) for mode, found in metrics.items()}
    return Exp9Result(metrics, _gains(accuracy, config.seed) if len(sequences) > 1 else {}, used)


def _modes(sequences: Sequence[Sequence[Frame]]) -> tuple[str, ...]:
    return (BASELINE, *modes_of([frame for frames in sequences for frame in frames]))


def _gains(accuracy: Mapping[str, Array], seed: int) -> dict[str, Gain]:
    base = accuracy[BASELINE]
    modes = [mode for mode in accuracy if mode != BASELINE]
    tests = {mode: _wilcoxon(accuracy[mode] - base) for mode in modes}
    adjusted = dict(zip(modes, holm(list(tests.values())), strict=True)) if modes else {}
    return {
        mode: Gain(
            bootstrap(np.mean, values, seed=seed),
            bootstrap(lambda a, b: float(np.mean(a - b)), values, base, seed=seed),
            tests.get(mode, 1.0),
            float(adjusted.get(mode, 1.0)),
        )
        for mode, values in accuracy.items()
    }


def _wilcoxon(difference: Array) -> float:
    """Two-sided signed-rank p, equal pairs dropped; 1 when all are equal. A mode may do harm as well as good."""
    moved = difference[difference != 0]
    return float(wilcoxon(moved).pvalue) if len(moved) else 1.0


def summary(result: Exp9Result) -> dict[str, Any]:
    """For JSON: by mode its β, counts, and the gain over the baseline (None for a single sequence)."""
    return {
        mode: {
            "beta": result.betas[mode],
            **{count: result.total(mode, count) for count in ("correct", "labelled", "id_switches", "fragmentation")},
            **(result.gains[mode].as_dict() if mode in result.gains else {}),
        }
        for mode in result.metrics
    }


def write(config: Exp9Config, name: str, result: Exp9Result, reports: Path, session: str) -> Path:
    """Summary, arrays and figure of ``name`` (a model, "synthetic", or a file), and ``exp9_overall_summary.json``."""
    folder = reports / FOLDER / file_name(name)
    found = {"name": name, "n_sequences": len(result.metrics[BASELINE]), "modes": summary(result)}
    write_json(
        folder / "exp9_summary.json",
        {**found, "config": config.as_dict()},
    )
    write_npz(
        folder / "exp9_outputs.npz",
        modes=np.array(list(result.metrics)),
        **{
            key: np.array([[getattr(m, key) for m in found] for found in result.metrics.values()])
            for key in ("assignment_accuracy", "id_switches", "fragmentation")
        },
    )
    if result.gains:
        save_figure(figure(name, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp9_overall_summary.json"
    add_to_json(overall, session, "results", name, found)
    return overall


def figure(name: str, result: Exp9Result) -> Figure:
    """Gain in accuracy over the baseline, by mode, with its interval over sequences."""
    modes = [mode for mode in result.gains if mode != BASELINE]
    gains = [result.gains[mode].difference for mode in modes]
    fig = Figure(figsize=(6.4, 0.5 * len(modes) + 1.8))
    axes = fig.subplots()
    value = np.array([g.value for g in gains])
    reach = np.array([[g.value - g.low, g.high - g.value] for g in gains]).T * 100
    axes.errorbar(value * 100, range(len(modes)), xerr=reach, fmt="o", capsize=3, label="mode, 95 % interval")
    base = result.gains[BASELINE].accuracy.value
    axes.axvline(0, color="grey", linestyle="--", label=f"baseline ({base:.1%} right)")
    axes.set_yticks(range(len(modes)), modes)
    axes.set_xlabel("gain in right associations over the baseline [percentage points]")
    axes.set_ylabel("uncertainty that divides the appearance cost")
    axes.set_title(f"{name}: {gains[0].n if gains else 0} sequences")
    axes.legend()
    return fig
