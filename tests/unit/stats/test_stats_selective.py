from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import Estimate
from mcdo.stats.selective import AREAS, fpr95, retrieval_correct, risk_areas

Array = NDArray[np.float64]


def peer(name: str) -> ModuleType:
    """A module of torch-uncertainty's metrics, without the trainers that its package imports."""
    found = importlib.util.find_spec("torch_uncertainty")
    if found is None or found.origin is None or importlib.util.find_spec("torchmetrics") is None:
        pytest.skip("torch-uncertainty is not installed")
    file = Path(found.origin).parent / "metrics" / "classification" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"peer_{name}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def by_definition(score: Array, error: Array) -> tuple[float, float]:
    """AURC and AUGRC as the mean over all orders that the score allows."""
    found = []
    for order in itertools.permutations(range(len(score))):
        if any(score[a] > score[b] for a, b in itertools.pairwise(order)):
            continue
        wrong = np.cumsum(error[list(order)])
        found.append(((wrong / np.arange(1, len(score) + 1)).mean(), wrong.mean() / len(score)))
    risk, generalised = np.mean(found, axis=0)
    return float(risk), float(generalised)


def test_by_hand() -> None:
    score, error = [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]
    assert risk_areas(score, error)["aurc"].value == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert risk_areas(score, error)["augrc"].value == pytest.approx((0 + 1 + 1 + 2) / 16)
    oracle = (0 + 0 + 1 / 3 + 2 / 4) / 4
    assert risk_areas(score, error)["excess_aurc"].value == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4 - oracle)
    assert risk_areas(score, [0, 0, 1, 1])["excess_aurc"].value == pytest.approx(0)


@pytest.mark.parametrize("seed", range(8))
def test_equal_scores_are_taken_in_random_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, error = rng.integers(0, 3, 6).astype(float), rng.integers(0, 2, 6).astype(float)
    risk, generalised = by_definition(score, error)
    assert risk_areas(score, error)["aurc"].value == pytest.approx(risk)
    assert risk_areas(score, error)["augrc"].value == pytest.approx(generalised)


def test_the_areas_of_another_library() -> None:
    import torch

    metrics = peer("risk_coverage")
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, 300)
    error = rng.uniform(size=300) < 1 - confidence
    probabilities = torch.tensor(np.stack([1 - confidence, confidence], axis=1))
    for name in ("AURC", "AUGRC"):
        metric = getattr(metrics, name)()
        metric.update(probabilities, torch.tensor(~error).long())
        # theirs is the trapezium rule over the same curve, which leaves out half of its ends
        assert risk_areas(-confidence, error)[name.lower()].value == pytest.approx(
            float(metric.compute()), abs=2 / 300
        ), name


@pytest.mark.filterwarnings("ignore:Metric .*buffer")  # the other library's
def test_fpr95_by_hand_and_against_another_library() -> None:
    import torch

    known, foreign = np.arange(100.0), np.array([90.0, 94.0, 94.5, 120.0])
    assert fpr95(known, foreign).value == pytest.approx(2 / 4)  # 95 of the known lie at or below 94
    rng = np.random.default_rng(1)
    known, foreign = rng.normal(0, 1, 400), rng.normal(1.5, 1, 300)
    metric = peer("fpr").FPR95(pos_label=0)
    scores = torch.tensor(-np.concatenate([known, foreign]))  # a known image has high confidence
    metric.update(scores, torch.tensor([0] * 400 + [1] * 300))
    assert fpr95(known, foreign).value == pytest.approx(float(metric.compute()), abs=2 / 300)


@pytest.mark.parametrize("errors", [0, 9, 91, 100])
def test_too_few_of_either_kind_have_no_interval(errors: int) -> None:
    """Where all or nearly all are wrong, what the order is worth is as unknown as where hardly any is."""
    found = risk_areas(np.arange(100.0), np.arange(100) < errors)["excess_aurc"]
    assert math.isfinite(found.value)
    assert not found.has_interval
    assert (
        found.reason
        == f"{errors} origins with errors and {100 - errors} with right ones; an interval needs 10 of either"
    )


def test_too_few_foreign_images_have_no_interval() -> None:
    assert math.isnan(fpr95(np.arange(50.0), np.arange(9.0)).low)


