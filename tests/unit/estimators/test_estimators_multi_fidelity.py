"""Passes with first order as their control variate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun, MultiFidelityRun, PairedRun
from mcdo.perturbation import (
    Dropout,
    Gaussian,
    HiddenDropout,
    LinearPart,
    Perturbation,
    PerturbedTower,
    Rademacher,
    StochasticDepth,
    TiedDropout,
    deterministic_features,
    image_keys,
    perturbed,
)
from mcdo.stats import agreement, reliability

P = 0.01


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return mcdo.load_encoder("siglip_tiny_softmax", "cpu")


@pytest.fixture(scope="module")
def run(encoder: Encoder) -> MultiFidelityRun:
    images = mcdo.load_images("digits", n=90)
    scored, other = images.select(np.arange(60)), images.select(np.arange(60, 90))
    return mcdo.multi_fidelity(encoder, scored, Dropout(P), (4, 16), 6, 49, calibration=other, progress=False)


@pytest.mark.parametrize(
    "kind",
    [Dropout(0.03), TiedDropout(0.03), Gaussian(0.03), Rademacher(0.03), HiddenDropout(0.03), StochasticDepth(0.1)],
    ids=lambda kind: type(kind).__name__,
)
def test_a_linear_part_has_the_masks_of_its_kind_and_moves_in_proportion(encoder: Encoder, kind: Perturbation) -> None:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = deterministic_features(encoder, pixels)[:, None].double()

    def moved(of: Perturbation) -> torch.Tensor:
        with perturbed(encoder, of, seed=3) as tower:
            return tower(pixels, image_keys(["a", "b"]), 0, 0).double() - plain

    whole, half, small = moved(kind), moved(LinearPart(kind, 0.04)) / 0.04, moved(LinearPart(kind)) / 0.02
    torch.testing.assert_close(moved(LinearPart(kind, 1.0)), whole, rtol=1e-4, atol=1e-5)
    bend = (half - small).norm() / small.norm()
    assert bend < 0.05, "by a small step the tower is straight"
    similar = torch.nn.functional.cosine_similarity(whole, small, dim=-1)
    assert similar.median() > 0.7, "the same masks move the feature along"


@pytest.mark.parametrize("kind", [Dropout(0.1), TiedDropout(0.1)], ids=lambda kind: type(kind).__name__)
def test_a_linear_part_is_the_same_where_masks_are_not_walked(encoder: Encoder, kind: Perturbation) -> None:
    tower, keys = PerturbedTower(encoder, LinearPart(kind, 0.3), 3), image_keys(["a", "b"])
    disturb = tower.disturbance(keys, 0, 0, 0, 16)
    y = torch.rand(32, tower.sizes[0], generator=torch.Generator().manual_seed(1))
    walked, scattered = disturb(y.clone(), 0), disturb(y.double(), 0)
    torch.testing.assert_close(walked.double(), scattered, rtol=1e-6, atol=1e-7)
    factor = scattered / y * LinearPart(kind, 0.3).scale
    dropped = torch.isclose(factor, torch.tensor(0.7, dtype=torch.float64))
    kept = torch.isclose(factor, torch.tensor(0.7 + 0.3 / 0.9, dtype=torch.float64))
    assert (dropped | kept).all()
    assert 0.05 < float(dropped.double().mean()) < 0.15


def test_the_linear_part_s_expectation_is_first_order(run: MultiFidelityRun) -> None:
    for name in ("trace_pre", "trace_post", "norm_var"):
        _, linear = run.pair.both(name)
        exact = run.first_order.scores(name)
        z = (linear.mean(axis=0) - exact[0]) / (linear.std(axis=0, ddof=1) / np.sqrt(len(linear)))
        assert abs(np.mean(linear.mean(axis=0) / exact[0]) - 1) < 0.05, name
        assert np.abs(z.mean()) < 1, name


def test_the_estimate_keeps_the_passes_expectation_and_loses_their_noise(
    run: MultiFidelityRun, encoder: Encoder
) -> None:
    reference = mcdo.monte_carlo(
        encoder, mcdo.load_images("digits", n=90).select(np.arange(60)), Dropout(P), 64, 3, seed=7, geometry=(),
        progress=False,
    )  # fmt: skip
    for name in ("trace_pre", "trace_post"):
        found, passes = run.scores(name), run.pair.passes.scores(name)
        assert found.var(axis=0, ddof=1).mean() < 0.2 * passes.var(axis=0, ddof=1).mean()
        level = np.median(found.mean(axis=0)) / np.median(reference.scores(name).mean(axis=0))
        assert level == pytest.approx(1, abs=0.04), "first order alone is several hundredths above"
        halves = replace(run, calibration=None)
        assert halves.coefficients(name) == pytest.approx(run.coefficients(name), abs=0.1)
        assert len(set(halves.coefficients(name))) == 2
        np.testing.assert_allclose(halves.scores(name).mean(), found.mean(), rtol=0.02)
    rho = [reliability(scores, shared_noise=False).spearman for scores in (passes, found)]
    assert rho[1] > rho[0] + 0.2
    ranked = agreement(reference.scores(name), found.mean(axis=0)[None]).corrected
    assert 0.8 < ranked.low < 0.98 < ranked.high, "but for the reference's noise the two rank alike"
    assert run.scores("trace_pre", 4).shape == (6, 60)


def test_the_coefficient_is_least_squares_within_images() -> None:
    rng = np.random.default_rng(0)
    level, noise = np.arange(40.0), rng.standard_normal((3, 40))

    class Fixed(PairedRun):
        def __init__(self) -> None:
            """Of nothing measured."""

        def both(self, name: str, passes: int | None = None) -> Any:
            return level + 0.7 * noise, 2 * level + noise

    assert Fixed().coefficient("trace_pre") == pytest.approx(0.7, rel=1e-12)
    noise = np.zeros((3, 40))
    with pytest.raises(McdoError, match="do not differ"):
        Fixed().coefficient("trace_pre")


def test_what_does_not_belong_together_is_refused(run: MultiFidelityRun, encoder: Encoder) -> None:
    passes, linear = run.pair.passes, run.pair.linear
    for other in (passes, replace(linear, ids=linear.ids[::-1]), _seeded(linear, 1)):
        with pytest.raises(McdoError, match="is not the linear part of the same passes"):
            PairedRun(passes, other)
    with pytest.raises(McdoError, match="60 of the scored originals are in the calibration set"):
        MultiFidelityRun(run.pair, run.first_order, run.pair)
    with pytest.raises(McdoError, match="is not the first order of"):
        MultiFidelityRun(run.calibration or run.pair, run.first_order)
    with pytest.raises(McdoError, match="the nearest: trace_pre"):
        run.scores("trace_pr")
    images = mcdo.load_images("digits", n=2)
    with pytest.raises(McdoError, match="at least two"):
        mcdo.multi_fidelity(encoder, images, Dropout(P), 4, 1, progress=False)
    with pytest.raises(McdoError, match="gives all images the same noise"):
        mcdo.multi_fidelity(encoder, images, Rademacher(P), 4, 2, progress=False)
    with pytest.raises(McdoError, match=r"LinearPart step = 0"):
        LinearPart(Dropout(), 0)


def _seeded(run: MonteCarloRun, seed: int) -> MonteCarloRun:
    return replace(run, config=replace(run.config, seed=seed))
