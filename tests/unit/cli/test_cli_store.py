from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mcdo.cli import main
from mcdo.estimators.provenance import versions
from mcdo.store import Store
from mcdo.store.store import Unfinished
from mcdo.store.upkeep import waste

DAY = 86400
ARRAYS = {"x": np.arange(300.0)}


def say_nothing(line: str) -> None:
    raise AssertionError(line)


def facts(**other: Any) -> dict[str, Any]:
    label = {"encoder": "clip_tiny", "images": "digits, 40", "protocol": "Dropout(p=0.01), T = 4, 3 trials, seed 42"}
    return {"label": label, "provenance": {"versions": dict(versions())}, **other}


def put(root: Path, name: str, days: float = 0.0, **other: Any) -> Path:
    """A result of its own family, written so many days ago."""
    key = Store.key({"name": name})
    Store(root).put(key, ARRAYS, facts(**other))
    return aged(Store(root).path(key), days)


def aged(path: Path, days: float) -> Path:
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def unfinished(root: Path, name: str, days: float = 0.0) -> tuple[Unfinished, Path]:
    key = Store.key({"name": name})
    Store(root).check_writable()
    parts = Store(root).unfinished(key)
    parts.add({"columns": np.arange(2)}, facts())
    parts.add({"columns": np.arange(2, 4)}, facts())
    folder = Store(root).path(key).with_suffix(".parts")
    for path in folder.iterdir():
        aged(path, days)
    return parts, folder


def damage(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    status = main(["store", *arguments])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, captured.out.splitlines()


def left(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file() and path.name != "mcdo-store"}


# ---- list


def test_list_shows_every_result_oldest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new, old = put(tmp_path, "new", 0.2), put(tmp_path, "old", 3)
    _, folder = unfinished(tmp_path, "half")
    status, lines = run(capsys, "list", f"--store={tmp_path}")
    assert status == 0
    assert lines[0].split() == ["key", "encoder", "images", "size", "age", "protocol"]
    short = [f"{path.stem[:6]}-{path.stem[-6:]}" for path in (old, new, folder)]
    assert [line.split()[0] for line in lines[1:4]] == short
    protocol = "Dropout(p=0.01), T = 4, 3 trials, seed 42"
    size = f"{old.stat().st_size / 1024:.1f} kB"
    assert re.split(r"\s{2,}", lines[1]) == [short[0], "clip_tiny", "digits, 40", size, "3 d", protocol]
    assert " 5 h " in lines[2]
    assert lines[3].endswith(f" 0 min  unfinished, 2 parts: {protocol}")
    total = sum(path.stat().st_size for path in left(tmp_path))
    assert lines[4:] == [f"{tmp_path}: 3 in all, {total / 1024:.1f} kB"]


def test_list_shows_what_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "a").write_bytes(b"nothing")
    Store(tmp_path).put("cd" * 32, ARRAYS, {})
    _, lines = run(capsys, "list", f"--store={tmp_path}")
    assert sum("cannot be read: see mcdo store verify" in line for line in lines) == 1
    assert any(line.startswith("cdcdcd-cdcdcd  ?") for line in lines)


# ---- verify


def test_verify_names_damaged_files_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "good")
    _, folder = unfinished(tmp_path, "half")
    assert run(capsys, "verify", f"--store={tmp_path}") == (0, ["3 files read, 0 damaged"])
    bad = {damage(put(tmp_path, "bad")), damage(min(folder.iterdir()))}
    before = left(tmp_path)
    status, lines = run(capsys, "verify", f"--store={tmp_path}")
    assert status == 1
    assert set(lines[:-1]) == {f"damaged: {path} (its checksum is wrong)" for path in bad}
    assert lines[-1].startswith("4 files read, 2 damaged; mcdo store prune")
    assert left(tmp_path) == before


# ---- prune


def test_prune_removes_what_is_of_no_use_and_only_with_yes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = {put(tmp_path, "good", 400), put(tmp_path, "new")}
    _, fresh = unfinished(tmp_path, "half", 6)
    kept |= set(fresh.iterdir())
    bad, _ = damage(put(tmp_path, "bad")), damage(put(tmp_path, "worse"))
    with pytest.warns(UserWarning, match="set aside"):
        assert Store(tmp_path).get(Store.key({"name": "worse"})) is None
    _, stale = unfinished(tmp_path, "old", 8)
    for name, days in ((f".{bad.stem}.0a.part", 8), (f".{bad.stem}.0b.part", 1)):
        (bad.parent / name).write_bytes(b"half")
        aged(bad.parent / name, days)
    kept |= {bad.parent / f".{bad.stem}.0b.part"}
    put(tmp_path, "whole")
    _, done = unfinished(tmp_path, "whole")
    kept |= {done.with_suffix(".safetensors")}
    bad.with_name(f"{bad.stem[:2]}{'0' * 62}.lock").touch()
    aged(bad.with_name(f"{bad.stem[:2]}{'0' * 62}.lock"), 8)

    before = left(tmp_path)
    status, would = run(capsys, "prune", f"--store={tmp_path}")
    assert status == 0
    assert left(tmp_path) == before
    assert would[-1].startswith("would remove 6 things, ")
    assert would[-1].endswith("; --yes does it")
    status, did = run(capsys, "prune", f"--store={tmp_path}", "--yes")
    assert status == 0
    assert [line.removeprefix("would remove ") for line in would[:-1]] == [
        line.removeprefix("removed ") for line in did[:-1]
    ]
    reasons = {line.split("; ")[-1].rstrip(")") for line in did[:-1]}
    assert reasons == {
        "damaged: its checksum is wrong",
        "damaged, and set aside",
        "left by a process that was killed while it wrote",
        "parts of a run that nobody resumed",
        "parts of a run that is whole",
        "lock of a process that was killed",
    }
    assert left(tmp_path) == kept
    assert not stale.exists()
    assert not done.exists()
    assert run(capsys, "prune", f"--store={tmp_path}", "--yes") == (0, ["removed 0 things, 0 B"])


