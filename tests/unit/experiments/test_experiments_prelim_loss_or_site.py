from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run, noisy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments.prelim import loss_or_site as grid
from mcdo.stats import reliability

Array = NDArray[np.float64]
N = 150
CONFIG = grid.LossOrSiteConfig(n=N, trials=3, degradations=("blur:4%",), resamples=300)


def cell(validity: float, rise: float, seed: int) -> grid.Measured:
    """A score that follows entropy as far as ``validity`` says, and rises by ``rise`` under the degradation."""
    rng = np.random.default_rng(seed)
    entropy = np.random.default_rng(0).random(N)
    true = 1 + validity * entropy + (1 - validity) * rng.random(N)
    scores = noisy(true, CONFIG.trials, rng, degrees=400)
    return grid.Measured(
        scores=dict.fromkeys(grid.SCORES, scores),
        degraded={"blur:4%": dict.fromkeys(grid.SCORES, scores[0] + rise + rng.normal(scale=0.1, size=N))},
        norm=1 + rng.random(N),
        entropy=entropy,
        own_entropy=entropy,
    )


def world(decides: str) -> grid.LossOrSiteResult:
    """Twelve cells in which one factor makes the score valid."""
    place = list(grid.FACTORS).index(decides)
    good = grid.FACTORS[decides][0]
    cells = {
        key: cell(0.9 if key[place] == good else 0.1, 0.3 if key[place] == good else -0.3, seed)
        for seed, key in enumerate(CONFIG.cells)
    }
    return grid.compute(CONFIG, cells)


@pytest.mark.parametrize("factor", list(grid.FACTORS))
def test_the_factor_that_decides_is_found(factor: str) -> None:
    result = world(factor)
    for outcome in ("rho_entropy", "rho_entropy_given_norm", "increased/blur:4%"):
        shares = result.analyses["trace_pre"][outcome].shares
        assert shares[factor].low > 0.5
        assert max(shares, key=lambda name: shares[name].value) == factor
    encoder = result.by_encoder["trace_pre"]["rho_entropy"].shares["encoder"]
    assert encoder.value < 0.2 if factor == "site" else encoder.value > 0.5


def test_the_loss_decides_only_where_its_share_is_reliably_larger() -> None:
    verdicts = {
        factor: world(factor).analyses["trace_pre"]["rho_entropy"].share_differences["loss", "site"].verdict(0, "<")
        for factor in ("loss", "site")
    }
    assert verdicts == {"loss": "met", "site": "not met"}


def test_what_an_encoder_is_beyond_loss_and_tower_is_the_encoders_share() -> None:
    """One encoder of four is valid: no main effect, and no evidence on loss or tower."""
    cells = {
        key: cell(0.9 if (key[0] == "softmax") == (key[1] == "mha") else 0.1, 0, seed)
        for seed, key in enumerate(CONFIG.cells)
    }
    result = grid.compute(CONFIG, cells)
    shares = result.analyses["trace_pre"]["rho_entropy"].shares
    assert shares["loss x tower"].value > 0.8
    whole = result.by_encoder["trace_pre"]["rho_entropy"].shares["encoder"].value
    assert whole == pytest.approx(shares["loss"].value + shares["tower"].value + shares["loss x tower"].value)


def test_figures_of_a_cell_are_those_of_the_single_statistics() -> None:
    cells = {key: cell(0.5, 0.1, seed) for seed, key in enumerate(CONFIG.cells)}
    result = grid.compute(CONFIG, cells)
    for key, held in cells.items():
        single = reliability(held.scores["trace_pre"], seed=CONFIG.seed)
        assert result.figures["trace_pre"]["reliability"][key].value == pytest.approx(single.spearman)
        assert result.reliability["trace_pre"][key] == single
        more = (held.degraded["blur:4%"]["trace_pre"] > held.scores["trace_pre"][0]).mean()
        assert result.figures["trace_pre"]["increased/blur:4%"][key].value == pytest.approx(more)


