from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from toy_towers import KINDS, LinearTower, Toy, encoder_of, seeded, tower

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation import (
    PASS_BLOCK,
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    KeyedMasks,
    MaskedSite,
    Multiplicative,
    Perturbation,
    Rademacher,
    StochasticDepth,
    TiedDropout,
    deterministic_features,
    find_sites,
    image_keys,
    perturbed,
)
from mcdo.perturbation.intercept import LinearMaps
from mcdo.perturbation.masks import zero_units_
from mcdo.perturbation.normals import KeyedNormals
from mcdo.perturbation.signs import KeyedSigns

ALL_KINDS: tuple[Perturbation, ...] = (
    Dropout(0.05),
    TiedDropout(0.05),
    TiedDropout(0.05, over_images=True),
    Multiplicative(0.05),
    Gaussian(0.05),
    Rademacher(0.05),
    Rademacher(0.05, step=0.1),
    AttentionDropout(0.05),
    HiddenDropout(0.05),
    StochasticDepth(0.05),
)
FC1, FC2 = "visual.mlp.c_fc", "visual.mlp.c_proj"


def name_of(kind: Perturbation) -> str:
    name = type(kind).__name__ + ("OverImages" if getattr(kind, "over_images", False) else "")
    return name + ("" if kind.rescaling == 1 else "Small")


def linear_encoder() -> Encoder:
    return encoder_of(seeded(lambda: Toy(LinearTower())), 6)


