from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.harness.decision import (
    LEAST_ORIGINS,
    Cell,
    Validity,
    Verdict,
    closing,
    decide,
    judged,
    published,
    refusal,
    statements,
    tables,
    wants_sweep,
)
from mcdo.report.terminal import lines
from mcdo.stats import Estimate

N = 500


def cell(rho: float, snr: float = 9.0, icc: float = 0.9, status: str = "usable", p: float = 1e-6, t: int = 64) -> Cell:
    def around(value: float, width: float) -> Estimate:
        return Estimate(value, value - width, value + width, N)

    return Cell(
        "a", "trace_pre", t, "mc", around(rho, 0.02), around(snr, 0.5), around(icc, 0.02), N, 10, status, p
    )  # fmt: skip


USABLE = cell(0.9)
JUST_ABOVE = cell(0.81, p=0.03)
MARGINAL = cell(0.7, 3.0, 0.7, "marginal", 1.0)
FAILED = cell(0.4, 0.4, 0.3, "failed", 1.0)
TOO_FEW = cell(math.nan, math.nan, math.nan, "insufficient_trials", math.nan)


def test_a_cell_that_is_usable_by_its_intervals_is_go() -> None:
    cells = judged([FAILED, USABLE, FAILED])
    assert [each.usable for each in cells] == ["not met", "met", "not met"]
    decision, reason = decide(cells, N)
    assert decision == "GO"
    assert "usable from T=64 on (a trace_pre)" in reason


def test_the_smallest_usable_budget_is_named_and_the_best_beside_it() -> None:
    cells = judged([replace(USABLE, passes=8), replace(USABLE, passes=256, spearman=Estimate(0.97, 0.96, 0.98, N))])
    reason = decide(cells, N)[1]
    assert "usable from T=8 on" in reason
    assert "best is a trace_pre at T=256" in reason


def test_a_point_above_the_bar_is_no_go_by_itself_and_less_so_among_many() -> None:
    """The published rule says GO of any point above the bars; here the interval decides, corrected over the cells."""
    alone = judged([JUST_ABOVE])
    assert alone[0].usable == "met"
    many = judged([JUST_ABOVE, *[replace(MARGINAL, passes=t) for t in (4, 8)]])
    assert [each.usable for each in many] == ["undecided", "not met", "not met"]
    assert decide(many, N)[0] == "UNDECIDED"
    assert published(many) == "GO"


def test_holm_over_the_cells_by_hand() -> None:
    cells = judged([replace(USABLE, p_usable=p, passes=t) for t, p in ((4, 0.02), (8, 0.016), (16, 0.04))])
    assert [each.usable for each in cells] == ["met", "met", "met"]  # .016 · 3 = .048, .02 · 2 = .048 (kept), .04
    cells = judged([replace(USABLE, p_usable=p, passes=t) for t, p in ((4, 0.02), (8, 0.017), (16, 0.04))])
    assert [each.usable for each in cells] == ["undecided"] * 3  # .017 · 3 = .051


def test_too_few_originals_are_no_verdict() -> None:
    decision, reason = decide(judged([USABLE]), 3)
    assert decision == "UNDECIDED"
    assert f"3 originals are too few for a verdict: at least {LEAST_ORIGINS}" in reason


def test_an_undecided_best_waits_for_the_convergence_sweep() -> None:
    cells = judged([FAILED, MARGINAL])
    assert wants_sweep(cells) == cells[1]
    assert decide(cells, N)[0] == "UNDECIDED"
    sweep = judged([*cells, replace(USABLE, passes=512)])[2:]
    assert decide(cells, N, sweep)[0] == "GO"
    assert decide(cells, N, judged([replace(MARGINAL, passes=512)]))[0] == "UNDECIDED"
    assert wants_sweep(judged([USABLE, MARGINAL])) is None
    assert wants_sweep([replace(MARGINAL, estimator="first_order")]) is None, "first order has no sweep"


def test_all_failed_at_their_largest_budget_is_no_go() -> None:
    cells = judged([FAILED, replace(FAILED, passes=256)])
    assert wants_sweep(cells) is None
    assert decide(cells, N)[0] == published(cells) == "NO-GO"
    mixed = judged([FAILED, replace(MARGINAL, passes=256)])
    assert decide(mixed, N)[0] == "UNDECIDED"


@pytest.mark.parametrize("cells", [[], [TOO_FEW]], ids=["nothing", "one-trial"])
def test_too_little_to_decide_is_undecided(cells: list[Cell]) -> None:
    assert wants_sweep(cells) is None
    assert decide(judged(cells), N)[0] == published(cells) == "UNDECIDED"


