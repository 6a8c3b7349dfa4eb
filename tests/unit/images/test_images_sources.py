from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import ImageSet, TooFewImagesError, load_images, read_manifest
from mcdo.images.load import KINDS, look_at

COUNT = 6


def picture(i: int) -> bytes:
    """A PNG of its own content."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (40 * i, 10, 200)).save(content, "png")
    return content.getvalue()


def fill(folder: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(i))
    return folder


def read(images: ImageSet) -> dict[str, str]:
    """Names of classes by id."""
    assert images.labels is not None
    return {name: images.class_names[label] for name, label in zip(images.ids, images.labels, strict=True)}


# ---- folders


def test_a_bare_path_is_a_folder_and_a_wrong_name_says_so(tmp_path: Path) -> None:
    there = fill(tmp_path / "x", ["cat/0.png", "dog/1.png", "dog/2.png"])
    assert load_images(str(there)).ids == load_images(f"folder:{there}").ids
    with pytest.raises(McdoError, match=r"image folder /no/such/place does not exist"):
        load_images("/no/such/place")
    with pytest.raises(McdoError, match=r"unknown images 'foldr:x'; the nearest: folder:PATH.*There are: digits"):
        load_images("foldr:x")
    with pytest.raises(McdoError, match=r"unknown images 'imagenet'.*folder:PATH, with a directory for each class"):
        load_images("imagenet")


def test_of_a_folder_of_splits_the_validation_images_are_taken(tmp_path: Path) -> None:
    fill(tmp_path, ["train/cat/0.png", "train/dog/1.png", "val/cat/2.png", "val/dog/3.png", "val/dog/4.png"])
    images = load_images(f"folder:{tmp_path}")
    assert images.name == f"folder:{tmp_path}/val"
    assert read(images) == {"cat/2.png": "cat", "dog/3.png": "dog", "dog/4.png": "dog"}
    images.write_manifest(tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").fingerprint == images.fingerprint


def test_splits_without_validation_images_are_no_classes(tmp_path: Path) -> None:
    fill(tmp_path, ["train/cat/0.png", "test/dog/1.png"])
    with pytest.raises(McdoError, match="holds the splits test, train, no classes: name one"):
        load_images(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("others", "chosen"),
    [
        (["train/cat/8.png", "train/dog/9.png", "test/7.png"], "val"),  # ImageNet as it is published
        (["train/cat.8.png", "test/7.png"], "val"),
        (["train/cat/8.png", "test/cat/7.png", "unlabeled/0/1.png"], "valid"),
        (["Training/cat/8.png", "Testing/cat/7.png"], "Validation"),
    ],
)
def test_splits_are_no_classes_however_they_are_laid_out(others: list[str], chosen: str, tmp_path: Path) -> None:
    fill(tmp_path, [*others, f"{chosen}/0.png", f"{chosen}/1.png"])
    images = load_images(str(tmp_path))
    assert (images.name, images.ids, images.labels) == (f"folder:{tmp_path}/{chosen}", ("0.png", "1.png"), None)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    fill(tmp_path, ["train/0.png", "car/1.png", "car/2.png"])
    assert load_images(str(tmp_path)).class_names == ("car", "train")
    fill(tmp_path, ["test/3.png"])
    with pytest.raises(McdoError, match="holds the splits test, train, no classes"):
        load_images(str(tmp_path))


VAL = [f"ILSVRC2012_val_{i + 1:08d}.JPEG" for i in range(COUNT)]


def meta(path: Path) -> None:
    """A devkit's table of three leaves and an inner synset, whose numbers are in no order of their IDs."""
    rows = [(1, "n02119789", 0), (2, "n01440764", 0), (3, "n02100735", 0), (4, "n00001740", 3)]
    kind = np.dtype([("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)])
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": np.array(rows, dtype=kind)})


def test_imagenet_s_flat_validation_images_are_labelled_by_its_own_numbers(tmp_path: Path) -> None:
    flat = fill(tmp_path / "val", VAL)
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n3\n2\n1\n")
    with pytest.raises(McdoError, match=r"meta\.mat, in an order of its own.*unpack ILSVRC2012_devkit_t12"):
        load_images(f"folder:{flat}")
    meta(tmp_path / "ILSVRC2012_devkit_t12" / "data" / "meta.mat")
    images = load_images(f"folder:{flat}")
    kit, tench, english = "kit fox", "tench", "English Setter"
    assert [read(images)[name] for name in VAL] == [kit, tench, english, english, tench, kit]
    assert len(images.class_names) == 3


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ("1\n2\n", "has 2 labels for 6 images"),
        ("1\n2\n3\n3\n2\n9\n", "line 6: 9 is no ILSVRC2012 class"),
        ("", "is empty"),
    ],
)
def test_a_ground_truth_of_something_else_is_refused(truth: str, said: str, tmp_path: Path) -> None:
    flat = fill(tmp_path, VAL)
    (flat / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    meta(flat / "meta.mat")
    with pytest.raises(McdoError, match=said):
        load_images(f"folder:{flat}")


def test_a_list_of_files_and_labels_beside_a_flat_folder_names_classes(tmp_path: Path) -> None:
    flat = fill(tmp_path / "flat", ["b.png", "a.png", "c.png"])
    lines = "c.png dog\na.png a big cat\n\nb.png\tn01440764\n"
    (flat / "labels.txt").write_text(lines)
    expected = {"a.png": "a big cat", "b.png": "tench", "c.png": "dog"}
    assert read(load_images(f"folder:{flat}")) == expected
    (flat / "labels.txt").rename(tmp_path / "mine.lst")
    assert load_images(f"folder:{flat}").labels is None
    named = load_images(f"folder:{flat}@{tmp_path / 'mine.lst'}")
    assert read(named) == expected
    named.write_manifest(tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").fingerprint == named.fingerprint


def test_names_of_files_and_classes_may_hold_blanks(tmp_path: Path) -> None:
    """A file is the longest name there is that a line begins with."""
    flat = fill(tmp_path, ["my photo.png", "my", "my photo  2.png", "a.png"])
    (flat / "labels.txt").write_text("my photo.png big cat\nmy\tdog\nmy photo  2.png  big cat\na.png dog\n")
    found = read(load_images(f"folder:{flat}"))
    assert found == {"my photo.png": "big cat", "my": "dog", "my photo  2.png": "big cat", "a.png": "dog"}


@pytest.mark.parametrize("absent", ["nan", "NaN", "<NA>", "-1"])
def test_what_tables_write_for_a_missing_label_is_no_class(absent: str, tmp_path: Path) -> None:
    rows = "".join(f"pictures/{i}.png,{label}\n" for i, label in enumerate(("cat", absent, "dog")))
    with pytest.raises(McdoError, match=f"line 3: the label {absent} is how tables write that there is none"):
        load_images(table(tmp_path, f"path,label\n{rows}"))
    flat = fill(tmp_path / "flat", ["a.png", "b.png"])
    (flat / "labels.txt").write_text(f"a.png cat\nb.png {absent}\n")
    with pytest.raises(McdoError, match="line 2: the label"):
        load_images(f"folder:{flat}")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("a.png cat\n", "has no label for 1 of 2 images, such as b.png"),
        ("a.png cat\nb.png dog\nx.png dog\n", "labels for 1 files that are not there, such as x.png"),
        ("a.png cat\nb.png\n", "line 2: 'b.png' is no FILE LABEL"),
        ("a.png cat\na.png dog\n", "line 2: a.png has a label already, in line 1"),
        ("a.png 65\nb.png 970\n", "its labels are numbers .65, ....*classes.txt"),
    ],
)
def test_a_list_that_does_not_fit_is_named_by_line(lines: str, said: str, tmp_path: Path) -> None:
    flat = fill(tmp_path, ["a.png", "b.png"])
    (flat / "labels.txt").write_text(lines)
    with pytest.raises(McdoError, match=said):
        load_images(f"folder:{flat}")


def test_numbers_are_named_by_a_file_of_names(tmp_path: Path) -> None:
    flat = fill(tmp_path, ["a.png", "b.png"])
    (flat / "labels.txt").write_text("a.png 1\nb.png 0\n")
    (flat / "classes.txt").write_text("dog\ncat\nbird\n")
    images = load_images(f"folder:{flat}")
    assert read(images) == {"a.png": "cat", "b.png": "dog"}
    assert images.class_names == ("dog", "cat", "bird")
    (flat / "labels.txt").write_text("a.png 1\nb.png 3\n")
    with pytest.raises(McdoError, match=r"line 2: class 3, but .*classes\.txt names 3, from 0 on"):
        load_images(f"folder:{flat}")


# ---- tables


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["0", "1", "-1"], r"line 4: the label -1 is no class: numbers of classes are whole, from 0 on"),
        (["0.0", "1.0", "1.0"], r"line 2: the label 0\.0 is no class.*write 3 for 3\.0"),
        (["0", "nan", "1"], r"line 3: the label nan is no class"),
    ],
)
def test_numbers_that_are_no_classes_are_no_names_either(labels: list[str], said: str, tmp_path: Path) -> None:
    rows = "".join(f"pictures/{i}.png,{label}\n" for i, label in enumerate(labels))
    with pytest.raises(McdoError, match=said):
        load_images(table(tmp_path, f"path,label\n{rows}"))


