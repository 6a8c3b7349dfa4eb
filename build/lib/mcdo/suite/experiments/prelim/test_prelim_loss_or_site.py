"""Which of loss, tower and sites decides? On the four embedded encoders, whatever ``--models`` says."""

from __future__ import annotations

from collections.abc import Callable

from mcdo.encoders import find_spec
from mcdo.experiments.prelim.grid import CELLS, ENCODERS, SITES, UNMATCHED
from mcdo.experiments.prelim.loss_or_site import LossOrSite, LossOrSiteResult
from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(LossOrSite)

test_claims = claims_of(LossOrSite)
test_contract = contract_of(LossOrSite)


def test_all_sites_are_the_roles_that_the_four_towers_share(completed: Completed[LossOrSiteResult]) -> None:
    experiment = completed.experiment
    assert isinstance(experiment, LossOrSite)
    roles = [set(completed.inputs[experiment.run((*made, UNMATCHED))].roles) for made in ENCODERS]
    assert set.intersection(*roles) == set(SITES["all"])


def test_the_encoders_are_what_the_grid_says() -> None:
    for (loss, tower), model in ENCODERS.items():
        spec = find_spec(model)
        assert spec.loss == loss
        assert (spec.family == "clip") == (tower == "mha")


def test_every_cell_is_measured(
    completed: Completed[LossOrSiteResult], record_property: Callable[[str, object], None]
) -> None:
    experiment, grid = completed.experiment, completed.result.grid["trace_pre"]
    assert isinstance(experiment, LossOrSite)
    originals = len(set(completed.inputs.images(experiment.shown()).origins))
    for outcome in experiment.outcomes:
        assert set(CELLS) <= set(grid.figures[outcome])
        for cell, estimate in grid.figures[outcome].items():
            record_property(f"{outcome}: {'/'.join(cell)}", str(estimate))
            assert estimate.n == originals
        for name, share in grid.analyses[outcome].shares.items():
            record_property(f"{outcome}: share of {name}", str(share))
    for cell, of in completed.result.reliability["trace_pre"].items():
        record_property(f"trials: {'/'.join(cell)}", f"SNR {of.estimate('snr')}, ICC {of.estimate('icc')}")
