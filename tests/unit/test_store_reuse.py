"""A stored run serves whatever is part of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from looked_at import looked_at
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators import MonteCarloRun, monte_carlo, names_from
from mcdo.images import ImageSet, load_images
from mcdo.perturbation import Dropout
from mcdo.store import DamagedResultWarning

IMAGES = load_images("synthetic:noise:32", n=5)
LARGE: dict[str, Any] = {"passes": (4, 16, 20), "trials": 3, "geometry": (4, 16)}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return looked_at("clip_tiny", weights="random")


@pytest.fixture(scope="module")
def measured(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that holds the whole run."""
    store = tmp_path_factory.mktemp("whole")
    measure(encoder, store)
    return store


@pytest.fixture
def store(measured: Path, tmp_path: Path) -> Path:
    """One of its own for each test."""
    return Path(shutil.copytree(measured, tmp_path / "store"))


@pytest.fixture
def rows(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pass of the encoder."""
    image, seen = encoder.forward_image, list[int]()
    assert encoder.probe

    def forward(pixels: Tensor, **options: Any) -> Tensor:
        seen.append(len(pixels))
        return image(pixels, **options)

    monkeypatch.setattr(encoder, "forward_image", forward)
    return seen


def measure(encoder: Encoder, store: Path | None, images: ImageSet = IMAGES, **options: Any) -> MonteCarloRun:
    return monte_carlo(encoder, images, Dropout(0.1), store=store, progress=False, **{**LARGE, **options})


def agree(one: MonteCarloRun, other: MonteCarloRun) -> None:
    assert all(
        getattr(one, name) == getattr(other, name) for name in ("config", "ids", "origins", "sites", "provenance")
    )
    a, b = one.arrays(), other.arrays()
    assert {name: array.shape for name, array in a.items()} == {name: array.shape for name, array in b.items()}
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-9, err_msg=name)


PARTS: dict[str, dict[str, Any]] = {
    "fewer trials": {"trials": 2},
    "fewer T": {"passes": (4, 20), "geometry": (4,)},
    "one T": {"passes": (16,), "geometry": (16,)},
    "no geometry": {"geometry": ()},
    "fewer images": {"images": IMAGES.select([1, 3])},
    "another order": {"images": IMAGES.select([4, 3, 2, 1, 0])},
    "another name": {"images": replace(IMAGES, name="elsewhere")},
    "all at once": {"images": IMAGES.select([2, 0]), "trials": 1, "passes": (16,), "geometry": ()},
}


@pytest.mark.parametrize("part", PARTS.values(), ids=[name.replace(" ", "_") for name in PARTS])
def test_a_part_of_a_stored_run_takes_no_pass(
    part: dict[str, Any], encoder: Encoder, rows: list[int], store: Path
) -> None:
    found = measure(encoder, store, **part)
    assert rows == []
    agree(found, measure(encoder, None, **part))
    assert len(list(store.rglob("*.*"))) == 1


def test_fewer_trials_or_images_of_the_same_blocks_are_the_same_bits(encoder: Encoder, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    whole = measure(encoder, tmp_path, batch_size=16)  # one image for each pass
    for part in ({"trials": 1}, {"images": IMAGES.select([3, 1])}):
        found, anew = measure(encoder, tmp_path, **part), measure(encoder, None, **part, batch_size=16)
        assert all(np.array_equal(found.arrays()[name], array) for name, array in anew.arrays().items())
    assert whole.scores("trace_pre").shape == (3, 5)
    assert torch.get_num_threads() == before


BEYOND: dict[str, dict[str, Any]] = {
    "more trials": {"trials": 4},
    "another T": {"passes": (4, 8), "geometry": (4,)},
    "geometry elsewhere": {"geometry": (4, 20)},
    "one more image": {"images": load_images("synthetic:noise:32", n=6)},
    "other masks": {"images": IMAGES.with_common_masks()},
    "another seed": {"seed": 7, "trials": 2},
    "other contents": {"images": load_images("synthetic:noise:32", n=5, seed=1), "trials": 2},
}


@pytest.mark.parametrize("beyond", BEYOND.values(), ids=[name.replace(" ", "_") for name in BEYOND])
def test_what_is_not_part_of_a_stored_run_is_measured(
    beyond: dict[str, Any], encoder: Encoder, rows: list[int], store: Path
) -> None:
    found = measure(encoder, store, **beyond)
    assert rows
    anew = measure(encoder, None, **beyond).arrays()
    assert all(np.array_equal(anew[name], array) for name, array in found.arrays().items())
    assert len(list(store.rglob("*.safetensors"))) == 2


def test_origins_are_those_of_the_images_asked_for_never_of_the_stored_run(
    encoder: Encoder, rows: list[int], store: Path
) -> None:
    assert measure(encoder, store).origins == IMAGES.ids
    regrouped = replace(IMAGES, origins=("one", "one", "two", "two", "three"))
    found = measure(encoder, store, images=regrouped)
    assert found.origins == regrouped.origins
    assert found.select(np.array([4, 0])).origins == ("three", "one")
    assert measure(encoder, store, images=regrouped.select([3, 0]), trials=2).origins == ("two", "one")
    assert rows == []


def test_a_part_knows_no_more_than_was_asked_for(encoder: Encoder, store: Path) -> None:
    found = measure(encoder, store, passes=(4, 20), geometry=())
    assert not set(names_from("passes")) & set(found.score_names)
    assert {name.partition("@")[2] for name in found.arrays()} == {"", "4", "20"}


def test_a_damaged_larger_run_is_set_aside_and_the_part_measured(
    encoder: Encoder, rows: list[int], store: Path
) -> None:
    (path,) = store.rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.warns(DamagedResultWarning):
        found = measure(encoder, store, trials=2)
    assert rows
    agree(found, measure(encoder, None, trials=2))
    path.write_bytes(whole[:100])  # a head that cannot be read is passed over
    assert measure(encoder, store, trials=1).scores("trace_pre").shape == (1, 5)
