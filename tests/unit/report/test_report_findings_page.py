from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.experiments.cost import estimator_cost as cost
from mcdo.report.findings_page import _costs, interval, table, write_page
from mcdo.stats import reliability


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", ""]


def test_an_interval_names_what_json_could_not_hold() -> None:
    assert interval({"value": 0.123, "low": -0.5, "high": None}) == "0.12 [-0.50, –]"
    assert interval({"value": None, "low": None, "high": None}) == "–"


def test_a_missing_report_names_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"prelim_loss_or_site_summary.json.*make experiments"):
        write_page(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()


def test_costs_stand_beside_first_order_and_what_is_not_reached_is_a_bound(tmp_path: Path) -> None:
    truth, rng = np.random.default_rng(0).normal(size=60), np.random.default_rng(1)

    def point(way: str, budget: int, price: float, noise: float) -> cost.Point:
        return cost.Point(way, 0.01, budget, price, reliability(truth + noise * rng.normal(size=(4, 60)), resamples=20))

    points = [
        point(cost.FIRST_ORDER, cost.JUDGED_PROBES, 10.0, 0.4),
        point(cost.SPARSE, 4, 4.0, 3.0),
        point(cost.SPARSE, 64, 64.0, 0.1),
        point(cost.NATIVE, 64, 200.0, 3.0),
    ]
    config = cost.EstimatorCostConfig(n=60, trials=4, p=(0.01,), passes=(4, 64))
    folder = cost.write(config, "clip_tiny", {}, {"trace_pre": points, "trace_post": points}, {}, tmp_path)
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
