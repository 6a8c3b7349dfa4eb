from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from looked_at import looked_at

from mcdo.estimators import SCORES, DimensionWeights, MonteCarloConfig, monte_carlo, register_score
from mcdo.estimators.monte_carlo import run_key
from mcdo.estimators.provenance import LIBRARIES, image_tokens
from mcdo.estimators.scores import Moments
from mcdo.images import ImageSet, load_images
from mcdo.perturbation import Dropout, Gaussian, Multiplicative, TiedDropout
from mcdo.store import Store, canonical_json

provenance: Any = importlib.import_module("mcdo.estimators.provenance")

WORDS = st.text("abc", min_size=1, max_size=4)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    # the protocol
    "dropout": st.builds(
        lambda kind, p, sites: kind(p, sites),
        st.sampled_from([Dropout, TiedDropout, Gaussian, Multiplicative]),
        st.floats(0, 0.5),
        st.sampled_from(["all", "mlp", ("qkv", "fc1"), ("fc1",)]),
    ),
    "passes": st.lists(st.integers(2, 64), min_size=1, max_size=3, unique=True).map(lambda t: tuple(sorted(t))),
    "trials": st.integers(1, 20),
    "seed": st.integers(0, 2**40),
    "geometry": st.booleans(),
    "scores": st.sampled_from([(), ("score_of_these_keys",)]),
    "dimension weights": st.none() | st.integers(1, 5),
    # the images, in order: (id, content, name of its masks)
    "images": st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4, unique_by=lambda image: image[0]),
    # the encoder and where it runs
    "weights": WORDS,
    "architecture": WORDS,
    "probe": WORDS,
    "preprocessing": WORDS,
    "device": st.sampled_from(["cpu", "cuda", "mps"]),
    "dtype": st.sampled_from(["float32", "bfloat16"]),
    "machine": WORDS,
    "matmul precision": st.sampled_from(["highest", "high"]),
    "versions": st.fixed_dictionaries(dict.fromkeys(LIBRARIES, WORDS)),
    # this package
    "mask scheme": WORDS,
    "code": st.sampled_from(["a", "b", "c"]),
}
SITUATION = st.fixed_dictionaries(FIELDS)


@pytest.fixture(scope="module", autouse=True)
def score_from_outside() -> Iterator[None]:
    with mock.patch.object(SCORES, "_entries", dict(SCORES.registered)):

        @register_score("moments")
        def score_of_these_keys(m: Moments) -> torch.Tensor:
            """Variance of the first dimension."""
            return m.variance[:, 0]

        yield


def config_of(situation: dict[str, Any]) -> MonteCarloConfig:
    taken = {f.name: situation[f.name] for f in dataclasses.fields(MonteCarloConfig)}
    return MonteCarloConfig(**taken | {"geometry": taken["passes"][:1] if taken["geometry"] else ()})


def key_of(situation: dict[str, Any], encoder: str = "clip", folder: str = "here") -> str:
    preprocess_id, device = situation["preprocessing"], SimpleNamespace(type=situation["device"])
    tower: Any = SimpleNamespace(
        key=encoder,
        weights_hash=situation["weights"],
        architecture=situation["architecture"],
        probe_of=lambda now: situation["probe"],
        random_weights=False,
        preprocess_id=preprocess_id,
        device=device,
        dtype=situation["dtype"],
    )
    ids, contents, masks = zip(*situation["images"], strict=True)
    source: Any = None
    images = ImageSet(folder, ids, None, (), 0, source, contents, mask_ids=masks)
    k = situation["dimension weights"]
    weights = None if k is None else DimensionWeights(np.full(6, 1 / 6), np.arange(k), frozenset())
    with (
        mock.patch.object(provenance, "versions", return_value=situation["versions"]),
        mock.patch.object(provenance.platform, "machine", return_value=situation["machine"]),
        mock.patch.object(provenance.torch, "get_float32_matmul_precision", return_value=situation["matmul precision"]),
        mock.patch.object(provenance, "SCHEME", situation["mask scheme"]),
        mock.patch.object(provenance, "measuring_code", return_value=situation["code"]),
    ):
        return run_key(tower, images, config_of(situation), weights)


