"""Injects every fault and writes what held to docs/faults.md, unless something did not: ``make faults``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"
HEAD = """# What was injected, and what held

Written by `make faults`: faults are injected into real runs, stores and inputs, most of them in processes of their own.
It is only written when all of them hold; each line is a test of the file above it.

"""


class Table:
    """Collects the lines that the tests record, by their file."""

    def __init__(self) -> None:
        self.rows: dict[str, list[str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What a test that passed has recorded."""
        recorded: list[tuple[str, Any]] = report.user_properties if report.when == "call" and report.passed else []
        for name, value in recorded:
            if name == "fault":
                self.rows.setdefault(report.location[0], []).append(f"| {' | '.join(map(str, value))} |\n")

    def page(self) -> str:
        """One table for each file."""
        heading = "| injected | count | held |\n|---|---|---|\n"
        return HEAD + "\n".join(f"## `{file}`\n\n{heading}{''.join(rows)}" for file, rows in sorted(self.rows.items()))


def main() -> int:
    """Run the suite and write the page, or run what further arguments choose of it."""
    table = Table()
    options = ["--protocol=quick", "--store=temporary", "--reports=reports/faults", "-m", "faults"]
    failed = pytest.main([str(Path(__file__).parent), *options, *sys.argv[1:]], plugins=[table])
    if not failed and not sys.argv[1:]:
        PAGE.write_text(table.page(), encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
