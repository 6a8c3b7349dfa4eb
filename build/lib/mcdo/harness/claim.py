"""A claim is decided by its interval: met, not met, or undecided because the interval straddles the bar."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mcdo.errors import McdoError
from mcdo.report.judgement import ALPHA, Judgement, Outcome
from mcdo.stats import Estimate
from mcdo.stats.resampling import Direction

Result = TypeVar("Result")


@dataclass(frozen=True)
class Claim(Generic[Result]):
    """What an experiment claims of its result; exactly one of the bars is given.

    Attributes:
        name: as in ``mcdo/data/findings.toml`` and in the test's id.
        estimate: the figure with the interval that decides; None where the claim does not apply.
        above, at_least, below, within: the bar, by the whole interval.
        rule: in place of a bar, where a claim rests on several figures: what it asks, and how it ends.
        beside: what a reader should see with it; where the claim does not apply, why.
        p_holm: p of the test that the figure lies at the bar, corrected over its family; unless it is below
            :data:`ALPHA` nothing is decided. NaN stands for a test that could not be done.
        one_sided: whether that test has the claim's own direction: then it is no word against "not met".

    """

    name: str
    estimate: Callable[[Result], Estimate | None]
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    within: tuple[float, float] | None = None
    rule: tuple[str, Callable[[Result], Outcome]] | None = None
    beside: Callable[[Result], object] = lambda result: ""
    p_holm: Callable[[Result], float] | None = None
    one_sided: bool = False

    def __post_init__(self) -> None:
        bars = (self.above, self.at_least, self.below, self.within, self.rule)
        if sum(bar is not None for bar in bars) != 1:
            raise McdoError(f"claim {self.name}: give exactly one of above, at_least, below, within and rule")

    @property
    def bar(self) -> str:
        """The bar as text."""
        if self.rule is not None:
            return self.rule[0]
        if self.within is not None:
            return f"within {self.within[0]:g} to {self.within[1]:g}"
        direction, at = self._threshold()
        return f"{direction} {at:g}"

    def judge(self, result: Result) -> Judgement:
        """How the claim ends on ``result``."""
        estimate, beside = self.estimate(result), str(self.beside(result))
        if estimate is None:
            return Judgement(self.name, "not applicable", None, self.bar, beside, at=self._at)
        p = None if self.p_holm is None else self.p_holm(result)
        outcome = self._outcome(estimate) if self.rule is None else self.rule[1](result)
        if p is not None and (math.isnan(p) or p >= ALPHA) and not (self.one_sided and outcome == "not met"):
            outcome = "undecided"
        return Judgement(self.name, outcome, estimate, self.bar, beside, p, self._at)

    @property
    def _at(self) -> tuple[float, ...]:
        if self.rule is not None:
            return ()
        return self.within if self.within is not None else (self._threshold()[1],)

    def _threshold(self) -> tuple[Direction, float]:
        bars: tuple[tuple[Direction, float | None], ...] = (
            (">", self.above), (">=", self.at_least), ("<", self.below),
        )  # fmt: skip
        return next((direction, bar) for direction, bar in bars if bar is not None)

    def _outcome(self, estimate: Estimate) -> Outcome:
        if self.within is None:
            direction, bar = self._threshold()
            return estimate.outcome(bar, direction)
        low, high = self.within
        if math.isnan(estimate.low) or math.isnan(estimate.high):
            return "undecided"
        if low <= estimate.low and estimate.high <= high:
            return "met"
        return "not met" if estimate.low > high or estimate.high < low else "undecided"
