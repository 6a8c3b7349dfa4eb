"""Tars, tables and data sets that somebody made to hang, to fill the memory or to be read as something else."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import load_images
from mcdo.images.arrow_message import packed
from mcdo.images.labels import _synsets
from mcdo.images.shards import listed
from mcdo.schema import MOST_ROWS

GB = 2**30
SECONDS = 4.0
"""Of the processor, with a library to import and a file to make: all take far less."""


def picture(i: int = 0) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * i, 10, 200)).save(content, "png")
    return content.getvalue()


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Each refusal takes seconds of the processor, and no more memory than the largest file that is made here."""
    before, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - before < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 700 * 1024


# ---- folders


def test_a_folder_without_a_bottom_and_links_that_lead_nowhere(tmp_path: Path) -> None:
    inner = tmp_path / "cat"
    inner.mkdir()
    (inner / "0.png").write_bytes(picture())
    (inner / "up").symlink_to("..")
    (inner / "one").symlink_to("two")
    (inner / "two").symlink_to("one")
    assert load_images(f"folder:{tmp_path}").ids == ("cat/0.png",)
    at = os.open(inner, os.O_RDONLY)
    for _ in range(150):
        os.mkdir("a", dir_fd=at)
        below = os.open("a", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    with pytest.raises(McdoError, match="/a/a lies 101 levels below its class; at most 100 are searched"):
        load_images(f"folder:{tmp_path}")


def test_a_link_that_may_not_be_followed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(picture())
    (tmp_path / "cat" / "locked").symlink_to("/elsewhere")
    is_dir = Path.is_dir

    def denied(path: Path, **options: Any) -> bool:
        if path.name == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_dir(path, **options)

    monkeypatch.setattr(Path, "is_dir", denied)
    with pytest.raises(McdoError, match=r"cat/locked cannot be listed \(Permission denied\)"):
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "/some/\0x", f"/{'x' * 300}", f"/{'x/' * 5000}"])
@pytest.mark.parametrize("kind", ["", "folder:", "csv:", "webdataset:", "hf-dataset:", "retrieval:"])
def test_a_name_that_no_file_can_have_is_refused(kind: str, path: str) -> None:
    with pytest.raises(McdoError) as told:
        load_images(f"{kind}{path}")
    assert len(str(told.value)) < 4000
    assert path.replace("\0", "\\x00")[:100] in str(told.value)


