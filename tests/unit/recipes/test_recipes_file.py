"""recipe.json: what is read and written, what is refused, and for which encoder a recipe holds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from recipes_made_up import IDENTITY, a_recipe, interval

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.harness.offline import OfflineEncoder
from mcdo.perturbation import Dropout, TiedDropout
from mcdo.recipes import Recipe, read_recipe
from mcdo.recipes.file import (
    SEAL,
    EncoderIdentity,
    Interval,
    UnsealedRecipeWarning,
    quantile_grid,
    seal_of,
    write_recipe,
)
from mcdo.stats import Estimate

Change = Callable[[dict[str, Any]], object]


DIMENSIONS = {"weights": [0.25, 0.75], "source": "two images", "top": [1], "origins": ["a", "b"]}


def weighted(recipe: dict[str, Any], score: str = "weighted_trace", **changed: Any) -> None:
    recipe.update(score=score, dimensions={**DIMENSIONS, **changed})


def saved(folder: Path, recipe: Mapping[str, Any]) -> Path:
    path = folder / "recipe.json"
    path.write_text(json.dumps({**recipe, SEAL: seal_of(recipe)}), encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    recipe = read_recipe(saved(tmp_path, a_recipe()))
    again = read_recipe(write_recipe(recipe, tmp_path / "deep" / "again.json"))
    assert again == recipe
    assert recipe.perturbation == Dropout(0.01, ("visual.transformer.resblocks.0.mlp.c_proj",))


def test_an_undefined_figure_is_null_in_the_file_and_nan_in_a_statistic(tmp_path: Path) -> None:
    undefined = Interval.of(Estimate(math.nan, math.nan, math.inf, 3, reason="three images"))
    recipe = a_recipe()
    recipe["verdict"]["reliability"]["snr"] = {**interval(0, 0, 0), "value": None, "low": None}
    read = read_recipe(write_recipe(read_recipe(saved(tmp_path, recipe)), tmp_path / "again.json"))
    assert math.isnan(read.verdict.reliability["snr"].estimate.value)
    assert undefined.value is None
    assert undefined.estimate.reason == "three images"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(version=2), "a recipe of version 2; this mcdo reads up to 1: update mcdo"),
        (lambda r: r.update(version="1"), "version is '1'"),
        (lambda r: r.update(weihgts=1), "unknown key 'weihgts'"),
        (lambda r: r["sites"][0].update(p=0.1), "sites[0] has the unknown key 'p'"),
        (lambda r: r.pop("score"), "lacks the key score"),
        (lambda r: r.update(score="trace_bre"), "trace_pre"),
        (lambda r: r.update(kind="dropuot"), "dropout"),
        (lambda r: r.update(p=0.0), "p is 0.0"),
        (lambda r: r.update(p=1.0), "p is 1.0"),
        (lambda r: r["sites"][0].update(weight=-0.1), "sites[0].weight is -0.1"),
        (lambda r: r["sites"][0].update(block="0"), "sites[0].block is '0'"),
        (lambda r: r["sites"][0].update(role="mlp"), "sites[0].role is 'mlp'"),
        (lambda r: r["sites"][0].update(weight=0.0), "every site has weight 0"),
        (lambda r: r.update(sites=[r["sites"][0]] * 2), "occurs twice"),
        (lambda r: r.update(sites=[]), "sites is []"),
        (lambda r: r["responses"].append(r["responses"][0]), "a family of damage occurs twice"),
        (lambda r: r["encoder"].update(weights="abc"), "encoder.weights is 'abc'"),
        (lambda r: r["estimator"].update(passes=4), "first_order takes probes and no passes"),
        (lambda r: r["estimator"].update(method="monte_carlo"), "monte_carlo takes passes and no probes"),
        (
            lambda r: (
                r.update(estimator={"method": "monte_carlo", "passes": 64}),
                r["sites"][1].update(weight=0.5),
            ),
            "passes have one p for all sites: give equal weights",
        ),
        (lambda r: r.update(score="weighted_trace"), "weighted_trace needs weights of dimensions"),
        (lambda r: r.update(dimensions=DIMENSIONS), "trace_pre has no weights of dimensions"),
        (lambda r: weighted(r, weights=[0.5, 0.6]), "must sum to 1, not 1.1"),
        (lambda r: weighted(r, weights=[1.5, -0.5]), "weights[1] is -0.5"),
        (lambda r: weighted(r, weights=[]), "weights is []"),
        (lambda r: weighted(r, top=[2]), "top must name each dimension once, below 2"),
        (lambda r: weighted(r, top=[0, 0]), "top must name each dimension once"),
        (lambda r: weighted(r, "topk_trace", top=[]), "topk_trace needs the top"),
        (lambda r: r["calibration"].update(quantiles=[1.0, 0.5]), "quantiles must ascend"),
        (lambda r: r["calibration"].update(quantiles=[1.0]), "calibration.quantiles"),
        (lambda r: r["calibration"].update(origins=61), "61 originals of 60 images"),
        (lambda r: r["responses"][0].update(severities=[1.0, 5.0]), "severities must ascend from 0"),
        (lambda r: r["responses"][0].update(severities=[0.0, 5.0, 9.0]), "one entry for each level"),
        (lambda r: r["verdict"].update(valid="yes"), "verdict.valid is 'yes'"),
        (lambda r: r["verdict"]["gains"][0]["difference"].update(p_holm=1.5), "p_holm is 1.5"),
    ],
)
def test_what_is_refused(change: Change, said: str, tmp_path: Path) -> None:
    recipe = a_recipe()
    change(recipe)
    path = saved(tmp_path, recipe)
    with pytest.raises(McdoError) as refused:
        read_recipe(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r.update(p=0.02),
        lambda r: r.update(score="trace_post"),
        lambda r: r["sites"][1].update(weight=0.5),
        lambda r: r["sites"].pop(),
        lambda r: r["estimator"].update(probes=16),
        lambda r: r["estimator"].update(seed=7),
        lambda r: r["calibration"]["quantiles"].append(0.5),
        lambda r: r["verdict"].update(valid="not met"),
        lambda r: r.update(seal="0" * 64),
        lambda r: r.update(seal=1),
    ],
)
def test_what_was_changed_after_it_was_written_is_refused(change: Change, tmp_path: Path) -> None:
    """Each of these is a recipe of its own, with quantiles and responses of another."""
    path = write_recipe(read_recipe(saved(tmp_path, a_recipe())), tmp_path / "recipe.json")
    held = json.loads(path.read_text(encoding="utf-8"))
    change(held)
    path.write_text(json.dumps(held), encoding="utf-8")
    with pytest.raises(McdoError, match="was changed after it was written"):
        read_recipe(path)


def test_what_decides_nothing_may_be_changed(tmp_path: Path) -> None:
    path = write_recipe(read_recipe(saved(tmp_path, a_recipe())), tmp_path / "recipe.json")
    held = json.loads(path.read_text(encoding="utf-8"))
    held.update(name="another", provenance={})
    held["encoder"]["key"], held["calibration"]["images"] = "local-dir:/elsewhere", "folder:moved"
    held["sites"][0]["weight"] = 1  # as some programs write 1.0
    path.write_text(json.dumps(held, sort_keys=True, indent=4), encoding="utf-8")
    assert read_recipe(path).encoder.key == "local-dir:/elsewhere"


def test_a_file_without_a_seal_is_read_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(a_recipe()), encoding="utf-8")
    with pytest.warns(UnsealedRecipeWarning, match="bears no seal"):
        assert read_recipe(tmp_path / "recipe.json").score == "trace_pre"


def test_a_file_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="pytest -m recipe"):
        read_recipe(tmp_path / "recipe.json")


def test_options_of_a_kind(tmp_path: Path) -> None:
    recipe = read_recipe(saved(tmp_path, a_recipe(kind="tied_dropout", options={"over_images": True})))
    assert isinstance(recipe.perturbation, TiedDropout)
    assert recipe.perturbation.shared_by_images
    with pytest.raises(McdoError, match="dropout does not take"):
        _ = read_recipe(saved(tmp_path, a_recipe(options={"over_images": True}))).perturbation


def loaded(**changed: Any) -> Encoder:
    """What is asked of an encoder, as the recipe's own has it."""
    own = OfflineEncoder(
        IDENTITY.key, IDENTITY.weights, IDENTITY.architecture, IDENTITY.probe, None, IDENTITY.preprocessing,
        False, 32, 64, "cpu", "float32",
    )  # fmt: skip
    return cast("Encoder", replace(own, **changed))


