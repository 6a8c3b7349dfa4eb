from __future__ import annotations

from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.report.findings_page import interval, table, write_page


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |", ""]


def test_an_interval_names_what_json_could_not_hold() -> None:
    assert interval({"value": 0.123, "low": -0.5, "high": None}) == "0.12 [-0.50, –]"
    assert interval({"value": None, "low": None, "high": None}) == "–"


def test_a_missing_report_names_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"prelim_loss_or_site_summary.json.*make experiments"):
        write_page(tmp_path, tmp_path / "page.md")
    assert not (tmp_path / "page.md").exists()
