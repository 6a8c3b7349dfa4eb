"""What a run leaves for machines: facts of the whole run in JUnit XML, and a summary and annotations on GitHub."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from _pytest.junitxml import xml_key
from _pytest.terminal import TerminalReporter

from mcdo.harness.decision import Verdict, closing, tables
from mcdo.names import markdown, markdown_table, printable
from mcdo.pytest_plugin.state import SESSION
from mcdo.report.made import made

MOST_ANNOTATIONS = 10
"""GitHub shows no more of one step."""


def add_run_properties(config: pytest.Config) -> None:
    """Put what the run was asked to do, and when and by what, into the JUnit XML, which a controller writes."""
    xml = config.stash.get(xml_key, None)
    if xml is None:
        return
    settings = config.stash[SESSION].settings
    facts = {
        "models": ",".join(settings.models),
        "images": settings.images,
        "device": settings.device,
        "protocol": settings.protocol,
        "sizes": settings.sizes,
        "budget": settings.budget,
        "perturbation": str(settings.dropout.as_dict()),
        "seed": settings.seed,
        **made(),
    }
    for name, value in facts.items():
        xml.add_global_property(name, printable(str(value)))


def write_job_summary(verdict: Verdict | None, folder: Path, reporter: TerminalReporter) -> None:
    """Append the verdict and the failures to GitHub's job summary, and annotate the failures, where there is GitHub."""
    failed = [str(report.nodeid) for report in reporter.stats.get("failed", [])]
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        try:
            with Path(place).open("a", encoding="utf-8") as summary:
                summary.write("\n".join(_lines(verdict, folder, failed)) + "\n")
        except OSError as error:  # which costs a summary and no result
            reporter.write_line(f"The job summary cannot be written: {error}")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for report in reporter.stats.get("failed", [])[:MOST_ANNOTATIONS]:
            file, line, _ = report.location
            said = _data(str(report.longreprtext).strip().rpartition("\n")[2])
            reporter.write_line(
                f"::error file={_property(file)},line={(line or 0) + 1},title={_property(report.nodeid)}::{said}"
            )


def _lines(verdict: Verdict | None, folder: Path, failed: list[str]) -> list[str]:
    lines = []
    if verdict is not None:
        *said, last = closing(verdict, folder)
        lines += [f"## {markdown(last)}", "", *(f"- {markdown(line)}" for line in said if line), ""]
        for table in tables(verdict):
            lines += [f"### {markdown(table.title)}", "", *markdown_table(table.heading, table.rows), ""]
    if failed:
        lines += [f"### {len(failed)} failed", "", *(f"- {markdown(name)}" for name in failed), ""]
    return lines


def _data(text: str) -> str:
    """Text of a workflow command, in which a line end would begin another command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
