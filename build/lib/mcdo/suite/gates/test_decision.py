"""GO or NO-GO: the decision tree of S0 §6, by intervals, over the models of the selected tests."""

from __future__ import annotations

from mcdo.experiments.phase1.verdict import Phase1Verdict
from mcdo.harness.tests import verdict_of

test_go_or_no_go = verdict_of(Phase1Verdict)
