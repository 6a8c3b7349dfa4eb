"""YAML overlays one default and may name nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.studies.backbones.config import CONFIGS, BackbonesConfig, load_config


def _yaml(folder: Path, text: str) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_is_the_published_protocol() -> None:
    config = load_config()
    assert config == BackbonesConfig()
    training = config.training
    assert (training.pos_weight, training.learning_rate, training.patience) == (1.5, 1e-4, 20)
    assert (len(config.seeds), config.folds, config.baseline) == (3, 0, "dinov2")


def test_an_overlay_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    config = load_config(_yaml(tmp_path, "training: {learning_rate: 1e-3}\nseeds: [5]\n"))
    assert config.training.learning_rate == 1e-3  # YAML reads 1e-3 as text
    assert config.seeds == (5,)
    assert config.training.pos_weight == BackbonesConfig().training.pos_weight
    assert config.model == BackbonesConfig().model


def test_an_empty_overlay_is_the_default(tmp_path: Path) -> None:
    assert load_config(_yaml(tmp_path, "")) == BackbonesConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {patiense: 3}", r"training has the unknown key 'patiense'; the nearest: patience"),
        ("back_bones: [clip_b16]", r"has the unknown key 'back_bones'; the nearest: backbones"),
        ("folds: 1.5", r"folds is 1.5: Expected int, got float"),
        ("folds: true", r"folds is True: Expected int, got bool"),
        ("training: {pos_weight: heavy}", r"pos_weight is 'heavy': Expected float, got str"),
        ("seeds: 3", r"seeds is 3: Expected array, got int"),
        ("training: 3", r"training is 3: Expected object, got int"),
        ("- 1", r"is \[1\]: Expected object, got array"),
        ("a: [", r"is not YAML"),
        ("baseline: clip_b16\nbackbones: [dinov2]", r"baseline 'clip_b16' is not among backbones"),
        ("seeds: [1, 1]", r"named twice"),
        ("model: {dim: 30, heads: 4}", r"multiple of model.heads"),
        ("training: {validation_groups: 0}", r"validation_groups is 0: Expected int >= 1"),
    ],
)
def test_a_wrong_overlay_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        load_config(_yaml(tmp_path, text))


def test_a_missing_file_names_the_shipped_ones() -> None:
    with pytest.raises(McdoError, match=r"embedded, quick"):
        load_config("embeded")


def test_the_shipped_overlays_load_and_keep_the_published_loss_and_patience() -> None:
    shipped = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    assert shipped == ["embedded", "quick"]
    for name in shipped:
        training = load_config(name).training
        assert (training.pos_weight, training.patience) == (1.5, 20)


def test_a_run_is_kept_under_model_and_training_only(tmp_path: Path) -> None:
    default = BackbonesConfig().training_key()
    assert load_config(_yaml(tmp_path, "shards: 9\nseeds: [7]")).training_key() == default
    assert load_config(_yaml(tmp_path, "training: {pos_weight: 1}")).training_key() != default
