"""``mcdo export``: claims and scores by image, in formats that other programs read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mcdo.names import say, say_text


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser("export", help="write the claims, or the scores by image, as a table")
    parser.add_argument("what", choices=("claims", "scores"), help="claims, or one row per image, score and trial")
    parser.add_argument("--format", default="csv", choices=("csv", "parquet", "latex", "markdown", "json"))
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where they are (default: reports)")
    parser.add_argument("--out", type=Path, default=None, help="the file; without it the table is printed")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Write the table; or print it."""
    from mcdo.report.caveats import caveats
    from mcdo.report.export import CLAIM_COLUMNS, SCORE_COLUMNS, claims, export, scores
    from mcdo.report.files import check_file
    from mcdo.report.results import Reports

    if asked.out is not None:
        check_file(asked.out)
    reports = Reports.read(asked.reports)
    for line in caveats(reports):
        say(line, sys.stderr)
    kinds = {"claims": (claims, CLAIM_COLUMNS), "scores": (lambda held: list(scores(held)), SCORE_COLUMNS)}
    rows, columns = kinds[asked.what]
    say_text(export(rows(reports), columns, asked.format, asked.out))
    return 0