# ---- lists


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_what_no_editor_shows_as_a_line_counts_no_class(end: str, tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    (tmp_path / "labels.txt").write_bytes(b"0.png 0\r\n1.png 1")
    (tmp_path / "classes.txt").write_bytes(f"\ufeffcat{end}s\rdog\n\n".encode())
    images = load_images(f"folder:{tmp_path}")
    assert images.class_names == (f"cat{end}s", "dog")
    (tmp_path / "classes.txt").write_text("cat\n\ndog\n")
    (tmp_path / "labels.txt").write_text("0.png 0\n1.png 2\n")
    with pytest.raises(McdoError, match=r"classes\.txt: class 1 has no name"):
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", ["Label", "labels", "lable", "la\u200bbel", "origins", "original", "Split"])
def test_a_column_that_was_mistyped_is_not_passed_over(name: str, tmp_path: Path) -> None:
    """Without its origins, copies of one scene would count as many; without its split, training images too."""
    (tmp_path / "0.png").write_bytes(picture())
    (tmp_path / "a.csv").write_text(f"path,{name},note,table\n0.png,x,y,z\n", encoding="utf-8")
    with pytest.raises(McdoError, match=r"a\.csv, line 1: nothing reads the column .*; name it (label|origin|split)"):
        load_images(f"csv:{tmp_path / 'a.csv'}")
    (tmp_path / "a.csv").write_text(f"path,label,origin,split,{name}\n0.png,x,y,z,w\n", encoding="utf-8")
    assert load_images(f"csv:{tmp_path / 'a.csv'}").class_names == ("x",)


# ---- tars


def tar(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path.read_bytes()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_head_that_claims_gigabytes_is_not_read(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 4 * GB
    with (tmp_path / "a.tar").open("wb") as file:
        file.write(info.tobuf(tarfile.USTAR_FORMAT))
        file.truncate(4 * GB + 1536)
    with pytest.raises(McdoError, match=rf"a\.tar cannot be read.*a head of {4 * GB} bytes"):
        load_images(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_heads_that_are_followed_by_heads_without_end(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type = kind
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) * 20_000 + bytes(1024))
    with pytest.raises(McdoError, match=r"a\.tar cannot be read as a plain tar"):
        load_images(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_picture_that_is_no_file_of_its_own_is_not_passed_over(kind: bytes, tmp_path: Path) -> None:
    """As tar writes the second name of a file, and what is mostly zeros; nor is one read that lies elsewhere."""
    (tmp_path / "secret.png").write_bytes(picture(5))
    link = tarfile.TarInfo("1.png")
    link.type, link.linkname = kind, "../secret.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        file = tarfile.TarInfo("0.png")
        file.size = len(picture())
        archive.addfile(file, io.BytesIO(picture()))
        archive.addfile(link)
    with pytest.raises(McdoError, match=r"a\.tar cannot be read as a plain tar \(1\.png is a link, sparse, or no file"):
        load_images(f"webdataset:{tmp_path}")


def test_a_tar_that_is_damaged_or_cut_off_in_its_middle_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    """The library ends without a word at a head that is none, and at the end of the file."""
    whole = tar(tmp_path / "a.tar", {f"{i}.png": picture(i) for i in range(4)})
    assert len(load_images(f"webdataset:{tmp_path}")) == 4
    damaged = bytearray(whole)
    damaged[2048 + 150] ^= 0xFF
    for content in (bytes(damaged), whole[:2048], whole[:3000]):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(McdoError, match=r"a\.tar cannot be read as a plain tar"):
            load_images(f"webdataset:{tmp_path}")


@pytest.mark.parametrize("spec", ["webdataset:{}", "csv:{}/a.csv", "hf-dataset:{}"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_what_is_no_file_is_not_waited_for(make: Callable[[Path], None], spec: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("a.tar", "a.csv", "a.arrow"):
        make(tmp_path / name)
    with pytest.raises(McdoError, match=r"/a\.(tar|csv|arrow) is not a regular file"):
        load_images(spec.format(tmp_path))


# ---- tables


@pytest.mark.parametrize("digits", ["9" * 30, "9" * 5000])
def test_a_label_of_more_digits_than_a_number_has_is_no_class(digits: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "0.png").write_bytes(picture())
    (tmp_path / "a.csv").write_text(f"path,label\n0.png,{digits}\n")
    with pytest.raises(McdoError, match=r"a\.csv, line 2: class 9{20}, but .*classes\.txt names 2"):
        load_images(f"csv:{tmp_path / 'a.csv'}")
    (tmp_path / "labels.txt").write_text(f"{digits}\n")
    with pytest.raises(McdoError, match=r"meta\.mat"):
        load_images(f"folder:{tmp_path}")


def test_a_table_of_more_rows_columns_or_bytes_than_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"path\n" + b"x\n" * (MOST_ROWS + 1))
    with pytest.raises(McdoError, match=r"a\.csv has \d+ lines; at most"):
        load_images(f"csv:{path}")
    path.write_text(",".join(f"c{i}" for i in range(200_000)) + "\n")
    with pytest.raises(McdoError, match=r"a\.csv, line 1 has 200000 columns; at most"):
        load_images(f"csv:{path}")
    with path.open("r+b") as file:
        file.truncate(GB)
    with pytest.raises(McdoError, match=r"a\.csv has \d+ bytes; at most"):
        load_images(f"csv:{path}")
    path.write_bytes(b'path,label\n0.png,"' + b"x" * 2**20 + b'"\n')
    with pytest.raises(McdoError, match=r"a\.csv, line 2 is not CSV: field larger than field limit"):
        load_images(f"csv:{path}")


# ---- data sets


def features(**named: Any) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, **named}}})}


CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}


