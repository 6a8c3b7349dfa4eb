"""Tests of an experiment's claims: one for each claim about each subject, in this checkout or in another repository."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mcdo.errors import CriterionNotMetError, McdoError
from mcdo.harness.catalogue import experiments_of
from mcdo.harness.claim import Claim
from mcdo.harness.decision import Verdict
from mcdo.harness.experiment import Experiment
from mcdo.harness.judge import Judge
from mcdo.harness.negatives import KnownNegatives
from mcdo.harness.runner import Completed, Runner, figure_of
from mcdo.stats import Estimate, reliability, stacked_drift

COLLECTED = "_mcdo_tests"
"""Marks a class of tests that is collected under the name of a test function too."""
SUITE = "mcdo.suite"
ROUNDING = 1e-9
LEAST_TO_DRIFT = 30
"""Originals: 12 images at T = 4 had intervals at 99.9 % that missed a drift of zero."""
SHUFFLES = 20
SMALLEST_FIGURE = 5_000
"""Bytes: an empty pair of axes takes less."""


def of_experiment(experiment: type[Experiment[Any]]) -> list[pytest.MarkDecorator]:
    """The marks of tests about ``experiment``: its phase, its estimator, and itself, whose requests are planned."""
    marks = [getattr(pytest.mark, experiment.phase), about(experiment)]
    return [*marks, *([pytest.mark.estimator(experiment.about_estimator)] if experiment.about_estimator else [])]


def about(experiment: type[Experiment[Any]]) -> pytest.MarkDecorator:
    """The mark alone; ``pytest.mark.experiment(Class)`` would decorate the class.

    Raises:
        McdoError: for one from outside that goes by the names of another.

    """
    if not experiment.__module__.startswith("mcdo."):
        _check_names(experiment)
    return pytest.mark.experiment.with_args(experiment)


def _check_names(kind: type[Experiment[Any]]) -> None:
    """Its reports would replace those of the other, and what is known of the other's claims be said of its own."""

    def place(of: type[Experiment[Any]]) -> tuple[str, str]:
        return of.folder or of.phase, of.name

    for other in kind.__mro__[1:]:
        if not issubclass(other, Experiment) or not all(hasattr(other, name) for name in ("key", "name", "phase")):
            continue
        if place(kind) == place(other) or (kind.key == other.key and other.__module__.startswith("mcdo.")):
            raise McdoError(
                f"{kind.__name__} goes by the key or the name of {other.__name__}, on which it is built: give it a key "
                "and a name of its own, or its reports replace those"
            )
    if kind.key in {known.experiment for known in KnownNegatives.load().all}:
        raise McdoError(f"{kind.__name__}: {kind.key!r} is the key of one of mcdo's experiments; give it another")


def claims_of(experiment: type[Experiment[Any]]) -> Callable[..., None]:
    """A test function to be assigned to a name that pytest collects; it runs once for each claim and subject."""

    def claim_holds(claim: Claim[Any], completed: Completed[Any], judge: Judge) -> None:
        judge(completed.experiment.key, completed.inputs.subject.name, completed.judgements[claim.name])

    for mark in (*of_experiment(experiment), *([pytest.mark.gate] if experiment.is_gate else [])):
        claim_holds = mark(claim_holds)
    return claim_holds


def verdict_of(experiment: type[Experiment[Any]]) -> Callable[..., None]:
    """A test function like :func:`claims_of`, for the experiment whose result is the verdict of its phase."""

    def go_or_no_go(verdict: Verdict, record_property: Callable[[str, object], None]) -> None:
        facts = {"decision": verdict.decision, "reason": verdict.reason, "published": verdict.published}
        for name, value in facts.items():
            record_property(name, value)
        for statement in verdict.statements:
            record_property("statement", statement)
        if verdict.decision != "GO":
            raise CriterionNotMetError(f"{verdict.decision}: {verdict.reason}")

    for mark in (*of_experiment(experiment), pytest.mark.gate, pytest.mark.decision):
        go_or_no_go = mark(go_or_no_go)
    return go_or_no_go


