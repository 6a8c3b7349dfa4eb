from __future__ import annotations

import numpy as np
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.stats.ranks import mid_ranks, ordered


@settings(derandomize=True, deadline=None, max_examples=40)
@given(hnp.arrays(np.float64, (2, 8), elements=st.integers(0, 4).map(float)))
def test_ranks_are_scipy_s_to_the_bit(values: NDArray[np.float64]) -> None:
    np.testing.assert_array_equal(mid_ranks(values), scipy.stats.rankdata(values, axis=1))
    np.testing.assert_array_equal(mid_ranks(values[0]), scipy.stats.rankdata(values[0]))


def test_equal_values_keep_their_order_and_share_a_group() -> None:
    order, edges = ordered(np.array([2.0, 1.0, 2.0, 0.5]))
    assert (order.tolist(), edges.tolist()) == ([3, 1, 0, 2], [0, 1, 2, 4])
