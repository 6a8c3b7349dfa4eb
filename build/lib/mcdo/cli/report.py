"""``mcdo report``: one HTML page of what the experiments reported."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mcdo.names import say


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser("report", help="write one HTML page of what the experiments reported")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="where they wrote (default: reports)")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="default: report.html")
    parser.add_argument("--no-thumbnails", action="store_true", help="leave out the pictures of images")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Write the page, and say where."""
    from mcdo.report.page import check_page, write_page

    say(str(write_page(asked.reports, check_page(asked.out), not asked.no_thumbnails)))
    return 0
