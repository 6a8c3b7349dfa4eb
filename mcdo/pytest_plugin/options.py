"""Options of the command line, and the settings they add up to."""

from __future__ import annotations

import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import cast, get_args

import pytest

from mcdo import arguments
from mcdo.encoders import REGISTRY, find_spec
from mcdo.encoders.load import best_device, device_named
from mcdo.encoders.spec import Precision
from mcdo.errors import McdoError
from mcdo.estimators import SCORES
from mcdo.estimators.score_table import check_reportable
from mcdo.harness import Settings, Sizes
from mcdo.harness.budget import seconds_of
from mcdo.harness.session import LEAST_IMAGES
from mcdo.harness.settings import ProtocolName
from mcdo.names import words
from mcdo.perturbation import KINDS, Dropout, Perturbation, parse_perturbation
from mcdo.pytest_plugin.marks import TIERS
from mcdo.pytest_plugin.option_names import Group, option_of
from mcdo.pytest_plugin.state import SESSION_ID

ESTIMATORS = ("mc", "first_order", "both")
OWN_DATA = {
    "--retrieval": "exp5: a JSON list of {image_path, captions, correct_index}",
    "--tracking": "exp9: JSON files of frames with tracks, detections and costs, separated by commas",
    "--prompts": "exp10: a file of prompts, one a line as style<TAB>prompt, in place of the bank",
    "--replicates": "prelim_replicates: a folder of trainings of the embedded encoders, as make replicates makes it",
    "--ood": "rivals: images of another kind, as --images takes them, in place of synthetic ones",
    "--scorers": "rivals: scores of one's own, by commas: a name, python:MODULE:NAME, file:SCORES.csv (npz, parquet)",
    "--ensemble": "rivals: checkpoints of a tested encoder's architecture, by commas, whose heads vote with its own",
    "--cifar10": "subtasks: CIFAR-10's folder or its archive cifar-10-python.tar.gz, in place of the digits",
    "--plants": "backbones: a folder of plant series or a CSV of images, in place of the generated ones",
    "--llava-json": "connector: a LLaVA-Pretrain JSON, in place of the embedded digit captions",
    "--image-root": "connector: the folder where that JSON's image paths begin",
    "--connector-model": "connector: a transformers LLaVA checkpoint's folder, in place of a trained connector",
    "--max-seq-len": "connector: tokens of a sample at most, image included (default: 512)",
}
"""Options by which experiments and studies are given real data; each experiment's page says what it expects."""


