"""The row of a recipe that ships as chosen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mcdo.experiments.rivals import table
from mcdo.experiments.rivals.table import RivalsTable
from mcdo.harness.experiment import View
from mcdo.recipes.file import SEAL, seal_of
from mcdo.recipes.scoring import shipped


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What ships for clip_tiny, with every other site left out of the choice."""
    found: dict[str, Any] = json.loads(shipped("clip_tiny").read_text(encoding="utf-8"))
    for place, site in enumerate(found["sites"]):
        site["weight"] = float(place % 2)

    def written(key: str) -> Path:
        path = tmp_path / f"{key}.json"
        path.write_text(json.dumps({**found, SEAL: seal_of(found)}), encoding="utf-8")
        return path

    monkeypatch.setattr(table, "shipped", written)
    return found


def of(weights: str, model: str = "clip_tiny") -> Any:
    inputs = SimpleNamespace(model=model, encoder=lambda: SimpleNamespace(weights_hash=weights))
    return RivalsTable()._recipe(cast("View", inputs))


def test_a_choice_among_the_sites_has_a_row(document: dict[str, Any]) -> None:
    recipe = of(document["encoder"]["weights"])
    assert [site.weight for site in recipe.sites[:3]] == [0, 1, 0]


def test_what_is_no_choice_or_of_another_encoder_is_said(document: dict[str, Any]) -> None:
    weights = document["encoder"]["weights"]
    assert of("0" * 64) == "the recipe that ships is of other weights"
    for site in document["sites"]:
        site["weight"] = 1.0
    assert of(weights).startswith("nothing was chosen: what ships is")
    document["kind"] = "gaussian"
    assert "another perturbation" in of(weights)


def test_an_encoder_that_nothing_ships_for_says_so() -> None:
    assert "no recipe ships for 'clip_b32'" in of("0" * 64, "clip_b32")
