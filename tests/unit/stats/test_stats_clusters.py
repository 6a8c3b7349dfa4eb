from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score

from mcdo.errors import McdoError
from mcdo.stats import AmbiguityTargets, ambiguity_estimates, ambiguity_targets, spearman_differences
from mcdo.stats.clusters import clustered_ambiguity, clustered_spearman_differences
from mcdo.stats.resampling import Ranking

Array = NDArray[np.float64]


def sample(rng: np.random.Generator, N: int) -> tuple[Array, AmbiguityTargets, Array]:
    logits = rng.normal(size=(3, N, 4))
    targets = ambiguity_targets(logits, rng.integers(0, 4, N))
    return targets.entropy + rng.normal(size=N), targets, rng.uniform(1, 2, N)


def test_values_are_those_of_independent_images() -> None:
    """Clusters change how sure one is, not what was found."""
    score, targets, norm = sample(np.random.default_rng(0), 60)
    names = [str(i // 4) for i in range(60)]
    mine = clustered_ambiguity(score, targets, names, norm, resamples=5)
    its = ambiguity_estimates(score, targets, norm, resamples=5)
    assert list(mine) == list(its)
    for key, estimate in its.items():
        assert mine[key].value == pytest.approx(estimate.value, abs=1e-12), key
        assert mine[key].n == 15


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), min_size=3, max_size=15))
def test_centred_ranks_are_those_of_the_repeated_sample(cells: list[tuple[int, int]]) -> None:
    counts, values = (np.array(column, dtype=float) for column in zip(*cells, strict=True))
    ranks = stats.rankdata(np.repeat(values, counts.astype(int)))
    if len(ranks):
        found = np.repeat(Ranking(values).centred(counts[None])[0], counts.astype(int))
        np.testing.assert_allclose(found, ranks - ranks.mean())


def test_resampled_figures_are_those_of_repeated_clusters() -> None:
    """Two clusters: a resample holds both, the first twice or the second twice, so every draw can be listed."""
    score, targets, _ = sample(np.random.default_rng(1), 30)
    names = ["a"] * 12 + ["b"] * 18
    wrong = ~np.asarray(targets.correct)

    def over(index: NDArray[np.intp]) -> tuple[float, float]:
        rho = float(stats.spearmanr(score[index], targets.entropy[index]).statistic)
        return rho, float(roc_auc_score(wrong[index], score[index]))

    a, b = np.arange(12), np.arange(12, 30)
    listed = [over(np.concatenate(parts)) for parts in ((a, a), (a, b), (b, b))]
    found = clustered_ambiguity(score, targets, names, resamples=200)
    for key, place in (("rho_uncertainty_vs_entropy", 0), ("auroc_error", 1)):
        values = [one[place] for one in listed]
        assert found[key].low == pytest.approx(min(values), abs=1e-9)
        assert found[key].high == pytest.approx(max(values), abs=1e-9)


def test_copies_of_an_image_count_once() -> None:
    """Eight copies of each of 60 images: the interval must be that of 60, not of 480."""
    score, targets, norm = sample(np.random.default_rng(2), 60)
    index = np.repeat(np.arange(60), 8)
    many = AmbiguityTargets(
        targets.neg_margin[index], targets.entropy[index], None, np.asarray(targets.correct)[index],
        targets.predicted[index],
    )  # fmt: skip
    key = "rho_uncertainty_vs_entropy"
    one = ambiguity_estimates(score, targets, norm)[key]
    naive = ambiguity_estimates(score[index], many, norm[index])[key]
    clustered = clustered_ambiguity(score[index], many, [str(i) for i in index], norm[index])[key]
    width = one.high - one.low
    assert clustered.high - clustered.low == pytest.approx(width, rel=0.15)
    assert naive.high - naive.low < 0.5 * width
    assert clustered.n == 60


def test_images_that_are_their_own_clusters_have_the_ordinary_interval() -> None:
    score, targets, norm = sample(np.random.default_rng(3), 200)
    mine = clustered_ambiguity(score, targets, [str(i) for i in range(200)], norm, resamples=2000)
    its = ambiguity_estimates(score, targets, norm, resamples=2000)
    for key, estimate in its.items():
        assert mine[key].low == pytest.approx(estimate.low, abs=0.03), key
        assert mine[key].high == pytest.approx(estimate.high, abs=0.03), key


def test_a_missing_target_is_undefined_and_one_cluster_is_refused() -> None:
    score, targets, _ = sample(np.random.default_rng(4), 20)
    bare = AmbiguityTargets(targets.neg_margin, targets.entropy, None, None, targets.predicted)
    found = clustered_ambiguity(score, bare, [str(i % 5) for i in range(20)], resamples=5)
    assert np.isnan(found["auroc_error"].value)
    assert np.isnan(found["rho_uncertainty_vs_prompt_sensitivity"].value)
    with pytest.raises(McdoError, match="one cluster"):
        clustered_ambiguity(score, bare, ["a"] * 20)
    with pytest.raises(McdoError, match="19 cluster names for 20 images"):
        clustered_ambiguity(score, bare, ["a"] * 19)


def test_differences_of_independent_images_are_those_of_the_ordinary_bootstrap() -> None:
    rng = np.random.default_rng(5)
    target, noise = rng.normal(size=300), rng.normal(size=(3, 300))
    scores = {"norm": target + 2 * noise[0], "good": target + noise[1], "bad": noise[2]}
    mine = clustered_spearman_differences(scores, "norm", target, [str(i) for i in range(300)], resamples=2000)
    its = spearman_differences(scores, "norm", target, resamples=2000)
    for name, difference in its.items():
        assert mine[name].estimate.value == pytest.approx(difference.estimate.value, abs=1e-12)
        assert mine[name].estimate.low == pytest.approx(difference.estimate.low, abs=0.03)
        assert mine[name].estimate.high == pytest.approx(difference.estimate.high, abs=0.03)
    assert mine["good"].p_holm < 0.01
    copies = np.repeat(np.arange(300), 6)
    many = {name: values[copies] for name, values in scores.items()}
    same = clustered_spearman_differences(many, "norm", target[copies], [str(i) for i in copies], resamples=2000)
    width, wide = (d["good"].estimate.high - d["good"].estimate.low for d in (mine, same))
    assert wide == pytest.approx(width, rel=0.15), "six copies of each image say no more than one"


def test_an_unknown_reference_is_refused() -> None:
    with pytest.raises(McdoError, match="no score 'nrom' to compare with; nearest: norm"):
        clustered_spearman_differences({"norm": [1.0, 2, 3], "a": [3.0, 1, 2]}, "nrom", [1.0, 2, 3], list("abc"))
