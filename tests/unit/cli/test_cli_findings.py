from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from mcdo.cli.findings import (
    OUTCOMES,
    _costs,
    _loss_or_site,
    _replicates,
    _rivals,
    fill_claims,
    interval,
    table,
    write_page,
)
from mcdo.errors import McdoError
from mcdo.experiments.cost import estimator_cost as cost
from mcdo.experiments.cost.pass_cost import FIRST_ORDER, NATIVE, SPARSE, Cost, PassCosts
from mcdo.harness import Inputs
from mcdo.report.figures import draw
from mcdo.report.files import write_json
from mcdo.schema import plain
from mcdo.stats import factorial_analysis, reliability


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", ""]


def test_an_interval_names_what_json_could_not_hold() -> None:
    assert interval({"value": 0.123, "low": -0.5, "high": None}) == "0.12 [-0.50, –]"
    assert interval({"value": None, "low": None, "high": None}) == "–"


def test_a_missing_report_names_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"prelim_loss_or_site_summary.json.*make experiments"):
        write_page(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_no_p_stands_beside_a_loss_or_a_tower() -> None:
    """One encoder was trained for each of them; sites are compared within encoders."""
    factors = {"loss": ("softmax", "sigmoid"), "tower": ("mha", "timm"), "site": ("all", "mlp", "attention")}
    cells = np.zeros((2, 2, 3))
    cells[1], cells[..., 1] = 0.5, [[-0.19, -0.21], [0.31, 0.29]]  # mlp .2 lower in each encoder, loss .5
    draws = cells + np.random.default_rng(0).normal(scale=0.001, size=(200, 2, 2, 3))
    found = factorial_analysis(factors, cells, draws, 500, units=("loss", "tower")).as_dict()
    names = [
        f"{loss}/{tower}/{site}" for loss in factors["loss"] for tower in factors["tower"] for site in factors["site"]
    ]
    one = {"value": 0.1, "low": 0.0, "high": 0.2}
    score = {
        "analysis": dict.fromkeys(OUTCOMES, found),
        "cells": {name: dict.fromkeys([*OUTCOMES, "increased/blur:10%"], one) for name in names},
    }
    summary = {
        "config": {"degradations": ["blur:10%"]},
        "num_images": 500,
        "scores": {"trace_pre": score, "trace_post": score},
    }
    lines = _loss_or_site(summary)
    rows = {
        line.split(" | ")[0].removeprefix("| "): line
        for line in lines
        if line.startswith(("| loss:", "| tower:", "| site:"))
    }
    assert "p " not in rows["loss: sigmoid - softmax"] + rows["tower: timm - mha"]
    assert "0.50 [0.50, 0.50]" in rows["loss: sigmoid - softmax"]
    assert ", p < 0.001" in rows["site: mlp - all"]
    (words, *_) = (line for line in lines if line.startswith("- trace_pre, reliability"))
    assert "over the four encoders, site: mlp - all -0.20, site: attention - mlp +0.20;" in words
    assert "not tested, loss: sigmoid - softmax +0.50, tower: timm - mha -0.01;" in words


def test_costs_stand_beside_first_order_and_what_is_not_reached_is_a_bound(tmp_path: Path) -> None:
    truth, rng = np.random.default_rng(0).normal(size=60), np.random.default_rng(1)

    def point(way: str, budget: int, price: float, noise: float) -> cost.Point:
        return cost.Point(way, 0.01, budget, price, reliability(truth + noise * rng.normal(size=(4, 60)), resamples=20))

    points = [
        point(FIRST_ORDER, cost.JUDGED_PROBES, 10.0, 0.4),
        point(SPARSE, 4, 4.0, 3.0),
        point(SPARSE, 64, 64.0, 0.1),
        point(NATIVE, 64, 200.0, 3.0),
    ]
    experiment = cost.EstimatorCost(n=60, trials=4, p=(0.01,), passes=(4, 64))
    costs = PassCosts({}, Cost(3.0, 3.0, 3.0, 1e-3, 5), None, 1.15, True, {})
    gained = {(score, 0.01): cost.gains(points, 0.01, cost.JUDGED_PROBES) for score in cost.SCORES}
    result = cost.EstimatorCosts(costs, dict.fromkeys(cost.SCORES, points), gained)
    folder = tmp_path / "estimator_cost"
    write_json(folder / "clip_tiny.json", {**plain(experiment.summary(result)), "config": experiment.as_dict()})
    draw(experiment.panels(cast("Inputs", None), result), "clip_tiny").savefig(folder / "clip_tiny.png")
    lines = _costs(folder, tmp_path / "figures")
    (row, _) = (line.split(" | ") for line in lines if line.startswith("| clip_tiny"))
    assert row[1:3] == ["trace_pre", "0.01"]
    assert row[3].endswith(" at 10.0")
    assert row[4].endswith(" at 64.0")
    assert 0.4 < float(row[5].split()[0]) < 6.4  # between what the two budgets cost, in tens of passes
    assert row[6] == "> 20.0 |"
    assert (tmp_path / "figures" / "reliability_against_cost_clip_tiny.png").stat().st_size > 0


def test_costs_that_were_not_measured_name_the_command(tmp_path: Path) -> None:
    assert _costs(tmp_path, tmp_path / "figures") == ["Not measured: `make perf` writes it.", ""]


def test_a_page_that_asks_is_given_its_claims(tmp_path: Path) -> None:
    reports = tmp_path / "reports" / "phase2" / "norms"
    reports.mkdir(parents=True)
    claim = {"claim": "a|b", "outcome": "met", "bar": "> 0", "beside": "", "p_holm": None, "at": [0]}
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 120, "level": 0.95}
    experiment = {"key": "norms", "name": "norms", "phase": "phase2", "question": "", "reading": ""}
    summary = {
        "model": "clip_tiny", "claims": [{**claim, "estimate": estimate}], "config": {"n": 500, "dropout": {}},
        "provenance": {}, "experiment": experiment, "files": {"folder": "phase2/norms"},
    }  # fmt: skip
    (reports / "norms.json").write_text(json.dumps(summary))
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "norms.md").write_text("Before.\n<!-- claims: phase2/norms -->\nold\n<!-- end claims -->\nAfter.\n")
    (pages / "other.md").write_text("Nothing.\n")
    assert [page.name for page in fill_claims(tmp_path / "reports", pages)] == ["norms.md"]
    text = (pages / "norms.md").read_text()
    assert "| clip_tiny | a&#124;b | met | 0.50 [0.40, 0.60] | > 0 | 120 |" in text
    assert "(n 500)" in text
    assert "old" not in text
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    fill_claims(tmp_path / "reports", pages)
    assert (pages / "norms.md").read_text() == text, "filled twice is filled once"
    (pages / "norms.md").write_text("<!-- claims: phase2/absent -->\n<!-- end claims -->")
    with pytest.raises(McdoError, match="asks for phase2/absent"):
        fill_claims(tmp_path / "reports", pages)