def a_checked_recipe(folder: Path) -> Recipe:
    return read_recipe(saved(folder, a_recipe()))


@pytest.mark.parametrize(
    "same",
    [
        {},
        {"key": "another_name"},
        {"architecture": "0" * 64},  # as under another version of a library
        {"device_type": "cuda"},
    ],
)
def test_its_own_encoder_under_any_name_fits(same: dict[str, Any], tmp_path: Path) -> None:
    a_checked_recipe(tmp_path).check(loaded(**same))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"weights_hash": "0" * 64}, "weights aaaaaaaaaaaa there and 000000000000 here"),
        ({"preprocess_id": "resize to 64"}, "preprocessing resize to 32, bicubic there and resize to 64 here"),
        ({"dtype": "bfloat16"}, "precision float32 there and bfloat16 here"),
        ({"architecture": "0" * 64, "probe": "1" * 64}, "features of a fixed input cccccccccccc there and 1111"),
    ],
)
def test_another_encoder_is_refused_with_both_named(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(McdoError) as refused:
        a_checked_recipe(tmp_path).check(loaded(key="other", **other))
    assert said in str(refused.value)
    assert "clip_tiny" in str(refused.value)
    assert "other" in str(refused.value)


def test_weights_of_other_dimensions_are_refused(tmp_path: Path) -> None:
    recipe = a_recipe()
    weighted(recipe)
    with pytest.raises(McdoError, match="2 weights of dimensions there and 64 dimensions here"):
        read_recipe(saved(tmp_path, recipe)).check(loaded())


def test_the_identity_of_a_loaded_encoder() -> None:
    import mcdo

    encoder = mcdo.load_encoder("clip_tiny")
    found = EncoderIdentity.of(encoder)
    assert (found.weights, found.preprocessing) == (encoder.weights_hash, encoder.preprocess_id)
    other = mcdo.load_encoder("siglip_tiny")
    assert EncoderIdentity.of(other).weights != found.weights


def test_quantiles_are_the_scores_themselves_where_they_are_few() -> None:
    assert quantile_grid([3, 1, 2]) == (1, 2, 3)
    many = quantile_grid(range(10_001), most=5)
    np.testing.assert_allclose(many, [0, 2500, 5000, 7500, 10_000])
