"""Outputs in any layout: channels last, windows in the first axis, one token; each against torch's own dropout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from native import assert_same_variance
from torch import Tensor, nn
from toy_towers import LinearTower, Toy, encoder_of, keys_for, pixels_for, seeded, toy

from mcdo.encoders import Encoder
from mcdo.errors import McdoError, SiteWarning
from mcdo.estimators.jacobian import SiteGraph
from mcdo.perturbation import (
    PASS_BLOCK,
    AttentionDropout,
    Dropout,
    Perturbation,
    StochasticDepth,
    TiedDropout,
    check_alive,
    deterministic_features,
    find_sites,
    image_keys,
    perturbed,
)

SMALL: dict[str, Any] = {"embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2), "img_size": 64}
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext": ("test_convnext", {}),
    "coatnet": ("test_coatnet", {"img_size": 64}),
    "maxvit": ("test_maxvit", {"img_size": 64}),
    "swin": ("swin_tiny_patch4_window7_224", SMALL),
    "swinv2": ("swinv2_tiny_window8_256", SMALL),
    "relpos": ("test_vit_relpos", {"img_size": 64}),
    "xcit": ("xcit_nano_12_p16_224", {"embed_dim": 16, "depth": 2, "num_heads": 2}),
    "hiera": ("hiera_tiny_224", {"embed_dim": 16, "stages": (1, 1, 1, 1), "img_size": (64, 64)}),
}


class Headed(nn.Module):
    """As open_clip puts a projection behind a tower of timm."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        width: Any = trunk.num_features
        self.trunk, self.head = trunk, nn.Linear(width, 8, bias=False)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.head(self.trunk(pixels))
        return out


@cache
def library_tower(kind: str) -> Encoder:
    import timm

    name, options = TIMM[kind]
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")

    def build() -> nn.Module:
        trunk = timm.create_model(name, num_classes=0, pretrained=False, **options)
        for parameter in trunk.parameters():  # what is made as zeros or tiny would leave branches dead
            if parameter.abs().max() < 1e-3:
                nn.init.normal_(parameter, std=0.3)
        return Toy(Headed(trunk))

    return encoder_of(seeded(build), 8, 64, key=kind)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize("kind", TIMM)
def test_every_site_of_windowed_and_convolutional_towers_is_alive(kind: str) -> None:
    encoder = library_tower(kind)
    sites = check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))
    assert [site.name for site in sites if site.obstacle] == []
    assert len(sites) >= 14


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize(("kind", "attentions"), [("maxvit", 8), ("coatnet", 3), ("relpos", 9)])
def test_probabilities_of_every_window_are_reached(kind: str, attentions: int) -> None:
    encoder = library_tower(kind)
    assert len(check_alive(encoder, pixels_for(encoder, 1), AttentionDropout(0.1))) == attentions


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize("kind", TIMM)
def test_variance_is_that_of_torch_s_own_dropout_at_every_map(kind: str) -> None:
    encoder = library_tower(kind)
    assert_same_variance(encoder, encoder.calibration_inputs(2), p=0.1, passes=32)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize("kind", ["convnext", "swin"])
def test_features_follow_from_the_keys_and_not_from_the_batch(kind: str) -> None:
    encoder, keys = library_tower(kind), image_keys(["a", "b", "c"])
    pixels = encoder.calibration_inputs(3)
    for dropout in (Dropout(0.05), TiedDropout(0.05)):
        with perturbed(encoder, dropout, seed=3) as drop:
            whole = drop(pixels, keys, 0, 0)
            alone = torch.cat([drop(pixels[i : i + 1], keys[i : i + 1], 0, 0, 3, 6) for i in (2, 0, 1)])
        torch.testing.assert_close(alone, whole[[2, 0, 1], 3:6], rtol=1e-3, atol=1e-4)
        assert (whole.var(dim=1).mean(-1) > 0).all()


def test_maps_of_positions_are_named_left_out_and_refused_when_asked_for() -> None:
    encoder = encoder_of(library_tower("relpos").model, 8, 64)
    with pytest.warns(SiteWarning, match=r"they see no image, so not even 'all' takes these maps: .*rel_pos\.mlp\.fc1"):
        table = find_sites(encoder)
    constant = table.select("constant")
    assert {site.name.rpartition("attn.")[2] for site in constant} == {"rel_pos.mlp.fc1", "rel_pos.mlp.fc2"}
    assert len(table.select("fc2")) == len(table.select("qkv")) == 9
    with pytest.raises(McdoError, match=r"rel_pos\.mlp\.fc1: its output \(7, 7, \d+\) is the same whatever the image"):
        check_alive(encoder, encoder.calibration_inputs(1), Dropout(0.1, constant[0].name))


