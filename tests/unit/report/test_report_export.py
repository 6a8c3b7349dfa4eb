from __future__ import annotations

import csv
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from reports_folder import JUDGEMENTS, NAME, write

from mcdo.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write(tmp_path / "reports", "odd_model,%&")
    ids, origins = np.array(["a", "b|c"]), np.array(["a", "b"])
    scores = np.array([[1.0, np.nan], [3.0, 4.0]])
    np.savez(folder / "phase1" / NAME / "norms.npz", paths=ids, origins=origins, trial_pre=scores, other=np.eye(3))
    return folder


def printed(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["export", *arguments, "--reports", str(folder)]) == 0
    return capsys.readouterr().out


def test_claims_as_csv_and_json_are_numbers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(printed(folder, capsys, "claims"))))
    assert [row["claim"] for row in rows] == [each.claim for each in JUDGEMENTS]
    assert [float(rows[0][name]) for name in ("value", "low", "high", "n")] == [0.5, 0.4, 0.6, 120]
    assert rows[0]["model"] == "odd_model,%&"
    assert rows[-1]["value"] == ""
    held = json.loads(printed(folder, capsys, "claims", "--format=json"))
    assert held[0]["value"] == 0.5
    assert held[-1]["value"] is None


def test_scores_are_tidy(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(folder, capsys, "scores", "--format=json"))
    tidy = [(row["id"], row["origin"], row["score"], row["trial"], row["value"]) for row in rows]
    assert tidy == [
        ("a", "a", "trial_pre", 0, 1.0), ("b|c", "b", "trial_pre", 0, None),
        ("a", "a", "trial_pre", 1, 3.0), ("b|c", "b", "trial_pre", 1, 4.0),
    ]  # fmt: skip


def test_tables_for_people_hold_intervals_and_survive_names(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    latex = printed(folder, capsys, "claims", "--format=latex")
    assert r"\toprule" in latex
    assert "0.50 [0.40, 0.60]" in latex
    assert r"odd\_model,\%\&" in latex
    assert r"\textgreater{} 0.3" in latex
    markdown = printed(folder, capsys, "claims", "--format=markdown").strip().splitlines()
    assert {line.count("|") for line in markdown} == {markdown[0].count("|")}
    scores = printed(folder, capsys, "scores", "--format=markdown").strip().splitlines()
    assert {line.count("|") for line in scores} == {scores[0].count("|")}, "a name ended a cell"


def test_parquet_or_the_command_that_brings_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "claims.parquet"
    status = main(["export", "claims", "--format=parquet", "--reports", str(folder), "--out", str(out)])
    if importlib.util.find_spec("pandas") is None or importlib.util.find_spec("pyarrow") is None:
        assert status == 2
        assert 'pip install "mcdo[frames]"' in capsys.readouterr().err
        return
    import pandas as pd

    assert pd.read_parquet(out)["value"].tolist()[:3] == [0.5, 0.1, 0.3]


def test_a_format_that_is_no_text_wants_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "claims", "--format=parquet", "--reports", str(folder)]) == 2
    assert "name a file with --out" in capsys.readouterr().err