def test_several_trainings_are_told_where_there_are_some(tmp_path: Path) -> None:
    assert "make replicates" in _replicates(tmp_path / "none.json")[2]
    one = {"value": 0.2, "low": 0.1, "high": 0.3}
    outcome = {"effects": {"loss: sigmoid - softmax": {**one, "p_holm": 0.0004}}, "sd_between_trainings": one}
    score = dict.fromkeys(OUTCOMES, outcome)
    scores = {"trace_pre": score, "trace_post": score}
    summary = {"trainings": {"a-1": {}, "a-2": {}}, "num_images": 9, "scores": scores}
    lines = _replicates(write_json(tmp_path / "some.json", summary))
    assert sum(line.startswith("| loss: sigmoid - softmax | 0.20 [0.10, 0.30], p < 0.001") for line in lines) == 2
    assert sum(line.startswith("| sd between trainings | 0.20 [0.10, 0.30]") for line in lines) == 2


def test_a_page_that_asks_is_given_figures_by_their_places(tmp_path: Path) -> None:
    folder, pages = tmp_path / "reports" / "phase2" / "norms", tmp_path / "pages"
    for each in (folder, pages):
        each.mkdir(parents=True)
    half = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "level": 0.95}
    small = {**half, "value": 0.00123, "low": 0.001, "high": 0.00246}
    summary = {
        "model": "clip_tiny", "claims": [], "config": {"of": half}, "provenance": {},
        "experiment": {"key": "norms", "name": "norms", "phase": "phase2", "question": "", "reading": ""},
        "files": {"folder": "phase2/norms"}, "mean": small,
        "by": {"a": {"rho": half, "rho_given": half}, "b": {"rho": half}},
        "reliability": {"T=4": {"snr": 2.5, "snr_ci": [2.0, 3.0], "n": 9}},
        "many": {"of": {f"c{i}": half for i in range(7)}},
    }  # fmt: skip
    (folder / "norms.json").write_text(json.dumps(summary))
    page = pages / "norms.md"
    page.write_text(
        "<!-- figures: phase2/norms mean by/*/rho|by/*/rho_given reliability/* many/* -->\n<!-- end figures -->"
    )
    assert fill_claims(tmp_path / "reports", pages) == [page]
    text = page.read_text()
    assert "| clip_tiny | mean |\n| --- | --- |\n| of all | 0.0012 [0.0010, 0.0025] |" in text
    assert "| clip_tiny | rho | rho_given |\n| --- | --- | --- |\n| a | 0.50 [0.40, 0.60] | 0.50 [0.40, 0.60] |" in text
    assert "| b | 0.50 [0.40, 0.60] | – |" in text
    assert "| T=4 | 2.50 [2.00, 3.00] |" in text
    assert "| clip_tiny | of |\n| --- | --- |\n| c0 |" in text, "many columns of one row are turned"
    page.write_text("<!-- figures: phase2/norms nowhere/* -->\n<!-- end figures -->")
    with pytest.raises(McdoError, match=r"norms\.md: no estimate of phase2/norms stands at nowhere"):
        fill_claims(tmp_path / "reports", pages)


