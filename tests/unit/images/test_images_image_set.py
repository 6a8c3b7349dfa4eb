from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import ImageSet, Skipped, load_images, read_manifest
from mcdo.images.digits import DigitSource


@cache
def digits() -> ImageSet:
    return load_images("digits", 20)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("ant", "bée"):
        for i in range(3):
            path = tmp_path / "tree" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), (i, len(name), 0)).save(path)
    return tmp_path / "tree"


def made(**changes: Any) -> ImageSet:
    fields: dict[str, Any] = {
        "name": "digits",
        "ids": digits().ids[:2],
        "labels": np.array([0, 1]),
        "class_names": ("a", "b"),
        "seed": 1,
        "source": DigitSource(),
        "content_hashes": digits().content_hashes[:2],
    }
    return ImageSet(**(fields | changes))


@settings(deadline=None)
@given(st.lists(st.integers(-20, 19), max_size=20, unique_by=lambda i: i % 20))
def test_select_takes_images_labels_and_contents_together(indices: list[int]) -> None:
    chosen = digits().select(indices)
    assert chosen.ids == tuple(digits().ids[i] for i in indices)
    assert chosen.content_hashes == tuple(digits().content_hashes[i] for i in indices)
    assert chosen.origins == tuple(digits().origins[i] for i in indices)
    assert chosen.labels is not None
    labels = digits().labels
    assert labels is not None
    assert chosen.labels.tolist() == [labels[i] for i in indices]
    assert chosen.class_names == digits().class_names


def test_select_takes_slices_and_masks() -> None:
    assert digits().select(slice(2, 5)).ids == digits().ids[2:5]
    assert digits().select(np.arange(20) < 3).ids == digits().ids[:3]