def validity(outcome: str, reason: str = "", follows: str = "met") -> Validity:
    figure = Estimate(0.5, 0.4, 0.6, N)
    return Validity("a", "trace_pre", "mc", figure, figure, figure, figure, follows, outcome, reason)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "row", "said"),
    [
        ([USABLE], validity("met"), "a trace_pre: reliable from T=64 on, valid beyond the norm"),
        ([USABLE], validity("not met"), "a trace_pre: reliable from T=64 on, not valid beyond the norm"),
        ([USABLE], validity("not applicable", "why"), "a trace_pre: reliable from T=64 on, validity unknown (why)"),
        (
            [USABLE],
            validity("not met", "", "not met"),
            "a trace_pre: reliable from T=64 on, not valid (ρ(entropy) = 0.50)",
        ),
        ([USABLE], None, "a trace_pre: reliable from T=64 on, validity unknown"),
        ([MARGINAL], validity("undecided"), "a trace_pre: unreliable, validity beyond the norm undecided"),
    ],
    ids=["both", "norm", "head", "against", "unknown", "neither"],
)
def test_reliability_and_validity_are_said_apart(cells: list[Cell], row: Validity | None, said: str) -> None:
    assert statements(judged(cells), [] if row is None else [row]) == (said,)


def verdict(decision: str = "GO", gates: dict[str, str] | None = None) -> Verdict:
    return Verdict(
        decision=decision, reason="because", published="GO", statements=("a trace_pre: reliable",),  # type: ignore[arg-type]
        cells=(USABLE,), validity=(validity("met"),), models=("a", "b"), images="digits", originals=N, protocol="full",
        dropout=0.01, sites="all", seed=42, session="s", own_gates=gates,
    )  # fmt: skip


def test_a_failed_gate_of_the_harness_s_own_leaves_no_go() -> None:
    found = verdict().with_gates({"t.py::alive[a]": "passed", "t.py::collapsed[a]": "failed"})
    assert found.decision == "UNDECIDED"
    assert "1 of the harness's own gates failed (collapsed[a])" in found.reason
    assert "without that: GO: because" in found.reason
    assert verdict().with_gates({}).decision == "UNDECIDED", "no gate ran"
    assert verdict().with_gates({"x": "skipped"}).decision == "UNDECIDED"
    assert verdict().with_gates({"x": "passed", "y": "skipped"}).decision == "GO"
    assert verdict("NO-GO").with_gates({}).decision == "NO-GO"


def test_a_verdict_is_read_as_it_was_written(tmp_path: Path) -> None:
    infinite = replace(USABLE, snr=Estimate(9.0, 8.0, math.inf, N))
    found = replace(verdict(gates={"x": "passed"}), cells=(infinite,), sites=("fc1", "fc2"))
    found.write(tmp_path)
    back = Verdict.read(tmp_path)
    assert math.isnan(back.cells[0].snr.high)  # JSON has no infinity
    known = replace(back.cells[0].snr, high=math.inf)
    assert replace(back, cells=(replace(back.cells[0], snr=known),)) == found
    (tmp_path / "verdict.json").write_text("{}")
    with pytest.raises(McdoError, match="of another version"):
        Verdict.read(tmp_path)


def test_later_phases_run_after_a_go_on_the_same_models_and_images(tmp_path: Path) -> None:
    verdict().write(tmp_path)
    assert refusal(tmp_path, ("a",), "digits") is None
    assert refusal(tmp_path, ("a", "b"), "digits") is None


def test_later_phases_are_refused_otherwise(tmp_path: Path) -> None:
    assert "there is no Phase 1 verdict" in str(refusal(tmp_path, ("a",), "digits"))
    verdict().write(tmp_path)
    assert "is for a, b on digits" in str(refusal(tmp_path, ("c",), "digits"))
    assert "is for a, b on digits" in str(refusal(tmp_path, ("a",), "folder:x"))
    verdict("NO-GO").write(tmp_path)
    assert "ended with NO-GO" in str(refusal(tmp_path, ("a",), "digits"))
    (tmp_path / "verdict.json").write_text('{"decision": "GO"}')
    assert "of another version" in str(refusal(tmp_path, ("a",), "digits"))


def test_the_terminal_shows_one_row_per_cell_and_ends_with_the_decision() -> None:
    found = replace(verdict(gates={"x": "passed"}), published="NO-GO")
    text = lines(tables(found), closing(found, Path("reports")))
    assert next(line.split()[:5] for line in text if line.startswith("a ")) == ["a", "trace_pre", "64", "500", "10"]
    assert text[-1] == "GO: because (the published point rule says NO-GO). Report: reports"
    assert "The harness's own gates: 1 passed, 0 failed, 0 skipped." in text
    assert all(line.isascii() for line in lines(tables(found), closing(found, Path("reports")), "ascii"))
