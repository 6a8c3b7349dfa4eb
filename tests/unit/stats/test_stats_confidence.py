from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import scipy

from mcdo.stats.confidence import Confidence


def test_without_shared_noise_it_is_students_t_on_the_working_scale() -> None:
    known = Confidence(math.log(4), 0.1, 0.2, 20, "log", 10)
    t = scipy.stats.t.ppf(0.975, 20)
    assert known.interval(0.95) == pytest.approx((4 * math.exp(-0.1 * t), 4 * math.exp(0.2 * t)))
    assert known.p(3) == pytest.approx(scipy.stats.t.sf(math.log(4 / 3) / 0.1, 20), rel=1e-4)
    assert known.p(5) == pytest.approx(scipy.stats.t.cdf(math.log(5 / 4) / 0.2, 20), rel=1e-4)
    rho = Confidence(math.atanh(0.8), 0.05, 0.05, 99, "z", 10)
    assert rho.lower(0.9) == pytest.approx(math.tanh(math.atanh(0.8) - 0.05 * scipy.stats.t.ppf(0.9, 99)))


@pytest.mark.parametrize("scale", ["log", "z"])
@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("trials", [3, 10])
def test_p_is_where_the_limit_reaches_the_bar(scale: Literal["log", "z"], shared: float, trials: int) -> None:
    known = Confidence(1.0, 0.1, 0.15, 30, scale, trials, shared, 0.01 if shared else 0.0)
    for confidence in (0.6, 0.9, 0.975, 0.9999):
        assert known.p(known.lower(confidence)) == pytest.approx(1 - confidence, rel=1e-3)
        assert known.p(known.upper(confidence)) == pytest.approx(confidence, rel=1e-3)
    ends = [known.interval(level) for level in (0.5, 0.9, 0.99)]
    assert all(a[0] > b[0] and a[1] < b[1] for a, b in itertools.pairwise(ends))


def test_noise_that_is_all_shared_is_a_variance_from_as_many_trials() -> None:
    # noise/true noise is χ²/(K − 1), so true SNR/estimate is too
    known = Confidence(math.log(2), 0.0, 0.0, 50, "log", 4, shared=1.0)
    low, high = (2 * scipy.stats.chi2.ppf(share, 3) / 3 for share in (0.025, 0.975))
    assert known.interval(0.95) == pytest.approx((low, high))


def test_shared_noise_moves_rho_by_its_odds() -> None:
    known = Confidence(math.atanh(0.75), 0.0, 0.0, 50, "z", 5, shared=1.0)
    factor = 4 / scipy.stats.chi2.ppf(0.025, 4)
    assert known.lower(0.975) == pytest.approx(3 / factor / (1 + 3 / factor))
    odds = (3 + 1 / 5) * scipy.stats.chi2.ppf(0.975, 4) / 4
    assert known.upper(0.975) == pytest.approx(odds / (1 + odds))


def test_unknown_certain_and_unbounded() -> None:
    unknown = Confidence(math.nan, math.nan, math.nan, 1, "z", 1)
    assert all(math.isnan(end) for end in unknown.interval(0.95))
    assert math.isnan(unknown.p(0.5))
    certain = Confidence(math.inf, 0.0, 0.0, 1, "log", 5)
    assert certain.interval(0.95) == (math.inf, math.inf)
    assert certain.p(2) < 1e-8
    unbounded = Confidence(0.5, math.inf, math.inf, 2, "log", 5)
    assert unbounded.interval(0.5) == (0, math.inf)
    assert unbounded.p(1) == unbounded.p(1.2) == 0.5