def test_within_an_encoder_all_sites_are_compared_with_the_mlp() -> None:
    result = world("site")
    for table in (result.within["trace_pre"][o] for o in ("rho_entropy", "increased/blur:4%")):
        assert all(d.estimate.low > 0 for d in table.values())
        assert set(table) == set(grid.ENCODERS)


def test_one_trial_has_no_reliability_and_says_so() -> None:
    config = grid.LossOrSiteConfig(n=N, trials=1, degradations=("blur:4%",), resamples=50)
    cells = {
        key: grid.Measured(
            {name: values[:1] for name, values in held.scores.items()}, held.degraded, held.norm, held.entropy,
            held.own_entropy,
        )
        for seed, key in enumerate(config.cells)
        for held in [cell(0.5, 0.1, seed)]
    }  # fmt: skip
    result = grid.compute(config, cells)
    assert np.isnan(result.figures["trace_pre"]["reliability"][config.cells[0]].value)
    assert result.analyses["trace_pre"]["reliability"].share_differences["loss", "site"].verdict(0, "<") == "undecided"


def run_at(roles: tuple[str, ...]) -> MonteCarloRun:
    return made_up_run({"trace_pre": np.ones((1, 4))}, roles=roles)


def test_cells_of_one_level_must_be_perturbed_at_the_same_roles() -> None:
    """Trap 1: the published comparison perturbed 24 maps of one model and 53 with 41 more of the other."""
    matched = {key: run_at(grid.SITES[key[2]]) for key in CONFIG.cells}
    grid.check_roles(matched)
    extra = {key: run_at((*grid.SITES["all"], "pooling_head")) for key in [("softmax", "timm", "everything")]}
    grid.check_roles(matched | extra)
    matched["sigmoid", "timm", "all"] = run_at((*grid.SITES["all"], "pooling_head"))
    with pytest.raises(McdoError, match="pooling_head"):
        grid.check_roles(matched)


def test_every_cell_has_the_same_images_passes_trials_and_p() -> None:
    needs = [grid.needs_of(CONFIG, key)[None] for key in CONFIG.cells]
    assert {(n.n, n.images, n.config.passes, n.config.trials, n.config.seed, n.config.dropout.p) for n in needs} == {
        (N, "digits", (64,), 3, 42, 0.01)
    }
    assert {n.config.dropout.sites for n in needs} == set(grid.SITES.values())
    later = grid.needs_of(CONFIG, CONFIG.cells[0])["blur:4%"]
    assert (later.degradation, later.config.trials, later.config.seed) == ("blur:4%", 1, 42)
    assert set(grid.needs_of(CONFIG, ("softmax", "mha", grid.UNMATCHED))) == {None}


def test_files_say_the_same_as_the_result(tmp_path: Path) -> None:
    cells = {key: cell(0.5, 0.1, seed) for seed, key in enumerate(CONFIG.cells)}
    cells |= {(loss, tower, grid.UNMATCHED): cell(0.5, 0, 99) for loss, tower in grid.ENCODERS}
    result = grid.compute(CONFIG, cells)
    run = made_up_run({"trace_pre": np.ones((1, N))})
    grid.write(CONFIG, cells, run, result, tmp_path, "session")
    folder = tmp_path / grid.FOLDER
    summary = json.loads((folder / "prelim_loss_or_site_summary.json").read_text())
    written = summary["scores"]["trace_pre"]
    assert len(written["cells"]) == 12
    assert len(written["everything_perturbed"]) == 4
    share = result.analyses["trace_pre"]["rho_entropy"].shares["site"].value
    assert written["analysis"]["rho_entropy"]["shares"]["site"]["value"] == share
    with np.load(folder / "prelim_loss_or_site.npz", allow_pickle=False) as arrays:
        assert arrays["softmax/mha/all/trace_pre"].shape == (3, N)
    assert (folder / "prelim_loss_or_site.png").read_bytes()[:4] == b"\x89PNG"
