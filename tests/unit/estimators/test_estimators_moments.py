from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from mcdo.estimators.moments import RunningMoments, accumulator_dtype

law = settings(max_examples=80, deadline=None, derandomize=True, database=None)
numbers = st.floats(-1e6, 1e6, width=32)


def moments_of(passes: NDArray[np.floating], cuts: list[int]) -> RunningMoments:
    running = RunningMoments()
    edges = [0, *sorted(set(cuts)), passes.shape[1]]
    for a, b in itertools.pairwise(edges):
        running.update(torch.from_numpy(passes[:, a:b]))
    return running


@law
@given(st.data(), arrays(np.float32, array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=9), elements=numbers))
def test_moments_are_those_of_numpy_however_passes_are_split(data: st.DataObject, passes: NDArray[np.float32]) -> None:
    cuts = data.draw(st.lists(st.integers(1, passes.shape[1] - 1), max_size=4))
    running = moments_of(passes, cuts)
    exact = passes.astype(np.float64)
    assert running.count == passes.shape[1]
    spread = np.abs(exact).max() + 1e-30
    np.testing.assert_allclose(running.mean.numpy(), exact.mean(1), rtol=0, atol=1e-14 * spread)
    np.testing.assert_allclose(running.variance.numpy(), exact.var(1, ddof=1), rtol=1e-12, atol=1e-26 * spread**2)
    assert (running.variance >= 0).all()


def test_a_tiny_variance_beside_a_large_mean_survives() -> None:
    """Trap 10: E[x²] − E[x]² in float32 cancels."""
    rng = np.random.default_rng(0)
    passes = (1e4 + 1e-3 * rng.standard_normal((20, 64, 8))).astype(np.float32)
    naive = (passes**2).mean(1) - passes.mean(1) ** 2
    exact = passes.astype(np.float64).var(1, ddof=1)
    found = moments_of(passes, [16, 32, 48]).variance.numpy()
    assert (naive < 0).any()
    assert np.median(np.abs(naive / exact - 1)) > 10
    np.testing.assert_allclose(found, exact, rtol=1e-9)
    assert (found > 0).all()


@pytest.mark.parametrize("cuts", [[], [1], [3, 7], [1, 2, 3, 12]])
def test_equal_passes_have_exactly_no_variance(cuts: list[int]) -> None:
    image = np.random.default_rng(1).standard_normal((5, 1, 7))
    running = moments_of(np.repeat(image / np.linalg.norm(image, axis=2, keepdims=True), 13, axis=1), cuts)
    assert torch.count_nonzero(running.variance) == 0
    assert np.array_equal(running.mean.numpy(), (image / np.linalg.norm(image, axis=2, keepdims=True))[:, 0])


def test_one_pass_has_a_mean_and_no_variance() -> None:
    running = moments_of(np.ones((2, 1, 3)), [])
    assert running.variance.isnan().all()
    assert (running.mean == 1).all()


def test_updating_leaves_the_passes_alone() -> None:
    passes = torch.arange(12.0, dtype=torch.float64).view(1, 4, 3)
    running = RunningMoments()
    running.update(passes)
    passes_before = passes.clone()
    passes += 100
    assert torch.equal(passes - 100, passes_before)
    assert running.mean.tolist() == [[4.5, 5.5, 6.5]]


def test_moments_are_kept_in_float64_where_the_device_has_it() -> None:
    assert accumulator_dtype(torch.device("cpu")) is accumulator_dtype(torch.device("cuda")) is torch.float64
    assert accumulator_dtype(torch.device("mps")) is torch.float32
