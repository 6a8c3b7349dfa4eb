"""The table and the verdict line that end a Phase 1 run on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcdo.experiments import exp0_nested_mc, verdict

HEADER = ("model", "score", "T", "N", "K", "ρ [95 %]", "SNR", "ICC", "status")


def verdict_lines(reports: Path, session: str) -> list[str]:
    """Lines for the terminal; empty when this session measured no reliability."""
    overall = reports / exp0_nested_mc.FOLDER / "exp0_overall_summary.json"
    if not overall.exists():
        return []
    held = json.loads(overall.read_text(encoding="utf-8"))
    if held.get("session") != session:
        return []
    rows = [
        _row(model, score, label, spaces[space])
        for model, by_passes in held["results"].items()
        for space, score in exp0_nested_mc.SPACES.items()
        for label, spaces in by_passes.items()
    ]
    return ["", *_table([HEADER, *rows]), "", *_verdict(reports, session)]


def _row(model: str, score: str, label: str, r: dict[str, Any]) -> tuple[str, ...]:
    low, high = r["pairwise_spearman_median_ci"]
    return (
        model,
        score,
        label.removeprefix("T="),
        str(r["n_images"]),
        str(r["n_trials"]),
        f"{_number(r['pairwise_spearman_median'], 3)} [{_number(low, 2)}, {_number(high, 2)}]",
        _number(r["snr"], 2),
        _number(r["icc"], 3),
        r["status"],
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _verdict(reports: Path, session: str) -> list[str]:
    path = reports / verdict.FILE
    if not path.exists():
        return []
    held = json.loads(path.read_text(encoding="utf-8"))
    if held["session"] != session:
        return []
    return [f"{held['decision']}: {held['reason']}. Report: {reports}"]
