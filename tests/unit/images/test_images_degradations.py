from __future__ import annotations

import hashlib
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import degraded, load_images, prepare_pixels
from mcdo.images.degradations import COUNTERPARTS, FAMILIES, PUBLISHED, Degradation, graded, published

EVERY = [spec for family in FAMILIES for side in (32, 375) for spec in graded(family, side)]
FAMILY = pytest.mark.parametrize("family", list(FAMILIES))


def pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def photograph(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Smooth structure with some texture, no flat places."""
    rng = np.random.default_rng(seed)
    field = scipy.ndimage.gaussian_filter(rng.normal(size=(height, width, 3)), (3, 3, 0))
    scaled = 127 + 60 * field / field.std() + rng.normal(0, 8, field.shape)
    return Image.fromarray(scaled.clip(1, 254).astype(np.uint8))


def damage(spec: str, image: Image.Image, image_id: str = "a") -> NDArray[np.float64]:
    return pixels(Degradation.parse(spec).apply(image, image_id))


# ---- the set


def test_a_degraded_set_keeps_order_labels_and_mask_ids_and_has_ids_of_its_own() -> None:
    clean = load_images("digits", 20)
    blurred = degraded(clean, "blur:5")
    assert blurred.mask_ids == clean.ids == clean.mask_ids
    assert blurred.ids == tuple(f"{image_id}::blur:5" for image_id in clean.ids)
    assert blurred.labels is not None
    assert clean.labels is not None
    assert (blurred.labels == clean.labels).all()
    assert blurred.class_names == clean.class_names
    assert blurred.fingerprint != clean.fingerprint
    assert not set(blurred.content_hashes) & set(clean.content_hashes)


def test_a_degraded_image_has_the_origin_of_its_clean_one() -> None:
    clean = load_images("digits", 700)
    assert len(set(clean.origins)) == 600
    blurred = degraded(clean, "blur:2")
    assert blurred.origins == clean.origins
    assert degraded(blurred, "occlusion:0.1").select([3, 1]).origins == (clean.origins[3], clean.origins[1])


def test_the_content_hash_is_that_of_clean_content_and_degradation() -> None:
    clean = load_images("digits", 3)
    blurred = degraded(clean, "blur:5")
    expected = [hashlib.sha256(f"degradation 1 blur:5 {h}".encode()).hexdigest() for h in clean.content_hashes]
    assert list(blurred.content_hashes) == expected
    assert [blurred.source.content_hash(image_id) for image_id in blurred.ids] == expected


@pytest.mark.parametrize(("one", "other"), [("blur:5", "blur:5.0"), ("blur:4%", "blur:4.00%"), ("jpeg:20", "jpeg:20.")])
def test_two_spellings_of_a_level_are_one_set(one: str, other: str) -> None:
    images = load_images("digits", 3)
    assert degraded(images, one).fingerprint == degraded(images, other).fingerprint


def test_all_levels_of_all_families_are_different_sets() -> None:
    images = load_images("digits", 3)
    found = {degraded(images, spec).fingerprint for spec in EVERY} | {images.fingerprint}
    assert len(found) == len(set(EVERY)) + 1


def test_a_set_degraded_twice_keeps_the_masks_of_the_clean_one() -> None:
    clean = load_images("digits", 4)
    twice = degraded(degraded(clean, "blur:2"), "occlusion:0.1")
    assert twice.mask_ids == clean.ids
    once = pixels(degraded(clean, "blur:2").image(0))
    assert (pixels(twice.image(0)) != once).mean() < 0.2, "only the square differs"
    assert (pixels(twice.image(0)) == once).mean() < 1


def test_images_are_decoded_when_they_are_asked_for(tmp_path: Path) -> None:
    for name in "abc":
        photograph(seed=ord(name)).save(tmp_path / f"{name}.png")
    blurred = degraded(load_images(f"folder:{tmp_path}"), "blur:2")
    blurred.image(0)
    photograph(seed=7).save(tmp_path / "b.png")
    with pytest.raises(McdoError, match=r"b\.png"):
        blurred.image(1)


def test_degradation_happens_at_native_size_before_the_encoders_resize(tmp_path: Path) -> None:
    photograph(400, 300).save(tmp_path / "a.png")
    images = degraded(load_images(f"folder:{tmp_path}"), "blur:5")
    assert images.image(0).size == (400, 300)
    with Image.open(tmp_path / "a.png") as image:
        assert (pixels(images.image(0)) == damage("blur:5", image.convert("RGB"), "a.png")).all()


def test_a_degraded_set_can_be_prepared_in_any_number_of_threads() -> None:
    images = degraded(load_images("digits", 12), "noise:0.1")

    def to_uint8(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    one, four = (prepare_pixels(images, to_uint8, (0, 0, 0), (1, 1, 1), workers=w).data for w in (1, 4))
    assert torch.equal(one, four)


# ---- randomness follows from the id


@pytest.mark.parametrize("spec", ["noise:0.1", "occlusion:0.1"])
def test_what_is_random_follows_from_the_image_id_alone(spec: str) -> None:
    image, other = photograph(), "b"
    assert (damage(spec, image, "a") == damage(spec, image, "a")).all()
    assert (damage(spec, image, "a") != damage(spec, image, other)).any()


def test_an_image_is_degraded_the_same_whatever_else_is_in_the_set() -> None:
    few, many = load_images("digits", 10, 1), load_images("digits", 300, 2)
    for spec in ("noise:0.1", "occlusion:0.1"):
        a, b = degraded(few, spec), degraded(many, spec)
        shared = sorted(set(a.ids) & set(b.ids))
        assert shared
        for image_id in shared:
            assert (pixels(a.image(a.ids.index(image_id))) == pixels(b.image(b.ids.index(image_id)))).all()


def test_noise_of_another_level_is_the_same_pattern() -> None:
    grey = Image.new("RGB", (40, 40), (127, 127, 127))
    low, high = (damage(f"noise:{sd}", grey) - 127 for sd in (0.02, 0.08))
    assert np.abs(high - 4 * low).max() <= 0.5 + 4 * 0.5


def test_a_larger_square_covers_the_smaller_one() -> None:
    image = photograph()
    covered = [(damage(spec, image) == 0).all(axis=-1) for spec in graded("occlusion", 375)]
    for small, large in itertools.pairwise(covered):
        assert large.sum() > small.sum()
        assert (small & ~large).sum() <= 0.2 * small.sum(), "up to one row and column of rounding"


# ---- each family against its definition


@pytest.mark.parametrize("radius", [1.0, 3.0, 6.0])
def test_blur_is_a_gaussian_of_that_standard_deviation(radius: float) -> None:
    step = np.zeros((64, 128, 3), dtype=np.uint8)
    step[:, 64:] = 255
    found = damage(f"blur:{radius}", Image.fromarray(step))[32, :, 0]
    expected = scipy.ndimage.gaussian_filter1d(step[32, :, 0].astype(float), radius, mode="nearest")
    assert np.abs(found - expected)[:-1].max() < 0.04 * 255


def test_downsampling_by_two_twice_as_wide_is_pillows_bilinear_pair() -> None:
    image = photograph(64, 48)
    bilinear = Image.Resampling.BILINEAR
    expected = pixels(image.resize((16, 12), bilinear).resize((64, 48), bilinear))
    assert (damage("down:4", image) == expected).all()


def test_downsampling_keeps_a_solid_image_and_removes_a_checkerboard() -> None:
    solid = Image.new("RGB", (32, 32), (10, 200, 60))
    assert (damage("down:8", solid) == pixels(solid)).all()
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    flat = damage("down:4", Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)))
    assert np.ptp(flat[4:-4, 4:-4]) <= 8


def test_a_factor_beyond_the_picture_leaves_one_colour() -> None:
    assert np.ptp(damage("down:100", photograph(32, 32)), axis=(0, 1)).max() == 0


def test_noise_has_the_stated_standard_deviation_of_the_range_and_no_bias() -> None:
    noise = damage("noise:0.1", Image.new("RGB", (200, 200), (127, 127, 127))) - 127
    assert abs(noise.std() / 255 - 0.1) < 0.002
    assert abs(noise.mean() / 255) < 0.002
    channels = np.corrcoef(noise.reshape(-1, 3).T)
    assert np.abs(channels - np.eye(3)).max() < 0.02, "every channel of every pixel on its own"


@settings(deadline=None)
@given(st.integers(8, 200), st.integers(8, 200), st.sampled_from([0.02, 0.1, 0.25, 0.5]), st.text("abé", max_size=5))
def test_the_black_rectangle_covers_the_stated_area_of_any_picture(w: int, h: int, area: float, image_id: str) -> None:
    white = Image.new("RGB", (w, h), (255, 255, 255))
    black = np.asarray(Degradation.parse(f"occlusion:{area}").apply(white, image_id)).max(axis=-1) == 0
    rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero(black.any(axis=0))
    assert black.sum() == len(rows) * len(columns), "one rectangle"
    assert abs(black.sum() - area * w * h) <= max(w, h, 1 + np.sqrt(area * w * h))
    if np.sqrt(area * w * h) <= min(w, h) - 1:
        assert abs(len(rows) - len(columns)) <= 2, "a square where it fits"


def test_the_square_can_be_anywhere() -> None:
    white = Image.new("RGB", (40, 40), (255, 255, 255))
    spec = Degradation.parse("occlusion:0.1")
    black = np.stack([(pixels(spec.apply(white, str(i))) == 0).all(axis=-1) for i in range(300)])
    assert black.any(axis=(0, 1)).all()
    assert black.any(axis=(0, 2)).all()


def test_jpeg_is_that_of_pillow_at_the_quality() -> None:
    image, file = photograph(), io.BytesIO()
    image.save(file, format="JPEG", quality=20)
    with Image.open(file) as reread:
        assert (damage("jpeg:20", image) == pixels(reread.convert("RGB"))).all()


@FAMILY
@pytest.mark.parametrize("size", [(32, 32), (500, 375)])
def test_every_level_of_a_grid_does_more_damage_than_the_one_below(family: str, size: tuple[int, int]) -> None:
    image = photograph(*size)
    specs = [Degradation.parse(spec) for spec in graded(family, min(size))]
    severities = [spec.severity(size) for spec in specs]
    assert severities == sorted(set(severities))
    assert severities[0] > 0
    errors = [float(np.square(pixels(spec.apply(image, "a")) - pixels(image)).mean()) for spec in specs]
    assert errors == sorted(set(errors))
    assert errors[0] > 0


@pytest.mark.parametrize("spec", EVERY)
def test_the_result_is_a_picture_of_the_same_size_and_mode_and_the_clean_one_is_untouched(spec: str) -> None:
    image = photograph(48, 36)
    before = image.tobytes()
    after = Degradation.parse(spec).apply(image, "a")
    assert (after.size, after.mode) == (image.size, "RGB")
    assert image.tobytes() == before


# ---- severity


def test_a_share_of_the_side_is_the_same_damage_to_every_size() -> None:
    assert Degradation.parse("blur:4%").native((500, 375)) == pytest.approx(15)
    assert Degradation.parse("blur:4%").native((32, 32)) == pytest.approx(1.28)
    large = photograph(320, 320).resize((640, 640), Image.Resampling.BICUBIC)
    small = large.resize((320, 320), Image.Resampling.BOX)
    shrunk = Image.fromarray(damage("blur:4%", large).astype(np.uint8)).resize((320, 320), Image.Resampling.BOX)
    assert np.abs(pixels(shrunk) - damage("blur:4%", small)).mean() < 2


@pytest.mark.parametrize(
    ("spec", "size", "resolution", "expected"),
    [
        ("blur:5", (500, 375), 224, 5 * 224 / 375),  # published radius 5 is about 3 of 224
        ("blur:15", (500, 375), 224, 8.96),
        ("blur:4%", (500, 375), 224, 8.96),
        ("blur:4%", (32, 32), 32, 1.28),
        ("down:4", (500, 375), 224, 4 * 224 / 375 - 1),
        ("down:2.4", (32, 32), 32, 1.4),
        ("down:2", (1000, 1000), 224, 0.0),  # half of 1000 is still more than 224: no damage there
        ("jpeg:20", (500, 375), 224, 80.0),
        ("noise:0.1", (448, 448), 224, 0.05),
        ("noise:0.1", (32, 32), 224, 0.1),
        ("occlusion:0.25", (500, 375), 224, 0.25),
    ],
)
def test_severity_at_the_input(spec: str, size: tuple[int, int], resolution: int, expected: float) -> None:
    assert Degradation.parse(spec).severity_at_input(size, resolution) == pytest.approx(expected, rel=1e-3)


def test_noise_at_the_input_is_what_resizing_leaves_of_it() -> None:
    noisy = Image.fromarray(damage("noise:0.1", Image.new("RGB", (448, 448), (127, 127, 127))).astype(np.uint8))
    expected = Degradation.parse("noise:0.1").severity_at_input((448, 448), 224)
    averaged, bicubic = (
        pixels(noisy.resize((224, 224), kind)).std() / 255 for kind in (Image.Resampling.BOX, Image.Resampling.BICUBIC)
    )
    assert averaged == pytest.approx(expected, rel=0.03)
    assert bicubic == pytest.approx(0.8 * expected, rel=0.05)


def test_blur_at_the_input_is_what_resizing_leaves_of_it() -> None:
    image = photograph(448, 448)
    blurred = Image.fromarray(damage("blur:8", image).astype(np.uint8)).resize((224, 224), Image.Resampling.BOX)
    small = image.resize((224, 224), Image.Resampling.BOX)
    radius = Degradation.parse("blur:8").severity_at_input((448, 448), 224)
    assert radius == pytest.approx(4)
    errors = {r: np.abs(pixels(blurred) - damage(f"blur:{r}", small)).mean() for r in (2.0, radius, 8.0)}
    assert min(errors, key=lambda r: errors[r]) == radius


def test_the_four_counterparts_are_the_published_four_as_the_published_input_saw_them() -> None:
    assert published(375) == PUBLISHED == ("blur:5", "blur:15", "down:4", "down:8")
    assert published(32) == COUNTERPARTS
    for photo, small in zip(PUBLISHED, COUNTERPARTS, strict=True):
        there, here = (
            Degradation.parse(photo).severity_at_input((500, 375), 224),
            Degradation.parse(small).severity_at_input((32, 32), 32),
        )
        share = 32 / 224 if photo.startswith("blur") else 1  # a radius is compared as a share of the side
        assert here == pytest.approx(there * share, rel=0.02)
    assert set(COUNTERPARTS) <= {spec for family in ("blur", "down") for spec in graded(family, 32)}
    assert set(PUBLISHED) <= {spec for family in ("blur", "down") for spec in graded(family, 375)}


# ---- what is refused


@pytest.mark.parametrize("spec", ["blur:0", "blur:0%", "down:1", "jpeg:100", "noise:0", "occlusion:0.0"])
def test_severity_zero_is_the_clean_set_and_no_second_copy_of_it(spec: str) -> None:
    with pytest.raises(McdoError, match="clean"):
        degraded(load_images("digits", 3), spec)


@pytest.mark.parametrize(
    "spec",
    ["blur", "blur:", "blur:-1", "blur:x", "blur:nan", "blur:inf", "blur:101%", "down:0.5", "down:40%", "jpeg:0",
     "jpeg:20.5", "jpeg:101", "noise:1.5", "noise:-0.1", "occlusion:1", "occlusion:5%"],
)  # fmt: skip
def test_a_level_that_makes_no_sense_is_refused_and_says_what_would(spec: str) -> None:
    with pytest.raises(McdoError, match=f"write {spec.partition(':')[0]}:"):
        Degradation.parse(spec)


@pytest.mark.parametrize("spec", ["blurr:5", "fog:1", ":3", ""])
def test_an_unknown_family_answers_with_what_there_is(spec: str) -> None:
    with pytest.raises(McdoError, match="blur:RADIUS"):
        Degradation.parse(spec)
    with pytest.raises(McdoError, match="blur:RADIUS"):
        graded(spec.partition(":")[0], 32)


def test_an_id_of_another_set_is_refused() -> None:
    clean = load_images("digits", 3)
    with pytest.raises(McdoError, match="blur:5"):
        degraded(clean, "blur:5").source.load(clean.ids[0])
