from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tower import tiny_encoder
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import DimensionWeights, FirstOrderRun
from mcdo.estimators.blocks import prepared
from mcdo.estimators.jacobian import SiteGraph
from mcdo.estimators.probes import CALIBRATION_PASSES, noise_basis, stratified_probes
from mcdo.estimators.score_table import WEIGHTED
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
    find_sites,
)
from mcdo.perturbation.intercept import Compute, LinearMaps

EXACT = 49
KINDS: tuple[Perturbation, ...] = (
    Dropout(), TiedDropout(), Gaussian(), AttentionDropout(), HiddenDropout(), StochasticDepth(),
)  # fmt: skip
"""One of each way to disturb: which units, before or after a map, together or each for itself, by what scale."""


@pytest.fixture(scope="module", params=["clip_tiny", "siglip_tiny"])
def either(request: pytest.FixtureRequest) -> Encoder:
    return mcdo.load_encoder(request.param, "cpu")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """Where the tower does not matter."""
    return tiny_encoder()


def run_of(encoder: Encoder, n: int = 4, **kwargs: Any) -> FirstOrderRun:
    settings = {"dropout": Dropout(), "probes": 4, "trials": 2, "progress": False, **kwargs}
    return mcdo.first_order(encoder, mcdo.load_images("digits", n=n), **settings)


