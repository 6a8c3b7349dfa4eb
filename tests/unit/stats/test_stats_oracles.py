"""Statistics against pingouin, statsmodels, pytorch-ood, torchmetrics, netcal, scikit-learn: code of others."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mcdo.stats import auroc, expected_calibration_error, partial_spearman, reliability, share, spearman
from mcdo.stats.mean_differences import t_mean
from mcdo.stats.resampling import holm, proportion
from mcdo.stats.selective import fpr95, retrieval_correct, risk_areas

Array = NDArray[np.float64]


@pytest.fixture
def scores() -> Array:
    """Six trials of forty images, [K, N], rounded so that there are ties."""
    rng = np.random.default_rng(3)
    return np.round(rng.gamma(2.0, size=40) + 0.4 * rng.normal(size=(6, 40)), 1)


def test_icc_and_snr_are_those_of_a_one_way_random_effects_anova(scores: Array) -> None:
    import pandas
    import pingouin

    trials, images = (index.ravel() for index in np.indices(scores.shape))
    long = pandas.DataFrame({"image": images, "trial": trials, "score": scores.ravel()})
    table = pingouin.intraclass_corr(long, targets="image", raters="trial", ratings="score")
    one_way = table.iloc[0]
    assert one_way["Type"] in ("ICC1", "ICC(1,1)")  # in versions before and after 0.6
    found = reliability(scores, resamples=20)
    assert found.icc == pytest.approx(one_way["ICC"], abs=1e-9)
    assert found.snr * len(scores) == pytest.approx(one_way["F"])


@pytest.mark.parametrize("covariates", [1, 2])
def test_partial_spearman_is_the_correlation_of_ranks_given_others(scores: Array, covariates: int) -> None:
    import pandas
    import pingouin

    x, y, *given = scores[: 2 + covariates]
    names = [f"z{i}" for i in range(covariates)]
    table = pandas.DataFrame({"x": x, "y": y, **dict(zip(names, given, strict=True))})
    of_ranks = pingouin.partial_corr(table, x="x", y="y", covar=names, method="spearman")
    assert partial_spearman(x, y, np.array(given), resamples=20).value == pytest.approx(float(of_ranks["r"].iloc[0]))
    plain = pingouin.corr(x, y, method="spearman")
    assert spearman(x, y, resamples=20).value == pytest.approx(float(plain["r"].iloc[0]))


def test_auroc_is_the_common_language_effect_size(scores: Array) -> None:
    import pingouin

    positive = scores[1] > 2.5
    effect = pingouin.compute_effsize(scores[0][positive], scores[0][~positive], eftype="CLES")
    assert auroc(scores[0], positive).value == pytest.approx(effect)


def test_holm_also_with_ties_and_ones() -> None:
    from statsmodels.stats.multitest import multipletests

    for p in ([0.01, 0.04, 0.03, 0.04, 1.0, 0.0], [0.5], [0.2, 0.2, 0.2]):
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


@pytest.mark.parametrize(("successes", "n"), [(0, 12), (1, 12), (7, 12), (12, 12), (300, 1000)])
def test_intervals_of_a_share(successes: int, n: int) -> None:
    from statsmodels.stats.proportion import proportion_confint

    wilson, exact = (proportion_confint(successes, n, method=method) for method in ("wilson", "beta"))
    ones = np.repeat([1, 0], [successes, n - successes])
    for found, expected in (
        (proportion(successes, n), wilson),
        (share(ones), wilson),
        (proportion(successes, n, method="exact"), exact),
    ):
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


def test_interval_of_a_mean_of_images_and_of_origins(scores: Array) -> None:
    from statsmodels.stats.weightstats import DescrStatsW

    for values, origins in ((scores[0], None), (scores[0], np.repeat(np.arange(10), 4))):
        means = values if origins is None else values.reshape(10, 4).mean(axis=1)
        found = t_mean(values, origins=origins)
        assert (found.low, found.high) == pytest.approx(DescrStatsW(means).tconfint_mean(alpha=0.05))


@pytest.mark.parametrize("decimals", [None, 1], ids=["no ties", "ties"])
def test_figures_of_images_of_another_kind_are_those_of_pytorch_ood(decimals: int | None) -> None:
    import torch
    from pytorch_ood.metrics import functional

    rng = np.random.default_rng(1)
    known, foreign = rng.normal(0, 1, 400), rng.normal(1.5, 1, 300)
    if decimals is not None:
        known, foreign = known.round(decimals), foreign.round(decimals)
    both, kinds = np.concatenate([known, foreign]), np.repeat([0, 1], [400, 300])
    marked = torch.tensor(-kinds)  # images of another kind have negative labels there
    assert auroc(both, kinds).value == pytest.approx(float(functional.auroc(torch.tensor(both), marked)))
    # there the rate is that of the known at a threshold for the others, so the roles and the sign change
    theirs = functional.fpr_at_tpr(torch.tensor(-both), torch.tensor(kinds - 1), 0.95)
    assert fpr95(known, foreign).value == pytest.approx(float(theirs))


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_that_of_torchmetrics(bins: int) -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    rng = np.random.default_rng(2)
    confidence = rng.uniform(size=500)  # off the edges of bins, where the two are defined otherwise
    correct = rng.uniform(size=500) < confidence**1.5
    theirs = binary_calibration_error(torch.tensor(confidence), torch.tensor(correct).int(), n_bins=bins, norm="l1")
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_is_that_of_netcal(bins: int) -> None:
    metrics = pytest.importorskip("netcal.metrics", reason='pip install "mcdo[peers]" brings netcal')
    rng = np.random.default_rng(4)
    confidence = np.concatenate([rng.uniform(size=500), [0, 0, 1, 1]])  # bins are closed on their left there
    correct = rng.uniform(size=len(confidence)) < confidence**1.5
    theirs = metrics.ECE(bins).measure(confidence, correct.astype(int))
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(theirs)
    probabilities, labels = rng.dirichlet(np.full(4, 0.5), size=400), rng.integers(0, 4, 400)
    surest = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    assert expected_calibration_error(*surest, bins=bins) == pytest.approx(
        metrics.ECE(bins).measure(probabilities, labels)
    )


def test_a_nearest_neighbour_has_the_label_that_scikit_learn_finds() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(3)
    features, labels = rng.normal(size=(200, 8)), rng.integers(0, 3, 200)
    found = NearestNeighbors(n_neighbors=2, metric="cosine").fit(features).kneighbors(features, return_distance=False)
    assert retrieval_correct(features, labels).tolist() == (labels[found[:, 1]] == labels).tolist()


def test_risk_over_coverage_is_the_mean_of_precision_at_every_cut() -> None:
    """Errors kept among the k surest are false positives, which scikit-learn counts at every threshold."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    rng = np.random.default_rng(4)
    score = rng.normal(size=150)
    error = rng.uniform(size=150) < 1 / (1 + np.exp(1 - score))
    precision, _, thresholds = precision_recall_curve(~error, -score)
    assert len(thresholds) == 150, "one for each coverage"
    areas = risk_areas(score, error)
    assert areas["aurc"].value == pytest.approx(float(np.mean(1 - precision[:-1])))
    ideal, _, _ = precision_recall_curve(~error, -np.lexsort((score, error)).argsort().astype(float))
    assert areas["excess_aurc"].value == pytest.approx(float(np.mean(ideal[:-1]) - np.mean(precision[:-1])))
    passed, _, _ = roc_curve(~error, -score, drop_intermediate=False)
    assert areas["augrc"].value == pytest.approx(float(np.mean(passed[1:])) * error.mean())