class Windowed(LinearTower):
    """fc1 and fc2 work on two windows of two tokens, stacked image by image in the first axis."""

    image_first = True

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.conv1(pixels).flatten(2).mT
        parts = tokens.reshape(len(tokens), 2, 2, -1)
        parts = parts if self.image_first else parts.transpose(0, 1)
        hidden = self.mlp.get_submodule("c_fc")(parts.flatten(0, 1))
        out: Tensor = self.mlp.get_submodule("c_proj")(hidden.relu())
        out = out.reshape(*parts.shape[:3], -1)
        return out.mean((1, 2) if self.image_first else (0, 2))


class WindowsFirst(Windowed):
    """The same with windows before images: no mask could be keyed by image."""

    image_first = False


class ThreeTokensFirst(LinearTower):
    """Tokens in the first axis, as many as a traced pass has images."""

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.conv1(pixels).flatten(2)[..., :3].permute(2, 0, 1))
        return out.mean(0)


class TurnedRound(LinearTower):
    """The batch is turned round for the MLP, so that each image would have the masks of another."""

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.conv1(pixels).flatten(2).mT.flip(0))
        return out.flip(0).mean(1)


class ChannelsLast(nn.Module):
    """A convolution whose output is stored channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv, self.proj = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv(self.conv1(pixels).contiguous(memory_format=torch.channels_last))
        out: Tensor = self.proj(x.relu().mean((2, 3)))
        return out


@pytest.mark.parametrize("build", [Windowed, ChannelsLast])
def test_variance_in_windows_and_channels_last_is_that_of_torch_s_own_dropout(build: type[nn.Module]) -> None:
    encoder = toy(build)
    assert_same_variance(encoder, pixels_for(encoder), p=0.1, passes=96)


def test_windows_of_an_image_stand_in_its_shape_and_share_no_mask() -> None:
    encoder = toy(Windowed)
    site = find_sites(encoder).select("fc1")[0]
    assert (site.shape, site.units) == ((2, 2, 12), 48)
    assert site.layout(TiedDropout(0.1)) == (4, 12, 1)


@pytest.mark.parametrize("kind", [TiedDropout(0.3), StochasticDepth(0.3).at("visual.mlp.c_proj"), Dropout(0.3)])
def test_masks_over_windows_are_the_same_in_reduced_precision(kind: Perturbation) -> None:
    """There each window of an image used to have a mask of its own, tied over the wrong features, or none at all."""
    encoder = toy(Windowed)
    pixels, keys = pixels_for(encoder, 2), keys_for(2)
    passes = []
    for precision in ("float32", "bfloat16"):
        encoder.precision = precision
        with perturbed(encoder, kind, 0) as drop:
            passes.append(drop(pixels, keys, 0, 0))
    assert passes[0].std(1).mean() > 0.03
    torch.testing.assert_close(*passes, rtol=0.01, atol=0.005)


@pytest.mark.parametrize(
    ("build", "said"),
    [(WindowsFirst, r"\(6, 2, 12\)"), (ThreeTokensFirst, r"\(3, 3, 12\)"), (TurnedRound, r"\(3, 4, 12\)")],
)
def test_sites_without_images_in_their_first_axis_are_refused_by_name_and_the_others_are_not(
    build: type[nn.Module], said: str
) -> None:
    encoder = toy(build)
    with pytest.raises(McdoError, match=rf"visual\.mlp\.c_fc, .*c_proj: it has output {said}, without images|c_fc: it"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))
    rest = ("all", "patch_embedding", "-mlp")
    assert [s.name for s in check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1, rest))] == ["visual.conv1"]


def test_a_mask_tied_over_positions_drops_channels_of_a_convolution() -> None:
    """It used to drop columns of the picture, because the last axis was taken for the features."""
    encoder = toy(ChannelsLast)
    (site,) = find_sites(encoder).select("convolution")
    assert site.layout(TiedDropout(0.1)) == (1, 8, 16)
    seen: list[Tensor] = []
    conv: Any = encoder.model.get_submodule("visual.proj")
    conv.register_forward_pre_hook(lambda m, x: seen.append(x[0]))
    with perturbed(encoder, TiedDropout(0.5, "convolution"), 0) as drop:
        drop(pixels_for(encoder, 1), keys_for(1), 0, 0)
    plain = deterministic_features(encoder, pixels_for(encoder, 1))
    scaled = seen[0] / seen[-1]  # of the pooled channels: dropped whole, or doubled whole
    assert plain.isfinite().all()
    np.testing.assert_allclose(scaled[scaled != 0], 2, rtol=1e-5)
    assert 0 < int((scaled == 0).sum()) < scaled.numel()


class HeadByHead(LinearTower):
    """One matrix for each of two heads, and a map of all features to one number for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.gate = nn.Parameter(torch.randn(2, 4, 4)), nn.Parameter(torch.randn(8))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).mT
        x = (x.unflatten(-1, (2, 4)).transpose(1, 2) @ self.heads).transpose(1, 2).flatten(2)
        out: Tensor = self.mlp(x * nn.functional.linear(x, self.gate)[..., None])
        return out.mean(1)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_a_mask_tied_over_tokens_finds_the_features_of_weights_of_any_number_of_axes() -> None:
    """Three axes used to be taken for a convolution's, and of a map to one number the tokens for its features."""
    encoder = toy(HeadByHead)
    sites = find_sites(encoder).sites
    layouts = {site.name: site.layout(TiedDropout(0.1)) for site in sites if not site.convolution}
    assert layouts["visual.heads"] == (8, 4, 1)
    assert layouts["visual.gate"] == (4, 1, 1)
    assert {site.name for site in sites if site.convolution} == {"visual.conv1"}
    assert len(check_alive(encoder, pixels_for(encoder, 1), TiedDropout(0.1))) == 4