def table(tmp_path: Path, text: str) -> str:
    fill(tmp_path / "pictures", [f"{i}.png" for i in range(COUNT)])
    (tmp_path / "mine.csv").write_text(text)
    return f"csv:{tmp_path / 'mine.csv'}"


def test_a_table_says_label_origin_and_split(tmp_path: Path) -> None:
    rows = [
        f"pictures/{i}.png,{'cat' if i % 2 else 'dog'},patient {i // 2},{'val' if i < 4 else 'test'}"
        for i in range(COUNT)
    ]
    spec = table(tmp_path, "path,label,origin,split\n" + "\n".join(reversed(rows)) + "\n")
    with pytest.raises(McdoError, match="has the splits test, val: name one"):
        load_images(spec)
    images = load_images(f"{spec}@val")
    assert images.ids == tuple(f"pictures/{i}.png" for i in range(4))
    assert read(images)["pictures/3.png"] == "cat"
    assert images.origins == ("patient 0", "patient 0", "patient 1", "patient 1")
    with pytest.raises(McdoError, match="has no split 'train'; there are: test, val"):
        load_images(f"{spec}@train")


def test_a_table_of_paths_alone_has_no_labels_and_counts_copies_once(tmp_path: Path) -> None:
    spec = table(tmp_path, "path\npictures/0.png\npictures/1.png\npictures/copy.png\n")
    (tmp_path / "pictures" / "copy.png").write_bytes(picture(0))
    images = load_images(spec.removeprefix("csv:"))
    assert images.labels is None
    assert len(set(images.origins)) == 2
    images.write_manifest(tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").fingerprint == images.fingerprint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\nx,y\n", "line 1: the column path is missing"),
        ("path,label\npictures/0.png,cat\npictures/1.png,\n", "line 3: there is no label, but others have one"),
        ("path,origin\npictures/0.png,a\npictures/1.png,\n", "line 3: there is no origin, but other images have one"),
        ("path\npictures/0.png\npictures/0.png\n", "line 3: pictures/0.png stands in line 2 already"),
        ("path,label\npictures/0.png\n", "line 2 has 1 cells under 2 columns"),
        ("path\npictures/0.png\npictures/gone.png\n", r"gone\.png.*; named in .*mine\.csv, line 3"),
        ("path\ngone.png\npictures\n", r"2 of 2.*\n.*gone\.png.*mine\.csv, line 2\n.*pictures.*mine\.csv, line 3"),
        ("path\n", "has no row below its head"),
    ],
)
def test_a_bad_row_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=said):
        load_images(table(tmp_path, text))


