"""From trained arms to what is reported: tables of estimates, paired comparisons, heads and triage.

Comparisons form families, one per question, and Holm's correction holds within each: the two options and the control;
what subtasks add; what temperature changes; and the positive control, in which true subtask labels are given, to show
that the comparison can find something.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mcdo.stats import (
    Estimate,
    ReliabilityDiagram,
    adaptive_calibration_error,
    bootstrap,
    debiased_ece,
    debiased_squared_calibration_error,
    holm,
    proportion,
    reliability_diagram,
    t_mean,
)
from mcdo.studies.subtasks.compare import (
    METRICS,
    Sums,
    differences,
    estimates,
    hit_sums,
    mcnemar,
    one_per_origin,
    seed_differences,
    stacked,
    sums,
    swap_p,
)
from mcdo.studies.subtasks.dropout import READINGS, Reading
from mcdo.studies.subtasks.labels import COMPARED_SUBTASKS, META_SUBTASKS
from mcdo.studies.subtasks.runs import LINEAR, Run, Runs
from mcdo.studies.subtasks.temperature import UNSCALED
from mcdo.studies.subtasks.triaged import TriageRow, accept_over_rest, mean_std, triage_rows

Floats = NDArray[np.float64]
OPTIONS = ("A", "B", "control")
PAIRS = {
    "options": (("B", "A"), ("A", "control"), ("B", "control")),
    "subtasks": (("A", "A_no_subtasks"), ("A_probabilities", "A_no_subtasks"), ("A", LINEAR)),
    "positive control": (("A_true_subtasks", "A_no_subtasks"),),
}
OTHER_ERRORS: dict[str, Callable[[Floats, Floats, int, Floats], float]] = {
    "adaptive_ece": lambda confidence, correct, bins, _: adaptive_calibration_error(confidence, correct, bins),
    "debiased_ece": debiased_ece,
    "debiased_squared": debiased_squared_calibration_error,
}
"""Of confidence, correctness, the number of bins and the origin of each image."""


@dataclass(frozen=True)
class ArmResult:
    """An arm over all seeds: metrics without and with temperature (by NLL, by ECE), other calibration errors, seeds."""

    name: str
    before: dict[str, Estimate]
    after: dict[str, Estimate]
    after_by_ece: dict[str, Estimate]
    other: dict[str, Estimate]
    temperatures: tuple[float, ...]
    temperatures_ece: tuple[float, ...]
    at_bound: int
    accuracy_by_seed: tuple[float, ...]
    epochs: tuple[int, ...]
    best_epochs: tuple[int, ...]


@dataclass(frozen=True)
class Contrast:
    """``first − second`` of a metric: over images, over seeds, swap p, and p after Holm within ``family``."""

    family: str
    first: str
    second: str
    metric: str
    difference: Estimate
    over_seeds: Estimate
    p: float
    p_holm: float

    @property
    def judged(self) -> Estimate:
        """The difference with the union of its intervals over images and over seeds: what a claim is judged by."""
        low, high = (pick(getattr(self.difference, end), getattr(self.over_seeds, end))
                     for pick, end in ((np.fmin, "low"), (np.fmax, "high")))  # fmt: skip
        return replace(self.difference, low=float(low), high=float(high))


@dataclass(frozen=True)
class McNemar:
    """One seed's exact test on one image per origin, and the share of those on which one arm alone is right."""

    first: str
    second: str
    seed: int
    only_first: int
    only_second: int
    n: int
    p: float
    p_holm: float
    discordant: Estimate


