from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import mean_shares, share


def wilson(p: float, n: float) -> tuple[float, float]:
    z2 = float(scipy.stats.norm.ppf(0.975)) ** 2
    centre, half = p + z2 / (2 * n), math.sqrt(z2 * (p * (1 - p) + z2 / (4 * n)) / n)
    return (centre - half) / (1 + z2 / n), (centre + half) / (1 + z2 / n)


@pytest.mark.parametrize("ones", [0, 1, 7, 30])
def test_images_that_are_their_own_origins_have_wilson_s_interval(ones: int) -> None:
    expected = scipy.stats.binomtest(ones, 30).proportion_ci(method="wilson")
    found = share(np.arange(30) < ones)
    assert (found.low, found.high, found.n) == pytest.approx((expected.low, expected.high, 30), abs=1e-12)
    assert found == share(np.arange(30) < ones, origins=np.arange(30))


def test_one_image_is_one_draw() -> None:
    found = share([True])
    assert (found.value, found.n) == (1, 1)
    assert (found.low, found.high) == pytest.approx(wilson(1.0, 1))


def test_origins_by_hand() -> None:
    """Origins {1, 1}, {0, 0}, {1, 0}: without each 1/4, 3/4, 1/2, so 1/4 · (3/2)² / (1/8) = 4.5 draws."""
    found = share([1, 1, 0, 0, 1, 0], origins=[*"aabbcc"])
    factor = (scipy.stats.t.ppf(0.975, 5) / scipy.stats.t.ppf(0.975, 2)) ** 2
    assert (found.value, found.n) == (0.5, 3)
    assert (found.low, found.high) == pytest.approx(wilson(0.5, 4.5 * factor))


def test_unequal_origins_by_hand() -> None:
    """Sizes 3 and 1: Kish's number is 16/10, below two, where Student's t has one degree of freedom at least."""
    found = share([1, 1, 0, 0], origins=[*"aaab"])
    size = 0.25 * 4 / ((0 - 0.5) ** 2 + (2 / 3 - 0.5) ** 2)
    factor = (scipy.stats.t.ppf(0.975, 3) / scipy.stats.t.ppf(0.975, 1)) ** 2
    assert (found.low, found.high) == pytest.approx(wilson(0.5, size * factor))


def test_a_share_without_variance_counts_origins() -> None:
    found, ten = (
        share(np.ones(40), origins=np.arange(40) // 4),
        scipy.stats.binomtest(10, 10).proportion_ci(method="wilson"),
    )
    assert (found.value, found.low, found.high) == pytest.approx((1, ten.low, 1))
    assert share([0, 0]).low == 0.0


def test_origins_that_differ_less_than_chance_are_no_more_than_their_images() -> None:
    alternating = np.arange(40) % 2
    plain = share(alternating)
    for origins in (np.arange(40) // 2, np.r_[np.arange(20) // 4, np.arange(20) % 5 + 5]):
        found = share(alternating, origins=origins)
        assert (found.low, found.high) == (plain.low, plain.high)


@pytest.mark.parametrize(("n", "p"), [(10, 0.5), (20, 0.2), (100, 0.5)])
def test_the_interval_covers_where_variants_agree(n: int, p: float) -> None:
    """Five variants of each origin, that share .7 of the latent variance; Wilson's plain interval covers under .8."""
    rng, covered, naive, runs = np.random.default_rng(n), 0, 0, 400
    origin = np.arange(5 * n) // 5
    for _ in range(runs):
        latent = math.sqrt(0.7) * rng.normal(size=n)[origin] + math.sqrt(0.3) * rng.normal(size=5 * n)
        ones = latent < scipy.stats.norm.ppf(p)
        found, plain = share(ones, origins=origin), share(ones)
        covered += found.low <= p <= found.high
        naive += plain.low <= p <= plain.high
    assert 0.92 - 0.025 < covered / runs < 0.98 + 0.014
    assert naive / runs < 0.8


def test_what_is_no_flag_is_refused() -> None:
    with pytest.raises(McdoError, match="values holds 2"):
        share([0, 2])
    with pytest.raises(McdoError, match="level 95"):
        share([0, 1], level=95)


def test_means_of_whole_shares_are_shares() -> None:
    values = np.random.default_rng(0).random((5, 60)) < 0.3
    origins = np.arange(60) // 3 * 2
    p, low, high, n = mean_shares(values, origins=origins)
    for row, *found in zip(values, p, low, high, strict=True):
        expected = share(row, origins=origins)
        assert n == expected.n
        if found[2] - found[1] >= expected.high - expected.low - 1e-12:  # elsewhere a share is held to N draws
            assert found == pytest.approx([expected.value, expected.low, expected.high])


def test_means_of_shares_by_hand() -> None:
    """0, ½, 1 and ½: without each ⅔, ½, ⅓, ½, so ¼ · (4/3)² / (1/18) = 8 draws; equal ones count their origins."""
    p, low, high, _ = mean_shares(np.array([[0, 0.5, 1, 0.5], [0.5] * 4, [1] * 4]))
    assert p.tolist() == [0.5, 0.5, 1]
    assert (low[0], high[0]) == pytest.approx(wilson(0.5, 8))
    assert (low[1], high[1]) == pytest.approx(wilson(0.5, 4))
    assert (low[2], high[2]) == pytest.approx((wilson(1, 4)[0], 1))


@pytest.mark.parametrize(("n", "shared", "p"), [(30, 0.0, 0.9), (100, 0.5, 0.8), (30, 1.0, 0.5), (100, 1.0, 0.95)])
def test_the_interval_of_a_mean_of_four_tests_covers(n: int, shared: float, p: float) -> None:
    rng, runs = np.random.default_rng(n), 1000
    common, own = rng.normal(size=(runs, 1, n)), rng.normal(size=(runs, 4, n))
    passed = math.sqrt(shared) * common + math.sqrt(1 - shared) * own < scipy.stats.norm.ppf(p)
    _, low, high, _ = mean_shares(passed.mean(axis=1))
    assert 0.92 < ((low <= p) & (p <= high)).mean() < 0.98


@pytest.mark.parametrize(("values", "said"), [([0, 1], "give \\[F, N\\]"), ([[0.5, 1.5]], "outside")])
def test_what_is_no_mean_of_shares_is_refused(values: list[list[float]], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        mean_shares(values)


def test_a_rare_share_of_origins_of_unequal_sizes_is_covered() -> None:
    """Hits in small origins say nothing of large ones: .76 of these intervals held .02."""
    rng, held, runs = np.random.default_rng(0), 0, 200
    for _ in range(runs):
        sizes = np.exp(rng.normal(np.log(5), 1.5, 60)).round().clip(1, 200).astype(int)
        origins = np.repeat(np.arange(60), sizes)
        latent = 0.95 * rng.normal(size=60)[origins] + 0.31 * rng.normal(size=len(origins))
        found = share(latent > 2.054 * np.hypot(0.95, 0.31), origins=origins)
        held += found.low <= 0.02 <= found.high
    assert held / runs > 0.86
