from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run, noisy
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import TRACES, MonteCarloRun
from mcdo.experiments.prelim.grid import (
    CELLS,
    ENCODERS,
    FACTORS,
    SITES,
    UNMATCHED,
    Cell,
    GridAnalysis,
    Measured,
    analyse,
    outcomes,
)
from mcdo.experiments.prelim.loss_or_site import LossOrSite, LossOrSiteResult, check_roles
from mcdo.harness import Images, Logits, Passes, Request
from mcdo.schema import plain
from mcdo.stats import ambiguity_targets, reliability, spearman

Array = NDArray[np.float64]
N, TRIALS = 150, 3
ORIGINS = tuple(f"image{i}" for i in range(N))
EXPERIMENT = LossOrSite(n=N, trials=TRIALS, degradations=("blur:4%",), resamples=300)


def cell(validity: float, rise: float, seed: int, trials: int = TRIALS) -> Measured:
    """A score that follows entropy as far as ``validity`` says, and rises by ``rise`` under the degradation."""
    rng = np.random.default_rng(seed)
    entropy = np.random.default_rng(0).random(N)
    true = 1 + validity * entropy + (1 - validity) * rng.random(N)
    scores = noisy(true, trials, rng, degrees=400)
    return Measured(
        scores=dict.fromkeys(TRACES, scores),
        degraded={"blur:4%": dict.fromkeys(TRACES, scores[0] + rise + rng.normal(scale=0.1, size=N))},
        norm=1 + rng.random(N),
        entropy=entropy,
        own_entropy=entropy,
    )


def analysed(cells: Mapping[Cell, Measured], origins: tuple[str, ...] = ORIGINS) -> GridAnalysis:
    return analyse(cells, "trace_pre", origins, seed=42, resamples=300)


@cache
def world(decides: str) -> GridAnalysis:
    """Twelve cells in which one factor makes the score valid, and four of everything perturbed."""
    place = list(FACTORS).index(decides)
    good = FACTORS[decides][0]
    cells = {
        key: cell(0.9 if key[place] == good else 0.1, 0.3 if key[place] == good else -0.3, seed)
        for seed, key in enumerate(CELLS)
    }
    unmatched = {(*made, UNMATCHED): replace(cell(0.5, 0, 99), degraded={}) for made in ENCODERS}
    return analysed(cells | unmatched)


def judged(grid: GridAnalysis) -> dict[str, str]:
    result = LossOrSiteResult(dict.fromkeys(TRACES, grid), {})
    return outcomes_of(EXPERIMENT, result)


@pytest.mark.parametrize("factor", list(FACTORS))
def test_the_factor_that_decides_is_found(factor: str) -> None:
    grid = world(factor)
    for outcome in ("rho_entropy", "rho_entropy_given_norm", "increased/blur:4%"):
        shares = grid.analyses[outcome].shares
        assert shares[factor].low > 0.5
        assert max(shares, key=lambda name: shares[name].value) == factor
    encoder = grid.by_encoder["rho_entropy"].shares["encoder"]
    assert encoder.value < 0.2 if factor == "site" else encoder.value > 0.5


def test_claims_about_losses_stay_undecided_with_one_training_each() -> None:
    """However clearly these encoders differ: another training might differ as much."""
    grid = world("loss")
    ends = judged(grid)
    about_losses = {end for name, end in ends.items() if name.startswith(("loss_decides/", "softmax_above_sigmoid/"))}
    assert about_losses == {"undecided"}
    loss = next(claim for claim in EXPERIMENT.claims() if claim.name == "loss_decides/rho_entropy")
    said = loss.judge(LossOrSiteResult(dict.fromkeys(TRACES, grid), {}))
    assert "one training for each loss and tower" in said.beside
    assert said.p_holm is None
    trials = dict.fromkeys(EXPERIMENT.cells, reliability(cell(0.5, 0, 0).scores["trace_pre"]))
    written = plain(EXPERIMENT.summary(LossOrSiteResult({"trace_pre": grid}, {"trace_pre": trials})))
    assert set(written["scores"]["trace_pre"]["everything_perturbed"]) == {"/".join(made) for made in ENCODERS}
    for kind in ("analysis", "encoder_or_site"):
        for outcome, analysis in written["scores"]["trace_pre"][kind].items():
            for contrast, effect in analysis["effects"].items():
                assert ("p_value" in effect or "p_holm" in effect) == contrast.startswith("site"), outcome


