"""The whole study in one process or, step by step, in many: extract, train, collect. Every step may be repeated.

Under ``root``: ``features/NAME.h5``, ``runs/NAME/seed-S-GROUP.json``, and from the last step ``table.json``,
``table.md`` and ``table.png``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mcdo.names import file_name
from mcdo.report.files import write_json, write_text
from mcdo.studies.backbones.config import BackbonesConfig
from mcdo.studies.backbones.extract import extract, shard_path
from mcdo.studies.backbones.features import Features, merge, read_features, union
from mcdo.studies.backbones.figure import draw_table
from mcdo.studies.backbones.plants import PlantImages, load_plants
from mcdo.studies.backbones.registry import load_backbone
from mcdo.studies.backbones.runs import read_runs, tasks_of, train_tasks
from mcdo.studies.backbones.series import Series, series_of
from mcdo.studies.backbones.table import Table, as_json, compare, markdown, row_of
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
    return train_tasks(of, tasks_of(of, config) if tasks is None else tasks, config, root / "runs")


def collect(config: BackbonesConfig, root: Path) -> Table:
    """Merge the shards, and write table and figure from all runs."""
    plants, rows, epochs = load_plants(config.plants), [], {}
    for backbone in config.backbones:
        whole = feature_path(root, backbone)
        if not whole.exists():
            merge((shard_path(whole, i, config.shards) for i in range(1, config.shards + 1)), whole, plants)
        of = series(config, root, backbone, plants)
        found = read_runs(of, tasks_of(of, config), config, root / "runs")
        rows.append(row_of(of, found))
        epochs[backbone] = [min(each.epochs for each in found), max(each.epochs for each in found)]
    table = compare(rows, config.baseline)
    about = {"config": asdict(config), "plants": plants.name, "epochs": epochs}
    write_json(root / "table.json", {**as_json(table), **about})
    write_text(root / "table.md", markdown(table))
    draw_table(table, root / "table.png", config.backbones[-1])
    return table


def run_study(config: BackbonesConfig, root: Path, device: str = "cpu") -> Table:
    """All of it here, resuming whatever is done."""
    for backbone in config.backbones:
        for shard in range(1, config.shards + 1):
            if not feature_path(root, backbone).exists() or config.shards == 1:
                extract_shard(config, root, backbone, shard, device)
        train_some(config, root, backbone)
    return collect(config, root)
