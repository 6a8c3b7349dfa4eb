from __future__ import annotations

import re

import pytest
import torch
from native import assert_same_variance
from torch import Tensor, nn
from toy_towers import (
    KINDS,
    BareProjection,
    LinearTower,
    SharedMap,
    TokensFirst,
    UnusedMap,
    fresh,
    pixels_for,
    tower,
    toy,
)

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation import (
    GROUPS,
    Dropout,
    Role,
    check_alive,
    check_comparable,
    count_by_role,
    deterministic_features,
    find_sites,
    matched_roles,
    perturbed,
    role_of,
)

# Parameters with rows and columns that no map reads.
_TABLES = r"class_embedding|pos_embed|position|latent|probe|\.query$"
ROLES = {
    "open_clip": "2 2 2 2 0 1 1",
    "open_clip_in_house": "2 2 2 2 0 1 1",
    "open_clip_pooled": "2 2 2 2 4 1 1",
    "hf_clip": "6 2 2 2 0 1 1",
    "hf_siglip": "6 2 2 2 5 0 1",
    "hf_siglip2": "6 2 2 2 5 0 1",
    "clip_tiny": "3 3 3 3 0 1 1",
    "siglip_tiny": "3 3 3 3 5 0 1",
}


def expected_roles(kind: str) -> dict[str, int]:
    counts = zip([role.value for role in Role], map(int, ROLES[kind].split()), strict=False)
    return {role: count for role, count in counts if count}


def parameters(encoder: Encoder) -> set[str]:
    """Names of the tower's parameters that a map reads, told by shape and name alone."""
    modules = encoder.image_modules
    every = {f"{prefix}.{name}": p for prefix, module in modules for name, p in module.named_parameters()}
    return {name for name, p in every.items() if p.ndim >= 2 and not re.search(_TABLES, name)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_matrix_of_every_tower_is_a_site_with_a_role(kind: str) -> None:
    sites = find_sites(tower(kind)).sites
    assert {re.sub(r"\.(q|k|v|kv)$", "", s.name) if "proj" in s.name else s.name for s in sites} == {
        re.sub(r"[._]weight$", "", name) for name in parameters(tower(kind))
    }
    assert count_by_role(sites) == expected_roles(kind)
    assert [s.name for s in sites if s.role is Role.OTHER or s.calls != 1 or s.units < 1] == []


@pytest.mark.parametrize("kind", KINDS)
def test_site_names_are_unique_and_the_same_for_every_build(kind: str) -> None:
    names = [site.name for site in find_sites(tower(kind)).sites]
    assert len(set(names)) == len(names)
    assert [site.name for site in find_sites(fresh(kind)).sites] == names


def test_names_sizes_and_roles_of_the_embedded_towers() -> None:
    clip, siglip = (find_sites(tower(kind)).sites for kind in ("clip_tiny", "siglip_tiny"))
    block = "visual.transformer.resblocks.0"
    assert [(s.name, s.role.value, s.units) for s in (*clip[:5], clip[-1])] == [
        ("visual.conv1", "patch_embedding", 16 * 48),
        (f"{block}.attn.in_proj", "qkv", 17 * 144),
        (f"{block}.attn.out_proj", "attention_output", 17 * 48),
        (f"{block}.mlp.c_fc", "fc1", 17 * 96),
        (f"{block}.mlp.c_proj", "fc2", 17 * 48),
        ("visual.proj", "final_projection", 48),
    ]
    assert [(s.name, s.units) for s in siglip[-5:]] == [
        ("visual.trunk.attn_pool.q", 48),
        ("visual.trunk.attn_pool.kv", 16 * 96),
        ("visual.trunk.attn_pool.proj", 48),
        ("visual.trunk.attn_pool.mlp.fc1", 96),
        ("visual.trunk.attn_pool.mlp.fc2", 48),
    ]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("visual.attn_pool.attn.q_proj", Role.POOLING_HEAD),
        ("vision_model.head.mlp.fc1", Role.POOLING_HEAD),
        ("visual.head.proj", Role.FINAL_PROJECTION),
        ("visual.head.mlp.fc1", Role.FINAL_PROJECTION),
        ("visual.trunk.blocks.3.attn.q_proj", Role.QKV),
        ("visual.trunk.patch_embed.proj", Role.PATCH_EMBEDDING),
        ("visual.something", Role.OTHER),
        ("visual.mlp_fc1", Role.OTHER),
    ],
)
def test_role_follows_from_the_name(name: str, role: Role) -> None:
    assert role_of(name) is role


@pytest.mark.parametrize(
    ("wanted", "roles"),
    [
        ("mlp", {"fc1", "fc2"}),
        ("attention", {"qkv", "attention_output"}),
        ("projection", {"final_projection"}),
        ("fc2", {"fc2"}),
        (("fc1", "projection"), {"fc1", "final_projection"}),
        ("all", {"qkv", "attention_output", "fc1", "fc2", "final_projection"}),
        (("all", "patch_embedding"), {r.value for r in Role} - {"pooling_head", "other"}),
    ],
)
def test_groups_and_roles_select_every_site_that_has_them(wanted: str | tuple[str, ...], roles: set[str]) -> None:
    table = find_sites(tower("clip_tiny"))
    assert table.select(wanted) == tuple(s for s in table.sites if s.role.value in roles)


