"""Exp3: kinds of perturbation side by side."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp3_dropout_types as exp3
from mcdo.experiments.bench import Bench
from mcdo.experiments.phase1.exp5_subset_ambiguity import RHO_ENTROPY_BAR
from mcdo.stats import THRESHOLDS, stacked_drift

pytestmark = [pytest.mark.phase2, pytest.mark.first_model, pytest.mark.experiment(exp3, exp3.Exp3Config)]


def _config(bench: Bench) -> exp3.Exp3Config:
    settings = bench.settings
    return exp3.Exp3Config.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> exp3.Exp3Result:
    config = _config(bench)
    kinds = config.kinds(model)
    runs = {kind: bench.run(need) for kind, need in zip(kinds, exp3.needs(config, model), strict=True)}

    def compute() -> exp3.Exp3Result:
        found = exp3.compute(config, runs, bench.logits(model, config.n), bench.images(config.n).labels)
        exp3.write(config, runs, found, bench.settings.reports / "phase2", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def test_every_type_disturbs_every_image(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    """Published type A had a trace of 9e-17: its wrapped maps were never carried out."""
    config = _config(bench)
    for kind, need in zip(config.kinds(model), exp3.needs(config, model), strict=True):
        least = exp3.check_disturbed(kind, bench.run(need), config.passes)
        record_property(f"least relative trace, {kind}", f"{least:.3g}")


def test_trials_of_a_type_do_not_drift(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    """The published table has an ICC of -.112, the signature of dropouts stacked from trial to trial."""
    config, result = _config(bench), _result(bench, model)
    for kind, drift in result.drift.items():
        record_property(f"relative drift per trial, {kind}", str(drift))
        assert drift.low <= 0 <= drift.high, f"{model}: type {kind} drifts over trials: {drift}"
        if kind != "C":  # whole branches of few images: too noisy at quick sizes to exclude anything
            assert drift.high < stacked_drift(config.trials)


def test_types_are_reported_side_by_side(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    config, result = _config(bench), _result(bench, model)
    for score in exp3.SCORES:
        assert result.matrices[score].names == tuple(config.kinds(model))
        for kind, r in result.reliability[score].items():
            record_property(f"{score} {kind}", f"{r.estimate('spearman')} SNR {r.snr:.2f} ICC {r.icc:.2f} {r.status}")
            assert r.n_trials == config.trials
    for pair, estimate in result.matrices["trace_pre"].disattenuated.items():
        record_property(f"corrected rho {'~'.join(pair)}", str(estimate))


@pytest.mark.parametrize("kind", list(exp3.TYPES))
def test_the_type_ranks_reliably(kind: str, model: str, bench: Bench, judge: Judges) -> None:
    result = _result(bench, model)
    if kind not in result.means:
        pytest.skip(f"{model} has no site for type {kind} ({exp3.TYPES[kind]})")
    found = result.reliability["trace_pre"][kind]
    post = result.reliability["trace_post"][kind].estimate("spearman")
    beside = f"SNR {found.snr:.2f}, ICC {found.icc:.2f}, {found.status}; trace_post {post}"
    judge("exp3").above(f"reliable/{kind}", found.estimate("spearman"), THRESHOLDS.usable_spearman, beside)


@pytest.mark.parametrize("kind", list(exp3.TYPES))
def test_the_type_follows_ambiguity(kind: str, model: str, bench: Bench, judge: Judges) -> None:
    result = _result(bench, model)
    if kind not in result.means:
        pytest.skip(f"{model} has no site for type {kind} ({exp3.TYPES[kind]})")
    found, key = result.validity["trace_pre"][kind], "rho_uncertainty_vs_entropy"
    beside = f"given the feature norm {found[f'{key}_given_norm']}; the norm alone {result.norm_validity[key]}"
    judge("exp3").above(f"rho_entropy/{kind}", found[key], RHO_ENTROPY_BAR, beside)