@pytest.fixture(params=["arrow", "parquet"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., str]:
    """``put(columns, features)`` writes a data set of two pictures and these columns; gives its specification."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def write(names: list[str], columns: list[Any], said: dict[str, str] | None = None) -> str:
        pictures = pa.array([{"bytes": picture(i), "path": ""} for i in range(2)])
        table = pa.Table.from_arrays([pictures, *map(pa.array, columns)], names=["image", *names])
        table = table.replace_schema_metadata(said)
        path = tmp_path / f"a.{request.param}"
        if request.param == "parquet":
            pq.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
        return f"hf-dataset:{tmp_path}"

    return write


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ([0.5, 1.0], "row 00000000, label: 0.5 is no name and no whole number"),
        ([[0], [1]], r"row 00000000, label: \[0\] is no name"),
        ([b"cat", b"dog"], "row 00000000, label: b'cat' is no name"),
        (["cat", "dog"], "row 00000000 has the label 'cat', none of the 2 class names"),
        ([True, False], "row 00000000 has the label True, none of"),
        ([0, 2], "row 00000001 has the label 2, none of"),
        ([0, -1], "row 00000001 has no label"),
    ],
)
def test_a_label_of_a_data_set_is_the_number_of_a_class(put: Callable[..., str], label: list[Any], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        load_images(put(["label"], [label], features(label=CLASSES)))
    images = load_images(put(["label"], [[1, 0]], features(label=CLASSES)))
    assert images.labels is not None
    assert images.labels.tolist() == [1, 0]


def test_a_row_without_an_origin_has_not_that_of_all_such_rows(put: Callable[..., str]) -> None:
    with pytest.raises(McdoError, match="row 00000001 has no origin"):
        load_images(put(["origin"], [["a", None]]))
    assert load_images(put(["origin"], [["a", "a"]])).origins == ("a", "a")


def test_columns_of_one_name_and_features_of_any_depth(put: Callable[..., str]) -> None:
    with pytest.raises(McdoError, match=r"a\.\w+ cannot be read"):
        load_images(put(["label", "label"], [[0, 1], [0, 1]]))
    assert len(load_images(put([], [], {"huggingface": "[" * 200_000}))) == 2


def test_rows_that_cost_no_bytes_are_counted(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": pa.nulls(MOST_ROWS + 1, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    pq.write_table(table, tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 2**20
    with pytest.raises(McdoError, match=r"a\.parquet cannot be read.*more than \d+ rows"):
        load_images(f"hf-dataset:{tmp_path}")


def test_a_picture_that_a_dictionary_names_often_is_held_once(tmp_path: Path) -> None:
    """A file of 50 kB: 20 000 times the same megabyte."""
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    n, large = 20_000, pa.array([picture() + bytes(2**20)], pa.binary())
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), large)
    pictures = pa.StructArray.from_arrays([column, pa.array([""] * n)], ["bytes", "path"])
    pq.write_table(pa.table({"image": pictures}), tmp_path / "a.parquet", store_schema=False)
    assert len(load_images(f"hf-dataset:{tmp_path}", 2)) == 2


def test_places_of_cells_that_lie_outside_an_arrow_file_are_not_followed(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    cells = [{"bytes": picture(), "path": ""}]
    table = pa.table({"image": pa.array(cells)})
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    ends = np.array([0, len(picture())], np.int32).tobytes()
    before, found, after = path.read_bytes().rpartition(ends)
    assert found
    path.write_bytes(before + np.array([0, 2**30], np.int32).tobytes() + after)
    with pytest.raises(McdoError, match=r"a\.arrow cannot be read"):
        load_images(f"hf-dataset:{tmp_path}")


@pytest.mark.parametrize("codec", ["zstd", "lz4", None])
@pytest.mark.parametrize("form", ["new_stream", "new_file"])
def test_what_a_compressed_batch_says_it_unpacks_to_is_read_before_it_is_unpacked(
    form: str, codec: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa = pytest.importorskip("pyarrow")
    cells = pa.array([{"bytes": picture(i), "path": ""} for i in range(3)])
    words = pa.array(["x" * 2**20, "y", "y"]).dictionary_encode()  # kept in a message of its own
    table = pa.table({"image": cells, "word": words})
    path = tmp_path / "a.arrow"
    with (
        pa.OSFile(str(path), "wb") as file,
        getattr(pa.ipc, form)(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as stream,
    ):
        stream.write_table(table)
    assert (path.stat().st_size < 2**20) is (codec is not None)
    assert len(load_images(f"hf-dataset:{tmp_path}")) == 3
    monkeypatch.setattr("mcdo.images.arrow.LIST_LIMIT", 2**20)
    if codec is None:
        assert len(load_images(f"hf-dataset:{tmp_path}")) == 3
        return
    monkeypatch.setattr(pa.ipc, "open_stream", lambda file: pytest.fail("it is unpacked"))
    with pytest.raises(McdoError, match=r"a\.arrow cannot be read.*unpacks to \d+ bytes, more than 1048576"):
        load_images(f"hf-dataset:{tmp_path}")


@pytest.mark.parametrize("metadata", [b"", b"\x04", b"\xff" * 64, b"\x04\0\0\0" + b"\xff" * 60])
def test_damaged_metadata_of_a_batch_are_refused(metadata: bytes) -> None:
    with pytest.raises(ValueError, match="the metadata of a batch are damaged"):
        packed(metadata)


def test_members_of_tars_are_counted_and_listed_in_microseconds_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million in half a minute where nothing else runs; a tenth of that speed is still no hanging."""
    count = 10_000
    for tar in range(2):
        with (tmp_path / f"{tar}.tar").open("wb") as file:
            for i in range(count // 2):
                member = tarfile.TarInfo(f"{i:06d}.png")
                member.size = 1
                file.write(member.tobuf(tarfile.USTAR_FORMAT) + bytes(tarfile.BLOCKSIZE))
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    began = time.process_time()
    assert len(listed(str(tmp_path)).ids) == count
    assert time.process_time() - began < 300e-6 * count
    monkeypatch.setattr("mcdo.images.shards.MOST_ROWS", count - 1)
    with pytest.raises(McdoError, match=rf"1\.tar: the data set has more than {count - 1} files"):
        listed(str(tmp_path))


SYNSETS = [(float(i), f"n{i:08d}", float(i > 30), np.arange(3.0)) for i in range(1, 40)]
FIELDS = np.dtype([(name, object) for name in ("ILSVRC2012_ID", "WNID", "num_children", "children")])


@pytest.mark.parametrize("compressed", [True, False])
def test_a_damaged_table_of_classes_ends_no_process(compressed: bool, tmp_path: Path) -> None:
    """As scipy writes it; its reader crashes on some of these, so it is compared on the good one alone."""
    from scipy.io import loadmat, savemat

    file, rng, read = tmp_path / "meta.mat", np.random.default_rng(9), 0
    savemat(file, {"other": np.eye(2), "synsets": np.array(SYNSETS, dtype=FIELDS)}, do_compression=compressed)
    table, good = loadmat(file, squeeze_me=True)["synsets"], file.read_bytes()
    expected = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if row["num_children"] == 0}
    assert len(expected) == 30
    assert _synsets(tmp_path / "truth.txt") == expected
    for i in range(300):
        content = bytearray(good)
        for place in rng.integers(0, len(good), int(rng.integers(1, 4))):
            content[int(place)] = int(rng.integers(256))
        file.write_bytes(content[: int(rng.integers(len(good)))] if i % 7 == 0 else content)
        with suppress(McdoError):
            read += len(_synsets(tmp_path / "truth.txt")) > 0
    assert 0 < read < 300


@pytest.mark.parametrize("compressed", [True, False])
def test_a_table_of_classes_that_unpacks_without_end_is_refused(compressed: bool, tmp_path: Path) -> None:
    from scipy.io import savemat

    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.png").write_bytes(picture())
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n")
    zeros = np.zeros(2**26 // 8 + 1)
    savemat(tmp_path / "meta.mat", {"synsets": zeros}, do_compression=compressed)
    with pytest.raises(McdoError, match=r"meta\.mat cannot be read.*(more than is read|at most 67108864)"):
        load_images(f"folder:{tmp_path / 'val'}")
