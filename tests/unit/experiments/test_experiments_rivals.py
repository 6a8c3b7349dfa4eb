"""What stands in the table: each score beside its own images, and the row of a recipe that ships as chosen."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from made_up_inputs import inputs_of
from made_up_runs import Array, MadeUpFirstOrder, made_up_run

from mcdo.experiments.prelim.pixel_baselines import PixelBaselines
from mcdo.experiments.rivals import table
from mcdo.experiments.rivals.requests import Views
from mcdo.experiments.rivals.table import RivalsTable
from mcdo.harness import Features, FirstOrder, Images, Inputs, Passes, Request
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


# ---- the scores of each set of images

N, EXPERIMENT = 30, RivalsTable(n=30, foreign=9, trials=2)
EACH = dict.fromkeys((EXPERIMENT.shown, *EXPERIMENT.degraded().values()), 30)


def drawn(what: str, shown: Images, *shape: int) -> Array:
    """Other numbers for each thing and set of images, the same at each call."""
    seed = sum(map(ord, f"{what} {shown}"))
    return np.random.default_rng(seed).random((*shape, EACH.get(shown, 3)))


def without_a_head() -> Inputs:
    """An encoder that reads no classes."""

    def value(request: Request[Any]) -> Any:
        shown: Any = request.shown  # type: ignore[attr-defined]
        if isinstance(request, PixelBaselines):
            return {name: drawn(name, shown) for name in ("laplacian_variance", "grey_entropy")}
        if isinstance(request, Views):
            return {"spread": drawn("views", shown, request.trials)}
        if isinstance(request, Features):
            return {"features": drawn("features", shown, 4).T + 0.1}
        if isinstance(request, FirstOrder):
            return MadeUpFirstOrder(lambda name, p: drawn(f"linear {name}", shown, 2), np.ones(3))
        assert isinstance(request, Passes)
        names, trials = ("trace_pre", "trace_post"), request.config.trials
        return made_up_run({name: drawn(name, shown, trials) for name in names}, request.config.passes[-1])

    encoder = SimpleNamespace(feature_dim=512, resolution=32, architecture="a", has_text=False)
    return inputs_of(value, image_set=SimpleNamespace(class_names=(), labels=None), encoders={"clip_tiny": encoder})


def test_every_score_is_of_the_images_that_it_stands_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RivalsTable, "_recipe", lambda *_: "nothing was chosen")
    monkeypatch.setattr(RivalsTable, "can_fit", lambda *_: "no images to fit on")
    inputs = without_a_head()
    scores, left_out = EXPERIMENT._scores(inputs)
    foreign, blurred = EXPERIMENT.foreign_sets(inputs), EXPERIMENT.degraded()["blur:10%"]
    assert left_out["recipe"] == "nothing was chosen"
    for name, (of, sign, trials, shared) in {
        "sharpness": ("laplacian_variance", -1, (), False),
        "grey_entropy": ("grey_entropy", -1, (), False),
        "dropout_trace_pre": ("trace_pre", 1, (2,), False),
        "dropout_trace_post": ("trace_post", 1, (2,), False),
        "first_order_trace_pre": ("linear trace_pre", 1, (2,), True),
        "first_order_trace_post": ("linear trace_post", 1, (2,), True),
        "view_spread": ("views", 1, (2,), False),
    }.items():
        found, elsewhere = scores[name], trials if shared else trials and (1,)  # of other images one trial

        def on(shown: Images, shape: tuple[int, ...], of: str = of, sign: int = sign) -> Array:
            return np.asarray(sign * np.atleast_2d(drawn(of, shown, *shape)))

        there = np.concatenate([on(each, elsewhere) for each in foreign], axis=-1)
        np.testing.assert_array_equal(found.values, on(EXPERIMENT.shown, trials))
        np.testing.assert_array_equal(found.foreign, there if shared else there[0])
        np.testing.assert_array_equal(found.degraded["blur:10%"], on(blurred, elsewhere)[0])
        assert found.shared_noise is shared


def test_what_a_score_costs_is_counted_in_forwards() -> None:
    costs = EXPERIMENT._costs(without_a_head())
    expected = {"sharpness": 0, "dropout_trace_pre": 64, "first_order_trace_post": 2 * 8, "recipe": 2 * 8}
    expected |= {"view_spread": 8, "laplace_head": 1, "energy": 1, "mutual_information": 64}
    assert {name: costs[name] for name in expected} == expected
