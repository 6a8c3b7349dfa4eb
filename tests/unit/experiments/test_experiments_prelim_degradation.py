from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run
from numpy.typing import NDArray

from mcdo.experiments.prelim import degradation as degradation
from mcdo.images import load_images
from mcdo.images.degradations import FAMILIES, PUBLISHED, Degradation
from mcdo.stats import holm, proportion

Array = NDArray[np.float64]
N, SIZE = 60, (32, 32)
CONFIG = degradation.DegradationConfig(n=N, resamples=200)


def version(strength: float, seed: int, names: tuple[str, ...] = degradation.SCORES) -> degradation.Seen:
    """Scores that rise by ``strength`` over what every image has of its own; features turn away with it."""
    rng = np.random.default_rng(seed)
    own = np.random.default_rng(0).random(N)
    scores = {name: 1 + strength + own + rng.normal(scale=0.02, size=N) for name in (*names, *degradation.FREE)}
    angle = min(1.0, strength)
    return degradation.Seen(scores, np.tile([math.cos(angle), math.sin(angle)], (N, 1)), rng.random(N) > angle / 2)


def found(slope: float = 1.0) -> degradation.DegradationResult:
    """Scores rise by ``slope`` from the least to the largest severity of each family."""
    specs = degradation.degradations(CONFIG, SIZE)
    largest = {family: max(severity(s) for s in specs if s.startswith(family)) for family in FAMILIES}
    damaged = {
        spec: version(slope * severity(spec) / largest[spec.partition(":")[0]], 10 + i) for i, spec in enumerate(specs)
    }
    return degradation.compute(CONFIG, version(0, 1), version(0, 2), damaged, SIZE, 32)


def severity(spec: str) -> float:
    return Degradation.parse(spec).severity(SIZE)


def test_the_published_four_and_all_grades_are_measured_each_once() -> None:
    for size, first in (((32, 32), "blur:1.33%"), ((500, 375), PUBLISHED[0])):
        specs = degradation.degradations(CONFIG, size)
        assert specs[0] == first
        assert len(specs) == len(set(specs)) == 24
        assert set(degradation.degraded_needs(CONFIG, "clip_tiny", size)) == set(specs)


def test_clean_images_have_one_trial_more_under_other_masks() -> None:
    clean = degradation.needs(CONFIG, "clip_tiny").config
    later = next(iter(degradation.degraded_needs(CONFIG, "clip_tiny", SIZE).values())).config
    assert (clean.trials, later.trials) == (2, 1)
    assert clean.seed == later.seed


def test_a_score_that_rises_is_more_uncertain_everywhere_and_can_be_read() -> None:
    result = found()
    strong = result.damage["blur:14%"]
    assert strong.increase["trace_pre"].fraction.value == 1
    assert degradation.grade(strong.increase["trace_pre"].fraction) == "pass"
    assert strong.cosine.value == pytest.approx(math.cos(1))
    assert strong.native == pytest.approx(0.14 * 32)
    assert result.damage["down:4.8"].native == pytest.approx(3.8)
    for family in FAMILIES:
        curve = result.curves[family, "trace_pre"]
        assert curve.response.shape == "rising"
        assert curve.held_out_error.high < 0, "images differ by 1, and so does the largest severity from none"


def test_a_score_that_falls_is_refused_a_reading_and_fails() -> None:
    result = found(-1.0)
    assert degradation.grade(result.damage["blur:14%"].increase["trace_pre"].fraction) == "fail"
    curve = result.curves["noise", "trace_post"]
    assert curve.response.shape == "not monotone"
    assert math.isnan(curve.held_out_error.value)
    written = degradation.summary(CONFIG, result)["curves"]["noise/trace_post"]
    assert "not monotone" in written["equivalents"]["refused"]


def test_p_values_are_corrected_over_all_degradations_and_scores() -> None:
    result = found(0.1)
    flat = [(spec, name) for spec in result.damage for name in degradation.SCORES]
    adjusted = holm([result.damage[spec].increase[name].p_value for spec, name in flat])
    assert [result.damage[spec].p_holm[name] for spec, name in flat] == pytest.approx(list(adjusted))


def test_independent_masks_are_compared_with_the_other_trial() -> None:
    result = found()
    weak = result.damage["noise:0.02"]
    assert weak.increase["trace_pre"].relative_change != weak.independent["trace_pre"].relative_change


@pytest.mark.parametrize(
    ("share", "n", "grade"),
    [(0.868, 500, "pass"), (0.802, 500, "pass"), (0.658, 500, "weak"), (0.416, 500, "fail"), (0.602, 500, "undecided"),
     (0.76, 500, "undecided"), (0.7, 20, "undecided")],
)  # fmt: skip
def test_the_published_words_hold_for_whole_intervals(share: float, n: int, grade: str) -> None:
    assert degradation.grade(proportion(round(share * n), n)) == grade


def test_scores_of_a_run_are_taken_from_the_trial_asked_for() -> None:
    run = made_up_run({name: np.array([[1.0] * 5, [2.0] * 5]) for name in ("trace_pre", "trace_post")})
    logits = np.eye(5)[None]
    first, second = (degradation.seen(CONFIG, run, logits, np.arange(5), k) for k in (0, 1))
    assert first.scores["trace_pre"].tolist() == [1.0] * 5
    assert second.scores["trace_pre"].tolist() == [2.0] * 5
    assert first.correct is not None
    assert first.correct.all()
    assert np.linalg.norm(first.unit, axis=1) == pytest.approx(np.ones(5))


def test_the_native_size_is_that_of_the_pictures() -> None:
    assert degradation.native_size(load_images("digits", 5)) == (32, 32)
    assert degradation.native_size(load_images("synthetic:noise:48", 5)) == (48, 48)


def test_files_say_the_same_as_the_result(tmp_path: Path) -> None:
    result = found()
    run = made_up_run({name: np.ones((2, N)) for name in ("trace_pre", "trace_post")})
    damaged = {spec: version(0, 3) for spec in result.damage}
    overall = degradation.write(CONFIG, run, version(0, 1), version(0, 2), damaged, result, tmp_path, "session")
    summary = json.loads(overall.read_text())["results"]["clip_tiny"]
    entry = summary["comparisons"]["blur:14%"]["common_random_numbers"]["trace_pre"]
    assert entry["fraction"]["value"] == 1
    assert entry["grade"] == "pass"
    assert summary["curves"]["blur/trace_pre"]["equivalents"]["+10%"]["value"] > 0
    folder = tmp_path / degradation.FOLDER / "clip_tiny"
    with np.load(folder / "prelim_degradation.npz", allow_pickle=False) as arrays:
        assert arrays["trace_pre"].shape == (24, N)
        assert list(arrays["degradations"]) == list(result.damage)
    assert (folder / "prelim_degradation.png").read_bytes()[:4] == b"\x89PNG"
