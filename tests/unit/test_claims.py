from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from mcdo.claims import Judge, Judges
from mcdo.experiments.bench import Settings
from mcdo.experiments.findings import Finding, Findings
from mcdo.stats import Estimate

KNOWN = Finding("exp5", "rho", "clip_tiny", "digits", ("full",), "0.1 [0.0, 0.2] n=10", "because")


@dataclass
class FakeRequest:
    """What a judge asks of pytest."""

    marks: list[Any] = field(default_factory=list)
    recorded: dict[str, object] = field(default_factory=dict)

    def applymarker(self, mark: Any) -> None:
        self.marks.append(mark)

    def getfixturevalue(self, name: str) -> Any:
        return {"record_property": self.recorded.__setitem__, "model": "clip_tiny"}[name]


@pytest.fixture
def request_() -> FakeRequest:
    return FakeRequest()


@pytest.fixture
def judge(request_: Any) -> Judge:
    return Judges(Settings(models=("clip_tiny",)), Findings((KNOWN,)), request_)("exp5")


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 10)


@pytest.mark.parametrize(
    ("method", "low", "high", "bars", "outcome"),
    [
        ("above", 0.31, 0.4, (0.3,), "met"),
        ("above", 0.30, 0.4, (0.3,), "undecided"),
        ("above", 0.1, 0.3, (0.3,), "not met"),
        ("at_least", 0.3, 0.4, (0.3,), "met"),
        ("below", 0.1, 0.29, (0.3,), "met"),
        ("below", 0.3, 0.4, (0.3,), "not met"),
        ("above", math.nan, math.nan, (0.3,), "undecided"),
        ("within", 0.9, 1.1, (0.9, 1.1), "met"),
        ("within", 0.89, 1.0, (0.9, 1.1), "undecided"),
        ("within", 1.11, 1.2, (0.9, 1.1), "not met"),
    ],
)
def test_the_whole_interval_decides(
    method: str, low: float, high: float, bars: tuple[float, ...], outcome: str, judge: Judge, request_: FakeRequest
) -> None:
    ends = {"met": None, "not met": AssertionError, "undecided": pytest.skip.Exception}[outcome]
    if ends is None:
        getattr(judge, method)("other", estimate(low, high), *bars)
    else:
        with pytest.raises(ends, match=r"clip_tiny other: .* n=10 against"):
            getattr(judge, method)("other", estimate(low, high), *bars)
    assert request_.recorded["outcome"] == outcome
    assert {"experiment", "model", "claim", "measured", "beside"} < set(request_.recorded)
    assert not request_.marks


@pytest.mark.parametrize(("p_holm", "decided"), [(0.049, True), (0.05, False), (math.nan, False)])
def test_without_a_significant_test_nothing_is_decided(p_holm: float, decided: bool, judge: Judge) -> None:
    with pytest.raises(AssertionError if decided else pytest.skip.Exception, match="p_holm="):
        judge.above("other", estimate(-0.2, -0.1), 0.0, p_holm=p_holm)
    if decided:
        judge.below("other", estimate(-0.2, -0.1), 0.0, p_holm=p_holm)


def test_a_known_negative_is_a_strict_xfail_that_says_why(judge: Judge, request_: FakeRequest) -> None:
    judge.above("rho", estimate(0.4, 0.5), 0.3)
    (mark,) = request_.marks
    assert (mark.name, mark.kwargs["strict"], mark.kwargs["raises"]) == ("xfail", True, AssertionError)
    assert mark.kwargs["reason"] == "0.1 [0.0, 0.2] n=10: because"


def test_a_claim_about_something_else_than_the_tests_model_has_its_own_findings(request_: Any) -> None:
    judges = Judges(Settings(models=("clip_tiny",)), Findings((KNOWN,)), request_)
    judges("exp5", "clip_tiny on CIFAR-10").above("rho", estimate(0.4, 0.5), 0.3)
    assert not request_.marks
