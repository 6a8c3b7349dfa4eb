"""Feature files of the backbones study that are not what was written: each is refused by its name, none hangs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.studies.backbones.features import Features, Identity, read_features, write_features
from mcdo.studies.backbones.plants import View

pytestmark = [pytest.mark.slow, pytest.mark.faults]

IDENTITY = Identity("some", 16, False, "ab" * 32, "relu", "squash", "torch", "cd" * 32)
FLIPS, PAGE, LONGEST_S = 1000, 512, 2.0
"""The last of processor time: what hangs there goes round in circles."""
Held = Callable[[str, int, str], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    views = [View(plant, number, "top") for plant in "pq" for number in range(6)]
    vectors = {view: rng.standard_normal(16).astype(np.float32) for view in views}
    return write_features(tmp_path / "features.h5", Features(IDENTITY, vectors, {v: v.address for v in views}))


def refused(path: Path) -> bool:
    began, said = time.process_time(), ""
    try:
        read_features(path)
    except McdoError as error:
        said = str(error)
    assert time.process_time() - began < LONGEST_S
    assert not said or str(path) in said
    return bool(said)


def test_a_flipped_bit_is_found_wherever_it_is(path: Path, held: Held) -> None:
    whole, rng, same = path.read_bytes(), np.random.default_rng(1), read_features(path).vectors
    read = 0
    for place in rng.choice(8 * len(whole), FLIPS, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        if not refused(path):  # what pads the user block is in no data set and under no checksum
            assert {view: vector.tolist() for view, vector in read_features(path).vectors.items()} == {
                view: vector.tolist() for view, vector in same.items()
            }
            read += 1
    assert read < FLIPS
    held("one bit of a file of features flipped", FLIPS, f"{FLIPS - read} refused by name, the others read as written")


def test_a_page_of_zeros_or_of_noise_and_a_file_that_ends_early(path: Path, held: Held) -> None:
    whole, rng = path.read_bytes(), np.random.default_rng(2)
    starts = range(0, len(whole), PAGE)
    damaged = [whole[:start] + bytes(PAGE) + whole[start + PAGE :] for start in starts]
    damaged += [whole[:start] + rng.bytes(PAGE) + whole[start + PAGE :] for start in starts]
    damaged += [whole[:start] for start in starts]
    damaged = [each for each in damaged if each != whole]
    for each in damaged:
        path.write_bytes(each)
        assert refused(path)
    held(
        "a page of a file of features zeroed, overwritten or cut off",
        len(damaged),
        "refused by name within 2 s of processor time",
    )
