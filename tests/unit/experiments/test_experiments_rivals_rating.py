from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mcdo.experiments.rivals.rating import Scored, Truth, ahead_of_trivial, beside, rated
from mcdo.stats import holm, reliability
from mcdo.stats.sample import Sample
from mcdo.stats.selective import risk_areas


def truth(n: int = 200, foreign: int = 60, seed: int = 0) -> tuple[Truth, np.ndarray]:
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=n)
    error = rng.uniform(size=n) < 1 / (1 + np.exp(1 - 2 * hard))
    named = np.array([f"image {i}" for i in range(n)])
    return Truth(named, error, hard, rng.normal(size=n), error[::-1].copy(), np.arange(foreign)), hard


def test_a_row_has_what_its_images_allow() -> None:
    from sklearn.metrics import roc_auc_score

    of, hard = truth()
    assert of.error is not None
    rng = np.random.default_rng(1)
    values = hard + rng.normal(size=(3, 200))
    foreign = rng.normal(2, 1, 60)
    row = rated(Scored(values, 3.0, foreign, {"blur": values[0] + 1}), of, resamples=100)
    assert row["auroc_error"].value == pytest.approx(roc_auc_score(of.error, values[0]))
    kinds = np.repeat([0, 1], [200, 60])
    assert row["auroc_foreign"].value == pytest.approx(roc_auc_score(kinds, np.concatenate([values[0], foreign])))
    assert row["raised/blur"].value == 1
    assert row["reliability"] == reliability(values, origins=of.origins).estimate("spearman")
    few = rated(Scored(values, 3.0, shared_noise=True), of)
    known = reliability(values, origins=of.origins, shared_noise=True).estimate("spearman")
    assert few == {"reliability": known}, "noise known to be shared is not asked for in three trials"
    assert known.low < row["reliability"].low
    bare = rated(Scored(values[:1], 1.0), Truth(of.origins))
    assert bare == {}, "nothing is known of these images, and a single trial has no reliability"


def test_a_score_that_knows_is_ahead_and_one_that_does_not_is_not() -> None:
    of, hard = truth(600)
    rng = np.random.default_rng(2)
    trivial = {name: Scored(rng.normal(size=(1, 600)), 0.0) for name in ("a", "b", "c")}
    scores = {"knows": Scored(hard[None], 1.0), "noise": Scored(rng.normal(size=(1, 600)), 1.0)}
    found = ahead_of_trivial(scores, trivial, of, resamples=100)
    assert set(found) == {("knows", "error"), ("noise", "error")}, "no score was taken of foreign images"
    assert found["knows", "error"].difference.p_holm < 0.001
    assert of.error is not None
    wrong, error = {}, of.error
    for name, each in trivial.items():
        above = (each.values[0][error][:, None] > each.values[0][~error]).mean()
        wrong[name] = max(above, 1 - above)
    assert {each.baseline for each in found.values()} == {max(wrong, key=lambda name: wrong[name])}, "the best of them"
    assert found["noise", "error"].difference.estimate.value < 0.05
    tests = [each.difference for each in found.values()]
    assert [each.p_holm for each in tests] == pytest.approx(holm([each.p_value for each in tests]))


def test_noise_that_images_share_is_in_every_interval_or_there_is_none() -> None:
    of, hard = truth(300)
    rng = np.random.default_rng(4)
    weights, foreign = rng.normal(size=(2, 360))[:, :300], rng.normal(2, 1, 60)
    common = rng.normal(size=(5, 2))
    values = hard + 0.3 * rng.normal(size=(5, 300)) + common @ weights
    elsewhere = np.repeat(foreign[None], 5, axis=0) + rng.normal(size=(5, 60))
    shared = rated(Scored(values, 16.0, elsewhere, {"blur": values[0]}, shared_noise=True), of, resamples=200)
    for name in ("rho_entropy", "rho_entropy_given_norm", "auroc_error", "excess_aurc", "augrc", "auroc_foreign"):
        mean = rated(Scored(values.mean(axis=0)[None], 16.0, elsewhere.mean(axis=0)), of, resamples=200)[name]
        assert shared[name].value == pytest.approx(mean.value)
        assert shared[name].high - shared[name].low > mean.high - mean.low
    assert not {"fpr95_foreign", "raised/blur"} & set(shared)
    few = Scored(values[:4], 16.0, elsewhere[:4], shared_noise=True)
    assert set(rated(few, of, resamples=100)) == {"reliability"}
    assert ahead_of_trivial({"few": few}, {"norm": Scored(weights[:1], 0.0)}, of, resamples=100) == {}


