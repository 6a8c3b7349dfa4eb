"""How the claims of Phase 4 are judged: met passes, not met fails, undecided is skipped and says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mcdo.experiments.bench import Bench
from mcdo.experiments.findings import Findings
from mcdo.stats import Estimate
from mcdo.stats.resampling import Direction, Verdict


@dataclass(frozen=True)
class Judge:
    """The claims of one test; a claim that ``data/findings.toml`` lists becomes a strict xfail."""

    experiment: str
    model: str
    bench: Bench
    findings: Findings
    request: pytest.FixtureRequest
    record_property: Callable[[str, object], None]

    def __call__(
        self,
        claim: str,
        estimate: Estimate,
        direction: Direction,
        bar: float,
        beside: object = "",
        p_holm: float | None = None,
    ) -> None:
        """The claim that ``estimate`` lies on that side of ``bar``.

        With ``p_holm``, of the test that it lies at the bar, nothing is decided unless that is below .05 as well.
        """
        outcome: Verdict = estimate.verdict(bar, direction)
        if p_holm is not None and not p_holm < 0.05:
            outcome = "undecided"
        known = self.findings.lookup(self.experiment, claim, self.model, self.bench.settings)
        if known is not None:
            reason = f"{known.measured}: {known.reason}"
            self.request.applymarker(pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))
        holm = "" if p_holm is None else f", p_holm={p_holm:.2g}"
        said = f"{estimate}{holm} against {direction} {bar:g}"
        self.record_property("measured", said)
        self.record_property("outcome", outcome)
        if outcome == "undecided":
            pytest.skip(f"undecided: {self.model} {claim}: {said}; {beside}")
        assert outcome == "met", f"{self.model} {claim}: {said}; {beside}"


MakeJudge = Callable[[str], Judge]


@pytest.fixture
def judge(
    model: str,
    bench: Bench,
    findings: Findings,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> MakeJudge:
    """Judge of an experiment's claims about the test's model; test modules import it."""
    return lambda experiment: Judge(experiment, model, bench, findings, request, record_property)
