"""S2 calls a difference of 0.07 points at overlapping intervals significant (p < 0.05). Its own numbers do not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.studies.subtasks.published import (
    ACCURACY,
    ECE,
    difference_of,
    mcnemar_exact,
    most_discordant,
    published_difference,
)


def test_the_published_accuracy_difference_is_not_significant_under_any_reading_of_its_intervals() -> None:
    found = difference_of(ACCURACY)
    assert found.difference == pytest.approx(0.07)
    # by hand: se = .15/1.96, .14/1.96; z = .07/.10469 = .6687
    assert found.p_intervals == pytest.approx(2 * scipy.stats.norm.sf(0.66866), abs=1e-3)
    assert found.p_intervals == pytest.approx(0.504, abs=1e-3)
    # t(2) = 4.3027: se .03486, .03254; t = 1.468 with 3.98 degrees of freedom
    assert found.p_runs_t == pytest.approx(0.216, abs=2e-3)
    # se = .15/√3, .14/√3: t = .5909
    assert found.p_runs_sd == pytest.approx(0.587, abs=2e-3)
    assert min(found.p_intervals, found.p_runs_t, found.p_runs_sd) > 0.05


def test_welch_is_scipys() -> None:
    found = difference_of(ACCURACY)
    expected = scipy.stats.ttest_ind_from_stats(94.98, 0.14, 3, 94.91, 0.15, 3, equal_var=False).pvalue
    assert found.p_runs_sd == pytest.approx(float(expected))


def test_the_published_interval_is_narrower_than_its_test_set_allows() -> None:
    # 95 % of 10 000: 1.96 √(.94945 · .05055 / 10 000) = .43 points, not .15
    assert difference_of(ACCURACY).binomial_half_width == pytest.approx(0.4294, abs=1e-3)


def test_seven_net_images_are_significant_only_if_the_two_models_err_on_almost_the_same_images() -> None:
    found = difference_of(ACCURACY)
    assert (found.net_images, found.most_discordant) == (7, 9)  # (1, 8): p = .039; (2, 9): p = .065
    assert mcnemar_exact(1, 8) < 0.05 < mcnemar_exact(2, 9)
    assert found.correlation_needed == pytest.approx(0.886, abs=2e-3)


def test_the_published_ece_difference_follows_from_its_intervals() -> None:
    found = difference_of(ECE)
    assert found.p_intervals < 0.01
    assert found.correlation_needed < 0


@pytest.mark.parametrize(("a", "b", "p"), [(0, 0, 1.0), (0, 1, 1.0), (0, 7, 2 / 2**7), (5, 5, 1.0), (8, 1, 20 / 512)])
def test_mcnemar_by_hand(a: int, b: int, p: float) -> None:
    assert mcnemar_exact(a, b) == pytest.approx(p)
    assert mcnemar_exact(b, a) == pytest.approx(p)


def test_no_discordance_makes_a_tiny_difference_significant() -> None:
    assert most_discordant(5, 10_000) is None  # 2/2^5 = .0625 at best
    assert most_discordant(6, 6) == 6
    assert most_discordant(0, 100) is None


def test_a_larger_difference_stands_more_discordance() -> None:
    limits = [most_discordant(net, 10_000) or 0 for net in (6, 7, 20, 50, 100)]
    assert limits == sorted(limits)
    assert np.isclose(limits[-1], 100**2 / 1.96**2, rtol=0.05)  # the normal limit net²/z²


@pytest.mark.parametrize("wrong", [{"n": 0}, {"runs": 1}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(McdoError, match="n >= 1"):
        published_difference((1.0, 0.1), (2.0, 0.1), **wrong)
