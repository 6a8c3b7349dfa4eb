"""The harness's own gates: a verdict counts for nothing if one of these fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

import mcdo
from mcdo.encoders import Encoder, load_encoder
from mcdo.estimators.run import Scores
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses, NestedResult
from mcdo.experiments.phase1.exp5_subset_ambiguity import (
    AUROC_ENTROPY_BAR,
    BEYOND_NORM,
    BEYOND_NORM_BAR,
    RHO_ENTROPY_BAR,
    AmbiguityResult,
    SubsetAmbiguity,
)
from mcdo.experiments.phase1.harness_checks import ChecksResult, HarnessChecks
from mcdo.harness import Completed, Images, Session
from mcdo.harness.decision import LEAST_ORIGINS
from mcdo.harness.tests import about, check_shuffled, check_spread
from mcdo.images.load import class_sizes
from mcdo.stats import ambiguity_estimates, null_pass_rate, reliability
from mcdo.stats.ranks import mid_ranks

pytestmark = [pytest.mark.phase1, pytest.mark.gate, pytest.mark.own_gate]

NULL_RATE = 0.01
"""Share of permuted scores below which the bars may let some pass."""


def _enough(origins: Sequence[str]) -> None:
    """Where so few originals are shown that no GO is to be had, chance may meet the bars."""
    n = len(set(origins))
    if n < LEAST_ORIGINS:
        pytest.skip(f"undecided: {n} originals meet a bar by chance; a GO asks for at least {LEAST_ORIGINS}")


@about(HarnessChecks)
def test_every_requested_site_is_alive(result: ChecksResult, record_property: Callable[[str, object], None]) -> None:
    record_property("sites", str(dict(Counter(role for _, role in result.requested))))
    assert result.alive == result.requested
    assert set(result.calls) == {1}
    assert min(result.variance) > 0


@about(HarnessChecks)
def test_p_zero_gives_the_deterministic_features(result: ChecksResult) -> None:
    assert all(result.p_zero), "passes at p = 0 differ from the deterministic features"


@about(HarnessChecks)
def test_the_watched_forward_pass_is_the_library_s_own(result: ChecksResult) -> None:
    difference, largest = result.watched
    assert difference <= 5e-5 * largest


@about(HarnessChecks)
def test_the_model_is_restored(result: ChecksResult) -> None:
    assert result.restored == (True, True), "weights or modules differ after a pass, or after an error in one"


@about(HarnessChecks)
def test_scores_do_not_depend_on_the_batch(result: ChecksResult) -> None:
    assert len(result.batches) == 5
    assert max(result.batches) <= 1e-5


@about(HarnessChecks)
def test_text_embeddings_are_not_collapsed(
    completed: Completed[ChecksResult], record_property: Callable[[str, object], None]
) -> None:
    model, result = completed.inputs.model, completed.result
    if result.cosine is None:
        pytest.skip(f"{model} has no text tower, which prompts need, or the images have no classes")
    record_property("mean pairwise cosine", f"{result.cosine:.3f}")
    if result.varied is not None:
        record_property("mean pairwise cosine of varied things", f"{result.varied:.3f}")
    assert not result.collapsed, (
        f"{model}: class prompts have mean pairwise cosine {result.cosine:.3f}, and prompts of things that have little "
        f"in common {result.varied:.3f}: the text tower is broken"
    )


def test_weights_are_trained(model: str, session: Session) -> None:
    assert not session.encoder(model).random_weights, f"{model} has random weights: nothing follows from its scores"


@pytest.mark.parametrize(
    "tier", [pytest.param("cuda", marks=pytest.mark.cuda), pytest.param("mps", marks=pytest.mark.mps)]
)
def test_accelerator_agrees_with_the_cpu(tier: str, session: Session) -> None:
    model = next(m for m in session.settings.models)
    images = session.image_set(Images(NestedPasses.configured(session.settings).n)).select(slice(0, 16))

    def scores(encoder: Encoder) -> Scores:
        run = mcdo.monte_carlo(encoder, images, session.settings.dropout, (64,), 1, geometry=())
        first: Scores = run.scores("trace_pre")[0]
        return first

    weights = "random" if model in session.settings.random_weights else "pretrained"
    there, here = (load_encoder(model, device, weights=weights, seed=session.settings.seed) for device in (tier, "cpu"))
    np.testing.assert_allclose(scores(there), scores(here), rtol=1e-3)


@about(SubsetAmbiguity)
def test_permuted_scores_do_not_pass_the_bars(
    completed: Completed[AmbiguityResult], record_property: Callable[[str, object], None]
) -> None:
    """The null gate: the bars' own analysis, on scores that belong to other images."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, SubsetAmbiguity)
    _enough(inputs[next(iter(experiment.requests(inputs)))].origins)
    entropy_of = completed.result.targets["softmax"].entropy
    entropy, high = mid_ranks(entropy_of), entropy_of >= np.quantile(entropy_of, 0.9)
    n, positives = len(high), int(high.sum())

    def passes(ranks: Scores) -> bool:
        area = (ranks[high].sum() - positives * (positives + 1) / 2) / (positives * (n - positives))
        return bool(area > AUROC_ENTROPY_BAR and np.corrcoef(ranks, entropy)[0, 1] > RHO_ENTROPY_BAR)

    scores = inputs[next(iter(experiment.requests(inputs)))].scores("trace_pre")[0]
    null = null_pass_rate(passes, mid_ranks(scores), permutations=4000, seed=experiment.seed)
    record_property("null pass rate", str(null.rate))
    outcome = null.rate.outcome(NULL_RATE, "<")
    assert outcome != "not met", f"{inputs.model}: permuted scores pass at {null.rate}"
    if outcome == "undecided":
        pytest.skip(f"undecided: {inputs.model}: permuted scores pass at {null.rate} against < {NULL_RATE}")