def pytest_addoption(parser: pytest.Parser) -> None:
    data = Group(parser, "mcdo-data", "mcdo: data of one's own")
    for name, meaning in OWN_DATA.items():
        data.addoption(name, default=None, help=meaning)
    group = Group(parser, "mcdo", "mcdo: uncertainty of frozen vision-language encoders")
    default = ",".join(key for key, spec in REGISTRY.items() if spec.default)
    group.addoption("--models", default=default, help=f"encoders, separated by commas (default: {default})")
    group.addoption("--random-weights", default="", help="those of --models to load with random weights, by name")
    group.addoption(
        "--images",
        default="digits",
        help="digits, folder:PATH or a bare path, csv:FILE, webdataset:TARS, hf-dataset:FOLDER (default: digits)",
    )
    group.addoption("--device", default="auto", help="auto, cpu, mps or cuda (default: auto)")
    group.addoption(
        "--precision",
        default="float32",
        choices=get_args(Precision),
        help="what linear maps are carried out in; moments stay float32 or better (default: float32)",
    )
    group.addoption(
        "--benchmark",
        action="store_true",
        help="run the performance suite (without -n); --benchmark-* are pytest-benchmark's",
    )
    group.addoption(
        "--protocol",
        default="full",
        metavar="full|quick|auto:30min",
        help="sizes: published (full), small (quick), or chosen so that the passes take so long at most",
    )
    group.addoption(
        "--num-images", type=int, default=None, metavar="N", help="images of every experiment, in place of its own N"
    )
    group.addoption(
        "--passes",
        default=None,
        metavar="T,...",
        help="passes, ascending, in place of the protocol's; one T keeps the smaller ones, which cost nothing",
    )
    group.addoption(
        "--trials", type=int, default=None, metavar="K", help="trials, in place of the protocol's; one stays one"
    )
    group.addoption(
        "--at-most", action="store_true", help="with these three, no size becomes larger than the protocol has it"
    )
    group.addoption("--seed", type=int, default=42, help="seed of images, masks and intervals (default: 42)")
    group.addoption(
        "--perturbation",
        default=None,
        metavar="KIND[:p][@sites]",
        help=f"a perturbation other than dropout, such as gaussian:0.05@fc1,fc2; kinds: {KINDS}",
    )
    group.addoption(
        "--sites",
        default=None,
        help="sites of dropout, by commas: all (the default), mlp, attention, projection, roles or names (* is "
        "anything); -NAME leaves out",
    )
    group.addoption("--dropout", type=float, help="probability that a unit is dropped (default: 0.01)")
    group.addoption(
        "--estimator",
        default="mc",
        choices=ESTIMATORS,
        help="what phase 1 judges: Monte Carlo passes, first order, or both (default: mc)",
    )
    group.addoption(
        "--scores",
        default="",
        help=f"scores to report beside the published ones, by commas, where an experiment reports by score: {SCORES}",
    )
    group.addoption("--reports", default="reports", help="where summaries and arrays are written (default: reports)")
    group.addoption("--page", default=None, help="write one HTML page of all that stands in --reports, at the end")
    group.addoption("--no-thumbnails", action="store_true", help="keep no pictures of images beside the results")
    group.addoption("--no-figures", action="store_true", help="write no figures; their tests look at them all the same")
    group.addoption(
        "--no-vector-figures", action="store_true", help="write figures as PNG alone; the page shows them as SVG only"
    )
    group.addoption(
        "--store",
        default="store",
        help="where measurements are kept; temporary: for this run and all its workers; none: nowhere (default: store)",
    )
    group.addoption(
        "--from-store", action="store_true", help="load no model: compute from what is in the store, or fail"
    )
    group.addoption("--batch-size", type=int, default=None, help="rows (images x passes) of one forward pass")
    group.addoption("--force", action="store_true", help="run later phases without a GO from phase 1")
    group.addoption(
        "--require-tier", action="append", default=[], choices=TIERS, help="fail, not skip, without this hardware"
    )
    group.addoption("--skip-unreadable", action="store_true", help="leave out unreadable images, and record them")


def models_of(config: pytest.Config) -> tuple[str, ...]:
    """Keys of the encoders asked for."""
    models = words(option_of(config, "--models"))
    if not models:
        raise pytest.UsageError("--models is empty: name at least one encoder")
    return models


def device_of(config: pytest.Config) -> str:
    """The device asked for, or the best there is."""
    device = best_device(option_of(config, "--device"))
    device_named(device)
    return device


def tier_of(config: pytest.Config) -> str:
    """The mark of the device: cuda, of cuda:1."""
    return device_of(config).partition(":")[0]


def session_id(config: pytest.Config) -> str:
    """One id for all workers of a session."""
    worker = getattr(config, "workerinput", None)
    return str(worker["testrunuid"]) if worker else config.stash.setdefault(SESSION_ID, uuid.uuid4().hex)


def temporary_store(config: pytest.Config) -> Path:
    """Where ``--store=temporary`` keeps measurements: one folder for the workers of a run, removed at its end."""
    return Path(tempfile.gettempdir()) / f"mcdo-store-{session_id(config)}"


def _store(config: pytest.Config) -> Path | None:
    place: str = option_of(config, "--store")
    return {"none": None, "temporary": temporary_store(config)}.get(place, Path(place))


def perturbation_of(config: pytest.Config) -> Perturbation:
    """The perturbation asked for, whole or by the short form for dropout."""
    whole, p, sites = (option_of(config, name) for name in ("--perturbation", "--dropout", "--sites"))
    if whole is not None:
        short = [f"--{name}={value}" for name, value in (("dropout", p), ("sites", sites)) if value is not None]
        if short:
            raise McdoError(
                f"--perturbation={whole} says kind, p and sites, and {' '.join(short)} says them again: leave one out, "
                "or write --perturbation=KIND:p@sites"
            )
        return parse_perturbation(whole)
    places = words("all" if sites is None else sites)
    return Dropout(0.01 if p is None else p, places[0] if len(places) == 1 else places)


