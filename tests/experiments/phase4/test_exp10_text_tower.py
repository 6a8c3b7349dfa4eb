"""Exp10: are vague prompts more variable than specific ones of the same length?

``--prompts=PATH`` gives prompts of one's own, in lines ``style<TAB>prompt``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.encoders import Prompts, TextTower
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp10_text_tower as exp10
from mcdo.experiments.bench import Bench
from mcdo.experiments.prompt_bank import Prompt, bank, read_prompts, sample
from mcdo.perturbation import GROUPS, check_comparable
from mcdo.stats import THRESHOLDS

pytestmark = [pytest.mark.phase4, pytest.mark.experiment(exp10, exp10.Exp10Config)]

Record = Callable[[str, object], None]
JUDGED = ("trace_pre", "trace_post", *exp10.FIRST_ORDER)


@dataclass(frozen=True, eq=False)
class Measured:
    config: exp10.Exp10Config
    prompts: tuple[Prompt, ...]
    run: MonteCarloRun
    result: exp10.Exp10Result


@pytest.fixture
def measured(model: str, bench: Bench, pytestconfig: pytest.Config) -> Measured:
    settings = bench.settings
    config = exp10.Exp10Config.of(settings.protocol, settings.seed, settings.dropout)
    path = pytestconfig.getoption("--prompts", default=None)

    def compute() -> Measured:
        available = read_prompts(Path(path), model) if path else bank(model, bench.images(10).class_names)
        prompts = sample(available, config.n, config.seed)
        texts = tuple(prompt.text for prompt in prompts)
        run = bench.run_on(model, Prompts(texts, origins=tuple(prompt.origin for prompt in prompts)), config.protocol)
        tokens = bench.kept(
            "token counts 1",
            model,
            {"prompts": list(texts)},
            lambda: {"tokens": TextTower(bench.encoder(model)).token_counts(texts)},
        )["tokens"]
        linear = bench.kept(
            "first order of the text tower 1",
            model,
            {"prompts": list(texts), "dropout": config.perturbation.as_dict(), "seed": config.seed},
            lambda: dict(
                exp10.first_order_traces(
                    TextTower(bench.encoder(model)), bench.encoder(model).tokenize(texts), config.perturbation
                )
            ),
        )
        result = exp10.compute(config, prompts, tokens, run, linear)
        exp10.write(config, prompts, run, result, settings.reports / "phase4", settings.session)
        return Measured(config, prompts, run, result)

    return bench.once(config, model, compute)


def test_every_text_tower_is_perturbed_at_the_same_roles(measured: Measured, bench: Bench) -> None:
    """Attention included; a tower without one of the roles, or with a dead site, is an error before this line."""
    if bench.settings.dropout.sites == "all":
        check_comparable({measured.run.encoder: measured.run.roles, "every other text tower": exp10.ROLES})
        assert {role.value for role in GROUPS["attention"]} <= set(measured.run.roles)
    assert not any(name.startswith("visual") for name, _ in measured.run.sites), "the vision tower is not disturbed"


def test_everything_is_reported_with_its_controls(measured: Measured, record_property: Record) -> None:
    result = measured.result
    record_property(
        "prompts", f"{len(measured.prompts)} of {result.frames} frames, {result.crossed} at crossed lengths"
    )
    record_property("Monte Carlo over first order", str(result.ratio))
    for name in (*exp10.SCORES, *exp10.FIRST_ORDER):
        record_property(f"{name} ~ specificity", str(result.specific[name]))
        record_property(f"{name} ~ specificity, same length", str(result.same_length[name].rho))
        record_property(f"{name} ~ specificity, given norm", str(result.given_norm[name].given))
        record_property(f"{name} ~ tokens", str(result.length[name]))
        for target, estimate in result.detects[name].items():
            record_property(f"{name} {target}", str(estimate))
        for style, estimate in result.styles[name].items():
            record_property(f"{name} rank of {style} at one length", str(estimate))
        assert np.isfinite(result.scores[name]).all()
    for key, difference in result.advantage.items():
        record_property(" ".join(key), str(difference))


@pytest.mark.parametrize("score", ["trace_pre", "trace_post"])
def test_the_score_of_a_prompt_repeats(score: str, measured: Measured, judge: Judges) -> None:
    found = measured.result.reliability[score]
    beside = f"SNR {found.snr:.2f}, ICC {found.icc:.2f}, {found.status}"
    judge("exp10").at_least(f"repeats/{score}", found.estimate("spearman"), THRESHOLDS.usable_spearman, beside)


@pytest.mark.parametrize("score", JUDGED)
def test_more_specific_prompts_of_the_same_length_are_less_variable(
    score: str, measured: Measured, judge: Judges
) -> None:
    relation, same = measured.result.specific[score], measured.result.same_length[score]
    beside = f"plain {relation.rho}; among prompts of exactly one length {same.rho}, p_holm={same.p_holm:.2g}"
    judge("exp10").below(f"specificity_given_length/{score}", relation.given, 0, beside, relation.given_p_holm)


@pytest.mark.parametrize("score", JUDGED)
def test_prompts_that_name_no_class_are_more_variable_than_others_of_the_same_length(
    score: str, measured: Measured, judge: Judges
) -> None:
    found = measured.result.generic.get(score)
    if found is None:
        pytest.skip("undecided: fewer than two generic frames among the prompts")
    beside = f"P(generic frame above another); difference of mean rank {found.difference}"
    judge("exp10").above(f"generic_at_same_length/{score}", found.exceedance, 0.5, beside, found.p_holm)