def passes_of(encoder: Encoder, pixels: torch.Tensor, ids: list[str], kind: Perturbation, n: int = 16) -> torch.Tensor:
    with perturbed(encoder, kind, seed=3) as drop:
        blocks = [drop(pixels, image_keys(ids), 0, block) for block in range(-(-n // PASS_BLOCK))]
    return torch.cat(blocks, dim=1)[:, :n]


def parts(encoder: Encoder, pixels: torch.Tensor) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of the linear tower: hidden ``[B, T, 12]``, output ``[B, T, 6]``, and the second weight matrix."""
    visual: Any = encoder.model.visual
    with torch.no_grad():
        tokens = visual.conv1(pixels).flatten(2).transpose(1, 2)
        hidden = visual.mlp.c_fc(tokens)
        out = visual.mlp.c_proj(hidden)
        return hidden.double().numpy(), out.double().numpy(), visual.mlp.c_proj.weight.double().numpy()


def expected_variance(encoder: Encoder, pixels: torch.Tensor, kind: Perturbation) -> NDArray[Any]:
    """Exact variance of each feature dimension, ``[B, 6]``: the tower is linear, so the delta method is no limit."""
    hidden, out, matrix = parts(encoder, pixels)
    tokens = hidden.shape[1]
    if FC1 in kind.sites or kind.where == "input":  # what moves is hidden; its effect on dimension d is matrix[d] / T
        moved = hidden[:, :, None, :] * matrix[None, None] / tokens  # [B, T, D, units]
        scale = np.sqrt(np.square(hidden).mean((1, 2)))[:, None] ** 2
        plain = np.square(matrix / tokens).sum(1) * tokens
    else:
        moved = out[:, :, None, :] * np.eye(6)[None, None] / tokens
        scale = np.sqrt(np.square(out).mean((1, 2)))[:, None] ** 2
        plain = np.ones(6) / tokens
    if kind.noise == "additive":
        return np.asarray(kind.variance * scale * plain[None])
    if kind.together == "feature":
        return np.asarray(kind.variance * np.square(moved.sum(1)).sum(-1))
    if kind.together == "branch":
        return np.asarray(kind.variance * np.square(moved.sum((1, 3))))
    return np.asarray(kind.variance * np.square(moved).sum((1, 3)))


@pytest.mark.parametrize(
    "kind",
    [
        Dropout(0.1, FC1),
        Dropout(0.7, FC2),
        TiedDropout(0.1, (FC1,)),
        TiedDropout(0.1, (FC2,)),
        TiedDropout(0.1, (FC1,), over_images=True),
        Multiplicative(0.1, (FC1,)),
        Gaussian(0.1, (FC1,)),
        Gaussian(0.1, (FC2,)),
        Rademacher(0.1, (FC1,)),
        Rademacher(0.1, (FC2,), step=0.2),
        HiddenDropout(0.1),
        StochasticDepth(0.1).at(FC2),
    ],
    ids=lambda kind: f"{name_of(kind)}-{kind.sites}",
)
def test_mean_and_variance_of_a_linear_tower_are_those_of_the_closed_form(kind: Perturbation) -> None:
    encoder, n = linear_encoder(), 4096
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    copies = 1 if kind.shared_by_images else 16  # passes of one image under several names
    names, shown = [f"image {i}" for i in range(2 * copies)], pixels.repeat_interleave(copies, dim=0)
    passes = passes_of(encoder, shown, names, kind, n // copies).view(2, n, -1).double()
    variance, plain = expected_variance(encoder, pixels, kind), deterministic_features(encoder, pixels).double().numpy()
    z = (passes.mean(1).numpy() - plain) / np.sqrt(variance / n)
    assert np.abs(z).max() < 4.5, "the perturbation is biased"
    ratio = passes.var(dim=1).numpy() / variance
    kurtosis = scipy.stats.kurtosis(passes.numpy(), axis=1, fisher=False)
    assert (np.abs(ratio - 1) / np.sqrt((kurtosis - 1) / n)).max() < 4.5


@pytest.mark.parametrize("kind", ALL_KINDS, ids=name_of)
@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_features_follow_from_the_keys_and_not_from_the_batch(key: str, kind: Perturbation) -> None:
    encoder = tower(key)
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    whole = passes_of(encoder, pixels, ["a", "b", "c"], kind)
    alone = [passes_of(encoder, pixels[i : i + 1], ["abc"[i]], kind) for i in (2, 0, 1)]
    torch.testing.assert_close(torch.cat(alone), whole[[2, 0, 1]], rtol=1e-4, atol=1e-5)
    with perturbed(encoder, kind, seed=3) as drop:
        some = drop(pixels, image_keys(["a", "b", "c"]), 0, 0, 3, 8)
    torch.testing.assert_close(some, whole[:, 3:8], rtol=1e-4, atol=1e-5)
    assert (whole.var(dim=1).mean(-1) > 0).all(), "the perturbation does nothing"


def test_every_attention_of_both_kinds_of_tower_is_reached() -> None:
    """Trap 1: in CLIP's tower the published dropout of attention never acted."""
    for key, n in (("clip_tiny", 3), ("siglip_tiny", 4)):
        encoder = mcdo.load_encoder(key, "cpu")
        sites = find_sites(encoder).attentions
        assert len(sites) == n
        pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4))
        for site in sites:
            passes = passes_of(encoder, pixels, ["a"], AttentionDropout(0.3).at(site.name))
            assert float(passes.var(dim=1).sum()) > 0, site.name


def test_probabilities_that_are_formed_and_left_alone_change_nothing() -> None:
    for kind in KINDS:
        encoder = tower(kind)
        pixels = torch.rand(2, 3, encoder.resolution, encoder.resolution, generator=torch.Generator().manual_seed(5))
        with torch.no_grad(), LinearMaps(probabilities=lambda p: p):
            formed = encoder.forward_image(pixels)
        torch.testing.assert_close(formed, deterministic_features(encoder, pixels), rtol=1e-4, atol=1e-5)


def test_a_mask_over_images_is_one_sample_of_the_weights() -> None:
    """Dropped output features are dropped rows of the weights: every image sees the same smaller network."""
    encoder, kind = linear_encoder(), TiedDropout(0.3, (FC1,), over_images=True)
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(6))
    passes = passes_of(encoder, pixels, list("abcd"), kind)
    hidden, _, matrix = parts(encoder, pixels)
    for t in range(16):  # recover the mask from the first image, and predict the others
        candidates = hidden.mean(1) / 0.7
        # passes = sum over kept units; six equations for twelve binary unknowns, so test against all masks
        masks = np.array(np.meshgrid(*[[0, 1]] * 12)).reshape(12, -1).T
        predicted = np.einsum("mu,bu,du->mbd", masks, candidates, matrix)
        error = np.abs(predicted - passes[:, t].double().numpy()[None]).max((1, 2))
        assert error.min() < 1e-5