@dataclass(frozen=True)
class HeadResult:
    """A subtask head: accuracy, and its gain over always saying the most frequent training label."""

    subtask: str
    accuracy: Estimate
    gain: Estimate


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything reported, and the runs behind it."""

    arms: dict[str, ArmResult]
    contrasts: tuple[Contrast, ...]
    mcnemar: tuple[McNemar, ...]
    heads: dict[str, HeadResult]
    edges_over_variance: Contrast
    triage: tuple[TriageRow, ...]
    accept_over_rest: dict[str, Estimate]
    mean_std: dict[str, dict[Reading, Estimate]]
    diagrams: dict[str, ReliabilityDiagram]
    runs: Runs

    def contrast(self, first: str, second: str, metric: str) -> Contrast:
        """The comparison of two arms by a metric."""
        return next(c for c in self.contrasts if (c.first, c.second, c.metric) == (first, second, metric))


def evaluate(study: Runs) -> Evaluation:
    """Everything, from the runs."""
    after = {arm: _sums(study, arm, "after") for arm in _arms(study)}
    before = {arm: _sums(study, arm, "before") for arm in OPTIONS}
    return Evaluation(
        arms={arm: _arm(study, arm) for arm in _arms(study)},
        contrasts=_contrasts(study, before, after),
        mcnemar=_mcnemar(study),
        heads={name: _head(study, name) for name in (*META_SUBTASKS, *COMPARED_SUBTASKS)},
        edges_over_variance=_edges_over_variance(study),
        triage=tuple(row for arm in OPTIONS for reading in READINGS for row in triage_rows(study, arm, reading)),
        accept_over_rest={arm: accept_over_rest(study, arm) for arm in OPTIONS},
        mean_std={arm: {reading: mean_std(study, arm, reading) for reading in READINGS} for arm in OPTIONS},
        diagrams={which: _diagram(study, "A", which) for which in ("before", "after")},
        runs=study,
    )


def _arms(study: Runs) -> list[str]:
    return [*(arm.name for arm in study.config.arms), LINEAR]


def _probabilities(run: Run, which: str) -> Floats:
    scale = {"before": UNSCALED, "after": run.temperature, "after_by_ece": run.temperature_ece}[which]
    return scale.probabilities(run.test)


def _sums(study: Runs, arm: str, which: str) -> Sums:
    test, p = study.splits.test, stacked([_probabilities(run, which) for run in study.of(arm)])
    return sums(p, test.labels, test.groups, study.config.bins)


def _arm(study: Runs, arm: str) -> ArmResult:
    runs, config = study.of(arm), study.config
    trained = [run for run in runs if run.history]
    found = {
        which: estimates(_sums(study, arm, which), config.seed, config.resamples)
        for which in ("before", "after", "after_by_ece")
    }
    return ArmResult(
        name=arm,
        before=found["before"],
        after=found["after"],
        after_by_ece=found["after_by_ece"],
        other={name: _other_error(study, runs, error) for name, error in OTHER_ERRORS.items()},
        temperatures=tuple(run.temperature.value for run in runs),
        temperatures_ece=tuple(run.temperature_ece.value for run in runs),
        at_bound=sum(run.temperature.at_bound for run in runs),
        accuracy_by_seed=tuple(float(run.correct.mean()) for run in runs),
        epochs=tuple(len(each.history) for each in trained),
        best_epochs=tuple(each.best_epoch for each in trained),
    )


def _other_error(study: Runs, runs: list[Run], error: Callable[[Floats, Floats, int, Floats], float]) -> Estimate:
    """Mean over seeds after temperature; recentred percentile interval over origins.

    An origin that a resample holds twice is one origin to a debiased error. So its noise is that of the images and of
    the resampling together, which is what the resample's gaps have.
    """
    confidence = stacked([_probabilities(run, "after").max(axis=1) for run in runs])
    correct = stacked([run.correct for run in runs])

    def mean(c: Floats, k: Floats, of: Floats) -> float:
        return float(np.mean([error(each, hit, study.config.bins, of) for each, hit in zip(c, k, strict=True)]))

    groups, config = study.splits.test.groups, study.config
    return bootstrap(
        mean, confidence, correct, groups, origins=groups, seed=config.seed, resamples=config.few_resamples,
        recentred=True,
    )  # fmt: skip


def _contrasts(study: Runs, before: dict[str, Sums], after: dict[str, Sums]) -> tuple[Contrast, ...]:
    found: list[Contrast] = []
    for family, pairs in PAIRS.items():
        named = [((first, second), after[first], after[second]) for first, second in pairs]
        found += _family(study, family, named, METRICS)
    scaled = [((f"{arm} scaled", f"{arm} unscaled"), after[arm], before[arm]) for arm in OPTIONS]
    return (*found, *_family(study, "temperature", scaled, ("ece", "nll", "brier")))  # the accuracy cannot change


def _family(
    study: Runs, family: str, pairs: list[tuple[tuple[str, str], Sums, Sums]], metrics: tuple[str, ...]
) -> list[Contrast]:
    config, rows = study.config, []
    for names, first, second in pairs:
        gap = differences(first, second, config.seed, config.resamples)
        p = swap_p(first, second, config.seed, config.permutations)
        by_seed = seed_differences(first, second)
        rows += [(names, metric, gap[metric], t_mean(by_seed[metric]), p[metric]) for metric in metrics]
    adjusted = holm([p for *_, p in rows])
    return [
        Contrast(family, names[0], names[1], metric, gap, over_seeds, p, float(corrected))
        for (names, metric, gap, over_seeds, p), corrected in zip(rows, adjusted, strict=True)
    ]


def _mcnemar(study: Runs) -> tuple[McNemar, ...]:
    """Every pair of options at every seed, and every pair of seeds of A: how often do two trainings disagree at all?"""
    alone, found = one_per_origin(study.splits.test.groups), []
    seeds = study.config.seeds
    pairs = [(study.run(a, s), study.run(b, s)) for a, b in PAIRS["options"] for s in seeds]
    pairs += [(study.run("A", s), study.run("A", t)) for s, t in combinations(seeds, 2)]
    for one, other in pairs:
        a, b = one.correct[alone], other.correct[alone]
        share = proportion(int((a != b).sum()), len(a))
        found.append((one, other, *mcnemar(a, b), len(a), share))
    adjusted = holm([row[4] for row in found])
    return tuple(
        McNemar(_name(x, y), _name(y, x), x.seed, only_x, only_y, n, p, float(corrected), share)
        for (x, y, only_x, only_y, p, n, share), corrected in zip(found, adjusted, strict=True)
    )


def _name(run: Run, other: Run) -> str:
    return run.arm if run.arm != other.arm else f"{run.arm} seed {run.seed}"


def _hits(study: Runs, subtask: str) -> NDArray[np.bool_]:
    """Whether A's head is right on each test image, [seeds, N]."""
    truth = study.splits.test.subtasks[subtask]
    return np.stack([study.head_predictions(subtask, "A", seed) == truth for seed in study.config.seeds])


