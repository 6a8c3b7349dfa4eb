"""The session and the runner of a pytest run, and the fixtures that give tests what they judge."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from mcdo.errors import McdoError
from mcdo.harness import Completed, Runner, Session, Settings, Subject
from mcdo.harness.decision import UNJUDGED, Verdict
from mcdo.harness.judge import Judge
from mcdo.harness.negatives import KnownNegatives
from mcdo.harness.tests import COLLECTED
from mcdo.pytest_plugin.collection import experiment_of, subject_of
from mcdo.pytest_plugin.options import settings_from
from mcdo.pytest_plugin.state import GATES, RUNNER, SESSION, VERDICT, OwnGates
from mcdo.report.files import check_writable


def pytest_sessionstart(session: pytest.Session) -> None:
    try:
        settings = settings_from(session.config)
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error

    def unmuted() -> AbstractContextManager[object]:
        capture = session.config.pluginmanager.getplugin("capturemanager")
        return nullcontext() if capture is None else capture.global_and_fixture_disabled()

    session.config.stash[SESSION] = Session(settings, unmuted)
    session.config.stash[RUNNER] = Runner(session.config.stash[SESSION])
    session.config.stash[GATES] = gates = OwnGates()
    session.config.pluginmanager.register(gates, "mcdo-own-gates")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Fixtures(), "mcdo-fixtures")


_known_negatives = cache(KnownNegatives.load)


class Fixtures:
    """Fixtures of all tests, and once more of each class that ``tests_of`` made.

    There no fixture of the same name hides them: others call theirs ``session``, ``settings`` or ``result`` as well.
    """

    @pytest.fixture
    def session(self, pytestconfig: pytest.Config) -> Session:
        """Encoders, image sets, pixels and measurements of this session."""
        made = pytestconfig.stash[SESSION]
        check_writable(made.settings.reports)  # each worker for itself
        return made

    @pytest.fixture
    def runner(self, session: Session, pytestconfig: pytest.Config) -> Runner:
        """The experiments of this session."""
        return pytestconfig.stash[RUNNER]

    @pytest.fixture
    def completed(self, request: pytest.FixtureRequest, runner: Runner, subject: Subject) -> Completed[Any]:
        """The experiment of the test's mark about its subject: inputs, result, judgements, files."""
        kind = experiment_of(request.node)
        if kind is None:
            raise pytest.UsageError(f"{request.node.nodeid} has no mark experiment(type)")
        return runner.run(kind.configured(runner.session.settings), subject_of(request.node, subject))

    @pytest.fixture
    def result(self, completed: Completed[Any]) -> Any:
        """The result of the test's experiment about its subject."""
        return completed.result

    @pytest.fixture
    def settings(self, session: Session) -> Settings:
        """What the command line decided."""
        return session.settings

    @pytest.fixture
    def negatives(self) -> KnownNegatives:
        """What is known not to hold, with its measured reason."""
        return _known_negatives()

    @pytest.fixture
    def judge(self, settings: Settings, negatives: KnownNegatives, request: pytest.FixtureRequest) -> Judge:
        """How claims end: ``judge("exp5", "clip_tiny", judgement)``."""
        return Judge(settings, negatives, request)

    @pytest.fixture
    def own_gates(self, pytestconfig: pytest.Config) -> OwnGates:
        """How the harness's own gates ended so far."""
        return pytestconfig.stash[GATES]

    @pytest.fixture
    def verdict(self, completed: Completed[Verdict], own_gates: OwnGates, pytestconfig: pytest.Config) -> Verdict:
        """The verdict, in the light of the harness's own gates, written where later phases look for it.

        A worker knows its own gates only: it leaves what the controller judges by all of them when the run is over.
        """
        reports, ended = completed.inputs.settings.reports / "phase1", own_gates.ended()
        if hasattr(pytestconfig, "workerinput"):
            found = replace(completed.result, own_gates=ended)
            found.write(reports, UNJUDGED)
        else:
            pytestconfig.stash[VERDICT] = found = completed.result.with_gates(ended, own_gates.skipped)
            found.write(reports)
        return found


class TestsOf(pytest.Class):
    """What ``tests_of`` made, with fixtures of its own."""

    __test__ = False

    def _getobj(self) -> type:
        made: type = super()._getobj()  # type: ignore[no-untyped-call]
        return type(made.__name__, (made, Fixtures), {"__module__": made.__module__, COLLECTED: True})

    def funcnamefilter(self, name: str) -> bool:
        """Whatever a repository calls its own tests."""
        return name.startswith("test_")


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> pytest.Class | None:
    """Collect what ``tests_of`` made under the name of a test function as well."""
    made = isinstance(obj, type) and COLLECTED in vars(obj)
    named = made and (collector.funcnamefilter(name) or collector.classnamefilter(name))
    return TestsOf.from_parent(collector, name=name) if named else None