@pytest.mark.parametrize(("outer", "units", "inner"), [(1, 30, 1), (5, 6, 1), (1, 1, 30), (1, 5, 6), (2, 3, 5)])
def test_tied_units_are_zeroed_alike_on_both_paths(outer: int, units: int, inner: int) -> None:
    site = MaskedSite("a", units, 0.2, outer, inner)
    masks, keys = KeyedMasks([site], 5), image_keys(["x", "y", "z"])
    y = torch.rand(3 * 4, 30) + 1
    walked = masks.zero_(y.clone(), 0, 1, 2, keys, 3, 7)
    scattered = zero_units_(y.clone(), masks.draw(1, 2, keys, 3, 7)[0], outer, inner)
    assert torch.equal(walked, scattered)
    dropped = (walked == 0).view(12, outer, units, inner)
    assert (dropped == dropped[:, :1, :, :1]).all()
    assert 0 < int(dropped.sum()) < dropped.numel()


def _noise(site: MaskedSite, seed: int, ids: list[str], trial: int, first: int, last: int) -> NDArray[np.float32]:
    y = torch.ones(len(ids) * (last - first), site.size)
    sd = np.sqrt(site.p / (1 - site.p))
    KeyedNormals([site], seed, additive=False).disturb_(y, 0, trial, 0, image_keys(ids), first, last)
    return np.asarray((y.numpy().reshape(len(ids), last - first, site.size) - 1) / sd, dtype=np.float32)


def test_normals_are_normal_and_independent() -> None:
    site = MaskedSite("a", 500, 0.3)
    noise = _noise(site, 1, ["x", "y"], 0, 0, 16)
    assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    others = [
        noise[1],
        _noise(site, 1, ["x"], 1, 0, 16)[0],
        _noise(site, 2, ["x"], 0, 0, 16)[0],
        _noise(MaskedSite("b", 500, 0.3), 1, ["x"], 0, 0, 16)[0],
        np.roll(noise[0], 1, axis=0),
        np.roll(noise[0], 1, axis=1),
    ]
    for other in others:
        assert abs(scipy.stats.pearsonr(noise[0].ravel(), other.ravel())[0]) < 4.5 / np.sqrt(other.size)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(1, 9), st.integers(0, 14), st.integers(1, 15), st.booleans())
def test_any_passes_of_normals_are_those_of_the_whole_block(size: int, first: int, more: int, additive: bool) -> None:
    site, keys, last = MaskedSite("a", size, 0.2), image_keys(["x", "y"]), min(16, first + more)
    y = torch.rand(2, 16, size) + 1
    normals = KeyedNormals([site], 3, additive)
    whole = normals.disturb_(y.clone().view(32, size), 0, 0, 0, keys, 0, 16).view(2, 16, size)
    piece = y[:, first:last].clone().reshape(-1, size)
    torch.testing.assert_close(
        normals.disturb_(piece, 0, 0, 0, keys, first, last).view(2, last - first, size), whole[:, first:last]
    )


@pytest.mark.parametrize("first", [0, 3])
def test_the_gpu_s_way_to_normals_gives_the_cpu_s_numbers(first: int) -> None:
    from mcdo.perturbation.masks import _mix, name_key
    from mcdo.perturbation.normals import _normals

    site, keys = MaskedSite("a", 7, 0.5), image_keys(["x", "y"])
    run = _mix(_mix(_mix(_mix(4) ^ 0) ^ 0) ^ name_key("a"))
    found = _normals(keys, run, 7 * first, 7 * 16).view(2, 16 - first, 7)
    np.testing.assert_allclose(found.numpy(), _noise(site, 4, ["x", "y"], 0, first, 16), rtol=1e-4, atol=2e-5)


def test_noise_is_scaled_by_the_image_s_own_output() -> None:
    """Trap: a scale taken over the batch makes an image's score depend on its neighbours."""
    site, keys = MaskedSite("a", 400, 0.2), image_keys(["x", "y"])
    y = torch.stack([torch.full((400,), 1.0), torch.full((400,), 100.0)])
    noise = KeyedNormals([site], 1, additive=True).disturb_(y.clone(), 0, 0, 0, keys, 0, 1) - y
    np.testing.assert_allclose(noise.std(dim=1).numpy(), [0.5, 50], rtol=0.15)


def test_a_kind_says_what_it_is_and_can_be_changed() -> None:
    kind = TiedDropout(0.02, "mlp", over_images=True)
    assert kind.as_dict() == {"kind": "TiedDropout", "p": 0.02, "sites": "mlp", "over_images": True}
    assert kind.at("a").as_dict() == {"kind": "TiedDropout", "p": 0.02, "sites": ("a",), "over_images": True}
    assert kind.with_p(0.5).variance == 1.0
    small = Rademacher(0.02, "mlp", step=0.5).at("a").with_p(0.1)
    assert small.as_dict() == {"kind": "Rademacher", "p": 0.1, "sites": ("a",), "step": 0.5}
    assert kind.sites == "mlp", "the original must stay as it is"
    assert Gaussian(0.2).variance == pytest.approx(0.25)
    assert Gaussian(0.2).scale == 1.0
    assert len({Dropout(0.1), Multiplicative(0.1), TiedDropout(0.1)}) == 3


