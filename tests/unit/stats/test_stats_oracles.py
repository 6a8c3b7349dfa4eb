"""Statistics against pingouin and statsmodels, which share no code with ours."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mcdo.stats import auroc, partial_spearman, reliability, share, spearman
from mcdo.stats.mean_differences import t_mean
from mcdo.stats.resampling import holm, proportion

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
