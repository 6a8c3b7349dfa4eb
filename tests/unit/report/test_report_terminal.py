from __future__ import annotations

from pathlib import Path

import numpy as np

from mcdo.experiments.base import add_to_json
from mcdo.experiments.verdict import Verdict, write
from mcdo.report.terminal import verdict_lines
from mcdo.stats import reliability


def _reports(root: Path, session: str) -> None:
    rng = np.random.default_rng(0)
    spaces = {
        space: reliability(rng.normal(size=40) + 0.1 * rng.normal(size=(3, 40)), resamples=20).as_dict()
        for space in ("pre_norm", "post_norm")
    }
    add_to_json(root / "exp0_nested_mc" / "exp0_overall_summary.json", session, "results", "clip_tiny", {"T=4": spaces})


def test_one_row_per_model_score_and_t_and_one_line_of_verdict(tmp_path: Path) -> None:
    _reports(tmp_path, "now")
    write(Verdict("GO", "it is usable", ("clip_tiny",), "digits", "full", 0.01, "all", 42, "now"), tmp_path)
    lines = [line for line in verdict_lines(tmp_path, "now") if line]
    assert len(lines) == 1 + 1 + 2 + 1
    assert lines[1].split()[:3] == ["model", "score", "T"]
    assert lines[2].split()[:5] == ["clip_tiny", "trace_pre", "4", "40", "3"]
    assert lines[-1] == f"GO: it is usable. Report: {tmp_path}"


def test_nothing_is_said_of_another_session(tmp_path: Path) -> None:
    assert verdict_lines(tmp_path, "now") == []
    _reports(tmp_path, "before")
    assert verdict_lines(tmp_path, "now") == []


def test_an_ascii_terminal_gets_ascii_tables(tmp_path: Path) -> None:
    _reports(tmp_path, "now")
    write(Verdict("GO", "ρ=0.9\x1b[2J", ("modèle",), "digits", "full", 0.01, "all", 42, "now"), tmp_path)
    lines = verdict_lines(tmp_path, "now", "ascii")
    assert all(line.isascii() and line.isprintable() for line in lines)
    assert "rho [95 %]" in lines[2]
    assert lines[-1].startswith("GO: rho=0.9\\x1b[2J. Report:")
