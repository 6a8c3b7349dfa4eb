from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import scipy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.schema import plain
from mcdo.stats import wilcoxon_increase
from mcdo.stats.paired import rise, signed_rank_terms

X, Y = np.random.default_rng(0).normal(size=(2, 300))


def test_wilcoxon_matches_scipy_and_the_share_its_count() -> None:
    found = wilcoxon_increase(X + 0.3, Y)
    assert found.p_value == scipy.stats.wilcoxon(X + 0.3 - Y, alternative="greater").pvalue
    assert found.fraction.value == np.mean(X + 0.3 > Y)
    shifted = wilcoxon_increase([1.2, 2.4, 3.6, 4.8, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert shifted.p_value == pytest.approx(1 / 32)
    assert shifted.relative_change.value == pytest.approx(0.2)
    assert (shifted.relative_change.low, shifted.relative_change.high) == pytest.approx((0.2, 0.2))


def test_equal_pairs_are_no_increase() -> None:
    found = wilcoxon_increase([1, 2, 3, 5], [1, 2, 3, 4])
    assert (found.fraction.value, found.ties, found.n, found.p_value) == (0.25, 3, 4, 0.5)
    nothing = wilcoxon_increase([1, 2], [1, 2])
    assert (nothing.p_value, nothing.fraction.value, nothing.ties) == (1.0, 0.0, 2)
    assert math.isnan(wilcoxon_increase([1, 1], [-1, 1]).relative_change.value)
    assert json.loads(json.dumps(plain(found), allow_nan=False))["fraction"]["n"] == 4
    with pytest.raises(McdoError, match="degraded holds inf at image 1"):
        wilcoxon_increase([1, math.inf], [1, 2])


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(-3, 3).filter(bool), min_size=1, max_size=3), min_size=2, max_size=4))
def test_the_statistic_is_the_mean_signed_rank_sum_over_one_pair_of_each_origin(origins: list[list[int]]) -> None:
    """Listed over every choice of one pair per origin, each ranked by SciPy with ties at their mean rank."""
    assume(len(origins) > 1)
    sums = [np.sign(d) @ scipy.stats.rankdata(np.abs(d)) for d in map(np.array, itertools.product(*origins))]
    members = np.repeat(np.arange(len(origins)), [len(held) for held in origins])
    order = np.random.default_rng(1).permutation(len(members))
    flat = np.concatenate(origins).astype(float)
    assert signed_rank_terms(flat[order], members[order]).sum() == pytest.approx(np.mean(sums))


def test_one_pair_of_each_origin_has_the_signed_ranks() -> None:
    d = np.round(X - Y, 1)
    d = d[d != 0]
    terms = signed_rank_terms(d, np.arange(len(d)))
    np.testing.assert_allclose(terms, np.sign(d) * scipy.stats.rankdata(np.abs(d)))


def test_few_origins_have_the_exact_null_distribution() -> None:
    """Five origins that all rise: of 2^5 flips of their signs one is as extreme."""
    rise = np.arange(1.0, 16)
    found = wilcoxon_increase(rise, np.zeros(15), origins=np.arange(15) % 5)
    assert found.p_value == pytest.approx(1 / 32)
    assert (found.n, found.fraction.n) == (15, 5)
    assert wilcoxon_increase(-rise, np.zeros(15), origins=np.arange(15) % 5).p_value == 1.0


@pytest.mark.parametrize("n", [7, 80])  # exact and normal null distribution
def test_size_where_variants_of_an_origin_move_together(n: int) -> None:
    """No increase, and one to eight variants that share their origin's shift: 5 % are rejected, not a fifth."""
    rng, mine, naive, runs = np.random.default_rng(2), 0, 0, 200
    for _ in range(runs):
        origin = np.repeat(np.arange(n), rng.integers(1, 9, n))
        move = rng.standard_t(3, n)[origin] + 0.5 * rng.normal(size=len(origin))
        mine += wilcoxon_increase(move, 0 * move, origins=origin, resamples=1).p_value < 0.05
        naive += scipy.stats.wilcoxon(move, alternative="greater").pvalue < 0.05
    slack = 3.5 * math.sqrt(0.05 * 0.95 / runs)
    assert max(0, 0.05 - slack) < mine / runs < 0.05 + slack
    assert naive / runs > 0.15


def test_what_differs_in_its_last_bits_is_a_tie() -> None:
    """As images that a degradation leaves as they are, read from runs whose sums were cut otherwise."""
    rng = np.random.default_rng(0)
    clean = rng.lognormal(size=200)
    rounded = np.nextafter(clean, np.where(rng.random(200) < 0.5, 0, np.inf))
    found = wilcoxon_increase(np.r_[rounded[:150], clean[150:] * 1.01], clean)
    assert found.ties == 150
    assert found.fraction.value == 0.25
    assert rise(clean * (1 - 1e-6), clean).max() < 0, "what is more than rounding counts"
