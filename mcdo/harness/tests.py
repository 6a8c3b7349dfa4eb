"""Tests of an experiment's claims: one for each claim about each subject, in this checkout or in another repository."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mcdo.harness.claim import Claim
from mcdo.harness.experiment import Experiment
from mcdo.harness.judge import Judges
from mcdo.harness.runner import Completed


def of_experiment(experiment: type[Experiment[Any]]) -> list[pytest.MarkDecorator]:
    """The marks of tests about ``experiment``: its phase, and the experiment itself, whose requests are planned."""
    return [getattr(pytest.mark, experiment.phase), about(experiment)]


def about(experiment: type[Experiment[Any]]) -> pytest.MarkDecorator:
    """The mark alone; ``pytest.mark.experiment(Class)`` would decorate the class."""
    return pytest.mark.experiment.with_args(experiment)


def claims_of(experiment: type[Experiment[Any]]) -> Callable[..., None]:
    """A test function to be assigned to a name that pytest collects; it runs once for each claim and subject."""

    def claim_holds(claim: Claim[Any], completed: Completed[Any], judge: Judges) -> None:
        judge(completed.experiment.key, completed.inputs.subject.name).settle(completed.judgements[claim.name])

    for mark in of_experiment(experiment):
        claim_holds = mark(claim_holds)
    return claim_holds
