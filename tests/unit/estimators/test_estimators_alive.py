"""Which sites are alive is kept: what one process has looked at, another does not look at again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tower import tiny_encoder
from torch import Tensor

import mcdo
import mcdo.estimators.resumption
import mcdo.perturbation.census
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import prepared
from mcdo.estimators.pass_covariance import pass_covariance
from mcdo.images import load_images
from mcdo.perturbation import AttentionDropout, Dropout, Perturbation, Site, StochasticDepth, find_sites

SITES = 5
"""Of the tower, under all."""


class Looked:
    """Names of sites that were silenced: after ``most`` the user interrupts, and ``dead`` ones change nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.most, self.dead, without = 10**9, "", mcdo.perturbation.census._without

        def counting(encoder: Encoder, pixels: Tensor, site: Site) -> Tensor:
            if len(self.names) == self.most:
                raise KeyboardInterrupt
            self.names.append(site.name)
            if site.name == self.dead:
                return mcdo.perturbation.deterministic_features(encoder, pixels)
            return without(encoder, pixels, site)

        monkeypatch.setattr(mcdo.perturbation.census, "_without", counting)

    def of(self, store: Path | None, kind: Perturbation, encoder: Encoder | None = None) -> tuple[Site, ...]:
        """As a process does that has just begun."""
        self.names.clear()
        new = tiny_encoder() if encoder is None else encoder
        return alive_sites(new, prepared(new, load_images("digits", n=3)), kind, store=store, progress=False)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Looked:
    monkeypatch.setattr(mcdo.estimators.resumption, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(mcdo.estimators.resumption, "COST", np.inf)
    return Looked(monkeypatch)


def test_a_process_goes_on_where_another_was_ended_and_the_next_looks_at_none(looked: Looked, tmp_path: Path) -> None:
    looked.most = 2
    with pytest.raises(KeyboardInterrupt):
        looked.of(tmp_path, Dropout(0.01))
    looked.most = 10**9
    sites = looked.of(tmp_path, Dropout(0.01))
    assert len(looked.names) == SITES - 2
    assert looked.of(tmp_path, Dropout(0.01)) == sites == looked.of(None, Dropout(0.01))
    assert len(looked.names) == SITES, "without a store each is looked at"
    assert not list(tmp_path.rglob("*.parts"))


@pytest.mark.parametrize("kind", [Dropout(0.3), Dropout(0.01, "mlp"), StochasticDepth(0.1)])
def test_what_is_known_serves_every_kind_and_choice_of_these_sites(
    kind: Perturbation, looked: Looked, tmp_path: Path
) -> None:
    looked.of(tmp_path, Dropout(0.01))
    assert looked.of(tmp_path, kind) == find_sites(tiny_encoder()).select_for(kind)
    assert not looked.names


def test_more_sites_other_sites_and_other_weights_are_looked_at(looked: Looked, tmp_path: Path) -> None:
    looked.of(tmp_path, Dropout(0.01, "mlp"))
    looked.of(tmp_path, Dropout(0.01))
    assert len(looked.names) == SITES
    looked.of(tmp_path, AttentionDropout(0.01))
    assert looked.names
    other: Any = tiny_encoder()
    with torch.no_grad():
        other.model.proj.weight.mul_(1.5)
    looked.of(tmp_path, Dropout(0.01), other)
    assert len(looked.names) == SITES


def test_a_dead_site_is_refused_each_time_and_looked_at_again(looked: Looked, tmp_path: Path) -> None:
    dead = looked.dead = "proj"
    for _ in range(2):
        with pytest.raises(McdoError, match=f"dead site {dead}: "):
            looked.of(tmp_path, Dropout(0.01))
    assert looked.names == [dead]
    looked.dead = ""  # on these images it is alive
    assert looked.of(tmp_path, Dropout(0.01))
    assert looked.names == [dead]


def test_measurements_with_a_store_look_once(looked: Looked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with an encoder of its own, as another process has it."""
    monkeypatch.setattr("mcdo.estimators.probes.CALIBRATION_PASSES", 8)
    images, kind = load_images("digits", n=3), Dropout(0.01)

    mcdo.monte_carlo(tiny_encoder(), images, kind, 4, 2, store=tmp_path, progress=False)
    assert len(looked.names) == SITES
    mcdo.first_order(tiny_encoder(), images, kind, 4, 2, store=tmp_path, progress=False)
    mcdo.census(tiny_encoder(), images, kind, store=tmp_path, progress=False)
    mcdo.forward_differences(tiny_encoder(), images, mcdo.Rademacher(0.01), 6, 2, store=tmp_path, progress=False)
    pass_covariance(tiny_encoder(), images, kind, np.eye(1, 8), 4, 2, store=tmp_path, progress=False)
    assert len(looked.names) == SITES
