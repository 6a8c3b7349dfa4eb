"""Files of a store that are not what was written: each is named and measured again, never served."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.store import DamagedResultWarning, Store
from mcdo.store.store import MARKER
from mcdo.store.upkeep import verified, waste

pytestmark = [pytest.mark.slow, pytest.mark.faults]

FLIPS, FOLDERS = 400, 40
FOREIGN = (
    "model.safetensors", "weights.lock", "notes.parts", "a.tmp", "b.damaged", "ab/model.safetensors", "ab/x.parts/y",
    "ab/README.md", ".git/index.lock", "deep/er/model.safetensors", "ab/1.safetensors",
)  # fmt: skip
Held = Callable[[str, int, str], None]


def filled(root: Path, names: str) -> tuple[Store, dict[str, str]]:
    store, rng = Store(root), np.random.default_rng(0)
    keys = {name: Store.key({"name": name}) for name in names}
    for key in keys.values():
        store.put(key, {"scores": rng.standard_normal((3, 40))}, {"label": {"encoder": "tiny"}})
    return store, keys


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, held: Held) -> None:
    store, keys = filled(tmp_path, "a")
    path = store.path(keys["a"])
    whole, rng, found = path.read_bytes(), np.random.default_rng(1), store.get(keys["a"])
    assert found is not None
    for place in rng.choice(8 * len(whole), FLIPS, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedResultWarning)
            again = store.get(keys["a"])
        assert again is None or (np.array_equal(again[0]["scores"], found[0]["scores"]) and again[1] == found[1])
    held("one bit of a stored result flipped", FLIPS, "set aside and measured again, or read as it was written")


def test_an_entry_under_the_name_of_another_is_never_served(tmp_path: Path, held: Held) -> None:
    names = "abcdefgh"
    store, keys = filled(tmp_path, names)
    wholes = {name: store.path(keys[name]).read_bytes() for name in names}
    swaps = [(one, other) for one in names for other in names if one != other]
    for one, other in swaps:
        store.path(keys[one]).write_bytes(wholes[other])
        assert [path for path, error in verified(tmp_path) if error] == [store.path(keys[one])]
        with pytest.warns(DamagedResultWarning, match="it holds another measurement"):
            assert store.get(keys[one]) is None
        store.path(keys[one]).write_bytes(wholes[one])
    held("a stored result under the name of another", len(swaps), "named by verify; set aside and measured again")


def test_prune_takes_nothing_that_a_store_did_not_write(tmp_path: Path, held: Held) -> None:
    """Folders of a user's into which a store was put, and folders that are none, at the shortest age."""
    rng, foreign = np.random.default_rng(3), 0
    for number in range(FOLDERS):
        root, outside = tmp_path / str(number), tmp_path / f"outside{number}"
        store, keys = filled(root, "ab")
        outside.mkdir()
        (outside / "model.safetensors").write_bytes(b"weights")
        mine = {root / name: rng.bytes(64) for name in rng.choice(FOREIGN, 6, replace=False)}
        for path, content in mine.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        link = root / keys["a"][:2] / f"{'0' * 64}.parts"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(outside)
        store.path(keys["b"]).write_bytes(b"damaged")
        if number % 2:
            (root / MARKER).unlink()
            with pytest.raises(McdoError, match="not known to be a store"):
                waste(root, 0)
        else:
            gone = [each for each in waste(root, 0) if each.remove()]
            assert store.path(keys["b"]) in {each.path for each in gone}
        assert all(path.read_bytes() == content for path, content in mine.items())
        assert (outside / "model.safetensors").read_bytes() == b"weights"
        assert store.get(keys["a"]) is not None
        foreign += len(mine) + 1
    held("a user's file in a folder that is pruned, or beyond a link in it", foreign, "there, as it was")
