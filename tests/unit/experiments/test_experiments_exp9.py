"""Exp9: association, its normalised uncertainty (trap 7), the generator, and frames that are refused."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run

from mcdo.errors import McdoError
from mcdo.experiments.phase3.exp9_tracking import association
from mcdo.experiments.phase3.exp9_tracking.association import (
    TrackingResult,
    associate,
    association_cost,
    chosen_betas,
    compared,
    modes,
    relative_to_median,
)
from mcdo.experiments.phase3.exp9_tracking.experiment import OwnTracking, SyntheticTracking
from mcdo.experiments.phase3.exp9_tracking.frames import Frame, parse_sequence, read_sequence
from mcdo.experiments.phase3.exp9_tracking.images import ImageTracking
from mcdo.experiments.phase3.exp9_tracking.sequences import Group, dealt, synthetic_sequence
from mcdo.harness import Features, Inputs, Logits, Passes, Request, Settings
from mcdo.harness.laplace_requests import LaplaceScores
from mcdo.schema import plain
from mcdo.stats import tracking_metrics

CONFIG = SyntheticTracking(sequences=30)
ON_IMAGES = ImageTracking(sequences=30, calibration=10)
TRACES = 0.01
"""What a trace of a real encoder is like."""


@cache
def sequences() -> list[tuple[Frame, ...]]:
    """Those of the synthetic protocol, made once and not where tests are only collected."""
    return CONFIG.generated()


def scaled(frames: tuple[Frame, ...], factor: float) -> tuple[Frame, ...]:
    return tuple(replace(f, uncertainty={m: u * factor for m, u in f.uncertainty.items()}) for f in frames)


def right(mode: str, sequences: list[tuple[Frame, ...]]) -> int:
    return sum(tracking_metrics(associate(frames, mode)).correct for frames in sequences)


def as_json(frames: Sequence[Frame]) -> list[dict[str, Any]]:
    return [
        {
            "frame_id": frame.frame_id,
            "tracks": [{"id": i, "gt_id": t} for i, t in zip(frame.tracks, frame.track_truth, strict=True)],
            "detections": [
                {"id": i, "gt_id": t, **{f"{mode}_uncertainty": u[j] for mode, u in frame.uncertainty.items()}}
                for j, (i, t) in enumerate(zip(frame.detections, frame.truth, strict=True))
            ],
            "motion_cost": frame.motion.tolist(),
            "appearance_cost": frame.appearance.tolist(),
        }
        for frame in frames
    ]


def two_by_two() -> dict[str, Any]:
    return {
        "frame_id": 7,
        "tracks": [{"id": "a", "gt_id": 1}, {"id": "b", "gt_id": 2}],
        "detections": [{"id": 0, "gt_id": 2, "uncertainty": 0.02}, {"id": 1, "gt_id": 1, "uncertainty": 0.01}],
        "motion_cost": [[1.0, 0.5], [0.5, 1.0]],
        "appearance_cost": [[0.0, 0.2], [0.2, 0.0]],
    }


def test_assignment_is_the_cheapest_of_all_permutations() -> None:
    frame = sequences()[0][0]
    cost = association_cost(frame, None, 1.0, 1.0)
    n, m = cost.shape
    cheapest = min(itertools.permutations(range(n), m), key=lambda rows: cost[list(rows), range(m)].sum())
    assert [a.track for a in associate([frame])[0]] == [frame.tracks[row] for row in cheapest]


def test_a_cost_by_hand() -> None:
    (frame,) = parse_sequence([two_by_two()])
    relative = relative_to_median([frame], "adaptive")[0]
    assert relative == pytest.approx([4 / 3, 2 / 3])
    cost = association_cost(frame, relative, alpha=2.0, beta=3.0)
    assert cost == pytest.approx(np.array([[2.0, 1.0 + 0.6 * 1.5], [1.0 + 0.6 * 0.75, 2.0]]))
    assert [(a.truth, a.track) for a in associate([frame], "adaptive")[0]] == [(2, "b"), (1, "a")]


# Without shrinking: the trap below fails it on purpose.
@settings(deadline=None, derandomize=True, max_examples=20, phases=(Phase.generate,))
@given(st.floats(1e-4, 1e4))
def test_the_scale_of_a_score_cannot_reach_an_association(factor: float) -> None:
    frames = sequences()[1]
    assert associate(scaled(frames, factor), "adaptive") == associate(frames, "adaptive")


def raw(frames: Any, mode: str) -> list[np.ndarray]:
    """Trap 7: the score itself divides the appearance cost."""
    return [frame.uncertainty[mode] for frame in frames]


def test_the_median_appearance_cost_is_neither_multiplied_nor_divided() -> None:
    for frames in sequences():
        relative = association.relative_to_median(scaled(frames, TRACES), "adaptive")
        assert np.median(np.concatenate(relative)) == pytest.approx(1)


def test_trap_dividing_by_raw_traces_multiplies_the_appearance_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = [scaled(frames, TRACES) for frames in sequences()]
    ours = {mode: right(mode, traces) for mode in ("adaptive", "oracle", "shuffled")}
    monkeypatch.setattr(association, "relative_to_median", raw)
    for mode, count in ours.items():
        assert right(mode, traces) < count, f"{mode}: a hundredfold appearance cost drowns the motion cost"
    for law in (
        test_the_scale_of_a_score_cannot_reach_an_association,
        test_the_median_appearance_cost_is_neither_multiplied_nor_divided,
    ):
        with pytest.raises(AssertionError):
            law()


@pytest.fixture(scope="module")
def result() -> TrackingResult:
    return CONFIG.at_published_weights(sequences())


def test_the_oracle_beats_the_baseline_and_an_uninformative_score_does_not(result: TrackingResult) -> None:
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
    result = config.at_published_weights(config.generated())
    assert result.gains["oracle"].difference.value == 0
    assert result.gains["oracle"].p_holm == 1


def test_the_generator_is_seeded_and_its_oracle_is_the_variance_of_the_appearance() -> None:
    again = CONFIG.generated()
    assert as_json(again[3]) == as_json(sequences()[3])
    assert as_json(again[3]) != as_json(sequences()[4])
    looks = replace(CONFIG.looks, dim=64)
    frames = synthetic_sequence(CONFIG.scene, looks, (1,))
    median = math.prod(looks.sd_range)
    ratios = [
        2 * median * frame.appearance[truth, j] / frame.uncertainty["oracle"][j] / looks.dim
        for frame in frames
        for j, truth in enumerate(frame.truth)
        if isinstance(truth, int)
    ]
    assert np.mean(ratios) == pytest.approx(1, abs=4 * math.sqrt(2 / looks.dim / len(ratios)))


def test_the_generator_makes_occlusions_and_shuffles_detections() -> None:
    frames = [frame for sequence in sequences() for frame in sequence]
    assert any(len(frame.detections) < len(frame.tracks) for frame in frames)
    assert any(list(frame.truth) != sorted(frame.truth, key=str) for frame in frames)
    closest = [np.partition(frame.motion, 1, axis=0)[1].min() for frame in frames if frame.motion.size]
    assert min(closest) < 0.1, "no two objects ever came near each other"


def test_every_sequence_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"frames": as_json(sequences()[0])}), encoding="utf-8")
    back = read_sequence(path)
    for mode in modes([back]):
        assert associate(back, mode) == associate(sequences()[0], mode)
    path.write_text(json.dumps(as_json(sequences()[0])), encoding="utf-8")
    assert len(read_sequence(path)) == len(back)


Change = Callable[[dict[str, Any]], object]
BAD: dict[str, tuple[Change, str]] = {
    "motion of the wrong shape": (lambda f: f["motion_cost"].append([1, 1]), "motion_cost .*2 tracks x 2 .*3 x 2"),
    "appearance transposed": (lambda f: f.update(appearance_cost=[[1], [1]]), "appearance_cost .*2 x 1"),
    "ragged": (lambda f: f["motion_cost"][0].append(1), "motion_cost must .* 2 x 2 or 3"),
    "text": (lambda f: f["motion_cost"][0].__setitem__(0, "far"), r"motion_cost\[0\]\[0\] is 'far': Expected float"),
    "nan": (lambda f: f["motion_cost"][1].__setitem__(0, math.nan), r"motion_cost\[1\]\[0\] is nan"),
    "negative": (
        lambda f: f["appearance_cost"][0].__setitem__(1, -0.1),
        r"appearance_cost\[0\]\[1\] is -0.1: Expected float >= 0",
    ),
    "infinite": (lambda f: f["motion_cost"][0].__setitem__(0, math.inf), "inf at track 0"),
    "missing key": (lambda f: f.pop("tracks"), "lacks the key tracks"),
    "no ids": (lambda f: f["detections"][0].pop("id"), r"detections: \[0\] lacks the key id"),
    "twice": (lambda f: f["tracks"][1].update(id="a"), "'a' occurs twice"),
    "negative uncertainty": (
        lambda f: f["detections"][0].update(uncertainty=-1),
        "detection 0 is -1: Exp",
    ),
    "nan uncertainty": (lambda f: f["detections"][1].update(uncertainty=math.nan), "detection 1 is nan"),
    "zero uncertainty": (lambda f: f["detections"][1].update(uncertainty=0), "detection 1 is 0: Expected float > 0"),
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
    with pytest.raises(McdoError, match="line 1, column 2 is not JSON"):
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
        CONFIG.at_published_weights([parse_sequence([two_by_two(), bare])])


def test_an_empty_frame_has_no_associations() -> None:
    nothing = {"frame_id": 0, "tracks": [], "detections": [], "motion_cost": [], "appearance_cost": []}
    unseen = {**two_by_two(), "detections": [], "motion_cost": [[], []], "appearance_cost": [[], []]}
    frames = parse_sequence([nothing, unseen, {**two_by_two(), "frame_id": 8}])
    assert [len(a) for a in associate(frames, "adaptive")] == [0, 0, 2]


def test_what_nobody_labelled_is_never_right_when_beta_is_chosen() -> None:
    """By appearance the unlabelled detections go to the unlabelled track; that says nothing for a large beta."""

    def frame(number: int, truth: tuple[int | None, ...], seen: int | None, motion: Any, looks: Any) -> Frame:
        costs = np.array([motion, looks], dtype=np.float64)[..., None]
        return Frame(number, ("a", "b"), truth, ("d",), (seen,), costs[0], costs[1], {})

    unlabelled = [frame(i, (None, 5), None, (1, 0), (0, 10)) for i in range(2)]
    labelled = frame(2, (1, 2), 1, (0, 1), (10, 0))
    assert chosen_betas([(*unlabelled, labelled)], 1.0, (0.0, 1.0)) == {"baseline": 0.0}


# ---- sequences of images

N = 96


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Features of N images at three degradations, farther from the clean ones as the level rises."""
    rng = np.random.default_rng(seed)
    clean = rng.normal(size=(N, 8))
    sd = np.array([0.05, 0.5, 2.0])[:, None] * np.exp(rng.normal(0, 0.3, (3, N)))
    return clean, clean + sd[:, :, None] * rng.normal(size=(3, N, 8)), {"adaptive": TRACES * sd**2}


