"""GO or NO-GO: the decision tree of S0 §6, by intervals, over the models of the selected tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments.phase1.verdict import Phase1Verdict
from mcdo.harness.decision import Verdict
from mcdo.harness.tests import of_experiment

pytestmark = [*of_experiment(Phase1Verdict), pytest.mark.gate, pytest.mark.decision]


def test_go_or_no_go(verdict: Verdict, record_property: Callable[[str, object], None]) -> None:
    record_property("decision", verdict.decision)
    record_property("reason", verdict.reason)
    record_property("published", verdict.published)
    for statement in verdict.statements:
        record_property("statement", statement)
    assert verdict.decision == "GO", f"{verdict.decision}: {verdict.reason}"
