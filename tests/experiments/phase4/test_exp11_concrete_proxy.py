"""Exp11: does a drop probability for each depth beat the same one everywhere, on images that did not choose it?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase4.exp11_concrete_proxy.experiment import ConcreteProxy
from mcdo.experiments.phase4.exp11_concrete_proxy.result import ProxyResult
from mcdo.experiments.phase4.exp11_concrete_proxy.search import UNIFORM
from mcdo.harness import Completed, Images, Passes
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(ConcreteProxy)

test_claims = claims_of(ConcreteProxy)
test_contract = contract_of(ConcreteProxy)


def test_no_origin_is_both_chosen_on_and_reported_on(completed: Completed[ProxyResult]) -> None:
    result, inputs, experiment = completed.result, completed.inputs, completed.experiment
    assert isinstance(experiment, ConcreteProxy)
    images, reported = inputs.images(Images(experiment.n)), set(result.origins)
    assert {images.origins[i] for i in result.reported} == reported
    for searched in result.searched.values():
        for choice in searched.search.choices.values():
            assert not choice.chosen_on & reported
            assert choice.chosen_on | reported == set(images.origins)
    confirmed = [inputs[request].ids for request in inputs.requests if isinstance(request, Passes)]
    assert confirmed
    for ids in confirmed:
        assert ids == tuple(images.ids[i] for i in result.reported), "Monte Carlo sees the reporting half alone"


def test_both_searches_are_reported_on_the_other_half(
    completed: Completed[ProxyResult], record_property: Callable[[str, object], None]
) -> None:
    result, experiment = completed.result, completed.experiment
    assert isinstance(experiment, ConcreteProxy)
    for score, searched in result.searched.items():
        for name, choice in searched.search.choices.items():
            p = ", ".join(f"{value:.4f}" for value in searched.search.level[name])
            record_property(
                f"{score} {name}",
                f"p {p}; in sample {choice.in_sample:.3f}, held out {searched.held_out[name]}; "
                f"optimism of the gain {searched.optimism(name):.3f}",
            )
            assert choice.in_sample >= searched.search.choices[UNIFORM].in_sample, "both start from the uniform p"
        for pair, difference in searched.differences.items():
            record_property(f"{score} {pair}", str(difference))
        for (name, other), relation in searched.relations.items():
            record_property(f"{score} {name} ~ {other}", str(relation))
        assert len(searched.candidates) == experiment.candidates
    for name, estimate in result.confirmed.held_out.items():
        record_property(f"Monte Carlo {name}", str(estimate))
    for pair, difference in result.confirmed.differences.items():
        record_property(f"Monte Carlo {pair}", str(difference))


def test_first_order_is_exact_or_has_trials_to_show_its_noise(completed: Completed[ProxyResult]) -> None:
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, ConcreteProxy)
    config = inputs[experiment.first_order(inputs)].config
    assert config.probes == inputs.encoder().feature_dim + 1 or config.trials >= 5
