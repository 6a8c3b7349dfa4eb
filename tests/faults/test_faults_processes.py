"""Real processes on one store, at once and on a disk that is full: one measurement, the same bits, nothing left."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]

Held = Callable[[str, int, str], None]
ROUNDS, AT_ONCE = 2, 4
DISKS_KB = (0, 16, 64, 128, 512)
"""What is free of the small disks; the run takes about 150."""
CHILD = """
import os, sys, warnings
import numpy as np
import torch
import mcdo.estimators.resumption
from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import monte_carlo
from mcdo.images import load_images
from mcdo.perturbation import Dropout

torch.set_num_threads(1)
warnings.simplefilter("ignore")
mcdo.estimators.resumption.SAVE_EVERY_S, mcdo.estimators.resumption.COST = 0.0, np.inf
store, out = sys.argv[1:]
try:
    run = monte_carlo(
        load_encoder("clip_tiny"), load_images("digits", n=48), Dropout(0.05), (4, 16), 3, batch_size=64, store=store,
        progress=False,
    )
except McdoError as error:
    print("refused:", error)
    sys.exit()
np.savez(out, **run.arrays())
left = [name for _, _, names in os.walk(store) for name in names if name.endswith((".part", ".lock"))]
print("left:", *left)
"""
ON_A_DISK = """
mount -t tmpfs -o size={size}k tmpfs "$1" && head -c {taken}k /dev/zero > "$1"/taken 2>/dev/null
exec "$2" -c "$3" "$1"/store "$4"
"""


def same(path: Path, expected: Path) -> bool:
    with np.load(path) as found, np.load(expected) as known:
        return set(found) == set(known) and all(np.array_equal(found[n], known[n], equal_nan=True) for n in known)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expected")
    subprocess.run([sys.executable, "-c", CHILD, str(folder / "store"), str(folder / "run.npz")], check=True)
    return folder / "run.npz"


def test_processes_that_want_one_run_at_once(tmp_path: Path, expected: Path, held: Held) -> None:
    for number in range(ROUNDS):
        store = tmp_path / f"store{number}"
        outs = [tmp_path / f"{number}-{i}.npz" for i in range(AT_ONCE)]
        running = [subprocess.Popen([sys.executable, "-c", CHILD, str(store), str(out)]) for out in outs]
        assert [process.wait() for process in running] == [0] * AT_ONCE
        assert all(same(out, expected) for out in outs)
        assert [path.suffix for path in store.rglob("*.*")] == [".safetensors"] * 2, (
            "the run, and which sites are alive"
        )
    held("a process that wants the run that others are measuring", ROUNDS * AT_ONCE, "the same bits, one entry")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("unshare") is None,
    reason="a small disk is mounted by root, with util-linux's unshare",
)
def test_a_disk_that_is_full_costs_no_number(tmp_path: Path, expected: Path, held: Held) -> None:
    refused = 0
    for free in DISKS_KB:
        disk, out = tmp_path / f"disk{free}", tmp_path / f"{free}.npz"
        disk.mkdir()
        size = 64 + free
        script = ON_A_DISK.format(size=size, taken=size - free)
        command = ["unshare", "-m", "sh", "-c", script, "sh", str(disk), sys.executable, CHILD, str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        if done.stdout.startswith("refused:"):
            assert "cannot be written" in done.stdout
            refused += 1
        else:
            assert same(out, expected)
            assert done.stdout == "left:\n"
    assert 0 < refused < len(DISKS_KB)
    what = f"a disk of which 0 to {DISKS_KB[-1]} kB are free"
    held(what, len(DISKS_KB), f"{refused} refused before any pass, the others measured to the same bits")
