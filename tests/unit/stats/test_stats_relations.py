from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.schema import plain
from mcdo.stats import bootstrap, partial_spearman, spearman
from mcdo.stats.relations import advantages, rank_relations


def sample(n: int = 200, seed: int = 0) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    return {
        "score": hidden + rng.normal(size=n),
        "target": hidden + rng.normal(size=n),
        "norm": 0.5 * hidden + rng.normal(size=n),
        "noise": rng.normal(size=n),
        "wrong": (hidden + rng.normal(size=n) > 0.5).astype(float),
    }


def test_every_pair_agrees_with_scipy_and_with_the_single_statistics() -> None:
    x = sample()
    found = rank_relations(
        {"score": x["score"], "noise": x["noise"]}, {"target": x["target"], "wrong": x["wrong"]}, given=x["norm"]
    )
    assert set(found) == {(a, b) for a in ("score", "noise") for b in ("target", "wrong")}
    for (a, b), relation in found.items():
        assert relation.rho.value == pytest.approx(scipy.stats.spearmanr(x[a], x[b]).statistic)
        assert relation.given.value == pytest.approx(partial_spearman(x[a], x[b], x["norm"], resamples=10).value)


def test_intervals_and_p_agree_with_an_independent_bootstrap() -> None:
    x = sample()
    found = rank_relations({"score": x["score"]}, {"target": x["target"]}, resamples=2000)["score", "target"]
    other = bootstrap(
        lambda a, b: scipy.stats.spearmanr(a, b).statistic, x["score"], x["target"], seed=9, resamples=1000
    )
    assert found.rho.low == pytest.approx(other.low, abs=0.02)
    assert found.rho.high == pytest.approx(other.high, abs=0.02)
    error = (other.high - other.low) / (2 * scipy.stats.norm.ppf(0.975))
    assert math.log10(found.p_value) == pytest.approx(
        math.log10(2 * scipy.stats.t.sf(found.rho.value / error, 199)), rel=0.1
    )


def test_holm_runs_over_all_pairs_and_their_partial_versions() -> None:
    x = sample()
    found = rank_relations(
        {"score": x["score"], "noise": x["noise"]}, {"target": x["target"]}, given=x["norm"], resamples=400
    )
    smallest = min(found.values(), key=lambda relation: relation.p_value)
    assert smallest.p_holm in (pytest.approx(4 * smallest.p_value), pytest.approx(3 * smallest.p_value))
    assert all(relation.p_holm >= relation.p_value for relation in found.values())


def test_without_a_covariate_the_partial_figure_is_undefined_and_no_test() -> None:
    x = sample()
    relation = rank_relations({"score": x["score"]}, {"target": x["target"]})["score", "target"]
    assert math.isnan(relation.given.value)
    assert math.isnan(relation.given_p_holm)
    assert relation.p_holm == relation.p_value
    assert plain(relation)["given"] == {"value": None, "low": None, "high": None, "n": 200, "level": 0.95}


def test_a_constant_quantity_or_one_that_is_the_covariate_is_undefined_and_no_test() -> None:
    x = sample()
    found = rank_relations(
        {"score": x["score"]},
        {"target": x["target"], "constant": np.ones(200), "norm": x["norm"]},
        given=x["norm"],
        resamples=100,
    )
    assert math.isnan(found["score", "constant"].rho.value)
    assert math.isnan(found["score", "norm"].given.value)
    assert found["score", "norm"].rho.value == pytest.approx(scipy.stats.spearmanr(x["score"], x["norm"]).statistic)


# ---- advantages


def test_an_advantage_is_the_directed_difference_of_single_figures() -> None:
    from sklearn.metrics import roc_auc_score

    x = sample()
    found = advantages(
        {"score": x["score"]},
        {"norm": x["norm"], "-norm": -x["norm"]},
        follows={"target": x["target"]},
        detects={"wrong": x["wrong"]},
        resamples=300,
    )
    rho = spearman(x["score"], x["target"], resamples=10).value - abs(scipy.stats.spearmanr(x["norm"], x["target"])[0])
    area, base = roc_auc_score(x["wrong"], x["score"]), roc_auc_score(x["wrong"], x["norm"])
    for baseline in ("norm", "-norm"):
        assert found["score", baseline, "target"].estimate.value == pytest.approx(rho)
        assert found["score", baseline, "wrong"].estimate.value == pytest.approx(area - max(base, 1 - base))


def test_a_score_that_points_the_wrong_way_has_no_advantage() -> None:
    x = sample()
    found = advantages(
        {"score": -x["score"]}, {"noise": x["noise"]}, follows={"target": x["target"]}, detects={"wrong": x["wrong"]}
    )
    assert all(d.estimate.high < 0 for d in found.values())


def test_a_score_against_itself_is_zero_with_p_one() -> None:
    x = sample()
    found = advantages(
        {"score": x["score"]}, {"same": x["score"]}, follows={"target": x["target"]}, detects={"wrong": x["wrong"]}
    )
    for difference in found.values():
        estimate = difference.estimate
        assert (estimate.value, estimate.low, estimate.high, difference.p_holm) == pytest.approx((0, 0, 0, 1))


def test_the_difference_is_paired() -> None:
    """Two scores that share their noise differ by far less than their own intervals say."""
    x = sample(400)
    near = x["score"] + 0.01 * x["noise"]
    found = advantages({"a": near}, {"b": x["score"]}, follows={"t": x["target"]}, detects={"w": x["wrong"]})
    own = spearman(x["score"], x["target"])
    width = found["a", "b", "t"].estimate
    assert width.high - width.low < 0.1 * (own.high - own.low)


def test_a_baseline_is_not_set_against_itself_as_a_target() -> None:
    x = sample()
    found = advantages(
        {"score": x["score"]}, {"target": x["target"]}, follows={"target": x["target"]}, detects={"wrong": x["wrong"]}
    )
    assert set(found) == {("score", "target", "wrong")}


def test_what_cannot_be_related_is_refused() -> None:
    x = sample()
    with pytest.raises(McdoError, match="at least one"):
        rank_relations({}, {"t": x["target"]})
    with pytest.raises(McdoError, match="unequal"):
        rank_relations({"s": x["score"][:-1]}, {"t": x["target"]})
    with pytest.raises(McdoError, match="0 or 1"):
        advantages({"s": x["score"]}, {"b": x["norm"]}, follows={}, detects={"t": x["target"]})


def test_p_of_few_independent_images_is_small_as_seldom_as_it_says() -> None:
    """The normal of the bootstrap's spread is not theirs: with ten images p < .05 came up in .12 of 400 data sets."""
    rng, small, runs = np.random.default_rng(0), 0, 300
    for seed in range(runs):
        x, y = rng.normal(size=(2, 10))
        small += rank_relations({"x": x}, {"y": y}, resamples=200, seed=seed)["x", "y"].p_value < 0.05
    assert small / runs < 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / runs)
