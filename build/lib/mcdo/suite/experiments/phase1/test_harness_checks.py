"""What the harness looks at in a model; what it must be stands in tests/gates."""

from __future__ import annotations

from mcdo.experiments.phase1.harness_checks import HarnessChecks
from mcdo.harness.tests import contract_of

test_contract = contract_of(HarnessChecks)
