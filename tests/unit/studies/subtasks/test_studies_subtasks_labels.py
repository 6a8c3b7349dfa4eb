from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import load_images
from mcdo.studies.subtasks.config import DigitSizes, Source
from mcdo.studies.subtasks.labels import BRIGHTNESS_CUTS, EDGE_CUTS, Thirds, levels, subtask_labels
from mcdo.studies.subtasks.noise import through_noise
from mcdo.studies.subtasks.observe import Observed, pixel_statistics
from mcdo.studies.subtasks.task import LOOP, load_task


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def test_brightness_and_complexity_are_cut_as_s2_cuts_them() -> None:
    assert levels([0, 84.99, 85, 169.99, 170, 255], BRIGHTNESS_CUTS).tolist() == [0, 0, 1, 1, 2, 2]
    assert levels([0, 49, 50, 149, 150, 1024], EDGE_CUTS).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_step_has_edges_on_its_bright_side_and_a_flat_picture_has_none() -> None:
    step = np.zeros((10, 10))
    step[:, 5:] = 200  # FIND_EDGES = 8·centre − neighbours: 600 clipped to 255 in column 5, negative in column 4
    mean, variance, edges = pixel_statistics(grey(step), 50)
    assert (mean, variance) == (100, 10_000)
    assert edges == 8  # rows 1 to 8 of column 5: Pillow copies the bright border, which is no edge
    assert pixel_statistics(grey(np.full((10, 10), 240)), 50) == (240, 0, 0)


def test_a_smooth_gradient_has_much_variance_and_no_edges() -> None:
    ramp = np.tile(np.arange(64) * 4, (64, 1))
    step = np.where(ramp < 128, 0, 60)
    smooth, sharp = pixel_statistics(grey(ramp), 50), pixel_statistics(grey(step), 50)
    assert smooth[1] > sharp[1]
    assert (smooth[2], sharp[2]) == (0, 62)


def test_thirds_are_equal_on_the_training_split() -> None:
    rng = np.random.default_rng(0)
    seen = Observed(np.zeros((300, 1), np.float32), *(rng.permutation(300).astype(float) for _ in range(3)))
    thirds = Thirds.of(seen)
    labels = subtask_labels(seen, np.zeros(300, np.int64), (1,), thirds)
    assert np.bincount(labels["edges_thirds"]).tolist() == [100, 100, 100]
    assert np.bincount(labels["variance_thirds"]).tolist() == [100, 100, 100]
    assert set(labels["superclass"]) == {1}


def test_the_digits_with_a_loop_are_0_6_8_9() -> None:
    assert [digit for digit, loop in enumerate(LOOP) if loop] == [0, 6, 8, 9]


def test_digit_splits_share_no_original_and_each_holds_all_variants_of_its_own() -> None:
    task = load_task(Source(digits=DigitSizes(train=30, rounds=3)))
    origins = {name: images.origins for name, images in task.images.items()}
    counted = {name: (len(each), len(set(each))) for name, each in origins.items()}
    assert counted == {"train": (30, 30), "validation": (450, 150), "calibration": (450, 150), "test": (900, 300)}
    every = [each for held in origins.values() for each in set(held)]
    assert len(every) == len(set(every))
    labels = task.images["test"].labels
    assert labels is not None
    assert np.bincount(labels).tolist() == [90] * 10


def test_other_images_are_refused() -> None:
    with pytest.raises(McdoError, match=r"folder:/x.*--cifar10=PATH"):
        load_task(Source(images="folder:/x"))


def test_noise_belongs_to_the_image_and_has_the_stated_size() -> None:
    images = load_images("digits", 40)
    noisy = through_noise(images, 20.0)
    first = np.asarray(noisy.image(0))
    np.testing.assert_array_equal(first, np.asarray(through_noise(images.select([3, 0]), 20.0).image(1)))
    assert (first[..., 0] == first[..., 2]).all()
    assert noisy.fingerprint != images.fingerprint
    assert noisy.fingerprint != through_noise(images, 21.0).fingerprint
    middle = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(images, noisy, strict=True)]
    moved = np.concatenate([(b - a)[(a > 100) & (a < 150)] for a, b in middle])
    assert moved.std() == pytest.approx(20.0, rel=0.05)  # where nothing is clipped
    assert through_noise(images, 0) is images
    assert through_noise(load_images("digits", 700), 20.0).origins == load_images("digits", 700).origins
