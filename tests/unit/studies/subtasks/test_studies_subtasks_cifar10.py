from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mcdo.errors import McdoError
from mcdo.harness import Runner, Session, Settings
from mcdo.studies.subtasks import SubtaskStudy
from mcdo.studies.subtasks.cifar10 import BATCHES, CLASS_NAMES, cifar10, read_batch
from mcdo.studies.subtasks.config import Sizes, Source
from mcdo.studies.subtasks.task import ANIMAL, load_task

PER_BATCH = 10


def batch(seed: int) -> dict[bytes, Any]:
    rng = np.random.default_rng(seed)
    labels = [int(label) for label in rng.permutation(10)]
    return {b"data": rng.integers(0, 256, (PER_BATCH, 3072), dtype=np.uint8), b"labels": labels, b"batch_label": b"x"}


def contents() -> dict[str, bytes]:
    names = [name for names in BATCHES.values() for name in names]
    return {name: pickle.dumps(batch(i), protocol=2) for i, name in enumerate(names)}


def archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def standard(tmp_path: Path) -> Path:
    return archive(tmp_path / "cifar-10-python.tar.gz", contents())


def test_the_archive_gives_its_images_and_labels(standard: Path) -> None:
    train, test = cifar10(standard, "train"), cifar10(standard, "test")
    assert (len(train), len(test)) == (50, 10)
    assert test.class_names == CLASS_NAMES
    held = batch(5)
    assert test.labels is not None
    assert test.labels.tolist() == held[b"labels"]
    pixels = np.asarray(test.image(3))
    for row, column, channel in ((0, 0, 0), (31, 7, 2), (4, 30, 1)):  # plane by plane, row by row
        assert pixels[row, column, channel] == held[b"data"][3, 1024 * channel + 32 * row + column]
    assert not set(train.ids) & set(test.ids)


def test_the_unpacked_folder_is_the_archive(standard: Path, tmp_path: Path) -> None:
    inner = tmp_path / "unpacked" / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for name, content in contents().items():
        (inner / name).write_bytes(content)
    for path in (inner, inner.parent):
        assert cifar10(path, "train").fingerprint == cifar10(standard, "train").fingerprint


def test_a_folder_of_images_is_read_with_cifars_own_class_numbers(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for i, name in enumerate(CLASS_NAMES):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32), (i, 2, 3)).save(folder / "0.png")
    images = cifar10(tmp_path, "test")
    assert images.labels is not None
    for i, label in enumerate(images.labels):
        assert np.asarray(images.image(i))[0, 0, 0] == label
        assert CLASS_NAMES[label] in images.ids[i]
    assert not set(images.ids) & set(cifar10(tmp_path, "train").ids)


def test_a_folder_with_other_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test" / "zebra").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(tmp_path / "test" / "zebra" / "0.png")
    with pytest.raises(McdoError, match="zebra"):
        cifar10(tmp_path, "test")


class Shell:
    def __reduce__(self) -> Any:
        return os.system, ("touch HACKED",)


def test_a_pickle_that_asks_for_anything_but_arrays_is_refused_unrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    evil = pickle.dumps({b"data": Shell(), b"labels": []}, protocol=2)
    path = archive(tmp_path / "evil.tar.gz", {**contents(), "data_batch_3": evil})
    with pytest.raises(McdoError, match=r"data_batch_3.*system"):
        cifar10(path, "train")
    assert not (tmp_path / "HACKED").exists()


@pytest.mark.parametrize(
    "spelled",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\nexec\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"c_codecs\nopen\n(S'x'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
    ],
)
def test_no_other_name_is_found(spelled: bytes) -> None:
    with pytest.raises(McdoError, match="which no CIFAR-10 batch needs"):
        read_batch(spelled, "evil")


@pytest.mark.parametrize(
    "wrong",
    [
        {b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.float32), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3071), np.uint8), b"labels": [1, 2]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]},
        {b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 10]},
        {b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]},
        [1, 2],
    ],
)
def test_a_batch_of_another_form_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(McdoError, match="batch_x"):
        read_batch(pickle.dumps(wrong, protocol=2), "batch_x")


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps(batch(0), protocol=2)[:500]])
def test_a_damaged_batch_is_refused(content: bytes) -> None:
    with pytest.raises(McdoError, match="no CIFAR-10 batch"):
        read_batch(content, "batch")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="there is no CIFAR-10 at"):
        cifar10(tmp_path / "nothing", "train")
    some = {name: content for name, content in contents().items() if name != "data_batch_2"}
    with pytest.raises(McdoError, match="data_batch_2"):
        cifar10(archive(tmp_path / "some.tar.gz", some), "train")
    with pytest.raises(McdoError, match="data_batch_1"):
        cifar10(tmp_path, "train")
    torn = tmp_path / "torn.tar.gz"
    torn.write_bytes((tmp_path / "some.tar.gz").read_bytes()[:4000])
    with pytest.raises(McdoError, match="cannot be read as an archive"):
        cifar10(torn, "train")


