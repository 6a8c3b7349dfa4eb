from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run
from numpy.typing import NDArray

from mcdo.experiments.prelim.angle_view import METRICS, centroid_distance
from mcdo.experiments.prelim.angles import Angles, AnglesResult, members
from mcdo.harness import Images, Inputs, Logits, Passes, Request, Subject
from mcdo.images import load_images
from mcdo.rivals.logits import entropy

Array = NDArray[np.float64]
N = 90
EXPERIMENT = Angles(angle1=30, angle2=N, angle3=60)


def logits(seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(scale=2, size=(1, N, 4)) + rng.normal(scale=0.1, size=(2, N, 4)))


LABELS = logits()[0].argmax(axis=1)
LABELS[:20] = (LABELS[:20] + 1) % 4
"""Wrong on the first twenty images."""


def world(
    target: Array, *, labels: NDArray[np.int64] | None = LABELS, variants: int = 1, model: str = "clip_tiny"
) -> Inputs:
    """trace_pre is ``target`` exactly, the other metrics are noise; norms vary on their own."""
    rng = np.random.default_rng(1)
    scores = {name: rng.random((1, N)) + 1 for name in METRICS}
    scores["trace_pre"] = 1 + target[None]
    scores["mean_cosine_dev"] = np.square(scores["trace_post"])
    features = rng.normal(size=(N, 4)).astype(np.float32) + np.float32(1)
    ids, origins = ([f"{kind}{i // step}" for i in range(N)] for kind, step in (("image", 1), ("digit", variants)))

    def images(asked: Images) -> Any:
        some = slice(asked.n)
        return SimpleNamespace(
            ids=tuple(ids[some]), origins=tuple(origins[some]), labels=None if labels is None else labels[some]
        )

    def value(request: Request[Any]) -> Any:
        if isinstance(request, Logits):
            return {"logits": logits()}
        return replace(made_up_run(scores, ids=ids, origins=origins), features=features)

    return inputs_of(value, image_set=images, subject=Subject(model, (model,)))


@cache
def follows() -> Array:
    return 1 + entropy(logits()[0])


@pytest.fixture(scope="module")
def result() -> AnglesResult:
    return EXPERIMENT.compute(world(follows()))


def test_a_score_that_is_the_entropy_follows_it_wholly_and_is_the_strongest(result: AnglesResult) -> None:
    for angle in (1, 2):
        assert result.metrics[angle]["trace_pre", "entropy"].rho.value == pytest.approx(1)
        assert result.metrics[angle]["trace_pre", "entropy"].given.value == pytest.approx(1)
        assert all(d.estimate.low > 0 for d in result.strongest[angle].values())
    assert result.ambiguity_first["trace_pre"].estimate.low > 0
    assert result.outlier["trace_pre"].estimate.value == pytest.approx(
        result.correlates["trace_pre", "centroid_distance"].rho.value - 1
    )
    ends = outcomes_of(EXPERIMENT, result)
    assert ends.pop("outlier_detector") == "not applicable", "S1 says it of SigLIP's family"
    assert set(ends.values()) == {"met"}


def test_a_score_that_is_the_centroid_distance_is_what_is_said_of_a_siglip() -> None:
    features = np.random.default_rng(1)
    features.random((len(METRICS), 1, N))  # as world does before it draws the features
    drawn = features.normal(size=(N, 4)).astype(np.float32) + np.float32(1)
    ends = outcomes_of(EXPERIMENT, EXPERIMENT.compute(world(centroid_distance(drawn[:N]), model="siglip_tiny")))
    assert ends["ambiguity_detector"] == "not applicable"
    assert ends["outlier_detector"] == "met"
    assert ends["trace_pre_strongest"] != "met"


def test_a_rival_that_is_reliably_stronger_decides(result: AnglesResult) -> None:
    """Undecided is not the same as beaten: noise beside noise leaves it open."""
    noise = EXPERIMENT.compute(world(np.random.default_rng(9).random(N)))
    assert outcomes_of(EXPERIMENT, noise)["trace_pre_strongest"] == "undecided"
    beaten = replace(noise, strongest={2: {n: _negated(d) for n, d in result.strongest[2].items()}})
    claim = next(claim for claim in EXPERIMENT.claims() if claim.name == "trace_pre_strongest")
    assert claim.judge(beaten).outcome == "not met"
    assert "norm_var" in claim.judge(beaten).beside


def _negated(difference: Any) -> Any:
    e = difference.estimate
    return replace(difference, estimate=replace(e, value=-e.value, low=-e.high, high=-e.low))


def test_each_angle_is_seen_on_its_own_images(result: AnglesResult) -> None:
    assert {angle: n for angle, (n, _) in result.sizes.items()} == {1: 30, 2: N, 3: 60}
    assert result.metrics[1]["norm_var", "entropy"].rho.n == 30
    assert result.metrics[2]["norm_var", "entropy"].rho.n == N
    assert result.correlates["trace_pre", "entropy"].rho.n == 60


def test_correctness_is_a_correlate_where_labels_are_known_and_absent_where_not(result: AnglesResult) -> None:
    means = result.means["trace_pre"]
    trace = 1 + follows()[:60]
    assert means["wrong"] == pytest.approx(trace[:20].mean())
    assert means["correct"] == pytest.approx(trace[20:].mean())
    by_hand = scipy.stats.spearmanr(trace, np.arange(len(trace)) >= 20).statistic
    assert result.correlates["trace_pre", "correct"].rho.value == pytest.approx(by_hand)
    unlabelled = EXPERIMENT.compute(world(follows(), labels=None))
    assert ("trace_pre", "correct") not in unlabelled.correlates
    assert unlabelled.means["trace_pre"] == {"correct": None, "wrong": None}


def test_variants_of_one_original_count_once() -> None:
    result = EXPERIMENT.compute(world(follows(), labels=None, variants=3))
    assert result.sizes[2] == (N, N // 3)
    assert result.metrics[2]["trace_pre", "entropy"].rho.n == N // 3
    assert result.strongest[2]["norm_var"].estimate.n == N // 3
    assert result.ambiguity[2]["rho_uncertainty_vs_entropy"].n == N // 3


def test_distance_from_the_centroid_by_hand() -> None:
    features = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    half = 1 - np.sqrt(0.5)
    assert centroid_distance(features) == pytest.approx([half, half, 0.0], abs=1e-12)
    assert centroid_distance(features * np.array([[5.0], [0.1], [1.0]])) == pytest.approx([half, half, 0.0])


def test_images_of_an_angle_are_found_by_id() -> None:
    many, few = load_images("digits", 50), load_images("digits", 20)
    places = members(many, few)
    assert tuple(many.ids[i] for i in places) == few.ids
    assert len(members(few, many)) == 20, "what was not measured is left out"


def test_one_run_holds_all_angles() -> None:
    run, logits = Angles().requests(inputs_of(lambda _: None))
    assert isinstance(run, Passes)
    assert run.shown == Images(2000)
    assert run.config.geometry == run.config.passes == (64,)
    assert logits == Logits("clip_tiny", Images(2000))
