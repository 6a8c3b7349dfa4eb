from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from mcdo.errors import CriterionNotMetError, McdoError
from mcdo.harness import Claim, Settings
from mcdo.harness.judge import Judge
from mcdo.harness.negatives import KnownNegative, KnownNegatives
from mcdo.stats import Estimate

KNOWN = KnownNegative("exp5", "rho", "clip_tiny", "digits", ("full",), "0.1 [0.0, 0.2] n=10", "because")


def estimate(low: float, high: float) -> Estimate:
    return Estimate((low + high) / 2, low, high, 10)


@pytest.mark.parametrize(
    ("bar", "low", "high", "outcome"),
    [
        ({"above": 0.3}, 0.31, 0.4, "met"),
        ({"above": 0.3}, 0.30, 0.4, "undecided"),
        ({"above": 0.3}, 0.1, 0.3, "not met"),
        ({"at_least": 0.3}, 0.3, 0.4, "met"),
        ({"below": 0.3}, 0.1, 0.29, "met"),
        ({"below": 0.3}, 0.3, 0.4, "not met"),
        ({"above": 0.3}, math.nan, math.nan, "undecided"),
        ({"within": (0.9, 1.1)}, 0.9, 1.1, "met"),
        ({"within": (0.9, 1.1)}, 0.89, 1.0, "undecided"),
        ({"within": (0.9, 1.1)}, 1.11, 1.2, "not met"),
        ({"within": (0.9, 1.1)}, math.nan, math.nan, "undecided"),
    ],
)
def test_the_whole_interval_decides(bar: dict[str, Any], low: float, high: float, outcome: str) -> None:
    claim: Claim[Estimate] = Claim("x", lambda result: result, **bar)
    judgement = claim.judge(estimate(low, high))
    assert judgement.outcome == outcome
    assert "n=10 against " in str(judgement)
    json.dumps(judgement.as_dict(), allow_nan=False)


@pytest.mark.parametrize(("p_holm", "outcome"), [(0.049, "not met"), (0.05, "undecided"), (math.nan, "undecided")])
def test_without_a_significant_test_nothing_is_decided(p_holm: float, outcome: str) -> None:
    claim: Claim[Estimate] = Claim("x", lambda result: result, above=0.0, p_holm=lambda _: p_holm)
    assert claim.judge(estimate(-0.2, -0.1)).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "p", "outcome"),
    [
        (0.1, 0.2, 0.01, "met"),
        (0.1, 0.2, 0.05, "undecided"),
        (-0.1, 0.2, 0.01, "undecided"),
        (-0.2, -0.1, 1, "not met"),
    ],
)
def test_a_one_sided_test_cannot_speak_against_not_met(low: float, high: float, p: float, outcome: str) -> None:
    claim: Claim[Estimate] = Claim("x", lambda result: result, above=0.0, p_holm=lambda _: p, one_sided=True)
    assert claim.judge(estimate(low, high)).outcome == outcome


def test_a_claim_that_does_not_apply_says_why() -> None:
    claim: Claim[None] = Claim("x", lambda _: None, above=0.0, beside=lambda _: "no labels")
    judgement = claim.judge(None)
    assert (judgement.outcome, str(judgement)) == ("not applicable", "no labels")


def test_a_rule_decides_where_a_claim_rests_on_several_figures() -> None:
    claim: Claim[Estimate] = Claim("x", lambda result: result, rule=("both above", lambda _: "met"))
    assert claim.judge(estimate(0.1, 0.2)).outcome == "met"
    assert claim.bar == "both above"


@pytest.mark.parametrize("bars", [{}, {"above": 0.0, "below": 1.0}], ids=["none", "two"])
def test_a_claim_has_exactly_one_bar(bars: dict[str, Any]) -> None:
    with pytest.raises(McdoError, match="exactly one of"):
        Claim("x", lambda _: None, **bars)


@dataclass
class FakeRequest:
    """What a judge asks of pytest."""

    marks: list[Any] = field(default_factory=list)
    recorded: dict[str, object] = field(default_factory=dict)

    def applymarker(self, mark: Any) -> None:
        self.marks.append(mark)

    def getfixturevalue(self, name: str) -> Any:
        return {"record_property": self.recorded.__setitem__}[name]


def settle(name: str, low: float, high: float, **about: Any) -> FakeRequest:
    request: Any = FakeRequest()
    facts = {"subject": "clip_tiny", "settings": Settings(models=("clip_tiny",)), **about}
    claim: Claim[Estimate] = Claim(name, lambda result: result, above=0.3)
    try:
        judge = Judge(facts["settings"], KnownNegatives((KNOWN,)), request)
        judge("exp5", facts["subject"], claim.judge(estimate(low, high)))
    finally:
        request.recorded.setdefault("outcome", "")
    return request  # type: ignore[no-any-return]


def test_met_passes_not_met_fails_and_undecided_is_skipped() -> None:
    assert settle("other", 0.31, 0.4).recorded["outcome"] == "met"
    said = r"^not met: exp5 clip_tiny other: 0\.20 \[0\.10, 0\.30\] n=10 against > 0\.3"
    with pytest.raises(CriterionNotMetError, match=said):  # which is no fault of the program
        settle("other", 0.1, 0.3)
    with pytest.raises(pytest.skip.Exception, match="undecided: exp5 clip_tiny other"):
        settle("other", 0.2, 0.4)


def test_a_known_negative_is_a_strict_xfail_that_says_why() -> None:
    (mark,) = settle("rho", 0.4, 0.5).marks
    assert (mark.name, mark.kwargs["strict"], mark.kwargs["raises"]) == ("xfail", True, AssertionError)
    assert mark.kwargs["reason"] == "0.1 [0.0, 0.2] n=10: because"


@pytest.mark.parametrize(
    "about",
    [{"subject": "clip_tiny on CIFAR-10"}, {"settings": Settings(models=("clip_tiny",), protocol="quick")}],
    ids=["subject", "settings"],
)
def test_anything_else_is_judged_afresh(about: dict[str, Any]) -> None:
    assert not settle("rho", 0.4, 0.5, **about).marks
