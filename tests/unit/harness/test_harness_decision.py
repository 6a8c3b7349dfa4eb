from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.harness import Images, Settings, Sizes, Subject
from mcdo.harness.decision import (
    LEAST_ORIGINS,
    Cell,
    Validity,
    Verdict,
    closing,
    decide,
    dropped,
    identity_of,
    judged,
    published,
    refusal,
    statements,
    tables,
    wants_sweep,
)
from mcdo.perturbation import Dropout, TiedDropout
from mcdo.report.terminal import lines
from mcdo.stats import Estimate, Reliability, reliability

N = 500


def cell(
    rho: float, snr: float = 9.0, icc: float = 0.9, status: str = "usable", usable: str = "met", t: int = 64
) -> Cell:
    def around(value: float, width: float) -> Estimate:
        return Estimate(value, value - width, value + width, N)

    figures = around(rho, 0.02), around(snr, 0.5), around(icc, 0.02)
    return Cell("a", "trace_pre", t, "mc", *figures, N, 10, status, 0.001, usable)  # type: ignore[arg-type]


USABLE = cell(0.9)
MARGINAL = cell(0.7, 3.0, 0.7, "marginal", "not met")
FAILED = cell(0.4, 0.4, 0.3, "failed", "not met")
TOO_FEW = cell(math.nan, math.nan, math.nan, "insufficient_trials", "undecided")


def test_a_cell_that_is_usable_by_its_intervals_is_go() -> None:
    decision, reason = decide([FAILED, USABLE, FAILED], N)
    assert decision == "GO"
    assert "usable from T=64 on (a trace_pre)" in reason


def test_the_smallest_usable_budget_is_named_and_the_best_beside_it() -> None:
    cells = [replace(USABLE, passes=8), replace(USABLE, passes=256, spearman=Estimate(0.97, 0.96, 0.98, N))]
    reason = decide(cells, N)[1]
    assert "usable from T=8 on" in reason
    assert "best is a trace_pre at T=256" in reason


def measured(true_rho: float, t: int, seed: int = 0, images: int = 300) -> tuple[Cell, Reliability]:
    rng = np.random.default_rng(seed)
    noise = math.sqrt(1 / true_rho - 1)
    r = reliability(rng.normal(size=images) + noise * rng.normal(size=(5, images)), resamples=200)
    return Cell.of("a", "trace_pre", t, r), r


def test_a_point_above_the_bar_is_no_go_and_a_reliable_score_is_one() -> None:
    """The published rule says GO of any point above the bars; here the interval decides."""
    just_above = next(m for m in (measured(0.8, 64, seed) for seed in range(30)) if m[0].status == "usable")
    cells, _ = judged([just_above])
    assert cells[0].usable == "undecided"
    assert published(cells) == "GO"
    assert decide(cells, N)[0] == "UNDECIDED"
    cells, _ = judged([measured(0.95, 64)])
    assert decide(cells, N)[0] == "GO"


def test_a_score_is_tested_from_its_largest_budget_down() -> None:
    cells, _ = judged([measured(0.95, 64), measured(0.5, 256)])
    assert [c.usable for c in cells] == ["undecided", "not met"], "nothing is tested below a budget that failed"
    cells, _ = judged([measured(0.95, 64), measured(0.97, 256)])
    assert [c.usable for c in cells] == ["met", "met"]


def test_the_sweep_is_a_chain_of_its_own_whose_share_is_kept_for_it() -> None:
    first = [measured(0.6, 64)]
    sweep = [measured(0.97, 512, 1), measured(0.9, 128, 2)]
    cells, swept = judged(first, sweep)
    assert [c.usable for c in cells] == ["not met"]
    assert [c.passes for c in swept] == [512, 128]
    assert swept[0].usable == "met"
    assert decide(cells, N, swept)[0] == "GO"


def test_a_share_of_the_error_is_kept_for_the_sweep_that_may_follow() -> None:
    """Of one chain alone a cell has half of it: that the sweep is run depends on what came out."""
    near = next(m for m in (measured(0.86, 64, seed) for seed in range(99)) if 0.026 < m[0].p_usable < 0.049)
    assert judged([near])[0][0].usable == "undecided"


