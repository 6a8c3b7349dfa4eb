from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import ImageSet, load_images
from mcdo.images.digits import Affine, DigitSource, augment, digit_origin, digits, training_split


def array(images: ImageSet) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return np.stack([np.asarray(image.convert("L"), dtype=np.float64).ravel() for image in images])


def test_the_split_is_what_the_shipped_encoders_were_trained_with() -> None:
    """It must never move: held-out images of one split would be training images of another."""
    assert load_images("digits").fingerprint == "1c361e38c553e490abfd124854f5346f2c92b3a44d82517f3da8e34c7522f985"


def test_training_and_heldout_share_no_image_and_leave_none_out() -> None:
    heldout, train = digits(), digits(split="train")
    assert len(heldout) == 600
    assert len(train) == 1197
    contents = {*heldout.content_hashes, *train.content_hashes}
    assert len(contents) == 1797
    numbers = sorted(int(each.split("/")[-1]) for each in heldout.ids + train.ids)
    assert numbers == list(range(1797))


def test_ids_numbers_and_labels_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    target = load_digits().target
    images = load_images("digits", 700, seed=5)
    assert images.labels is not None
    assert images.labels.tolist() == [target[int(each.split("/")[2])] for each in images.ids]
    assert images.class_names[3] == "three"


@pytest.mark.parametrize("found", [True, False])
def test_digits_are_those_that_scikit_learn_loads(found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    from mcdo.images import digits as module

    if not found:  # in the place where this version has them
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    images, labels = module._originals.__wrapped__()
    known = load_digits()
    assert (images.dtype.name, labels.dtype.name) == ("uint8", "int64")
    assert np.array_equal(images, known.images)
    assert np.array_equal(labels, known.target)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 1500), st.integers(0, 1000))
def test_digits_are_balanced_sorted_and_real_first(n: int, seed: int) -> None:
    images = digits(n, seed)
    assert len(images) == n
    assert list(images.ids) == sorted(images.ids)
    counts = np.bincount(np.asarray(images.labels), minlength=10)
    assert np.ptp(counts) <= 1
    assert sum("affine" in each for each in images.ids) == max(0, n - 600)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 1500), st.integers(1, 1500), st.integers(0, 9), st.integers(0, 9))
def test_an_id_is_the_same_image_whatever_n_and_seed(n: int, m: int, seed: int, other: int) -> None:
    first, second = digits(n, seed), digits(m, other)
    contents = dict(zip(first.ids, first.content_hashes, strict=True))
    again = dict(zip(second.ids, second.content_hashes, strict=True))
    assert all(contents[each] == again[each] for each in contents.keys() & again.keys())
    if seed == other:
        assert set(contents) <= set(again) or set(again) <= set(contents)


def test_every_variant_is_an_image_of_its_own() -> None:
    images = digits(1800)
    assert len(set(images.content_hashes)) == 1800
    assert len({image.tobytes() for image in images}) == 1800
    assert Counter(each.count("/") for each in images.ids) == {2: 600, 3: 1200}


def test_labels_fit_the_pixels_also_of_variants() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = training_split()
    assert train.shape == (1197, 32, 32)
    assert train.dtype == np.uint8
    model = KNeighborsClassifier(3).fit(train.reshape(len(train), -1), labels)
    images = digits(1200)
    right = model.predict(array(images)) == images.labels
    real = np.array(["affine" not in each for each in images.ids])
    assert right[real].mean() > 0.97
    assert right[~real].mean() > 0.85


def test_the_training_split_is_rendered_as_the_images_are() -> None:
    train, labels = training_split()
    images = digits(split="train")
    assert (train.reshape(1197, -1) == array(images)).all()
    assert (labels == images.labels).all()
    assert train.min() == 0
    assert train.max() == 255


def test_a_shift_moves_right_and_down_by_whole_pixels() -> None:
    image = DigitSource().load(digits(1).ids[0])[0].convert("L")
    moved = np.asarray(Affine(0, 0, 1, 2, 1).apply(image))
    assert (moved[1:, 2:] == np.asarray(image)[:-1, :-2]).all()
    assert moved[0].max() == 0
    assert moved[:, :2].max() == 0


