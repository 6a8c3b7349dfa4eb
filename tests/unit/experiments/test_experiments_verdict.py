from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcdo.experiments.verdict import Row, Verdict, decide, needs_convergence, refusal, write
from mcdo.stats import Reliability, reliability


def _with(spearman: float, snr: float, icc: float, status: str) -> Reliability:
    rng = np.random.default_rng(0)
    real = reliability(rng.normal(size=(3, 20)), resamples=2)
    return replace(real, spearman=spearman, snr=snr, icc=icc, status=status)  # type: ignore[arg-type]


USABLE = _with(0.9, 9.0, 0.9, "usable")
MARGINAL = _with(0.7, 3.0, 0.7, "marginal")
FAILED = _with(0.4, 0.9, 0.3, "failed")
TOO_FEW = _with(float("nan"), float("nan"), float("nan"), "insufficient_trials")


def _rows(*found: Reliability) -> list[Row]:
    return [Row(f"model{i}", "trace_pre", 4 * 2**i, r) for i, r in enumerate(found)]


def test_any_usable_model_at_any_t_is_go() -> None:
    decision, reason = decide(_rows(FAILED, USABLE, FAILED))
    assert decision == "GO"
    assert "model1" in reason
    assert "T=8" in reason


def test_the_smallest_usable_t_is_named() -> None:
    assert "usable from T=8 on" in decide(_rows(FAILED, USABLE, replace(USABLE, spearman=0.95)))[1]


def test_marginal_waits_for_the_convergence_sweep() -> None:
    rows = _rows(FAILED, MARGINAL, FAILED)
    assert needs_convergence(rows) == rows[1]
    assert decide(rows)[0] == "UNDECIDED"
    assert decide(rows, {256: MARGINAL, 512: USABLE})[0] == "GO"
    assert decide(rows, {256: USABLE, 512: MARGINAL})[0] == "UNDECIDED"


def test_all_failed_is_no_go() -> None:
    rows = _rows(FAILED, FAILED)
    assert needs_convergence(rows) is None
    assert decide(rows)[0] == "NO-GO"


@pytest.mark.parametrize("rows", [[], _rows(TOO_FEW)], ids=["nothing", "one-trial"])
def test_too_little_to_decide_is_undecided(rows: list[Row]) -> None:
    assert needs_convergence(rows) is None
    assert decide(rows)[0] == "UNDECIDED"


def _verdict(decision: str = "GO") -> Verdict:
    return Verdict(decision, "because", ("a", "b"), "digits", "full", 0.01, "all", 42, "s")  # type: ignore[arg-type]


def test_later_phases_run_after_a_go_on_the_same_models_and_images(tmp_path: Path) -> None:
    write(_verdict(), tmp_path)
    assert refusal(tmp_path, ("a",), "digits") is None
    assert refusal(tmp_path, ("a", "b"), "digits") is None


def test_later_phases_are_refused_otherwise(tmp_path: Path) -> None:
    assert "there is no Phase 1 verdict" in str(refusal(tmp_path, ("a",), "digits"))
    write(_verdict(), tmp_path)
    assert "is for a, b on digits" in str(refusal(tmp_path, ("c",), "digits"))
    assert "is for a, b on digits" in str(refusal(tmp_path, ("a",), "folder:x"))
    write(_verdict("NO-GO"), tmp_path)
    assert "ended with NO-GO" in str(refusal(tmp_path, ("a",), "digits"))
