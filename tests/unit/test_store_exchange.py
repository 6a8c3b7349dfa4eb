"""Merging stores: what one lacks is copied, verified, and nothing is replaced."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdo.cli import main
from mcdo.errors import McdoError
from mcdo.store import DamagedResultWarning, Store, upkeep
from mcdo.store.exchange import merge
from mcdo.store.files import write


def filled(root: Path, *names: str, value: float = 1.0, parts: int = 0) -> dict[str, str]:
    """A store with a result of each name; keys by name. The last has parts as well where asked for."""
    store, keys = Store(root), {name: Store.key({"name": name}) for name in names}
    for name, key in keys.items():
        label = {"encoder": f"enc-{name[0]}", "images": "digits", "protocol": name}
        store.put(key, {"x": np.full(4, value)}, {"label": label})
        store.used("exp_of_" + name[0], key)
    for part in range(parts):
        key = keys.setdefault("half", Store.key({"name": "half"}))
        store.unfinished(key).add({"columns": np.array([part])}, {"label": {"encoder": "enc-h"}})
    return keys


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_three_stores_become_one(tmp_path: Path) -> None:
    """Each has what the others lack, two have one in common, and one is unfinished in two of them."""
    a, b, c = (tmp_path / name for name in "abc")
    filled(a, "a1", "a2", "common", parts=1)
    filled(b, "b1", "common", parts=2)
    filled(c, "c1")
    before = {root: files(root) for root in (a, b, c)}
    whole = tmp_path / "whole"
    found = [merge(str(each), str(whole)) for each in (a, b, c)]
    assert [not each.damaged and not each.different for each in found] == [True] * 3
    assert set(files(whole)) == set(before[a] | before[b] | before[c])
    assert {root: files(root) for root in (a, b, c)} == before, "who is read from is left as it is"
    assert not any(error for _, error in upkeep.verified(whole))
    assert merge(str(whole), str(a)).copied
    assert files(a) == files(whole)
    again = merge(str(whole), str(a))
    assert (again.copied, again.size) == ([], 0)


def test_parts_of_what_is_whole_elsewhere_are_not_copied(tmp_path: Path) -> None:
    keys = filled(tmp_path / "a", "x", parts=2)
    Store(tmp_path / "b").put(keys["half"], {"x": np.zeros(2)}, {})
    merge(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not list((tmp_path / "b").glob("??/*.parts"))


def test_nothing_is_replaced_and_other_numbers_are_named(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    key = filled(a, "x")["x"]
    filled(b, "x", value=2.0)
    before = files(b)
    done = merge(str(a), str(b))
    assert done.different == [f"{key[:2]}/{key}.safetensors"]
    assert files(b) == before


def test_a_damaged_file_stays_where_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    keys = filled(a, "good", "bad")
    path = Store(a).path(keys["bad"])
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert main(["store", "push", f"--store={a}", str(b)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"damaged, and left: {path.relative_to(a)} (its checksum is wrong)"
    assert said[1].startswith("3 files copied, "), "the other result, and two uses"
    assert not Store(b).path(keys["bad"]).exists()
    assert Store(b).get(keys["good"]) is not None


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_a_damaged_copy_is_replaced_by_a_sound_one_and_said(
    protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It counted as there. Of a store elsewhere heads alone are read: a torn file shows, a flipped bit does not."""
    import fsspec

    source, url = tmp_path / "a", f"{protocol}://{tmp_path.as_posix()}/there"
    keys = filled(source, "torn", "other", "bit", parts=1)
    (source / "encoders").mkdir()
    (source / "encoders" / "clip.json").write_text('{"key": "clip"}')
    merge(str(source), url)
    there, root = fsspec.core.url_to_fs(url)
    names = {name: f"{root}/{key[:2]}/{key}.safetensors" for name, key in keys.items() if name != "half"}
    (part,) = (str(path) for path in there.find(root) if ".parts/" in str(path))
    spoilt = {
        names["torn"]: there.cat_file(names["torn"])[:-4],
        names["other"]: there.cat_file(names["torn"]),
        names["bit"]: there.cat_file(names["bit"])[:-1] + b"!",
        part: b"",
        f"{root}/encoders/clip.json": b"{",
    }
    for path, content in spoilt.items():
        there.pipe_file(path, content)
    seen = len(spoilt) - (protocol == "memory")
    assert main(["store", "push", f"--store={source}", url]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("damaged where it was copied to, and replaced: ") for line in said) == seen
    assert f"{seen} files copied" in said[-1]
    sound = files(source)
    arrived = {str(path)[len(root) :].lstrip("/"): there.cat_file(path) for path in there.find(root)}
    assert {name for name in sound if arrived[name] != sound[name]} == {
        f"{keys['bit'][:2]}/{keys['bit']}.safetensors" for _ in range(protocol == "memory")
    }
    assert main(["store", "push", f"--store={source}", url]) == 0
    assert "0 files copied" in capsys.readouterr().out