def test_a_quarter_turn_scale_and_shear_are_about_the_centre() -> None:
    image = Image.new("L", (32, 32))
    image.paste(255, (16, 8, 20, 16))  # right of and above the centre
    turned = np.asarray(Affine(90, 0, 1, 0, 0).apply(image))
    assert np.abs(turned.astype(int) - np.rot90(np.asarray(image), -1)).max() <= 1
    doubled = np.asarray(Affine(0, 0, 2, 0, 0).apply(image)) > 127
    assert np.argwhere(doubled).min(axis=0).tolist() == [0, 16]
    assert np.argwhere(doubled).max(axis=0).tolist() == [15, 23]
    sheared = np.asarray(Affine(0, 45, 1, 0, 0).apply(image)) > 127
    right_edge = [np.argwhere(sheared[row]).max() for row in (15, 8)]  # half a row and 7.5 rows above the centre
    assert right_edge == pytest.approx([19 - 0.5, 19 - 7.5], abs=0.5)


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_distortions_stay_in_their_ranges(number: int) -> None:
    drawn = Affine.of(f"image {number}")
    assert drawn == Affine.of(f"image {number}")
    assert abs(drawn.rotation) <= 12
    assert abs(drawn.shear) <= 6
    assert 0.9 <= drawn.scale <= 1.1
    assert max(abs(drawn.shift_x), abs(drawn.shift_y)) <= 2


def test_distortions_fill_their_ranges_evenly() -> None:
    drawn = [Affine.of(f"image {i}") for i in range(2000)]
    for values, reach in (([each.rotation for each in drawn], 12), ([each.shift_y for each in drawn], 2)):
        deviation = reach / np.sqrt(3)
        assert np.std(values) == pytest.approx(deviation, rel=0.06)
        assert abs(np.mean(values)) < 4 * deviation / np.sqrt(2000)


@pytest.mark.parametrize(
    "bad", ["digits/heldout/9999", "digits/heldout/0123x", "digits/other/0001", "digits/train/0001"]
)
def test_an_id_that_names_no_digit_is_an_error(bad: str) -> None:
    with pytest.raises(McdoError, match="there is no digit"):
        DigitSource().load(bad)


@pytest.mark.parametrize("split", ["heldout", "train"])
def test_the_variants_of_a_digit_share_its_origin(split: str) -> None:
    originals = digits(split=split)
    assert originals.origins == originals.ids
    images = digits(2 * len(originals) + 7, split=split)
    assert set(images.origins) == set(originals.ids)
    assert Counter(Counter(images.origins).values()) == {2: len(originals) - 7, 3: 7}
    assert all(each == origin or each.startswith(f"{origin}/affine") for each, origin in _pairs(images))


def test_an_origin_is_the_same_whatever_n_and_seed() -> None:
    few, many = dict(_pairs(digits(650, seed=3))), dict(_pairs(digits(2000, seed=8)))
    common = few.keys() & many.keys()
    assert len(common) > 600
    assert all(few[each] == many[each] for each in common)


def test_there_is_no_origin_of_what_is_no_digit() -> None:
    assert digit_origin("digits/heldout/0001/affine12") == "digits/heldout/0001"
    for other in ("class/affine3", "a/digits/heldout/0001/affine2", "digits/heldout/0001/affine"):
        with pytest.raises(McdoError, match="there is no digit"):
            digit_origin(other)


def _pairs(images: ImageSet) -> list[tuple[str, str]]:
    return list(zip(images.ids, images.origins, strict=True))


def test_an_unknown_split_answers_with_the_nearest() -> None:
    with pytest.raises(McdoError, match="no split 'held-out'; the nearest: heldout"):
        digits(split="held-out")


def batch(count: int = 6) -> torch.Tensor:
    return torch.from_numpy(training_split()[0][:count])[:, None]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmentation_follows_its_generator_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (augment(batch(), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_augmentation_draws_each_image_anew_and_keeps_shape_and_scale() -> None:
    same = batch(1).repeat(4, 3, 1, 1)
    views = augment(same, generator())
    assert views.shape == (4, 3, 32, 32)
    assert views.dtype == torch.float32
    assert 0.5 < float(views.max()) <= 1.0
    assert len({view.numpy().tobytes() for view in views}) == 4
    assert torch.equal(views[:, 0], views[:, 2])
    torch.testing.assert_close(augment(same.float(), generator()), views * 255)


def test_augmentation_is_the_identity_at_the_middle_and_four_pixels_at_the_edge_of_its_range(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = torch.full((5, 6), 0.5)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    original = batch().float()
    torch.testing.assert_close(augment(original, generator()), original, atol=1e-3, rtol=0)
    drawn[3] = 1.0
    shifted = augment(original, generator())
    torch.testing.assert_close(shifted[..., :-4], original[..., 4:], atol=1e-2, rtol=0)
    assert shifted[..., -4:].abs().max() < 1e-2
