"""Exp0 to first order: at which p, sites and probes its runs are compared, on made-up runs that differ by all three."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of
from made_up_runs import ROLES, Array, made_up_run, noisy

from mcdo.estimators import FirstOrderConfig, FirstOrderRun
from mcdo.experiments.phase1 import exp0_first_order
from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability, FirstOrderResult
from mcdo.harness import FirstOrder, Inputs, Passes, Request
from mcdo.perturbation import LinearPart

ORIGINALS, D = 60, 4
N = 2 * ORIGINALS
LEVEL = {0.001: 1.0, 0.01: 1.0, 0.05: 0.5}
"""Passes over first order."""
GROUP = {"mlp": ("fc1", "fc2"), "attention": ("qkv", "attention_output"), **{role: (role,) for role in ROLES}}
BENDS = "fc2"
EXPERIMENT = FirstOrderReliability(n=N, subset=N, trials=5, site_images=N)
SITES = tuple((f"block.{role}", role) for role in ROLES)


def world(width: int = D) -> Inputs:
    """Each site has a ranking of its own; fc2 contributes most, and passes at it alone are a third of first order.

    Each original stands twice. R probes, the same for all images of a trial, leave noise that falls with R. Passes are
    noisy, so that raw rank correlations lie below the bar. Features of more than D dimensions take no D + 1 probes.
    """
    rng = np.random.default_rng(0)
    variance = np.repeat(np.exp(0.5 * rng.normal(size=(ORIGINALS, len(ROLES)))) * [1, 2, 1, 4], 2, axis=0)
    origins = tuple(f"digit{i // 2:03d}" for i in range(N))
    seen_from = rng.normal(size=(N, 3))
    seen_from /= np.linalg.norm(seen_from, axis=1, keepdims=True)
    runs: dict[Request[Any], Any] = {}

    def first_order(request: FirstOrder) -> FirstOrderRun:
        probes = rng.normal(size=(request.trials, request.probes, 3))
        noise = (
            np.ones((1, N))
            if request == EXPERIMENT.reference(about) and request.trials == 1
            else np.square(probes @ seen_from.T).mean(axis=1)
        )
        features = np.tile(np.eye(D, dtype=np.float32)[0], (N, 1))
        along = variance.astype(np.float32)
        across = (noise[..., None] * variance * (D - 1)).astype(np.float32)
        config = FirstOrderConfig(request.dropout, request.probes, request.trials, request.seed)
        ids = tuple(f"image{i:04d}" for i in range(N))
        return FirstOrderRun("clip_tiny", ids, origins, features, SITES, {}, config, along, across)

    def passes(request: Passes) -> Any:
        kind = request.config.dropout
        of = kind.of if isinstance(kind, LinearPart) else kind
        odds, passes, trials = of.p / (1 - of.p), request.config.passes[-1], request.config.trials
        if of.sites == "all":
            true = LEVEL[of.p] * odds * variance.sum(axis=1)
        elif (name := "".join(of.sites)) in GROUP:
            true = odds * variance[:, [role in GROUP[name] for _, role in SITES]].sum(axis=1)
        else:
            (at,) = (i for i, (site, _) in enumerate(SITES) if site == name)
            true = odds * variance[:, at]
            if isinstance(kind, LinearPart):
                true = true * kind.step**2
            elif name.endswith(BENDS):
                true = true / 3
        scores = noisy(true, trials, rng, 12)
        named = {"trace_pre": scores, "trace_post": scores * (D - 1) / D, "norm_var": scores}
        return made_up_run(named, passes, origins=origins, kind=kind)

    def value(request: Request[Any]) -> Any:
        if request not in runs:
            assert isinstance(request, FirstOrder | Passes)
            runs[request] = first_order(request) if isinstance(request, FirstOrder) else passes(request)
        return runs[request]

    about = inputs_of(value, encoders={"clip_tiny": SimpleNamespace(feature_dim=width)})
    return about


@pytest.fixture(scope="module")
def measured() -> tuple[Inputs, FirstOrderResult]:
    inputs = world()
    return inputs, EXPERIMENT.compute(inputs)


def test_passes_are_compared_with_first_order_at_their_own_p(measured: tuple[Inputs, FirstOrderResult]) -> None:
    for p, level in LEVEL.items():
        for found in measured[1].domain[p].values():
            assert found.ratio.value == pytest.approx(level, rel=0.1), p
            assert found.corrected.value == pytest.approx(1, abs=0.1)


def test_passes_at_a_group_are_compared_with_first_order_of_that_group(
    measured: tuple[Inputs, FirstOrderResult],
) -> None:
    groups = measured[1].groups
    assert set(groups) == set(GROUP)
    for name, scores in groups.items():
        for found in scores.values():
            assert found.ratio.value == pytest.approx(1, rel=0.1), name
            assert found.corrected.value == pytest.approx(1, abs=0.1), name


def test_each_site_s_passes_stand_over_their_own_linear_part(measured: tuple[Inputs, FirstOrderResult]) -> None:
    sites = measured[1].sites
    for site, found in sites.items():
        assert found.ratio.value == pytest.approx(1 / 3 if site.endswith(BENDS) else 1, rel=0.15)
        assert found.breaks == site.endswith(BENDS)
    assert sites[f"block.{BENDS}"].share == pytest.approx(0.5, abs=0.05)


def test_more_probes_gain_what_their_trials_agree_more(measured: tuple[Inputs, FirstOrderResult]) -> None:
    inputs, result = measured

    def agree(scores: Array) -> float:
        return float(np.mean([scipy.stats.spearmanr(a, b).statistic for a, b in itertools.combinations(scores, 2)]))

    few, many = (inputs[EXPERIMENT.at("clip_tiny", probes)] for probes in (2, 8))
    for space, score in (("pre_norm", "trace_pre"), ("post_norm", "trace_post")):
        assert result.gain[space].value == pytest.approx(agree(many.scores(score)) - agree(few.scores(score)))
        assert result.gain[space].value > 0.1


def test_probes_are_noise_that_all_images_share(measured: tuple[Inputs, FirstOrderResult]) -> None:
    """An interval over images alone would say nothing of other probes."""
    for by_space in measured[1].reliability.values():
        for found in by_space.values():
            assert found.snr_confidence.shared > 0.05


@pytest.mark.parametrize(("width", "shared"), [(D, False), (512, True)])
def test_probes_of_the_reference_are_shared_noise_where_not_all_are_taken(
    width: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set[bool]()
    monkeypatch.setattr(exp0_first_order, "agreement", lambda *_, shared_noise, **how: seen.add(shared_noise))
    EXPERIMENT.compute(world(width))
    assert seen == {shared}


def test_images_of_one_original_are_one_draw(measured: tuple[Inputs, FirstOrderResult]) -> None:
    result = measured[1]
    agreements = [a for by in (*result.domain.values(), *result.groups.values()) for a in by.values()]
    n = {estimate.n for a in agreements for estimate in (a.ratio, a.spearman, a.corrected)}
    n |= {r.n_origins for by in result.reliability.values() for r in by.values()}
    n |= {estimate.n for estimate in result.gain.values()} | {site.ratio.n for site in result.sites.values()}
    assert n == {ORIGINALS}


def test_the_corrected_ranking_the_ratio_and_the_most_probes_are_claimed(
    measured: tuple[Inputs, FirstOrderResult],
) -> None:
    result = measured[1]
    own = result.domain[EXPERIMENT.dropout.p]["trace_pre"]
    claimed = {claim.name: claim.estimate(result) for claim in EXPERIMENT.claims()}
    assert own.spearman.value < 0.9 < own.corrected.value
    assert claimed["domain_ranking/trace_pre"] == own.corrected
    assert claimed["domain_level/trace_pre"] == own.ratio
    assert claimed["usable/trace_post"] == result.reliability[8]["post_norm"].estimate("spearman")
    assert claimed["more_probes_less_noise/trace_post"] == result.gain["post_norm"]