# ---- archives and data sets


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def shards(tmp_path: Path) -> str:
    for shard in range(2):
        files: dict[str, bytes] = {}
        for i in range(3 * shard, 3 * shard + 3):
            files |= {f"{i:04d}.png": picture(i), f"{i:04d}.cls": str(i % 2).encode(), f"{i:04d}.json": b"{}"}
        tar(tmp_path / f"{shard:03d}.tar", files)
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    return f"webdataset:{tmp_path}"


def arrow(tmp_path: Path) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    cells = pyarrow.array([{"bytes": picture(i), "path": None} for i in range(COUNT)])
    labels = pyarrow.array([i % 2 for i in range(COUNT)], pyarrow.int64())
    features = {"image": {"_type": "Image"}, "label": {"names": ["dog", "cat"], "_type": "ClassLabel"}}
    table = pyarrow.table({"image": cells, "label": labels})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for part in range(2):
        path = tmp_path / "val" / f"data-0000{part}-of-00002.arrow"
        path.parent.mkdir(exist_ok=True)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.slice(3 * part, 3))
    return f"hf-dataset:{tmp_path}@val"


def parquet(tmp_path: Path) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = pyarrow.array([{"bytes": picture(i), "path": "x.png"} for i in range(COUNT)])
    words = pyarrow.array([("dog", "cat")[i % 2] for i in range(COUNT)])
    parquet.write_table(pyarrow.table({"image": cells, "label": words}), tmp_path / "rows.parquet", row_group_size=2)
    return f"hf-dataset:{tmp_path}"


