"""How tests begin and end: with their hardware and a GO, with errors as messages, and with the verdict."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Generator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from _pytest.terminal import TerminalReporter

from mcdo.errors import CriterionNotMetError, McdoError, NotApplicableError, NoTextTowerError
from mcdo.harness import ALL_MODELS, Subject, View
from mcdo.harness.catalogue import phases
from mcdo.harness.decision import FILE, NOT_RUN, UNJUDGED, Verdict, closing, refusal, tables
from mcdo.names import encodable, message, printable
from mcdo.pytest_plugin.ci import add_run_properties, write_job_summary
from mcdo.pytest_plugin.collection import is_about_models
from mcdo.pytest_plugin.marks import LATER_PHASES, check_tier
from mcdo.pytest_plugin.option_names import option_of
from mcdo.pytest_plugin.options import session_id, temporary_store
from mcdo.pytest_plugin.state import GATES, MEASURING, MODELS, NOTED, REFUSAL, SESSION, VERDICT
from mcdo.report.files import write_json
from mcdo.report.made import made
from mcdo.report.results import RUN
from mcdo.report.terminal import lines


def pytest_runtest_setup(item: pytest.Item) -> None:
    check_tier(item)
    if any(item.get_closest_marker(phase) for phase in LATER_PHASES) and not option_of(item.config, "--force"):
        refused = _refusal(item.config)
        if refused:
            pytest.fail(refused, pytrace=False)


def _refusal(config: pytest.Config) -> str | None:
    """Why later phases must not run, looked at again when the verdict changes."""
    path, session = _folder(config) / FILE, config.stash[SESSION]
    written = path.stat().st_mtime_ns if path.exists() else 0
    if REFUSAL not in config.stash or config.stash[REFUSAL][0] != written:
        chosen = tuple(m for m in session.settings.models if m in config.stash[MODELS])
        about = View(session, Subject(ALL_MODELS, chosen or session.settings.models))
        config.stash[REFUSAL] = written, refusal(about, path.parent)
    return config.stash[REFUSAL][1]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show a McdoError and an unmet criterion as their messages: they are for people, and the traceback is ours.

    What an encoder or its images cannot give, as class prompts without a text tower, is skipped and says so.
    """
    report = yield
    if call.excinfo is not None and report.outcome == "failed" and _may_be_skipped(item, call.excinfo.value):
        path, line, _ = item.location
        report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, f"Skipped: {call.excinfo.value}")
    elif (
        call.excinfo is not None
        and call.excinfo.errisinstance((McdoError, CriterionNotMetError))
        and report.outcome == "failed"
    ):
        report.longrepr = str(call.excinfo.value)
    _note(item, call, report)
    _make_printable(report)
    return report


def _note(item: pytest.Item, call: pytest.CallInfo[None], report: Any) -> None:
    """Note on a report what its outcome does not say of a gate of the harness's own; a controller is told as well.

    What runs a test again may report the last try alone, or call the first by another name. A failure that somebody
    expects (``xfail``) is one, and a gate that somebody skips was left out, as by ``-k``.
    """
    if report.failed or (report.skipped and hasattr(report, "wasxfail")):
        item.stash[NOTED] = "failed"
    others = report.when == "setup" and call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
    report.mcdo_noted = item.stash.get(NOTED, NOT_RUN if others else "")


def _may_be_skipped(item: pytest.Item, error: BaseException) -> bool:
    """Whether a test may end as a skip for what an encoder or its images cannot give.

    A test of no model may not, as nothing was asked of one, and the verdict may not. A gate of the harness's own may
    for want of a text tower or a head alone: skipped, it takes away no GO.
    """
    if not isinstance(error, NotApplicableError) or not is_about_models(item) or item.get_closest_marker("decision"):
        return False
    return isinstance(error, NoTextTowerError) or item.get_closest_marker("own_gate") is None


