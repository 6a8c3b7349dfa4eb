from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run
from numpy.typing import NDArray
from PIL import Image

from mcdo.experiments.prelim.baselines import ZERO_SHOT, Baselines, BaselinesResult
from mcdo.experiments.prelim.pixel_baselines import (
    PIXELS,
    PixelBaselines,
    grey_entropy,
    laplacian_variance,
    pixel_baselines,
)
from mcdo.harness import Images, Logits, Request
from mcdo.images import degraded, load_images
from mcdo.rivals.logits import entropy
from mcdo.stats import holm

Array = NDArray[np.float64]
N = 200
EXPERIMENT = Baselines(n=N)


def logits() -> Array:
    rng = np.random.default_rng(0)
    return np.asarray(rng.normal(scale=2, size=(1, N, 4)) + rng.normal(scale=0.1, size=(2, N, 4)))


def labels() -> NDArray[np.int64]:
    """Wrong on the sixty most ambiguous images."""
    held = logits()[0]
    right = held.argmax(axis=1)
    right[np.argsort(entropy(held))[-60:]] += 1
    return np.asarray(right % 4)


def result_of(score: Array, norm: Array | None = None, *, labelled: bool = True, variants: int = 1) -> BaselinesResult:
    """All scores are ``score``; pixels say nothing."""
    origins = tuple(f"digit{i // variants}" for i in range(N))
    run = made_up_run({"trace_pre": score[None], "trace_post": score[None]}, norm=norm, origins=origins)
    rng = np.random.default_rng(5)
    pixels = {name: rng.random(N) for name in PIXELS}

    def value(request: Request[Any]) -> Any:
        if isinstance(request, Logits):
            return {"logits": logits()}
        return pixels if isinstance(request, PixelBaselines) else run

    images = SimpleNamespace(ids=run.ids, origins=origins, labels=labels() if labelled else None)
    return EXPERIMENT.compute(inputs_of(value, image_set=images))


def test_a_score_that_is_the_entropy_beats_all_but_the_entropy() -> None:
    rng = np.random.default_rng(1)
    result = result_of(1 + entropy(logits()[0]), norm=rng.random(N) + 1)
    for (score, baseline, _), difference in result.advantages.items():
        if score == "trace_pre" and baseline != ZERO_SHOT:
            assert difference.estimate.low > 0
    assert result.advantages["trace_pre", ZERO_SHOT, "error"].estimate.value == pytest.approx(0)
    assert result.errors == 60
    assert result.error["trace_pre"].value == pytest.approx(1)
    ends = outcomes_of(EXPERIMENT, result)
    assert ends["beats/feature_norm/entropy"] == "met"
    assert ends["beats/zero_shot_entropy/error"] == "undecided", "it is the same score, on every image"


def test_a_norm_that_falls_with_entropy_is_as_good_a_baseline_as_one_that_rises() -> None:
    """A baseline may be read either way."""
    rng = np.random.default_rng(1)
    target = entropy(logits()[0])
    score = 1 + rng.random(N)
    up, down = (result_of(score, norm=norm) for norm in (1 + target, 3 - target))
    key = ("trace_pre", "feature_norm", "entropy")
    assert up.advantages[key].estimate.value == pytest.approx(down.advantages[key].estimate.value, abs=1e-6)
    assert up.advantages[key].estimate.high < 0


def test_all_advantages_are_one_family_of_tests_and_the_zero_shot_entropy_is_a_baseline_for_errors_only() -> None:
    rng = np.random.default_rng(1)
    result = result_of(1 + 0.3 * entropy(logits()[0]) + rng.random(N), norm=rng.random(N) + 1)
    assert {t for _, b, t in result.advantages if b == ZERO_SHOT} == {"error"}
    p = [d.p_value for d in result.advantages.values()]
    assert len(p) == 3 * (3 * 3 + 1)
    assert [d.p_holm for d in result.advantages.values()] == pytest.approx(holm(p), rel=1e-9, abs=0)
    assert len([each for each in p if each * len(p) < 1]) > 3


