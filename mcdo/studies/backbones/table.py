"""The table: F1, AUC and onset error per backbone with intervals over folds, and paired tests against the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.names import markdown_table
from mcdo.stats import Estimate, holm, mean, wilcoxon_increase
from mcdo.studies.backbones.series import Series
from mcdo.studies.backbones.training import Prediction

METRICS = ("f1", "auc", "onset_mae_days")
LOWER_IS_BETTER = frozenset({"onset_mae_days", "false_alarms"})
THRESHOLD = 0.5
PUBLISHED = {"dinov2": {"f1": 0.634, "auc": 0.949, "onset_mae_days": 8.7}}
"""The completion report of the study (S3), 44 folds, all modalities; the other backbones had not been run."""
Array = NDArray[np.float64]


def onset_days(probability: Array, days: Array) -> Array:
    """The first photographed day with a probability above one half; where there is none, the last photographed day.

    The study's own rule. ``probability`` [n, R] is NaN in rounds without an image; ``days`` [R]. Result [n].
    """
    seen = np.asarray(np.isfinite(probability))
    over = np.nan_to_num(probability) > THRESHOLD
    last = probability.shape[1] - 1 - np.flip(seen, axis=1).argmax(axis=1)
    return np.asarray(days[np.where(over.any(axis=1), over.argmax(axis=1), last)])


def fold_figures(series: Series, prediction: Prediction) -> dict[str, float]:
    """Of one run, over the photographed rounds of the left-out plants; NaN where a figure is not defined.

    f1: at one half, 0 when nothing is found. auc: NaN with one class only. onset_mae_days: mean absolute error over
    the plants that wilt. false_alarms: the share of the others that are called wilting in any round.
    """
    from sklearn.metrics import f1_score, roc_auc_score

    places = [series.plants.index(name) for name in prediction.plants]
    labels, seen, onset = series.labels[places], series.seen[places], series.onset[places]
    truth, score = labels[seen], prediction.probability[seen]
    wilts = np.isfinite(onset)
    found = onset_days(prediction.probability, series.days)
    called = np.asarray((np.nan_to_num(prediction.probability) > THRESHOLD).any(axis=1))
    return {
        "f1": float(f1_score(truth, score > THRESHOLD, zero_division=0.0)),
        "auc": float(roc_auc_score(truth, score)) if 0 < truth.sum() < truth.size else math.nan,
        "onset_mae_days": float(np.abs(found - onset)[wilts].mean()) if wilts.any() else math.nan,
        "false_alarms": float(called[~wilts].mean()) if not wilts.all() else math.nan,
    }


@dataclass(frozen=True)
class Row:
    """A backbone: per figure the estimate over folds (seeds averaged first) and the spread over seeds.

    ``folds`` holds the figures themselves, float64 [S, F]. ``onsets`` are (true, predicted) days [S, n] of the plants
    that wilt.
    """

    backbone: str
    estimates: dict[str, Estimate]
    seed_sd: dict[str, float]
    folds: dict[str, Array]
    onsets: tuple[Array, Array]


@dataclass(frozen=True)
class Comparison:
    """Whether a backbone beats the baseline: ``difference`` is positive when it does, whatever the figure's sign.

    ``p``: one-sided Wilcoxon signed-rank test over folds; ``p_holm``: corrected over all comparisons of the table.
    """

    backbone: str
    figure: str
    difference: Estimate
    p: float
    p_holm: float


@dataclass(frozen=True)
class Table:
    """Rows in the order asked for, and their comparisons with the baseline."""

    baseline: str
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]

    def row(self, backbone: str) -> Row:
        """The row of a backbone."""
        return next(row for row in self.rows if row.backbone == backbone)

    def comparison(self, backbone: str, figure: str) -> Comparison:
        """One of the paired tests."""
        return next(each for each in self.comparisons if (each.backbone, each.figure) == (backbone, figure))


def row_of(series: Series, predictions: Sequence[Prediction], seed: int = 0) -> Row:
    """A backbone's row from all its runs: every seed with every fold."""
    seeds = sorted({each.task.seed for each in predictions})
    groups = sorted({each.task.group for each in predictions})
    held = {(each.task.seed, each.task.group): each for each in predictions}
    if len(held) != len(predictions) or len(held) != len(seeds) * len(groups):
        raise McdoError(
            f"{series.name}: {len(predictions)} runs are not every one of {len(seeds)} seeds x {len(groups)} folds"
        )
    figures = {key: fold_figures(series, each) for key, each in held.items()}
    folds = {
        name: np.array([[figures[s, g][name] for g in groups] for s in seeds]) for name in (*METRICS, "false_alarms")
    }
    return Row(
        series.name,
        {name: over_folds(values.mean(axis=0), seed) for name, values in folds.items()},
        {name: _spread(values) for name, values in folds.items()},
        folds,
        _onsets(series, [[held[s, g] for g in groups] for s in seeds]),
    )


