"""Real processes that are ended while they measure: what is lost, and whether the numbers are the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]

Held = Callable[[str, int, str], None]
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)
LIFE_S = 4.0
"""Seconds that a process measures before it is ended: a save every two, and a busy machine."""
CHILD = """
import sys
import numpy as np
import torch
from mcdo.encoders import load_encoder
from mcdo.estimators import monte_carlo
from mcdo.images import load_images
from mcdo.perturbation import Dropout, PerturbedTower

torch.set_num_threads(1)
encoder, images, counted = load_encoder("clip_tiny"), load_images("digits", n=64), [0]
call = PerturbedTower.__call__

def counting(self, *arguments, **options):
    if not counted[0]:
        print("begun", flush=True)
    counted[0] += 1
    return call(self, *arguments, **options)

PerturbedTower.__call__ = counting
try:
    run = monte_carlo(encoder, images, Dropout(0.01), (64, 2048), 5, geometry=(64,), store=sys.argv[1], progress=False)
    np.savez(sys.argv[2], **run.arrays())
finally:
    print("batches", counted[0], flush=True)
"""
BATCHES = 5 * 2048 // 16
"""Of the one block that the run is: at the default size of batches, 64 images times 16 passes."""


def begin(store: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, str(store), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() in ("begun\n", "batches 0\n")
    return process


def test_a_run_of_one_block_makes_progress_however_often_it_is_ended(tmp_path: Path, held: Held) -> None:
    whole = begin(tmp_path / "whole", tmp_path / "whole.npz")
    whole.communicate()
    ended, slowest = 0, 0.0
    for number in ENDS:
        process = begin(tmp_path / "store", tmp_path / "out.npz")
        time.sleep(LIFE_S)
        if process.poll() is not None:
            break
        process.send_signal(number)
        began = time.monotonic()
        process.communicate()
        slowest = max(slowest, time.monotonic() - began)
        ended += 1
    last = begin(tmp_path / "store", tmp_path / "out.npz")
    said, _ = last.communicate()
    assert last.returncode == 0
    batches = int(said.split()[-1]) if said else 0  # all of it was kept
    assert ended, "it was over before it could be ended"
    assert batches < BATCHES, "nothing was kept"
    with np.load(tmp_path / "whole.npz") as expected, np.load(tmp_path / "out.npz") as found:
        assert set(expected) == set(found)
        assert all(np.array_equal(expected[name], found[name], equal_nan=True) for name in expected)
    assert [path.suffix for path in (tmp_path / "store").rglob("*.*")] == [".safetensors"] * 2, (
        "and which sites are alive"
    )
    assert slowest < 3, "a process that is ended ends within 3 s"
    what = f"SIGKILL, SIGTERM, SIGHUP or SIGINT {LIFE_S:.0f} s into a run that is one block"
    held(what, ended, "goes on in the middle of the block, to the same bits; nothing is left beside the result")


DELAY_S, MOST_LOST_S = 0.3, 5.0
"""How long a batch takes here, as those of a large encoder do; and what may be lost."""
SLOW_CHILD = """
import sys, time
import numpy as np
import torch
import mcdo
import mcdo.harness.requests as requests
import mcdo.perturbation.census as silencing
from mcdo.encoders import load_encoder
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import prepared
from mcdo.estimators.probes import noise_basis
from mcdo.harness import Session, Settings
from mcdo.perturbation import Dropout, PerturbedTower, StochasticDepth, deterministic_features

torch.set_num_threads(1)
what, store, out, delay = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])

def slow(call):
    def made(*arguments, **options):
        print("batch", flush=True)
        time.sleep(delay)
        return call(*arguments, **options)
    return made

PerturbedTower.__call__ = slow(PerturbedTower.__call__)
requests.deterministic_features = slow(deterministic_features)
encoder, images = load_encoder("clip_tiny"), mcdo.load_images("digits", 8)
if what == "text":
    session = Session(Settings(("clip_tiny",), store=store, batch_size=4))
    prompts = tuple(f"a photo of {i} things" for i in range(160))
    found = session.measure(requests.TextFeatures("clip_tiny", prompts))["features"]
elif what == "basis":
    found = noise_basis(encoder, Dropout(), store=store)
elif what == "sites":
    silencing._without = slow(silencing._without)
    sites = alive_sites(encoder, prepared(encoder, images), Dropout(), store=store, progress=False)
    found = [site.name for site in sites]
else:
    kind = Dropout(0.05) if what == "census" else StochasticDepth(0.001)
    census = mcdo.census(encoder, images, kind, store=store, progress=False)
    found = [record.variance for record in census]
np.savez(out, found=found)
"""


NAMES = {
    "text": "features of prompts",
    "basis": "the noise basis",
    "sites": "the look at which sites are alive",
    "census": "the census",
    "branches": "the census of a site of 256 passes",
}


@pytest.mark.parametrize("what", list(NAMES))
def test_what_is_no_run_goes_on_as_well_and_loses_seconds(what: str, tmp_path: Path, held: Held) -> None:
    def begin(store: str, delay: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SLOW_CHILD, what, str(tmp_path / store), str(tmp_path / f"{store}.npz")]
        return subprocess.Popen([*command, str(delay)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    whole = begin("whole", 0.0).communicate()[0].count("batch")
    batches, ended = 0, 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = begin("store", DELAY_S)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(2.5)
        process.send_signal(number)
        batches += 1 + process.communicate()[0].count("batch")
        ended += process.returncode != 0
    last = begin("store", 0.0)
    rest = last.communicate()[0].count("batch")
    assert last.returncode == 0
    assert ended == 2, "it was over before it could be ended"
    assert rest < whole, "nothing was kept"
    assert (batches + rest - whole) * DELAY_S <= ended * (MOST_LOST_S + DELAY_S)
    with np.load(tmp_path / "whole.npz") as expected, np.load(tmp_path / "store.npz") as found:
        np.testing.assert_array_equal(found["found"], expected["found"])
    left = {path.suffix for path in (tmp_path / "store").rglob("*.*")}
    assert left <= {".safetensors", ".json"}, "beside the result, what is known of the encoder"
    held(
        f"SIGKILL and SIGTERM 2.5 s into {NAMES[what]}",
        ended,
        "goes on to the same bits, and no more than 5 s are lost",
    )
