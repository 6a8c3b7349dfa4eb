from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mcdo.errors import McdoError
from mcdo.studies.connector.llava_json import read_items, split, with_images


def entry(i: int, image: str | None = None) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": f"picture {i}"}]
    return {"id": f"{i:05d}", "image": image or f"00/{i:05d}.jpg", "conversations": turns}


def written(folder: Path, held: Any) -> Path:
    path = folder / "pretrain.json"
    path.write_text(held if isinstance(held, str) else json.dumps(held), encoding="utf-8")
    return path


def pictures(root: Path, n: int) -> Path:
    (root / "00").mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (20, 10), (60 * i, 0, 0)).save(root / "00" / f"{i:05d}.jpg")
    return root


def test_items_are_read_in_order(tmp_path: Path) -> None:
    listing = read_items(written(tmp_path, [entry(0), {**entry(1), "id": 7}]))
    assert [item.id for item in listing.items] == ["00000", "7"]
    assert listing.items[0].prompt == "<image>\nWhat is it?"
    assert listing.items[0].answer == "picture 0"
    assert listing.items[1].image == "00/00001.jpg"


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(entry(1))
    at: Any = found
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return found


def lacking(key: str) -> dict[str, Any]:
    return {name: value for name, value in entry(1).items() if name != key}


BAD = {
    "no object": ("text", r"item 1: is 'text': Expected object, got str"),
    "no id": (lacking("id"), r"item 1: lacks the key id"),
    "no image": (lacking("image"), r"item 1 \(id '00001'\): lacks the key image"),
    "no conversations": (lacking("conversations"), r"item 1 \(id '00001'\): lacks the key conversations"),
    "id": (changed(["id"], 1.5), r"id is 1.5: Expected (int \| str|str \| int)"),
    "id twice": (entry(0), r"item 1 \(id '00000'\): id is that of an earlier item"),
    "image": (changed(["image"], None), r"image is None: Expected str, got null"),
    "image outside": (changed(["image"], "../x.jpg"), r"image is '../x.jpg', which lies outside"),
    "image absolute": (changed(["image"], "/x.jpg"), r"outside the image root"),
    "turns": (changed(["conversations"], []), r"conversations is \[\]: Expected array of length >= 2"),
    "speaker": (changed(["conversations", 0, "from"], "gpt"), r"conversations\[0\].from must be 'human'"),
    "answer": (changed(["conversations", 1, "value"], " "), r"conversations\[1\].value is ' ': Expected str matching"),
    "no placeholder": (
        changed(["conversations", 0, "value"], "What?"),
        r"conversations\[0\].value holds 0 of <image>",
    ),
    "two placeholders": (changed(["conversations", 0, "value"], "<image><image>"), r"holds 2 of <image>, not 1"),
    "placeholder in the answer": (
        changed(["conversations", 1, "value"], "a <image>"),
        r"conversations\[1\].value holds 1",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_item_is_named_with_its_key_and_can_be_left_out(tmp_path: Path, name: str) -> None:
    held, message = BAD[name]
    path = written(tmp_path, [entry(0), held, entry(2)])
    with pytest.raises(McdoError, match=message) as error:
        read_items(path)
    assert f"{path}: 1 of 3 items cannot be used" in str(error.value)
    listing = read_items(path, skip_bad=True)
    assert [item.id for item in listing.items] == ["00000", "00002"]
    assert [each.path.split(" (")[0] for each in listing.skipped] == ["item 1"]


def test_all_bad_items_are_reported_together_up_to_ten(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(0), *[{"id": i} for i in range(1, 15)]])
    with pytest.raises(McdoError, match="14 of 15 items") as error:
        read_items(path)
    assert len(str(error.value).splitlines()) == 12
    assert "and 4 more" in str(error.value)
    with pytest.raises(McdoError, match="none can be used"):
        read_items(written(tmp_path, [{}]), skip_bad=True)


@pytest.mark.parametrize(
    ("held", "message"), [("{", "is not JSON"), ({"a": 1}, "Expected array, got object"), ([], "is empty")]
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, held: Any, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        read_items(written(tmp_path, held))
    with pytest.raises(McdoError, match="cannot be read"):
        read_items(tmp_path / "absent.json")


def test_no_image_is_both_trained_on_and_held_out(tmp_path: Path) -> None:
    held = [entry(i, f"00/{i % 20:05d}.jpg") for i in range(100)]
    listing = read_items(written(tmp_path, held))
    train, out = split(listing, 10, 1000, seed=3)
    assert len(out) == 10
    assert {item.image for item in train}.isdisjoint(item.image for item in out)
    assert len({item.id for item in (*train, *out)}) == len(train) + 10
    assert (train, out) == split(listing, 10, 1000, seed=3)
    assert len(split(listing, 10, 5, seed=3)[0]) == 5
    with pytest.raises(McdoError, match="holds 100 usable items; 101 are to be held out"):
        split(listing, 101, 5, seed=3)


def test_images_are_decoded_once_for_the_items_that_share_them(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", 2)
    listing = read_items(written(tmp_path, [entry(1), entry(0), {**entry(2), "image": "00/00001.jpg"}]))
    found = with_images(listing, listing.items, root)
    assert found.images.ids == ("00/00000.jpg", "00/00001.jpg")
    assert found.rows.tolist() == [1, 0, 1]
    assert found.images.image(0).getpixel((0, 0)) != found.images.image(1).getpixel((0, 0))


def test_bad_pictures_are_named_before_anything_is_computed_and_can_be_left_out(tmp_path: Path) -> None:
    root = pictures(tmp_path / "images", 4)
    (root / "00" / "00001.jpg").write_bytes(b"not a picture")
    (root / "00" / "00002.jpg").unlink()
    listing = read_items(written(tmp_path, [entry(i) for i in range(4)]))
    with pytest.raises(McdoError, match="2 of 4 items cannot be used") as error:
        with_images(listing, listing.items, root)
    assert "(id '00001'): image: 00/00001.jpg: the content is no image" in str(error.value)
    assert "(id '00002'): image: 00/00002.jpg: cannot be read" in str(error.value)
    found = with_images(listing, listing.items, root, skip_bad=True)
    assert [item.id for item in found.items] == ["00000", "00003"]
    assert len(found.skipped) == 2
    with pytest.raises(McdoError, match=r"the image root .* is not a folder"):
        with_images(listing, listing.items, tmp_path / "absent")
