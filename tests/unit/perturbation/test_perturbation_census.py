from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from toy_towers import KINDS, LinearTower, fresh, keys_for, pixels_for, tower, toy

from mcdo.errors import McdoError
from mcdo.estimators.census import site_variances
from mcdo.perturbation import Dropout, check_alive, find_sites, perturbed


@pytest.mark.parametrize("kind", ["open_clip_pooled", "hf_siglip2", "clip_tiny"])  # of the others all vary, below
def test_every_site_of_every_tower_is_alive(kind: str) -> None:
    encoder, sites = tower(kind), ("all", "patch_embedding")
    wanted = find_sites(encoder).select(sites)
    assert check_alive(encoder, pixels_for(encoder, 1), Dropout(0.01, sites)) == wanted


def test_a_site_whose_output_is_ignored_is_an_error_that_names_it() -> None:
    encoder = fresh("clip_tiny")
    attention: Any = encoder.model.get_submodule("visual.transformer.resblocks.1.attn")
    with torch.no_grad():
        attention.out_proj.weight.zero_()
        attention.out_proj.bias.zero_()
    pixels, block = pixels_for(encoder, 2), r"visual\.transformer\.resblocks\.1\.attn"
    with pytest.raises(McdoError, match=rf"dead site {block}\.in_proj, {block}\.out_proj: "):
        check_alive(encoder, pixels, Dropout(0.01))
    with pytest.raises(McdoError, match="dead site"):  # and again, from what is known by now
        check_alive(encoder, pixels, Dropout(0.01, "attention"))
    with pytest.raises(McdoError, match=rf"--sites=all,-{block}\.\* for pytest"):  # both at once
        check_alive(encoder, pixels, Dropout(0.01))
    assert check_alive(encoder, pixels, Dropout(0.01, ("all", "-visual.transformer.resblocks.1.attn.*")))
    assert len(check_alive(encoder, pixels, Dropout(0.01, "mlp"))) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_alone_causes_variance_that_grows_with_p(kind: str) -> None:
    encoder = tower(kind)
    pixels, keys = pixels_for(encoder), keys_for()
    sites = find_sites(encoder).select(("all", "patch_embedding"))
    small, large = (site_variances(encoder, pixels, keys, sites, Dropout(p), 0).mean(axis=1) for p in (0.02, 0.3))
    assert ((small > 0) & (small < large)).all()


def test_sites_have_the_same_bits_on_any_number_of_threads_and_alone() -> None:
    encoder, before = tower("clip_tiny"), torch.get_num_threads()
    pixels, keys, sites = pixels_for(encoder, 3), keys_for(3), find_sites(encoder).select("all")
    try:
        torch.set_num_threads(4)
        shared = site_variances(encoder, pixels, keys, sites, Dropout(0.01), 0)
        torch.set_num_threads(1)
        assert np.array_equal(site_variances(encoder, pixels, keys, sites, Dropout(0.01), 0), shared)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(site_variances(encoder, pixels, keys, sites[2:3], Dropout(0.01), 0), shared[2:3])


def test_site_variance_is_that_of_dropout() -> None:
    encoder, p = toy(LinearTower), 0.1
    pixels, keys = pixels_for(encoder, 40), keys_for(40)
    site = find_sites(encoder).select("fc1")[0]
    model: Any = encoder.model.visual
    with torch.no_grad():
        hidden = model.mlp.c_fc(model.conv1(pixels).flatten(2).transpose(1, 2))
        expected = (hidden.square().sum(1) / 16 * p / (1 - p)) @ model.mlp.c_proj.weight.square().T
    found = np.mean([site_variances(encoder, pixels, keys, [site], Dropout(p), seed) for seed in range(20)])
    assert found == pytest.approx(float(expected.mean()), rel=0.05)


@pytest.mark.parametrize("kind", ["clip_tiny", "siglip_tiny"])
def test_variances_of_single_sites_add_up_to_the_total_at_small_p(kind: str) -> None:
    encoder, p, blocks = tower(kind), 0.002, 4
    pixels, keys = pixels_for(encoder, 4), keys_for(4)

    def trace(sites: Any) -> float:
        with perturbed(encoder, Dropout(p, sites), seed=2) as drop:
            passes = torch.cat([drop(pixels, keys, 0, block) for block in range(blocks)], dim=1)
        return float(passes.double().var(1).mean())

    single = [trace(site.name) for site in find_sites(encoder).select("all")]
    assert math.fsum(single) == pytest.approx(trace("all"), rel=0.15)
    assert min(single) > 0