def test_sites_are_claimed_over_the_encoders_and_within_each() -> None:
    ends = judged(world("site"))
    over = {ends[f"mlp_below_all/{outcome}"] for outcome in ("rho_entropy", "increased/blur:4%")}
    within = {ends[f"all_above_mlp/{o}/{m}"] for o in ("rho_entropy", "increased/blur:4%") for m in ENCODERS.values()}
    assert over == within == {"met"}


def test_an_effect_in_two_towers_of_four_is_none_over_the_encoders() -> None:
    """MLP sites cost validity in the MultiheadAttention towers only: clear in each, and open for other encoders."""
    cells = {key: cell(0.1 if key[2] == "mlp" and key[1] == "mha" else 0.9, 0, seed) for seed, key in enumerate(CELLS)}
    grid = analysed(cells)
    effect = grid.analyses["rho_entropy"].within["site", "all", "mlp"]
    assert effect.estimate.value < -0.2
    ends = judged(grid)
    assert ends["mlp_below_all/rho_entropy"] == "undecided"
    assert ends["all_above_mlp/rho_entropy/clip_tiny"] == ends["all_above_mlp/rho_entropy/clip_tiny_sigmoid"] == "met"


def test_what_an_encoder_is_beyond_loss_and_tower_is_the_encoders_share() -> None:
    """One encoder of two is valid in each loss and tower: no main effect, and no evidence on loss or tower."""
    cells = {
        key: cell(0.9 if (key[0] == "softmax") == (key[1] == "mha") else 0.1, 0, seed) for seed, key in enumerate(CELLS)
    }
    grid = analysed(cells)
    shares = grid.analyses["rho_entropy"].shares
    assert shares["loss x tower"].value > 0.8
    whole = grid.by_encoder["rho_entropy"].shares["encoder"].value
    assert whole == pytest.approx(shares["loss"].value + shares["tower"].value + shares["loss x tower"].value)


def test_figures_of_a_cell_are_those_of_the_single_statistics() -> None:
    cells = {key: cell(0.5, 0.1, seed) for seed, key in enumerate(CELLS)}
    grid = analysed(cells)
    for key, held in cells.items():
        assert grid.figures["reliability"][key].value == pytest.approx(reliability(held.scores["trace_pre"]).spearman)
        more = (held.degraded["blur:4%"]["trace_pre"] > held.scores["trace_pre"][0]).mean()
        assert grid.figures["increased/blur:4%"][key].value == pytest.approx(more)


def test_variants_of_one_original_are_one_draw() -> None:
    """Each image three times, with its scores: the same figures, and intervals as wide as without the copies."""
    once = {key: cell(0.5, 0.1, seed) for seed, key in enumerate(CELLS)}

    def thrice(held: Measured) -> Measured:
        def copied(values: Any) -> Any:
            return {name: copied(v) for name, v in values.items()} if isinstance(values, dict) else values.repeat(3, -1)

        return Measured(*(copied(getattr(held, name)) for name in Measured.__dataclass_fields__))

    copies = {key: thrice(held) for key, held in once.items()}
    one, other = analysed(once), analysed(copies, tuple(origin for origin in ORIGINS for _ in range(3)))
    for outcome in ("rho_entropy", "increased/blur:4%", "reliability"):
        for key in CELLS:
            single, several = one.figures[outcome][key], other.figures[outcome][key]
            assert several.n == N
            assert several.high - several.low == pytest.approx(single.high - single.low, rel=0.02)
        site = ("site", "all", "mlp")
        first, second = (grid.analyses[outcome].within[site].p_value for grid in (one, other))
        assert second == pytest.approx(first, rel=0.05)


def test_one_trial_has_no_reliability_and_says_so() -> None:
    cells = {key: cell(0.5, 0.1, seed, trials=1) for seed, key in enumerate(CELLS)}
    grid, first = analysed(cells), cells[CELLS[0]]
    assert np.isnan(grid.figures["reliability"][CELLS[0]].value)
    assert judged(grid)["mlp_below_all/reliability"] == "undecided"
    rho = scipy.stats.spearmanr(first.scores["trace_pre"][0], first.entropy).statistic
    assert grid.figures["rho_entropy"][CELLS[0]].value == pytest.approx(rho)


