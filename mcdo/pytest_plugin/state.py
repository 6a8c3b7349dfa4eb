"""What a pytest run holds: its session, its runner, and how the harness's own gates ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import pytest

from mcdo.harness import Runner, Session
from mcdo.harness.decision import NOT_RUN, Verdict

SESSION_ID = pytest.StashKey[str]()
SESSION = pytest.StashKey[Session]()
RUNNER = pytest.StashKey[Runner]()

NOTED = pytest.StashKey[str]()
"""Of a test: "failed" where it did, whatever it is reported as after another try; "" where its hardware is missing."""


class OwnGates:
    """How the tests marked ``own_gate`` ended, by node id; with workers, the controller's is the whole.

    Attributes:
        wanted: every one that this run is to carry out, and those about its models that its options (-k, --deselect,
            --lf, node ids) leave out; not known to a controller.
        outcomes: "passed", "failed" or "skipped", of those that ended; "not run" of one that somebody else skips.
        skipped: why, of those that were.
        failed: all tests that failed, if only once before something ran them again; xdist reports one that
            its worker died of without marks.

    """

    def __init__(self) -> None:
        self.wanted: tuple[str, ...] = ()
        self.outcomes: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the outcome of a gate: its call's, or a setup or teardown that went wrong."""
        ended = report.when == "call" or not report.passed
        noted = getattr(report, "mcdo_noted", "")
        if "failed" in (report.outcome, noted):
            self.failed.add(report.nodeid)
        if "own_gate" in report.keywords and ended and self.outcomes.get(report.nodeid) != "failed":
            self.outcomes[report.nodeid] = NOT_RUN if noted == NOT_RUN else report.outcome
            if report.skipped and isinstance(report.longrepr, tuple):  # file, line, reason
                self.skipped[report.nodeid] = report.longrepr[2].removeprefix("Skipped: ")

    def ended(self, wanted: Iterable[str] = ()) -> dict[str, str]:
        """How each ended, "not run" for one of ``wanted`` that did not; what failed once has failed."""
        of = {**dict.fromkeys((*self.wanted, *wanted), NOT_RUN), **self.outcomes}
        return {name: "failed" if name in self.failed else outcome for name, outcome in of.items()}


MODELS = pytest.StashKey[frozenset[str]]()
"""Models that selected tests are about, the verdict apart: the verdict is about these."""
LEFT_OUT = pytest.StashKey[tuple[tuple[str, frozenset[str], pytest.Item | None], ...]]()
"""The harness's own gates that were deselected, or not collected beside others: name, models, and one that was."""
REFUSAL = pytest.StashKey[tuple[int, str | None]]()
"""When the verdict was written that was looked at last, and why later phases must not run."""
GATES = pytest.StashKey[OwnGates]()
VERDICT = pytest.StashKey[Verdict]()
"""This run's, whether or not its file could be written or was replaced by another run's since."""
LooksAt = Literal["everything", "no encoder", "nothing"]
MEASURING = pytest.StashKey[LooksAt]()
"""What is looked at beforehand, there where what tests need is measured and no test is run."""
