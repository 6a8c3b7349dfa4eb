from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mcdo.errors import LookAlikeWarning
from mcdo.images import load_images
from mcdo.images.copies import look_of, share_of_look_alikes


def photo(seed: int, side: int = 96) -> Image.Image:
    """Something with structure at every scale, as photos have."""
    rng = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(rng.uniform(0, 255, (n, n)).astype(np.uint8)).resize((side, side)), dtype=float)
        for n in (3, 6, 12, 24)
    ]
    return Image.fromarray(np.repeat(np.mean(layers, axis=0).astype(np.uint8)[..., None], 3, axis=2))


def saved(image: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=quality)
    return Image.open(held)


@pytest.mark.parametrize(
    "version",
    [
        lambda image: saved(image, 30),
        lambda image: image.resize((48, 48)),
        lambda image: image.filter(ImageFilter.GaussianBlur(3)),
        lambda image: image.point(lambda value: 0.8 * value),
        lambda image: image.convert("L").convert("RGB"),
    ],
    ids=["jpeg", "half", "blur", "darker", "grey"],
)
def test_versions_of_a_photo_look_alike(version: Callable[[Image.Image], Image.Image]) -> None:
    image = photo(0)
    assert share_of_look_alikes({"a": look_of(image), "b": look_of(version(image)), "c": look_of(photo(1))}) == 2 / 3


def test_other_photos_do_not() -> None:
    assert share_of_look_alikes({str(seed): look_of(photo(seed)) for seed in range(60)}) == 0


def test_plain_pictures_look_like_nothing() -> None:
    plain = [Image.new("RGB", (8, 8), (grey,) * 3) for grey in (0, 120)]
    assert [look_of(each) for each in plain] == [None, None]
    assert share_of_look_alikes({"a": look_of(plain[0]), "b": look_of(plain[1])}) == 0


def test_versions_in_a_folder_are_warned_of_until_origins_are_given(tmp_path: Path) -> None:
    for seed in range(4):
        for side in (96, 80, 64):
            name = tmp_path / "photos" / ("even" if seed % 2 else "odd") / f"{seed}-{side}.png"
            name.parent.mkdir(parents=True, exist_ok=True)
            photo(seed).resize((side, side)).save(name)
    with pytest.warns(LookAlikeWarning, match=r"100% of the images look like another one.*column origin"):
        images = load_images(f"folder:{tmp_path / 'photos'}")
    assert len(set(images.origins)) == 12
    rows = [f"photos/{image_id},{image_id.split('/')[0]},{image_id.split('/')[1][0]}" for image_id in images.ids]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["path,label,origin", *rows]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(load_images(f"csv:{table}").origins)) == 4


def test_exact_copies_are_one_original_and_no_look_alikes(tmp_path: Path) -> None:
    for seed in range(3):
        for copy in range(3):
            (tmp_path / "a").mkdir(exist_ok=True)
            photo(seed).save(tmp_path / "a" / f"{seed}{copy}.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(set(load_images(f"folder:{tmp_path}").origins)) == 3
