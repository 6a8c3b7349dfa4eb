"""What only CUDA carries out, on a CPU: Triton interprets the kernels where TRITON_INTERPRET was set beforehand."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("cuda_child.py")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton, which torch brings on Linux")
def test_kernels_zero_the_units_of_the_cpu_and_graphs_give_the_bits_of_their_passes() -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
