"""Exp10: are vague prompts more variable than specific ones of the same length?

``--prompts=PATH`` gives prompts of one's own, in lines ``style<TAB>prompt``.
"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.phase4.exp10_text_tower.experiment import FIRST_ORDER, ROLES, TextTowerDropout
from mcdo.experiments.phase4.exp10_text_tower.result import TextResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.perturbation import GROUPS, check_comparable

pytestmark = of_experiment(TextTowerDropout)

test_claims = claims_of(TextTowerDropout)
test_contract = contract_of(TextTowerDropout)


def test_every_text_tower_is_perturbed_at_the_same_roles(completed: Completed[TextResult]) -> None:
    """Attention included; a tower without one of the roles, or with a dead site, is an error before this line."""
    experiment, inputs = completed.experiment, completed.inputs
    assert isinstance(experiment, TextTowerDropout)
    prompts = completed.result.prompts
    for run in (inputs[experiment.run(inputs.model, prompts)], inputs[experiment.first_order(inputs, prompts)]):
        if experiment.dropout.sites == "all":
            check_comparable({run.encoder: run.roles, "every other text tower": ROLES})
            assert {role.value for role in GROUPS["attention"]} <= set(run.roles)
        assert not any(name.startswith("visual") for name, _ in run.sites), "the vision tower is not disturbed"


def test_everything_is_reported_with_its_controls(
    completed: Completed[TextResult], record_property: Callable[[str, object], None]
) -> None:
    result = completed.result
    record_property("prompts", f"{len(result.prompts)} of {result.frames} frames, {result.crossed} at crossed lengths")
    record_property("Monte Carlo over first order", str(result.ratio))
    for name in (*completed.experiment.reported, *FIRST_ORDER):
        record_property(f"{name} ~ specificity", str(result.specific[name]))
        record_property(f"{name} ~ specificity, same length", str(result.same_length[name].rho))
        record_property(f"{name} ~ specificity, given norm", str(result.given_norm[name].given))
        record_property(f"{name} ~ tokens", str(result.length[name]))
        for target, estimate in result.detects[name].items():
            record_property(f"{name} {target}", str(estimate))
        for style, estimate in result.styles[name].items():
            record_property(f"{name} rank of {style} at one length", str(estimate))
        counted = {result.specific[name].rho.n, result.length[name].given.n, result.detects[name]["auroc"].n}
        assert counted == {result.frames}, "an interval counts frames, not prompts"
    for key, difference in result.advantage.items():
        record_property(" ".join(key), str(difference))
