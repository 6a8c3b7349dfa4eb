from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up_inputs import inputs_of

from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.cost import estimator_cost as cost
from mcdo.experiments.cost.pass_cost import (
    DETERMINISTIC,
    DIFFERENCES,
    FIRST_ORDER,
    LINEAR,
    NATIVE,
    SIGNS,
    SPARSE,
    TIED,
    TIED_OVER_IMAGES,
    Cost,
    PassCost,
    Times,
    timed,
    with_probes,
    within,
)
from mcdo.experiments.cost.peer_cost import LaplaceTimes, PeerCost
from mcdo.harness import Images, Request, Session, Settings
from mcdo.perturbation import Dropout
from mcdo.stats import reliability

CPU = torch.device("cpu")


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


def test_a_cost_is_the_median_ratio_within_rounds() -> None:
    """Not the ratio of the medians, 4: what slows a round down slows both."""
    found = Cost.of([2.0, 4.0, 30.0], [1.0, 1.0, 10.0])
    assert (found.ratio, found.q25, found.q75) == pytest.approx((3.0, 2.5, 3.5))
    assert (found.seconds, found.rounds) == (4.0, 3)


def test_seconds_are_of_an_image_pass_and_the_first_round_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("mcdo.experiments.cost.pass_cost.time.thread_time", lambda: now[0])

    def way(passes: int, *seconds: float) -> Any:
        taken = iter(seconds)

        def run() -> int:
            now[0] += next(taken)
            return passes

        return run

    found = timed({"a": way(4, 99.0, 8.0, 4.0), "b": way(2, 99.0, 6.0, 2.0)}, 2, CPU)
    assert found.tolist() == [[2.0, 1.0], [3.0, 1.0]]


def test_what_costs_are_relative_to() -> None:
    """Each way to the deterministic pass; native dropout, and memory, to keyed passes and to the deterministic one."""
    small = SimpleNamespace(resolution=32, device=CPU)

    def value(request: Request[Any]) -> Any:
        assert isinstance(request, Times)
        by_way = {DETERMINISTIC: 2.0, NATIVE: 6.0, SPARSE: 3.0}
        taken = np.array([by_way.get(name, 1.0) for name in request.names])
        return {"seconds": np.repeat(taken[:, None], 3, axis=1), "peak_bytes": 100 * taken}

    found = PassCost().compute(inputs_of(value, encoders={"clip_tiny": small}))
    assert (found.by_way[NATIVE].ratio, found.by_way[SPARSE].ratio) == (3.0, 1.5)
    assert (found.native_over_keyed.ratio, found.memory) == (2.0, 1.5)


def test_peers_are_in_keyed_passes_and_ours_in_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.experiments.cost.peer_cost.find_spec", lambda name: name)

    def value(request: Request[Any]) -> Any:
        seconds = [2.0, 3.0, 6.0] if isinstance(request, LaplaceTimes) else [2.0, 3.0, 6.0, 9.0]
        return {"seconds": np.repeat(np.array(seconds)[:, None], 3, axis=1), "sites": np.array([36, 12, 12])}

    found = PeerCost().compute(inputs_of(value))
    assert {peer: each.ratio for peer, each in found.in_keyed.items()} == {"torch_uncertainty": 2.0, "baal": 3.0}
    assert found.laplace_ratio is not None
    assert found.laplace_ratio.ratio == 0.5


def test_passes_are_chosen_on_images_of_no_original_that_is_shown() -> None:
    session = Session(Settings(("clip_tiny",)))
    request = cost.Differences("clip_tiny", Images(20), "all", 8, 2, 42, calibration=10)
    others = request.others(session)
    assert others is not None
    assert len(others) == 10
    assert not set(others.origins) & set(session.image_set(Images(20)).origins)


@dataclass(frozen=True)
class MadeUpRun:
    """Stands in for what a request of scores gives."""

    config: MonteCarloConfig
    origins: tuple[str, ...]

    def scores(self, name: str, at: float = 0.0) -> Any:
        return np.random.default_rng(0).normal(size=(2, len(self.origins)))


def test_what_every_way_costs_an_image_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deterministic pass, the noise basis, the choice of passes, first order as control and the linear part."""
    for name, number in {"CALIBRATION_IMAGES": 10, "CALIBRATION_PASSES": 6, "CANDIDATES": 4}.items():
        monkeypatch.setattr(cost, name, number)
    monkeypatch.setattr(cost, "PairedRun", lambda run, part: run)
    monkeypatch.setattr(cost, "MultiFidelityRun", lambda pair, linear: linear)
    run = MadeUpRun(MonteCarloConfig(Dropout(), (4,), 2, 42), tuple("abcdefghijklmnopqrst"))

    def value(request: Request[Any]) -> Any:
        return {"trace_pre": run.scores("trace_pre")} if isinstance(request, cost.Differences) else run

    ratios = {
        SPARSE: 2, NATIVE: 3, TIED: 5, TIED_OVER_IMAGES: 7, SIGNS: 11, LINEAR: 13,
        with_probes(8): 17, with_probes(cost.CONTROL_PROBES): 19, within(8): 23,
    }  # fmt: skip
    costs = {way: Cost(float(ratio), ratio, ratio, 1.0, 1) for way, ratio in ratios.items()}
    experiment = cost.EstimatorCost(
        n=20, p=(0.01,), passes=(4,), paired_passes=(4,), probes=(8,), forwards=(8,), calibration=10
    )
    found = {q.way: (q.cost, q.kept) for q in experiment._points(inputs_of(value), "trace_pre", costs)}
    basis, choice = 2.0 * 10 * 6 / 20, 23.0 * 4 * 10 / 20  # spread over the 20 images
    assert found == {
        SPARSE: (1 + 4 * 2, 0), NATIVE: (1 + 4 * 3, 0), cost.COMMON: (1 + 4 * 2, 0), TIED: (1 + 4 * 5, 0),
        TIED_OVER_IMAGES: (1 + 4 * 7, 0), SIGNS: (1 + 4 * 11, 0), FIRST_ORDER: (17 + basis, basis),
        DIFFERENCES: (23, 0), cost.CHOSEN: (23 + choice, choice),
        cost.MULTI_FIDELITY: (4 * (2 + 13) + 19 + basis, basis),
    }  # fmt: skip