def test_the_task_divides_the_training_images_and_keeps_the_test_images(standard: Path) -> None:
    sizes = Sizes(train=None, validation=10, calibration=15, test=10)
    task = load_task(Source(cifar10=sizes, folder=str(standard)))
    assert {name: len(images) for name, images in task.images.items()} == {
        "test": 10, "validation": 10, "calibration": 15, "train": 25,
    }  # fmt: skip
    every = [each for images in task.images.values() for each in images.ids]
    assert len(set(every)) == 60
    assert [name for name, animal in zip(CLASS_NAMES, ANIMAL, strict=True) if animal] == [
        "bird", "cat", "deer", "dog", "frog", "horse",
    ]  # fmt: skip


def test_an_exact_copy_of_an_image_is_in_no_second_split(tmp_path: Path) -> None:
    held = {name: pickle.loads(content) for name, content in contents().items()}
    held["data_batch_2"][b"data"] = held["data_batch_1"][b"data"]  # ten copies within the training images
    held["data_batch_4"][b"data"][:3] = held["test_batch"][b"data"][:3]
    path = archive(tmp_path / "copies.tar.gz", {name: pickle.dumps(each, protocol=2) for name, each in held.items()})
    sizes = Sizes(train=None, validation=10, calibration=10, test=10)
    task = load_task(Source(cifar10=sizes, folder=str(path)))
    assert sum(len(images) for name, images in task.images.items() if name != "test") == 50 - 10 - 3
    every = [each for images in task.images.values() for each in images.origins]
    assert len(set(every)) == len(every) == 47


def test_too_few_images_are_refused(standard: Path) -> None:
    with pytest.raises(McdoError, match="too few"):
        load_task(Source(folder=str(standard)))


def test_from_the_archive_to_the_report_and_a_second_time_from_the_store(standard: Path, tmp_path: Path) -> None:
    """Ten random test images: most figures are undefined or at a bound, and nothing may break on that."""
    own = {"--cifar10": str(standard)}
    done = []
    for name in ("first", "second"):
        reports = tmp_path / name
        settings = Settings(
            ("clip_tiny",), store=tmp_path / "store", reports=reports, own_data=own, from_store=name == "second"
        )
        study = replace(
            SubtaskStudy.configured(settings),
            cifar10=Sizes(train=30, validation=10, calibration=10, test=10),
            seeds=(0, 1), max_epochs=1, passes=2, resamples=20, few_resamples=3, permutations=50,
        )  # fmt: skip
        done.append(Runner(Session(settings)).run(study, study.subjects(settings)[0]))
    first, again = ({**each.summary, "made": None} for each in done)
    assert first == again
    folder = tmp_path / "second" / "studies" / "subtasks"
    held = json.loads((folder / "subtasks.json").read_text(encoding="utf-8"))
    assert held["task"] == "cifar10"
    assert held["superclass"]["frog"] == 1
    assert held["splits"]["test"] == {"images": 10, "origins": 10}
    assert (folder / "subtasks.md").read_text(encoding="utf-8").startswith("# Subtasks and calibration: cifar10")


def spelled(dtype: bytes, content: bytes = b"\0" * 8) -> bytes:
    """A batch whose data is an array of any type, as a pickle would spell it."""
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    kind = b"cnumpy\ndtype\nU\x02" + dtype + b"K\x00K\x01\x87R"
    state = b"(K\x01K\x01\x85" + kind + b"\x89U" + bytes([len(content)]) + content + b"tb"
    return b"\x80\x02}(U\x04data" + array + state + b"U\x06labels]u."


HOSTILE = {
    "objects out of bytes": (spelled(b"O8"), "an array of 'O8'"),
    "floats": (spelled(b"f8"), "an array of 'f8'"),
    "a memo without end": (b"\x80\x02}r\xff\xff\xff\x7f.", "it counts to 2147483647"),
    "a bytearray of a terabyte": (b"\x80\x05\x96" + (2**40).to_bytes(8, "little"), "expected 1099511627776 bytes"),
    "a set": (b"\x80\x04\x8f.", "the operation EMPTY_SET"),
    "an object of its own": (b"(cnumpy\ndtype\no.", "the operation OBJ"),
    "laughs": (b"\x80\x02)q\x00h\x00h\x00\x86q\x01h\x01h\x01\x86.", "a collection in several places"),
    "a label of a thousand digits": (pickle.dumps({b"data": 0, b"labels": [10**300]}, 2), "something else than arrays"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_before_it_takes_time_or_memory(name: str) -> None:
    content, said = HOSTILE[name]
    with pytest.raises(McdoError, match=f"batch is no CIFAR-10 batch .*{said}"):
        read_batch(content, "batch")


def test_an_archive_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.tar.gz"
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 2**40
    path.write_bytes(gzip.compress(member.tobuf() + bytes(2**20)))
    with pytest.raises(McdoError, match=r"bomb\.tar\.gz .*data_batch_1 claims 1099511627776 bytes"):
        cifar10(path, "train")
    monkeypatch.setattr("mcdo.studies.subtasks.cifar10._LARGEST_ARCHIVE", 10**5)
    many = {f"other{i}": bytes(10**4) for i in range(20)}
    with pytest.raises(McdoError, match=r"many\.tar\.gz .*unpacks to more than 100000 bytes"):
        cifar10(archive(tmp_path / "many.tar.gz", many), "train")
