"""Command line of the study: ``python -m mcdo.studies.backbones extract|merge|train|table|jobs|run|config``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.names import message, say_text
from mcdo.schema import parse_yaml, plain
from mcdo.studies.backbones.config import BackbonesConfig, load_config
from mcdo.studies.backbones.extract import extract, shard_path
from mcdo.studies.backbones.features import merge, read_features
from mcdo.studies.backbones.jobs import CLUSTERS, describe, stages, submit
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.backbones.registry import load_backbone
from mcdo.studies.backbones.steps import feature_path, train_some
from mcdo.studies.backbones.study import collect, run_study
from mcdo.studies.backbones.table import markdown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mcdo.studies.backbones", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    each = {
        "extract": "features of every image to HDF5, /plant/round/view; goes on where it stopped",
        "merge": "shards of one backbone to one file",
        "train": "every seed with every left-out group; goes on where it stopped",
        "table": "table.json, table.md and table.png from all runs",
        "run": "all of it, here",
        "jobs": "all of it, as jobs of a cluster",
        "config": "print the configuration, with the overlay",
    }
    for name, meaning in each.items():
        command = commands.add_parser(name, help=meaning, description=meaning)
        command.add_argument("--config", help="a YAML file, or the name of a shipped one (embedded, quick)")
        command.add_argument("--plants", help="wilting, wilting:GROUPS, a CSV of images, or a study's folder")
        command.add_argument("--backbones", help="by commas; random:KEY is the architecture with random weights")
        command.add_argument("--root", type=Path, default=Path("reports/studies/backbones"), help="the study's folder")
        command.add_argument("--device", default="cpu", help="of extraction (default: cpu)")
    commands.choices["extract"].add_argument("--shard", help="I/N: only the I-th of N shards")
    commands.choices["extract"].add_argument("--batch-size", type=int, help="images of one forward pass")
    jobs = commands.choices["jobs"]
    jobs.add_argument("--cluster", default="slurm", choices=CLUSTERS)
    jobs.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    jobs.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="submitit's, slurm_partition=gpu")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; an error that the user can act on is one line on stderr and exit status 2."""
    asked = _parser().parse_args(arguments)
    try:
        say_text(_run(asked, _config(asked)))
    except McdoError as error:
        say_text(message(f"error: {error}"), sys.stderr)
        return 2
    return 0


def _config(asked: argparse.Namespace) -> BackbonesConfig:
    config = load_config(asked.config)
    changes: dict[str, Any] = {"plants": asked.plants} if asked.plants else {}
    if asked.backbones:
        chosen = tuple(name.strip() for name in asked.backbones.split(","))
        changes |= {"backbones": chosen, "baseline": config.baseline if config.baseline in chosen else chosen[0]}
    if getattr(asked, "shard", None):
        changes["shards"] = _shard(asked.shard)[1]
    return dataclasses.replace(config, **changes)


def _shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 0 < int(number) <= int(of)):
        raise McdoError(f"--shard {text!r}; give I/N, such as 1/4")
    return int(number), int(of)


def _run(asked: argparse.Namespace, config: BackbonesConfig) -> str:
    if asked.command == "config":
        import yaml

        return str(yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)).rstrip()
    if asked.command == "jobs":
        return _jobs(asked, config)
    if asked.command in ("run", "table"):
        table = run_study(config, asked.root, asked.device) if asked.command == "run" else collect(config, asked.root)
        return f"{markdown(table)}\n{asked.root}: table.json, table.md, table.png"
    step = {"extract": _extract, "merge": _merge, "train": _train}[asked.command]
    return "\n".join(step(asked, config, backbone) for backbone in config.backbones)


def _extract(asked: argparse.Namespace, config: BackbonesConfig, backbone: str) -> str:
    shard, shards = _shard(asked.shard) if asked.shard else (1, 1)
    path = extract(
        load_plants(config.plants), load_backbone(backbone, asked.device), feature_path(asked.root, backbone),
        shard=shard, shards=shards, block=config.block, batch_size=asked.batch_size,
    )  # fmt: skip
    held = read_features(path)
    return f"{path}: {len(held.vectors)} images, {backbone}, D={held.identity.feature_size}"


def _merge(asked: argparse.Namespace, config: BackbonesConfig, backbone: str) -> str:
    whole = feature_path(asked.root, backbone)
    shards = [shard_path(whole, number, config.shards) for number in range(1, config.shards + 1)]
    return f"{merge(shards, whole, load_plants(config.plants))}: from {len(shards)} shards"


def _train(asked: argparse.Namespace, config: BackbonesConfig, backbone: str) -> str:
    return f"{backbone}: {train_some(config, asked.root, backbone)} trained, the rest was there"


def _jobs(asked: argparse.Namespace, config: BackbonesConfig) -> str:
    parameters: dict[str, Any] = {}
    for text in asked.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise McdoError(f"--set {text!r}; give KEY=VALUE, such as slurm_partition=gpu")
        parameters[key] = parse_yaml(value, f"--set {key}")
    planned = stages(config, asked.root, asked.device)
    if asked.dry_run:
        return describe(planned, asked.cluster, parameters)
    ids = submit(planned, asked.root, asked.cluster, parameters)
    return "\n".join(f"{name}: {len(held)} jobs, {held[0]} to {held[-1]}" for name, held in ids.items())


if __name__ == "__main__":
    sys.exit(main())
