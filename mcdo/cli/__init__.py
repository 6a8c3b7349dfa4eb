"""The command line, one file for each command; ``store`` looks after what was measured, the others after results."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mcdo.cli import compare, doctor, export, init, judge, measure, plan, report, score, store
from mcdo.errors import McdoError
from mcdo.names import message, say, say_text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 where something is damaged, or 2 for a request that cannot be met."""
    parser = _parser()
    asked, rest = parser.parse_known_args(arguments, argparse.Namespace(passes_on=False))
    if rest and not asked.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    asked.rest = rest
    try:
        return int(asked.run(asked))
    except BrokenPipeError:  # as in mcdo store list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (McdoError, OSError) as error:
        say_text(message(f"mcdo: {error}"), sys.stderr)
        return 2
    except KeyboardInterrupt:  # as a shell says it of any command
        say("mcdo: interrupted", sys.stderr)
        return score.INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcdo", description="Uncertainty of frozen vision-language encoders.")
    rooms = parser.add_subparsers(required=True, metavar="COMMAND")
    page = rooms.add_parser("findings", help="write what was found into docs/findings.md and the experiments' pages")
    page.add_argument("--reports", type=Path, default=Path("reports"), help="where they wrote (default: reports)")
    page.add_argument("--page", type=Path, default=Path("docs/findings.md"), help="default: docs/findings.md")
    page.set_defaults(run=_findings)
    for command in (init, measure, report, compare, export, judge, plan, score, doctor):
        command.add_command(rooms)
    store.add_commands(rooms.add_parser("store", help="look after what was measured"))
    return parser


def _findings(asked: argparse.Namespace) -> int:
    from mcdo.cli.findings import fill_claims, write_page  # the store's commands need no experiments
    from mcdo.report.caveats import caveats
    from mcdo.report.results import Reports

    say(str(write_page(asked.reports, asked.page)))
    for page in fill_claims(asked.reports, asked.page.parent / "experiments"):
        say(str(page))
    for line in caveats(Reports.read(asked.reports)):
        say(line, sys.stderr)
    return 0