def test_iteration_gives_the_images_in_order() -> None:
    assert [image.tobytes() for image in digits()] == [digits().image(i).tobytes() for i in range(20)]
    assert all(image.mode == "RGB" and image.size == (32, 32) for image in digits())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"ids": ("x", "x")}, "occurs twice", id="same-id"),
        pytest.param({"content_hashes": ("x",)}, "2 ids but 1 content hashes", id="hashes"),
        pytest.param({"origins": ("x",)}, "2 ids but 1 origins; give one for each", id="origins"),
        pytest.param({"mask_ids": ("x",)}, "2 ids but 1 mask ids", id="mask-ids"),
        pytest.param({"labels": np.array([0])}, r"labels of shape \(1,\)", id="labels-shape"),
        pytest.param({"labels": np.array([0, 2])}, "outside the 2 class names", id="label-above"),
        pytest.param({"labels": np.array([-1, 0])}, "outside the 2 class names", id="label-below"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(McdoError, match=message):
        made(**changes)


def test_origins_are_the_ids_where_none_are_given_and_change_no_fingerprint() -> None:
    plain, shared = made(), made(origins=("one", "one"))
    assert plain.origins == plain.ids
    assert shared.fingerprint == plain.fingerprint
    for derived in (shared.with_common_masks(), shared.select([1, 0]), replace(shared, ids=("x", "y"))):
        assert derived.origins == ("one", "one")


def test_labels_cannot_be_changed_and_are_not_shared() -> None:
    labels = np.array([0, 1])
    images = made(labels=labels)
    labels[0] = 1
    assert images.labels is not None
    assert images.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        images.labels[0] = 1


def test_the_fingerprint_follows_content_and_ids_not_place_or_time(tree: Path, tmp_path: Path) -> None:
    before = load_images(f"folder:{tree}")
    moved = tree.rename(tmp_path / "moved")
    os.utime(moved / "ant" / "0.png", (0, 0))
    after = load_images(f"folder:{moved}")
    assert after.fingerprint == before.fingerprint
    assert after.select(slice(1, None)).fingerprint != before.fingerprint
    assert after.select([1, 0, 2, 3, 4, 5]).fingerprint != before.fingerprint
    (moved / "ant" / "0.png").write_bytes((moved / "ant" / "1.png").read_bytes())
    assert load_images(f"folder:{moved}").fingerprint != before.fingerprint
    (moved / "ant" / "0.png").rename(moved / "ant" / "9.png")


@pytest.mark.parametrize("kind", ["digits", "digits:train", "folder"])
def test_a_manifest_gives_back_what_was_written(tree: Path, tmp_path: Path, kind: str) -> None:
    images = load_images(f"folder:{tree}" if kind == "folder" else kind, n=5, seed=7)
    path = tmp_path / "deep" / "manifest.json"
    images.write_manifest(path)
    again = read_manifest(path)
    for field in ("name", "ids", "origins", "class_names", "seed", "content_hashes", "skipped", "fingerprint"):
        assert getattr(again, field) == getattr(images, field)
    assert np.array_equal(np.asarray(again.labels), np.asarray(images.labels))
    assert [image.tobytes() for image in again] == [image.tobytes() for image in images]
    assert [each.name for each in path.parent.iterdir()] == ["manifest.json"]


def test_a_manifest_keeps_skipped_files_missing_labels_and_the_published_keys(tmp_path: Path) -> None:
    skipped = (Skipped("a/ü.jpg", "empty"),)
    made(labels=None, class_names=(), skipped=skipped).write_manifest(tmp_path / "m.json")
    again = read_manifest(tmp_path / "m.json")
    assert again.labels is None
    assert again.skipped == skipped
    content = json.loads((tmp_path / "m.json").read_text())
    assert content["num_images"] == 2
    assert content["paths"] == list(digits().ids[:2])


@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_a_manifest_from_before_origins_has_those_of_loading_anew(tree: Path, tmp_path: Path, kind: str) -> None:
    (tree / "ant" / "copy.png").write_bytes((tree / "bée" / "0.png").read_bytes())
    images = load_images(f"folder:{tree}") if kind == "folder" else load_images("digits", 605)
    assert len(set(images.origins)) < len(images)
    path = tmp_path / "m.json"
    images.write_manifest(path)
    content = json.loads(path.read_text())
    assert content.pop("origins") == list(images.origins)
    path.write_text(json.dumps(content))
    assert read_manifest(path).origins == images.origins


def test_a_manifest_keeps_origins_and_masks_that_were_given(tmp_path: Path) -> None:
    images = made(origins=("one", "one")).with_common_masks()
    images.write_manifest(tmp_path / "m.json")
    again = read_manifest(tmp_path / "m.json")
    assert (again.origins, again.mask_ids, again.fingerprint) == (images.origins, images.mask_ids, images.fingerprint)


def test_a_failed_write_leaves_the_old_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.json"
    digits().write_manifest(path)
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("power cut")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        made().write_manifest(path)
    assert path.read_bytes() == before


def break_file(path: Path) -> None:
    path.write_bytes(b"other")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        pytest.param(break_file, r"m\.json: ant/1\.png .* has other content", id="changed"),
        pytest.param(Path.unlink, r"ant/1\.png: cannot be read", id="missing"),
    ],
)
def test_reading_a_manifest_names_the_file_that_is_not_what_it_was(
    tree: Path, tmp_path: Path, harm: Callable[[Path], None], message: str
) -> None:
    load_images(f"folder:{tree}").write_manifest(tmp_path / "m.json")
    harm(tree / "ant" / "1.png")
    with pytest.raises(McdoError, match=message):
        read_manifest(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "line 1, column 2 is not JSON", id="no-json"),
        pytest.param("[]", r"is \[\]: Expected object, got array; write the manifest again", id="a-list"),
        pytest.param('{"paths": []}', "lacks the key name", id="keys"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(McdoError, match=message):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(McdoError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        pytest.param("", {}, "no images are named; give a specification", id="blank"),
        pytest.param(" ", {}, "no images are named; give a specification", id="blanks"),
        pytest.param("digit", {}, "unknown images 'digit'; the nearest: digits", id="misspelt"),
        pytest.param("fodler:/x", {}, "the nearest: folder:PATH", id="misspelt-folder"),
        pytest.param("folder", {}, "needs a path", id="no-path"),
        pytest.param("digits:tain", {}, "the nearest: train", id="split"),
        pytest.param("digits", {"n": 0}, "n = 0: it must be at least 1", id="n-zero"),
        pytest.param("digits", {"n": -3}, "it must be at least 1", id="n-negative"),
        pytest.param("digits", {"seed": -1}, "seed = -1", id="seed-negative"),
    ],
)
def test_a_wrong_specification_says_what_would_be_right(spec: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(McdoError, match=message):
        load_images(spec, **options)  # type: ignore[arg-type]