@pytest.mark.parametrize(
    ("rho", "snr", "failed"), [(0.4, 9.0, True), (0.9, 0.4, True), (0.59, 9.0, False), (0.9, 0.9, False)]
)
def test_a_score_failed_where_either_interval_lies_below_its_lower_bound(rho: float, snr: float, failed: bool) -> None:
    found = cell(rho, snr, status="failed", usable="not met")
    assert found.failed is failed
    assert decide([found], N)[0] == ("NO-GO" if failed else "UNDECIDED")


def test_too_few_originals_are_no_verdict() -> None:
    assert decide([USABLE], LEAST_ORIGINS)[0] == "GO"
    decision, reason = decide([USABLE], 3)
    assert decision == "UNDECIDED"
    assert f"3 originals are too few for a verdict: at least {LEAST_ORIGINS}" in reason


def test_an_undecided_best_waits_for_the_convergence_sweep() -> None:
    cells = [FAILED, MARGINAL]
    assert wants_sweep(cells) == cells[1]
    assert decide(cells, N)[0] == "UNDECIDED"
    assert decide(cells, N, [replace(USABLE, passes=512)])[0] == "GO"
    assert decide(cells, N, [replace(MARGINAL, passes=512)])[0] == "UNDECIDED"
    assert wants_sweep([USABLE, MARGINAL]) is None
    by_point = replace(USABLE, usable="undecided")
    assert wants_sweep([by_point]) == by_point, "the published rule decides nothing here"
    ends = [replace(USABLE, passes=128), replace(MARGINAL, passes=512)]
    assert published([MARGINAL], ends) == "UNDECIDED", "of the sweep its largest T decides"
    assert published([MARGINAL], [replace(MARGINAL, passes=128), replace(USABLE, passes=512)]) == "GO"
    assert wants_sweep([replace(MARGINAL, estimator="first_order")]) is None, "first order has no sweep"


def test_all_failed_at_their_largest_budget_is_no_go() -> None:
    cells = [FAILED, replace(FAILED, passes=256)]
    assert wants_sweep(cells) is None
    assert decide(cells, N)[0] == published(cells) == "NO-GO"
    mixed = [FAILED, replace(MARGINAL, passes=256)]
    assert decide(mixed, N)[0] == "UNDECIDED"


@pytest.mark.parametrize("cells", [judged([])[0], [TOO_FEW]], ids=["nothing", "one-trial"])
def test_too_little_to_decide_is_undecided(cells: list[Cell]) -> None:
    """Nothing there is where every model has random weights."""
    assert wants_sweep(cells) is None
    assert decide(cells, N)[0] == published(cells) == "UNDECIDED"


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
        (
            [MARGINAL, replace(USABLE, passes=128), replace(USABLE, passes=256)],
            validity("met"),
            "a trace_pre: reliable from T=128 on, valid beyond the norm",
        ),
        ([MARGINAL], validity("undecided"), "a trace_pre: unreliable, validity beyond the norm undecided"),
    ],
    ids=["both", "norm", "head", "against", "unknown", "later", "neither"],
)
def test_reliability_and_validity_are_said_apart(cells: list[Cell], row: Validity | None, said: str) -> None:
    assert statements(cells, [] if row is None else [row]) == (said,)


def test_an_encoder_without_text_is_said_to_have_no_measure_of_validity() -> None:
    said = "a trace_pre: reliable from T=64 on, validity unknown (no text tower)"
    assert statements([USABLE], [], unread={"a": "no text tower"}) == (said,)


def verdict(decision: str = "GO", gates: dict[str, str] | None = None) -> Verdict:
    return Verdict(
        decision=decision, reason="because", published="GO", statements=("a trace_pre: reliable",),  # type: ignore[arg-type]
        cells=(USABLE,), validity=(validity("met"),), models=("a", "b"), images="digits", originals=N, protocol="full",
        dropout=0.01, sites="all", seed=42, session="s", own_gates=gates,
        identity=identity_of(about(), ("a", "b"), [Images(N)]),
    )  # fmt: skip