def scores_of(config: pytest.Config) -> tuple[str, ...]:
    """The further scores asked for."""
    names = words(option_of(config, "--scores"))
    for name in names:
        if name.startswith(("file:", "python:")):
            raise McdoError(f"--scores={name}: those are taken of passes; -m rivals --scorers={name} judges any other")
    check_reportable(names)
    if names and option_of(config, "--estimator") == "first_order":
        raise McdoError("--scores are taken from passes, which --estimator=first_order makes none of: leave one out")
    return names


def sizes_of(config: pytest.Config) -> Sizes:
    """The sizes asked for in place of the protocol's."""
    n, passes, trials = (option_of(config, name) for name in ("--num-images", "--passes", "--trials"))
    return Sizes(
        None if n is None else arguments.whole("--num-images", n, least=LEAST_IMAGES),
        None if passes is None else _passes(passes),
        None if trials is None else arguments.whole("--trials", trials, least=2),
        option_of(config, "--at-most") and (n, passes, trials) != (None, None, None),
    )


def protocol_of(config: pytest.Config) -> tuple[ProtocolName, str]:
    """The protocol asked for, and the time that its sizes are chosen for, or ""."""
    asked: str = option_of(config, "--protocol")
    name, _, budget = asked.partition(":")
    if asked in get_args(ProtocolName):
        return cast("ProtocolName", asked), ""
    if name != "auto":
        raise McdoError(f"--protocol={asked}: say full, quick or auto:30min")
    seconds_of(budget)
    if sizes_of(config).as_dict():
        raise McdoError(f"--protocol={asked} chooses sizes, and others are given: leave one out")
    if option_of(config, "--from-store"):
        raise McdoError(f"--protocol={asked} times a pass, and --from-store loads no model: name the sizes")
    if config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        raise McdoError(f"--protocol={asked} times a pass, which workers would spoil: leave out -n")
    return "full", budget


def _passes(text: str) -> tuple[int, ...]:
    found = words(text)
    if not found or not all(word.isascii() and word.isdigit() for word in found):
        raise McdoError(f"--passes={text}: name whole numbers by commas, such as 64 or 4,16,64")
    passes = tuple(map(int, found))
    least = 2 if len(passes) > 1 else 4
    if passes != tuple(sorted(set(passes))) or passes[0] < least:
        raise McdoError(f"--passes={text}: they must ascend, from at least {least}, as a variance needs two passes")
    return passes


def settings_from(config: pytest.Config) -> Settings:
    """The session's settings from its options."""
    option = partial(option_of, config)
    rows = option("--batch-size")
    random = frozenset(words(option("--random-weights")))
    models = models_of(config)
    for model in models:
        find_spec(model)  # an unknown key ends here, with the nearest
    if not random <= set(models):
        raise McdoError(
            f"--random-weights {', '.join(sorted(random - set(models)))}: not among --models {', '.join(models)}"
        )
    protocol, budget = protocol_of(config)
    return Settings(
        models=models,
        images=option("--images"),
        device=device_of(config),
        protocol=protocol,
        sizes=sizes_of(config),
        budget=budget,
        seed=arguments.seed(option("--seed")),
        dropout=perturbation_of(config),
        reports=Path(option("--reports")),
        store=_store(config),
        batch_size=None if rows is None else arguments.whole("--batch-size", rows, least=1),
        random_weights=random,
        skip_unreadable=option("--skip-unreadable"),
        from_store=option("--from-store"),
        estimator=option("--estimator"),
        scores=scores_of(config),
        precision=option("--precision"),
        session=session_id(config),
        thumbnails=not option("--no-thumbnails"),
        figures=not option("--no-figures"),
        vector_figures=not option("--no-vector-figures"),
        own_data={name: option(name) for name in OWN_DATA if option(name) is not None},
    )
