from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats.response import ResponseCurve, response_curve

X = (0.0, 1.0, 2.0, 4.0, 8.0)


def responses(means: list[float], n: int = 200, sd: float = 0.1, seed: int = 0) -> NDArray[np.float64]:
    """Scores [S, N] whose means are exactly ``means``, with noise that images share over severities in part."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(scale=sd, size=(len(means), n)) + rng.normal(scale=sd, size=n)
    return np.asarray(np.array(means)[:, None] + noise - noise.mean(axis=1, keepdims=True))


def rising() -> ResponseCurve:
    return response_curve(X, responses([1, 1.5, 2, 3, 5]))


def test_a_few_originals_show_no_rise() -> None:
    curve = response_curve(X, responses([1, 1.5, 2, 3, 5], n=4))
    assert (curve.shape, curve.reason) == ("flat", "4 originals; an interval needs 5")
    assert response_curve(X, responses([1, 1.5, 2, 3, 5], n=5)).shape == "rising"


def test_a_rising_response_is_its_own_fit_and_can_be_read_backwards() -> None:
    curve = rising()
    assert curve.shape == "rising"
    assert [e.value for e in curve.fitted] == pytest.approx([1, 1.5, 2, 3, 5])
    assert curve.inverse([1, 1.25, 1.5, 2.5, 5]) == pytest.approx([0, 0.5, 1, 3, 8])
    assert curve.rise.value == pytest.approx(4)


def test_what_lies_outside_the_measured_scores_is_clean_or_beyond() -> None:
    curve = rising()
    assert curve.inverse([0.2, 5.01]).tolist() == [0.0, math.inf]
    assert curve.equivalent(0.2).value == 0
    assert curve.equivalent(9.0).high == math.inf


def test_an_equivalent_has_the_interval_that_the_curve_leaves() -> None:
    curve, sharp = rising(), response_curve(X, responses([1, 1.5, 2, 3, 5], n=2000))
    wide, narrow = curve.equivalent(2.5), sharp.equivalent(2.5)
    assert wide.low < 3 < wide.high
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    assert wide.n == 200


def test_a_reliable_fall_is_refused_with_the_severities() -> None:
    """As published: a blur of 15 scores lower than one of 5."""
    curve = response_curve((0, 5, 15), responses([1.0, 1.29, 1.08]))
    assert curve.shape == "not monotone"
    assert "from severity 5 to 15 (-16%)" in curve.reason
    with pytest.raises(McdoError, match="from severity 5 to 15"):
        curve.inverse([1.1])
    with pytest.raises(McdoError, match="not monotone"):
        curve.equivalent(1.1)
    fitted = [e.value for e in curve.fitted]
    assert fitted == sorted(fitted), "isotonic regression alone hides the fall"


def test_a_fall_of_logarithms_is_told_as_that_of_the_scores() -> None:
    curve = response_curve((0, 5, 15), responses([-2.0, -1.7, -2.0]), logarithms=True)
    assert "from severity 5 to 15 (-26%)" in curve.reason, "exp(-0.3) is 0.74"


def test_a_response_that_only_falls_is_not_monotone_and_not_flat() -> None:
    assert response_curve((0, 1), responses([1.0, 0.8])).shape == "not monotone"


def test_a_flat_response_is_refused() -> None:
    curve = response_curve(X, responses([1, 1.001, 1, 1.002, 1.001]))
    assert curve.shape == "flat"
    with pytest.raises(McdoError, match="flat: no reliable rise"):
        curve.inverse([1.0])


def test_constant_scores_are_flat_and_identical_ones_too() -> None:
    assert response_curve(X, np.ones((5, 10))).shape == "flat"
    assert response_curve(X, np.tile(np.arange(10.0), (5, 1))).shape == "flat"


def test_a_dip_within_noise_is_pooled_and_stays_readable() -> None:
    curve = response_curve((0, 1, 2, 3), responses([1.0, 2.0, 1.98, 3.0], n=60, sd=0.3))
    assert curve.shape == "rising"
    fitted = [e.value for e in curve.fitted]
    assert fitted == pytest.approx([1.0, 1.99, 1.99, 3.0])
    assert curve.inverse([fitted[1], 2.495]) == pytest.approx([1.0, 2.5]), "the smallest that reaches it"


def test_chance_falls_are_called_as_often_as_the_level_says() -> None:
    shapes = [response_curve(X, responses([1] * 5, n=50, seed=s) + noise(s), resamples=300).shape for s in range(100)]
    assert shapes.count("not monotone") <= 12
    assert shapes.count("rising") <= 10


def noise(seed: int) -> NDArray[np.float64]:
    """Chance differences of the means, which :func:`responses` takes out."""
    rng = np.random.default_rng(1000 + seed)
    return np.asarray(rng.normal(scale=0.1 / math.sqrt(50), size=(5, 1)))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=6))
def test_the_fit_is_the_nearest_non_decreasing_curve(means: list[int]) -> None:
    from sklearn.isotonic import isotonic_regression

    y = np.array(means, dtype=float)
    curve = response_curve(range(len(y)), responses(list(y), n=20), resamples=5)
    fitted = np.array([e.value for e in curve.fitted])
    assert (np.diff(fitted) >= -1e-12).all()
    # increments as non-negative unknowns: the same problem for an independent solver
    steps = np.tril(np.ones((len(y), len(y))))
    steps = np.concatenate([steps, -steps[:, :1]], axis=1)
    _, residual = scipy.optimize.nnls(steps, y)
    assert fitted == pytest.approx(isotonic_regression(y), abs=1e-9)
    assert np.linalg.norm(fitted - y) == pytest.approx(residual, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.05, 3), min_size=2, max_size=5), st.floats(0, 1))
def test_reading_backwards_undoes_reading_forwards(rises: list[float], place: float) -> None:
    means = list(np.cumsum([1, *rises]))
    curve = response_curve(range(len(means)), responses(means, sd=0.001), resamples=20)
    severity = place * (len(means) - 1)
    score = float(np.interp(severity, curve.severities, [e.value for e in curve.fitted]))
    assert curve.inverse([score])[0] == pytest.approx(severity, abs=1e-6)


def test_it_is_jsonable() -> None:
    written = rising().as_dict()
    assert written["shape"] == "rising"
    assert written["severities"] == list(X)
    assert len(written["fitted"]) == 5


@pytest.mark.parametrize(
    ("severities", "scores", "said"),
    [
        ((1, 2), np.ones((2, 5)), "ascend from 0"),
        ((0, 2, 2), np.ones((3, 5)), "ascend"),
        ((0, 2), np.ones((3, 5)), "shape"),
        ((0,), np.ones((1, 5)), "shape"),
        ((0, 1), np.ones((2, 2)), "shape"),
        ((0, 1), np.full((2, 5), np.inf), "inf"),
    ],
)
def test_what_is_no_response_is_refused(severities: tuple[float, ...], scores: NDArray[np.float64], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        response_curve(severities, scores)