def about(weights: str = "w", pictures: str = "f", **settings: Any) -> Any:
    """A session about two models; what they are and what the images hold is said here."""
    facts = {"weights_hash": weights, "random_weights": False, "architecture": "a", "probe": "p", "preprocess_id": "s"}
    said = Settings(**{"models": ("a",), **settings})
    return SimpleNamespace(
        settings=said,
        subject=Subject("all_models", said.models),
        encoder=lambda model: SimpleNamespace(**facts),
        images=lambda shown: SimpleNamespace(fingerprint=f"{pictures} {shown.n}"),
    )


def test_a_failed_gate_of_the_harness_s_own_leaves_no_go() -> None:
    found = verdict().with_gates({"t.py::alive[a]": "passed", "t.py::collapsed[a]": "failed"})
    assert found.decision == "UNDECIDED"
    assert "1 of the harness's own gates failed (collapsed[a])" in found.reason
    assert "without that: GO: because" in found.reason
    assert verdict().with_gates({}).decision == "UNDECIDED", "no gate ran"
    assert verdict().with_gates({"x": "skipped"}).decision == "UNDECIDED"
    assert verdict().with_gates({"x": "passed", "y": "skipped"}).decision == "GO"
    assert verdict("NO-GO").with_gates({}).decision == "NO-GO"
    cut_off = verdict().with_gates({"x": "passed", "t.py::alive[a]": "not run"})
    assert cut_off.decision == "UNDECIDED"
    assert "did not run to their end (alive[a])" in cut_off.reason


def test_a_verdict_is_read_as_it_was_written(tmp_path: Path) -> None:
    infinite = replace(USABLE, snr=Estimate(9.0, 8.0, math.inf, N))
    found = replace(verdict(gates={"x": "passed"}), cells=(infinite,), sites=("fc1", "fc2"))
    found.write(tmp_path)
    assert {"time", "mcdo", "python", "commit"} <= json.loads((tmp_path / "verdict.json").read_text())["made"].keys()
    back = Verdict.read(tmp_path)
    assert math.isnan(back.cells[0].snr.high)  # JSON has no infinity
    known = replace(back.cells[0].snr, high=math.inf)
    assert replace(back, cells=(replace(back.cells[0], snr=known),)) == found
    (tmp_path / "verdict.json").write_text("{}")
    with pytest.raises(McdoError, match="of another version"):
        Verdict.read(tmp_path)


def test_later_phases_run_after_a_go_on_the_same_models_and_images(tmp_path: Path) -> None:
    verdict().write(tmp_path)
    assert refusal(about(), tmp_path) is None
    assert refusal(about(models=("a", "b")), tmp_path) is None
    of_one = about(models=("a", "c"))
    of_one.subject = Subject("all_models", ("a",))
    assert refusal(of_one, tmp_path) is None, "a mark leaves the other out"
    assert refusal(about(protocol="quick"), tmp_path) is None, "what holds at full size holds at a small one"
    assert refusal(about(sizes=Sizes(num_images=50)), tmp_path) is None


def test_a_verdict_from_less_than_the_protocol_opens_no_more_than_that(tmp_path: Path) -> None:
    small = about(sizes=Sizes(num_images=200, passes=(4, 64)))
    replace(verdict(), identity=identity_of(small, ("a", "b"), [Images(N)])).write(tmp_path)
    assert refusal(small, tmp_path) is None
    said = str(refusal(about(), tmp_path))
    assert "holds for sizes = {'num_images': 200, 'passes': [4, 64]}, not {}" in said
    assert refusal(about(protocol="quick"), tmp_path) is not None
    assert refusal(about(sizes=Sizes(num_images=200)), tmp_path) is not None


