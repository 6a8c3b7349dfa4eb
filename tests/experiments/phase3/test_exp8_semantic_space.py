"""Exp8: does the variance over passes lie where prompts differ?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp8_semantic as exp8
from mcdo.experiments.bench import Bench
from mcdo.experiments.pass_moments import pass_moments
from mcdo.stats import ambiguity_targets
from mcdo.stats.resampling import Verdict

pytestmark = [pytest.mark.phase3, pytest.mark.experiment(exp8, exp8.Exp8Config)]

Record = Callable[[str, object], None]


def measured(bench: Bench, model: str) -> tuple[exp8.Exp8Config, exp8.Exp8Result]:
    settings = bench.settings
    config = exp8.Exp8Config.of(settings.protocol, settings.seed, settings.dropout)

    def compute() -> exp8.Exp8Result:
        need, images = exp8.needs(config, model), bench.images(config.n)
        text = bench.text_features(model, exp8.prompts(model, images.class_names))
        targets = ambiguity_targets(bench.logits(model, config.n), images.labels)
        return exp8.compute(config, bench.run(need), pass_moments(bench, need, text), text, targets)

    return config, bench.once(config, model, compute)


def test_shares_stand_beside_chance_and_images(model: str, bench: Bench, record_property: Record) -> None:
    config, result = measured(bench, model)
    run, settings = bench.run(exp8.needs(config, model)), bench.settings
    named = exp8.prompts(model, bench.images(config.n).class_names)
    exp8.write(config, run, named, result, settings.reports / "phase3", settings.session)
    for name, share in result.shares.items():
        record_property(
            f"{name} share",
            f"{share.observed}, chance {share.chance:.3f} (rank {share.rank} of {share.dim}), random subspaces "
            f"{share.null[0]:.3f} to {share.null[1]:.3f} (p {share.p_value:.4f}), between images {share.images:.3f}",
        )
        assert 0 < share.observed.value < 1
        assert share.null[0] <= share.chance <= share.null[1], "chance is where random subspaces fall"
    for name, found in result.reliability.items():
        report = result.ambiguity[name]
        record_property(
            name,
            f"rho {found.spearman:.2f} ICC {found.icc:.2f}; rho(entropy) {report['rho_uncertainty_vs_entropy']:.2f}, "
            f"given norm {report['rho_uncertainty_vs_entropy_given_norm']:.2f}",
        )
    assert all(np.isfinite(score).all() for score in result.scores.values())


@pytest.mark.parametrize("basis", ["raw", "gap_removed", "leading"])
def test_the_variance_is_more_semantic_than_chance(
    model: str,
    basis: str,
    bench: Bench,
    judge: Judges,
) -> None:
    share = measured(bench, model)[1].shares[basis]
    said = f"share {share.observed}, chance {share.chance:.3f}, random subspaces up to {share.null[1]:.3f}"
    above, below = share.observed.verdict(share.null[1], ">"), share.observed.verdict(share.chance, "<=")
    outcome: Verdict = "met" if above == "met" else "not met" if below == "met" else "undecided"
    judge("exp8").outcome(f"parallel_share/{basis}", outcome, said)