def run_at(roles: tuple[str, ...]) -> MonteCarloRun:
    return made_up_run({"trace_pre": np.ones((1, 4))}, roles=roles)


def test_cells_of_one_level_must_be_perturbed_at_the_same_roles() -> None:
    """Trap 1: the published comparison perturbed 24 maps of one model and 53 with 41 more of the other."""
    matched = {key: run_at(SITES[key[2]]) for key in CELLS}
    check_roles(matched)
    extra = {key: run_at((*SITES["all"], "pooling_head")) for key in [("softmax", "timm", "everything")]}
    check_roles(matched | extra)
    matched["sigmoid", "timm", "all"] = run_at((*SITES["all"], "pooling_head"))
    with pytest.raises(McdoError, match="pooling_head"):
        check_roles(matched)


def test_every_cell_has_the_same_images_passes_trials_and_p() -> None:
    runs = [EXPERIMENT.run(key) for key in CELLS]
    protocols = {(r.shown, r.config.passes, r.config.trials, r.config.seed, r.config.dropout.p) for r in runs}
    assert protocols == {(Images(N, "digits"), (64,), 3, 42, 0.01)}
    assert {run.config.dropout.sites for run in runs} == set(SITES.values())
    later = EXPERIMENT.degraded(CELLS[0])["blur:4%"]
    assert (later.shown, later.config.trials, later.config.seed) == (Images(N, "digits", "blur:4%"), 1, 42)
    assert EXPERIMENT.degraded(("softmax", "mha", UNMATCHED)) == {}
    asked = set(EXPERIMENT.requests(inputs_of(lambda _: None)))
    assert len([request for request in asked if isinstance(request, Passes)]) == 12 * 2 + 4
    assert {request.model for request in asked if isinstance(request, Logits)} == set(ENCODERS.values())


def test_cells_are_computed_from_their_own_runs() -> None:
    """Scores, degraded scores, norms and entropies of each cell come from the run and the encoder that it names."""
    rng = np.random.default_rng(3)
    logits = {model: rng.normal(size=(2, N, 4)) for model in ENCODERS.values()}
    runs: dict[Request[Any], MonteCarloRun] = {}

    def value(request: Request[Any]) -> Any:
        if isinstance(request, Logits):
            return {"logits": logits[request.model]}
        assert isinstance(request, Passes)
        if request not in runs:
            scores = {name: 1 + rng.random((request.config.trials, N)) for name in ("trace_pre", "trace_post")}
            sites = request.config.dropout.sites
            runs[request] = made_up_run(scores, roles=SITES["all"] if sites == "all" else sites)
        return runs[request]

    pairs = tuple(f"image{i // 2}" for i in range(N))
    result = EXPERIMENT.compute(inputs_of(value, image_set=SimpleNamespace(ids=ORIGINS, origins=pairs)))
    for key in CELLS:
        trials = runs[EXPERIMENT.run(key)].scores("trace_pre")
        known, figures = reliability(trials, origins=pairs).spearman, result.grid["trace_pre"].figures
        assert figures["reliability"][key].value == pytest.approx(known)
        assert figures["rho_own_entropy"][key].n == result.reliability["trace_pre"][key].n_origins == N // 2
        own = ambiguity_targets(logits[ENCODERS[key[:2]]], head=key[0]).entropy  # type: ignore[arg-type]
        follows = spearman(trials.mean(axis=0), own, origins=pairs)
        assert figures["rho_own_entropy"][key].value == pytest.approx(follows.value)
        up = runs[EXPERIMENT.run(key, "blur:4%")].scores("trace_pre")[0] > trials[0]
        assert result.grid["trace_pre"].figures["increased/blur:4%"][key].value == pytest.approx(up.mean())
    assert set(result.reliability["trace_post"]) == set(EXPERIMENT.cells)
    assert set(result.grid["trace_pre"].figures) == set(outcomes(EXPERIMENT.degradations)) == set(EXPERIMENT.outcomes)
