"""The verdict of Phase 1: GO, NO-GO or UNDECIDED, by the decision tree of S0 §6."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mcdo.experiments.base import write_json
from mcdo.stats import Reliability

Decision = Literal["GO", "NO-GO", "UNDECIDED"]
FILE = "verdict.json"


@dataclass(frozen=True)
class Row:
    """One line of the verdict's table: reliability of one score of one model at one T, or at one number of probes."""

    model: str
    score: str
    passes: int
    reliability: Reliability
    estimator: Literal["mc", "first_order"] = "mc"

    @property
    def setting(self) -> str:
        """T=64, or R=8 probes to first order."""
        return f"T={self.passes}" if self.estimator == "mc" else f"R={self.passes} (first order)"

    def rank(self) -> tuple[bool, bool, float]:
        """Larger is better: usable, then marginal, then by Spearman."""
        status = self.reliability.status
        return status == "usable", status == "marginal", self.reliability.spearman


@dataclass(frozen=True)
class Verdict:
    """The decision, why, and what it holds for."""

    decision: Decision
    reason: str
    models: tuple[str, ...]
    images: str
    protocol: str
    dropout: float
    sites: tuple[str, ...] | str
    seed: int
    session: str
    estimator: str = "mc"


def needs_convergence(rows: Sequence[Row]) -> Row | None:
    """The best row, if it is marginal: the decision then waits for the convergence sweep on its model.

    More passes can make Monte Carlo usable; first order has no sweep.
    """
    best = max(rows, key=Row.rank, default=None)
    marginal = best is not None and best.reliability.status == "marginal" and best.estimator == "mc"
    return best if marginal else None


def decide(rows: Sequence[Row], convergence: Mapping[int, Reliability] | None = None) -> tuple[Decision, str]:
    """The decision tree.

    Any model usable at any T: GO. Best is marginal: GO if the convergence sweep is usable at its largest T, otherwise
    undecided. All failed at the largest T: NO-GO.

    Args:
        rows: every model, score and T.
        convergence: reliability by T of the sweep, where it was run.

    """
    best = max(rows, key=Row.rank, default=None)
    if best is None:
        return "UNDECIDED", "nothing was measured"
    r = best.reliability
    what = f"{best.model} {best.score} at {best.setting}: ρ={r.spearman:.3f}, SNR={r.snr:.2f}, ICC={r.icc:.3f}"
    if r.status == "usable":
        first = min((row for row in rows if row.reliability.status == "usable"), key=lambda row: row.passes)
        return "GO", f"usable from {first.setting} on ({first.model} {first.score}); best is {what}"
    if r.status == "marginal":
        if convergence is None:
            return "UNDECIDED", f"best is marginal ({what}); the convergence sweep has not been run"
        top = max(convergence)
        after = convergence[top]
        word = f"the convergence sweep at T={top} is {after.status} (ρ={after.spearman:.3f})"
        return ("GO" if after.status == "usable" else "UNDECIDED"), f"best is marginal ({what}); {word}"
    if r.status == "insufficient_trials":
        return "UNDECIDED", f"reliability needs at least two trials whose scores vary ({what})"
    return "NO-GO", f"every model failed at every T; best is {what}"


def write(verdict: Verdict, reports: Path) -> Path:
    """Write the verdict where later phases look for it."""
    return write_json(reports / FILE, asdict(verdict))


def refusal(reports: Path, models: Sequence[str], images: str) -> str | None:
    """Why a later phase must not run on these models and images, or None if it may."""
    path = reports / FILE
    hint = "run pytest -m phase1 with the same --models and --images first, or pass --force"
    if not path.exists():
        return f"there is no Phase 1 verdict at {path}; {hint}"
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if held["images"] != images or not set(models) <= set(held["models"]):
        return f"the Phase 1 verdict at {path} is for {', '.join(held['models'])} on {held['images']}; {hint}"
    if held["decision"] != "GO":
        return f"Phase 1 ended with {held['decision']}: {held['reason']}; pass --force to go on all the same"
    return None
