from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import Array, made_up_run
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import TRACES, MonteCarloRun
from mcdo.experiments.phase2.exp5_full_ambiguity import BASELINE, FullAmbiguity, FullAmbiguityResult
from mcdo.harness import Images, Inputs, Logits, Request, Settings
from mcdo.perturbation import TiedDropout
from mcdo.rivals.logits import entropy
from mcdo.stats import spearman

ORIGINALS = 120
N = 4 * ORIGINALS
EXPERIMENT = FullAmbiguity(n=N)


def clustered(follow: float = 1.0, trials: int = 1) -> tuple[MonteCarloRun, Array, NDArray[np.int64]]:
    """120 originals in four variants each; the norm tells entropy well, the score as well as ``follow`` says."""
    rng = np.random.default_rng(0)
    origins = [f"digit{i:04d}" for i in range(ORIGINALS)] * 4
    logits = np.tile(3 * rng.normal(size=(ORIGINALS, 3)), (4, 1))
    logits = np.stack([logits + 0.1 * rng.normal(size=logits.shape) for _ in range(3)])
    ambiguity = scipy.stats.entropy(np.exp(logits[0]), axis=1)
    score = follow * ambiguity + rng.normal(size=(trials, N)) + 5
    norm = np.exp(-ambiguity + 0.05 * rng.normal(size=N))
    run = made_up_run({"trace_pre": score, "trace_post": score}, norm=norm, origins=origins)
    guessed = rng.integers(0, 3, N)
    return run, logits, np.where(rng.random(N) < 0.7, logits[0].argmax(axis=1), guessed)


def inputs(follow: float = 1.0, trials: int = 1, *, labelled: bool = True, trained: bool = True) -> Inputs:
    run, logits, labels = clustered(follow, trials)
    if not trained:
        labels = np.random.default_rng(1).integers(0, 3, N)

    def value(request: Request[Any]) -> Any:
        return {"logits": logits} if isinstance(request, Logits) else run

    images = SimpleNamespace(origins=run.origins, labels=labels if labelled else None, skipped=())
    return inputs_of(value, image_set=images)


@pytest.fixture(scope="module")
def result() -> FullAmbiguityResult:
    return EXPERIMENT.compute(inputs())


def test_a_head_that_is_no_better_than_a_constant_answer_gives_no_validity() -> None:
    result = EXPERIMENT.compute(inputs(follow=1e6, trained=False))
    assert "more than always naming the largest class, as random weights would at best" in result.head_reason
    assert set(outcomes_of(EXPERIMENT, result).values()) == {"not applicable"}


def test_figures_count_originals_and_the_score_is_compared_with_the_norm(result: FullAmbiguityResult) -> None:
    run, logits, labels = clustered()
    assert result.originals == ORIGINALS
    assert {estimate.n for table in result.figures.values() for estimate in table.values()} == {ORIGINALS}
    norm = result.figures[f"{BASELINE}/softmax"]["rho_uncertainty_vs_entropy"]
    assert norm.low > 0.8
    score = result.figures["trace_pre/softmax"]["rho_uncertainty_vs_entropy"]
    assert score.value == pytest.approx(scipy.stats.spearmanr(run.scores("trace_pre")[0], entropy(logits[0])).statistic)
    assert result.gain["trace_pre"].estimate.value == pytest.approx(score.value - norm.value)
    assert result.gain["trace_pre"].p_holm < 0.05
    assert outcomes_of(EXPERIMENT, result)["beats_norm/trace_pre"] == "not met", "the norm is the better score"
    assert result.accuracy is not None
    assert result.accuracy.value == pytest.approx(np.mean(logits[0].argmax(axis=1) == labels))
    assert result.accuracy.n == result.entropy.n == ORIGINALS
    assert result.entropy.value == pytest.approx(entropy(logits[0]).mean())


def test_a_score_that_is_the_entropy_beats_the_norm() -> None:
    ends = outcomes_of(EXPERIMENT, EXPERIMENT.compute(inputs(follow=1e6)))
    assert set(ends.values()) == {"met"}
    assert set(ends) == {
        f"{bar}/{score}"
        for bar in ("rho_entropy", "auroc_high_entropy", "beats_norm")
        for score in ("trace_pre", "trace_post")
    }


def test_without_a_significant_difference_no_score_beats_the_norm() -> None:
    sure = EXPERIMENT.compute(inputs(follow=1e6))
    doubted = replace(sure, gain={name: replace(each, p_holm=0.2) for name, each in sure.gain.items()})
    assert outcomes_of(EXPERIMENT, doubted)["beats_norm/trace_pre"] == "undecided"


def test_variants_of_an_original_are_one_draw(result: FullAmbiguityResult) -> None:
    """The interval is that of 120 originals: about √4 times as wide as that of 480 images on their own."""
    run, logits, _ = clustered()
    over_originals = result.figures[f"{BASELINE}/softmax"]["rho_uncertainty_vs_entropy"]
    over_images = spearman(-run.feature_norm, entropy(logits[0]), seed=42)
    assert 1.5 < (over_originals.high - over_originals.low) / (over_images.high - over_images.low) < 2.5


def test_without_labels_nothing_is_said_of_errors() -> None:
    result = EXPERIMENT.compute(inputs(labelled=False))
    assert result.accuracy is None
    assert np.isnan(result.figures["trace_pre/softmax"]["auroc_error"].value)
    assert EXPERIMENT.summary(result)["auroc_error"] is None


def test_masks_tied_over_images_take_trials_and_widen_the_interval() -> None:
    tied = TiedDropout(0.01, over_images=True)
    with pytest.raises(McdoError, match="noise that all images share shows only in the differences between trials"):
        FullAmbiguity(n=N, dropout=tied).compute(inputs())
    key = "rho_uncertainty_vs_entropy"
    own, shared = (
        FullAmbiguity(n=N, dropout=kind, trials=5).compute(inputs(trials=5)).figures["trace_pre/softmax"][key]
        for kind in (EXPERIMENT.dropout, tied)
    )
    assert own.value == shared.value
    assert shared.high - shared.low > own.high - own.low


def test_the_protocol_is_the_published_one_and_quick_has_variants_too() -> None:
    full, quick = (FullAmbiguity.configured(Settings(("clip_tiny",), protocol=p)) for p in ("full", "quick"))
    assert (full.n, full.passes, full.trials) == (10_000, 64, 1)
    assert quick.n > 600, "fewer would leave the bootstrap over originals untried"
    assert full.run("clip_tiny").shown == Images(10_000)


def test_published_keys_stand_in_the_summary_with_their_intervals(result: FullAmbiguityResult) -> None:
    summary = EXPERIMENT.summary(result)
    assert summary["originals"] == summary["n"] == ORIGINALS
    low, high = summary["rho_uncertainty_vs_entropy_ci"]
    assert low < summary["rho_uncertainty_vs_entropy"] < high
    assert set(summary["rho_entropy_above_negative_norm"]) == set(TRACES)
