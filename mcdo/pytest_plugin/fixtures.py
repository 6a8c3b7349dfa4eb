"""The session and the runner of a pytest run, and the fixtures that give tests what they judge."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from mcdo.errors import McdoError
from mcdo.harness import Completed, Runner, Session, Settings, Subject
from mcdo.harness.judge import Judges
from mcdo.harness.negatives import KnownNegatives
from mcdo.pytest_plugin.collection import experiment_of, subject_of
from mcdo.pytest_plugin.options import settings_from
from mcdo.pytest_plugin.state import GATES, RUNNER, SESSION, OwnGates
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


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    """Encoders, image sets, pixels and measurements of this session."""
    made = pytestconfig.stash[SESSION]
    check_writable(made.settings.reports)  # each worker for itself
    return made


@pytest.fixture(scope="session")
def runner(session: Session, pytestconfig: pytest.Config) -> Runner:
    """The experiments of this session."""
    return pytestconfig.stash[RUNNER]


@pytest.fixture
def completed(request: pytest.FixtureRequest, runner: Runner, subject: Subject) -> Completed[Any]:
    """The experiment of the test's mark about its subject: inputs, result, judgements, files."""
    kind = experiment_of(request.node)
    if kind is None:
        raise pytest.UsageError(f"{request.node.nodeid} has no mark experiment(type)")
    return runner.run(kind.configured(runner.session.settings), subject_of(request.node, subject))


@pytest.fixture
def result(completed: Completed[Any]) -> Any:
    """The result of the test's experiment about its subject."""
    return completed.result


@pytest.fixture(scope="session")
def settings(session: Session) -> Settings:
    """What the command line decided."""
    return session.settings


@pytest.fixture(scope="session")
def negatives() -> KnownNegatives:
    """What is known not to hold, with its measured reason."""
    return KnownNegatives.load()


@pytest.fixture
def judge(settings: Settings, negatives: KnownNegatives, request: pytest.FixtureRequest) -> Judges:
    """How claims end: ``judge("exp5").above("rho_entropy/trace_pre", estimate, 0.3)``."""
    return Judges(settings, negatives, request)


@pytest.fixture
def own_gates(pytestconfig: pytest.Config) -> OwnGates:
    """How the harness's own gates ended so far."""
    return pytestconfig.stash[GATES]
