"""Exp7: spreads by hand, combinations that are monotone, and relations against SciPy."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run
from PIL import Image

from mcdo.experiments.phase3.exp7_aleatoric import (
    AleatoricEpistemic,
    AleatoricResult,
    aleatoric,
    combined,
    rank_score,
    z_score,
)
from mcdo.harness import Features, Inputs, Logits, Passes, Request
from mcdo.images.degradations import Degradation
from mcdo.stats import disattenuated_spearman

N, D, K = 60, 4, 3
EXPERIMENT = AleatoricEpistemic(n=N, families=("jpeg", "noise"))


def test_aleatoric_is_the_mean_sample_variance_over_clean_and_degraded() -> None:
    rng = np.random.default_rng(0)
    clean, degraded = rng.normal(size=(5, 3)), rng.normal(size=(4, 5, 3))
    expected = [np.var([clean[i], *degraded[:, i]], axis=0, ddof=1).mean() for i in range(5)]
    assert aleatoric(clean, degraded) == pytest.approx(expected)
    assert aleatoric(np.array([[1.0, 2]]), np.array([[[3.0, 2]]])) == pytest.approx([1.0])  # var (1, 3) is 2


def test_equal_variants_have_exactly_no_spread() -> None:
    clean = np.full((2, 3), 0.1, dtype=np.float32)
    assert (aleatoric(clean, np.stack([clean] * 4)) == 0).all()


def test_a_repeated_clean_copy_would_change_the_spread() -> None:
    """Why the clean image stands once: the published set held it three times."""
    rng = np.random.default_rng(1)
    clean, degraded = rng.normal(size=(6, 3)), rng.normal(size=(4, 6, 3)) + 3
    thrice = np.concatenate([degraded, clean[None], clean[None]])
    assert (np.abs(aleatoric(clean, thrice) / aleatoric(clean, degraded) - 1) > 0.05).all()
    for side in (32, 375):
        for levels in AleatoricEpistemic().variants(side).values():
            parsed = [Degradation.parse(level) for level in levels]  # severity 0, the clean image, is refused here
            assert len(set(parsed)) == len(levels) >= 3


@settings(deadline=None, derandomize=True)
@given(arrays(np.float64, (2, 12), elements=st.floats(-10, 10), unique=True), st.integers(0, 11), st.floats(0.1, 30))
def test_both_together_grow_with_either_part(parts: np.ndarray, image: int, more: float) -> None:
    """The published product of z-scores fell where one of two low scores rose."""
    before = combined(parts[0], {"jpeg": parts[1]})
    for part in range(2):
        raised = parts.copy()
        raised[part, image] += more
        after = combined(raised[0], {"jpeg": raised[1]})
        for name in ("combined_z", "combined_rank"):
            assert after[name][image] >= before[name][image] - 1e-9


def test_z_scores_have_mean_zero_and_sd_one_and_a_constant_gives_zeros() -> None:
    z = z_score(np.array([1.0, 2.0, 6.0]))
    assert (z.mean(), z.std(ddof=1)) == pytest.approx((0, 1))
    assert (z_score(np.full(4, 3.0)) == 0).all()
    assert rank_score(np.array([5.0, 5.0, 1.0])) == pytest.approx([2.5 / 3, 2.5 / 3, 1 / 3])


def test_families_and_the_epistemic_score_are_added_on_one_scale() -> None:
    epistemic, jpeg, blur = np.random.default_rng(0).lognormal(size=(3, 20))
    held = combined(epistemic, {"jpeg": jpeg, "blur": blur})
    added = held["combined_z"] - z_score(epistemic)
    assert (added.mean(), added.std(ddof=1)) == pytest.approx((0, 1))
    by_hand = (scipy.stats.rankdata(jpeg) + scipy.stats.rankdata(blur)) / 2 / 20
    assert held["aleatoric_rank"] == pytest.approx(by_hand)
    both = (scipy.stats.rankdata(epistemic) + scipy.stats.rankdata(by_hand)) / 20
    assert held["combined_rank"] == pytest.approx(both)


def inputs(copies: int = 1, labels: bool = True) -> Inputs:
    """Epistemic and jpeg scores follow one another; ``copies`` images of each original."""
    rng, n = np.random.default_rng(3), N // copies
    true = np.exp(rng.normal(size=n))
    trials = np.repeat(true * np.exp(0.4 * rng.normal(size=(K, n))), copies, axis=1)
    moved = {"jpeg": true, "noise": np.exp(rng.normal(size=n))}
    logits = np.repeat(rng.normal(size=(2, n, 5)) * 3, copies, axis=1)
    origins = tuple(f"photo{i:03d}" for i in range(n) for _ in range(copies))
    norm = np.repeat(rng.uniform(1, 2, n), copies)
    run = made_up_run({"trace_pre": trials, "trace_post": trials**2}, norm=norm, origins=origins)

    def value(request: Request[Any]) -> Any:
        if isinstance(request, Passes):
            return run
        if isinstance(request, Logits):
            return {"logits": logits}
        assert isinstance(request, Features)
        degradation = Degradation.parse(str(request.shown.degradation))
        step = np.repeat(moved[degradation.family], copies) * degradation.severity((32, 32))
        features = run.features.copy()
        features[:, 1] += step
        return {"features": features}

    truth = np.repeat(rng.integers(0, 5, n), copies)
    images = SimpleNamespace(
        labels=truth if labels else None, origins=origins, image=lambda i: Image.new("RGB", (32, 32))
    )
    return inputs_of(value, image_set=images)


@pytest.fixture(scope="module")
def result() -> AleatoricResult:
    return EXPERIMENT.compute(inputs())


def test_relations_are_spearman_and_disattenuated_where_reliability_is_known(result: AleatoricResult) -> None:
    run = inputs()[EXPERIMENT.run("clip_tiny")]
    for name, relation in result.relations.items():
        rho = scipy.stats.spearmanr(result.scores["epistemic"], result.scores[name]).statistic
        assert relation.rho.value == pytest.approx(rho)
        of_norm = [
            scipy.stats.spearmanr(run.feature_norm, result.scores[each]).statistic for each in ("epistemic", name)
        ]
        partial = (rho - of_norm[0] * of_norm[1]) / np.sqrt((1 - of_norm[0] ** 2) * (1 - of_norm[1] ** 2))
        assert relation.given_norm.value == pytest.approx(partial)
        assert (relation.disattenuated is not None) == (name == "aleatoric_jpeg")
    jpeg = result.relations["aleatoric_jpeg"]
    expected = disattenuated_spearman(run.scores("trace_pre"), result.scores["aleatoric_jpeg"], seed=42)
    assert jpeg.disattenuated == expected
    assert jpeg.rho.value < expected.value, "the noise of the trials is taken off"
    assert expected.low < expected.value < expected.high
    held = json.loads(json.dumps(jpeg.as_dict()))
    assert held["disattenuated"] == held["disattenuated_estimate"]["value"] == expected.value
    assert result.relations["aleatoric_noise"].as_dict()["disattenuated"] is None


def test_the_epistemic_score_is_the_mean_over_trials(result: AleatoricResult) -> None:
    run = inputs()[EXPERIMENT.run("clip_tiny")]
    assert result.scores["epistemic"] == pytest.approx(run.scores("trace_pre").mean(axis=0))
    assert result.scores["epistemic_post"] == pytest.approx(run.scores("trace_post").mean(axis=0))


def test_differences_find_errors_and_are_corrected_over_all_targets(result: AleatoricResult) -> None:
    from sklearn.metrics import roc_auc_score

    errors = ~result.targets.correct  # type: ignore[operator]
    both, alone = (roc_auc_score(errors, result.scores[name]) for name in ("combined_rank", "epistemic"))
    assert result.differences["error"]["combined_rank"].estimate.value == pytest.approx(both - alone)
    every = [each for family in result.differences.values() for each in family.values()]
    smallest = min(every, key=lambda each: each.p_value)
    assert smallest.p_holm == pytest.approx(min(1.0, len(every) * smallest.p_value))


def test_entropy_is_not_compared_with_itself(result: AleatoricResult) -> None:
    differences = result.differences
    assert "zero_shot_entropy" not in differences["entropy"]
    assert {"combined_rank", "combined_z", "inverse_norm", "aleatoric_noise"} <= set(differences["entropy"])
    assert "epistemic" not in differences["entropy"]


def test_views_of_one_original_are_one_draw(result: AleatoricResult) -> None:
    four = EXPERIMENT.compute(inputs(copies=4))
    n = {estimate.n for figures in four.figures.values() for estimate in figures.values()}
    n |= {relation.rho.n for relation in four.relations.values()}
    n |= {relation.given_norm.n for relation in four.relations.values()}
    n |= {difference.estimate.n for family in four.differences.values() for difference in family.values()}
    assert n == {N // 4} == {four.epistemic_reliability.n_origins}


def test_claims_are_judged_by_their_intervals(result: AleatoricResult) -> None:
    outcomes = outcomes_of(EXPERIMENT, result)
    assert EXPERIMENT.claims()[0].estimate(result) == result.relations["aleatoric_rank"].rho
    assert outcomes["distinct"] in ("undecided", "not met"), "the mean rank holds what both share"
    unlabelled = EXPERIMENT.compute(inputs(labels=False))
    outcomes = outcomes_of(EXPERIMENT, unlabelled)
    assert outcomes["combined_better/error"] == "not applicable"


def test_every_level_of_every_family_is_requested_once() -> None:
    asked = list(AleatoricEpistemic().requests(inputs()))
    levels = [request.shown.degradation for request in asked if isinstance(request, Features)]
    assert len(levels) == len(set(levels)) == sum(map(len, AleatoricEpistemic().variants(32).values()))