def originals(group: Group, origins: list[str]) -> list[set[str]]:
    return [{origins[i] for i in original} for original in group]


def test_originals_are_dealt_into_groups_with_all_their_images() -> None:
    origins = [f"photo{i % 20}" for i in range(50)]
    groups = dealt(origins, 6, (3,))
    assert [len(group) for group in groups] == [6, 6, 6], "two originals are left over"
    named = [originals(group, origins) for group in groups]
    assert all(len(original) == 1 for group in named for original in group)
    flat = [name for group in named for original in group for name in original]
    assert len(flat) == len(set(flat)) == 18
    for group in groups:
        for original in group:
            assert len(original) == origins.count(origins[original[0]])
    assert all((a == b).all() for a, b in zip(groups[0], dealt(origins, 6, (3,))[0], strict=True)), "seeded"
    assert {n for g in dealt(origins, 6, (4,)) for o in originals(g, origins) for n in o} != set(flat)


def test_beta_is_chosen_on_other_originals_than_are_reported() -> None:
    origins = [f"photo{i % 90}" for i in range(500)]
    chosen_on, reported = ImageTracking().groups(origins)
    assert (len(chosen_on), len(reported)) == (2, 9), "in proportion to their sequences"
    first, second = (
        {name for group in groups for original in originals(group, origins) for name in original}
        for groups in (chosen_on, reported)
    )
    assert not first & second
    assert [len(part) for part in ImageTracking().groups([str(i) for i in range(24)])] == [1, 2]
    with pytest.raises(McdoError, match=r"23 originals make 2 groups of 8.*at least 3"):
        ImageTracking().groups([str(i) for i in range(23)])