def test_what_is_damaged_on_both_sides_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = filled(tmp_path / "a", "x")["x"]
    merge(str(tmp_path / "a"), str(tmp_path / "b"))
    for root in (tmp_path / "a", tmp_path / "b"):
        path = Store(root).path(key)
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    before = files(tmp_path / "b")
    assert main(["store", "pull", f"--store={tmp_path / 'b'}", str(tmp_path / "a")]) == 1
    assert "nor is the copy that is there sound: its checksum is wrong" in capsys.readouterr().out
    assert files(tmp_path / "b") == before


def test_what_is_damaged_on_its_way_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.local import LocalFileSystem

    copied = LocalFileSystem.put_file

    def spoilt(self: LocalFileSystem, source: str, target: str, **options: object) -> None:
        copied(self, source, target, **options)
        if ".safetensors" in target:
            Path(target).write_bytes(Path(target).read_bytes()[:-1])

    filled(tmp_path / "a", "x")
    monkeypatch.setattr(LocalFileSystem, "put_file", spoilt)
    with pytest.raises(McdoError, match="did not arrive"):
        merge(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not list((tmp_path / "b").rglob("*.safetensors*"))


def test_only_the_names_of_a_store_are_copied(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    keys = filled(a, "x")
    for name in ("notes.txt", "../out.txt", f"{keys['x'][:2]}/{'0' * 64}.safetensors", "encoders/.x.json", "zz/y.lock"):
        (a / name).parent.mkdir(parents=True, exist_ok=True)
        (a / name).write_text("mine")
    merge(str(a), str(b))
    assert set(files(b)) == {"mcdo-store", f"{keys['x'][:2]}/{keys['x']}.safetensors", f"uses/exp_of_x/{keys['x']}"}


def test_what_is_known_of_an_encoder_is_added_to(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for root, text in ((a, "t"), (b, None)):
        filled(root, "x")
        (root / "encoders").mkdir()
        (root / "encoders" / "clip.json").write_text(json.dumps({"key": "clip", "text": text}))
    merge(str(b), str(a))
    assert json.loads((a / "encoders" / "clip.json").read_text())["text"] == "t"
    merge(str(a), str(b))
    assert json.loads((b / "encoders" / "clip.json").read_text()) == {"key": "clip", "text": "t"}
    (b / "encoders" / "clip.json").write_text(json.dumps({"key": "other", "text": None}))
    merge(str(a), str(b))
    assert json.loads((b / "encoders" / "clip.json").read_text()) == {"key": "other", "text": None}


def test_a_folder_that_nobody_may_read_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it holds was left where it is, and the merge said that all was copied."""
    key = filled(tmp_path / "a", "x", "y")["x"]
    scan = os.scandir

    def locked(path: Any) -> Any:
        if os.fspath(path).endswith(key[:2]):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(McdoError, match=f"Permission denied: '.*{key[:2]}'"):
        merge(str(tmp_path / "a"), str(tmp_path / "b"))


def test_a_folder_of_something_else_is_refused_on_either_side(tmp_path: Path) -> None:
    filled(tmp_path / "a", "x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("mine")
    with pytest.raises(McdoError, match=r"b is no store \(it has no file mcdo-store\) and not empty"):
        merge(str(tmp_path / "a"), str(tmp_path / "b"))
    with pytest.raises(McdoError, match="b is no store: it has no file mcdo-store"):
        merge(str(tmp_path / "b"), str(tmp_path / "a"))
    with pytest.raises(McdoError, match="nowhere is no store"):
        merge(str(tmp_path / "nowhere"), str(tmp_path / "a"))
    with pytest.raises(McdoError, match="cannot be reached"):
        merge(str(tmp_path / "a"), "gopher://host/store")


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_store_behind_a_url(protocol: str, tmp_path: Path) -> None:
    keys, url = filled(tmp_path / "a", "x", parts=1), f"{protocol}://{tmp_path.as_posix()}/shelf/store"
    assert len(merge(str(tmp_path / "a"), url).copied) == 3
    assert merge(str(tmp_path / "a"), url).copied == []
    shutil.rmtree(tmp_path / "a")
    merge(url, str(tmp_path / "a"))
    assert Store(tmp_path / "a").get(keys["x"]) is not None
    assert len(list(Store(tmp_path / "a").unfinished(keys["half"]).parts())) == 1


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("locked", "locked://host/store cannot be reached: no key was accepted"),
        ("broken", "to broken://.*no credentials"),
    ],
)
def test_a_place_that_cannot_be_reached_is_a_message(protocol: str, said: str, tmp_path: Path) -> None:
    """One whose library has errors of its own."""
    from fsspec import AbstractFileSystem, register_implementation

    class Place(AbstractFileSystem):  # type: ignore[misc]
        def __init__(self, **_: Any) -> None:
            if protocol == "locked":
                raise LookupError("no key was accepted")
            super().__init__()

        def exists(self, path: str, **_: Any) -> bool:
            raise LookupError("no credentials")

    Place.protocol = protocol
    register_implementation(protocol, Place, clobber=True)
    filled(tmp_path / "a", "x")
    with pytest.raises(McdoError, match=said):
        merge(str(tmp_path / "a"), f"{protocol}://host/store")


def test_stats_are_by_encoder_and_experiment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = filled(tmp_path, "a1", "a2", "b1", parts=1)
    Store(tmp_path).used("other", keys["a1"])
    assert main(["store", "stats", f"--store={tmp_path}"]) == 0
    rows = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert rows[:-1] == [
        ["encoder", "experiment", "whole", "unfinished"],
        ["enc-a", "exp_of_a", "2", "0"],
        ["enc-a", "other", "1", "0"],
        ["enc-b", "exp_of_b", "1", "0"],
        ["enc-h", "-", "0", "1"],
    ]


def test_of_a_hostile_store_nothing_but_its_results_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Links, a FIFO, names that steer a terminal, gigabytes of nothing, and results under other names."""
    keys = filled(tmp_path / "evil", "a", "b", "c")
    store, secret = Store(tmp_path / "evil"), tmp_path / "secret"
    secret.write_text('{"password": "x"}')
    cards = store.root / "encoders"
    cards.mkdir()
    (cards / "link.json").symlink_to(secret)
    os.mkfifo(cards / "fifo.json")
    (cards / "a\nGO: fine\x1b[2J.json").write_text("[" * 100_000)
    with (cards / "large.json").open("wb") as file:
        file.truncate(2**33)
    with store.path(keys["b"]).open("r+b") as file:
        file.truncate(2**33)
    shutil.copy(store.path(keys["a"]), store.path(keys["c"]))
    next((store.root / "uses" / "exp_of_b").iterdir()).write_text("more than a name")
    other = store.path(Store.key({"name": "link"}))
    other.parent.mkdir(exist_ok=True)
    other.symlink_to(secret)
    assert main(["store", "pull", str(store.root), "--store", str(tmp_path / "mine")]) == 1
    said = capsys.readouterr().out
    assert {path.name for path in (tmp_path / "mine").rglob("*") if path.is_file()} == {
        "mcdo-store", f"{keys['a']}.safetensors", keys["a"], keys["c"]
    }  # fmt: skip
    for reason in ("no card of an encoder", "more than there may be", "not what its head says", "another measurement"):
        assert reason in said
    assert "\nGO" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    "facts",
    [[1], {"label": [1]}, {"label": {"encoder": 5}}, {"provenance": []}, {"provenance": {"versions": 3}}],
)
def test_facts_of_another_kind_are_damage_to_every_reader(facts: Any, tmp_path: Path) -> None:
    keys, store = filled(tmp_path, "a"), Store(tmp_path)
    write(store.path(keys["a"]), keys["a"], {"x": np.ones(4)}, facts)
    assert main(["store", "verify", "--store", str(tmp_path)]) == 1
    for command in (["list"], ["stats"], ["prune", "--other-versions", "--older-than=0"]):
        assert main(["store", command[0], "--store", str(tmp_path), *command[1:]]) == 0
    with pytest.warns(DamagedResultWarning):
        assert store.get(keys["a"]) is None
