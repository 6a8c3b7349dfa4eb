"""What a map does decides its role: what it reads and what reads it, whatever its author called it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy_towers import LinearTower, Toy, encoder_of, fresh, pixels_for, seeded, tower, toy

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError, SiteWarning
from mcdo.perturbation import (
    Dropout,
    HiddenDropout,
    SiteTable,
    StochasticDepth,
    check_alive,
    count_by_role,
    find_sites,
)


def names(table: SiteTable, sites: Any) -> list[str]:
    return [site.name for site in table.select(sites)]


def local_dir(folder: Path, vision: dict[str, Any], **model: Any) -> Encoder:
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    cfg = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **model}
    folder.joinpath("open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    return mcdo.load_encoder(f"local-dir:{folder}", weights="random")


def test_only_the_map_that_sees_the_pixels_is_the_patch_embedding_of_a_resnet(tmp_path: Path) -> None:
    """Every bottleneck of RN50 has a conv1; all of them were left out of sites='all'."""
    resnet = {"image_size": 64, "layers": [2, 2, 2, 2], "width": 8, "patch_size": None, "head_width": 32}
    table = find_sites(local_dir(tmp_path, resnet))
    left_out = {site.name for site in table.sites} - set(names(table, "all"))
    assert left_out == {"visual.conv1"} == set(names(table, "patch_embedding"))
    assert len(names(table, "convolution")) == sum(site.convolution for site in table.sites) - 1
    assert names(table, "pooling_head") == [f"visual.attnpool.{name}_proj" for name in "qkvc"]


class Siamese(LinearTower):
    """Sees the pixels twice: at two scales, scaled and shifted before."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(3, 8, 16, 16)
        self.shift = nn.Parameter(torch.randn(3, 16, 16))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = self.norm(pixels) + self.shift
        tokens = torch.cat([self.conv1(pixels).flatten(2), self.coarse(pixels).flatten(2)], dim=2)
        out: Tensor = self.mlp(tokens.mT)
        return out.mean(1)


def test_every_map_that_sees_the_pixels_is_a_patch_embedding() -> None:
    assert names(find_sites(toy(Siamese)), "patch_embedding") == ["visual.conv1", "visual.coarse"]


@pytest.mark.parametrize("pool", ["gap", "map"])
def test_the_patch_embedding_of_a_naflex_tower_is_found_among_its_linear_maps(pool: str) -> None:
    import timm

    def build() -> nn.Module:
        trunk = timm.create_model(
            f"naflexvit_base_patch16_{pool}", embed_dim=16, depth=2, num_heads=2, num_classes=8, pretrained=False
        )
        return Toy(trunk)

    table = find_sites(encoder_of(seeded(build), 8, 32))
    assert names(table, "patch_embedding") == ["visual.embeds.proj"]
    assert count_by_role(table.sites) == {
        **{"qkv": 2, "attention_output": 2, "fc1": 2, "fc2": 2},
        **({"pooling_head": 5} if pool == "map" else {}),
        **{"final_projection": 1, "patch_embedding": 1},
    }


