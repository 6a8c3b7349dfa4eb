from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reports_folder import JUDGEMENTS, NAME, summary, write

from mcdo.cli import main
from mcdo.report.results import Reports

PDFLATEX = shutil.which("pdflatex")


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


HOSTILE = r"""_ & % # $ \ ~ ^ { } [x] * -- ?` '' " < > | {} \end{tabular} \input{x} %"""
LETTERS = "".join(map(chr, (*range(0xA0, 0x180), *range(0x370, 0x400), *range(0x2000, 0x2300), 0x6A21, 0x1F600)))


@pytest.mark.skipif(PDFLATEX is None, reason="there is no pdflatex: install Debian's package texlive-latex-recommended")
@pytest.mark.parametrize("encoding", ["OT1", "T1"])
def test_latex_sets_the_table_whatever_it_holds(
    encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claims = [replace(JUDGEMENTS[0], claim=name).as_dict() for name in (HOSTILE, "\x1b\n\u202e", LETTERS[:400])]
    experiment = {**summary()["experiment"], "phase": "[1] *"}
    folder = write(tmp_path / "reports", HOSTILE, claims=claims, experiment=experiment)
    table = printed(folder, capsys, "claims", "--format=latex")
    letters = printed(write(tmp_path / "letters", LETTERS), capsys, "claims", "--format=latex")
    assert f"[U+{ord('模'):04X}]" in letters
    assert table.count(r" \\") == 1 + len(claims), "a name ended a row"
    head = rf"\documentclass{{article}}\usepackage[{encoding}]{{fontenc}}\usepackage{{booktabs}}\pdfcompresslevel=0"
    source = tmp_path / "table.tex"
    source.write_text(rf"{head}\begin{{document}}{table}{letters}\end{{document}}", encoding="utf-8")
    command = [str(PDFLATEX), "-interaction=nonstopmode", "-halt-on-error", source.name]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=60, check=False)
    said = ended.stdout.decode(errors="replace")
    assert ended.returncode == 0, said[-2000:]
    assert "Missing character" not in said
    assert (tmp_path / "table.pdf").read_bytes().startswith(b"%PDF")


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


@pytest.mark.parametrize("command", ["export claims", "plan --assume=spearman=0.7,passes=64 --models=clip_tiny"])
@pytest.mark.parametrize("name", ["", "file/x.csv"], ids=["a folder", "below a file"])
def test_a_place_that_is_no_file_is_refused(
    command: str, name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It went to a temporary folder, or was told of as if it were the reports."""
    (tmp_path / "file").touch()
    assert main([*command.split(), f"--out={tmp_path / name}"]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / name} {'cannot be written' if name else 'is a folder; name a file in it'}" in said
    assert "--reports" not in said


def test_a_format_that_is_no_text_wants_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "claims", "--format=parquet", "--reports", str(folder)]) == 2
    assert "name a file with --out" in capsys.readouterr().err


def test_a_command_that_is_interrupted_says_so_and_shows_no_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(folder: Path) -> Reports:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reports, "read", interrupted)
    assert main(["export", "claims", "--reports", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "mcdo: interrupted\n"