@pytest.fixture(scope="module", autouse=True)
def of_few_passes() -> Iterator[None]:
    """A basis from an eighth of the passes, which serves where it does not matter how good it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcdo.estimators.probes.CALIBRATION_PASSES", 8)
        yield


@pytest.fixture(scope="module")
def run(encoder: Encoder) -> FirstOrderRun:
    return run_of(encoder)


@pytest.fixture(scope="module")
def exact(either: Encoder) -> FirstOrderRun:
    return run_of(either, probes=EXACT, trials=1)


def reference(encoder: Encoder, kind: Perturbation, pixels: torch.Tensor) -> tuple[float, float]:
    """Trace / D of one image's covariance before and after normalisation, by the whole Jacobian of each site.

    Independent of the estimator: a factor 1 + e stands on every unit (or group), and jacrev differentiates by e.
    """
    table = find_sites(encoder)
    total = torch.zeros(2)
    sites = table.select_for(kind)
    for number, site in enumerate(sites):
        outer, units, inner = site.layout(kind)

        def features(
            e: torch.Tensor, site: Any = site, number: int = number, shape: Any = (outer, units, inner)
        ) -> Any:
            def disturb(y: torch.Tensor) -> torch.Tensor:
                scale = y.square().mean().sqrt().detach()
                view = y.reshape(1, *shape)
                moved = view + scale * e[None, None, :, None] if kind.noise == "additive" else view * (1 + e)[:, None]
                return moved.reshape(y.shape)

            def handle(weight: Any, part: str, compute: Compute) -> torch.Tensor:
                if table.at(weight, part) != site:
                    return compute()
                return compute(before=disturb) if kind.where == "input" else disturb(compute())

            calls = iter(range(99))

            def attention(p: torch.Tensor) -> torch.Tensor:  # always formed: fused attention has no batching rule
                return disturb(p) if next(calls) == number and kind.where == "probabilities" else p

            with LinearMaps(handle, probabilities=attention):
                out = encoder.forward_image(pixels)[0]
            return torch.stack([out, functional.normalize(out, dim=0)])

        total = total + torch.func.jacrev(features)(torch.zeros(units)).square().sum((1, 2))
    pre, post = (total.detach() * kind.variance / encoder.feature_dim).tolist()
    return pre, post


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        *(("tiny", kind) for kind in KINDS),
        *((key, kind) for key in ("siglip_tiny", "clip_tiny") for kind in (Dropout(), AttentionDropout())),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)
def test_all_probes_give_the_exact_trace_before_and_after_normalisation(key: str, kind: Perturbation) -> None:
    images, tower = mcdo.load_images("digits", n=2), tiny_encoder() if key == "tiny" else mcdo.load_encoder(key, "cpu")
    run = mcdo.first_order(tower, images, kind, probes=tower.feature_dim + 1, trials=1, progress=False)
    found = run.scores("trace_pre")[0, 1], run.scores("trace_post")[0, 1]
    np.testing.assert_allclose(found, reference(tower, kind, prepared(tower, images).batch(slice(1, 2))), rtol=1e-4)


def test_few_probes_are_unbiased(either: Encoder, exact: FirstOrderRun) -> None:
    some = run_of(either, probes=4, trials=40).scores("trace_pre")
    z = (some.mean(0) - exact.scores("trace_pre")[0]) / (some.std(0, ddof=1) / np.sqrt(40))
    assert np.abs(z).max() < 4


@pytest.mark.parametrize(("key", "kind"), [("clip_tiny", Gaussian(0.001)), ("siglip_tiny", Multiplicative(0.001))])
def test_small_smooth_noise_has_the_variance_that_monte_carlo_measures(key: str, kind: Perturbation) -> None:
    images, tower = mcdo.load_images("digits", n=6), mcdo.load_encoder(key, "cpu")
    passes = mcdo.monte_carlo(tower, images, kind, passes=(160,), trials=1, geometry=(), progress=False)
    exact = mcdo.first_order(tower, images, kind, probes=EXACT, trials=1, progress=False)
    for score in ("trace_pre", "trace_post", "norm_var"):
        ratio = passes.scores(score)[0] / exact.scores(score)[0]
        assert np.median(ratio) == pytest.approx(1, abs=0.12), score
    assert np.corrcoef(passes.scores("trace_pre")[0], exact.scores("trace_pre")[0])[0, 1] > 0.9


RAMP = np.arange(8) / np.arange(8).sum()
WEIGHTS = DimensionWeights(RAMP, np.array([6, 3, 7]), frozenset({"other"}))


def test_weights_of_dimensions_weigh_the_variance_of_each(encoder: Encoder) -> None:
    """Beside a product for each dimension, and what passes measure."""
    images, kind = mcdo.load_images("digits", n=4), Multiplicative(0.001)
    pixels, sites = prepared(encoder, images), find_sites(encoder).select_for(kind)
    graph = SiteGraph(encoder, pixels.batch(slice(0, 4)), kind, sites)
    variances = torch.stack([graph.terms(axis).sum(-1) for axis in torch.eye(8)]).numpy() / 999  # [D, N]
    passes = mcdo.monte_carlo(encoder, images, kind, 256, 1, geometry=(), weights=WEIGHTS, progress=False)
    for score, factors in zip(WEIGHTED, (RAMP, np.isin(np.arange(8), [6, 3, 7]) / 3), strict=True):
        exact = run_of(encoder, dropout=kind, probes=9, trials=1, weights=WEIGHTS, score=score)
        np.testing.assert_allclose(exact.scores(score)[0], factors @ variances, rtol=1e-4)
        assert exact.score_names == (score,)
        assert np.median(passes.scores(score) / exact.scores(score)) == pytest.approx(1, abs=0.15)


def test_a_run_with_weights_of_dimensions_is_of_that_score_alone(
    encoder: Encoder, run: FirstOrderRun, tmp_path: Path
) -> None:
    one, other = (run_of(encoder, weights=WEIGHTS, score=score, store=tmp_path) for score in WEIGHTED)
    assert not np.allclose(one.scores("weighted_trace"), other.scores("topk_trace"))
    again = run_of(encoder, weights=WEIGHTS, score="topk_trace", store=tmp_path)
    np.testing.assert_array_equal(again.scores("topk_trace"), other.scores("topk_trace"))
    for each, name in ((one, "trace_pre"), (one, "topk_trace"), (run, "weighted_trace")):
        with pytest.raises(McdoError, match=f"no {name} in this run, which "):
            each.scores(name)
    with pytest.raises(McdoError, match="trace_pre' has no weights of dimensions"):
        run_of(encoder, weights=WEIGHTS, score="trace_pre")
    with pytest.raises(McdoError, match="give weights="):
        run_of(encoder, score="topk_trace")
    with pytest.raises(McdoError, match=r"has 8 dimensions.* got 2 weights"):
        run_of(encoder, weights=DimensionWeights(np.ones(2) / 2, np.array([0]), frozenset()), score="weighted_trace")
    seen = DimensionWeights(WEIGHTS.weights, WEIGHTS.top, frozenset(one.origins[:1]))
    with pytest.raises(McdoError, match="1 of the scored originals were calibrated on"):
        run_of(encoder, weights=seen, score="weighted_trace")


def test_scores_are_linear_in_the_odds_of_p_and_add_up_over_sites(run: FirstOrderRun) -> None:
    np.testing.assert_allclose(run.scores("trace_post", p=0.5), run.scores("trace_post") * 99, rtol=1e-12)
    by_role = [run.scores("trace_pre", sites=[role]) for role in run.roles]
    np.testing.assert_allclose(np.sum(by_role, axis=0), run.scores("trace_pre"), rtol=1e-12)
    assert run.decomposition("trace_pre").shape == (2, 4, len(run.sites))
    assert (run.scores("trace_pre", p=0.0) == 0).all()


def test_a_subset_of_sites_is_what_a_run_at_these_sites_gives(either: Encoder, exact: FirstOrderRun) -> None:
    alone = run_of(either, probes=EXACT, trials=1, dropout=Dropout(0.01, ("fc1", "fc2")))
    np.testing.assert_allclose(exact.scores("trace_pre", sites=["fc1", "fc2"]), alone.scores("trace_pre"), rtol=1e-4)


def test_scores_do_not_depend_on_batch_order_or_company(encoder: Encoder, run: FirstOrderRun) -> None:
    np.testing.assert_allclose(run_of(encoder, batch_size=2).across, run.across, rtol=1e-4)
    order = np.array([3, 0, 2])
    images = mcdo.load_images("digits", n=4).select(order)
    some = mcdo.first_order(encoder, images, Dropout(), probes=4, trials=2, progress=False)
    np.testing.assert_allclose(some.scores("trace_pre"), run.scores("trace_pre")[:, order], rtol=1e-4)


def test_trials_and_seeds_differ_and_repeat(encoder: Encoder, run: FirstOrderRun) -> None:
    more = run_of(encoder, trials=3).across
    np.testing.assert_array_equal(more[:2], run.across)
    assert not np.allclose(more[0], more[1], rtol=1e-3)
    assert not np.allclose(run_of(encoder, seed=1).across, run.across, rtol=1e-3)


def test_frozen_weights_take_no_gradient_and_the_model_stays_as_it_is(encoder: Encoder) -> None:
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    run_of(encoder)
    assert all(p.grad is None and not p.requires_grad for p in encoder.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def test_a_stored_run_is_not_measured_again(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run_of(encoder, store=tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sys.modules["mcdo.estimators.first_order"], "SiteGraph", refuse)
    again = run_of(encoder, store=tmp_path)
    assert first.origins == again.origins == first.ids
    shared = replace(mcdo.load_images("digits", n=4), origins=tuple("aabb"))
    held = mcdo.first_order(encoder, shared, Dropout(), 4, 2, store=tmp_path, progress=False)
    assert held.origins == shared.origins, "origins come from the images that are asked for, not from the store"
    for score in ("trace_pre", "trace_post", "norm_var", "trace_pre_relative"):
        np.testing.assert_array_equal(again.scores(score), first.scores(score))
    with pytest.raises(AssertionError, match="measured again"):
        run_of(encoder, store=tmp_path, dropout=Multiplicative())
    with pytest.raises(AssertionError, match="measured again"):
        run_of(encoder, store=tmp_path, probes=5)


def test_out_of_memory_halves_the_batch_and_gives_the_same_numbers(
    encoder: Encoder, run: FirstOrderRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["mcdo.estimators.first_order"]
    graph = module.SiteGraph

    def small(encoder: Encoder, pixels: torch.Tensor, *rest: Any) -> Any:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("too much")
        return graph(encoder, pixels, *rest)

    monkeypatch.setattr(module, "SiteGraph", small)
    np.testing.assert_allclose(run_of(encoder).across, run.across, rtol=1e-4)


@pytest.mark.parametrize("probes", [1, 10])
def test_an_impossible_number_of_probes_is_refused(encoder: Encoder, probes: int) -> None:
    with pytest.raises(McdoError, match="between 2 and D \\+ 1 = 9"):
        run_of(encoder, probes=probes)


def test_unknown_scores_sites_and_probabilities_are_refused(run: FirstOrderRun) -> None:
    with pytest.raises(McdoError, match="the nearest: trace_pre"):
        run.scores("trace_pr")
    with pytest.raises(McdoError, match="unknown site 'fc3'"):
        run.scores("trace_pre", sites=["fc3"])
    with pytest.raises(McdoError, match="p = 1"):
        run.scores("trace_pre", p=1.0)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5))
def test_probes_use_every_axis_once(width: int, count: int, trial: int) -> None:
    count = min(count, width)
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0]
    probes = stratified_probes(basis, count, 42, trial).double().numpy()
    along = probes @ basis  # each axis belongs to one probe, with a sign
    np.testing.assert_allclose(np.square(along).sum(0), 1, atol=1e-5)
    assert (np.sum(np.abs(along) > 0.5, axis=0) == 1).all()
    assert np.ptp(np.sum(np.abs(along) > 0.5, axis=1)) <= 1, "probes must carry equal shares"


def test_probes_sum_to_the_identity_in_expectation() -> None:
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    draws = [stratified_probes(basis, 2, 0, trial).double().numpy() for trial in range(4000)]
    mean = np.mean([p.T @ p for p in draws], axis=0)
    np.testing.assert_allclose(mean, np.eye(6), atol=0.08)


def test_the_basis_is_orthonormal_and_leads_with_what_moves_most(
    either: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcdo.estimators.probes.CALIBRATION_PASSES", CALIBRATION_PASSES)
    basis = noise_basis(either, Dropout())
    np.testing.assert_allclose(basis.T @ basis, np.eye(48), atol=1e-8)
    pixels = prepared(either, mcdo.load_images("digits", n=4)).batch(slice(0, 4))
    graph = SiteGraph(either, pixels, Dropout(), find_sites(either).select_for(Dropout()))
    along = [float(graph.terms(torch.tensor(axis).float()).sum()) for axis in basis.T]
    assert scipy.stats.spearmanr(along, np.arange(48)).statistic < -0.8


@pytest.mark.parametrize("held", [0, 8])
def test_the_basis_is_kept_for_other_images_and_other_p_and_made_anew_for_other_sites(
    held: int, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the store, and by a process that has none."""
    few: dict[str, Any] = {"probes": 3, "trials": 1}
    module: Any = sys.modules["mcdo.estimators.probes"]
    monkeypatch.setattr(module, "_HELD", {})
    monkeypatch.setattr(module, "MOST_HELD", held)
    store = None if held else tmp_path
    run_of(encoder, n=1, store=store, **few)
    made, measure = list[Perturbation](), module._noise_basis

    def count(encoder: Encoder, kind: Perturbation, *how: Any) -> Any:
        made.append(kind)
        return measure(encoder, kind, *how)

    monkeypatch.setattr(module, "_noise_basis", count)
    kept = run_of(encoder, n=2, dropout=Dropout(0.2), store=store, **few)
    assert not made
    monkeypatch.setattr(module, "_HELD", {})
    np.testing.assert_array_equal(kept.across, run_of(encoder, n=2, **few).across)
    assert len(made) == 1
    run_of(encoder, n=1, dropout=Dropout(sites="fc1"), store=store, **few)
    run_of(encoder, n=1, dropout=Multiplicative(), store=store, **few)
    assert len(made) == 3


