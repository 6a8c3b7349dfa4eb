from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.images import ImageSet, load_images, read_manifest
from mcdo.images.synthetic import PATTERNS, SyntheticSource

KINDS = pytest.mark.parametrize("kind", list(PATTERNS))


def arrays(images: ImageSet) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.stack([np.asarray(image).astype(np.int64) for image in images])


def distinct(images: ImageSet) -> int:
    """By content hash, and by the pixels themselves: they must agree."""
    pixels = {image.tobytes() for image in images}
    assert len(pixels) == len(set(images.content_hashes))
    return len(pixels)


@KINDS
@pytest.mark.parametrize("seed", [0, 42])
def test_no_two_images_of_a_kind_are_the_same(kind: str, seed: int) -> None:
    images = load_images(f"synthetic:{kind}", 60, seed)
    assert len(images) == 60
    assert distinct(images) == 60
    assert images.image(0).size == (224, 224)
    assert images.image(0).mode == "RGB"


def test_the_published_gradients_would_be_caught() -> None:
    """Horizontal or not by i even, inverted or not by i divisible by 3: 10 images, 4 contents."""
    ramp = np.linspace(0, 255, 32).astype(np.uint8)

    def published(i: int) -> bytes:
        line = ramp[::-1] if i % 3 == 0 else ramp
        plane = np.tile(line, (32, 1)) if i % 2 == 0 else np.tile(line[:, None], (1, 32))
        return np.stack([plane, np.roll(plane, 32 // 3, axis=1), np.roll(plane, 32 // 5, axis=0)], axis=-1).tobytes()

    assert len({published(i) for i in range(10)}) == 4
    assert distinct(load_images("synthetic:gradient:32", 10)) == 10


def test_solid_images_are_solid_and_noise_is_not() -> None:
    assert np.ptp(arrays(load_images("synthetic:solid:16", 8)), axis=(1, 2)).max() == 0
    assert np.ptp(arrays(load_images("synthetic:noise:16", 8)), axis=(1, 2)).min() > 200


def test_gradients_change_linearly_along_one_direction_and_not_across_it() -> None:
    for image in arrays(load_images("synthetic:gradient:32", 20)):
        # second differences of a rounded linear ramp are at most 2, in every channel and both directions
        assert np.abs(np.diff(image, 2, axis=0)).max() <= 2
        assert np.abs(np.diff(image, 2, axis=1)).max() <= 2
        assert np.ptp(image, axis=(0, 1)).max() > 0


def test_noise_is_uniform_over_grey_levels() -> None:
    values = arrays(load_images("synthetic:noise:32", 40)).ravel()
    counts = np.bincount(values, minlength=256)
    expected = len(values) / 256
    # chi-square with 255 degrees of freedom: mean 255, standard deviation 22.6
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 4 * 22.6


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(list(PATTERNS)), st.integers(1, 30), st.integers(1, 30), st.integers(0, 9))
def test_an_image_is_the_same_whatever_n_it_was_asked_for_with(kind: str, n: int, more: int, seed: int) -> None:
    few, many = load_images(f"synthetic:{kind}:8", n, seed), load_images(f"synthetic:{kind}:8", n + more, seed)
    assert many.ids[:n] == few.ids
    assert many.content_hashes[:n] == few.content_hashes
    assert distinct(many) == n + more


@KINDS
def test_another_seed_gives_other_images(kind: str) -> None:
    spec = f"synthetic:{kind}"
    first, other = load_images(f"{spec}:8", 20, 1), load_images(f"{spec}:8", 20, 2)
    assert not set(first.content_hashes) & set(other.content_hashes)
    assert not set(first.ids) & set(other.ids)


def test_solid_colours_are_not_the_first_pixels_of_noise() -> None:
    """At one pixel both are three uniform draws; the published solid and noise images shared their seeds."""
    contents = [set(load_images(f"synthetic:{kind}:1", 50).content_hashes) for kind in ("solid", "noise")]
    assert not contents[0] & contents[1]


def test_repeats_are_left_out_and_more_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_shades(rng: np.random.Generator, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        return np.full((size, size, 3), rng.integers(0, 2), dtype=np.uint8)

    monkeypatch.setitem(PATTERNS, "solid", two_shades)
    assert distinct(load_images("synthetic:solid:4", 2)) == 2
    with pytest.raises(McdoError, match="only 2 distinct images of 4 px were found for n = 3"):
        load_images("synthetic:solid:4", 3)


def test_a_manifest_gives_the_images_back(tmp_path: Path) -> None:
    images = load_images("synthetic:gradient:16", 5, seed=3)
    images.write_manifest(tmp_path / "manifest.json")
    again = read_manifest(tmp_path / "manifest.json")
    assert again.origins == images.origins == images.ids
    assert again.fingerprint == images.fingerprint
    np.testing.assert_array_equal(arrays(again), arrays(images))


def test_the_images_never_move() -> None:
    """Their hashes key stored measurements; the recipe must not change unnoticed."""
    found = {kind: load_images(f"synthetic:{kind}:32", 40, 42).fingerprint[:12] for kind in PATTERNS}
    assert found == {"solid": "d018f4ae7e3e", "gradient": "7f3ec729842a", "noise": "e6c535f369f3"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("synthetic:gradiant", "synthetic:gradient"),
        ("synthetic:", "the nearest: synthetic:"),
        ("synthetic:noise:big", "the size 'big' is no number of pixels"),
        ("synthetic:noise:0", "the size '0'"),
        ("synthetic:noise:", "the size ''"),
        ("synthetic:noise:99999", "from 1 to 4096"),
    ],
)
def test_a_wrong_specification_says_what_to_write(spec: str, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        load_images(spec, 3)


@pytest.mark.parametrize("image_id", ["synthetic/plaid/8px/seed1/000001", "digits/heldout/0001", "synthetic/noise/8px"])
def test_an_id_that_names_no_image_is_refused(image_id: str) -> None:
    with pytest.raises(McdoError, match="ids look like synthetic/noise"):
        SyntheticSource().load(image_id)