def check_drift(drifts: Mapping[str, Estimate], trials: int) -> None:
    """Trials differ by their masks alone: dropouts stacked call after call make trial k + 1 times as large.

    An interval that holds both cannot tell, and neither can a bootstrap over few originals, of which rare masks hit one
    or two: the test is skipped as undecided.

    Args:
        drifts: relative growth per trial, by what it is of.
        trials: K.

    """
    stacked = stacked_drift(trials)
    few = [f"{what}: {drift}" for what, drift in drifts.items() if drift.n < LEAST_TO_DRIFT]
    if few:
        pytest.skip(f"undecided: {few[0]}, of fewer than {LEAST_TO_DRIFT} originals")
    for what, drift in drifts.items():
        assert drift.low <= 0 <= drift.high, f"{what}: scores drift from trial to trial: {drift}"
    wide = [f"{what}: {drift}" for what, drift in drifts.items() if drift.high >= stacked]
    if wide:
        pytest.skip(f"undecided: {wide[0]} cannot tell stacked dropouts ({stacked:.2f}) apart; show more images")


def check_shuffled(scores: NDArray[np.float64], seed: int) -> None:
    """Trials that are each shuffled over images on their own are not reliable, and their SNR is 1/K.

    The median over shuffles is held to that, for single ones may be far off: where a few images carry the variance, two
    trials that happen to lay them onto each other make a signal.

    Args:
        scores: of K trials of the same N images, [K, N].
        seed: of the shuffles.

    """
    rng = np.random.default_rng(seed)
    K, N = scores.shape
    error = math.sqrt(2 / (N - 1) + 2 / (N * (K - 1))) / K  # of SNR, which is F/K where the noise is normal
    found = []
    for _ in range(SHUFFLES):
        r = reliability(np.stack([rng.permutation(trial) for trial in scores]), resamples=2)
        assert r.status == "failed", f"shuffled trials are {r.status} (ρ={r.spearman:.3f})"
        found.append(r.snr)
    snr, most = float(np.median(found)), max(0.15, 5 * error)
    assert abs(snr - 1 / K) <= most, f"under pure noise SNR tends to 1/K = {1 / K:.3f}, and is {snr:.3f} here"


def check_spread(shown: NDArray[np.int64], there: NDArray[np.int64], left_out: int = 0) -> None:
    """A class of which images are left is shown as often as any other, but for one: others are fewer than that.

    Args:
        shown: images of each class in a sample, [C].
        there: those that the source holds, [C].
        left_out: chosen ones that could not be read.

    """
    left = shown < there
    fewest = int(shown[left].min(initial=shown.max()))
    assert fewest >= shown.max() - 1 - left_out, (
        f"of one class {shown.max()} images are shown and of another {fewest}, of which more are left: the sample of "
        f"{shown.sum()} is of {np.count_nonzero(shown)} of {np.count_nonzero(there)} classes"
    )


def tests_of(what: str | type[Experiment[Any]]) -> type:
    """Tests of one experiment, or of all of a phase, for a module of any repository that pytest collects.

    ``test_phase1 = tests_of("phase1")``: what ``-m phase1`` selects in mcdo's own checkout, by the same names, and
    experiments that others registered for the phase. ``TestMine = tests_of(Mine)``: the claims of an experiment, one
    test for each claim and subject, and its contract; for a verdict, the decision.

    Raises:
        McdoError: for a phase without experiments.

    """
    if not isinstance(what, str):
        return _class("TestsOf", _of(what))
    pytest.register_assert_rewrite(SUITE)
    suite = {module.__name__.rpartition(".")[2]: _module(module, what) for module in _suite_modules(what)}
    members: dict[str, Any] = {name: made for name, made in suite.items() if made is not None}
    for kind in experiments_of(what):
        if not kind.__module__.startswith("mcdo."):
            members |= _of(kind)
    return _class("TestsOf", members)


tests_of.__test__ = False  # type: ignore[attr-defined]  # or pytest takes it for a test, by its name


def _of(kind: type[Experiment[Any]]) -> dict[str, Any]:
    if kind.is_verdict:
        return {f"test_{kind.key}": staticmethod(verdict_of(kind))}
    return {
        f"test_{kind.key}": staticmethod(claims_of(kind)),
        f"test_{kind.key}_keeps_the_contract": staticmethod(contract_of(kind)),
    }


