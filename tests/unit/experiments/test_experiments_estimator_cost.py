from __future__ import annotations

import numpy as np
import pytest

from mcdo.experiments.cost import estimator_cost as cost
from mcdo.experiments.cost.pass_cost import FIRST_ORDER
from mcdo.stats import reliability


def point(way: str, budget: int, price: float, noise: float) -> cost.Point:
    rng = np.random.default_rng(budget)
    truth = np.random.default_rng(0).normal(size=400)
    return cost.Point(way, 0.01, budget, price, reliability(truth + noise * rng.normal(size=(4, 400)), resamples=20))


def test_cost_is_interpolated_in_the_logarithm() -> None:
    points = [point("a", 4, 4.0, 2.0), point("a", 64, 64.0, 0.3)]
    low, high = (q.reliability.spearman for q in points)
    middle = cost.cost_at(points, "a", 0.01, (low + high) / 2)
    assert middle == pytest.approx(16.0)  # half way between 4 and 64 on a logarithmic scale
    assert cost.cost_at(points, "a", 0.01, low) == 4.0
    assert cost.cost_at(points, "a", 0.01, 0.999) is None
    assert cost.cost_at(points, "a", 0.5, low) is None


def test_gains_are_relative_to_first_order_and_bounded_where_a_way_falls_short() -> None:
    points = [point(FIRST_ORDER, 8, 10.0, 0.5), point("good", 64, 200.0, 0.3), point("bad", 256, 300.0, 2.0)]
    found = cost.gains(points, 0.01, 8)
    assert (found["good"].value, found["good"].low, found["good"].high) == pytest.approx((20.0, 20.0, 20.0))
    assert (found["bad"].value, found["bad"].low, found["bad"].high) == pytest.approx((np.inf, 30.0, np.inf))


def test_the_interval_of_a_gain_is_that_of_first_order_s_reliability() -> None:
    own = point(FIRST_ORDER, 8, 10.0, 0.5)
    rho = own.reliability.estimate("spearman")
    points = [own, point("a", 4, 4.0, 3.0), point("a", 64, 640.0, 0.3)]
    found = cost.gains(points, 0.01, 8)["a"]
    by_hand = [cost.cost_at(points, "a", 0.01, rho_at) for rho_at in (rho.low, rho.value, rho.high)]
    assert [10 * found.low, 10 * found.value, 10 * found.high] == pytest.approx(by_hand)
    assert found.low < found.value < found.high
    assert found.n == rho.n
