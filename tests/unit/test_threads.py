"""NumPy's products run on one thread where statistics are computed, and those of torch as before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from mcdo.threads import one_blas_thread


def _threads() -> dict[str, int]:
    return {each["filepath"]: each["num_threads"] for each in threadpool_info() if "numpy" in each["filepath"]}


def test_one_blas_thread_is_over_with_its_block() -> None:
    np.ones((2, 2)) @ np.ones((2, 2))
    before, torchs = _threads(), torch.get_num_threads()
    if not before:
        pytest.skip("this NumPy brings no BLAS of its own")
    with one_blas_thread():
        assert set(_threads().values()) == {1}
        assert torch.get_num_threads() == torchs
    assert _threads() == before
