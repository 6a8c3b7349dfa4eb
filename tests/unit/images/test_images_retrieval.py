from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcdo.errors import McdoError
from mcdo.images import load_images, read_manifest
from mcdo.images.retrieval import RetrievalItem, read_items

CAPTIONS = ["a photo of a one", "a photo of a two"]


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    """Five digits as PNG files below the folder of the JSON file."""
    (tmp_path / "images").mkdir()
    found = []
    for i, image in enumerate(load_images("digits", 5)):
        image.save(tmp_path / "images" / f"{i}.png")
        found.append({"image_path": f"images/{i}.png", "captions": list(CAPTIONS), "correct_index": i % 2})
    return found


def write(folder: Path, entries: Any) -> Path:
    path = folder / "items.json"
    path.write_text(json.dumps(entries))
    return path


def test_items_and_images_are_those_of_the_file_in_its_order(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    del entries[0]["correct_index"]
    entries.reverse()
    path = write(tmp_path, entries)
    items, images = read_items(path), load_images(f"retrieval:{path}")
    assert items[-1] == RetrievalItem("images/0.png", tuple(CAPTIONS), 0)
    assert [item.correct_index for item in items] == [0, 1, 0, 1, 0]
    assert images.ids == tuple(f"images/{i}.png" for i in (4, 3, 2, 1, 0))
    assert images.labels is None
    assert images.image(4).tobytes() == load_images("digits", 5).image(0).tobytes()
    assert load_images(f"retrieval:{path}", 3).ids == images.ids[:3]


def test_an_absolute_path_may_lie_anywhere(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    entries[1]["image_path"] = str(tmp_path / "images" / "1.png")
    (tmp_path / "other").mkdir()
    for entry in entries:
        entry["image_path"] = str(tmp_path / entry["image_path"])
    path = write(tmp_path / "other", entries)
    assert len(load_images(f"retrieval:{path}")) == 5


def test_a_manifest_gives_the_images_back(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    images = load_images(f"retrieval:{write(tmp_path, entries)}")
    images.write_manifest(tmp_path / "manifest.json")
    again = read_manifest(tmp_path / "manifest.json")
    assert (again.fingerprint, again.origins) == (images.fingerprint, images.origins)


def test_copies_of_one_picture_share_an_origin(tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    (tmp_path / "images" / "copy.png").write_bytes((tmp_path / "images" / "1.png").read_bytes())
    path = write(tmp_path, [*entries, {**entries[1], "image_path": "images/copy.png"}])
    images = load_images(f"retrieval:{path}")
    assert images.origins[5] == images.origins[1]
    assert len(set(images.origins)) == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("captions", ["only one"], r"\[2\].captions is \['only one'\]: Expected array of length >= 2"),
        ("captions", ["same", "same", "other"], r"\[2\]: 'captions' holds 2 different of 3; expected all different"),
        ("captions", "a text", r"\[2\].captions is 'a text': Expected array"),
        ("captions", ["a", 3], r"\[2\].captions\[1\] is 3: Expected str"),
        ("captions", ["a", " "], r"\[2\].captions\[1\] is ' ': Expected str matching"),
        ("correct_index", 2, r"\[2\]: 'correct_index' is 2; expected 0 to 1"),
        ("correct_index", -1, r"\[2\].correct_index is -1"),
        ("correct_index", True, r"\[2\].correct_index is True"),
        ("correct_index", "0", r"\[2\].correct_index is '0'"),
        ("image_path", 7, r"\[2\].image_path is 7: Expected str"),
        ("image_path", "", r"\[2\].image_path is ''"),
        ("image_path", "images/0.png", r"\[2\].image_path repeats that of \[0\]"),
        ("caption", "x", r"\[2\] has the unknown key 'caption'; the nearest: captions"),
    ],
)
def test_a_wrong_value_is_named_with_its_index_and_key(
    key: str, value: object, message: str, tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    entries[2][key] = value
    with pytest.raises(McdoError, match=message):
        read_items(write(tmp_path, entries))


@pytest.mark.parametrize("key", ["image_path", "captions"])
def test_a_missing_key_is_named(key: str, tmp_path: Path, entries: list[dict[str, Any]]) -> None:
    del entries[3][key]
    with pytest.raises(McdoError, match=rf"\[3\] lacks the key {key}"):
        read_items(write(tmp_path, entries))


def test_a_missing_or_damaged_image_is_named_before_anything_is_measured(
    tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    path = write(tmp_path, entries)
    (tmp_path / "images" / "4.png").write_bytes(b"no image")
    with pytest.raises(McdoError, match=r"\[4\].image_path names no readable image: .*4\.png"):
        load_images(f"retrieval:{path}")
    (tmp_path / "images" / "4.png").unlink()
    with pytest.raises(McdoError, match=r"\[4\].image_path names no readable image"):
        load_images(f"retrieval:{path}")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{}", "is {}: Expected array, got object"), ("[1, 2", "line 1, column 6 is not JSON"),
     ("[]", "holds 0 entries"), ("[3]", r"\[0\] is 3: Expected object, got int")],
)  # fmt: skip
def test_a_file_that_is_no_list_of_entries_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text(content)
    with pytest.raises(McdoError, match=message):
        read_items(tmp_path / "items.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"absent\.json cannot be read"):
        load_images(f"retrieval:{tmp_path / 'absent.json'}")