@about(NestedPasses)
def test_permuted_trials_are_not_reliable(completed: Completed[NestedResult]) -> None:
    """The null gate of reliability: each trial shuffled over images on its own."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, NestedPasses)
    run = inputs[experiment.run(inputs.model)]
    _enough(run.origins)
    check_shuffled(run.scores("trace_pre"), experiment.seed)


NOISE: dict[str, Callable[[np.random.Generator, int, int], Scores]] = {
    "normal": lambda rng, K, N: rng.normal(size=(K, N)),
    "heavy-tailed": lambda rng, K, N: rng.standard_t(2, size=(K, N)),
    "shared-by-trial": lambda rng, K, N: rng.normal(size=(K, 1)) * rng.normal(size=N) + rng.normal(size=(K, N)),
}
"""Scores [K, N] that hold nothing of the images."""


@about(NestedPasses)
@pytest.mark.parametrize("noise", list(NOISE))
def test_noise_alone_is_not_usable(noise: str, completed: Completed[NestedResult]) -> None:
    """The verdict's own decision, on as many images of as many originals, must not be met by noise."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, NestedPasses)
    run = inputs[experiment.run(inputs.model)]
    rng = np.random.default_rng(experiment.seed)
    for _ in range(20):
        r = reliability(NOISE[noise](rng, experiment.trials, len(run.ids)), origins=run.origins, resamples=100)
        assert r.decision() != "met", f"{noise} noise is usable: ρ={r.spearman:.3f}, SNR={r.snr:.2f}"


@about(SubsetAmbiguity)
def test_the_norm_plus_noise_is_not_valid_beyond_the_norm(
    completed: Completed[AmbiguityResult], record_property: Callable[[str, object], None]
) -> None:
    """A score that repeats what ‖x‖ says may follow ambiguity; it must not pass for more than ‖x‖."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, SubsetAmbiguity)
    run = inputs[next(iter(experiment.requests(inputs)))]
    _enough(run.origins)
    targets, rng = completed.result.targets["softmax"], np.random.default_rng(experiment.seed)
    sign = np.sign(np.corrcoef(mid_ranks(run.feature_norm), mid_ranks(targets.entropy))[0, 1])
    score = sign * run.feature_norm + 0.3 * run.feature_norm.std() * rng.normal(size=len(run.ids))
    figures = ambiguity_estimates(score, targets, run.feature_norm, origins=run.origins, seed=experiment.seed)
    beyond = figures[BEYOND_NORM]
    record_property("ρ(entropy) of the norm plus noise", str(figures["rho_uncertainty_vs_entropy"]))
    record_property("given the norm", str(beyond))
    assert beyond.outcome(BEYOND_NORM_BAR, ">") != "met", f"{inputs.model}: the norm plus noise passes at {beyond}"


def test_images_are_spread_over_the_classes(session: Session) -> None:
    """The published Phase 1 used the first 100 of 1000 classes."""
    images = session.image_set(Images(NestedPasses.configured(session.settings).n))
    if images.labels is None:
        pytest.skip(f"{images.name} has no labels")
    shown = np.bincount(images.labels, minlength=len(images.class_names))
    if np.ptp(shown) > 1:  # a million files are listed anew only where that is asked
        there = class_sizes(session.settings.images)
        assert there is not None
        check_spread(shown, there, len(images.skipped))
