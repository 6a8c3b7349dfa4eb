"""How a claim ends in a test: met passes, not met fails, undecided is skipped and says so.

A claim that ``data/findings.toml`` lists is a known negative: its test is a strict xfail, with the measured reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mcdo.experiments.bench import Settings
from mcdo.experiments.findings import Findings
from mcdo.stats import Estimate
from mcdo.stats.resampling import Direction, Verdict

ALPHA = 0.05
"""Level of a test, after Holm's correction over its family."""


@dataclass(frozen=True)
class Judge:
    """The claims of one experiment about one model, or about whatever the test names instead of a model."""

    experiment: str
    model: str
    settings: Settings
    findings: Findings
    request: pytest.FixtureRequest

    def above(
        self, claim: str, estimate: Estimate, bar: float, beside: object = "", p_holm: float | None = None
    ) -> None:
        """The claim that ``estimate`` lies above ``bar``.

        Args:
            claim: its name, as in ``data/findings.toml``.
            estimate: with the interval that decides.
            bar: what it is held against.
            beside: what a reader should see with it: a control, or the same figure otherwise.
            p_holm: p of the test that it lies at the bar, corrected over its family; unless that is below
                :data:`ALPHA`, nothing is decided. NaN stands for a test that could not be done.

        """
        self._compare(claim, estimate, ">", bar, beside, p_holm)

    def below(
        self, claim: str, estimate: Estimate, bar: float, beside: object = "", p_holm: float | None = None
    ) -> None:
        """The claim that ``estimate`` lies below ``bar``; arguments as for :meth:`above`."""
        self._compare(claim, estimate, "<", bar, beside, p_holm)

    def at_least(self, claim: str, estimate: Estimate, bar: float, beside: object = "") -> None:
        """The claim that ``estimate`` reaches ``bar``."""
        self._compare(claim, estimate, ">=", bar, beside, None)

    def within(self, claim: str, estimate: Estimate, low: float, high: float, beside: object = "") -> None:
        """The claim that ``estimate`` lies between ``low`` and ``high``, by its whole interval."""
        inside, outside = low <= estimate.low and estimate.high <= high, estimate.low > high or estimate.high < low
        outcome: Verdict = "met" if inside else "not met" if outside else "undecided"
        self.outcome(claim, outcome, f"{estimate} against {low:g} to {high:g}", beside)

    def outcome(self, claim: str, outcome: Verdict, measured: object, beside: object = "") -> None:
        """The claim whose outcome is known; ``measured`` says what it rests on."""
        known = self.findings.lookup(self.experiment, claim, self.model, self.settings)
        if known is not None:
            reason = f"{known.measured}: {known.reason}"
            self.request.applymarker(pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))
        record: Callable[[str, object], None] = self.request.getfixturevalue("record_property")
        facts = {"experiment": self.experiment, "model": self.model, "claim": claim, "measured": str(measured)}
        for name, value in {**facts, "beside": str(beside), "outcome": outcome}.items():
            record(name, value)
        said = f"{self.experiment} {self.model} {claim}: {measured}" + (f"; {beside}" if beside else "")
        if outcome == "undecided":
            pytest.skip(f"undecided: {said}")
        assert outcome == "met", said

    def _compare(
        self, claim: str, estimate: Estimate, direction: Direction, bar: float, beside: object, p_holm: float | None
    ) -> None:
        outcome, holm = estimate.verdict(bar, direction), ""
        if p_holm is not None:
            holm = f", p_holm={p_holm:.2g}"
            if math.isnan(p_holm) or p_holm >= ALPHA:
                outcome = "undecided"
        self.outcome(claim, outcome, f"{estimate}{holm} against {direction} {bar:g}", beside)


@dataclass(frozen=True)
class Judges:
    """The fixture ``judge``: ``judge("exp5")`` judges claims of exp5 about the test's model."""

    settings: Settings
    findings: Findings
    request: pytest.FixtureRequest

    def __call__(self, experiment: str, model: str | None = None) -> Judge:
        """Of ``experiment`` about ``model`` (default: the test's)."""
        about: str = self.request.getfixturevalue("model") if model is None else model
        return Judge(experiment, about, self.settings, self.findings, self.request)