def test_names_select_in_the_order_of_a_pass_whatever_the_order_asked_for() -> None:
    table = find_sites(tower("clip_tiny"))
    first, last = table.sites[0].name, table.sites[-1].name
    assert [s.name for s in table.select([last, first, last])] == [first, last]


def test_an_unknown_site_is_an_error_with_the_nearest() -> None:
    name = "visual.transformer.resblocks.1.mlp.c_fcc"
    with pytest.raises(McdoError, match=re.escape(name) + r".*did you mean.*resblocks\.1\.mlp\.c_fc,"):
        find_sites(tower("clip_tiny")).select(name)
    with pytest.raises(McdoError, match=r"did you mean.*attention_output"):
        find_sites(tower("clip_tiny")).select(("mlp", "attention_outputs"))


@pytest.mark.parametrize("wanted", ["projection", "final_projection"])
def test_a_role_that_the_tower_lacks_is_an_error_naming_those_it_has(wanted: str) -> None:
    with pytest.raises(McdoError, match=rf"{wanted}.*attention_output, fc1, fc2, patch_embedding, pooling_head, qkv"):
        find_sites(tower("siglip_tiny")).select(wanted)


def test_all_means_every_role_but_the_patch_embedding() -> None:
    assert set(Role) - set(GROUPS["all"]) == {Role.PATCH_EMBEDDING, Role.ATTENTION_PROBABILITIES, Role.CONSTANT}


def test_a_declared_map_that_no_pass_carries_out_is_dead() -> None:
    encoder = toy(UnusedMap)
    assert [(s.name, s.calls) for s in find_sites(encoder).sites if not s.calls] == [("visual.spare", 0)]
    for sites in ("all", "visual.spare"):
        with (
            pytest.raises(McdoError, match=r"dead site visual\.spare: .*never carries it out"),
            perturbed(encoder, Dropout(0.1, sites), 0),
        ):
            pass
        with pytest.raises(McdoError, match=r"dead site visual\.spare"):
            check_alive(encoder, pixels_for(encoder), Dropout(0.1, sites))
    assert len(check_alive(encoder, pixels_for(encoder), Dropout(0.1, "mlp"))) == 2


class Kept(LinearTower):
    """Keeps what it makes of a table until it is told to train or not to, as LeViT does of its attention's biases."""

    def __init__(self) -> None:
        super().__init__()
        self.biases, self.made = nn.Parameter(torch.randn(2, 8)), list[Tensor]()

    def train(self, mode: bool = True) -> Kept:
        super().train(mode)
        self.made.clear()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        if not self.made:
            self.made.append(self.biases[:, torch.arange(8)].sum(0))
        tokens: Tensor = self.mlp(self.conv1(pixels).flatten(2).transpose(1, 2) + self.made[0])
        return tokens.mean(1)


def test_what_a_tower_keeps_of_its_weights_is_made_anew_before_sites_are_looked_for() -> None:
    first, later = toy(Kept), toy(Kept)
    with torch.no_grad():
        later.forward_image(pixels_for(later, 1))
    sites = check_alive(later, pixels_for(later, 1), Dropout(0.01))
    assert sites == check_alive(first, pixels_for(first, 1), Dropout(0.01))


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_a_map_that_is_carried_out_twice_is_two_sites_with_masks_of_their_own() -> None:
    encoder = toy(SharedMap)
    names = [site.name for site in check_alive(encoder, pixels_for(encoder), Dropout(0.1, ("all", "-mlp")))]
    assert names == ["visual.shared", "visual.shared#2"]
    assert_same_variance(encoder, pixels_for(encoder), p=0.1, passes=48)


def test_a_map_without_images_in_its_first_axis_is_refused() -> None:
    encoder = toy(TokensFirst)
    with pytest.raises(McdoError, match=r"c_fc: it has output \(4, 3, 12\), without images"):
        check_alive(encoder, pixels_for(encoder), Dropout(0.1))


def test_a_bare_parameter_is_a_site() -> None:
    site = find_sites(toy(BareProjection, 5)).sites[-1]
    assert (site.name, site.role, site.units, site.calls) == ("visual.proj", Role.FINAL_PROJECTION, 5, 1)


def test_finding_sites_leaves_the_encoder_and_the_global_generator_alone() -> None:
    encoder, state = toy(LinearTower), torch.get_rng_state()
    before = deterministic_features(encoder, pixels_for(encoder))
    find_sites(encoder)
    assert torch.equal(deterministic_features(encoder, pixels_for(encoder)), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_matched_roles_are_those_that_every_tower_has() -> None:
    assert matched_roles(tower("clip_tiny"), tower("siglip_tiny")) == ("qkv", "attention_output", "fc1", "fc2")
    assert matched_roles(tower("siglip_tiny"), tower("hf_siglip"))[-1] == "pooling_head"
    assert matched_roles(toy(UnusedMap)) == ("fc1", "fc2")


def test_models_perturbed_at_different_roles_are_not_compared_unless_asked_for() -> None:
    same = {"a": ("fc1", "fc2"), "b": ("fc2", "fc1", "fc1")}
    check_comparable(same)
    check_comparable({})
    different = {**same, "c": ("fc1", "qkv")}
    with pytest.raises(McdoError, match=r"a: fc1, fc2; b: fc1, fc2; c: fc1, qkv"):
        check_comparable(different)
    check_comparable(different, allow_different=True)