@pytest.mark.parametrize(("p", "ends"), [(0.04, "met"), (0.4, "undecided")])
def test_what_is_claimed_is_decided_by_the_corrected_test_that_stands_beside_it(p: float, ends: str) -> None:
    result = result_of(1 + entropy(logits()[0]), norm=np.random.default_rng(1).random(N) + 1)
    key = ("trace_pre", "feature_norm", "entropy")
    corrected = {**result.advantages, key: replace(result.advantages[key], p_holm=p)}
    assert outcomes_of(EXPERIMENT, replace(result, advantages=corrected))["beats/feature_norm/entropy"] == ends


def test_relations_hold_the_norm_fixed() -> None:
    """Kendall's formula (1942) of three rank correlations."""
    rng, target = np.random.default_rng(1), entropy(logits()[0])
    norm = 2 + target + rng.random(N)
    score = norm + rng.random(N)
    found = result_of(score, norm=norm).relations["trace_pre", "entropy"]
    xy, xz, yz = (scipy.stats.spearmanr(*pair).statistic for pair in ((score, target), (score, norm), (target, norm)))
    assert found.rho.value == pytest.approx(xy)
    assert found.given.value == pytest.approx((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def test_without_labels_nothing_is_said_of_errors() -> None:
    result = result_of(1 + np.random.default_rng(1).random(N), labelled=False)
    assert {t for _, _, t in result.advantages} == {"entropy", "negative_margin"}
    assert np.isnan(result.error["trace_pre"].value)
    ends = outcomes_of(EXPERIMENT, result)
    assert {end for name, end in ends.items() if name.endswith("/error")} == {"not applicable"}
    assert "not applicable" not in {end for name, end in ends.items() if name.endswith("/entropy")}


def test_variants_of_one_original_count_once() -> None:
    score = 1 + np.random.default_rng(1).random(N // 4).repeat(4)
    result = result_of(score, variants=4)
    assert result.originals == N // 4
    assert {r.rho.n for r in result.relations.values()} == {N // 4}
    assert {d.estimate.n for d in result.advantages.values()} == {N // 4}


def test_the_laplacian_of_one_bright_pixel_by_hand() -> None:
    grey = np.zeros((5, 5), dtype=np.uint8)
    grey[2, 2] = 255
    # -4 at the pixel, 1 at its four neighbours, 0 elsewhere: the mean is 0
    assert laplacian_variance(Image.fromarray(grey)) == pytest.approx((16 + 4) / 25)


def test_a_ramp_has_no_laplacian_inside_and_a_solid_picture_none_at_all() -> None:
    solid = Image.new("RGB", (8, 8), (40, 90, 200))
    assert laplacian_variance(solid) == 0
    assert grey_entropy(solid) == 0


def test_the_pictures_are_looked_at_once_for_all_images() -> None:
    experiment = Baselines()
    asked = list(experiment.requests(inputs_of(lambda _: None)))
    assert asked == [of("clip_tiny") for of in (experiment.run, experiment.logits, experiment.pixels)]
    assert experiment.pixels("clip_tiny").shown == experiment.logits("clip_tiny").shown == Images(2000)


def test_blur_takes_sharpness_away_from_every_image() -> None:
    clean = load_images("digits", 40)
    sharp, blurred = (pixel_baselines(s)["laplacian_variance"] for s in (clean, degraded(clean, "blur:4%")))
    assert (blurred < sharp).all()


def test_grey_entropy_is_that_of_scipy() -> None:
    halves = np.zeros((4, 4, 3), dtype=np.uint8)
    halves[:2] = 255
    assert grey_entropy(Image.fromarray(halves)) == pytest.approx(1)
    image = load_images("digits", 1).image(0)
    counts = np.bincount(np.asarray(image.convert("L")).ravel(), minlength=256)
    assert grey_entropy(image) == pytest.approx(scipy.stats.entropy(counts, base=2))
