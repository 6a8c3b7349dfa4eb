from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run, noisy

import mcdo
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp4_full_models as exp4
from mcdo.perturbation import Dropout, matched_roles

CONFIG = exp4.Exp4FullConfig(n=200)
MODELS = ("clip_tiny", "siglip_tiny", "siglip_tiny_softmax")


def models() -> dict[str, MonteCarloRun]:
    """Two models that agree, the second noisier, and a third with a ranking of its own."""
    rng = np.random.default_rng(0)
    same, own = np.exp(0.4 * rng.normal(size=(2, 200)))
    rows = {MODELS[0]: (same, 63), MODELS[1]: (same, 8), MODELS[2]: (own, 63)}
    runs = {}
    for model, (true, degrees) in rows.items():
        scores = noisy(true, 10, rng, degrees)
        runs[model] = made_up_run({"trace_pre": scores, "angular_var": scores}, encoder=model)
    return runs


def test_agreement_is_corrected_for_noise_and_reliabilities_are_compared_in_pairs() -> None:
    matrix = exp4.across(CONFIG, models())["trace_pre"]
    assert matrix.disattenuated["clip_tiny", "siglip_tiny"].value == pytest.approx(1, abs=0.05)
    assert matrix.disattenuated["clip_tiny", "siglip_tiny_softmax"].high < 0.3
    gap = matrix.reliability_difference["clip_tiny", "siglip_tiny"]
    assert gap.estimate.high < 0
    assert gap.p_holm < 0.05
    assert matrix.reliability_difference["clip_tiny", "siglip_tiny_softmax"].p_holm > 0.05


def test_models_perturbed_at_other_roles_are_refused() -> None:
    runs = models()
    scores = {"trace_pre": np.ones((10, 200)), "angular_var": np.ones((10, 200))}
    runs["clip_tiny"] = made_up_run(scores, roles=("fc1", "fc2"))
    with pytest.raises(McdoError, match=r"different perturbations cannot be compared \(clip_tiny: fc1, fc2; siglip"):
        exp4.across(CONFIG, runs)


def test_models_perturbed_with_another_p_or_shown_other_images_are_refused() -> None:
    scores = {"trace_pre": np.ones((10, 200)), "angular_var": np.ones((10, 200))}
    with pytest.raises(McdoError, match=r"clip_tiny was perturbed with p = 0.02, siglip_tiny"):
        exp4.across(CONFIG, {**dict(list(models().items())[1:]), "clip_tiny": made_up_run(scores, kind=Dropout(0.02))})
    other = made_up_run(scores, ids=[f"other{i}" for i in range(200)])
    with pytest.raises(McdoError, match="clip_tiny saw other images than siglip_tiny"):
        exp4.across(CONFIG, {**dict(list(models().items())[1:]), "clip_tiny": other})


def test_the_matched_roles_are_those_that_the_towers_share() -> None:
    encoders = [mcdo.load_encoder(model, device="cpu") for model in ("clip_tiny", "siglip_tiny")]
    assert matched_roles(*encoders) == exp4.MATCHED


def test_all_sites_mean_the_matched_ones_and_chosen_sites_stay() -> None:
    assert exp4.Exp4FullConfig().matched == Dropout(0.01, exp4.MATCHED)
    assert exp4.Exp4FullConfig(dropout=Dropout(0.02, "mlp")).matched == Dropout(0.02, "mlp")
    need = exp4.needs(exp4.Exp4FullConfig(), "clip_l14")
    assert (need.n, need.config.passes, need.config.trials, need.config.geometry) == (500, (64,), 10, (64,))


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    runs = models()
    results = {model: exp4.compute(CONFIG, run) for model, run in runs.items()}
    for model, run in runs.items():
        exp4.write(CONFIG, run, results[model], tmp_path, "session")
    overall = exp4.write_across(CONFIG, results, exp4.across(CONFIG, runs), tmp_path, "session")
    held = json.loads(overall.read_text())
    assert set(held["results"]) == set(MODELS)
    assert held["results"]["clip_tiny"]["trace_pre"]["n_trials"] == 10
    assert "clip_tiny~siglip_tiny" in held["cross_model"]["trace_pre"]["spearman_disattenuated"]
    with np.load(tmp_path / exp4.FOLDER / "clip_tiny" / "exp4_full_trials.npz", allow_pickle=False) as arrays:
        assert arrays["trial_angular_var"].shape == (10, 200)
    assert (tmp_path / exp4.FOLDER / f"{exp4.FOLDER}.png").stat().st_size > 10_000
