"""Collection: a test for each subject and claim, which tests are selected, in which order, and what they request."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mcdo.encoders import find_spec
from mcdo.errors import McdoError
from mcdo.harness import Claim, Experiment, Runner, Subject, first_model
from mcdo.harness.decision import dropped
from mcdo.harness.preflight import preflight
from mcdo.harness.tests import COLLECTED
from mcdo.names import file_name, message, say_text
from mcdo.pytest_plugin.marks import LATER_PHASES, tiers_of
from mcdo.pytest_plugin.option_names import option_of
from mcdo.pytest_plugin.options import OWN_DATA, models_of, tier_of
from mcdo.pytest_plugin.state import GATES, LEFT_OUT, MEASURING, MODELS, RUNNER, SESSION
from mcdo.report.finding import Finding


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """Without the garbage collector, as pytest_entry.py says, which ``-p no:mcdo`` leaves out."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    experiment = experiment_of(metafunc.definition)
    if experiment is not None:
        _parametrize_experiment(metafunc, experiment)
        return
    if "model" not in metafunc.fixturenames or _has_a_model_of_its_own(metafunc):
        return
    try:
        models = models_of(metafunc.config)
        if metafunc.definition.get_closest_marker("first_model"):
            models = (first_model(models),)
        marks = {m: getattr(pytest.mark, find_spec(m).family) for m in models}
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize("model", [pytest.param(m, id=file_name(m), marks=marks[m]) for m in models], scope="session")


def _has_a_model_of_its_own(metafunc: pytest.Metafunc) -> bool:
    """Whether another repository's test calls something else its model: a fixture, or a parameter."""
    if getattr(metafunc.cls, COLLECTED, False):
        return False
    names = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    given = [each.strip() for name in names for each in (name.split(",") if isinstance(name, str) else name)]
    return "model" in given or "model" in metafunc._arg2fixturedefs  # which has no public name


def experiment_of(item: pytest.Item) -> type[Experiment[Any]] | None:
    """The experiment that an item's mark names, if it is one on the contract."""
    mark = item.get_closest_marker("experiment")
    kind = mark.args[0] if mark is not None and mark.args else None
    return kind if isinstance(kind, type) and issubclass(kind, Experiment) else None


def _parametrize_experiment(metafunc: pytest.Metafunc, kind: type[Experiment[Any]]) -> None:
    """Tests of an experiment run once for each subject, and those of its claims once for each claim."""
    settings = metafunc.config.stash[SESSION].settings
    try:
        subjects = kind.subjects(settings)
        parameters = [pytest.param(s, id=file_name(s.name), marks=_family_marks(s)) for s in subjects]
        claims = kind.configured(settings).claims() if "claim" in metafunc.fixturenames else ()
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error
    if not parameters:
        parameters = [pytest.param(None, id="none", marks=pytest.mark.skip(reason=_without_subject(kind)))]
    if {"subject", "result", "completed", "claim", "verdict"} & set(metafunc.fixturenames):
        metafunc.parametrize("subject", parameters, scope="session")
    if "claim" in metafunc.fixturenames:
        metafunc.parametrize("claim", [pytest.param(claim, id=_readable(claim.name)) for claim in claims])


def _without_subject(kind: type[Experiment[Any]]) -> str:
    """Why an experiment is about nothing here: data of one's own that was not given."""
    wanted = [f"no {option}; {meaning}" for option, meaning in OWN_DATA.items() if meaning.startswith(f"{kind.key}:")]
    return f"{kind.__name__}: {'; '.join(wanted) or 'these options leave it no subject'}"


def _readable(claim: str) -> str:
    """ASCII id of a claim for test names."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", claim).strip("-")


def subject_of(item: pytest.Item, subject: Subject) -> Subject:
    """The subject of a test; the verdict's is narrowed to the models that other selected tests are about."""
    if item.get_closest_marker("decision") is None:
        return subject
    chosen = item.config.stash[MODELS]
    return replace(subject, models=tuple(m for m in subject.models if m in chosen or not chosen))


def _models(items: Iterable[pytest.Item]) -> Iterator[str]:
    for item in items:
        call, subject = getattr(item, "callspec", None), _own_subject(item)
        models = [] if subject is None else [*subject.models]
        if call is not None and call.params.get("model") in models_of(item.config):  # others call anything their model
            models.append(call.params["model"])
        if models and item.get_closest_marker("decision") is None:
            yield from models


def is_about_models(item: pytest.Item) -> bool:
    """Whether a test was given one of the session's models, or a subject of an experiment."""
    call = getattr(item, "callspec", None)
    named = None if call is None else call.params.get("model")
    return _own_subject(item) is not None or (isinstance(named, str) and named in models_of(item.config))


