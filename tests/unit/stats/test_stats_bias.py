from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats.bias import mean_bias

PASSES = (4, 8, 16, 32, 64)


def shifts(bias: float, noise: float, n: int = 400, trials: int = 3, d: int = 24, seed: int = 0) -> NDArray[np.float64]:
    """r(T) of a simulated perturbation with relative bias ``bias`` and trace ``noise``, nested T: [T, K, N]."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, d))
    offset = bias * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    passes = offset[None, :, None] + rng.normal(scale=math.sqrt(noise / d), size=(trials, n, max(PASSES), d))
    return np.stack([np.linalg.norm(passes[:, :, :T].mean(axis=2), axis=-1) for T in PASSES])


def exact(bias: float, noise: float) -> NDArray[np.float64]:
    r = np.sqrt(bias**2 + noise / np.array(PASSES, dtype=float))
    return np.broadcast_to(r[:, None, None], (len(PASSES), 2, 5)).copy()


@pytest.mark.parametrize(("bias", "noise"), [(0.1, 0.04), (0.0, 1.0), (0.5, 0.0)])
def test_exact_values_give_the_parameters_back(bias: float, noise: float) -> None:
    found = mean_bias(exact(bias, noise), PASSES, resamples=20)
    assert found.bias.value == pytest.approx(bias, abs=1e-6)
    assert found.noise.value == pytest.approx(noise, abs=1e-9)
    for T in PASSES:
        assert found.fitted[T] == pytest.approx(found.rms[T].value, abs=1e-6)


def test_an_interval_covers_as_often_as_it_says() -> None:
    held = [
        found.bias_squared.low <= 0.03**2 <= found.bias_squared.high
        for seed in range(60)
        for found in [mean_bias(shifts(0.03, 0.3, n=80, trials=1, d=8, seed=seed), PASSES, resamples=300)]
    ]
    assert 0.85 <= np.mean(held) <= 1


def test_without_bias_the_interval_holds_zero_and_the_slope_is_minus_a_half() -> None:
    found = mean_bias(shifts(0.0, 0.3), PASSES)
    assert found.bias_squared.low <= 0 <= found.bias_squared.high
    assert found.bias.low == 0
    assert found.slope.value == pytest.approx(-0.5, abs=0.01)
    assert found.noise_share(64) > 0.95


def test_a_bare_slope_hides_a_bias_and_depends_on_which_passes_were_taken() -> None:
    """b = .11 and the T of the public record give the slope near −.1 that was read as convergence."""
    shift = shifts(0.11, 0.04)
    assert -0.2 < mean_bias(shift, PASSES).slope.value < -0.05
    early, late = mean_bias(shift[:3], PASSES[:3]), mean_bias(shift[2:], PASSES[2:])
    assert early.slope.value < late.slope.value - 0.02
    assert early.bias.value == pytest.approx(late.bias.value, abs=0.01), "the bias does not"


def test_it_is_the_weighted_least_squares_fit_of_scipy() -> None:
    shift = shifts(0.1, 0.2, n=50)
    squares = np.square(shift).mean(axis=1)
    expected, _ = scipy.optimize.curve_fit(
        lambda T, b2, c: b2 + c / T, np.array(PASSES), squares.mean(axis=1), sigma=squares.std(axis=1)
    )
    found = mean_bias(shift, PASSES, resamples=10)
    assert (found.bias_squared.value, found.noise.value) == pytest.approx(tuple(expected), rel=1e-5)


def test_trials_are_averaged_within_an_image() -> None:
    shift = shifts(0.1, 0.2, n=60, trials=4)
    one = mean_bias(shift[:, :1], PASSES)
    assert mean_bias(np.repeat(shift[:, :1], 4, axis=1), PASSES).bias == one.bias
    four = mean_bias(shift, PASSES)
    assert four.noise.high - four.noise.low < one.noise.high - one.noise.low


def test_a_negative_fit_is_kept_and_its_bias_is_zero() -> None:
    r = np.sqrt(np.array([0.5, 0.2, 0.09, 0.04, 0.015]))[:, None, None] * np.ones((5, 1, 6))
    found = mean_bias(r, PASSES, resamples=20)
    assert found.bias_squared.value < 0
    assert found.bias.value == 0
    assert any(math.isnan(v) for v in found.fitted.values()) or min(found.fitted.values()) >= 0
    assert found.as_dict()["bias"]["value"] == 0


def test_no_shift_at_all_is_no_bias() -> None:
    found = mean_bias(np.zeros((5, 2, 4)), PASSES, resamples=10)
    assert (found.bias.value, found.noise.value) == pytest.approx((0, 0), abs=1e-12)
    assert math.isnan(found.slope.value)
    assert math.isnan(found.noise_share(64))


@pytest.mark.parametrize(
    ("shift", "passes", "said"),
    [
        (np.ones((1, 2, 5)), (4,), "2 different"),
        (np.ones((2, 2, 5)), (4, 4), "2 different"),
        (np.ones((2, 5)), (4, 8), "shape"),
        (np.ones((2, 2, 5)), (4, 8, 16), "shape"),
        (-np.ones((2, 2, 5)), (4, 8), "negative"),
        (np.full((2, 2, 5), np.nan), (4, 8), "nan"),
    ],
)
def test_what_cannot_be_fitted_is_refused(shift: NDArray[np.float64], passes: tuple[int, ...], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        mean_bias(shift, passes)
