"""Exp7: aleatoric and epistemic: two things or one, and are both better than one?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.experiments import exp7_aleatoric as exp7
from mcdo.experiments.bench import Bench
from mcdo.experiments.exp5_subset_ambiguity import AUROC_ENTROPY_BAR, RHO_ENTROPY_BAR
from mcdo.experiments.findings import Findings

pytestmark = [pytest.mark.phase3, pytest.mark.experiment(exp7, exp7.Exp7Config)]

Record = Callable[[str, object], None]
SAME = 0.8
"""Rank correlation from which the pipeline calls two rankings the same."""

BARS = {
    "rho_entropy": ("rho_uncertainty_vs_entropy", RHO_ENTROPY_BAR),
    "auroc_high_entropy": ("auroc_high_entropy", AUROC_ENTROPY_BAR),
}


def measured(bench: Bench, model: str) -> tuple[exp7.Exp7Config, exp7.Exp7Result]:
    settings = bench.settings
    config = exp7.Exp7Config.of(settings.protocol, settings.seed, settings.dropout)

    def compute() -> exp7.Exp7Result:
        images = bench.images(config.n)
        levels = exp7.variants(config, min(images.image(0).size))
        degraded = {
            family: np.stack([bench.features(model, config.n, degradation=level) for level in of_family])
            for family, of_family in levels.items()
        }
        run = bench.run(exp7.needs(config, model))
        return exp7.compute(config, run, degraded, bench.logits(model, config.n), images.labels)

    return config, bench.once(config, model, compute)


def known_negative(findings: Findings, claim: str, model: str, bench: Bench, request: pytest.FixtureRequest) -> None:
    known = findings.lookup("exp7", claim, model, bench.settings)
    if known is not None:
        reason = f"{known.measured}: {known.reason}"
        request.applymarker(pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))


def test_every_family_is_reported(model: str, bench: Bench, record_property: Record) -> None:
    config, result = measured(bench, model)
    run, settings = bench.run(exp7.needs(config, model)), bench.settings
    exp7.write(config, run, result, settings.reports / "phase3", settings.session)
    for name, relation in result.relations.items():
        record_property(
            f"epistemic vs {name}",
            f"{relation.rho}; given norm {relation.given_norm}; disattenuated {relation.disattenuated:.2f}",
        )
    for name, report in result.reports.items():
        record_property(
            name, f"rho(entropy) {report['rho_uncertainty_vs_entropy']}; AUROC(error) {report['auroc_error']}"
        )
    assert all((result.scores[f"aleatoric_{family}"] > 0).all() for family in config.families), "a family does nothing"
    assert len(result.relations) == len(config.families) + 1


def test_epistemic_and_aleatoric_are_two_rankings(
    model: str, bench: Bench, findings: Findings, request: pytest.FixtureRequest, record_property: Record
) -> None:
    known_negative(findings, "distinct", model, bench, request)
    found = measured(bench, model)[1].relations["aleatoric_rank"].rho
    outcome = found.verdict(SAME, "<")
    record_property("outcome", outcome)
    if outcome == "undecided":
        pytest.skip(f"undecided: {model}: rho(epistemic, aleatoric) {found} straddles {SAME}")
    assert outcome == "met", f"{model}: rho(epistemic, aleatoric) {found} is not below {SAME}"


@pytest.mark.parametrize("bar", list(BARS))
@pytest.mark.parametrize("score", ["aleatoric_rank", "combined_rank"])
def test_score_follows_ambiguity(
    model: str,
    score: str,
    bar: str,
    bench: Bench,
    findings: Findings,
    request: pytest.FixtureRequest,
    record_property: Record,
) -> None:
    known_negative(findings, f"{bar}/{score}", model, bench, request)
    key, threshold = BARS[bar]
    found = measured(bench, model)[1].estimates[score]
    beside = f"given the feature norm {found[f'{key}_given_norm']}"
    outcome = found[key].verdict(threshold, ">")
    record_property("estimate", f"{found[key]}; {beside}")
    record_property("outcome", outcome)
    if outcome == "undecided":
        pytest.skip(f"undecided: {model} {score}: {key} {found[key]} straddles {threshold}; {beside}")
    assert outcome == "met", f"{model} {score}: {key} {found[key]} is not above {threshold}; {beside}"


@pytest.mark.parametrize("target", ["entropy", "error"])
def test_both_together_are_better_than_epistemic_alone(
    model: str,
    target: str,
    bench: Bench,
    findings: Findings,
    request: pytest.FixtureRequest,
    record_property: Record,
) -> None:
    known_negative(findings, f"combined_better/{target}", model, bench, request)
    result = measured(bench, model)[1]
    if target not in result.differences:
        pytest.skip("undecided: the images have no labels, so errors are not known")
    found = result.differences[target]["combined_rank"]
    outcome = found.estimate.verdict(0.0, ">")
    record_property("difference", str(found))
    record_property("outcome", outcome)
    said = f"{model}, {target}: combined_rank - epistemic = {found}"
    if outcome == "undecided" or not found.p_holm <= 0.05:  # NaN where errors are too few to test by
        pytest.skip(f"undecided: {said}: no difference beyond chance (p after Holm over all of the model's)")
    assert outcome == "met", f"{said}: adding the aleatoric score makes it worse"
