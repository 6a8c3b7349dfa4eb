"""Exp4 (full): models under matched sites."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp4_full_models as exp4
from mcdo.experiments.bench import Bench
from mcdo.stats import THRESHOLDS, RankMatrix, stacked_drift, trial_drift

pytestmark = [pytest.mark.phase2]


def _config(bench: Bench) -> exp4.Exp4FullConfig:
    settings = bench.settings
    return exp4.Exp4FullConfig.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> exp4.Exp4FullResult:
    config = _config(bench)
    run = bench.run(exp4.needs(config, model))

    def compute() -> exp4.Exp4FullResult:
        found = exp4.compute(config, run)
        exp4.write(config, run, found, bench.settings.reports / "phase2", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def _matrices(bench: Bench) -> dict[str, RankMatrix]:
    config, models = _config(bench), bench.settings.models
    if len(models) < 2:
        pytest.skip(f"a matrix over models needs at least two; --models names {models[0]} only")
    results = {model: _result(bench, model) for model in models}

    def compute() -> dict[str, RankMatrix]:
        found = exp4.across(config, {model: bench.run(exp4.needs(config, model)) for model in models})
        exp4.write_across(config, results, found, bench.settings.reports / "phase2", bench.settings.session)
        return found

    return bench.once(config, "all models", compute)


@pytest.mark.experiment(exp4, exp4.Exp4FullConfig)
def test_model_is_perturbed_at_the_matched_roles_only(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    config = _config(bench)
    run = bench.run(exp4.needs(config, model))
    record_property("live sites", len(run.sites))
    if config.dropout.sites == "all":
        assert set(run.roles) == set(exp4.MATCHED)
    drift = trial_drift(run.scores("trace_pre", config.passes)[: config.trials], seed=config.seed, level=0.99)
    record_property("relative drift per trial", str(drift))
    assert drift.low <= 0 <= drift.high < stacked_drift(config.trials), f"{model}: drift over trials {drift}"


@pytest.mark.experiment(exp4, exp4.Exp4FullConfig)
@pytest.mark.parametrize("score", ["trace_pre", "angular_var"])
def test_model_ranks_reliably_under_matched_sites(score: str, model: str, bench: Bench, judge: Judges) -> None:
    found = _result(bench, model).reliability[score]
    beside = f"SNR {found.snr:.2f}, ICC {found.icc:.2f}, {found.status}"
    judge("exp4_full").above(f"reliable/{score}", found.estimate("spearman"), THRESHOLDS.usable_spearman, beside)


def test_models_are_compared_on_the_same_images_and_roles(
    bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    matrices, models = _matrices(bench), bench.settings.models
    for name, matrix in matrices.items():
        assert matrix.names == models
        for pair in itertools.combinations(models, 2):
            raw, corrected = matrix.raw[pair], matrix.disattenuated[pair]
            gap = matrix.reliability_difference[pair]
            record_property(f"{name} {'~'.join(pair)}", f"raw {raw}, corrected {corrected}, reliability gap {gap}")
            assert np.isfinite([raw.value, raw.low, raw.high]).all()


def test_every_two_models_agree_on_which_images_are_uncertain(bench: Bench, judge: Judges) -> None:
    """The weakest pair decides: all must lie above zero, so no correction over pairs is due."""
    matrix = _matrices(bench)["trace_pre"]
    weakest = min(matrix.disattenuated, key=lambda pair: matrix.disattenuated[pair].low)
    relative = _matrices(bench)["trace_pre_relative"].disattenuated[weakest]
    beside = f"raw {matrix.raw[weakest]}; over the squared norm {relative}"
    judge("exp4_full", weakest[0]).above(f"agreement/{'~'.join(weakest)}", matrix.disattenuated[weakest], 0.0, beside)
