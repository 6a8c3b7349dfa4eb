"""What triage yields: the share of each class, the accuracy inside it, and the uncertainty it goes by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.stats import Estimate
from mcdo.studies.subtasks.compare import mean_among, mean_gap, share_among
from mcdo.studies.subtasks.dropout import CLASSES, Reading, triage, uncertainty
from mcdo.studies.subtasks.runs import Runs

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TriageRow:
    """One class of one arm under one reading of the std: its share, and the accuracy inside it."""

    arm: str
    reading: Reading
    name: str
    share: Estimate
    accuracy: Estimate


@dataclass(frozen=True, eq=False)
class _Pooled:
    """All seeds' images in one row: triage class, whether right, std, and origin."""

    kind: NDArray[np.int64]
    right: NDArray[np.bool_]
    std: Floats
    groups: NDArray[np.int64]


def _pooled(study: Runs, arm: str, reading: Reading) -> _Pooled:
    config, test = study.config, study.splits.test
    each = [
        uncertainty(study.passes(arm, seed), reading, study.run(arm, seed).temperature.value) for seed in config.seeds
    ]
    bars = (config.review_std, config.accept_std, config.accept_confidence)
    return _Pooled(
        np.concatenate([triage(u.confidence, u.std, *bars) for u in each]),
        np.concatenate([u.predicted == test.labels for u in each]),
        np.concatenate([u.std for u in each]),
        np.tile(test.groups, len(each)),
    )


def triage_rows(study: Runs, arm: str, reading: Reading) -> list[TriageRow]:
    """Every class of an arm, all seeds together."""
    pooled, everything = _pooled(study, arm, reading), np.ones(len(study.splits.test) * len(study.config.seeds))

    def among(hit: ArrayLike, chosen: ArrayLike) -> Estimate:
        return share_among(hit, chosen, pooled.groups)

    return [
        TriageRow(arm, reading, name, among(pooled.kind == i, everything), among(pooled.right, pooled.kind == i))
        for i, name in enumerate(CLASSES)
    ]


def accept_over_rest(study: Runs, arm: str) -> Estimate:
    """Accuracy among the accepted less accuracy among all others, under the document's reading."""
    pooled = _pooled(study, arm, "probability")

    accepted = pooled.kind == CLASSES.index("accept")
    return mean_gap(pooled.right, accepted, pooled.groups, seed=study.config.seed, resamples=study.config.resamples)


def mean_std(study: Runs, arm: str, reading: Reading) -> Estimate:
    """Mean over images and seeds of the std over passes."""
    pooled = _pooled(study, arm, reading)
    everything = np.ones(len(pooled.std))
    return mean_among(pooled.std, everything, pooled.groups, seed=study.config.seed, resamples=study.config.resamples)