def _own_subject(item: pytest.Item) -> Subject | None:
    """The subject an experiment's test was given; a test of another kind may call anything "subject"."""
    call = getattr(item, "callspec", None)
    subject = None if call is None else call.params.get("subject")
    return subject if isinstance(subject, Subject) else None


def _family_marks(subject: Subject) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, family) for family in dict.fromkeys(find_spec(m).family for m in subject.models)]


def _marks(item: pytest.Item) -> set[str]:
    """The names of its marks and of what holds it: one walk, where each question after a single mark takes one."""
    return {mark.name for mark in item.iter_markers()}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    tier = getattr(pytest.mark, tier_of(config))
    gates, unwanted = [], set()
    for item in items:
        marks = _marks(item)
        if "experiment" in marks and (kind := experiment_of(item)) is not None:
            item.extra_keyword_matches.add(kind.key)  # so that -k finds the gates about it too
        gate = "own_gate" in marks
        if (gate or {"model", "subject"} & set(getattr(item, "fixturenames", ()))) and not tiers_of(item):
            item.add_marker(tier)
        if gate and not is_about_models(item):  # it is about them all, so that -m finds it with any of them
            for family in dict.fromkeys(find_spec(model).family for model in models_of(config)):
                item.add_marker(getattr(pytest.mark, family))
        if gate and isinstance(item, pytest.Function):
            gates.append(item)
        if "perf" in marks and not option_of(config, "--benchmark"):
            unwanted.add(item)
        if "estimator" in marks and _is_of_other_estimator(item):
            unwanted.add(item)
    uncollected = tuple(_uncollected(gates))
    _deselect(config, items, unwanted.__contains__)
    yield
    here = set(items)
    deselected = ((gate.nodeid, frozenset(_models([gate])), gate) for gate in gates if gate not in here)
    config.stash[LEFT_OUT] = (*uncollected, *deselected)


def _uncollected(gates: Iterable[pytest.Function]) -> Iterator[tuple[str, frozenset[str], pytest.Function | None]]:
    """The harness's own gates that --lf or node ids leave aside: those beside the collected, and of another model."""
    collected: dict[object, dict[str, list[pytest.Function]]] = {}
    for gate in gates:
        collected.setdefault(gate.cls or gate.module, {}).setdefault(gate.originalname, []).append(gate)
    for place, of in collected.items():
        prefix = next(iter(of.values()))[0].nodeid.rpartition("::")[0]
        for name, value in vars(place).items():
            if name.startswith("test_") and callable(value) and name not in of:
                yield f"{prefix}::{name}", frozenset(), None
        for name, (gate, *others) in of.items():
            about = set(_models((gate, *others)))
            for model in _given(gate) if about else ():
                if model not in about:
                    yield f"{prefix}::{name}[{file_name(model)}]", frozenset((model,)), gate


def _given(test: pytest.Function) -> Iterable[str]:
    """The models that a test about models is collected for."""
    kind, models = experiment_of(test), models_of(test.config)
    if kind is not None:
        return [model for subject in kind.subjects(test.config.stash[SESSION].settings) for model in subject.models]
    return [first_model(models)] if test.get_closest_marker("first_model") else models


def _left_out(config: pytest.Config) -> Iterator[str]:
    """Gates that are about this run's models, or about none, and that its options leave out."""
    models, device = config.stash[MODELS], tier_of(config)
    for name, of, gate in config.stash.get(LEFT_OUT, ()):
        tiers = set() if gate is None else tiers_of(gate)
        if of <= models and (not tiers or device in tiers):
            yield name


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_InTurn(), "mcdo-in-turn")


class _InTurn:
    """Sorts tests after all others that order them, as it is registered last: --ff and --nf wrap what a module has."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None, None, None]:
        yield  # pytest groups the tests by model here; that order is kept among those whose turn is the same
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """The harness's own gates first, then what the verdict rests on, the verdict, and the phases that need a GO."""
    marks = _marks(item)
    if "own_gate" in marks:
        return 0
    if not marks.isdisjoint(LATER_PHASES):
        return 3
    return 2 if "decision" in marks else 1


def _is_of_other_estimator(item: pytest.Item) -> bool:
    mark = item.get_closest_marker("estimator")
    return mark is not None and option_of(item.config, "--estimator") not in (mark.args[0], "both")


def _deselect(config: pytest.Config, items: list[pytest.Item], unwanted: Callable[[pytest.Item], bool]) -> None:
    out = dict.fromkeys(item for item in items if unwanted(item))
    if out:
        config.hook.pytest_deselected(items=list(out))
        items[:] = [item for item in items if item not in out]


def selected(session: pytest.Session) -> Iterator[tuple[Experiment[Any], Subject]]:
    """What the selected tests are about, each once: experiments under the session's settings, and their subjects."""
    settings = session.config.stash[SESSION].settings
    found: dict[tuple[Experiment[Any], Subject], None] = {}
    for item in session.items:
        kind, subject = experiment_of(item), _own_subject(item)
        if kind is not None and subject is not None:
            found[kind.configured(settings), subject_of(item, subject)] = None
    yield from found


