from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import ImageSet, Pixels, load_images, prepare_pixels

MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@cache
def digits() -> ImageSet:
    return load_images("digits", 12)


def to_uint8(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def prepared(workers: int | None = None) -> Pixels:
    return prepare_pixels(digits(), to_uint8, MEAN, STD, workers=workers)


def test_a_batch_is_bit_for_bit_what_torchvision_makes_of_the_images() -> None:
    from torchvision.transforms import functional as reference

    pixels = prepared()
    expected = torch.stack(
        [reference.normalize(reference.to_tensor(image), list(MEAN), list(STD)) for image in digits()]
    )
    assert len(pixels) == 12
    assert torch.equal(pixels.batch(slice(None)), expected)
    for indices in (slice(3, 9), [5, 0, 5], np.array([7, 1]), torch.tensor([2, -1])):
        assert torch.equal(pixels.batch(indices), expected[indices])


def test_batches_leave_the_data_alone() -> None:
    pixels = prepared()
    before = pixels.data.clone()
    pixels.batch(slice(None)).zero_()
    assert torch.equal(pixels.data, before)
    assert pixels.data.dtype == torch.uint8


def test_the_number_of_workers_changes_nothing() -> None:
    assert torch.equal(prepared(1).data, prepared(4).data)


def test_two_sets_prepared_in_turn_each_have_their_own_pixels() -> None:
    """A cache keyed by the identity of a freed object would hand the first set's pixels to the second."""
    for seed in range(5):
        images = load_images("digits", 3, seed=seed)
        data = prepare_pixels(images, to_uint8, MEAN, STD).data
        assert all(torch.equal(data[i], to_uint8(images.image(i))) for i in range(3))


def test_an_image_of_another_shape_or_type_is_named() -> None:
    def odd(image: Image.Image) -> torch.Tensor:
        pixels = to_uint8(image)
        return pixels[:, :16] if torch.equal(pixels, to_uint8(digits().image(4))) else pixels

    with pytest.raises(McdoError, match=rf"{digits().ids[4]}: .*shape \(3, 16, 32\)"):
        prepare_pixels(digits(), odd, MEAN, STD)
    with pytest.raises(McdoError, match=r"gave torch\.float32"):
        prepare_pixels(digits(), lambda image: to_uint8(image).float(), MEAN, STD)


def test_a_file_broken_after_loading_is_named(tmp_path: Path) -> None:
    for i in range(3):
        path = tmp_path / "cat" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    images = load_images(f"folder:{tmp_path}")
    (tmp_path / "cat" / "1.png").write_bytes(b"broken")
    with pytest.raises(McdoError, match=r"cat/1\.png: the content is no image"):
        prepare_pixels(images, to_uint8, MEAN, STD)


def test_no_images_is_an_error() -> None:
    with pytest.raises(McdoError, match="no images to prepare"):
        prepare_pixels(digits().select([]), to_uint8, MEAN, STD)
