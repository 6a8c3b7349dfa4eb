"""What keeping results costs, and what they save."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.harness import Session
from mcdo.store import Store

pytestmark = pytest.mark.perf


def test_keeping_and_reading_a_run_is_free_beside_measuring_it(
    model: str, session: Session, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    experiment = NestedPasses.configured(session.settings)
    if session.encoder(model).resolution > 64:
        pytest.skip("the run would take hours on a large tower")
    started = time.perf_counter()
    run = session.measure(experiment.run(model))
    measuring = time.perf_counter() - started
    store, key = Store(tmp_path), Store.key({"perf": model})
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        store.put(key, run.arrays(), {})
        written = time.perf_counter()
        found = store.get(key)
        seconds.append((written - started, time.perf_counter() - written))
        assert found is not None
    write, read = np.median(seconds, axis=0)
    megabytes = sum(array.nbytes for array in run.arrays().values()) / 1e6
    record_property("store", f"write {write * 1e3:.1f} ms, read {read * 1e3:.1f} ms, {megabytes:.1f} MB")
    record_property("measuring or reading exp0", f"{measuring:.1f} s")
    print(f"\n{model}: write {write * 1e3:.1f} ms, read {read * 1e3:.1f} ms for {megabytes:.1f} MB")
    assert write + read < 2, "keeping a run must be a matter of milliseconds"


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
