from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looked_at import looked_at
from torch import Tensor

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun, monte_carlo
from mcdo.images import ImageSet, load_images
from mcdo.perturbation import Dropout
from mcdo.store import DamagedResultWarning, Store, UnsavedResultWarning, open_store
from mcdo.store.upkeep import verified

KEY = "ab" * 32
ARRAYS = {"features": np.arange(6, dtype=np.float32).reshape(2, 3), "trace_pre@4": np.array([[0.1, np.nan]])}
FACTS = {"sites": [["visual.proj", "final_projection"]], "provenance": {"weights": "ü", "n": 3}}


@cache
def encoder_of(seed: int = 0) -> Encoder:
    return looked_at("clip_tiny", weights="random", seed=seed)


@cache
def digits() -> ImageSet:
    return load_images("digits", n=3)


def measure(store: Any, encoder: Encoder | None = None, images: ImageSet | None = None, **options: Any) -> Any:
    protocol: dict[str, Any] = {"dropout": Dropout(0.1), "passes": (2, 4), "trials": 2, "progress": False} | options
    return monte_carlo(encoder or encoder_of(), images or digits(), store=store, **protocol)


def counted(encoder: Encoder) -> list[int]:
    """The rows of every pass of a measurement from now on."""
    forward, rows = encoder.forward_image, []
    assert encoder.probe

    def counting(pixels: Tensor, **options: Any) -> Tensor:
        rows.append(len(pixels))
        return forward(pixels, **options)

    vars(encoder)["forward_image"] = counting
    return rows


@pytest.fixture
def own() -> Encoder:
    return looked_at("clip_tiny", weights="random")


def files(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file() and path.name != "mcdo-store")


def equal(one: MonteCarloRun, other: MonteCarloRun) -> bool:
    a, b = one.arrays(), other.arrays()
    assert [(k, v.dtype, v.shape) for k, v in sorted(a.items())] == [
        (k, v.dtype, v.shape) for k, v in sorted(b.items())
    ]
    return all(np.array_equal(a[k].view(np.uint8), b[k].view(np.uint8)) for k in a)


# ---- a measurement and its place


def test_a_run_comes_back_bit_for_bit_and_nothing_is_measured_twice(own: Encoder, tmp_path: Path) -> None:
    first = measure(tmp_path, own)
    rows = counted(own)
    second = measure(str(tmp_path), own)
    assert rows == []
    assert equal(first, second)
    assert (second.config, second.ids, second.encoder, second.sites) == (
        *(first.config, first.ids, first.encoder),
        first.sites,
    )
    assert second.provenance == first.provenance
    assert equal(first, measure(None, own))
    assert len(files(tmp_path)) == 1


def test_a_key_is_only_a_name_and_the_same_weights_under_another_are_found(own: Encoder, tmp_path: Path) -> None:
    measure(tmp_path)
    rows = counted(own)
    own.key = "another"
    assert measure(tmp_path, own).encoder == "another"
    assert rows == []


def test_a_store_is_opened_from_whatever_the_caller_has(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert open_store(store) is store
    assert open_store(None) is None
    assert [open_store(each).root for each in (tmp_path, str(tmp_path))] == [tmp_path] * 2  # type: ignore[union-attr]


# ---- reading and writing


def test_arrays_and_facts_come_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    assert store.get(KEY) is None
    store.put(KEY, {**ARRAYS, "part": np.arange(10.0)[::2]}, FACTS)
    found = store.get(KEY)
    assert found is not None
    arrays, facts = found
    assert facts == FACTS
    assert {k: (v.dtype.name, v.tolist()) for k, v in arrays.items() if k != "trace_pre@4"} == {
        "features": ("float32", [[0, 1, 2], [3, 4, 5]]),
        "part": ("float64", [0, 2, 4, 6, 8]),
    }
    assert np.array_equal(arrays["trace_pre@4"], ARRAYS["trace_pre@4"], equal_nan=True)


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, ARRAYS, {"n": 1})
    store.put(KEY, ARRAYS, {"n": 2})
    found = store.get(KEY)
    assert found is not None
    assert found[1] == {"n": 2}
    assert len(files(tmp_path)) == 1


