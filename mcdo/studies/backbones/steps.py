"""The steps before the table, in one process or in many: extract, merge, train. Every step may be repeated.

Under ``root``: ``features/NAME.h5`` and ``runs/NAME/seed-S-GROUP.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mcdo.names import file_name
from mcdo.studies.backbones.config import BackbonesConfig
from mcdo.studies.backbones.extract import extract, shard_path
from mcdo.studies.backbones.features import Features, merge, read_features, union
from mcdo.studies.backbones.plants import PlantImages, load_plants
from mcdo.studies.backbones.registry import load_backbone
from mcdo.studies.backbones.runs import tasks_of, train_tasks
from mcdo.studies.backbones.series import Series, series_of
from mcdo.studies.backbones.training import Task


def feature_path(root: Path, backbone: str) -> Path:
    """Where a backbone's merged features are kept."""
    return root / "features" / f"{file_name(backbone)}.h5"


def extract_shard(config: BackbonesConfig, root: Path, backbone: str, shard: int = 1, device: str = "cpu") -> Path:
    """Extract one of ``config.shards`` shards of a backbone's features."""
    out, plants = feature_path(root, backbone), load_plants(config.plants)
    loaded = load_backbone(backbone, device)
    return extract(plants, loaded, out, shard=shard, shards=config.shards, block=config.block)


def features_of(config: BackbonesConfig, root: Path, backbone: str) -> Features:
    """A backbone's features: the merged file where there is one, else all its shards."""
    whole = feature_path(root, backbone)
    if whole.exists():
        return read_features(whole)
    shards = [shard_path(whole, number, config.shards) for number in range(1, config.shards + 1)]
    return union((path, read_features(path)) for path in shards)


def series(config: BackbonesConfig, root: Path, backbone: str, plants: PlantImages | None = None) -> Series:
    """What is trained on."""
    plants = load_plants(config.plants) if plants is None else plants
    return series_of(plants, features_of(config, root, backbone))


def train_some(config: BackbonesConfig, root: Path, backbone: str, tasks: Sequence[Task] | None = None) -> int:
    """Train ``tasks`` (default: every seed with every fold) on a backbone's features; returns how many were left."""
    of = series(config, root, backbone)
    return train_tasks(of, tasks_of(of.folds, config) if tasks is None else tasks, config, root / "runs")


def whole_features(config: BackbonesConfig, root: Path, backbone: str) -> Features:
    """A backbone's features from their file, which is made of the shards where it is not there."""
    whole = feature_path(root, backbone)
    if not whole.exists():
        shards = (shard_path(whole, i, config.shards) for i in range(1, config.shards + 1))
        merge(shards, whole, load_plants(config.plants))
    return read_features(whole)
