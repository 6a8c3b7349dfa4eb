"""Exp9: association, its normalised uncertainty (trap 7), the generator, and frames that are refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.experiments import exp9_tracking as exp9
from mcdo.experiments import tracking_frames, tracking_sequences
from mcdo.experiments.tracking_frames import Frame, parse_sequence, read_sequence, to_json
from mcdo.stats import tracking_metrics

CONFIG = exp9.Exp9Config(sequences=30, calibration=10)
SEQUENCES = exp9.synthetic_sequences(CONFIG)
TRACES = 0.01
"""What a trace of a real encoder is like."""


def scaled(frames: tuple[Frame, ...], factor: float) -> tuple[Frame, ...]:
    return tuple(replace(f, uncertainty={m: u * factor for m, u in f.uncertainty.items()}) for f in frames)


def right(mode: str, sequences: list[tuple[Frame, ...]]) -> int:
    return sum(tracking_metrics(exp9.associate(frames, mode)).correct for frames in sequences)


def two_by_two() -> dict[str, Any]:
    return {
        "frame_id": 7,
        "tracks": [{"id": "a", "gt_id": 1}, {"id": "b", "gt_id": 2}],
        "detections": [{"id": 0, "gt_id": 2, "uncertainty": 0.02}, {"id": 1, "gt_id": 1, "uncertainty": 0.01}],
        "motion_cost": [[1.0, 0.5], [0.5, 1.0]],
        "appearance_cost": [[0.0, 0.2], [0.2, 0.0]],
    }


def test_assignment_is_the_cheapest_of_all_permutations() -> None:
    for frame in SEQUENCES[0]:
        cost = exp9.association_cost(frame, None, 1.0, 1.0)
        n, m = cost.shape
        cheapest = min(itertools.permutations(range(min(n, 8)), m), key=lambda rows: cost[list(rows), range(m)].sum())
        assert [a.track for a in exp9.associate([frame])[0]] == [frame.tracks[row] for row in cheapest]
        break


def test_a_cost_by_hand() -> None:
    (frame,) = parse_sequence([two_by_two()])
    relative = exp9.relative_to_median([frame], "adaptive")[0]
    assert relative == pytest.approx([4 / 3, 2 / 3])
    cost = exp9.association_cost(frame, relative, alpha=2.0, beta=3.0)
    assert cost == pytest.approx(np.array([[2.0, 1.0 + 0.6 * 1.5], [1.0 + 0.6 * 0.75, 2.0]]))
    assert [(a.truth, a.track) for a in exp9.associate([frame], "adaptive")[0]] == [(2, "b"), (1, "a")]


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.floats(1e-4, 1e4))
def test_the_scale_of_a_score_cannot_reach_an_association(factor: float) -> None:
    frames = SEQUENCES[1]
    assert exp9.associate(scaled(frames, factor), "adaptive") == exp9.associate(frames, "adaptive")


def raw(frames: Any, mode: str) -> list[np.ndarray]:
    """Trap 7: the score itself divides the appearance cost."""
    return [frame.uncertainty[mode] for frame in frames]


def test_the_median_appearance_cost_is_neither_multiplied_nor_divided() -> None:
    for frames in SEQUENCES:
        relative = exp9.relative_to_median(scaled(frames, TRACES), "adaptive")
        assert np.median(np.concatenate(relative)) == pytest.approx(1)


def test_trap_dividing_by_raw_traces_multiplies_the_appearance_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [scaled(frames, TRACES) for frames in SEQUENCES]
    ours = {mode: right(mode, traces) for mode in ("adaptive", "oracle", "shuffled")}
    monkeypatch.setattr(exp9, "relative_to_median", raw)
    for mode, count in ours.items():
        assert right(mode, traces) < count, f"{mode}: a hundredfold appearance cost drowns the motion cost"
    for law in (
        test_the_scale_of_a_score_cannot_reach_an_association,
        test_the_median_appearance_cost_is_neither_multiplied_nor_divided,
    ):
        with pytest.raises(AssertionError):
            law()


def test_the_oracle_beats_the_baseline_and_an_uninformative_score_does_not() -> None:
    result = exp9.compute(CONFIG, SEQUENCES)
    assert result.gains["oracle"].difference.low > 0
    assert result.gains["oracle"].p_holm < 0.05
    assert result.gains["shuffled"].difference.high < 0
    assert result.gains["shuffled"].p_holm < 0.05, "the test sees harm as well as good"
    assert result.gains["adaptive"].difference.low > 0
    assert result.gains["oracle"].difference.value >= result.gains["adaptive"].difference.value
    assert result.total("oracle", "id_switches") < result.total("baseline", "id_switches")
    assert result.total("oracle", "fragmentation") < result.total("baseline", "fragmentation")


def test_without_appearance_noise_to_tell_apart_the_oracle_gains_nothing() -> None:
    looks = replace(CONFIG.looks, sd_range=(1.0, 1.0), occluded_factor=1.0)
    config = replace(CONFIG, looks=looks)
    result = exp9.compute(config, exp9.synthetic_sequences(config))
    assert result.gains["oracle"].difference.value == 0
    assert result.gains["oracle"].p_holm == 1


def test_the_generator_is_seeded_and_its_oracle_is_the_variance_of_the_appearance() -> None:
    again = exp9.synthetic_sequences(CONFIG)
    assert to_json(again[3])["frames"] == to_json(SEQUENCES[3])["frames"]
    assert to_json(again[3]) != to_json(SEQUENCES[4])
    looks = replace(CONFIG.looks, dim=64)
    frames = tracking_sequences.synthetic_sequence(CONFIG.scene, looks, (1,))
    median = math.prod(looks.sd_range)
    ratios = [
        2 * median * frame.appearance[truth, j] / frame.uncertainty["oracle"][j] / looks.dim
        for frame in frames
        for j, truth in enumerate(frame.truth)
        if isinstance(truth, int)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=4 * math.sqrt(2 / looks.dim / len(ratios)))


def test_the_generator_makes_occlusions_and_shuffles_detections() -> None:
    frames = [frame for sequence in SEQUENCES for frame in sequence]
    assert any(len(frame.detections) < len(frame.tracks) for frame in frames)
    assert any(list(frame.truth) != sorted(frame.truth, key=str) for frame in frames)
    closest = [np.partition(frame.motion, 1, axis=0)[1].min() for frame in frames if frame.motion.size]
    assert min(closest) < 0.1, "no two objects ever came near each other"


def test_every_sequence_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(to_json(SEQUENCES[0])), encoding="utf-8")
    back = read_sequence(path)
    for mode in ("baseline", *tracking_frames.modes_of(back)):
        assert exp9.associate(back, mode) == exp9.associate(SEQUENCES[0], mode)
    path.write_text(json.dumps(to_json(SEQUENCES[0])["frames"]), encoding="utf-8")
    assert len(read_sequence(path)) == len(back)


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, str]] = {
    "motion of the wrong shape": (lambda f: f["motion_cost"].append([1, 1]), "motion_cost .*2 tracks x 2 .*3 x 2"),
    "appearance transposed": (lambda f: f.update(appearance_cost=[[1], [1]]), "appearance_cost .*2 x 1"),
    "ragged": (lambda f: f["motion_cost"][0].append(1), "rectangular"),
    "text": (lambda f: f["motion_cost"][0].__setitem__(0, "far"), "rectangular"),
    "nan": (lambda f: f["motion_cost"][1].__setitem__(0, math.nan), "nan at track 1, detection 0"),
    "negative": (lambda f: f["appearance_cost"][0].__setitem__(1, -0.1), "-0.1 at track 0, detection 1"),
    "infinite": (lambda f: f["motion_cost"][0].__setitem__(0, math.inf), "inf at track 0"),
    "missing key": (lambda f: f.pop("tracks"), "lacks tracks"),
    "no ids": (lambda f: f["detections"][0].pop("id"), "detections must be"),
    "twice": (lambda f: f["tracks"][1].update(id="a"), "'a' occurs twice"),
    "negative uncertainty": (lambda f: f["detections"][0].update(uncertainty=-1), "detection 0 is -1"),
    "nan uncertainty": (lambda f: f["detections"][1].update(uncertainty=math.nan), "detection 1 is nan"),
    "zero uncertainty": (lambda f: f["detections"][1].update(uncertainty=0), "positive"),
    "half a mode": (lambda f: f["detections"][1].pop("uncertainty"), "detection 1 is None"),
}


@pytest.mark.parametrize("case", list(BAD))
def test_a_bad_frame_is_refused_with_its_index(case: str) -> None:
    change, message = BAD[case]
    frames = [{**two_by_two(), "frame_id": i} for i in range(3)]
    change(frames[2])
    with pytest.raises(McdoError, match=f"frame 2.*{message}"):
        parse_sequence(frames)


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    with pytest.raises(McdoError, match=r"costs\.json"):
        read_sequence(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(McdoError, match="cannot be read"):
        read_sequence(path)
    for empty in ("[]", '{"frames": {}}', "3"):
        path.write_text(empty, encoding="utf-8")
        with pytest.raises(McdoError, match="list of frames"):
            read_sequence(path)
    path.write_text(json.dumps([two_by_two(), two_by_two()]), encoding="utf-8")
    with pytest.raises(McdoError, match="frame 1: frame_id 7"):
        read_sequence(path)


def test_a_mode_that_only_some_frames_have_is_refused() -> None:
    bare = {**two_by_two(), "frame_id": 8, "detections": [{"id": 0, "gt_id": 2}, {"id": 1, "gt_id": 1}]}
    with pytest.raises(McdoError, match=r"frame 1 .*'adaptive'"):
        exp9.compute(CONFIG, [parse_sequence([two_by_two(), bare])])


def test_an_empty_frame_has_no_associations() -> None:
    nothing = {"frame_id": 0, "tracks": [], "detections": [], "motion_cost": [], "appearance_cost": []}
    unseen = {**two_by_two(), "detections": [], "motion_cost": [[], []], "appearance_cost": [[], []]}
    frames = parse_sequence([nothing, unseen, {**two_by_two(), "frame_id": 8}])
    assert [len(a) for a in exp9.associate(frames, "adaptive")] == [0, 0, 2]


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Features of 40 images at three degradations, farther from the clean ones as the level rises."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(40, 8))
    sd = np.array([0.05, 0.5, 2.0])[:, None] * np.exp(rng.normal(0, 0.3, (3, 40)))
    return clean, clean + sd[:, :, None] * rng.normal(size=(3, 40, 8)), {"adaptive": TRACES * sd**2}


def test_an_encoder_that_knows_its_noise_gains_and_beta_is_chosen_on_other_sequences() -> None:
    made = {cal: exp9.image_sequences(CONFIG, *images(), calibration=cal) for cal in (True, False)}
    betas = exp9.chosen_betas(CONFIG, made[True])
    assert set(betas) == {"baseline", "adaptive", "oracle", "shuffled"}
    result = exp9.compute(CONFIG, made[False], betas)
    assert result.betas == betas
    assert result.gains["adaptive"].difference.low > 0
    assert result.gains["shuffled"].difference.low <= 0
    assert not np.array_equal(made[True][0][0].motion, made[False][0][0].motion)


def test_files_hold_the_result(tmp_path: Path) -> None:
    result = exp9.compute(CONFIG, SEQUENCES)
    overall = exp9.write(CONFIG, "synthetic", result, tmp_path, "s1")
    folder = tmp_path / exp9.FOLDER / "synthetic"
    held = json.loads((folder / "exp9_summary.json").read_text())
    assert held["modes"] == json.loads(overall.read_text())["results"]["synthetic"]["modes"]
    assert held["modes"]["oracle"]["assignment_accuracy"]["n"] == CONFIG.sequences
    with np.load(folder / "exp9_outputs.npz") as arrays:
        assert arrays["assignment_accuracy"].shape == (4, CONFIG.sequences)
    assert (folder / f"{exp9.FOLDER}.png").read_bytes().startswith(b"\x89PNG")