def _signs(site: MaskedSite, seed: int, trial: int, first: int, last: int, ids: list[str]) -> NDArray[np.float32]:
    y = torch.ones(len(ids) * (last - first), site.size)
    KeyedSigns([site], seed, 0.5).disturb_(y, 0, trial, 0, image_keys(ids), first, last)
    return np.asarray((y.numpy().reshape(len(ids), last - first, site.size) - 1) / 0.5)


def test_signs_are_balanced_independent_and_common_to_all_images() -> None:
    site = MaskedSite("a", 500, 0.3)
    signs = _signs(site, 1, 0, 0, 16, ["x", "y"])
    assert (signs[0] == signs[1]).all()
    assert set(np.unique(signs)) == {-1.0, 1.0}
    signs = signs[0]
    bar = 4.5 / np.sqrt(signs.size)
    assert abs(signs.mean()) < bar
    others = [
        _signs(site, 1, 1, 0, 16, ["x"])[0],
        _signs(site, 2, 0, 0, 16, ["x"])[0],
        _signs(MaskedSite("b", 500, 0.3), 1, 0, 0, 16, ["x"])[0],
        np.roll(signs, 1, axis=0),
        np.roll(signs, 1, axis=1),
    ]
    for other in others:
        assert abs((signs * other).mean()) < bar


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(1, 200), st.integers(0, 14), st.integers(1, 15))
def test_any_passes_of_signs_are_those_of_the_whole_block_on_both_paths(size: int, first: int, more: int) -> None:
    site, last = MaskedSite("a", size, 0.2), min(16, first + more)
    whole = _signs(site, 3, 5, 0, 16, ["x", "y"])
    np.testing.assert_array_equal(_signs(site, 3, 5, first, last, ["x", "y"]), whole[:, first:last])
    y = torch.ones(2 * (last - first), size, dtype=torch.float64)  # the tensor's way, as on a GPU
    KeyedSigns([site], 3, 0.5).disturb_(y, 0, 5, 0, image_keys(["x", "y"]), first, last)
    np.testing.assert_array_equal((y.view(2, -1, size).numpy() - 1) / 0.5, whole[:, first:last])


def test_signs_have_the_level_of_exact_first_order() -> None:
    encoder, images = mcdo.load_encoder("clip_tiny", "cpu"), mcdo.load_images("digits", n=12)
    exact = mcdo.first_order(encoder, images, Rademacher(0.01), encoder.feature_dim + 1, 1, progress=False)
    for step in (1.0, 0.1):
        run = mcdo.monte_carlo(encoder, images, Rademacher(0.01, step=step), 64, 3, geometry=(), progress=False)
        for score in ("trace_pre", "trace_post"):
            ratio = run.scores(score).mean(axis=0) / exact.scores(score)[0]
            assert np.median(ratio) == pytest.approx(1, abs=0.05), (step, score)


@pytest.mark.parametrize("step", [0, 2, "x", float("nan"), True])
def test_a_step_that_is_none_is_refused(step: Any) -> None:
    with pytest.raises(McdoError, match=r"Rademacher step = .* a number in \[0.01, 1\]"):
        Rademacher(step=step)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan"), float("inf"), True, "0.1", None])
def test_a_probability_outside_zero_to_one_is_refused(p: Any) -> None:
    with pytest.raises(McdoError, match=r"Dropout p = .* it must be a number in \[0, 1\)"):
        Dropout(p)


class Residual(nn.Module):
    """One residual MLP, and a projection head that is an MLP as well."""

    def __init__(self, norm: nn.Module, token: bool = False) -> None:
        super().__init__()
        self.conv1, self.before, self.norm = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8), norm
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.head = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 6))
        self.token = nn.Parameter(torch.randn(1, 1, 8)) if token else None

    def ends(self, pixels: torch.Tensor, factor: float) -> torch.Tensor:
        """Features where the branch is multiplied by ``factor``."""
        tokens = self.conv1(pixels).flatten(2).transpose(1, 2)
        branch = self.norm(self.mlp(self.before(tokens))) * factor
        stream = tokens if self.token is None else self.token.expand(len(pixels), tokens.shape[1], 8)
        features: torch.Tensor = self.head((stream + branch).mean(1))
        return features

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.ends(pixels, 1.0)


