"""Which of loss, tower and sites decides? On the four embedded encoders, whatever ``--models`` says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.encoders import find_spec
from mcdo.experiments.bench import Bench
from mcdo.experiments.prelim import loss_or_site as grid
from mcdo.perturbation import matched_roles
from mcdo.stats import ambiguity_targets

pytestmark = [pytest.mark.prelim, pytest.mark.clip, pytest.mark.siglip]
OUTCOMES = grid.outcomes(grid.LossOrSiteConfig())
FIRST = grid.ENCODERS["softmax", "mha"]
"""Findings are kept by encoder: those about all four together stand under this one, as ``all_four/...``."""


def _config(bench: Bench) -> grid.LossOrSiteConfig:
    settings = bench.settings
    return grid.LossOrSiteConfig.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench) -> grid.LossOrSiteResult:
    config = _config(bench)

    def compute() -> grid.LossOrSiteResult:
        cells, runs = {}, {}
        labels = bench.images(config.n, config.images).labels
        extra = [(loss, tower, grid.UNMATCHED) for loss, tower in grid.ENCODERS]
        for cell in (*config.cells, *extra):
            by_damage = {spec: bench.run(need) for spec, need in grid.needs_of(config, cell).items()}
            runs[cell] = by_damage.pop(None)
            logits = bench.logits(grid.ENCODERS[cell[:2]], config.n, config.images)
            heads = [ambiguity_targets(logits, labels, head=head) for head in ("softmax", cell[0])]  # type: ignore[arg-type]
            damaged = {spec: run for spec, run in by_damage.items() if spec is not None}
            cells[cell] = grid.measured(config, runs[cell], damaged, *heads)
        grid.check_roles(runs)
        found = grid.compute(config, cells)
        reports, session = bench.settings.reports / "prelim", bench.settings.session
        grid.write(config, cells, runs[config.cells[0]], found, reports, session)
        return found

    return bench.once(config, FIRST, compute)


def test_all_sites_are_the_roles_that_the_four_towers_share(bench: Bench) -> None:
    if bench.settings.from_store:
        pytest.skip("needs the loaded models, to look at their towers")
    shared = matched_roles(*(bench.encoder(model) for model in grid.ENCODERS.values()))
    assert set(shared) == set(grid.SITES["all"])


def test_the_encoders_are_what_the_grid_says() -> None:
    for (loss, tower), model in grid.ENCODERS.items():
        spec = find_spec(model)
        assert spec.loss == loss
        assert (spec.family == "clip") == (tower == "mha")


def test_every_cell_is_measured(bench: Bench, record_property: Callable[[str, object], None]) -> None:
    result = _result(bench)
    for outcome in OUTCOMES:
        for cell, estimate in result.figures["trace_pre"][outcome].items():
            record_property(f"{outcome}: {'/'.join(cell)}", str(estimate))
            assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
        for name, share in result.analyses["trace_pre"][outcome].shares.items():
            record_property(f"{outcome}: share of {name}", str(share))
    assert len(result.figures["trace_pre"]["reliability"]) == 12
    for cell, found in result.reliability["trace_pre"].items():
        record_property(f"trials: {'/'.join(cell)}", f"SNR {found.estimate('snr')}, ICC {found.estimate('icc')}")


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_the_loss_decides(outcome: str, bench: Bench, judge: Judges) -> None:
    """S1's explanation: the loss accounts for more of the spread between cells than the sites do."""
    found = _result(bench).analyses["trace_pre"][outcome]
    difference = found.share_differences["loss", "site"]
    whole = _result(bench).by_encoder["trace_pre"][outcome].shares["encoder"]
    shares = ", ".join(f"{name} {share}" for name, share in {**found.shares, "encoder": whole}.items())
    judge("prelim_loss_or_site", FIRST).outcome(
        f"all_four/loss_decides/{outcome}",
        difference.verdict(0, "<"),
        f"share of the sites less share of the loss {difference}",
        shares,
    )


@pytest.mark.parametrize("outcome", [outcome for outcome in OUTCOMES if outcome != "reliability"])
def test_softmax_training_makes_the_score_more_valid(outcome: str, bench: Bench, judge: Judges) -> None:
    """The direction of S1's explanation; that the sigmoid loss is the more reliable one is not disputed there."""
    effects = _result(bench).analyses["trace_pre"][outcome].effects
    found = effects["loss", "softmax", "sigmoid"]
    judge("prelim_loss_or_site", FIRST).outcome(
        f"all_four/softmax_above_sigmoid/{outcome}",
        found.estimate.verdict(0, "<"),
        f"sigmoid less softmax {found}",
        "matched roles, mean over towers and sites; one training for each loss and tower",
    )


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("encoder", list(grid.ENCODERS.values()))
def test_attention_sites_make_the_score_better(encoder: str, outcome: str, bench: Bench, judge: Judges) -> None:
    """The lead: with all sites perturbed the score is more reliable and more valid than with MLP sites only."""
    cell = next(cell for cell, model in grid.ENCODERS.items() if model == encoder)
    result = _result(bench)
    found = result.within["trace_pre"][outcome][cell]
    figures = result.figures["trace_pre"][outcome]
    beside = ", ".join(f"{site} {figures[cell[0], cell[1], site]}" for site in grid.SITES)
    judge("prelim_loss_or_site", encoder).above(f"all_above_mlp/{outcome}", found.estimate, 0.0, beside)
