"""Exp6: its comparisons on made-up scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of
from made_up_runs import Array, MadeUpFirstOrder, made_up_run

from mcdo.errors import NotApplicableError
from mcdo.experiments.phase3.exp6_laplace.experiment import REFERENCE, LaplaceComparison, LaplaceResult
from mcdo.experiments.phase3.exp6_laplace.runtimes import Runtimes, in_plain_passes
from mcdo.harness import FirstOrder, Images, Inputs, Logits, Passes, Request
from mcdo.harness.laplace_requests import LaplaceScores
from mcdo.schema import plain
from mcdo.stats import holm

N, C = 300, 5
EXPERIMENT = LaplaceComparison(n=N, resamples=200)
LAPLACE = ("head_logit_variance", "head_margin_variance", "projection_logit_variance", "projection_margin_variance",
           "projection_feature_variance", "leverage")  # fmt: skip


def inputs(copies: int = 1, labels: bool = True, width: int = 48, probe_noise: float = 0.0) -> Inputs:
    """Measurements in which mc_dropout follows ambiguity and the head's Laplace nothing.

    ``copies`` images of each original; first order follows ambiguity but for noise common to the images of a trial.
    """
    rng, n = np.random.default_rng(0), N // copies
    sharpness = rng.uniform(0.2, 6, n)
    logits = rng.normal(size=(n, C)) * sharpness[:, None]
    truth = np.where(rng.random(n) < 0.8, logits.argmax(1), rng.integers(0, C, n))
    other = rng.normal(size=(len(LAPLACE), n))
    stack = np.stack([logits, logits + 0.1 * rng.normal(size=logits.shape)])
    origins = tuple(f"digit{i:03d}" for i in range(n) for _ in range(copies))
    trace = 1 / sharpness + 0.05 * rng.normal(size=n)

    def copied(values: Array) -> Array:
        return np.repeat(values, copies, axis=-1)

    norm = copied(rng.uniform(1, 2, n))
    names = ("trace_pre", "trace_post", "trace_pre_relative")
    run = made_up_run({name: (1 + i) * copied(trace)[None] for i, name in enumerate(names)}, norm=norm, origins=origins)
    common = rng.normal(size=(5 if width > 64 else 1, 1)) * rng.normal(size=n)

    def first_order(name: str, p: float) -> Array:
        return copied(1 / sharpness + probe_noise * common)

    def value(request: Request[Any]) -> Any:
        if isinstance(request, Passes):
            return run
        if isinstance(request, FirstOrder):
            return MadeUpFirstOrder(first_order, norm)
        if isinstance(request, Logits):
            return {"logits": np.repeat(stack, copies, axis=1)}
        if isinstance(request, LaplaceScores):
            scores = {name: copied(of) for name, of in zip(LAPLACE, other, strict=True)}
            scores["projection_logit_variance"] = copied(2 / sharpness)
            return {**scores, "prior_head": np.array([3.0]), "prior_projection": np.array([4.0])}
        assert isinstance(request, Runtimes)
        return {"seconds": np.array([[0.5, 0.6, 0.5], [20, 21, 22], [0.6, 0.7, 0.8], [0.75, 0.8, 0.9]])}

    images = SimpleNamespace(labels=np.repeat(truth, copies) if labels else None, origins=origins)
    return inputs_of(value, image_set=images, encoders={"clip_tiny": SimpleNamespace(feature_dim=width)})


@pytest.fixture(scope="module")
def result() -> LaplaceResult:
    return EXPERIMENT.compute(inputs())


def test_differences_are_to_mc_dropout_with_the_target_itself_left_out(result: LaplaceResult) -> None:
    assert set(result.differences) == {"entropy", "neg_margin", "error"}
    assert "zero_shot_entropy" not in result.differences["entropy"]
    assert "zero_shot_margin" not in result.differences["neg_margin"]
    assert "zero_shot_entropy" in result.differences["error"]
    worse = result.differences["entropy"]["laplace_head"]
    rho = {
        name: result.figures[f"{name}/softmax"]["rho_uncertainty_vs_entropy"] for name in ("laplace_head", REFERENCE)
    }
    assert worse.estimate.value == pytest.approx(rho["laplace_head"].value - rho[REFERENCE].value)
    assert worse.estimate.high < 0
    assert worse.p_value <= worse.p_holm < 0.05


def test_holm_counts_every_comparison_of_the_model(result: LaplaceResult) -> None:
    every = [d for family in result.differences.values() for d in family.values()]
    assert len({round(d.p_holm, 6) for d in every}) > 2
    assert [d.p_holm for d in every] == pytest.approx(holm([d.p_value for d in every]), rel=1e-9, abs=0)


def test_each_score_is_what_its_name_says(result: LaplaceResult) -> None:
    given = inputs()
    run, laplace = given[EXPERIMENT.run("clip_tiny")], given[EXPERIMENT.laplace("clip_tiny")]
    read = {
        "mc_dropout": run.scores("trace_pre")[0],
        "mc_dropout_post": run.scores("trace_post")[0],
        "mc_dropout_relative": run.scores("trace_pre_relative")[0],
        "laplace_head": laplace["head_logit_variance"],
        "laplace_head_margin": laplace["head_margin_variance"],
        "laplace_projection": laplace["projection_logit_variance"],
        "laplace_projection_margin": laplace["projection_margin_variance"],
        "laplace_projection_feature": laplace["projection_feature_variance"],
        "leverage": laplace["leverage"],
        "inverse_norm": 1 / np.linalg.norm(run.features.astype(np.float64), axis=1),
    }
    for name, values in read.items():
        assert result.scores[name] == pytest.approx(values), name


def test_differences_and_figures_are_those_of_their_own_targets(result: LaplaceResult) -> None:
    """Against SciPy and scikit-learn; errors are wrong predictions, and each head has its own entropy."""
    from sklearn.metrics import roc_auc_score

    given, softmax = inputs(), result.targets["softmax"]
    logits, labels = given[EXPERIMENT.logits("clip_tiny")]["logits"][0], given.images(Images(N)).labels
    top = np.sort(logits, axis=1)
    goals = {"entropy": softmax.entropy, "neg_margin": top[:, -2] - top[:, -1]}
    wrong = logits.argmax(axis=1) != labels
    for name, score in result.scores.items():
        for target, goal in goals.items():
            if name in result.differences[target]:
                rho = [scipy.stats.spearmanr(each, goal).statistic for each in (score, result.scores[REFERENCE])]
                assert result.differences[target][name].estimate.value == pytest.approx(rho[0] - rho[1])
        if name != REFERENCE:
            area = [roc_auc_score(wrong, each) for each in (score, result.scores[REFERENCE])]
            assert result.differences["error"][name].estimate.value == pytest.approx(area[0] - area[1])
        for head, own_targets in result.targets.items():
            found = result.figures[f"{name}/{head}"]["rho_uncertainty_vs_entropy"].value
            assert found == pytest.approx(scipy.stats.spearmanr(score, own_targets.entropy).statistic)
    bits = 1 / (1 + np.exp(-logits))
    own = -(bits * np.log(bits) + (1 - bits) * np.log1p(-bits)).sum(axis=1)
    assert scipy.stats.spearmanr(result.targets["sigmoid"].entropy, own).statistic == pytest.approx(1)
    assert scipy.stats.spearmanr(softmax.entropy, own).statistic < 0.99


def test_without_labels_claims_about_errors_do_not_apply() -> None:
    result = EXPERIMENT.compute(inputs(labels=False))
    assert set(result.differences) == {"entropy", "neg_margin"}
    assert result.accuracy is None
    outcomes = {claim.name: claim.judge(result) for claim in EXPERIMENT.claims()}
    assert outcomes["better_than_laplace_head/error"].outcome == "not applicable"
    assert "no labels" in str(outcomes["better_than_laplace_head/error"])
    assert outcomes["better_than_laplace_head/entropy"].outcome == "met"
    assert outcomes["better_than_laplace_projection/entropy"].outcome != "met"


def test_no_pass_is_spent_where_no_image_is_left_to_fit_on() -> None:
    def value(request: Request[Any]) -> Any:
        assert isinstance(request, LaplaceScores)
        raise NotApplicableError("none is left")

    with pytest.raises(NotApplicableError, match="none is left"):
        EXPERIMENT.compute(inputs_of(value, image_set=SimpleNamespace(), encoders={}))


def test_variants_of_an_original_are_one_draw(result: LaplaceResult) -> None:
    """Five copies of 60 images say what 60 images say: counted as 300 draws, intervals would be half as long."""
    five = EXPERIMENT.compute(inputs(copies=5))
    for figures in five.figures.values():
        assert {estimate.n for estimate in figures.values()} == {60}
    assert five.accuracy is not None
    assert five.accuracy.n == 60
    assert width(five, "laplace_head") > 1.6 * width(result, "laplace_head")
    assert {d.estimate.n for family in five.differences.values() for d in family.values()} == {60}
    assert five.with_mc["laplace_head"].n == 60


def width(result: LaplaceResult, score: str) -> float:
    found = result.figures[f"{score}/softmax"]["rho_uncertainty_vs_entropy"]
    return found.high - found.low


def test_first_order_is_exact_where_that_is_affordable_else_its_probes_are_in_the_interval(
    result: LaplaceResult,
) -> None:
    exact = EXPERIMENT.first_order(inputs())
    assert (exact.probes, exact.trials, result.products, result.scores["first_order"].shape) == (49, 1, 49, (N,))
    wide = inputs(width=512, probe_noise=0.5)
    few = EXPERIMENT.first_order(wide)
    probed = EXPERIMENT.compute(wide)
    assert (few.probes, few.trials, probed.products, probed.scores["first_order"].shape) == (16, 5, 76, (5, N))
    clean = EXPERIMENT.compute(inputs(width=512))
    assert width(probed, "first_order") > 1.5 * width(clean, "first_order")
    for given, of in ((inputs(), result), (wide, probed)):
        (arrays,) = EXPERIMENT.arrays(given, of).values()
        assert np.shape(arrays["score_first_order"]) == (N,)


def test_cost_is_in_plain_passes_by_the_least_of_the_repetitions(result: LaplaceResult) -> None:
    assert in_plain_passes(result.seconds) == {
        "plain": 1.0, "mc_dropout": 40.0, "laplace_head": 1.2, "laplace_projection": 1.5,
    }  # fmt: skip
    summary = plain(EXPERIMENT.summary(result))
    assert summary["passes_per_image"]["mc_dropout"] == 64
    assert summary["prior_precision"] == {"head": 3.0, "projection": 4.0}
    assert summary["difference_to_mc_dropout"]["entropy"]["laplace_head"]["n"] == N


def test_defaults_are_the_published_protocol() -> None:
    experiment = LaplaceComparison()
    assert (experiment.n, experiment.passes, experiment.trials, experiment.dropout.p) == (10_000, 64, 1, 0.01)
    run = experiment.run("clip_tiny")
    assert (run.shown, run.config.passes, run.config.trials) == (Images(10_000), (64,), 1)