@pytest.mark.parametrize("token", [False, True])
def test_stochastic_depth_drops_branches_and_no_projection_head(token: bool) -> None:
    tower = seeded(lambda: Residual(nn.Identity(), token))
    encoder, pixels, p = encoder_of(Toy(tower), 6), torch.rand(2, 3, 16, 16), 0.3
    passes = passes_of(encoder, pixels, ["a", "b"], StochasticDepth(p).at("fc2"), n=64)
    with torch.no_grad():
        dropped, kept = (tower.ends(pixels, factor)[:, None] for factor in (0.0, 1 / (1 - p)))
    is_dropped, is_kept = ((passes - each).abs().amax(-1) < 1e-5 for each in (dropped, kept))
    assert bool((is_dropped ^ is_kept).all())
    assert bool(is_dropped.any(1).all() & is_kept.any(1).all())
    assert [site.name for site in find_sites(encoder).select_for(HiddenDropout())] == ["visual.mlp.2", "visual.head.2"]


class Staged(Residual):
    """A stage, a map to the next one, which is added to nothing but has branches added to it, and that one's branch."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.down, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        tokens = self.conv1(pixels).flatten(2).transpose(1, 2)
        stream = self.down(tokens + self.mlp(self.before(tokens)))
        features: torch.Tensor = self.head((stream + self.fc2(functional.layer_norm(stream, (8,)))).mean(1))
        return features


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_stochastic_depth_drops_no_stream_that_branches_are_added_to() -> None:
    sites = find_sites(encoder_of(Toy(seeded(Staged)), 6)).select_for(StochasticDepth().at("all", "patch_embedding"))
    assert [site.name for site in sites] == ["visual.mlp.2", "visual.fc2"]


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.Sequential(nn.Identity(), nn.Tanh())])
def test_stochastic_depth_refuses_branches_that_are_normalised_before_they_are_added(norm: nn.Module) -> None:
    encoder = encoder_of(Toy(seeded(lambda: Residual(norm))), 6)
    with pytest.raises(McdoError, match=r"of visual\.mlp\.2 a norm or a nonlinearity stands before the sum"):
        passes_of(encoder, torch.rand(1, 3, 16, 16), ["a"], StochasticDepth(0.1).at("fc2"))


@pytest.mark.parametrize("kind", [TiedDropout, Gaussian, Rademacher, AttentionDropout, StochasticDepth])
def test_every_kind_refuses_it_by_its_own_name(kind: Any) -> None:
    with pytest.raises(McdoError, match=f"{kind.__name__} p = 1"):
        kind(1.0)


def test_a_kind_that_finds_nothing_is_refused() -> None:
    encoder = linear_encoder()
    with pytest.raises(McdoError, match="AttentionDropout finds nothing"), perturbed(encoder, AttentionDropout(), 0):
        pass


@pytest.mark.parametrize(
    "kind", [Gaussian(1e-5), Multiplicative(1e-5), Rademacher(1e-5)], ids=["additive", "factors", "signs"]
)
def test_noise_below_the_rounding_of_the_precision_is_refused(kind: Perturbation) -> None:
    """In bfloat16 it gave more than twice the trace of float32, and at p = 1e-6 six times, by rounding alone."""
    low = mcdo.load_encoder("clip_tiny", precision="bfloat16")
    with (
        pytest.raises(
            McdoError, match=r"1e-05 .* below the rounding of bfloat16, 6\.1e-05.*p above.*precision=float32"
        ),
        perturbed(low, kind, 0),
    ):
        pass
    for allowed in (kind.with_p(1e-4), kind.with_p(0), Dropout(1e-5), Rademacher(1e-5, step=0.1)):
        with perturbed(low, allowed, 0):
            pass
    with perturbed(mcdo.load_encoder("clip_tiny"), kind, 0), perturbed(low, kind, 0, exact=True):
        pass
    with (
        pytest.raises(McdoError, match=r"below the rounding of float32, 1\.4e-14"),
        perturbed(low, kind.with_p(1e-14), 0, exact=True),
    ):
        pass
