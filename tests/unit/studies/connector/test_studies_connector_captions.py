from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images.digits import CLASS_NAMES, training_split
from mcdo.studies.connector.captions import LIGHTS, STROKES, TILTS, Bounds, bounds, caption, measure


@cache
def training() -> np.ndarray:
    return training_split()[0]


def bar(slope: float = 0.0, half: float = 2.0, grey: int = 200) -> np.ndarray:
    """A line of width 2 x half whose top leans to the right by ``slope`` pixels per pixel of height."""
    y, x = np.mgrid[:32, :32] - 15.5
    inside = (np.abs(x + slope * y) <= half) & (np.abs(y) <= 10)
    return np.where(inside, grey, 0).astype(np.uint8)


@pytest.mark.parametrize("slope", [-0.5, -0.2, 0.0, 0.2, 0.5])
def test_tilt_is_the_lean_of_a_line(slope: float) -> None:
    assert measure(bar(slope)).tilt == pytest.approx(slope, abs=0.03)


def test_stroke_of_a_long_line_is_near_its_width_and_grows_with_it() -> None:
    # an upright band of width w: distances to the outside are 1, 2, …, w/2, w/2, …, 1, of mean (w/2 + 1)/2
    band = np.zeros((200, 32), np.uint8)
    band[:, 10:16] = 255
    assert measure(band).stroke == pytest.approx(4 * 2, rel=0.03)
    widths = [measure(bar(half=half)).stroke for half in (1.0, 2.0, 3.0, 4.0)]
    assert widths == sorted(widths)
    assert len(set(widths)) == 4


def test_light_is_the_mean_grey_of_the_ink() -> None:
    picture = bar(grey=200)
    picture[0, 0] = 90  # less than half as bright as the brightest: no ink
    assert measure(picture).light == 200


def test_mirroring_turns_the_tilt_round_and_keeps_the_rest() -> None:
    for grey in training()[:20]:
        one, other = measure(grey), measure(np.ascontiguousarray(grey[:, ::-1]))
        assert other.tilt == pytest.approx(-one.tilt, abs=1e-9)
        assert (other.stroke, other.light) == pytest.approx((one.stroke, one.light))


@settings(deadline=None, max_examples=30, derandomize=True)
@given(factor=st.integers(1, 5), index=st.integers(0, 1196))
def test_stroke_and_tilt_do_not_depend_on_brightness(factor: int, index: int) -> None:
    dim = training()[index] // 5
    one, other = measure(dim), measure((dim * factor).astype(np.uint8))
    assert (other.stroke, other.tilt) == pytest.approx((one.stroke, one.tilt))
    assert other.light == pytest.approx(factor * one.light)


@pytest.mark.parametrize("picture", [np.zeros((8, 8), np.uint8), np.eye(1, 64, dtype=np.uint8).reshape(8, 8)])
def test_a_picture_without_a_digit_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(McdoError, match="no bright digit"):
        measure(picture)


def test_words_change_at_the_bounds() -> None:
    limits = Bounds(stroke=(2, 4), light=100, tilt=(-0.1, 0.1))
    at = measure(bar())
    for stroke, word in ((1.9, 0), (2.0, 1), (3.9, 1), (4.0, 2)):
        assert limits.words(type(at)(stroke, 0, 0))[0] == STROKES[word]
    assert [limits.words(type(at)(0, light, 0))[1] for light in (99.9, 100)] == list(LIGHTS)
    assert [limits.words(type(at)(0, 0, tilt))[2] for tilt in (-0.2, 0.0, 0.1)] == list(TILTS)


def test_words_are_spread_evenly_over_the_training_digits() -> None:
    words = [bounds().words(measure(grey)) for grey in training()]
    for place, (kinds, share) in enumerate([(STROKES, 1 / 3), (LIGHTS, 1 / 2), (TILTS, 1 / 3)]):
        counts = [sum(word[place] == kind for word in words) for kind in kinds]
        assert counts == pytest.approx([share * 1197] * len(kinds), abs=2)


def test_a_caption_names_class_stroke_light_and_tilt() -> None:
    text = caption(Image.fromarray(bar(slope=-0.5, half=1.0, grey=60)), 7)
    assert text == "a thin dark seven , tilted left"
    assert CLASS_NAMES[7] == "seven"
