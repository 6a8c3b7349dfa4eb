"""What the store knows of an encoder stands under a name of that encoder alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from mcdo.encoders.spec import MODELS_DIR
from mcdo.errors import McdoError
from mcdo.harness import Session, Settings
from mcdo.harness.offline import card
from mcdo.store import Store


def settings(model: str, store: Path, **options: object) -> Settings:
    return replace(Settings((model,), store=store, device="cpu"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "other",
    [
        {"random_weights": ("clip_tiny",)},
        {"random_weights": ("clip_tiny",), "seed": 43},
        {"precision": "bfloat16"},
        {"device": "cuda"},
    ],
    ids=str,
)
def test_settings_that_decide_a_feature_have_cards_of_their_own(other: dict[str, object], tmp_path: Path) -> None:
    store, plain = Store(tmp_path), settings("clip_tiny", tmp_path)
    assert card(store, settings("clip_tiny", tmp_path, **other), "clip_tiny") != card(store, plain, "clip_tiny")
    assert card(store, replace(plain, seed=43), "clip_tiny") == card(store, plain, "clip_tiny"), "weights have no seed"


def test_names_that_are_alike_have_cards_of_their_own(tmp_path: Path) -> None:
    names = ("hf-hub:org/a-b", "hf-hub:org-a/b", "hf-hub:Org/a-b", "hf-hub:org/a_b", "hf-hub:org/a b", "hf-hub:org/a/b")
    cards = {card(Store(tmp_path), settings(name, tmp_path), name).name.lower() for name in names}
    assert len(cards) == len(names)


def test_one_relative_path_seen_from_two_folders_is_two_encoders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for here, key in (("one", "clip_tiny"), ("two", "siglip_tiny")):
        shutil.copytree(MODELS_DIR / key, tmp_path / here / "enc")
        monkeypatch.chdir(tmp_path / here)
        session = Session(settings("local-dir:enc", tmp_path / "store"))
        found.append((session.encoder("local-dir:enc").weights_hash, Path.cwd()))
    for weights, folder in found:
        monkeypatch.chdir(folder)
        offline = Session(settings("local-dir:enc", tmp_path / "store", from_store=True)).encoder("local-dir:enc")
        assert offline.weights_hash == weights


def test_other_weights_of_the_same_size_and_time_are_not_the_encoder_that_is_known(tmp_path: Path) -> None:
    """As in the layers of a container, whose files are all of one time."""
    folder = shutil.copytree(MODELS_DIR / "clip_tiny", tmp_path / "enc")
    named, weights = f"local-dir:{folder}", folder / "open_clip_model.safetensors"

    def aged() -> int:
        for path in folder.iterdir():
            os.utime(path, (0, 0))
        return weights.stat().st_size

    before = aged()
    known = Session(settings(named, tmp_path / "store")).encoder(named).weights_hash
    offline = settings(named, tmp_path / "store", from_store=True)
    assert Session(offline).encoder(named).weights_hash == known
    save_file({name: 1.5 * each for name, each in load_file(weights).items()}, weights)
    assert aged() == before
    with pytest.raises(McdoError, match="--from-store needs it"):
        Session(offline).encoder(named)
