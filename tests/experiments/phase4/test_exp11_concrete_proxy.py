"""Exp11: does a drop probability for each depth beat the same one everywhere, on images that did not choose it?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp11_concrete_proxy as exp11
from mcdo.experiments.bench import Bench
from mcdo.experiments.depth_search import GRADIENT, RANDOM, UNIFORM, chosen_originals
from mcdo.stats import ambiguity_targets

pytestmark = [pytest.mark.phase4, pytest.mark.experiment(exp11, exp11.Exp11Config)]

Record = Callable[[str, object], None]


@dataclass(frozen=True, eq=False)
class Measured:
    config: exp11.Exp11Config
    result: exp11.Exp11Result
    confirmed: exp11.Confirmation


@pytest.fixture
def measured(model: str, bench: Bench) -> Measured:
    settings = bench.settings
    config = exp11.Exp11Config.of(settings.protocol, settings.seed, settings.dropout)

    def compute() -> Measured:
        images = bench.images(config.n)
        run = bench.first_order(exp11.first_order_need(config, model), config.probes)
        targets = ambiguity_targets(bench.logits(model, config.n), images.labels)
        result = exp11.compute(config, run, targets)
        shown = images.select(result.reported)
        traces = {
            name: np.sum([bench.run_on(model, shown, one).scores("trace_pre") for one in protocols], axis=0)
            for name, protocols in exp11.confirmation_protocols(config, result).items()
        }
        confirmed = exp11.confirm(config, result, traces)
        exp11.write(config, run, result, confirmed, settings.reports / "phase4", settings.session)
        return Measured(config, result, confirmed)

    return bench.once(config, model, compute)


def test_no_original_is_both_chosen_on_and_reported_on(measured: Measured, bench: Bench) -> None:
    names = bench.images(measured.config.n).origins
    first = chosen_originals(names, measured.config.seed)
    assert not first & set(measured.result.originals)
    assert first | set(measured.result.originals) == set(names)
    for found in measured.result.searched.values():
        assert all(choice.chosen_on == first for choice in found.choices.values())


def test_both_searches_are_reported_on_the_other_half(measured: Measured, record_property: Record) -> None:
    for score, found in measured.result.searched.items():
        for name, choice in found.choices.items():
            p = ", ".join(f"{value:.4f}" for value in found.level[name])
            record_property(
                f"{score} {name}",
                f"p {p}; in sample {choice.in_sample:.3f}, held out {found.held_out[name]}; "
                f"optimism of the gain {found.optimism(name):.3f}",
            )
            assert choice.in_sample >= found.choices[UNIFORM].in_sample, "both searches start from the uniform p"
        for pair, difference in found.differences.items():
            record_property(f"{score} {pair}", str(difference))
        for (name, other), relation in measured.result.relations[score].items():
            record_property(f"{score} {name} ~ {other}", str(relation))
        assert len(found.candidates[0]) == measured.config.candidates
    for name, estimate in measured.confirmed.held_out.items():
        record_property(f"Monte Carlo {name}", str(estimate))
    for pair, difference in measured.confirmed.differences.items():
        record_property(f"Monte Carlo {pair}", str(difference))


@pytest.mark.parametrize("search", [RANDOM, GRADIENT])
@pytest.mark.parametrize("score", exp11.SCORES)
def test_p_by_depth_beats_the_uniform_p_where_it_was_not_chosen(
    score: str, search: str, measured: Measured, judge: Judges
) -> None:
    found = measured.result.searched[score]
    difference = found.differences[f"{search} - {UNIFORM}"]
    beside = f"held out {found.held_out[search]}, uniform {found.held_out[UNIFORM]}"
    judge("exp11").above(f"gain/{search}/{score}", difference.estimate, 0, beside, difference.p_holm)


@pytest.mark.parametrize("score", exp11.SCORES)
def test_gradient_search_beats_random_search_of_as_many_evaluations(
    score: str, measured: Measured, judge: Judges
) -> None:
    difference = measured.result.searched[score].differences[f"{GRADIENT} - {RANDOM}"]
    judge("exp11").above(f"gradient_over_random/{score}", difference.estimate, 0, "", difference.p_holm)


def test_monte_carlo_confirms_the_gain(measured: Measured, judge: Judges) -> None:
    difference = measured.confirmed.differences[f"{GRADIENT} - {UNIFORM}"]
    beside = ", ".join(f"{name} {estimate}" for name, estimate in measured.confirmed.held_out.items())
    judge("exp11").above("gain/monte_carlo/trace_pre", difference.estimate, 0, beside, difference.p_holm)


def test_traces_of_groups_add_up_to_the_joint_trace(measured: Measured, judge: Judges) -> None:
    """What the confirmation rests on: the mean trace of all sites together is the sum over groups within a tenth."""
    ratio = measured.confirmed.additivity
    judge("exp11").above("groups_add_up/above", ratio, 0.9)
    judge("exp11").below("groups_add_up/below", ratio, 1.1)