def _live_until_the_end() -> None:
    """Spare the collector what was imported and collected: the end, after Ctrl-C as well, asks for whole collections.

    Libraries of encoders come later, and are left to it: Triton complains of each object that it has not visited, so
    nothing is spared where a key has brought it in already.
    """
    if "triton" not in sys.modules and not gc.get_freeze_count():  # a session inside a test would keep its garbage
        gc.freeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Plan what the selected tests request, so that overlapping requests are measured once."""
    _live_until_the_end()
    settings, runner = session.config.stash[SESSION].settings, session.config.stash[RUNNER]
    session.config.stash[MODELS] = frozenset(_models(session.items))
    measuring = session.config.stash.get(MEASURING, None)
    if measuring is not None and settings.budget:
        raise pytest.UsageError("mcdo measure takes sizes and no time: --num-images, --passes, --trials and --at-most")
    if session.config.option.collectonly or measuring == "nothing":  # no test will run
        return
    gates = (item.nodeid for item in session.items if item.get_closest_marker("own_gate"))
    session.config.stash[GATES].wanted = (*gates, *_left_out(session.config))
    asked = list(selected(session))
    if measuring is not None or any(map(_measures, session.items)):
        _prepare(session, runner, asked)
    else:
        for experiment, about in asked:
            runner.plan(experiment, about)
    if measuring is None and any(item.get_closest_marker("decision") for item in session.items):
        dropped(settings.reports / "phase1", settings.session)


def _leave_out_claims(session: pytest.Session, runner: Runner) -> None:
    """Claims that there are none of at the sizes that were chosen, such as about a T that is not reached."""
    settings = runner.session.settings
    if not settings.budget:
        return

    def gone(item: pytest.Item) -> bool:
        kind, call = experiment_of(item), getattr(item, "callspec", None)
        claim = None if call is None else call.params.get("claim")
        if kind is None or not isinstance(claim, Claim):
            return False
        return claim.name not in {each.name for each in kind.configured(settings).claims()}

    _deselect(session.config, session.items, gone)


def _measures(item: pytest.Item) -> bool:
    """Whether a test uses our session or runner, and not a fixture of that name from elsewhere."""
    info = getattr(item, "_fixtureinfo", None)
    defined = [] if info is None else [info.name2fixturedefs.get(name, ()) for name in ("session", "runner")]
    return any(each[-1].func.__module__.startswith("mcdo.") for each in defined if each)


def _bullet(said: str) -> str:
    return "  * " + message(said).replace("\n", "\n    ")


def _is_later(item: pytest.Item) -> bool:
    return not _marks(item).isdisjoint(LATER_PHASES)


def _prepare(session: pytest.Session, runner: Runner, asked: list[tuple[Experiment[Any], Subject]]) -> None:
    """Plan what is asked, and end here where something is in its way."""
    option, items = partial(option_of, session.config), session.items
    models: frozenset[str] = session.config.stash[MODELS]
    worker, measuring = _worker(session.config), session.config.stash.get(MEASURING, None)

    def tell(each: Finding) -> None:
        with runner.session.unmuted():
            say_text(f"Pre-flight: {message(str(each))}", sys.stderr)

    try:
        if (page := option("--page")) is not None:
            from mcdo.report.page import check_page

            check_page(Path(page))
        found = preflight(
            runner,
            asked,
            models=models,
            later=any(map(_is_later, items)) and not option("--force") and measuring is None,
            decides=any(item.get_closest_marker("decision") for item in items),
            alone=worker is None and measuring != "no encoder",
            reports=measuring is None,
            tell=tell,
        )
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error
    _leave_out_claims(session, runner)
    if measuring == "no encoder":  # it is other machines that need the weights
        found = [each for each in found if each.what not in models]
    told = [each for each in found if each.state == "told"]
    wrong = [each for each in found if each.state == "wrong"]
    if wrong:
        things = "something is" if len(wrong) == 1 else f"{len(wrong)} things are"
        head = f"Pre-flight: {things} in the way, and nothing was measured."
        _end(session, "\n".join([head, *(_bullet(str(each)) for each in (*wrong, *told))]))
    elif worker in (None, "gw0"):
        for each in told:
            tell(each)


def _end(session: pytest.Session, said: str) -> None:
    """End the session before its first test; a worker has the controller end it, in the same words."""
    if not hasattr(session.config, "workerinput"):
        raise pytest.UsageError(said)
    session.shouldstop = said


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """No test in a worker that is to stop."""
    return True if session.shouldstop and hasattr(session.config, "workerinput") else None


def _worker(config: pytest.Config) -> str | None:
    return getattr(config, "workerinput", {}).get("workerid")