class OneToken(LinearTower):
    """Ends in a pooling head of one query and returns its token: ``[B, 1, D]``."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels)[:, None]


class AllTokens(LinearTower):
    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.conv1(pixels).flatten(2).mT)
        return out


def test_a_pooling_head_s_one_token_is_the_feature() -> None:
    """Scores used to be taken over every pair of images."""
    one, plain = toy(OneToken), toy(LinearTower)
    pixels, keys = pixels_for(one), keys_for()
    assert torch.equal(one.forward_image(pixels), plain.forward_image(pixels))
    passes = []
    for encoder in (one, plain):
        with perturbed(encoder, Dropout(0.1), 0) as drop:
            passes.append(drop(pixels, keys, 0, 0))
    assert passes[0].shape == (3, PASS_BLOCK, 6)
    assert torch.equal(*passes)


@pytest.mark.parametrize("build", [AllTokens, lambda: LinearTower()])
def test_features_of_another_shape_are_refused(build: Callable[[], nn.Module]) -> None:
    encoder = encoder_of(seeded(lambda: Toy(build())), 6 if build is AllTokens else 7)
    with pytest.raises(McdoError, match=r"returned features of shape \[3, (4, )?6\], not \[B, [67]\]"):
        encoder.forward_image(pixels_for(encoder))


class Pooled(nn.Module):
    """A pooling head with a latent query, expanded to the images before its projection or after it."""

    def __init__(self, expanded: bool) -> None:
        super().__init__()
        self.conv1, self.latent, self.expanded = nn.Conv2d(3, 8, 8, 8), nn.Parameter(torch.randn(1, 1, 8)), expanded
        self.attn_pool = nn.ModuleDict({name: nn.Linear(8, 8) for name in ("q", "k", "v", "proj")})

    def forward(self, pixels: Tensor) -> Tensor:
        x, maps = self.conv1(pixels).flatten(2).mT, self.attn_pool
        q = maps["q"](self.latent.expand(len(x), -1, -1) if self.expanded else self.latent)
        pooled = nn.functional.scaled_dot_product_attention(q.expand(len(x), -1, -1), maps["k"](x), maps["v"](x))
        out: Tensor = maps["proj"](pooled)
        return out


def _pooled(expanded: bool) -> nn.Module:
    return Toy(Pooled(expanded))


def test_a_latent_query_is_keyed_where_each_image_has_its_own_and_left_out_by_name_where_not() -> None:
    each, shared = (encoder_of(seeded(partial(_pooled, expanded)), 8) for expanded in (True, False))
    assert [s.role.value for s in find_sites(each).select("all")] == ["pooling_head"] * 4
    with pytest.warns(SiteWarning, match=r"they see no image.*visual\.attn_pool\.q$"):
        assert [s.name for s in find_sites(shared).select("all")] == [
            f"visual.attn_pool.{n}" for n in ("k", "v", "proj")
        ]
    assert_same_variance(each, pixels_for(each), p=0.1, passes=96)
    assert_same_variance(shared, pixels_for(shared), p=0.1, passes=96)


@pytest.mark.parametrize("build", [Windowed, ChannelsLast])
@pytest.mark.parametrize("kind", [Dropout(0.01), TiedDropout(0.01)], ids=lambda kind: type(kind).__name__)
def test_first_order_terms_are_those_of_passes(build: type[nn.Module], kind: Perturbation) -> None:
    encoder = toy(build)
    pixels = pixels_for(encoder)
    graph = SiteGraph(encoder, pixels, kind, find_sites(encoder).select("all"))
    exact = torch.stack([graph.terms(axis).sum(-1) for axis in torch.eye(6)]).sum(0) * kind.variance
    with perturbed(encoder, kind, seed=2) as drop:
        passes = torch.cat([drop(pixels, keys_for(), 0, block) for block in range(150)], dim=1)
    np.testing.assert_allclose(passes.var(1).sum(-1), exact, rtol=0.2)
