"""How tests begin and end: with their hardware and a GO, with errors as messages, and with the verdict."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from mcdo.errors import McdoError
from mcdo.experiments import verdict as verdicts
from mcdo.pytest_plugin.marks import LATER_PHASES, check_tier
from mcdo.pytest_plugin.state import SESSION
from mcdo.report.terminal import verdict_lines


def pytest_runtest_setup(item: pytest.Item) -> None:
    check_tier(item)
    if any(item.get_closest_marker(phase) for phase in LATER_PHASES) and not item.config.getoption("--force"):
        settings = item.config.stash[SESSION].settings
        refusal = verdicts.refusal(settings.reports / "phase1", settings.models, settings.images)
        if refusal:
            pytest.fail(refusal, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show a McdoError as its message: it is written for people, and the traceback is ours."""
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(McdoError) and report.outcome == "failed":
        report.longrepr = f"{item.nodeid}\n{call.excinfo.value}"
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    bench = config.stash.get(SESSION, None)
    if bench is not None and not hasattr(config, "workerinput"):
        encoding = getattr(terminalreporter._tw._file, "encoding", None)
        for line in verdict_lines(bench.settings.reports / "phase1", bench.settings.session, encoding):
            terminalreporter.write_line(line)