def _make_printable(report: Any) -> None:
    """Names in a report come from outside: nothing in it may steer a terminal or break the XML."""
    report.user_properties = [
        (key, printable(v, "\n\t") if isinstance(v, str) else v) for key, v in report.user_properties
    ]
    report.sections = [(name, printable(captured, "\n\t")) for name, captured in report.sections]
    said = report.longrepr
    if isinstance(said, str):
        report.longrepr = message(said)
    elif isinstance(said, tuple):  # a skip: path, line, reason
        report.longrepr = (*said[:2], message(said[2]))
    for trace, crash, _ in getattr(said, "chain", ()):
        if crash is not None:
            crash.message = message(crash.message)
        for entry in trace.reprentries:
            entry.lines = [printable(line, "\t") for line in getattr(entry, "lines", ())]


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Write what passes took; judge this session's verdict once more, by every gate of every worker."""
    config = session.config
    if SESSION not in config.stash:
        return
    measured = config.stash[SESSION]
    with suppress(McdoError):  # which costs a line of the page, and no result
        measured.remaining.write_rates(measured.settings.reports)
    if hasattr(config, "workerinput"):
        return
    add_run_properties(config)
    _note_end(session, exitstatus, measured.settings.reports)
    if option_of(config, "--store") == "temporary":
        shutil.rmtree(temporary_store(config), ignore_errors=True)
    found = _of_session(config, UNJUDGED)
    if found is not None:
        gates = config.stash[GATES]
        config.stash[VERDICT] = judged = found.with_gates(gates.ended(found.own_gates or ()), gates.skipped)
        judged.write(_folder(config))
        with suppress(OSError):
            (_folder(config) / UNJUDGED).unlink()


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Note that a run of experiments began: one that is killed has no other way to say so on its page."""
    reports = session.config.stash[SESSION].settings.reports
    if _ours(session) and reports.is_dir():
        _write_run(reports, interrupted=True)


def _ours(session: pytest.Session) -> set[str]:
    """Ids of the tests of experiments that a run is to carry out; a controller of workers knows none."""
    if session.config.getoption("collectonly") or MEASURING in session.config.stash:
        return set()
    named = phases().keys()
    return {item.nodeid for item in session.items if any(map(item.get_closest_marker, named))}


def _write_run(reports: Path, *, interrupted: bool, errors: Iterable[str] = ()) -> None:
    with suppress(McdoError):
        write_json(reports / RUN, {"interrupted": interrupted, "errors": [*errors], "made": made()})


def _note_end(session: pytest.Session, exitstatus: int, reports: Path) -> None:
    """Write how a run of experiments ended, for the page that is made of its reports."""
    config = session.config
    if config.getoption("collectonly") or MEASURING in config.stash or not reports.is_dir():
        return
    reporter, ours = config.pluginmanager.get_plugin("terminalreporter"), set(phases())
    every = ((outcome, each) for outcome, of in getattr(reporter, "stats", {}).items() for each in of)
    ended = [each for each in every if isinstance(each[1], pytest.TestReport) and ours & set(each[1].keywords)]
    asked = _ours(session)
    left = asked - {str(each.nodeid) for _, each in ended} if reporter is not None else set()
    interrupted = exitstatus == pytest.ExitCode.INTERRUPTED or bool(left)
    if ended or interrupted or asked:
        _write_run(reports, interrupted=interrupted, errors=dict.fromkeys(e.nodeid for o, e in ended if o == "error"))


def pytest_terminal_summary(terminalreporter: TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    if SESSION not in config.stash or hasattr(config, "workerinput") or MEASURING in config.stash:
        return
    store = option_of(config, "--store")
    if exitstatus == pytest.ExitCode.INTERRUPTED and store not in ("none", "temporary"):
        command = printable(shlex.join(("pytest", *map(str, config.invocation_params.args))))
        terminalreporter.write_line(f"What was finished is kept in {printable(store)}. To go on: {command}")
    alone = not config.pluginmanager.has_plugin("dsession")  # of workers' tests nothing is known here
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and alone:
        _say_what_no_module_collects(terminalreporter, config)
    found = config.stash.get(VERDICT, None)
    if found is not None:
        encoding = getattr(terminalreporter._tw._file, "encoding", None)
        for line in lines(tables(found), closing(found, _folder(config)), encoding):
            terminalreporter.write_line(line)
    if (found is not None or _decided(terminalreporter)) and _of_session(config) is None:
        said = "The verdict above is not in" if found is not None else "There is no verdict: it is not in"
        why = "the folder could not be written to, or another run writes into it. Give each run its own --reports"
        terminalreporter.write_line(f"{said} {printable(str(_folder(config) / FILE))}: {why}.")
    write_job_summary(found, _folder(config), terminalreporter)
    _write_page(terminalreporter, config, interrupted=exitstatus == pytest.ExitCode.INTERRUPTED)


def _decided(terminalreporter: TerminalReporter) -> bool:
    """Whether a test came to a verdict, here or in a worker."""
    every = (each for of in terminalreporter.stats.values() for each in of if isinstance(each, pytest.TestReport))
    return any("decision" in each.keywords and "decision" in dict(each.user_properties) for each in every)


def _say_what_no_module_collects(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Where -m selected nothing: the phases it names that no test here is of, and the line that collects each."""
    named = set(re.findall(r"\w+", config.getoption("markexpr"))) & phases().keys()
    there = {mark.name for item in terminalreporter.stats.get("deselected", ()) for mark in item.iter_markers()}
    for phase in sorted(named - there):
        line = f'test_{phase} = tests_of("{phase}"), with tests_of from mcdo.harness'
        terminalreporter.write_line(f"No module here collects {phase}. Add to a module of tests: {line}")


def _write_page(terminalreporter: TerminalReporter, config: pytest.Config, *, interrupted: bool) -> None:
    page = option_of(config, "--page")
    if page is None or config.getoption("collectonly"):
        return
    from mcdo.report.page import write_page

    settings = config.stash[SESSION].settings
    try:
        if interrupted:  # who pressed Ctrl-C waits for no page
            command = shlex.join(("mcdo", "report", f"--reports={settings.reports}", f"--out={page}"))
            raise McdoError(f"the run was interrupted. Of what is there, one is made by: {command}")
        said = f"Page: {write_page(settings.reports, Path(page), settings.thumbnails)}"
    except McdoError as error:  # which never hides how the tests ended
        said = f"There is no page: {error}"
    terminalreporter.write_line(encodable(printable(said), getattr(terminalreporter._tw._file, "encoding", None)))


def _folder(config: pytest.Config) -> Path:
    return config.stash[SESSION].settings.reports / "phase1"


def _of_session(config: pytest.Config, file: str = FILE) -> Verdict | None:
    """The verdict that this session, or one of its workers, wrote; workers are known by the id xdist gave the run."""
    if not (_folder(config) / file).exists():
        return None
    try:
        found = Verdict.read(_folder(config), file)
    except McdoError:
        return None  # of another version, so of another session
    return found if found.session == session_id(config) else None