class FirstToken(nn.Module):
    def __init__(self, model: nn.Module, width: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(width, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.head(self.model(pixels).last_hidden_state[:, 0])
        return out


@pytest.mark.parametrize("gated", [False, True])
def test_roles_of_dinov2_do_not_hang_on_the_names_that_transformers_gives(gated: bool) -> None:
    """Its patch embedding was under 'all', and 'attention' selected nothing."""
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        use_swiglu_ffn=gated,
    )
    table = find_sites(encoder_of(seeded(lambda: Toy(FirstToken(Dinov2Model(config), 16))), 8, 28))
    # A gated one has one map before fc2 or two, by the version of the library.
    maps = [part for part in Dinov2Model(config).encoder.layer[0].mlp.modules() if isinstance(part, nn.Linear)]
    assert count_by_role(table.sites) == {
        **{"qkv": 6, "attention_output": 2, "fc1": 4 if gated and len(maps) == 3 else 2, "fc2": 2},
        **{"final_projection": 1, "patch_embedding": 1},
    }
    assert len(names(table, "all")) == len(table.sites) - 1


class Renamed(nn.Module):
    """A transformer block whose names say nothing, or the wrong thing."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Linear(8, 24), nn.Linear(8, 8)
        self.gamma, self.delta, self.gate = nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 16) if gated else None
        self.norm, self.other = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.alpha(self.norm(x)).chunk(3, dim=-1)
        x = x + self.beta(nn.functional.scaled_dot_product_attention(q, k, v))
        hidden = self.gamma(self.norm(x))
        hidden = hidden.sigmoid() * self.gate(self.norm(x)) if self.gate is not None else hidden.relu()
        x = x + self.delta(hidden)
        out: Tensor = x + self.other(x)
        return out


class RenamedTower(nn.Module):
    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.see, self.block, self.say = nn.Conv2d(3, 8, 8, 8), Renamed(gated), nn.Linear(8, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.block(self.see(pixels).flatten(2).mT)
        out: Tensor = self.say(x.mean(1))
        return out


@pytest.mark.parametrize("gated", [False, True])
def test_roles_follow_from_what_is_read_and_what_reads_it(gated: bool) -> None:
    encoder = encoder_of(seeded(lambda: Toy(RenamedTower(gated))), 6)
    with pytest.warns(SiteWarning, match=r"their role is not known, .* takes these maps: visual\.block\.other$"):
        table = find_sites(encoder)
    found = {site.name.rpartition(".")[2]: site.role.value for site in table.sites}
    mlp = {"gamma": "fc1", "delta": "fc2", **({"gate": "fc1"} if gated else {})}
    ends = {"see": "patch_embedding", "say": "final_projection", "other": "other"}
    assert found == {"alpha": "qkv", "beta": "attention_output", **mlp, **ends}
    assert {"visual.block.other"} == set(names(table, "all")) - set(names(table, ("attention", "mlp", "projection")))


class Lora(nn.Module):
    """The modules that peft puts in the place of a linear layer, with peft's names."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base_layer(x) + 0.5 * self.lora_B["default"](self.lora_A["default"](x))
        return out


def with_lora(kind: str, *layers: str) -> Encoder:
    """A tower whose layers of these names are wrapped."""
    encoder = fresh(kind)
    for name, module in list(encoder.model.named_modules()):
        parent, _, child = name.rpartition(".")
        if child in layers and type(module) is nn.Linear:  # nn.MultiheadAttention reads its own without calling it
            setattr(encoder.model.get_submodule(parent), child, seeded(partial(Lora, module)))
    encoder.model.eval().requires_grad_(False)
    return encoder


WRAPPED = {
    "clip_tiny": ("c_fc", "c_proj"),
    "siglip_tiny": ("qkv", "proj", "fc1", "fc2", "kv"),
    "hf_siglip": ("q_proj", "v_proj", "out_proj", "fc1"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_layers_stay_in_their_group(kind: str) -> None:
    """The wrapped half of every MLP was left out of sites='mlp'."""
    encoder = with_lora(kind, *WRAPPED[kind])
    plain, table = find_sites(tower(kind)), find_sites(encoder)
    layers = {name for name, module in encoder.model.named_modules() if isinstance(module, Lora)}
    for role in count_by_role(plain.sites):
        expected = set()
        for site in plain.select(role):
            parts = (".base_layer", ".lora_A.default", ".lora_B.default") if site.name in layers else ("",)
            expected |= {f"{site.name}{part}" for part in parts}
        assert set(names(table, role)) == expected
    assert count_by_role(table.sites).keys() == count_by_role(plain.sites).keys()


def test_kinds_that_act_on_a_layer_as_one_refuse_the_parts_of_an_adapter() -> None:
    encoder = with_lora("siglip_tiny", "fc2")
    pixels = pixels_for(encoder, 1)
    for kind in (HiddenDropout(0.1), StochasticDepth(0.1)):
        with pytest.raises(McdoError, match=r"fc2\.base_layer, .*fc2\.lora_A\.default.* Merge the adapter"):
            check_alive(encoder, pixels, kind)
    assert len(check_alive(encoder, pixels, Dropout(0.1, "mlp"))) == 3 + 3 * 3
    assert len(check_alive(with_lora("siglip_tiny", "fc1"), pixels, HiddenDropout(0.1))) == 3