def test_what_beats_dropout_is_said_of_each_encoder_and_of_all(tmp_path: Path) -> None:
    """A p of 0 is a decision and no missing one; what only one encoder shows is not said of all."""

    def over(p: float | None, value: float) -> dict[str, object]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 90, "p_value": p, "p_holm": p}

    for model, better in (("one", 0.0), ("two", 0.3)):
        differences = {"a at error": over(0.0, 0.5), "b at error": over(better, 0.2), "c at error": over(1e-9, -0.4)}
        row = {"cost": 1.0, "excess_aurc": {"value": 0.0012, "low": 0.0008, "high": 0.002, "n": 90}}
        summary = {
            "config": {"n": 90, "passes": 64, "foreign": 30},
            "over_dropout_trace_post": {**differences, "d at error": over(None, 0.9)},
            "rows": {"a": row},
            "measures": {"raised/blur:10%": "share"},
            "ahead_of_the_best_trivial": {"a at error": over(0.0, 0.5)},
            "trivial": ["norm"],
            "left_out": {"x": "no labels", "y": "no labels"},
        }
        write_json(tmp_path / model / "rivals_summary.json", summary)
    lines = _rivals(tmp_path)
    assert "- one, errors: ahead a, b; behind c; undecided d." in lines
    assert "- two, errors: ahead a; behind c; undecided b, d." in lines
    assert "- In all 2 encoders, errors: ahead a; behind c; undecided d." in lines
    assert any("0.0012 [0.0008, 0.0020]" in line and "0.50 [0.40, 0.60], p < 0.001" in line for line in lines)
    assert lines.count("Left out: x, y (no labels).") == 2
