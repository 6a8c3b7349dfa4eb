"""How a claim ended: what the harness decides, files hold, and pages show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mcdo.stats import Estimate

ALPHA = 0.05
"""Level of a test, after Holm's correction over its family."""
Outcome = Literal["met", "not met", "undecided", "not applicable"]


@dataclass(frozen=True)
class Judgement:
    """How a claim ended.

    Attributes:
        claim: its name.
        outcome: of the interval, and of the test where there is one.
        estimate: what decided; None where the claim does not apply.
        bar: what it was held against, such as "> 0.3".
        beside: what a reader should see with it: a control, or the same figure otherwise; or why it does not apply.
        p_holm: p of "it lies at the bar", corrected over its family; None without a test.
        at: where on the axis the bar lies: a number, the two ends of a range, or nothing where a rule decides.

    """

    claim: str
    outcome: Outcome
    estimate: Estimate | None
    bar: str
    beside: str = ""
    p_holm: float | None = None
    at: tuple[float, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        p = None if self.p_holm is None or math.isnan(self.p_holm) else self.p_holm
        estimate = None if self.estimate is None else self.estimate.as_dict()
        facts = {"claim": self.claim, "outcome": self.outcome, "bar": self.bar, "beside": self.beside, "p_holm": p}
        return {**facts, "at": list(self.at), "estimate": estimate}

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Judgement:
        """The inverse of :meth:`as_dict`, for an estimate that JSON could hold."""
        estimate = None if facts["estimate"] is None else Estimate.of(facts["estimate"])
        return cls(**{**facts, "estimate": estimate, "at": tuple(facts.get("at", ()))})

    def __str__(self) -> str:
        test = "" if self.p_holm is None else f", p_holm={self.p_holm:.2g}"
        measured = "" if self.estimate is None else f"{self.estimate}{test} against {self.bar}"
        return "; ".join(part for part in (measured, self.beside) if part)
