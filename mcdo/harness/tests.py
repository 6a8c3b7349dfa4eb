"""Tests of an experiment's claims: one for each claim about each subject, in this checkout or in another repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdo.harness.catalogue import experiments_of
from mcdo.harness.claim import Claim
from mcdo.harness.decision import Verdict
from mcdo.harness.experiment import Experiment
from mcdo.harness.judge import Judges
from mcdo.harness.runner import Completed, Runner
from mcdo.harness.session import Session

COLLECTED = "_mcdo_tests"
"""Marks a class of tests that is collected under the name of a test function too."""
SMALLEST_FIGURE = 5_000
"""Bytes: an empty pair of axes takes less."""


def of_experiment(experiment: type[Experiment[Any]]) -> list[pytest.MarkDecorator]:
    """The marks of tests about ``experiment``: its phase, its estimator, and itself, whose requests are planned."""
    marks = [getattr(pytest.mark, experiment.phase), about(experiment)]
    return [*marks, *([pytest.mark.estimator(experiment.about_estimator)] if experiment.about_estimator else [])]


def about(experiment: type[Experiment[Any]]) -> pytest.MarkDecorator:
    """The mark alone; ``pytest.mark.experiment(Class)`` would decorate the class."""
    return pytest.mark.experiment.with_args(experiment)


def claims_of(experiment: type[Experiment[Any]]) -> Callable[..., None]:
    """A test function to be assigned to a name that pytest collects; it runs once for each claim and subject."""

    def claim_holds(claim: Claim[Any], completed: Completed[Any], judge: Judges) -> None:
        judge(completed.experiment.key, completed.inputs.subject.name).settle(completed.judgements[claim.name])

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
        assert verdict.decision == "GO", f"{verdict.decision}: {verdict.reason}"

    for mark in (*of_experiment(experiment), pytest.mark.gate, pytest.mark.decision):
        go_or_no_go = mark(go_or_no_go)
    return go_or_no_go


def tests_of(what: str | type[Experiment[Any]]) -> type:
    """Tests of one experiment, or of all of a phase, for a module of any repository that pytest collects.

    ``test_phase1 = tests_of("phase1")`` or ``TestMine = tests_of(Mine)``: the claims of each experiment, one test for
    each claim and subject, and its contract; for the verdict, the decision.

    Raises:
        McdoError: for a phase without experiments.

    """
    members: dict[str, Any] = {COLLECTED: True, "__module__": __name__}
    for kind in experiments_of(what) if isinstance(what, str) else (what,):
        if kind.is_verdict:
            members[f"test_{kind.key}"] = staticmethod(verdict_of(kind))
            continue
        members[f"test_{kind.key}"] = staticmethod(claims_of(kind))
        members[f"test_{kind.key}_keeps_the_contract"] = staticmethod(contract_of(kind))
    return type("TestsOf", (), members)


def contract_of(experiment: type[Experiment[Any]]) -> Callable[..., None]:
    """A test function like :func:`claims_of`: what is written is whole, and the store alone gives the same again."""

    def contract_holds(completed: Completed[Any], tmp_path: Path) -> None:
        _check_files(completed)
        settings = completed.inputs.settings
        if settings.store is not None and not settings.from_store:
            again = Runner(Session(replace(settings, from_store=True, reports=tmp_path)))
            offline = again.run(completed.experiment, completed.inputs.subject)
            assert not again.session.loads, "a model was loaded"
            assert _numbers(offline) == _numbers(completed), "the store alone gives other numbers"

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
    assert "torch" in completed.summary["provenance"]["versions"]


def _numbers(completed: Completed[Any]) -> dict[str, Any]:
    return {name: value for name, value in completed.summary.items() if name != "made"}


def _not_json(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")