@pytest.mark.parametrize(("foreign", "ends"), [(np.arange(20.0) + 200, (0, 0.161)), (-np.arange(20.0), (0.839, 1))])
def test_no_foreign_image_let_through_is_not_none_ever(foreign: Array, ends: tuple[float, float]) -> None:
    """Wilson's interval of 0 of 20, or 20 of 20; nothing is let through in any resample either."""
    found = fpr95(np.arange(100.0), foreign)
    assert (found.low, found.high) == pytest.approx(ends, abs=1e-3)
    five = fpr95(np.arange(100.0), np.repeat(foreign, 5), foreign_origins=np.repeat(np.arange(20), 5))
    assert (five.low, five.high) == (found.low, found.high)


def test_a_perfect_order_is_perfect_in_every_resample_and_has_no_interval() -> None:
    found = risk_areas(np.arange(100.0), np.arange(100) >= 85)["excess_aurc"]
    assert found.value == 0
    assert not found.has_interval
    assert found.outcome(0.01, "<") == "undecided"
    assert "a perfect order" in str(found)


def test_variants_of_one_original_are_one_draw() -> None:
    rng = np.random.default_rng(3)
    score = rng.normal(size=80)
    error = rng.uniform(size=80) < scipy.stats.norm.cdf(score - 1)
    five, origins = np.tile(score, 5), np.tile(np.arange(80), 5)
    single = risk_areas(score, error, resamples=400)["aurc"]
    many = risk_areas(five, np.tile(error, 5), origins=origins, resamples=400)["aurc"]
    assert many.n == 80
    assert many.high - many.low == pytest.approx(single.high - single.low, rel=0.2)


def test_the_intervals_cover() -> None:
    rng = np.random.default_rng(0)

    def drawn(n: int) -> tuple[Array, Array]:
        score = rng.normal(size=n)
        return score, (rng.uniform(size=n) < scipy.stats.norm.cdf(score - 0.5)).astype(float)

    truth = risk_areas(*drawn(100_000), resamples=1)
    found = [risk_areas(*drawn(200), resamples=200) for _ in range(75)]
    for name in AREAS:
        covered = np.mean([of[name].low <= truth[name].value <= of[name].high for of in found])
        assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 75), name


def test_the_intervals_cover_where_one_original_has_half_of_the_images() -> None:
    """They covered .80 to .83: 300 origins, of which one is half, are worth four."""
    origins = np.repeat(np.arange(300), np.r_[300, np.ones(299, dtype=int)])
    rng = np.random.default_rng(0)

    def drawn(origins: NDArray[np.int_]) -> tuple[Array, Array]:
        hard = 0.8 * rng.normal(size=origins.max() + 1)[origins] + 0.6 * rng.normal(size=len(origins))
        return hard + rng.normal(size=len(hard)), (rng.uniform(size=len(hard)) < scipy.stats.norm.cdf(hard - 2)) * 1.0

    def figures(origins: NDArray[np.int_], resamples: int) -> list[Estimate]:
        score, error = drawn(origins)
        foreign = drawn(origins)[0] + 1
        passed = fpr95(score, foreign, known_origins=origins, foreign_origins=origins, resamples=resamples)
        areas = risk_areas(score, error, origins=origins, resamples=resamples)
        return [areas["excess_aurc"], areas["augrc"], passed]

    truth = [each.value for each in figures(np.arange(50_000), 1)]
    found = [figures(origins, 100) for _ in range(100)]
    for goal, of in zip(truth, zip(*found, strict=True), strict=True):
        assert np.mean([e.low <= goal <= e.high for e in of]) >= 0.92


def test_a_neighbour_of_the_same_original_is_none() -> None:
    features = np.array([[1.0, 0], [1, 0.01], [1, 0.05], [0, 1], [0.05, 1]])
    labels, origins = np.array([0, 0, 1, 2, 2]), ["a", "a", "b", "c", "d"]
    assert retrieval_correct(features, labels).tolist() == [True, True, False, True, True]
    assert retrieval_correct(features, labels, origins).tolist() == [False, False, False, True, True]
    with pytest.raises(McdoError, match="at least two origins"):
        retrieval_correct(features, labels, ["a"] * 5)
