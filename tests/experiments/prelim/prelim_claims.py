"""How the claims of the preliminary investigation are judged: met passes, not met fails, undecided is skipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mcdo.experiments.bench import Bench
from mcdo.experiments.findings import Findings
from mcdo.stats import Estimate
from mcdo.stats.resampling import Verdict


@dataclass(frozen=True)
class Claims:
    """The claims of one test; a claim that ``data/findings.toml`` lists becomes a strict xfail."""

    experiment: str
    model: str
    bench: Bench
    findings: Findings
    request: pytest.FixtureRequest
    record_property: Callable[[str, object], None]

    def above(self, claim: str, estimate: Estimate, bar: float, beside: object = "") -> None:
        """The claim that ``estimate`` lies above ``bar``."""
        self.outcome(claim, estimate.verdict(bar, ">"), f"{estimate} against > {bar:g}", beside)

    def at_least(self, claim: str, estimate: Estimate, bar: float, beside: object = "") -> None:
        """The claim that ``estimate`` reaches ``bar``."""
        self.outcome(claim, estimate.verdict(bar, ">="), f"{estimate} against >= {bar:g}", beside)

    def within(self, claim: str, estimate: Estimate, low: float, high: float, beside: object = "") -> None:
        """The claim that ``estimate`` lies between ``low`` and ``high``, by its whole interval."""
        inside, outside = low <= estimate.low and estimate.high <= high, estimate.low > high or estimate.high < low
        outcome: Verdict = "met" if inside else "not met" if outside else "undecided"
        self.outcome(claim, outcome, f"{estimate} against {low:g} to {high:g}", beside)

    def outcome(self, claim: str, outcome: Verdict, measured: str, beside: object = "") -> None:
        """The claim whose outcome is known; ``measured`` says what it rests on."""
        known = self.findings.lookup(self.experiment, claim, self.model, self.bench.settings)
        if known is not None:
            reason = f"{known.measured}: {known.reason}"
            self.request.applymarker(pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))
        self.record_property("experiment", self.experiment)
        self.record_property("model", self.model)
        self.record_property("claim", claim)
        self.record_property("measured", measured)
        self.record_property("beside", str(beside))
        self.record_property("outcome", outcome)
        said = f"{self.model} {claim}: {measured}; {beside}"
        if outcome == "undecided":
            pytest.skip(f"undecided: {said}")
        assert outcome == "met", said