def test_what_beats_a_score_is_paired_and_corrected() -> None:
    from sklearn.metrics import roc_auc_score

    of, hard = truth(400)
    assert of.error is not None
    rng = np.random.default_rng(5)
    weak, strong = hard + 3 * rng.normal(size=400), hard + 0.3 * rng.normal(size=400)
    elsewhere = rng.normal(1, 1, (2, 60))
    scores = {
        "weak": Scored(weak[None], 64.0, elsewhere[0]),
        "strong": Scored(strong[None], 1.0, elsewhere[1]),
        "here": Scored(hard[None], 1.0),
    }
    found = beside("weak", scores, of)
    assert set(found) == {("strong", "error"), ("here", "error"), ("strong", "foreign")}
    gap = roc_auc_score(of.error, strong) - roc_auc_score(of.error, weak)
    assert found["strong", "error"].estimate.value == pytest.approx(gap)
    p_holm = holm([each.p_value for each in found.values()])
    assert [each.p_holm for each in found.values()] == pytest.approx(p_holm), "over both tasks"
    assert beside("absent", scores, of) == {}


def test_noise_is_rarely_ahead_of_noise() -> None:
    """The best of three is chosen on the same images, so a false advantage is rarer than the level."""
    wrong = 0
    for seed in range(40):
        of, _ = truth(150, seed=seed)
        rng = np.random.default_rng(1000 + seed)
        trivial = {name: Scored(rng.normal(size=(1, 150)), 0.0) for name in ("a", "b", "c")}
        scores = {f"noise {i}": Scored(rng.normal(size=(1, 150)), 1.0) for i in range(4)}
        found = ahead_of_trivial(scores, trivial, of, resamples=50)
        wrong += any(each.difference.p_holm < 0.05 and each.difference.estimate.value > 0 for each in found.values())
    assert wrong <= 40 * 0.05 + 3 * (40 * 0.05 * 0.95) ** 0.5


def test_p_of_a_score_behind_counts_the_trivial_ones_of_which_the_best_was_chosen() -> None:
    """Of a score that is as good as ten trivial ones every eighth was told to be behind them."""
    of, hard = truth(600)
    noises = np.random.default_rng(3).normal(size=(4, 600))
    cheap = {f"cheap {i}": Scored((hard + noise)[None], 0.0) for i, noise in enumerate(noises[:3])}
    scores = {"same": Scored((hard + 1.5 * noises[3])[None], 1.0)}
    found = ahead_of_trivial(scores, cheap, of)["same", "error"]
    alone = [ahead_of_trivial(scores, {name: each}, of)["same", "error"].difference for name, each in cheap.items()]
    least = min(alone, key=lambda each: each.estimate.value)
    assert found.difference.estimate == least.estimate
    assert least.estimate.value < 0
    assert found.difference.p_value == pytest.approx(min(1, 3 * least.p_value))


def test_the_areas_of_risk_are_resampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are two measures of one pass through the resamples, which a table of a million rows waits for."""
    rng, passes = np.random.default_rng(0), []
    score, both = rng.normal(size=120), Sample.both
    error = score + rng.normal(size=120) > 0.5

    def counted(sample: Sample, *rest: Any) -> Any:
        passes.append(rest)
        return both(sample, *rest)

    monkeypatch.setattr(Sample, "both", counted)
    origins = np.arange(120)
    found = rated(Scored(score[None], math.nan), Truth(origins, error=error), resamples=50)
    assert len(passes) == 1
    areas = risk_areas(score, error, origins=origins, resamples=50)
    assert {name: found[name] for name in ("excess_aurc", "augrc")} == {
        name: areas[name] for name in ("excess_aurc", "augrc")
    }
