from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments.prelim import angles as angles
from mcdo.images import load_images
from mcdo.stats import entropy

Array = NDArray[np.float64]
N = 90
CONFIG = angles.AnglesConfig(angle1=30, angle2=N, angle3=60)
COLUMNS = {1: np.arange(30), 2: np.arange(N), 3: np.arange(60)}


def logits(seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(scale=2, size=(1, N, 4)) + rng.normal(scale=0.1, size=(2, N, 4)))


def run_that_follows(target: Array, seed: int = 1) -> MonteCarloRun:
    """trace_pre is ``target`` exactly, the other metrics are noise; norms vary on their own."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.random((1, N)) + 1 for name in angles.METRICS}
    scores["trace_pre"] = 1 + target[None]
    scores["mean_cosine_dev"] = np.square(scores["trace_post"])
    run = made_up_run(scores)
    return replace(run, features=rng.normal(size=(N, 4)).astype(np.float32) + np.float32(1))


def found(run: MonteCarloRun | None = None) -> angles.AnglesResult:
    held = logits()
    labels = held[0].argmax(axis=1)
    labels[:20] = (labels[:20] + 1) % 4
    return angles.compute(CONFIG, run or run_that_follows(entropy(held[0])), held, labels, COLUMNS)


def test_a_score_that_is_the_entropy_follows_it_wholly_and_is_the_strongest() -> None:
    result = found()
    for angle in (1, 2):
        assert result.metrics[angle]["trace_pre", "entropy"].rho.value == pytest.approx(1)
        assert result.metrics[angle]["trace_pre", "entropy"].given.value == pytest.approx(1)
        assert all(d.estimate.low > 0 for d in result.strongest[angle].values())
    assert result.ambiguity_first["trace_pre"].estimate.low > 0
    assert result.outlier["trace_pre"].estimate.value == pytest.approx(
        result.correlates["trace_pre", "centroid_distance"].rho.value - 1
    )


def test_each_angle_is_seen_on_its_own_images() -> None:
    result = found()
    assert {angle: n for angle, (n, _) in result.sizes.items()} == {1: 30, 2: N, 3: 60}
    assert result.metrics[1]["norm_var", "entropy"].rho.n == 30
    assert result.metrics[2]["norm_var", "entropy"].rho.n == N
    assert result.correlates["trace_pre", "entropy"].rho.n == 60


def test_correctness_is_a_correlate_where_labels_are_known_and_absent_where_not() -> None:
    result = found()
    wrong_first = result.means["trace_pre"]
    assert wrong_first["correct"] is not None
    assert wrong_first["wrong"] is not None
    assert ("trace_pre", "correct") in result.correlates
    held = logits()
    unlabelled = angles.compute(CONFIG, run_that_follows(entropy(held[0])), held, None, COLUMNS)
    assert ("trace_pre", "correct") not in unlabelled.correlates
    assert unlabelled.means["trace_pre"] == {"correct": None, "wrong": None}


def test_variants_of_one_original_count_once() -> None:
    held = logits()
    run = run_that_follows(entropy(held[0]))
    varied = replace(run, origins=tuple(f"digit{i // 3}" for i in range(N)))
    result = angles.compute(CONFIG, varied, held, None, COLUMNS)
    assert result.sizes[2] == (N, N // 3)
    assert result.metrics[2]["trace_pre", "entropy"].rho.n == N // 3


def test_distance_from_the_centroid_by_hand() -> None:
    features = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    half = 1 - np.sqrt(0.5)
    assert angles.centroid_distance(features) == pytest.approx([half, half, 0.0], abs=1e-12)
    assert angles.centroid_distance(features * np.array([[5.0], [0.1], [1.0]])) == pytest.approx([half, half, 0.0])


def test_images_of_an_angle_are_found_by_id() -> None:
    many, few = load_images("digits", 50), load_images("digits", 20)
    places = angles.members(many, {1: few})[1]
    assert tuple(many.ids[i] for i in places) == few.ids
    assert len(angles.members(few, {1: many})[1]) == 20, "what was not measured is left out"


def test_files_say_the_same_as_the_result(tmp_path: Path) -> None:
    held, run = logits(), run_that_follows(entropy(logits()[0]))
    result = found()
    overall = angles.write(CONFIG, run, held, result, tmp_path, "session")
    summary = json.loads(overall.read_text())["results"]["clip_tiny"]
    assert summary["metrics"]["angle1"]["trace_pre ~ entropy"]["rho"]["value"] == pytest.approx(1)
    assert summary["images"] == {"angle1": 30, "angle2": N, "angle3": 60}
    folder = tmp_path / angles.FOLDER / "clip_tiny"
    with np.load(folder / "prelim_angles.npz", allow_pickle=False) as arrays:
        assert set(angles.METRICS) <= set(arrays.files)
        assert arrays["trace_pre"].shape == (N,)
    assert (folder / "prelim_angles.png").read_bytes()[:4] == b"\x89PNG"


def test_one_run_holds_all_angles() -> None:
    need = angles.needs(angles.AnglesConfig(), "clip_tiny")
    assert need.n == 2000
    assert need.config.geometry == need.config.passes == (64,)
    with pytest.raises(McdoError, match="effective_rank"):
        made_up_run({"trace_pre": np.ones((1, 5))}).scores("effective_rank")