def _suite_modules(phase: str) -> Iterator[ModuleType]:
    """The suite's modules that may hold tests of a phase: its own folder, and the gates."""
    for root in map(Path, import_module(SUITE).__path__):
        for file in sorted((*root.glob("gates/test_*.py"), *root.glob("experiments/**/test_*.py"))):
            parts = file.relative_to(root).with_suffix("").parts
            if parts[0] == "gates" or phase in parts[:-1]:
                yield import_module(".".join((SUITE, *parts)))


def _module(module: ModuleType, phase: str) -> type | None:
    """A module's tests of a phase as a class; None where it has none."""
    marks = getattr(module, "pytestmark", [])
    marks = marks if isinstance(marks, list) else [marks]
    found = {
        name: staticmethod(test)
        for name, test in vars(module).items()
        if name.startswith("test_") and phase in {mark.name for mark in (*marks, *getattr(test, "pytestmark", ()))}
    }
    return _class(module.__name__.rpartition(".")[2], {"pytestmark": marks, **found}) if found else None


def _class(name: str, members: dict[str, Any]) -> type:
    return type(name, (), {COLLECTED: True, "__module__": __name__, **members})


def contract_of(experiment: type[Experiment[Any]]) -> Callable[..., None]:
    """A test function like :func:`claims_of`: what is written is whole, and the store alone gives the same again."""

    def contract_holds(completed: Completed[Any], runner: Runner, tmp_path: Path) -> None:
        _check_files(completed)
        _check_figure(completed)
        settings = completed.inputs.settings
        if settings.store is not None and not settings.from_store:
            again = Runner(runner.session.offline(tmp_path))
            offline = again.judged(completed.experiment, completed.inputs.subject)
            assert not again.session.loads, "a model was loaded"
            found = differing(_numbers(offline), _numbers(completed))
            assert not found, f"the store alone gives other numbers: {found[0]}"

    for mark in of_experiment(experiment):
        contract_holds = mark(contract_holds)
    return contract_holds


def _check_files(completed: Completed[Any]) -> None:
    assert all(path.exists() for path in completed.files), "a file that was to be written is not there"
    for path in completed.files:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"), parse_constant=_not_json)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays.files)
        elif path.suffix == ".md":
            assert path.read_text(encoding="utf-8").strip()
        else:
            assert path.stat().st_size > SMALLEST_FIGURE, "a figure shows nothing"
    assert {"config", "sites", "provenance", "claims", "experiment", "made"} <= set(completed.summary)
    assert {"time", "mcdo", "python", "commit"} <= set(completed.summary["made"])
    for path in completed.files:
        if completed.experiment.files.overall and path.match(f"*/{completed.experiment.files.overall}"):
            whole = json.loads(path.read_text(encoding="utf-8"))["provenance"][completed.inputs.subject.name]
            assert {"config", "sites", "provenance", "made"} <= set(whole), (
                "an overall summary does not say what it is of"
            )
    assert "torch" in completed.summary["provenance"]["versions"]


def _check_figure(completed: Completed[Any]) -> None:
    from mcdo.report.figures import faults, known_faults

    saved = next((path for path in completed.files if path.suffix == ".png"), None)
    if saved is not None:
        found = known_faults(saved)
    else:
        figure = figure_of(completed)
        found = [] if figure is None else faults(figure)
    assert not found, f"the figure hides what it should show: {'; '.join(found[:5])}"


def _numbers(completed: Completed[Any]) -> dict[str, Any]:
    return {name: value for name, value in completed.summary.items() if name != "made"}


def differing(found: Any, known: Any, place: str = "") -> list[str]:
    """Where two summaries differ by more than rounding.

    A run can be read as a part of one with further T, whose moments are added up from other pieces: the same passes,
    and sums that may differ in their last bits.
    """
    if isinstance(found, dict) and isinstance(known, dict) and found.keys() == known.keys():
        return [each for key in known for each in differing(found[key], known[key], f"{place}/{key}")]
    if isinstance(found, (list, tuple)) and isinstance(known, (list, tuple)) and len(found) == len(known):
        both = enumerate(zip(found, known, strict=True))
        return [each for i, (one, other) in both for each in differing(one, other, f"{place}/{i}")]
    if isinstance(found, float) and isinstance(known, float):
        alike = math.isclose(found, known, rel_tol=ROUNDING, abs_tol=ROUNDING)
        return [] if alike else [f"{place}: {found} and {known}"]
    return [] if found == known else [f"{place}: {found} and {known}"]


def _not_json(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")
