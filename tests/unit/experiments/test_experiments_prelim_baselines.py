from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run
from numpy.typing import NDArray
from PIL import Image
from scipy import stats

from mcdo.experiments.prelim import baselines as baselines
from mcdo.images import degraded, load_images
from mcdo.stats import entropy

Array = NDArray[np.float64]
N = 200
CONFIG = baselines.BaselinesConfig(n=N)


def logits() -> Array:
    rng = np.random.default_rng(0)
    return np.asarray(rng.normal(scale=2, size=(1, N, 4)) + rng.normal(scale=0.1, size=(2, N, 4)))


def labels() -> NDArray[np.int64]:
    """Wrong on the sixty most ambiguous images."""
    held = logits()[0]
    right = held.argmax(axis=1)
    right[np.argsort(entropy(held))[-60:]] += 1
    return np.asarray(right % 4)


def pixels() -> dict[str, Array]:
    rng = np.random.default_rng(5)
    return {name: rng.random(N) for name in baselines.PIXELS}


def result_of(score: Array, norm: Array | None = None) -> baselines.BaselinesResult:
    run = made_up_run({"trace_pre": score[None], "trace_post": score[None]}, norm=norm)
    return baselines.compute(CONFIG, run, logits(), labels(), pixels())


def test_a_score_that_is_the_entropy_beats_all_but_the_entropy() -> None:
    rng = np.random.default_rng(1)
    result = result_of(1 + entropy(logits()[0]), norm=rng.random(N) + 1)
    for (score, baseline, _), difference in result.advantages.items():
        if score == "trace_pre" and baseline != baselines.ZERO_SHOT:
            assert difference.estimate.low > 0
    assert result.advantages["trace_pre", baselines.ZERO_SHOT, "error"].estimate.value == pytest.approx(0)
    assert result.errors == 60
    assert result.error["trace_pre"].value == pytest.approx(1)


def test_a_norm_that_falls_with_entropy_is_as_good_a_baseline_as_one_that_rises() -> None:
    """A baseline may be read either way."""
    rng = np.random.default_rng(1)
    target = entropy(logits()[0])
    score = 1 + rng.random(N)
    up, down = (result_of(score, norm=norm) for norm in (1 + target, 3 - target))
    key = ("trace_pre", "feature_norm", "entropy")
    assert up.advantages[key].estimate.value == pytest.approx(down.advantages[key].estimate.value, abs=1e-6)
    assert up.advantages[key].estimate.high < 0


def test_the_zero_shot_entropy_is_a_baseline_for_errors_only() -> None:
    result = result_of(1 + np.random.default_rng(1).random(N))
    assert {t for _, b, t in result.advantages if b == baselines.ZERO_SHOT} == {"error"}


def test_all_advantages_are_one_family_of_tests() -> None:
    rng = np.random.default_rng(1)
    result = result_of(1 + rng.random(N), norm=rng.random(N) + 1)
    ordered = sorted(result.advantages.values(), key=lambda d: d.p_value)
    assert ordered[0].p_holm == pytest.approx(min(1, ordered[0].p_value * len(ordered)))
    assert len(ordered) == 3 * (3 * 3 + 1)


def test_without_labels_nothing_is_said_of_errors() -> None:
    rng = np.random.default_rng(1)
    run = made_up_run({"trace_pre": 1 + rng.random((1, N)), "trace_post": 1 + rng.random((1, N))})
    result = baselines.compute(CONFIG, run, logits(), None, pixels())
    assert {t for _, _, t in result.advantages} == {"entropy", "negative_margin"}
    assert np.isnan(result.error["trace_pre"].value)


def test_the_laplacian_of_one_bright_pixel_by_hand() -> None:
    grey = np.zeros((5, 5), dtype=np.uint8)
    grey[2, 2] = 255
    # -4 at the pixel, 1 at its four neighbours, 0 elsewhere: the mean is 0
    assert baselines.laplacian_variance(Image.fromarray(grey)) == pytest.approx((16 + 4) / 25)


def test_a_ramp_has_no_laplacian_inside_and_a_solid_picture_none_at_all() -> None:
    solid = Image.new("RGB", (8, 8), (40, 90, 200))
    assert baselines.laplacian_variance(solid) == 0
    assert baselines.grey_entropy(solid) == 0


def test_blur_takes_sharpness_away_from_every_image() -> None:
    clean = load_images("digits", 40)
    sharp, blurred = (baselines.pixel_baselines(s)["laplacian_variance"] for s in (clean, degraded(clean, "blur:4%")))
    assert (blurred < sharp).all()


def test_grey_entropy_is_that_of_scipy() -> None:
    halves = np.zeros((4, 4, 3), dtype=np.uint8)
    halves[:2] = 255
    assert baselines.grey_entropy(Image.fromarray(halves)) == pytest.approx(1)
    image = load_images("digits", 1).image(0)
    counts = np.bincount(np.asarray(image.convert("L")).ravel(), minlength=256)
    assert baselines.grey_entropy(image) == pytest.approx(stats.entropy(counts, base=2))


def test_files_say_the_same_as_the_result(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    score = 1 + rng.random((1, N))
    run = made_up_run({"trace_pre": score, "trace_post": score}, norm=rng.random(N) + 1)
    result = baselines.compute(CONFIG, run, logits(), labels(), pixels())
    overall = baselines.write(CONFIG, run, logits(), pixels(), result, tmp_path, "session")
    summary = json.loads(overall.read_text())["results"]["clip_tiny"]
    difference = result.advantages["trace_pre", "grey_entropy", "error"]
    assert summary["advantages"]["trace_pre over grey_entropy at error"]["value"] == difference.estimate.value
    folder = tmp_path / baselines.FOLDER / "clip_tiny"
    with np.load(folder / "prelim_baselines.npz", allow_pickle=False) as arrays:
        assert (arrays["trace_pre"] == score[0]).all()
    assert (folder / "prelim_baselines.png").read_bytes()[:4] == b"\x89PNG"