def test_an_encoder_that_knows_its_noise_gains_and_beta_is_chosen_on_other_sequences() -> None:
    chosen_on, reported = ON_IMAGES.groups([str(i) for i in range(N)])
    made = [
        ON_IMAGES.generated(*images(), groups, count, stream)
        for groups, count, stream in ((chosen_on, 10, 2), (reported, 30, 1))
    ]
    betas = chosen_betas(made[0], 1.0, ON_IMAGES.betas)
    assert set(betas) == {"baseline", "adaptive", "oracle", "shuffled"}
    result = compared(made[1], 1.0, betas, origins=np.arange(30) % len(reported))
    assert result.betas == betas
    assert result.gains["adaptive"].difference.low > 0
    assert result.gains["shuffled"].difference.low <= 0
    assert result.gains["adaptive"].difference.n == len(reported) == 9


def test_sequences_that_show_the_same_originals_are_one_draw() -> None:
    """The same sequence told four times says no more than once."""
    once = compared(sequences()[:8], 1.0, dict.fromkeys(("baseline", "oracle"), 1.0))
    repeated = [frames for frames in sequences()[:8] for _ in range(4)]
    fourfold = compared(repeated, 1.0, dict.fromkeys(("baseline", "oracle"), 1.0), origins=np.arange(32) // 4)
    for part in ("accuracy", "difference"):
        a, b = (getattr(r.gains["oracle"], part) for r in (once, fourfold))
        assert (b.value, b.low, b.high, b.n) == pytest.approx((a.value, a.low, a.high, 8))
    assert fourfold.gains["oracle"].p_holm == pytest.approx(once.gains["oracle"].p_holm)


def test_every_score_of_the_encoder_divides_the_appearance_cost() -> None:
    clean, degraded, _ = images()
    experiment = ImageTracking(sequences=6, calibration=4, n=N, degradations=("noise:0.05", "noise:0.4", "blur:14%"))
    rng, asked = np.random.default_rng(1), list[Request[Any]]()

    def value(request: Request[Any]) -> Any:
        asked.append(request)
        if isinstance(request, Features):
            return {"features": clean.astype(np.float32)}
        level = experiment.degradations.index(str(request.shown.degradation))  # type: ignore[attr-defined]
        if isinstance(request, Logits):
            return {"logits": rng.normal(size=(2, N, 5))}
        if isinstance(request, LaplaceScores):
            return {"projection_logit_variance": rng.random(N) + 0.1}
        assert isinstance(request, Passes)
        scores = {name: rng.random((1, N)) + 0.1 for name in ("trace_pre", "trace_post", "trace_pre_relative")}
        run = made_up_run(scores, norm=rng.random(N) + 1)
        object.__setattr__(run, "features", degraded[level].astype(np.float32))
        return run

    origins = tuple(f"photo{i:03d}" for i in range(N))
    inputs: Inputs = inputs_of(value, image_set=lambda images: type("Set", (), {"origins": origins}))
    result = experiment.compute(inputs)
    assert set(asked) == set(experiment.requests(inputs))
    assert set(result.metrics) == {
        "baseline", "adaptive", "adaptive_post", "adaptive_relative", "laplace", "inverse_norm", "entropy", "oracle",
        "shuffled",
    }  # fmt: skip
    summary = plain(experiment.summary(result))
    assert summary["n_sequences"] == 6
    assert summary["modes"]["oracle"]["assignment_accuracy"]["n"] == 6
    ends = {mode for mode, beta in result.betas.items() if beta in (experiment.betas[0], experiment.betas[-1])}
    assert set(summary["betas_at_an_end_of_the_grid"]) == ends
    assert {claim.name for claim in experiment.claims()} == {
        "gain/oracle", "gain/adaptive", "gain/adaptive_post", "gain/adaptive_relative", "gain/laplace",
    }  # fmt: skip


def test_claims_about_synthetic_sequences_are_decided_by_intervals(result: TrackingResult) -> None:
    assert outcomes_of(CONFIG, result) == {
        "gain/oracle": "met", "gain/adaptive": "met", "no_gain/shuffled": "met",
    }  # fmt: skip
    few = CONFIG.at_published_weights(sequences()[:2])
    assert {claim.judge(few).outcome for claim in CONFIG.claims()} == {"undecided"}, "two sequences decide nothing"


# ---- sequences of one's own


def test_files_of_one_s_own_are_in_the_configuration_and_are_the_unit(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, frames in zip(paths, sequences(), strict=False):
        path.write_text(json.dumps({"frames": as_json(frames)}), encoding="utf-8")
    assert OwnTracking.subjects(Settings(("clip_tiny",))) == ()
    settings = Settings(("clip_tiny",), own_data={"--tracking": ", ".join(map(str, paths))})
    experiment = OwnTracking.configured(settings)
    assert [subject.name for subject in OwnTracking.subjects(settings)] == ["own"]
    assert experiment.as_dict()["sources"] == tuple(map(str, paths))
    inputs = inputs_of(lambda _: None, settings=settings)
    result = experiment.compute(inputs)
    assert result.gains["oracle"].difference.n == 3
    assert len(experiment.panels(inputs, result)) == 1
    single = OwnTracking(sources=(str(paths[0]),))
    alone = single.compute(inputs)
    assert alone.gains == {}
    assert single.panels(inputs, alone) == ()
    assert single.summary(alone)["modes"]["oracle"]["correct"] == alone.total("oracle", "correct")


def test_a_sequence_that_nobody_labelled_is_refused() -> None:
    unlabelled = two_by_two()
    unlabelled["tracks"] = [{"id": "a"}, {"id": "b"}]
    with pytest.raises(McdoError, match="sequence 1, mode 'baseline': no association has a gt_id on both sides"):
        CONFIG.at_published_weights([parse_sequence([two_by_two()]), parse_sequence([unlabelled])])