def test_any_flipped_bit_is_noticed_and_the_file_set_aside(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put(KEY, ARRAYS, FACTS)
    path = store.path(KEY)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.warns(
            DamagedResultWarning, match=f"{KEY}.*is damaged.*set aside as {KEY}.damaged; measuring again"
        ):
            assert store.get(KEY) is None, place
        assert files(tmp_path) == [f"{KEY}.damaged"]
        assert store.get(KEY) is None  # and now it is simply not there


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_measured_again(keep: int, own: Encoder, tmp_path: Path) -> None:
    first = measure(tmp_path, own)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    rows = counted(own)
    with pytest.warns(DamagedResultWarning):
        again = measure(tmp_path, own)
    assert rows
    assert equal(first, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert equal(first, measure(tmp_path, own))
    assert files(tmp_path) == sorted([path.name, path.with_suffix(".damaged").name])


def test_a_foreign_safetensors_file_is_damaged(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    store = Store(tmp_path)
    store.path(KEY).parent.mkdir()
    digest = {"checksum": "0" * 64}
    earlier = {**digest, "facts": "{}"}
    for metadata in (None, digest, earlier, {**earlier, "key": KEY}):
        save_file(dict(ARRAYS), store.path(KEY), metadata)
        said = "written by an earlier version of the store" if metadata is earlier else ""
        with pytest.warns(DamagedResultWarning, match=said):
            assert store.get(KEY) is None


def test_a_damaged_file_that_cannot_be_moved_is_reported_and_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.put(KEY, ARRAYS, FACTS)
    store.path(KEY).write_bytes(b"nothing")
    monkeypatch.setattr(os, "replace", failing(PermissionError(errno.EROFS, "Read-only file system")))
    with pytest.warns(DamagedResultWarning, match=r"not set aside \(Read-only file system\)"):
        assert store.get(KEY) is None


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


# ---- what goes wrong


@pytest.mark.parametrize("name", ["a\0b", "~nobody-of-this-name/store", "long" * 100])
def test_a_store_at_what_is_no_path_is_refused_by_name(name: str) -> None:
    with pytest.raises(McdoError, match="is no path"):
        Store(name)
    with pytest.raises(McdoError, match="is no path"):
        measure(name)


@pytest.mark.parametrize("place", [".", "below"])
def test_a_store_that_cannot_be_written_is_an_error_before_any_pass(place: str, own: Encoder, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    rows = counted(own)
    with pytest.raises(McdoError, match=r"the store .*file.* cannot be written: .*Name another folder"):
        measure(in_the_way / place, own)
    assert rows == []
    assert in_the_way.read_text() == "not a folder"


def test_a_full_disk_does_not_cost_the_finished_measurement(
    own: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measure(None, own)
    monkeypatch.setattr(os, "fsync", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.warns(UnsavedResultWarning, match="the run is not kept: .*No space left on device"):
        found = measure(tmp_path, own)
    assert equal(expected, found)
    assert files(tmp_path) == []
    with pytest.raises(McdoError, match="No space left"):
        Store(tmp_path).put(KEY, ARRAYS, FACTS)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(5, "I/O error"), KeyboardInterrupt(), MemoryError()])
def test_no_temporary_file_stays_behind(
    step: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.put(KEY, ARRAYS, {"n": 1})
    monkeypatch.setattr(os, step, failing(error))
    with pytest.raises((McdoError, KeyboardInterrupt, MemoryError)):
        store.put(KEY, ARRAYS, {"n": 2})
    monkeypatch.undo()
    assert files(tmp_path) == [f"{KEY}.safetensors"]
    found = store.get(KEY)
    assert found is not None
    assert found[1] == {"n": 1}


def test_whether_a_store_can_be_written_is_found_out_without_a_trace(tmp_path: Path) -> None:
    Store(tmp_path / "new").check_writable()
    assert files(tmp_path) == []
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mcdo-store"]


def test_a_file_that_may_not_be_read_is_an_error_and_left_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(KEY).mkdir(parents=True)
    with pytest.raises(McdoError, match="cannot be read"):
        store.get(KEY)
    assert store.path(KEY).is_dir()


WRITER = """
import sys, types
package = types.ModuleType("mcdo")  # without what the package imports
package.__path__ = [sys.argv[1]]
sys.modules["mcdo"] = package
import numpy as np
from mcdo.store import Store
print("ready", flush=True)
sys.stdin.readline()
for n in range(60):
    Store(sys.argv[2]).put("ab" * 32, {"x": np.full(20_000, float(n))}, {"n": n})
"""


def test_two_processes_that_write_the_same_key_never_show_half_a_file(tmp_path: Path) -> None:
    package = str(Path(mcdo.__file__).parent)
    command = [sys.executable, "-c", WRITER, package, str(tmp_path)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    seen = set()
    store = Store(tmp_path)
    while any(writer.poll() is None for writer in writers):
        found = store.get("ab" * 32)  # a warning is an error here
        if found is not None:
            assert set(found[0]["x"]) == {found[1]["n"]}
            seen.add(found[1]["n"])
    for writer in writers:
        writer.communicate()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(seen) > 3
    assert files(tmp_path) == ["ab" * 32 + ".safetensors"]


# ---- what lies under another's name


def test_an_entry_under_the_name_of_another_is_set_aside_and_verify_names_it(tmp_path: Path) -> None:
    store, other = Store(tmp_path), "ab" * 31 + "cd"
    store.put(KEY, ARRAYS, FACTS)
    shutil.copy(store.path(KEY), store.path(other))
    assert {path.stem: str(error or "") for path, error in verified(tmp_path)} == {
        KEY: "",
        other: f"it holds another measurement, {KEY[:8]}",
    }
    assert list(store.family(KEY)) == []
    with pytest.warns(DamagedResultWarning, match="it holds another measurement"):
        assert store.get(other) is None
    assert store.get(KEY) is not None


def test_a_part_of_another_measurement_is_not_taken(tmp_path: Path) -> None:
    one, other = Store(tmp_path).unfinished(KEY), Store(tmp_path).unfinished("cd" * 32)
    one.add(ARRAYS, {})
    folder, there = (Store(tmp_path).path(key).with_suffix(".parts") for key in (KEY, "cd" * 32))
    shutil.copytree(folder, there)
    with pytest.warns(DamagedResultWarning, match="it holds another measurement"):
        assert list(other.parts()) == []
    assert len(list(Store(tmp_path).unfinished(KEY).parts())) == 1


def test_a_result_of_another_shape_under_its_own_key_is_measured_again(own: Encoder, tmp_path: Path) -> None:
    first = measure(tmp_path, own)
    (path,) = tmp_path.rglob("*.safetensors")
    found = Store(tmp_path).get(path.stem)
    assert found is not None
    arrays, facts = found
    for wrong, other in (
        ({**arrays, "trace_pre@4": arrays["trace_pre@4"][:1]}, facts),
        ({**arrays, "images": arrays["images"][::-1]}, facts),
        (arrays, {**facts, "protocol": {**facts["protocol"], "seed": 7}}),
    ):
        Store(tmp_path).put(path.stem, wrong, other)
        with pytest.warns(DamagedResultWarning):
            assert equal(first, measure(tmp_path, own))


@pytest.mark.skipif(not hasattr(os, "umask"), reason="needs permissions of POSIX")
def test_results_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Store(tmp_path).put(KEY, ARRAYS, FACTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(Store(tmp_path).path(KEY).stat().st_mode) == 0o640


def test_a_file_that_is_not_to_be_read_is_never_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put(KEY, ARRAYS, FACTS)
    monkeypatch.setattr(os, "open", failing(PermissionError(errno.EACCES, "Permission denied")))
    for look in (store.get, lambda key: list(store.family(f"{key[:32]}{'0' * 32}"))):
        with pytest.raises(McdoError, match=r"cannot be read: .*Permission denied"):
            look(KEY)


def test_a_fifo_in_the_place_of_a_result_is_damaged_and_waited_for_by_nobody(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.path(KEY).parent.mkdir()
    os.mkfifo(store.path(KEY))
    with pytest.warns(DamagedResultWarning, match="it is no file"):
        assert store.get(KEY) is None
