"""The pytest side of the harness: options, marks, fixtures, scheduling and the verdict at the end."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from _pytest.terminal import TerminalReporter

from mcdo.claims import Judges
from mcdo.encoders import REGISTRY, find_spec
from mcdo.encoders.load import device_named
from mcdo.encoders.spec import Precision
from mcdo.errors import McdoError, nearest
from mcdo.experiments import verdict as verdicts
from mcdo.experiments.base import Need
from mcdo.experiments.bench import Bench, Settings
from mcdo.experiments.findings import Findings
from mcdo.harness import Completed, Experiment, Runner, Subject
from mcdo.names import file_name
from mcdo.perturbation import Dropout
from mcdo.report.files import check_writable
from mcdo.report.terminal import verdict_lines

TIERS = ("cpu", "mps", "cuda")
ESTIMATORS = ("mc", "first_order", "both")
LATER_PHASES = ("phase2", "phase3", "phase4")
MARKS = {
    "phase1": "the gate: is the score reliable, does it follow ambiguity?",
    "phase2": "core results; needs a GO from phase 1",
    "phase3": "comparisons; needs a GO from phase 1",
    "phase4": "extensions; needs a GO from phase 1",
    "prelim": "the preliminary investigation: validity under degradation, baselines, loss or site",
    "subtasks": "neighbouring study: subtask meta-learner and its calibration",
    "backbones": "neighbouring study: backbones for series of plant images",
    "connector": "neighbouring study: does a language model use its visual tokens?",
    "gate": "a go/no-go criterion",
    "perf": "throughput floors and ratios; only with --benchmark",
    "slow": "takes more than a few seconds, or a large model",
    "clip": "a CLIP-style tower",
    "siglip": "a SigLIP-style tower",
    "cpu": "runs on the CPU",
    "mps": "runs on an Apple GPU",
    "cuda": "runs on an NVIDIA GPU",
    "experiment(type)": "the experiment of a test; what all selected ones request is planned together",
    "estimator(name)": "phase 1 of one estimator, mc or first_order; --estimator chooses",
    "first_model": "runs on one model only: the first of the family clip, or the first",
}


WARNINGS = (
    "error::mcdo.errors.McdoWarning",
    "always::mcdo.errors.UnwrittenWarning",
    "always::mcdo.store.StoreWarning",
)
"""Of all warnings only our own doubts about a number fail a test: no other may cost a finished measurement."""

OWN_DATA = {
    "--retrieval": "exp5: a JSON list of {image_path, captions, correct_index}",
    "--tracking": "exp9: JSON files of frames with tracks, detections and costs, separated by commas",
    "--prompts": "exp10: a file of prompts, one a line as style<TAB>prompt, in place of the bank",
    "--cifar10": "subtasks: CIFAR-10's folder or its archive cifar-10-python.tar.gz, in place of the digits",
    "--plants": "backbones: a folder of plant series or a CSV of images, in place of the generated ones",
    "--llava-json": "connector: a LLaVA-Pretrain JSON, in place of the embedded digit captions",
    "--image-root": "connector: the folder where that JSON's image paths begin",
    "--connector-model": "connector: a transformers LLaVA checkpoint's folder, in place of a trained connector",
    "--max-seq-len": "connector: tokens of a sample at most, image included (default: 512)",
}
"""Options by which experiments and studies are given real data; each experiment's page says what it expects."""


