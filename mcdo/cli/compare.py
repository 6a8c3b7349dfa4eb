"""``mcdo compare``: what differs between two folders of reports beyond noise."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mcdo.names import say


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser("compare", help="say what differs between two folders of reports, or runs, beyond noise")
    parser.add_argument("first", help="a folder of reports, such as that of an earlier commit; a run with --store")
    parser.add_argument("second", help="another")
    parser.add_argument(
        "--store", type=Path, default=None, help="compare two runs of this store, as mcdo store list names them"
    )
    parser.add_argument("--html", type=Path, default=None, help="write the comparison as a page too")
    parser.add_argument(
        "--fail-on",
        choices=("worse", "different"),
        default=None,
        help="exit with 1 where a claim or the verdict is worse beyond noise or a claim that was met cannot be decided "
        "any more, or where any figure differs or has become undefined; and where the second's run did not end whole",
    )
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Compare; the exit status is 1 for what ``--fail-on`` names."""
    from mcdo.report.caveats import caveats
    from mcdo.report.compare import compare, compare_runs, tables
    from mcdo.report.page import check_page, write_comparison
    from mcdo.report.results import Reports
    from mcdo.report.stored_runs import StoredRun
    from mcdo.report.terminal import lines

    if asked.html is not None:
        check_page(asked.html)
    if asked.store is None:
        first, second = Reports.read(Path(asked.first)), Reports.read(Path(asked.second))
        for name, reports in ((asked.first, first), (asked.second, second)):
            for line in caveats(reports):
                say(f"{name}: {line}", sys.stderr)
        found = compare(first, second)
    else:
        found = compare_runs(StoredRun.find(asked.store, asked.first), StoredRun.find(asked.store, asked.second))
    for line in lines(tables(found), [f"{asked.first} and {asked.second}: {found.conclusion()}"], sys.stdout.encoding):
        say(line)
    if asked.html is not None:
        say(str(write_comparison(found, (asked.first, asked.second), asked.html)))
    failed = {"worse": found.worse, "different": found.different, None: False}[asked.fail_on]
    return int(failed)
