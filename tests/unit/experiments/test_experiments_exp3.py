from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import Array, made_up_run, noisy

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp3_dropout_types as exp3
from mcdo.experiments.phase1.exp5_subset_ambiguity import RHO_ENTROPY_BAR
from mcdo.perturbation import AttentionDropout, Dropout, HiddenDropout, StochasticDepth

N = 120
CONFIG = exp3.Exp3Config(n=N)


def types(model: str = "clip_tiny") -> tuple[dict[str, MonteCarloRun], Array]:
    """Scores of each type that follow the entropy of ``logits``; type C has a drift, type D is noise."""
    rng = np.random.default_rng(0)
    logits = np.stack([rng.normal(size=(N, 3)) * 3] * 2)
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    entropy = -(p * np.log(p)).sum(axis=1)
    runs = {}
    for kind, perturbation in CONFIG.kinds(model).items():
        scores = noisy(np.ones(N) if kind == "D" else 0.5 + entropy, 5, rng)
        if kind == "C":
            scores *= np.arange(1, 6)[:, None]
        runs[kind] = made_up_run(
            {"trace_pre": scores, "trace_post": scores}, encoder=model, kind=perturbation, norm=1 + rng.random(N)
        )
    return runs, logits


Measured = tuple[dict[str, MonteCarloRun], exp3.Exp3Result]


@pytest.fixture(scope="module")
def clip() -> Measured:
    runs, logits = types()
    return runs, exp3.compute(CONFIG, runs, logits, None)


def test_reliable_valid_and_drifting_types_are_told_apart(clip: Measured) -> None:
    found = clip[1]
    key = "rho_uncertainty_vs_entropy"
    assert found.validity["trace_pre"]["E"][key].verdict(RHO_ENTROPY_BAR, ">") == "met"
    assert found.validity["trace_pre"]["D"][key].verdict(RHO_ENTROPY_BAR, ">") == "not met"
    assert found.reliability["trace_pre"]["D"].status == "failed"
    assert found.reliability["trace_pre"]["C"].icc < 0.3, "trials that drift are not exchangeable"
    drifting = [kind for kind, drift in found.drift.items() if not drift.low <= 0 <= drift.high]
    assert drifting == ["C"]
    assert found.matrices["trace_pre"].pair("disattenuated", "A", "B").value == pytest.approx(1, abs=0.05)


def test_types_are_those_of_the_plan() -> None:
    kinds = exp3.Exp3Config(dropout=Dropout(0.02, "mlp")).kinds("clip_tiny")
    assert list(kinds) == list(exp3.TYPES)
    assert kinds["A"] == AttentionDropout(0.02)
    assert kinds["B"] == HiddenDropout(0.02)
    assert kinds["C"] == StochasticDepth(0.02)
    assert kinds["D"] == Dropout(0.02, "projection"), "the published D was the MLP of block 9"
    assert {kind: kinds[kind].sites for kind in "EGSW"} == dict.fromkeys("EGSW", "mlp")


def test_a_tower_without_a_final_projection_has_no_type_d_and_says_so(clip: Measured) -> None:
    kinds = exp3.Exp3Config().kinds("siglip_tiny")
    assert [kind for kind in exp3.TYPES if kind not in kinds] == ["D"]
    assert len(exp3.needs(exp3.Exp3Config(), "siglip_tiny")) == 7
    without = replace(clip[1], means={kind: mean for kind, mean in clip[1].means.items() if kind != "D"})
    assert exp3.summary(without)["left_out"] == ["D"]


def test_a_dead_type_is_no_low_score(clip: Measured) -> None:
    """Published type A had a trace of 9e-17, which was then ranked."""
    exp3.check_disturbed("E", clip[0]["E"], 64)
    rounding = made_up_run({"trace_pre": np.full((5, N), 9e-17)})
    with pytest.raises(McdoError, match=r"type A \(attention probabilities\) does nothing to image0000"):
        exp3.check_disturbed("A", rounding, 64)


def test_files_hold_what_was_found(tmp_path: Path, clip: Measured) -> None:
    exp3.write(CONFIG, *clip, tmp_path, "session")
    folder = tmp_path / exp3.FOLDER / "clip_tiny"
    summary = json.loads((folder / "exp3_summary.json").read_text())
    assert set(summary["results_by_type"]) == set(exp3.TYPES)
    assert summary["perturbations"]["G"]["kind"] == "Gaussian"
    assert "A~B" in summary["cross_type"]["trace_pre"]["spearman_disattenuated"]
    with np.load(folder / "exp3_type_W_trials.npz", allow_pickle=False) as arrays:
        assert arrays["trace_pre"].shape == (5, N)
    assert (folder / f"{exp3.FOLDER}.png").stat().st_size > 10_000