def test_prune_leaves_alone_what_a_process_works_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts, folder = unfinished(tmp_path, "half", 30)
    with parts.held(say_nothing):
        aged(folder.with_suffix(".lock"), 30)
        before = left(tmp_path)
        assert run(capsys, "prune", f"--store={tmp_path}", "--yes", "--older-than=0")[1] == ["removed 0 things, 0 B"]
        assert left(tmp_path) == before
    assert len(run(capsys, "prune", f"--store={tmp_path}", "--yes", "--older-than=0")[1]) == 2
    assert left(tmp_path) == set()


def test_prune_touches_nothing_but_the_names_of_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor what lies behind a link, however old it is."""
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    damage(put(root, "bad", 30))
    _, folder = unfinished(root, "half", 30)
    shared = folder.parent
    own = [
        elsewhere / "model.safetensors", root / "model.safetensors", shared / "model.safetensors", shared / "my.lock",
        root / "notes.parts" / "model.safetensors", elsewhere / f"{shared.name}{'0' * 62}.safetensors",
        root / f"{'ab' * 32}.safetensors", shared / f"{'0' * 64}.safetensors", folder / "notes.txt",
        elsewhere / "parts" / f"{'0' * 32}.safetensors",
    ]  # fmt: skip
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        aged(path, 400)
    (shared / f"{shared.name}{'1' * 62}.safetensors").symlink_to(own[0])
    (shared / f"{shared.name}{'1' * 62}.parts").symlink_to(elsewhere / "parts")
    (root / "00").symlink_to(elsewhere)
    run(capsys, "prune", f"--store={root}", "--yes", "--older-than=0")
    assert all(path.read_bytes() == b"mine" for path in own)
    assert len(left(tmp_path) - set(own)) == 1, "the link is left"
    assert not list(folder.glob("*.safetensors"))


def test_prune_refuses_a_folder_that_is_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "bad").write_bytes(b"")
    (tmp_path / "mcdo-store").unlink()
    assert main(["store", "prune", f"--store={tmp_path}", "--yes"]) == 2
    assert (
        "is not known to be a store (it has no file mcdo-store), so nothing in it is removed" in capsys.readouterr().err
    )
    assert len(left(tmp_path)) == 1


def test_prune_leaves_what_was_begun_after_it_looked(tmp_path: Path) -> None:
    parts, folder = unfinished(tmp_path, "half", 30)
    (found,) = waste(tmp_path, 0)
    with parts.held(say_nothing):
        assert not found.remove()
    assert len(list(folder.iterdir())) == 2
    assert found.remove()
    assert left(tmp_path) == set()


def test_prune_removes_old_results_of_other_versions_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"versions": {**versions(), "timm": "0.1"}}
    old, young = put(tmp_path, "old", 8, provenance=other), put(tmp_path, "young", 1, provenance=other)
    same = put(tmp_path, "same", 400)
    assert run(capsys, "prune", f"--store={tmp_path}", "--yes")[1] == ["removed 0 things, 0 B"]
    lines = run(capsys, "prune", f"--store={tmp_path}", "--yes", "--other-versions")[1]
    assert lines[0].startswith(f"removed {old} (")
    assert lines[0].endswith("; measured with timm 0.1)")
    assert left(tmp_path) == {young, same}
    run(capsys, "prune", f"--store={tmp_path}", "--yes", "--other-versions", "--older-than=0.5")
    assert left(tmp_path) == {same}


# ---- what is refused


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_a_folder_that_is_not_there_is_an_error_for_people(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", command, f"--store={tmp_path / 'none'}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"mcdo: there is no store at {tmp_path / 'none'}. Name its folder with --store\n"


@pytest.mark.parametrize("arguments", [[], ["store"], ["store", "lists"], ["store", "list", "--yes"]])
def test_a_command_that_does_not_exist_shows_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.startswith("usage: mcdo")


def test_the_package_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mcdo", "store", "verify", f"--store={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0 files read, 0 damaged\n")


def test_the_list_is_shown_in_the_letters_of_the_terminal(tmp_path: Path) -> None:
    named = {"label": {"encoder": "local-dir:/mod\u00e8le\x1b[31m", "images": "caf\udce9", "protocol": "\u03c1"}}
    put(tmp_path, "a", 0.0, **named)
    command = [sys.executable, "-m", "mcdo", "store", "list", "--store", str(tmp_path)]
    for encoding, shown in (("ascii", "mod\\xe8le\\x1b[31m"), ("utf-8", "mod\u00e8le\\x1b[31m")):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run(command, env=environment, capture_output=True, encoding=encoding, check=False)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
        assert "caf\\xe9" in done.stdout
        assert "\x1b" not in done.stdout


def test_a_file_system_that_fails_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["findings", "--reports", str(tmp_path), "--page", str(tmp_path / "file" / "page.md")]) == 2
    assert "mcdo: " in capsys.readouterr().err


def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path: Path) -> None:
    put(tmp_path, "a")
    command = [sys.executable, "-m", "mcdo", "store", "list", "--store", str(tmp_path)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("age", ["nan", "-5", "inf"])
def test_prune_refuses_what_is_no_age(age: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "good", 400)
    assert main(["store", "prune", f"--store={tmp_path}", f"--older-than={age}"]) == 2
    assert f"--older-than={age} is no age; give days, 0 or more" in capsys.readouterr().err
