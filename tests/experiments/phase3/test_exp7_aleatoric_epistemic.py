"""Exp7: aleatoric and epistemic: two things or one, and are both better than one?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp7_aleatoric as exp7
from mcdo.experiments.bench import Bench
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS

pytestmark = [pytest.mark.phase3, pytest.mark.experiment(exp7, exp7.Exp7Config)]

Record = Callable[[str, object], None]
SAME = 0.8
"""Rank correlation from which the pipeline calls two rankings the same."""


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


def test_epistemic_and_aleatoric_are_two_rankings(model: str, bench: Bench, judge: Judges) -> None:
    judge("exp7").below("distinct", measured(bench, model)[1].relations["aleatoric_rank"].rho, SAME)


@pytest.mark.parametrize("bar", list(BARS))
@pytest.mark.parametrize("score", ["aleatoric_rank", "combined_rank"])
def test_score_follows_ambiguity(
    model: str,
    score: str,
    bar: str,
    bench: Bench,
    judge: Judges,
) -> None:
    key, threshold = BARS[bar]
    found = measured(bench, model)[1].estimates[score]
    beside = f"given the feature norm {found[f'{key}_given_norm']}"
    judge("exp7").above(f"{bar}/{score}", found[key], threshold, beside)


@pytest.mark.parametrize("target", ["entropy", "error"])
def test_both_together_are_better_than_epistemic_alone(
    model: str,
    target: str,
    bench: Bench,
    judge: Judges,
) -> None:
    result = measured(bench, model)[1]
    if target not in result.differences:
        pytest.skip("undecided: the images have no labels, so errors are not known")
    found = result.differences[target]["combined_rank"]
    judge("exp7").above(f"combined_better/{target}", found.estimate, 0.0, "combined_rank - epistemic", found.p_holm)