def test_a_label_is_one_in_capitals_too(tmp_path: Path) -> None:
    files = {"0.PNG": picture(0), "0.CLS": b"cat", "1.png": picture(1), "1.cls": b"dog", "1.cls.txt": b"a dog"}
    images = load_images(f"webdataset:{tar(tmp_path / 'a.tar', files)}")
    assert images.labels is not None
    assert [images.class_names[label] for label in images.labels] == ["cat", "dog"]


SOURCES: dict[str, Callable[[Path], str]] = {"webdataset": shards, "arrow": arrow, "parquet": parquet}


@pytest.mark.parametrize("made", [shards, parquet])
def test_a_bare_path_says_by_its_files_what_it_is(made: Callable[[Path], str], tmp_path: Path) -> None:
    spec = made(tmp_path)
    (tmp_path / ".cache" / "huggingface").mkdir(parents=True)  # as hf download --local-dir leaves it
    assert load_images(str(tmp_path)).ids == load_images(spec).ids
    fill(tmp_path, ["cat/0.png", "dog/1.png", "dog/2.png"])
    assert load_images(str(tmp_path)).class_names == ("cat", "dog"), "what lies beside classes is not looked at"


def test_a_bare_path_to_a_data_set_of_the_hub_is_read_as_one(tmp_path: Path) -> None:
    """As it is fetched from there: a card beside a directory of Parquet."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a card", encoding="utf-8")
    spec = parquet(tmp_path / "data")
    assert load_images(str(tmp_path)).ids == load_images(spec).ids
    fill(tmp_path, ["cat/0.png", "dog/1.png"])
    with pytest.raises(McdoError, match="data holds no images"):  # it is classes then
        load_images(str(tmp_path))


def test_what_the_library_keeps_beside_its_rows_is_not_read(tmp_path: Path) -> None:
    """Its cache lies in the same directory: the rows of a ``map``, which are the same pictures again."""
    spec = arrow(tmp_path)
    before = load_images(spec)
    val = tmp_path / "val"
    (val / "cache-0123456789abcdef.arrow").write_bytes((val / "data-00000-of-00002.arrow").read_bytes())
    assert load_images(spec).fingerprint == before.fingerprint
    state = val / "state.json"
    state.write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00002.arrow"}], "_split": None}))
    assert load_images(spec).ids == before.ids[:3]
    state.write_text(json.dumps({"_data_files": [{"filename": "data-00002-of-00003.arrow"}]}))
    with pytest.raises(McdoError, match=r"state.json names data-00002-of-00003\.arrow, which is not beside it"):
        load_images(spec)
    state.write_text(json.dumps({"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(McdoError, match="a selection of its rows; save it anew, after flatten_indices"):
        load_images(spec)


def test_files_that_name_classes_differently_are_not_read_together(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for i, names in enumerate((["dog", "cat"], ["cat", "dog"])):
        rows = pyarrow.table({"image": pyarrow.array([{"bytes": picture(i), "path": None}]), "label": [0]})
        said = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
        rows = rows.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": said}})})
        parquet.write_table(rows, tmp_path / f"{i}.parquet")
    with pytest.raises(McdoError, match=r"1\.parquet names the classes of label otherwise than .*0\.parquet"):
        load_images(f"hf-dataset:{tmp_path}")


def test_no_training_split_is_suggested_where_there_is_another(tmp_path: Path) -> None:
    spec = table(tmp_path, "path,split\n0.png,train\n1.png,\n2.png,test\n")
    with pytest.raises(McdoError, match=r"has the splits test, train and rows of none, such as line 3: .*csv@test$"):
        load_images(spec)
    for split in ("train", "test"):
        (tmp_path / "hub" / split).mkdir(parents=True)
        (tmp_path / "hub" / split / "0.parquet").touch()
    with pytest.raises(McdoError, match=r"has the splits test, train: name one, hf-dataset:.*hub@test$"):
        load_images(f"hf-dataset:{tmp_path / 'hub'}")


FILES_OF_SPLITS = {
    "hub": ("train-00000-of-00001.parquet", "test_2-00000-of-00001-0123abcd.parquet", "test_2"),
    "hub in a folder": ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet", "validation"),
    "by hand": ("cifar_train.parquet", "cifar_test.parquet", "test"),
    "cache": ("imagefolder-train.arrow", "imagefolder-validation-00000-of-00001.arrow", "validation"),
    "tars": ("imagenet-train-0000.tar", "imagenet-val-0000.tar", "val"),
}


@pytest.mark.parametrize("files", FILES_OF_SPLITS.values(), ids=FILES_OF_SPLITS)
def test_files_of_several_splits_are_not_read_together(files: tuple[str, str, str], tmp_path: Path) -> None:
    *names, wanted = files
    kind = "webdataset" if names[0].endswith("tar") else "hf-dataset"
    for i, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".tar":
            tar(path, {f"{i}.png": picture(i)})
            continue
        pyarrow = pytest.importorskip("pyarrow")
        rows = pyarrow.table({"image": pyarrow.array([{"bytes": picture(i), "path": None}])})
        if path.suffix == ".parquet":
            pytest.importorskip("pyarrow.parquet").write_table(rows, path)
        else:
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, rows.schema) as writer:
                writer.write_table(rows)
    with pytest.raises(McdoError, match=rf"has the splits \w+, \w+: name one, {kind}:.*@{wanted}"):
        load_images(f"{kind}:{tmp_path}")
    with pytest.raises(McdoError, match="no split 'tset'; there are: "):
        load_images(f"{kind}:{tmp_path}@tset")
    images = load_images(f"{kind}:{tmp_path}@{wanted}")
    assert np.array_equal(np.asarray(images.image(0)), np.asarray(Image.open(io.BytesIO(picture(1)))))
    assert len(images) == 1
    images.write_manifest(tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").fingerprint == images.fingerprint


def test_a_saved_set_of_splits_asks_for_one(tmp_path: Path) -> None:
    spec = arrow(tmp_path)
    assert load_images(str(tmp_path / "val")).ids == load_images(spec).ids
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["val"]}')
    assert load_images(str(tmp_path)).ids == load_images(spec).ids


@pytest.mark.parametrize("made", SOURCES.values(), ids=SOURCES)
def test_an_archive_gives_the_same_images_as_a_folder(made: Callable[[Path], str], tmp_path: Path) -> None:
    spec = made(tmp_path)
    images = load_images(spec)
    assert sorted(images.class_names) == ["cat", "dog"]
    assert list(read(images).values()) == ["dog", "cat"] * 3
    for i in range(COUNT):
        assert np.array_equal(np.asarray(images.image(i)), np.asarray(Image.open(io.BytesIO(picture(i)))))
    fewer = load_images(spec, 4, seed=1)
    assert set(fewer.ids) <= set(images.ids)
    with pytest.raises(TooFewImagesError):
        load_images(spec, 7)
    looked = look_at(spec, 5, 1, seconds=60.0)
    assert (looked.there, looked.looked_at, looked.originals) == (6, 5, 5)
    images.write_manifest(tmp_path / "manifest.json")
    assert read_manifest(tmp_path / "manifest.json").fingerprint == images.fingerprint


def bad_shards(tmp_path: Path, files: dict[str, bytes]) -> str:
    return f"webdataset:{tar(tmp_path / 'a.tar', files)}"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"0.png": picture(0), "0.jpg": picture(1)}, "the sample 0 has several pictures"),
        ({"0.png": picture(0), "0.cls": b"cat", "1.png": picture(1)}, r"a\.tar/1\.png: there is no label"),
        ({"0.png": picture(0), "0.cls": b"7"}, "its labels are numbers"),
        ({"0.png": picture(0), "0.cls": b"\xff"}, "the label of 0 is no UTF-8"),
        ({"0.png": picture(0), "0.cls": b"cat", "0.CLS": b"dog"}, "the sample 0 has several labels"),
        ({"0.png": picture(0), "0.cls": b"x" * 5000}, "the label of 0 has 5000 bytes"),
        ({"0.txt": b"no picture"}, "holds no pictures"),
        ({"0.png": b"no picture"}, "no image that Pillow can read"),
        ({"0.png": b""}, "0 bytes; from 1 to"),
    ],
)
def test_a_bad_sample_is_named(files: dict[str, bytes], said: str, tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=said):
        load_images(bad_shards(tmp_path, files))


def test_names_in_a_tar_reach_no_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("../../escaped.png")
        info.size = len(picture(0))
        archive.addfile(info, io.BytesIO(picture(0)))
    images = load_images(f"webdataset:{tmp_path / 'a.tar'}")
    assert images.ids == ("a.tar/../../escaped.png",)
    assert np.asarray(images.image(0))[0, 0].tolist() == [0, 10, 200]


def test_what_is_no_plain_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(McdoError, match="cannot be read as a plain tar"):
        load_images(f"webdataset:{tmp_path / 'a.tar'}")
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("0.png"))
    with pytest.raises(McdoError, match="one that is compressed must be unpacked"):
        load_images(f"webdataset:{tmp_path / 'a.tar'}")
    with pytest.raises(McdoError, match="is no tar and holds none"):
        load_images(f"webdataset:{tmp_path / 'nowhere'}")


def rows(tmp_path: Path, **columns: Any) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), tmp_path / "rows.parquet")
    return f"hf-dataset:{tmp_path}"


def test_a_bad_row_of_a_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "outside.png").write_bytes(picture(0))
    elsewhere = {"bytes": None, "path": str(tmp_path / "outside.png")}
    within = {"bytes": picture(1), "path": None}
    with pytest.raises(McdoError, match="00000001: the row holds no picture; one that only names a path"):
        load_images(rows(tmp_path, image=[within, elsewhere]))
    with pytest.raises(McdoError, match="row 00000001 has no label"):
        load_images(rows(tmp_path, image=[within, within], label=["cat", None]))
    with pytest.raises(McdoError, match="its labels are numbers"):
        load_images(rows(tmp_path, image=[within, within], label=[1, 2]))
    with pytest.raises(McdoError, match="one column must hold pictures; none of text do"):
        load_images(rows(tmp_path, text=["a"]))
    (tmp_path / "rows.parquet").write_bytes(b"no parquet")
    with pytest.raises(McdoError, match="cannot be read"):
        load_images(f"hf-dataset:{tmp_path}")
    with pytest.raises(McdoError, match="holds neither"):
        load_images(f"hf-dataset:{fill(tmp_path / 'other', ['a.png'])}")


@pytest.mark.parametrize("name", ["csv", "folder", "webdataset", "hf-dataset"])
def test_every_kind_of_a_place_wants_one(name: str) -> None:
    assert name in KINDS
    with pytest.raises(McdoError, match="needs a path"):
        load_images(f"{name}:")