def _head(study: Runs, subtask: str) -> HeadResult:
    splits, config, hits = study.splits, study.config, _hits(study, subtask)
    usual = np.bincount(splits.train.subtasks[subtask]).argmax()
    base = splits.test.subtasks[subtask] == usual
    constant = np.broadcast_to(base, hits.shape)
    mine, its = (hit_sums(each, splits.test.groups) for each in (hits, constant))
    return HeadResult(
        subtask,
        estimates(mine, config.seed, config.resamples)["accuracy"],
        differences(mine, its, config.seed, config.resamples)["accuracy"],
    )


def _edges_over_variance(study: Runs) -> Contrast:
    config, groups = study.config, study.splits.test.groups
    edges, variance = (hit_sums(_hits(study, name), groups) for name in COMPARED_SUBTASKS)
    gap = differences(edges, variance, config.seed, config.resamples)["accuracy"]
    p = swap_p(edges, variance, config.seed, config.permutations)["accuracy"]
    seeds = t_mean(seed_differences(edges, variance)["accuracy"])
    return Contrast("complexity", COMPARED_SUBTASKS[0], COMPARED_SUBTASKS[1], "accuracy", gap, seeds, p, p)


def _diagram(study: Runs, arm: str, which: str) -> ReliabilityDiagram:
    runs = study.of(arm)
    confidence = np.concatenate([_probabilities(run, which).max(axis=1) for run in runs])
    return reliability_diagram(confidence, np.concatenate([run.correct for run in runs]), study.config.bins)
