"""What keeping results costs, and what they save."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mcdo.estimators import MonteCarloRun
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.harness import Session
from mcdo.store import Store

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.perf


@pytest.fixture
def run(session: Session, model: str) -> MonteCarloRun:
    """The run of exp0."""
    if session.encoder(model).resolution > 64:
        pytest.skip("the run would take hours on a large tower")
    return session.measure(NestedPasses.configured(session.settings).run(model))


@pytest.mark.parametrize("what", ["write", "read"])
def test_keeping_a_run_is_free_beside_measuring_it(
    what: str, run: MonteCarloRun, tmp_path: Path, benchmark: BenchmarkFixture
) -> None:
    arrays, store, key = run.arrays(), Store(tmp_path), Store.key({"perf": run.encoder})
    store.put(key, arrays, {})
    benchmark.extra_info["megabytes"] = sum(array.nbytes for array in arrays.values()) / 1e6
    found = benchmark((lambda: store.put(key, arrays, {})) if what == "write" else (lambda: store.get(key)))
    assert what == "write" or found is not None
    if benchmark.stats is not None:
        assert benchmark.stats["median"] < 1, "keeping a run must be a matter of milliseconds"


def test_a_second_phase_1_takes_a_fraction_of_the_first(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, "-m", "pytest", "-m", "phase1", "--protocol=quick", "-q", "-p", "no:cacheprovider"]
    command += [f"--store={tmp_path / 'store'}", f"--reports={tmp_path / 'reports'}", "tests/experiments/phase1"]
    root = Path(__file__).resolve().parents[2]
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        done = subprocess.run(command, cwd=root, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        seconds.append(time.perf_counter() - started)
    first, second = seconds
    record_property("phase 1, quick", f"first {first:.0f} s, second {second:.0f} s")
    print(f"\nphase 1, quick sizes: first {first:.0f} s, second {second:.0f} s")
    assert second < 0.8 * first
