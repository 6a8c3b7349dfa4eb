from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from mcdo.stats.reading import every_second, reading_error
from mcdo.stats.resampling import Units

SEVERITIES = (0.0, 1.0, 2.0, 3.0)


def scores(own: float, n: int = 60, seed: int = 0) -> NDArray[np.float64]:
    """Score = severity + what is the image's own, with standard deviation ``own``; [S, N]."""
    rng = np.random.default_rng(seed)
    return np.array(SEVERITIES)[:, None] + own * rng.normal(size=n)


def test_scores_that_are_the_severity_are_read_without_error() -> None:
    """The median of 0, 1, 2, 3 is 1.5, and names them with a mean error of 1."""
    found = reading_error(SEVERITIES, scores(0.0))
    assert (found.value, found.low, found.high, found.n) == (-1, -1, -1, 30)


def test_by_hand_where_the_held_out_images_are_off() -> None:
    """Learnt from images 0, 2, …, 8: the identity. Images 1, 3, …, 9 score half a step too high, but for the end."""
    y = scores(0.0, 10)
    y[:, 1::2] += 0.5
    found = reading_error(SEVERITIES, y)
    assert found.value == pytest.approx((0.5 + 0.5 + 0.5 + 0) / 4 - 1)


def test_images_that_differ_more_than_damage_moves_them_are_read_worse_than_by_a_constant() -> None:
    assert reading_error(SEVERITIES, scores(0.3)).high < 0
    assert reading_error(SEVERITIES, scores(20.0, 400) + 40 * np.array(SEVERITIES)[:, None] * 0.02).low > 0


def test_variants_of_one_original_are_all_learnt_from_or_all_held_out() -> None:
    """Split by image, a curve would be read on variants of the images that it was learnt from."""
    origins = ["c", "c", "a", "b", "a", "d", "c"]
    assert every_second(Units.of(origins, 7)).tolist() == [True, True, False, True, False, False, True]
    assert every_second(Units.of(None, 5)).tolist() == [True, False, True, False, True]


def test_intervals_count_originals() -> None:
    once = scores(0.5)
    fourfold = reading_error(SEVERITIES, once.repeat(4, axis=1), origins=np.arange(240) // 4)
    single = reading_error(SEVERITIES, once)
    assert fourfold.n == single.n == 30
    assert fourfold.value == pytest.approx(single.value)
    assert (fourfold.low, fourfold.high) == pytest.approx((single.low, single.high))


def test_what_does_not_rise_or_is_too_few_is_undefined() -> None:
    assert np.isnan(reading_error(SEVERITIES, -scores(0.1)).value)
    assert np.isnan(reading_error(SEVERITIES, scores(0.1, 9)).value)
    assert np.isnan(reading_error(SEVERITIES, scores(0.1, 20), origins=np.arange(20) // 5).value)