OTHERWISE: dict[str, tuple[Any, str]] = {
    "model": (about(models=("c",)), "is for a, b on digits"),
    "one of the models": (about(models=("a", "c")), "is for a, b on digits"),
    "images": (about(images="folder:x"), "is for a, b on digits"),
    "content": (about(pictures="others"), "holds for other images than those here"),
    "p": (about(dropout=Dropout(0.9)), "holds for perturbation = "),
    "sites": (about(dropout=Dropout(sites="mlp")), "holds for perturbation = "),
    "kind": (about(dropout=TiedDropout()), "holds for perturbation = "),
    "seed": (about(seed=7), "holds for seed = 42, not 7"),
    "precision": (about(precision="bfloat16"), "holds for precision = 'float32', not 'bfloat16'"),
    "weights": (about(weights="random"), "holds for a with other weights than it has now"),
}


@pytest.mark.parametrize(("here", "said"), OTHERWISE.values(), ids=OTHERWISE)
def test_later_phases_are_refused_for_anything_else(here: Any, said: str, tmp_path: Path) -> None:
    verdict().write(tmp_path)
    assert said in str(refusal(here, tmp_path))


def test_later_phases_are_refused_without_a_go_that_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no Phase 1 verdict" in str(refusal(about(), tmp_path))
    verdict("NO-GO").write(tmp_path)
    assert "ended with NO-GO" in str(refusal(about(), tmp_path))
    quick = verdict()
    replace(quick, identity={**quick.identity, "protocol": "quick"}).write(tmp_path)
    assert "holds for protocol = 'quick', not 'full'" in str(refusal(about(), tmp_path))
    replace(quick, identity={}).write(tmp_path)
    assert "does not say what it holds for" in str(refusal(about(), tmp_path))
    verdict().write(tmp_path)
    monkeypatch.setattr("mcdo.harness.decision.measuring_code", lambda *_: "another version's")
    assert "holds for other code than those here" in str(refusal(about(), tmp_path))


def test_a_damaged_verdict_is_one_line(tmp_path: Path) -> None:
    verdict().write(tmp_path)
    path = tmp_path / "verdict.json"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(8 * len(whole), 200, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        said = refusal(about(), tmp_path)
        assert said is None or "\n" not in said
        assert said or json.loads(damaged) == json.loads(whole)
    for content in (
        b"",
        b"{}",
        b"[]",
        b"null",
        whole[:-9],
        b"\xff",
        b'{"decision": "GO"}',
        whole.replace(b"NO", b"GO"),
    ):
        path.write_bytes(content)
        assert content == whole or "\n" not in str(refusal(about(), tmp_path))


def test_the_verdict_of_another_session_is_dropped_when_phase_1_begins(tmp_path: Path) -> None:
    verdict().write(tmp_path)
    dropped(tmp_path, "s")
    assert Verdict.read(tmp_path).session == "s"
    dropped(tmp_path, "another")
    assert not list(tmp_path.iterdir())
    (tmp_path / "verdict.json").write_text("damaged")
    dropped(tmp_path, "another")
    assert not list(tmp_path.iterdir())
    dropped(tmp_path, "another")


def test_the_terminal_shows_one_row_per_cell_and_ends_with_the_decision() -> None:
    found = replace(verdict(gates={"x": "passed"}), published="NO-GO")
    text = lines(tables(found), closing(found, Path("reports")))
    assert next(line.split()[:5] for line in text if line.startswith("a ")) == ["a", "trace_pre", "64", "500", "10"]
    assert text[-1] == "GO: because (the published point rule says NO-GO). Report: reports"
    assert "The harness's own gates: 1 passed, 0 failed, 0 skipped." in text
    assert all(line.isascii() for line in lines(tables(found), closing(found, Path("reports")), "ascii"))


def test_a_gate_that_was_skipped_is_named_with_its_reason(tmp_path: Path) -> None:
    found = verdict().with_gates({"t.py::alive[a]": "passed", "t.py::text[a]": "skipped"}, {"t.py::text[a]": "no text"})
    found.write(tmp_path)
    assert "skipped: text[a]: no text" in closing(Verdict.read(tmp_path), tmp_path)