FEW = settings(max_examples=8, derandomize=True, deadline=None, phases=[Phase.generate])
"""Of all fields at once; which of them is at fault is said, so nothing is shrunk, which takes minutes."""


def changed(situation: dict[str, Any], field: str, data: st.DataObject) -> dict[str, Any]:
    """Another situation in one field."""
    return situation | {field: data.draw(FIELDS[field].filter(lambda value: value != situation[field]), label=field)}


@FEW
@given(SITUATION, st.data())
def test_any_change_of_an_ingredient_changes_the_key_and_of_nothing_else(
    situation: dict[str, Any], data: st.DataObject
) -> None:
    key = key_of(situation)
    for field in FIELDS:
        assert key_of(changed(situation, field, data)) != key, field
    again = json.loads(json.dumps(situation["versions"], sort_keys=True))
    assert key == key_of(situation | {"versions": again}, encoder="other name", folder="elsewhere")


@FEW
@given(SITUATION, st.data())
def test_only_passes_trials_geometry_scores_and_images_differ_within_a_family(
    situation: dict[str, Any], data: st.DataObject
) -> None:
    inside = ("passes", "trials", "geometry", "scores", "images")
    other = situation | {name: data.draw(FIELDS[name]) for name in inside}
    assert key_of(situation)[:32] == key_of(other)[:32]
    for field in (name for name in FIELDS if name not in inside):
        assert key_of(situation)[:32] != key_of(changed(situation, field, data))[:32], field


def test_no_field_of_the_protocol_is_forgotten() -> None:
    assert {f.name for f in dataclasses.fields(MonteCarloConfig)} <= set(FIELDS)
    for kind in (Dropout(0.1), TiedDropout(0.1), TiedDropout(0.1, over_images=True)):
        stated = MonteCarloConfig(kind).as_dict()["dropout"]
        assert stated == {"kind": type(kind).__name__, **dataclasses.asdict(kind)}


@pytest.mark.parametrize("options", [{"batch_size": 3}, {"progress": True}, {"threads": 2}])
def test_how_a_run_is_measured_is_not_in_its_key(options: dict[str, Any], tmp_path: Any) -> None:
    encoder, images = looked_at("clip_tiny", weights="random"), load_images("digits", n=2)
    before = torch.get_num_threads()
    try:
        for each in ({}, options):
            torch.set_num_threads(each.get("threads", 1))
            others = {"progress": False} | {name: value for name, value in each.items() if name != "threads"}
            monte_carlo(encoder, images, Dropout(0.1), (2,), 1, store=tmp_path / str(bool(each)), **others)
    finally:
        torch.set_num_threads(before)
    one, two = ([path.name for path in (tmp_path / name).rglob("*.*")] for name in ("False", "True"))
    assert one == two
    assert len(one) == 1


def test_versions_are_those_that_are_installed() -> None:
    assert provenance.versions().keys() == set(LIBRARIES)
    assert provenance.versions()["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_keys_follow_values_not_the_order_of_writing() -> None:
    assert Store.key({"a": 1, "b": (1, 2)}) == Store.key({"b": [1, 2], "a": 1})
    assert Store.key({"a": 1}) != Store.key({"a": 2})
    assert Store.key({"a": 1}, {"b": 1}) != Store.key({"a": 1}, {"b": 2})
    assert len(Store.key({})) == 64
    assert canonical_json({"b": 1, "a": [0.1, "é"]}) == '{"a":[0.1,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="Out of range float values"):
        canonical_json(float("nan"))


def test_a_token_of_an_image_follows_its_content_and_masks_not_its_name_or_place() -> None:
    source: Any = None
    one = ImageSet("one", ("a", "b", "c"), None, (), 0, source, ("x", "y", "x"), mask_ids=("m", "m", "n"))
    two = ImageSet("two", ("d", "e"), None, (), 0, source, ("y", "x"), mask_ids=("m", "m"))
    first, second = image_tokens(one).tolist(), image_tokens(two).tolist()
    assert second == [first[1], first[0]]
    assert len({tuple(token) for token in first}) == 3
