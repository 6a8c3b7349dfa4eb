from __future__ import annotations

from collections.abc import Callable

import pytest
from prelim_claims import Claims

from mcdo.experiments.bench import Bench
from mcdo.experiments.findings import Findings


@pytest.fixture
def judge(
    bench: Bench,
    findings: Findings,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> Callable[[str, str], Claims]:
    """Claims of an experiment about a model (or about what the test names instead)."""
    return lambda experiment, model: Claims(experiment, model, bench, findings, request, record_property)
