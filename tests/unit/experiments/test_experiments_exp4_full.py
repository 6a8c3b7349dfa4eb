from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of
from made_up_runs import made_up_run, noisy

import mcdo
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments.phase2.exp4_full_agreement import AgreementResult, ModelAgreement
from mcdo.experiments.phase2.exp4_full_models import MATCHED, ModelReliability
from mcdo.harness import ALL_MODELS, Images, Inputs, Passes, Request, Settings, Subject
from mcdo.perturbation import Dropout, matched_roles

MODELS = ("clip_tiny", "siglip_tiny", "siglip_tiny_softmax")
N = 200


def models(variants: int = 1) -> dict[str, MonteCarloRun]:
    """Two models that agree, the second noisier, and a third with a ranking of its own."""
    rng = np.random.default_rng(0)
    same, own = np.repeat(np.exp(0.4 * rng.normal(size=(2, N // variants))), variants, axis=1)
    rows = {MODELS[0]: (same, 63), MODELS[1]: (same, 8), MODELS[2]: (own, 63)}
    origins = [f"digit{i // variants}" for i in range(N)]
    runs = {}
    for model, (true, degrees) in rows.items():
        scores = noisy(true, 10, rng, degrees)
        runs[model] = made_up_run({"trace_pre": scores, "angular_var": scores}, encoder=model, origins=origins)
    return runs


def inputs(runs: dict[str, MonteCarloRun], name: str = ALL_MODELS) -> Inputs:
    def value(request: Request[Any]) -> MonteCarloRun:
        return runs[request.model]

    return inputs_of(value, subject=Subject(name, tuple(runs)))


def outcome(result: AgreementResult) -> str:
    (claim,) = ModelAgreement().claims()
    return claim.judge(result).outcome


@pytest.fixture(scope="module")
def mixed() -> AgreementResult:
    return ModelAgreement(n=N).compute(inputs(models()))


def test_agreement_is_corrected_for_noise_and_reliabilities_are_compared_in_pairs(mixed: AgreementResult) -> None:
    matrix = mixed.matrices["trace_pre"]
    assert matrix.disattenuated["clip_tiny", "siglip_tiny"].value == pytest.approx(1, abs=0.05)
    assert matrix.disattenuated["clip_tiny", "siglip_tiny_softmax"].high < 0.3
    gap = matrix.reliability_difference["clip_tiny", "siglip_tiny"]
    assert gap.estimate.high < 0
    assert gap.p_holm < 0.05
    assert matrix.reliability_difference["clip_tiny", "siglip_tiny_softmax"].p_holm > 0.05


def test_the_weakest_pair_decides(mixed: AgreementResult) -> None:
    runs = models()
    agreeing = ModelAgreement().compute(inputs({model: runs[model] for model in MODELS[:2]}))
    assert outcome(agreeing) == "met"
    assert MODELS[2] in (mixed.weakest("trace_pre") or ())
    assert outcome(mixed) == "undecided"
    (claim,), pair = ModelAgreement().claims(), mixed.weakest("trace_pre")
    assert pair is not None
    assert claim.estimate(mixed) == mixed.matrices["trace_pre"].disattenuated[pair], "corrected for noise"
    opposed = dict(runs)
    scores = -runs[MODELS[0]].scores("trace_pre")
    opposed[MODELS[2]] = made_up_run({"trace_pre": scores, "angular_var": scores}, encoder=MODELS[2])
    assert outcome(ModelAgreement().compute(inputs(opposed))) == "not met"


def test_a_model_of_noise_only_leaves_agreement_undecided() -> None:
    """Its correlations cannot be corrected, which is no agreement and no disagreement."""
    runs = models()
    scores = noisy(np.ones(N), 10, np.random.default_rng(1))
    runs[MODELS[2]] = made_up_run({"trace_pre": scores, "angular_var": scores}, encoder=MODELS[2])
    result = ModelAgreement().compute(inputs(runs))
    pair = result.weakest("trace_pre")
    assert pair is not None
    assert np.isnan(result.matrices["trace_pre"].disattenuated[pair].low)
    assert outcome(result) == "undecided"


def test_one_model_has_nobody_to_agree_with() -> None:
    runs = models()
    result = ModelAgreement().compute(inputs({"clip_tiny": runs["clip_tiny"]}))
    assert outcome(result) == "not applicable"
    assert ModelAgreement().overall(result, ModelAgreement().summary(result)) == {}


def test_models_perturbed_at_other_roles_are_refused() -> None:
    runs = models()
    scores = {"trace_pre": np.ones((10, N)), "angular_var": np.ones((10, N))}
    runs["clip_tiny"] = made_up_run(scores, roles=("fc1", "fc2"))
    with pytest.raises(McdoError, match=r"different perturbations cannot be compared \(clip_tiny: fc1, fc2; siglip"):
        ModelAgreement().compute(inputs(runs))


def test_variants_of_an_original_are_one_draw(mixed: AgreementResult) -> None:
    """Intervals of 50 originals in four variants are wider than those of 200 images, as √4 would have them."""
    clustered = ModelAgreement(n=N).compute(inputs(models(variants=4)))
    pair = ("clip_tiny", "siglip_tiny_softmax")
    widths = [
        r.matrices["trace_pre"].raw[pair].high - r.matrices["trace_pre"].raw[pair].low for r in (mixed, clustered)
    ]
    assert 1.5 < widths[1] / widths[0] < 2.7
    runs = {"clip_tiny": models(variants=4)["clip_tiny"]}
    found = ModelReliability(n=N).compute(inputs(runs, "clip_tiny"))
    assert found.reliability["trace_pre"].n_origins == found.norm.n == found.drift.n == 50


def test_the_norm_is_held_against_the_mean_over_trials() -> None:
    rng = np.random.default_rng(2)
    norm = np.exp(0.3 * rng.normal(size=N))
    scores = noisy(norm, 10, rng, 8)
    runs = {"clip_tiny": made_up_run({"trace_pre": scores, "angular_var": scores}, norm=norm)}
    found = ModelReliability(n=N).compute(inputs(runs, "clip_tiny"))
    assert found.norm.value == pytest.approx(scipy.stats.spearmanr(scores.mean(axis=0), norm).statistic)


def test_the_matched_roles_are_those_that_the_towers_share() -> None:
    encoders = [mcdo.load_encoder(model, device="cpu") for model in ("clip_tiny", "siglip_tiny")]
    assert matched_roles(*encoders) == MATCHED


def test_all_sites_mean_the_matched_ones_and_chosen_sites_stay() -> None:
    assert ModelReliability().matched == Dropout(0.01, MATCHED)
    assert ModelReliability(dropout=Dropout(0.02, "mlp")).matched == Dropout(0.02, "mlp")
    run = ModelReliability().run("clip_l14")
    assert run == ModelAgreement().run("clip_l14"), "both rest on one measurement"
    assert (run.shown, run.config.passes, run.config.trials, run.config.geometry) == (Images(500), (64,), 10, (64,))


def test_agreement_is_about_all_models_of_the_session_together() -> None:
    settings = Settings(models=MODELS)
    (subject,) = ModelAgreement.subjects(settings)
    asked = list(ModelAgreement().requests(inputs_of(lambda _: None, subject=subject)))
    assert [request.model for request in asked if isinstance(request, Passes)] == list(MODELS)
    assert [s.model for s in ModelReliability.subjects(settings)] == list(MODELS)


def test_trials_that_grow_drift_and_are_unreliable() -> None:
    true = np.exp(0.4 * np.random.default_rng(0).normal(size=N))
    scores = noisy(true, 10, np.random.default_rng(1)) * np.arange(1, 11)[:, None]
    runs = {"clip_tiny": made_up_run({"trace_pre": scores, "angular_var": scores})}
    found = ModelReliability(n=N).compute(inputs(runs, "clip_tiny"))
    assert found.drift.low > 0
    assert found.reliability["trace_pre"].icc < 0.6
