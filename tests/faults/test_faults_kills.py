"""Real processes that are ended while they measure: what is lost, and whether the numbers are the same bits.

Batches are slowed down to what those of a large encoder take, and are the clock: a process is ended when it begins one.
So how fast the machine is, and what else it does, decides nothing.
"""

from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.faults]

Held = Callable[[str, int, str], None]
DELAY_S, MOST_LOST_S, LONGEST_END_S = 0.3, 5.0, 3.0
"""How long a batch takes here, what SIGKILL may cost, and how long the end may take that other signals ask for."""
LIFE_S = 7.0
LOST = f"no more is lost in all than {MOST_LOST_S:.0f} s for each SIGKILL and a batch for each signal"
SHORT_LIVES = ((signal.SIGKILL, 2.5), (signal.SIGTERM, 0.9))
"""Of what takes five seconds in all: the second ends before anything is saved by its time."""
ENDS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGKILL, signal.SIGINT)
CHILD = """
import sys, time
import numpy as np
import torch
import mcdo
import mcdo.harness.requests as requests
import mcdo.perturbation.census as silencing
from mcdo.encoders import load_encoder
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import prepared
from mcdo.estimators.jacobian import SiteGraph
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
if what == "run":
    run = mcdo.monte_carlo(encoder, images, Dropout(0.01), (64, 256), 5, geometry=(64,), store=store, progress=False)
    found = run.arrays()
elif what == "products":
    SiteGraph.terms = slow(SiteGraph.terms)
    found = mcdo.first_order(encoder, images, Dropout(0.01), 8, 10, store=store, progress=False).arrays()
elif what == "text":
    session = Session(Settings(("clip_tiny",), store=store, batch_size=4))
    prompts = tuple(f"a photo of {i} things" for i in range(160))
    found = {"features": session.measure(requests.TextFeatures("clip_tiny", prompts))["features"]}
elif what == "basis":
    found = {"basis": noise_basis(encoder, Dropout(), store=store)}
elif what == "sites":
    silencing._without = slow(silencing._without)
    sites = alive_sites(encoder, prepared(encoder, images), Dropout(), store=store, progress=False)
    found = {"sites": [site.name for site in sites]}
else:
    kind = Dropout(0.05) if what == "census" else StochasticDepth(0.001)
    census = mcdo.census(encoder, images, kind, store=store, progress=False)
    found = {"variance": [record.variance for record in census]}
np.savez(out, **found)
"""


class Process:
    """One that measures ``what`` into a store, a batch each ``delay`` seconds; ``batches`` says how many it began."""

    def __init__(self, what: str, store: Path, delay: float) -> None:
        command = [sys.executable, "-c", CHILD, what, str(store), str(store.with_suffix(".npz")), str(delay)]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.batches = 0

    def goes_on_for(self, batches: int) -> bool:
        """Whether it begins so many more, and one after them."""
        assert self._child.stdout is not None
        for _ in itertools.islice(self._child.stdout, batches + 1):
            self.batches += 1
            batches -= 1
        return batches < 0

    def end(self, number: signal.Signals) -> float:
        """How many seconds it takes to end, without those in which other processes had the processors."""
        before, began = self._queued(), time.monotonic()
        self._child.send_signal(number)
        queued = dict(before)
        while self._child.poll() is None:
            queued |= self._queued()
            time.sleep(0.005)
        took = time.monotonic() - began - (sum(queued.values()) - sum(before.values()))
        self.finish()
        return took

    def finish(self) -> int:
        """Its exit status, when it has ended."""
        self.batches += self._child.communicate()[0].count("batch")
        return self._child.returncode

    def _queued(self) -> dict[Path, float]:
        """Seconds that each of its threads, and this process, waited for a processor, where the system tells."""
        found = {}
        for thread in (*Path(f"/proc/{self._child.pid}/task").glob("*/schedstat"), Path("/proc/self/schedstat")):
            with suppress(OSError, IndexError):  # it ends meanwhile
                found[thread] = int(thread.read_text().split()[1]) / 1e9
        return found


def same(path: Path, expected: Path) -> bool:
    with np.load(path) as found, np.load(expected) as known:
        return set(found) == set(known) and all(
            np.array_equal(found[name], known[name], equal_nan=known[name].dtype.kind == "f") for name in known
        )


def check(tmp_path: Path, whole: Process, ended: list[tuple[Process, signal.Signals]], last: Process) -> None:
    """The same bits, no more lost than may be, and nothing left beside the result."""
    assert same(tmp_path / "store.npz", tmp_path / "whole.npz")
    batches = last.batches + sum(process.batches for process, _ in ended)
    killed = sum(number is signal.SIGKILL for _, number in ended)
    assert (batches - whole.batches) * DELAY_S <= killed * MOST_LOST_S + len(ended) * DELAY_S + 1e-9
    left = {path.suffix for path in (tmp_path / "store").rglob("*.*")}
    assert left <= {".safetensors", ".json"}, "beside the result, what is known of the encoder"


@pytest.mark.parametrize(("what", "name"), [("run", "run that is one block"), ("products", "first-order run")])
def test_who_is_ended_every_seven_seconds_comes_to_its_end(what: str, name: str, tmp_path: Path, held: Held) -> None:
    whole = Process(what, tmp_path / "whole", 0.0)
    assert whole.finish() == 0
    ended, slowest = list[tuple[Process, signal.Signals]](), 0.0
    for number in itertools.cycle(ENDS):
        process = Process(what, tmp_path / "store", DELAY_S)
        if not process.goes_on_for(math.ceil(LIFE_S / DELAY_S)):
            break
        took = process.end(number)
        slowest = max(slowest, took if number is not signal.SIGKILL else 0.0)
        ended.append((process, number))
        assert len(ended) * (LIFE_S - MOST_LOST_S) < whole.batches * DELAY_S, "it makes no progress"
    assert process.finish() == 0
    assert len(ended) > 1
    check(tmp_path, whole, ended, process)
    assert slowest < LONGEST_END_S, "who is asked to end ends within 3 s"
    held(
        f"SIGKILL, SIGTERM, SIGHUP or SIGINT {LIFE_S:.0f} s into a {name}, until it comes to its end",
        len(ended),
        f"the same bits; {LOST}; whom another signal asks to end has ended within {LONGEST_END_S:.0f} s",
    )


NAMES = {
    "text": "features of prompts",
    "basis": "the noise basis",
    "sites": "the look at which sites are alive",
    "census": "the census",
    "branches": "the census of a site of 256 passes",
}


@pytest.mark.parametrize("what", list(NAMES))
def test_what_is_no_run_goes_on_as_well_and_loses_seconds(what: str, tmp_path: Path, held: Held) -> None:
    whole = Process(what, tmp_path / "whole", 0.0)
    assert whole.finish() == 0
    ended = list[tuple[Process, signal.Signals]]()
    for number, life in SHORT_LIVES:
        process = Process(what, tmp_path / "store", DELAY_S)
        assert process.goes_on_for(math.ceil(life / DELAY_S)), "it was over before it could be ended"
        process.end(number)
        ended.append((process, number))
    last = Process(what, tmp_path / "store", 0.0)
    assert last.finish() == 0
    assert last.batches < whole.batches, "nothing was kept"
    check(tmp_path, whole, ended, last)
    held(
        f"{' and '.join(f'{number.name} {life} s' for number, life in SHORT_LIVES)} into {NAMES[what]}",
        len(ended),
        f"goes on to the same bits; {LOST}",
    )
