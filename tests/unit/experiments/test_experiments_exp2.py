from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run, noisy

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments.phase2.exp2_synthetic import (
    NATURAL,
    PREDICTED,
    SYNTHETIC,
    SyntheticNatural,
    SyntheticResult,
)
from mcdo.harness import Images, Inputs, Request, Settings
from mcdo.harness.runner import provenance
from mcdo.stats import group_differences, reliability

EXPERIMENT = SyntheticNatural()


def inputs(runs: Mapping[str, MonteCarloRun]) -> Inputs:
    shown = {images: name for name, images in EXPERIMENT.images(32).items()}

    def value(request: Request[Any]) -> MonteCarloRun:
        return runs[shown[request.shown]]  # type: ignore[attr-defined]

    return inputs_of(value, encoders={"clip_tiny": SimpleNamespace(resolution=32)})


def categories(levels: dict[str, float], n: int = 40, variants: int = 1) -> dict[str, MonteCarloRun]:
    """Scores around a level; natural images come in ``variants`` of one original."""
    rng = np.random.default_rng(0)
    runs = {}
    for name in (*SYNTHETIC, NATURAL):
        each = variants if name == NATURAL else 1
        true = np.repeat(levels.get(name, 1.0) * np.exp(0.2 * rng.normal(size=n // each)), each)
        scores = noisy(true, 5, rng)
        runs[name] = made_up_run(
            {"trace_pre": scores, "trace_post": scores**2},
            norm=1 + 0.1 * rng.random(n),
            origins=[f"{name}{i // each}" for i in range(n)],
        )
    return runs


def test_the_summary_counts_the_natural_images() -> None:
    """The first of several runs of a model."""
    held: Any = inputs({**categories({}), NATURAL: categories({}, n=60, variants=2)[NATURAL]})
    held.requests = tuple(EXPERIMENT.requests(held))
    found = provenance(EXPERIMENT, held)
    assert (found["num_images"], found["num_origins"]) == (60, 30)


LEVELS: dict[str, dict[str, float]] = {
    "lowest": {"natural": 0.3, "gradient": 0.6, "noise": 1.2, "solid": 2.4},
    "highest": {"natural": 2.0},
    "equal": {},
    "ties-with-one": {"natural": 0.5, "solid": 0.5},
    "one-is-lower": {"natural": 0.5, "solid": 0.2},
}


@cache
def result_of(case: str) -> SyntheticResult:
    return EXPERIMENT.compute(inputs(categories(LEVELS[case])))


@pytest.mark.parametrize(
    ("case", "verdict"), zip(LEVELS, ("met", "not met", "undecided", "undecided", "not met"), strict=True)
)
def test_familiarity_needs_all_three_differences(case: str, verdict: str) -> None:
    assert outcomes_of(EXPERIMENT, result_of(case))["natural_lowest/trace_pre"] == verdict


def test_the_figure_is_the_chance_that_a_natural_image_lies_above_one_of_the_lowest_synthetic_kind() -> None:
    runs, (claim, *_) = categories(LEVELS["lowest"]), EXPERIMENT.claims()
    natural, gradient = (runs[name].scores("trace_pre").mean(axis=0) for name in ("natural", "gradient"))
    found = claim.judge(result_of("lowest")).estimate
    assert found is not None
    assert found.value == pytest.approx(np.mean(natural[:, None] > gradient))


def test_significance_is_that_after_holm() -> None:
    """Three differences below zero, each with p = .02 and after Holm .06, do not make natural images the lowest."""
    result = result_of("lowest")
    pairs = {
        pair: replace(found, p_value=0.02, p_holm=0.06) if NATURAL in pair else found
        for pair, found in result.pairs["trace_pre"].items()
    }
    assert replace(result, pairs={"trace_pre": pairs}).familiarity("trace_pre") == "undecided"


def test_an_image_s_score_is_its_mean_over_trials() -> None:
    runs, result = categories(LEVELS["lowest"]), result_of("lowest")
    solid = runs["solid"].scores("trace_pre").mean(axis=0)
    assert result.values["trace_pre"]["solid"] == pytest.approx(solid)
    stated = EXPERIMENT.summary(result)["category_stats"]["solid"]
    assert stated["mean"] == pytest.approx(statistics.mean(solid))
    assert stated["std"] == pytest.approx(statistics.stdev(solid))
    of_pre = reliability(runs["solid"].scores("trace_pre"), origins=runs["solid"].origins, seed=42)
    assert result.reliability["solid"] == of_pre
    quarters = statistics.quantiles(solid, method="inclusive")
    assert [stated[name] for name in ("p25", "median", "p75")] == pytest.approx(quarters)


def test_a_score_that_grows_with_the_norm_is_seen_through_by_its_control() -> None:
    """Natural images with large norms: highest trace, no higher relative trace."""
    rng = np.random.default_rng(1)
    runs = {}
    for name in (*SYNTHETIC, NATURAL):
        norm = (2.0 if name == NATURAL else 1.0) * np.exp(0.1 * rng.normal(size=40))
        scores = noisy(norm**2 * np.exp(0.2 * rng.normal(size=40)), 5, rng)
        origins = [f"{name}{i}" for i in range(40)]
        runs[name] = made_up_run({"trace_pre": scores, "trace_post": scores}, norm=norm, origins=origins)
    result = EXPERIMENT.compute(inputs(runs))
    assert result.order("trace_pre")[-1] == "natural"
    ends = outcomes_of(EXPERIMENT, result)
    assert ends["natural_lowest/trace_pre"] == "not met"
    assert ends["natural_lowest/trace_pre_relative"] == "undecided"


def test_variants_of_an_original_are_one_draw() -> None:
    """Forty natural images of ten originals: their mean is known half as well, and n says why."""
    result = EXPERIMENT.compute(inputs(categories({}, variants=4)))
    over_originals = result.means["trace_pre"][NATURAL]
    assert over_originals.n == 10
    assert result.reliability[NATURAL].n_origins == 10
    assert result.above("trace_pre", "solid").difference.n == 40 + 10
    alone = group_differences(dict(result.values["trace_pre"]), seed=42)["solid", NATURAL].difference
    clustered = result.above("trace_pre", "solid").difference
    assert clustered.value == alone.value
    assert clustered.high - clustered.low > 1.3 * (alone.high - alone.low)


def test_natural_images_that_are_one_of_the_synthetic_sets_are_no_other_group() -> None:
    runs = categories({})
    with pytest.raises(McdoError, match="groups 'noise' and 'natural' share 40 origins"):
        EXPERIMENT.compute(inputs({**runs, NATURAL: runs["noise"]}))


def test_synthetic_images_have_the_encoder_s_input_size() -> None:
    """Noise of 224 px shown to an encoder of 32 px would be averaged to grey."""
    assert EXPERIMENT.images(32) == {
        "solid": Images(100, "synthetic:solid:32"),
        "gradient": Images(100, "synthetic:gradient:32"),
        "noise": Images(100, "synthetic:noise:32"),
        "natural": Images(100),
    }
    assert EXPERIMENT.images(378)["noise"].source == "synthetic:noise:378"


def test_natural_images_stand_for_the_summary() -> None:
    asked = list(EXPERIMENT.requests(inputs({})))
    assert asked[0].shown == Images(100)
    assert len(asked) == 4


@pytest.mark.parametrize("protocol", ["full", "quick"])
def test_every_protocol_has_at_least_forty_images_of_each(protocol: Any) -> None:
    assert SyntheticNatural.configured(Settings(("clip_tiny",), protocol=protocol)).n >= 40


def test_too_few_images_are_refused() -> None:
    with pytest.raises(McdoError, match="too few images to compare means"):
        EXPERIMENT.compute(inputs(categories({}, n=9)))


def test_the_summary_has_the_order_every_pair_and_every_mean_with_its_interval() -> None:
    summary = EXPERIMENT.summary(result_of("lowest"))
    assert summary["ascending_uncertainty_order"] == list(PREDICTED)
    assert summary["natural_is_lowest"] == "met"
    low, high = summary["category_stats"]["solid"]["mean_ci"]
    assert low < summary["category_stats"]["solid"]["mean"] < high
    assert len(summary["pairs"]) == 6