def over_folds(values: Array, seed: int) -> Estimate:
    """Mean over the folds in which a figure is defined, with the bootstrap interval over them."""
    defined = values[~np.isnan(values)]
    if len(defined) < 2:
        return Estimate(float(defined.mean()) if len(defined) else math.nan, math.nan, math.nan, len(defined))
    return mean(defined, seed=seed)


def _spread(values: Array) -> float:
    """Standard deviation over seeds of the mean over folds; NaN for one seed or an undefined figure."""
    defined = values[:, ~np.isnan(values).any(axis=0)]
    return float(defined.mean(axis=1).std(ddof=1)) if len(values) > 1 and defined.size else math.nan


def _onsets(series: Series, runs: Sequence[Sequence[Prediction]]) -> tuple[Array, Array]:
    true, found = [], []
    for of_seed in runs:
        places = [series.plants.index(name) for each in of_seed for name in each.plants]
        day = np.concatenate([onset_days(each.probability, series.days) for each in of_seed])
        onset = series.onset[places]
        true.append(onset[~np.isnan(onset)])
        found.append(day[~np.isnan(onset)])
    return np.stack(true), np.stack(found)


def compare(rows: Sequence[Row], baseline: str, seed: int = 0) -> Table:
    """The table: each other row against the baseline in each of :data:`METRICS`, fold by fold, Holm over all."""
    base = next(row for row in rows if row.backbone == baseline)
    pairs = [(row, name) for row in rows if row is not base for name in METRICS]
    tests = [_paired(row, base, name, seed) for row, name in pairs]
    adjusted = holm([p for _, p in tests]) if tests else np.array([])
    comparisons = tuple(
        Comparison(row.backbone, name, difference, p, float(corrected))
        for (row, name), (difference, p), corrected in zip(pairs, tests, adjusted, strict=True)
    )
    return Table(baseline, tuple(rows), comparisons)


def _paired(row: Row, base: Row, name: str, seed: int) -> tuple[Estimate, float]:
    mine, its = (each.folds[name].mean(axis=0) for each in (row, base))
    if mine.shape != its.shape:
        raise McdoError(f"{row.backbone} has {len(mine)} folds and {base.backbone} {len(its)}; train both on the same")
    better, worse = (its, mine) if name in LOWER_IS_BETTER else (mine, its)
    defined = ~np.isnan(better) & ~np.isnan(worse)
    if defined.sum() < 2:
        return over_folds(better - worse, seed), 1.0
    return over_folds((better - worse)[defined], seed), wilcoxon_increase(better[defined], worse[defined]).p_value


def as_json(table: Table) -> dict[str, Any]:
    """For table.json."""
    return {
        "baseline": table.baseline,
        "rows": {
            row.backbone: {
                name: {**estimate.as_dict(), "seed_sd": row.seed_sd[name], "folds": row.folds[name].tolist()}
                for name, estimate in row.estimates.items()
            }
            for row in table.rows
        },
        "comparisons": [
            {
                "backbone": each.backbone,
                "figure": each.figure,
                "improvement": each.difference,
                "p_wilcoxon_one_sided": each.p,
                "p_holm": each.p_holm,
            }
            for each in table.comparisons
        ],
        "family": f"Holm over {len(table.comparisons)} one-sided Wilcoxon tests against {table.baseline}, over folds",
        "published": PUBLISHED,
    }


def markdown(table: Table) -> str:
    """The table for people."""
    head = ["backbone", "F1 [95 %]", "AUC [95 %]", "onset MAE, days [95 %]", "watered plants called wilting", "folds"]
    rows = [
        [
            row.backbone + (" (baseline)" if row.backbone == table.baseline else ""),
            *(_cell(row.estimates[name]) for name in (*METRICS, "false_alarms")),
            row.estimates["f1"].n,
        ]
        for row in table.rows
    ]
    against = [f"against {table.baseline}", "figure", "improvement [95 %]", "p (Wilcoxon)", "p (Holm)", "n"]
    compared = [
        [each.backbone, each.figure, _cell(each.difference), f"{each.p:.2g}", f"{each.p_holm:.2g}", each.difference.n]
        for each in table.comparisons
    ]
    return "\n".join([*markdown_table(head, rows), "", *markdown_table(against, compared)]) + "\n"


def _cell(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
