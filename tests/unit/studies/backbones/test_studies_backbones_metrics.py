"""The figures by hand, and the paired tests against SciPy's."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.report.figures import draw
from mcdo.schema import plain
from mcdo.studies.backbones.figure import estimates_panel, onsets_panel
from mcdo.studies.backbones.series import Series
from mcdo.studies.backbones.table import as_json, compare, fold_figures, markdown, onset_days, row_of
from mcdo.studies.backbones.training import Prediction, Task

NAN = math.nan


def _series(labels: list[list[int]], seen: list[list[int]] | None = None, groups: tuple[str, ...] = ()) -> Series:
    truth = np.array(labels, dtype=bool)
    return Series(
        "made",
        "key",
        tuple(f"p{i}" for i in range(len(truth))),
        groups or ("g",) * len(truth),
        np.zeros((*truth.shape, 1), np.float32),
        np.ones_like(truth) if seen is None else np.array(seen, dtype=bool),
        truth,
        np.array([4.0, 7.0, 11.0, 12.0])[: truth.shape[1]],
    )


def _prediction(rows: list[list[float]], group: str = "g", seed: int = 0, first: int = 0) -> Prediction:
    names = tuple(f"p{first + i}" for i in range(len(rows)))
    return Prediction(Task(seed, group), names, np.array(rows), 1, 1, 0.0)


def test_onset_is_the_first_photographed_day_above_one_half_else_the_last_one() -> None:
    days = np.array([4.0, 7.0, 11.0, 12.0])
    probability = np.array([[0.1, 0.6, 0.2, 0.9], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, NAN], [NAN, 0.9, 0.9, 0.9]])
    assert onset_days(probability, days).tolist() == [7.0, 12.0, 11.0, 7.0]


def test_figures_of_a_fold_by_hand() -> None:
    series = _series([[0, 0, 1, 1], [0, 0, 0, 0]])
    figures = fold_figures(series, _prediction([[0.1, 0.7, 0.4, 0.9], [0.2, 0.3, 0.1, 0.6]]))
    # found: one of two wilting rounds, and two that are not. Precision 1/3, recall 1/2, F1 = 2/(3 + 2)
    assert figures["f1"] == pytest.approx(0.4)
    # pairs: .4 beats .1 .2 .3 .1 of six, .9 beats all six
    assert figures["auc"] == pytest.approx(10 / 12)
    assert figures["onset_mae_days"] == 4.0  # day 7 for day 11
    assert figures["false_alarms"] == 1.0


def test_rounds_without_an_image_do_not_count() -> None:
    series = _series([[0, 1, 1, 1]], seen=[[1, 0, 1, 1]])
    assert series.onset.tolist() == [11.0]  # the first day on which it could be seen
    figures = fold_figures(series, _prediction([[0.1, NAN, 0.9, 0.9]]))
    assert (figures["f1"], figures["auc"], figures["onset_mae_days"]) == (1.0, 1.0, 0.0)
    assert math.isnan(figures["false_alarms"])


def test_a_fold_without_wilting_has_no_auc_and_no_onset() -> None:
    figures = fold_figures(_series([[0, 0, 0, 0]]), _prediction([[0.1, 0.2, 0.3, 0.4]]))
    assert figures["f1"] == 0.0
    assert math.isnan(figures["auc"])
    assert math.isnan(figures["onset_mae_days"])
    assert figures["false_alarms"] == 0.0


def _many(scale: float, seeds: int = 1, folds: int = 8) -> tuple[Series, list[Prediction]]:
    """Eight folds of one plant each, its rounds called with more or less noise."""
    rng = np.random.default_rng(3)
    labels = [[0, 0, 1, 1] if i % 2 else [0, 1, 1, 1] for i in range(folds)]
    series = _series(labels, groups=tuple(f"g{i}" for i in range(folds)))
    runs = [
        _prediction([list(np.clip(0.5 + 0.3 * (2 * np.array(row) - 1) + rng.normal(0, scale, 4), 0, 1))], f"g{i}", s, i)
        for s in range(seeds)
        for i, row in enumerate(labels)
    ]
    return series, runs


def test_a_row_is_the_mean_over_folds_of_the_mean_over_seeds() -> None:
    series, runs = _many(0.4, seeds=3)
    row = row_of(series, runs)
    by_hand = np.array([[fold_figures(series, each)["f1"] for each in runs if each.task.seed == s] for s in range(3)])
    assert row.estimates["f1"].value == pytest.approx(by_hand.mean())
    assert row.estimates["f1"].n == 8
    assert row.estimates["f1"].low <= by_hand.mean() <= row.estimates["f1"].high
    assert row.seed_sd["f1"] == pytest.approx(by_hand.mean(axis=1).std(ddof=1))


def test_a_missing_run_is_an_error() -> None:
    series, runs = _many(0.1, seeds=2)
    with pytest.raises(McdoError, match="15 runs are not every one of 2 seeds x 8 folds"):
        row_of(series, runs[:-1])


def test_comparisons_are_scipys_with_a_positive_sign_for_better_and_holm_over_all() -> None:
    good, bad = _many(0.05), _many(0.6)
    rows = [replace(row_of(*good), backbone="good"), replace(row_of(*bad), backbone="bad")]
    table = compare(rows, "bad")
    raw = {}
    for figure, sign in (("f1", 1), ("auc", 1), ("onset_mae_days", -1)):
        difference: NDArray[np.float64] = sign * (rows[0].folds[figure] - rows[1].folds[figure])[0]
        found = table.comparison("good", figure)
        assert found.difference.value == pytest.approx(difference.mean())
        moved = difference[difference != 0]
        assert found.p == pytest.approx(scipy.stats.wilcoxon(moved, alternative="greater").pvalue)
        raw[figure] = found.p
    ordered = sorted(raw, key=raw.__getitem__)
    expected, worst = {}, 0.0
    for place, figure in enumerate(ordered):
        worst = max(worst, min(1.0, raw[figure] * (3 - place)))
        expected[figure] = worst
    assert {figure: table.comparison("good", figure).p_holm for figure in raw} == pytest.approx(expected)


def test_a_comparison_is_of_the_mean_over_seeds_in_folds_that_both_define() -> None:
    row = row_of(*_many(0.4, seeds=2))
    mine, its = np.arange(8.0), np.arange(8.0)[::-1] / 4
    folds = {"f1": np.stack([mine, mine + 2]), "auc": np.stack([mine] * 2), "onset_mae_days": np.stack([mine] * 2)}
    base = {**folds, "f1": np.stack([its, its]), "auc": np.stack([np.where(mine == 3, NAN, its)] * 2)}
    folds["auc"][:, 5] = NAN
    table = compare([replace(row, folds=base), replace(row, backbone="other", folds=folds)], "made")
    f1, auc = (table.comparison("other", figure) for figure in ("f1", "auc"))
    assert f1.difference.value == pytest.approx((mine + 1 - its).mean())
    kept = np.delete(mine - its, [3, 5])
    assert auc.difference.value == pytest.approx(kept.mean())
    assert auc.difference.n == 6
    assert auc.p == pytest.approx(scipy.stats.wilcoxon(kept, alternative="greater").pvalue)


def test_onsets_are_of_the_plants_that_wilt() -> None:
    series = _series([[0, 0, 0, 0], [0, 0, 1, 1]], groups=("a", "b"))
    runs = [_prediction([[0.9] * 4], "a"), _prediction([[0.1, 0.9, 0.9, 0.9]], "b", first=1)]
    true, found = row_of(series, runs).onsets
    assert (true.tolist(), found.tolist()) == ([[11.0]], [[7.0]])


def test_a_backbone_does_not_beat_itself() -> None:
    series, runs = _many(0.4)
    table = compare([row_of(series, runs), replace(row_of(series, runs), backbone="twin")], "made")
    assert {each.p_holm for each in table.comparisons} == {1.0}
    assert {each.difference.value for each in table.comparisons} == {0.0}


def test_different_folds_are_not_compared() -> None:
    with pytest.raises(McdoError, match="has 6 folds and made 8"):
        compare([row_of(*_many(0.4)), replace(row_of(*_many(0.4, folds=6)), backbone="fewer")], "made")


def test_the_table_is_strict_json_and_markdown_and_a_figure() -> None:
    rows = [row_of(*_many(0.4, seeds=2)), replace(row_of(*_many(0.1, seeds=2)), backbone="better")]
    table = compare(rows, "made")
    text = json.dumps(plain(as_json(table)), allow_nan=False)
    assert json.loads(text)["rows"]["better"]["f1"]["n"] == 8
    assert len(markdown(table).splitlines()) == 2 + 2 + 1 + 2 + 3
    assert "made (baseline)" in markdown(table)
    panels = (partial(estimates_panel, table=table, name="f1"), partial(onsets_panel, table=table, shown="better"))
    estimates, onsets = draw(panels, "t").axes
    drawn = [np.asarray(bars[0].get_xdata()).tolist() for bars in estimates.containers]
    assert [label.get_text() for label in estimates.get_yticklabels()] == ["made", "better"]
    assert drawn == [[row.estimates["f1"].value] for row in rows]
    for cloud, row in zip(onsets.collections, rows, strict=True):
        assert np.asarray(cloud.get_offsets())[:, 1].tolist() == row.onsets[1].mean(axis=0).tolist()