def pytest_addoption(parser: pytest.Parser) -> None:
    data = parser.getgroup("mcdo-data", "mcdo: data of one's own")
    for name, meaning in OWN_DATA.items():
        data.addoption(name, default=None, help=meaning)
    group = parser.getgroup("mcdo", "uncertainty of frozen vision-language encoders")
    default = ",".join(key for key, spec in REGISTRY.items() if spec.default)
    group.addoption("--models", default=default, help=f"encoders, separated by commas (default: {default})")
    group.addoption("--random-weights", default="", help="those of --models to load with random weights, by name")
    group.addoption("--images", default="digits", help='image set: "digits" or "folder:PATH" (default: digits)')
    group.addoption("--device", default="auto", help="auto, cpu, mps or cuda (default: auto)")
    group.addoption(
        "--precision",
        default="float32",
        choices=get_args(Precision),
        help="what linear maps are carried out in; moments stay float32 or better (default: float32)",
    )
    group.addoption("--benchmark", action="store_true", help="run the performance suite (without -n)")
    group.addoption(
        "--protocol", default="full", choices=("full", "quick"), help="sizes: published (full) or small (quick)"
    )
    group.addoption("--seed", type=int, default=42, help="seed of images, masks and intervals (default: 42)")
    group.addoption("--sites", default="all", help="sites: all, mlp, attention, projection, roles or names, by commas")
    group.addoption("--dropout", type=float, default=0.01, help="probability that a unit is dropped (default: 0.01)")
    group.addoption(
        "--estimator",
        default="mc",
        choices=ESTIMATORS,
        help="what phase 1 judges: Monte Carlo passes, first order, or both (default: mc)",
    )
    group.addoption("--reports", default="reports", help="where summaries and arrays are written (default: reports)")
    group.addoption("--store", default="store", help="where measurements are kept; none measures anew (default: store)")
    group.addoption(
        "--from-store", action="store_true", help="load no model: compute from what is in the store, or fail"
    )
    group.addoption("--batch-size", type=int, default=None, help="rows (images x passes) of one forward pass")
    group.addoption("--force", action="store_true", help="run later phases without a GO from phase 1")
    group.addoption(
        "--require-tier", action="append", default=[], choices=TIERS, help="fail, not skip, without this hardware"
    )
    group.addoption("--skip-unreadable", action="store_true", help="leave out unreadable images, and record them")


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    for rule in WARNINGS:
        config.addinivalue_line("filterwarnings", rule)
    _check_mark_expression(config)
    if config.getoption("--benchmark") and (config.getoption("numprocesses", None) or hasattr(config, "workerinput")):
        raise pytest.UsageError("--benchmark measures times, which workers would spoil: leave out -n")
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:  # or every worker would take all cores, and wait for the others
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _check_mark_expression(config: pytest.Config) -> None:
    """Refuse ``-m`` with a mark that does not exist: pytest would select nothing and say so only in passing."""
    known = {line.split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    for word in re.findall(r"[A-Za-z_]\w*", config.option.markexpr or ""):
        if word not in known | {"and", "or", "not", "True", "False"}:
            raise pytest.UsageError(f"unknown mark {word!r} in -m; the nearest: {nearest(word, known)}")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _models(config: pytest.Config) -> tuple[str, ...]:
    models = _words(config.getoption("--models"))
    if not models:
        raise pytest.UsageError("--models is empty: name at least one encoder")
    return models


def first_model(models: tuple[str, ...]) -> str:
    """The model of experiments that run on one only: the first of the family clip, or the first."""
    return next((m for m in models if find_spec(m).family == "clip"), models[0])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    experiment = _experiment_type(metafunc.definition)
    if experiment is not None:
        _parametrize_experiment(metafunc, experiment)
        return
    if "model" not in metafunc.fixturenames:
        return
    try:
        models = _models(metafunc.config)
        if metafunc.definition.get_closest_marker("first_model"):
            models = (first_model(models),)
        marks = {m: getattr(pytest.mark, find_spec(m).family) for m in models}
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize("model", [pytest.param(m, id=file_name(m), marks=marks[m]) for m in models], scope="session")


def _experiment_type(item: pytest.Item) -> type[Experiment[Any]] | None:
    """The experiment that an item's mark names, if it is one on the contract."""
    mark = item.get_closest_marker("experiment")
    kind = mark.args[0] if mark is not None and mark.args else None
    return kind if isinstance(kind, type) and issubclass(kind, Experiment) else None


def _parametrize_experiment(metafunc: pytest.Metafunc, kind: type[Experiment[Any]]) -> None:
    """Tests of an experiment run once for each subject, and those of its claims once for each claim."""
    try:
        settings = settings_from(metafunc.config)
        subjects = kind.subjects(settings)
        parameters = [pytest.param(s, id=file_name(s.name), marks=_family_marks(s)) for s in subjects]
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error
    if {"subject", "result", "completed", "claim"} & set(metafunc.fixturenames):
        metafunc.parametrize("subject", parameters, scope="session")
    if "claim" in metafunc.fixturenames:
        claims = kind.configured(settings).claims()
        metafunc.parametrize("claim", [pytest.param(claim, id=_readable(claim.name)) for claim in claims])


def _readable(claim: str) -> str:
    """ASCII id of a claim for test names."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", claim).strip("-")


def _family_marks(subject: Subject) -> list[pytest.MarkDecorator]:
    return [getattr(pytest.mark, family) for family in dict.fromkeys(find_spec(m).family for m in subject.models)]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    tier = getattr(pytest.mark, _device(config).split(":")[0])
    for item in items:
        named = any(item.get_closest_marker(other) for other in TIERS)  # by the test itself
        if {"model", "subject"} & set(getattr(item, "fixturenames", ())) and not named:
            item.add_marker(tier)
    _deselect_other_estimator(config, items)
    if not config.getoption("--benchmark"):
        _deselect(config, items, lambda item: item.get_closest_marker("perf") is not None)
    yield  # pytest groups the tests by model here; what follows keeps that order within each half
    # Phase 1 decides whether later phases may run, so it comes first; the decision comes after its experiments.
    items.sort(key=lambda item: any(item.get_closest_marker(phase) is not None for phase in LATER_PHASES))


def _deselect_other_estimator(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("--estimator")

    def other(item: pytest.Item) -> bool:
        mark = item.get_closest_marker("estimator")
        return mark is not None and wanted not in (mark.args[0], "both")

    _deselect(config, items, other)


def _deselect(config: pytest.Config, items: list[pytest.Item], unwanted: Callable[[pytest.Item], bool]) -> None:
    out = [item for item in items if unwanted(item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if not unwanted(item)]


def _device(config: pytest.Config) -> str:
    asked: str = config.getoption("--device")
    if asked != "auto":
        device_named(asked)
        return asked
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def _session_id(config: pytest.Config) -> str:
    """One id for all workers of a session."""
    worker = getattr(config, "workerinput", None)
    return str(worker["testrunuid"]) if worker else config.stash.setdefault(_SESSION, uuid.uuid4().hex)


_SESSION = pytest.StashKey[str]()
_BENCH = pytest.StashKey[Bench]()
_RUNNER = pytest.StashKey[Runner]()


def settings_from(config: pytest.Config) -> Settings:
    """The session's settings from its options."""
    option = config.getoption
    sites = _words(option("--sites"))
    random = frozenset(_words(option("--random-weights")))
    models = _models(config)
    for model in models:
        find_spec(model)  # an unknown key ends here, with the nearest
    if not random <= set(models):
        raise McdoError(
            f"--random-weights {', '.join(sorted(random - set(models)))}: not among --models {', '.join(models)}"
        )
    store = option("--store")
    return Settings(
        models=models,
        images=option("--images"),
        device=_device(config),
        protocol=option("--protocol"),
        seed=option("--seed"),
        dropout=Dropout(option("--dropout"), sites[0] if len(sites) == 1 else sites),
        reports=Path(option("--reports")),
        store=None if store == "none" else Path(store),
        batch_size=option("--batch-size"),
        random_weights=random,
        skip_unreadable=option("--skip-unreadable"),
        from_store=option("--from-store"),
        estimator=option("--estimator"),
        precision=option("--precision"),
        session=_session_id(config),
        own_data={name: option(name) for name in OWN_DATA if option(name) is not None},
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    try:
        settings = settings_from(session.config)
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error

    def unmuted() -> AbstractContextManager[object]:
        capture = session.config.pluginmanager.getplugin("capturemanager")
        return nullcontext() if capture is None else capture.global_and_fixture_disabled()

    session.config.stash[_BENCH] = Bench(settings, unmuted)
    session.config.stash[_RUNNER] = Runner(session.config.stash[_BENCH])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Plan what the selected tests need, so that overlapping needs are measured once."""
    bench, runner = session.config.stash[_BENCH], session.config.stash[_RUNNER]
    for item in session.items:
        mark, call = item.get_closest_marker("experiment"), getattr(item, "callspec", None)
        kind = _experiment_type(item)
        if kind is not None and call is not None and "subject" in call.params:
            runner.plan(kind.configured(bench.settings), call.params["subject"])
        elif mark is not None and call is not None and "model" in call.params:
            module, config_type = mark.args
            config = config_type.of(bench.settings.protocol, bench.settings.seed, bench.settings.dropout)
            needs = module.needs(config, call.params["model"])
            bench.plan([needs] if isinstance(needs, Need) else needs)
    measuring = any("bench" in getattr(item, "fixturenames", ()) for item in session.items)
    if measuring and not session.config.option.collectonly and not hasattr(session.config, "workerinput"):
        try:
            check_writable(bench.settings.reports)
        except McdoError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """Encoders, images, pixels and runs of this session."""
    made = pytestconfig.stash[_BENCH]
    check_writable(made.settings.reports)  # each worker for itself
    return made


@pytest.fixture(scope="session")
def runner(pytestconfig: pytest.Config) -> Runner:
    """The experiments of this session."""
    return pytestconfig.stash[_RUNNER]


@pytest.fixture
def completed(request: pytest.FixtureRequest, runner: Runner, subject: Subject) -> Completed[Any]:
    """The experiment of the test's mark about its subject: inputs, result, judgements, files."""
    kind = _experiment_type(request.node)
    if kind is None:
        raise pytest.UsageError(f"{request.node.nodeid} has no mark experiment(type)")
    return runner.run(kind.configured(runner.session.settings), subject)


@pytest.fixture
def result(completed: Completed[Any]) -> Any:
    """The result of the test's experiment about its subject."""
    return completed.result


@pytest.fixture(scope="session")
def settings(bench: Bench) -> Settings:
    """What the command line decided."""
    return bench.settings


@pytest.fixture(scope="session")
def findings() -> Findings:
    """What is known to fail, with its measured reason."""
    return Findings.load()


@pytest.fixture
def judge(settings: Settings, findings: Findings, request: pytest.FixtureRequest) -> Judges:
    """How claims end: ``judge("exp5").above("rho_entropy/trace_pre", estimate, 0.3)``."""
    return Judges(settings, findings, request)


def pytest_runtest_setup(item: pytest.Item) -> None:
    _check_tier(item)
    if any(item.get_closest_marker(phase) for phase in LATER_PHASES) and not item.config.getoption("--force"):
        settings = item.config.stash[_BENCH].settings
        refusal = verdicts.refusal(settings.reports / "phase1", settings.models, settings.images)
        if refusal:
            pytest.fail(refusal, pytrace=False)


def _check_tier(item: pytest.Item) -> None:
    wanted = {tier for tier in TIERS if item.get_closest_marker(tier)}
    present = (
        {"cpu"}
        | {t for t in ("cuda",) if torch.cuda.is_available()}
        | {t for t in ("mps",) if torch.backends.mps.is_available()}
    )
    if wanted and not wanted & present:
        message = f"needs {' or '.join(sorted(wanted))}; found {', '.join(sorted(present))}"
        if wanted & set(item.config.getoption("--require-tier")):
            pytest.fail(f"{message} (--require-tier)", pytrace=False)
        pytest.skip(message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Show a McdoError as its message: it is written for people, and the traceback is ours."""
    report = yield
    if call.excinfo is not None and call.excinfo.errisinstance(McdoError) and report.outcome == "failed":
        report.longrepr = f"{item.nodeid}\n{call.excinfo.value}"
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    bench = config.stash.get(_BENCH, None)
    if bench is not None and not hasattr(config, "workerinput"):
        encoding = getattr(terminalreporter._tw._file, "encoding", None)
        for line in verdict_lines(bench.settings.reports / "phase1", bench.settings.session, encoding):
            terminalreporter.write_line(line)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give workers the controller's session id through xdist's own run id."""
    node.config.stash[_SESSION] = node.workerinput["testrunuid"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send all tests of a model to one worker, so that no model is loaded and nothing is measured twice.

    Only for xdist's default mode; ``--dist`` chosen by the user is left alone.
    """
    if config.getoption("dist", "no") not in ("load", "no"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ModelScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            model = re.search(r"\[([^\]-]+)", nodeid)
            ids = {file_name(m) for m in _models(config)}
            if model and any(nodeid.split("[")[1].startswith(i) for i in ids):
                return max((i for i in ids if nodeid.split("[")[1].startswith(i)), key=len)
            return nodeid.split("::")[0]

    return ModelScheduling(config, log)