def test_a_process_holds_the_last_bases_of_what_encoders_do(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.estimators.probes._HELD", {})
    monkeypatch.setattr("mcdo.estimators.probes.MOST_HELD", 2)
    basis = noise_basis(encoder, Dropout())
    assert noise_basis(tiny_encoder(), Dropout(0.3)) is basis
    assert not basis.flags.writeable, "it is everyone's"
    changed = tiny_encoder()
    changed.model.get_parameter("mlp.0.weight").data.mul_(1.1)
    other = noise_basis(changed, Dropout())
    assert not np.array_equal(other, basis)
    assert noise_basis(encoder, Dropout()) is basis
    noise_basis(encoder, Dropout(sites="fc1"))
    again = noise_basis(encoder, Dropout())
    assert again is not basis, "two are held"
    np.testing.assert_array_equal(again, basis)


class Quantised(nn.Module):
    """What comes out of ``first`` is rounded to steps, through which no derivative leads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(48, 12), nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(functional.adaptive_avg_pool2d(x, 4).flatten(1))
        found: torch.Tensor = self.second((hidden * 8).detach().round() / 8)
        return found


def test_a_site_without_a_derivative_is_named() -> None:
    torch.manual_seed(0)
    shown = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
    quantised = mcdo.Encoder.of(Quantised(), shown, name="quantised", random_weights=True)
    with pytest.raises(McdoError, match=r"quantised: .* derivative is zero at first, with which the features change"):
        mcdo.first_order(
            quantised, mcdo.load_images("digits", n=2), Dropout(sites=("first", "second")), 2, 1, progress=False
        )


class Bent(nn.Module):
    """Six blocks, after each of which ``by`` acts; ``gain`` keeps the numbers of their size."""

    def __init__(self, by: Callable[[torch.Tensor], torch.Tensor], gain: float) -> None:
        super().__init__()
        self.by = by
        self.first, self.last = nn.Linear(192, 48), nn.Linear(48, 12)
        self.blocks = nn.ModuleList([nn.Linear(48, 48) for _ in range(6)])
        for block in self.blocks:
            cast("nn.Linear", block).weight.data.mul_(gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(functional.adaptive_avg_pool2d(x, 8).flatten(1))
        for block in self.blocks:
            hidden = self.by(block(hidden))
        found: torch.Tensor = self.last(hidden)
        return found


def _bent(by: Callable[[torch.Tensor], torch.Tensor], gain: float = 3.0) -> FirstOrderRun:
    torch.manual_seed(0)
    shown = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
    encoder = mcdo.Encoder.of(Bent(by, gain), shown, name="bent", random_weights=True)
    return mcdo.first_order(encoder, mcdo.load_images("digits", n=2), Dropout(), 2, 1, progress=False)


def _straight_through(x: torch.Tensor) -> torch.Tensor:
    return x + (torch.round(x) - x).detach()


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize(
    "by",
    [
        _straight_through,
        lambda x: x + (x.sign() - x).detach(),
        lambda x: x / x.detach().square().mean(1, keepdim=True).sqrt(),
        lambda x: 0.1 * x + 0.9 * x.detach(),
    ],
    ids=["rounded", "signs", "a scale that is held", "a tenth of the gradient"],
)
def test_a_tower_whose_gradients_are_not_its_derivative_is_refused(by: Callable[[torch.Tensor], torch.Tensor]) -> None:
    with pytest.raises(McdoError, match="bent: autograd's derivative is not how its features change"):
        _bent(by)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize(
    "by",
    [
        torch.relu,
        lambda x: functional.max_pool1d(x[:, None], 3, 1, 1)[:, 0],
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: (functional.silu(x[:, :24]) * x[:, 24:]).repeat(1, 2),
        lambda x: x / x.float().square().mean(1, keepdim=True).add(1e-6).sqrt(),
        lambda x: functional.hardsigmoid(x) * x,
        lambda x: x.bfloat16().float(),
        lambda x: 48 * torch.softmax(x, 1),
    ],
    ids=["ReLU", "maximum", "quick GELU", "SwiGLU", "RMS", "hard swish", "bfloat16", "softmax"],
)
def test_a_tower_of_kinks_gates_and_roundings_is_not(by: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert np.isfinite(_bent(by).scores("trace_pre")).all()


class Writing(nn.Module):
    """Writes into what its maps put out, and two maps read one input; ``apart``, they have tensors of their own."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.first, self.one, self.other = nn.Linear(48, 12), nn.Linear(12, 12), nn.Linear(12, 12)
        self.last = nn.Linear(12, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = functional.silu(self.first(functional.adaptive_avg_pool2d(x, 4).flatten(1)), inplace=not self.apart)
        one, other = self.one(hidden.clone()), self.other(hidden.clone() if self.apart else hidden)
        if self.apart:
            found: torch.Tensor = self.last((one + other * 2).sigmoid())
            return found
        other *= 2
        one += other
        found = self.last(one.sigmoid_())
        return found


@pytest.mark.parametrize("kind", [Dropout(0.01), Multiplicative(0.01), Gaussian(0.01), HiddenDropout(0.01)], ids=repr)
def test_a_tower_that_writes_in_place_has_the_terms_of_its_twin_that_does_not(kind: Perturbation) -> None:
    names = ("first", "one", "other", "last")
    shown = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
    found = []
    for apart in (False, True):
        torch.manual_seed(0)
        encoder = mcdo.Encoder.of(Writing(apart), shown, name="writing", random_weights=True)
        pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        sites = find_sites(encoder).select(names)
        graph = SiteGraph(encoder, pixels, kind.at(*names), sites)
        along = torch.randn(6, generator=torch.Generator().manual_seed(2))
        found.append(graph.terms(along))
        assert torch.equal(graph.terms(along, last=True), found[-1]), "and once more from the same graph"
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=0)
    assert (found[1] > 0).all()


def test_what_a_tower_writes_into_is_found_once() -> None:
    names, kind = ("first", "one", "other", "last"), Dropout(0.01)
    shown = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
    torch.manual_seed(0)
    encoder = mcdo.Encoder.of(Writing(False), shown, name="writing", random_weights=True)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    sites, forwards, terms = find_sites(encoder).select(names), 0, []

    def count(*_: object) -> None:
        nonlocal forwards
        forwards += 1

    encoder.model.register_forward_hook(count)
    for expected in (2, 3, 4):
        terms.append(SiteGraph(encoder, pixels, kind.at(*names), sites).terms(torch.ones(6), last=True))
        assert forwards == expected
    assert torch.equal(terms[0], terms[1])
    assert torch.equal(terms[0], terms[2])


class Switched(nn.Module):
    """Parts of its forward pass are made without gradient, or carried out again for it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.middle, self.last = nn.Linear(48, 12), nn.Linear(12, 12), nn.Linear(12, 6)

    def block(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.middle(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.first(functional.adaptive_avg_pool2d(x, 4).flatten(1))
        if self.how == "no_grad":
            with torch.no_grad():
                hidden = self.block(hidden)
        else:
            hidden = checkpoint(self.block, hidden, use_reentrant=self.how == "reentrant")
        found: torch.Tensor = self.last(hidden)
        return found


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # torch, of reentrant checkpointing
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no_grad", "takes gradients off before middle"),
        ("reentrant", "takes gradients off before middle"),
        ("checkpoint", "parts of its pass out again"),
        ("inference", "made in inference_mode"),
    ],
)
def test_a_tower_that_withholds_its_derivative_is_refused_by_name(how: str, said: str) -> None:
    shown = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
    torch.manual_seed(0)
    with torch.inference_mode(how == "inference"):
        tower = Switched(how)
    encoder = mcdo.Encoder.of(tower, shown, name="switched", random_weights=True)
    with pytest.raises(McdoError, match=f"switched: .*{said}"):
        mcdo.first_order(encoder, mcdo.load_images("digits", n=2), Dropout(), 2, 1, progress=False)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_a_tower_that_writes_into_what_its_derivative_needs_is_refused() -> None:
    class Spoilt(Writing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.first(functional.adaptive_avg_pool2d(x, 4).flatten(1)).exp()
            found: torch.Tensor = self.last(hidden * 2) + 0 * hidden.mul_(2).sum(1, keepdim=True)
            return found

    shown = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}
    torch.manual_seed(0)
    encoder = mcdo.Encoder.of(Spoilt(True), shown, name="spoilt", random_weights=True)
    with pytest.raises(McdoError, match="spoilt: the tower writes into numbers that its derivative needs"):
        mcdo.first_order(
            encoder, mcdo.load_images("digits", n=2), Dropout(sites=("first", "last")), 2, 1, progress=False
        )
