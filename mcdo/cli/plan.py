"""``mcdo plan``: images, trials and passes at which each claim is decided, and what runs of other sizes take here."""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdo.errors import McdoError, nearest
from mcdo.names import say, size_of, words

if TYPE_CHECKING:
    from mcdo.harness import Settings
    from mcdo.harness.pilot import Missing, Planned
    from mcdo.report.terminal import Table
    from mcdo.stats.planning import Need, Size

PILOT = "pytest -m phase1 --protocol=quick"
"""Makes a pilot."""
GRID = ((120, 500, 5000), (5, 10), (16, 64, 256))
"""N, K and T of the table of what runs take."""
ASSUMABLE: Mapping[str, tuple[str, Any]] = {
    "spearman": ("usable", None),
    "rho_entropy": ("> 0.3", "rho"),
    "auroc_high_entropy": ("> 0.6", "auroc"),
    "raised": (">= 0.75", "share"),
}
"""Figures that may be assumed, the bar of each, and what kind of figure it is."""

_FEWEST = 4  # originals: with fewer no correlation has an interval


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser(
        "plan",
        help="say how many images, trials and passes decide each claim, and what that takes here",
        description="From a pilot in the store (" + PILOT + " makes one), or from assumptions. Measures nothing but "
        "the rate of passes.",
    )
    parser.add_argument("--models", default="", help="encoders, by commas (default: those of pytest)")
    parser.add_argument("--images", default="digits", help="image set of the pilot (default: digits)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--store", type=Path, default=Path("store"), help="where the pilot lies (default: store)")
    parser.add_argument("--protocol", default="", choices=("full", "quick"), help="of the pilot (default: full, quick)")
    parser.add_argument("--num-images", type=int, default=None, metavar="N", help="of the pilot, where it was given")
    parser.add_argument("--passes", default="", metavar="T[,T...]", help="of the pilot, where it was given")
    parser.add_argument("--trials", type=int, default=None, metavar="K", help="of the pilot, where it was given")
    parser.add_argument("--precision", default="float32", help="of the pilot (default: float32)")
    parser.add_argument("--perturbation", default=None, metavar="KIND[:p][@sites]", help="of the pilot")
    parser.add_argument("--seed", type=int, default=42, help="of the pilot (default: 42)")
    parser.add_argument("--random-weights", default="", help="those of --models with random weights, by name")
    parser.add_argument(
        "--assume",
        default="",
        metavar="NAME=VALUE,...",
        help=f"plan from assumptions, without a pilot: {', '.join(ASSUMABLE)}, and passes=T at which spearman holds",
    )
    parser.add_argument(
        "--power", type=float, default=None, help="probability with which a planned run decides (default: 0.85)"
    )
    parser.add_argument("--most", type=int, default=None, metavar="N", help="originals at most (default: 100000)")
    parser.add_argument(
        "--rate", type=float, default=None, help="passes per second, in place of timing a few (needed for no weights)"
    )
    parser.add_argument("--out", type=Path, default=None, help="write the plan as JSON too")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Print the plan."""
    from mcdo import arguments
    from mcdo.report.files import check_file, write_json
    from mcdo.report.terminal import lines
    from mcdo.stats.planning import MOST, POWER

    if asked.out is not None:
        check_file(asked.out)
    power = POWER if asked.power is None else asked.power
    most = MOST if asked.most is None else arguments.whole("--most", asked.most, least=_FEWEST)
    settings = _settings(asked)
    found = list(_assumed(asked, power, most) if asked.assume else _from_pilot(settings, asked, power, most))
    plans, missing = _parted(found)
    if not plans:
        first = missing[0] if missing else None
        said = "" if first is None else f" ({first.experiment}: {first.reason})"
        raise McdoError(
            f"there is no pilot of {', '.join(settings.models)} on {settings.images} in {settings.store}{said}. "
            f"Make one with {_command(asked, settings.models, '--protocol=quick')}, "
            "or assume: --assume=spearman=0.7,passes=64"
        )
    rates = _rates(settings, asked.rate)
    tables = [*_claims(plans, rates), *(_expenses(rate, settings) for rate in rates.values())]
    for line in lines(tables, _closing(plans, missing, asked, power), sys.stdout.encoding):
        say(line)
    if asked.out is not None:
        say(str(write_json(asked.out, [_entry(each) for each in plans])))
    return 0


@dataclass(frozen=True)
class _Rate:
    """How fast passes of a model are here; ``encoder`` is None where --rate said so without it."""

    model: str
    encoder: Any
    seconds: float
    """Of a pass of one image."""
    held: int
    """Bytes of the process with the model in it."""


def _settings(asked: argparse.Namespace) -> Settings:
    from mcdo import arguments
    from mcdo.encoders import REGISTRY, find_spec
    from mcdo.encoders.load import best_device, device_named
    from mcdo.encoders.spec import check_precision
    from mcdo.harness import Settings
    from mcdo.harness.settings import Sizes
    from mcdo.perturbation import Dropout, parse_perturbation

    models = words(asked.models) or tuple(key for key, spec in REGISTRY.items() if spec.default)
    for model in models:
        find_spec(model)
    check_precision(asked.precision)
    device = device_named(best_device(asked.device)).type
    ladder = tuple(arguments.wholes("--passes", [_whole(word) for word in words(asked.passes)])) or None
    return Settings(
        models=models,
        images=asked.images,
        device=device,
        protocol=asked.protocol or "full",
        sizes=Sizes(asked.num_images, ladder, asked.trials),
        seed=arguments.seed(asked.seed),
        precision=asked.precision,
        dropout=Dropout(0.01) if asked.perturbation is None else parse_perturbation(asked.perturbation),
        store=asked.store,
        random_weights=frozenset(words(asked.random_weights)),
    )


def _whole(word: str) -> int:
    if not word.isdecimal():
        raise McdoError(f"--passes={word}: give whole numbers, by commas")
    return int(word)


# ---- what is planned for


def _from_pilot(settings: Settings, asked: argparse.Namespace, power: float, most: int) -> Iterator[Planned | Missing]:
    """Of each model and experiment the larger pilot that is there: as published, else quick."""
    from mcdo.harness.pilot import Missing, planned

    if not settings.store or not settings.store.is_dir():
        return
    missing: dict[tuple[str, str], Missing] = {}
    seen: set[tuple[str, str]] = set()
    for protocol in (asked.protocol,) if asked.protocol else ("full", "quick"):
        found = list(planned(replace(settings, protocol=protocol), power=power, most=most))
        there = {(each.model, each.experiment) for each in found if not isinstance(each, Missing)} - seen
        yield from (each for each in found if (each.model, each.experiment) in there)
        missing |= {(each.model, each.experiment): each for each in found if isinstance(each, Missing)}
        seen |= there
    yield from (each for place, each in missing.items() if place not in seen)


def _assumed(asked: argparse.Namespace, power: float, most: int) -> Iterator[Planned]:
    from mcdo import arguments
    from mcdo.harness.pilot import Planned
    from mcdo.stats import Estimate
    from mcdo.stats.planning import AssumedForecast, needed_for_assumed, needed_for_usable

    values = _assumptions(asked.assume)
    passes = arguments.whole("--assume: passes", values.pop("passes", 64), least=2)
    for name, value in values.items():
        bar, kind = ASSUMABLE[name]
        if kind is None:
            forecast = AssumedForecast(value, passes)
            need = needed_for_usable(forecast, power=power, most=most)
        else:
            need = needed_for_assumed(kind, value, float(bar.split()[-1]), passes, power=power, most=most)
        estimate = Estimate(value, value, value, 0)
        yield Planned("assumed", f"T={passes}", name, estimate, bar, need)


def _assumptions(text: str) -> dict[str, float]:
    known = (*ASSUMABLE, "passes")
    found: dict[str, float] = {}
    for word in words(text):
        written, _, value = word.partition("=")
        name = written.strip()
        if name not in known:
            raise McdoError(f"--assume: {name!r} cannot be assumed; the nearest: {nearest(name, known)}")
        if name in found:
            raise McdoError(f"--assume: {name} is assumed twice; a plan is made for one value of it")
        try:
            found[name] = float(value)
        except ValueError:
            raise McdoError(f"--assume: {word}: write NAME=NUMBER, such as spearman=0.7") from None
    if not set(found) - {"passes"}:
        raise McdoError(f"--assume names no figure; give one of {', '.join(ASSUMABLE)}")
    return found


def _parted(found: list[Planned | Missing]) -> tuple[list[Planned], list[Missing]]:
    from mcdo.harness.pilot import Missing

    plans = [each for each in found if not isinstance(each, Missing)]
    return plans, [each for each in found if isinstance(each, Missing)]


# ---- what it takes


def _rates(settings: Settings, rate: float | None) -> dict[str, _Rate]:
    """Of every model whose weights are here; a few passes are timed."""
    from mcdo.harness import Session
    from mcdo.harness.remaining import most_held, seconds_per_pass

    if rate is not None and not 0 < rate < math.inf:
        raise McdoError(f"--rate={rate:g}: give passes per second, more than none and not infinitely many")
    session, found = Session(replace(settings, store=None)), {}
    for model in settings.models:
        try:
            encoder = session.encoder(model)
        except McdoError as error:
            if rate is None:
                raise McdoError(f"{error}; or give --rate=PASSES_PER_SECOND to plan without the weights") from error
            continue
        seconds = seconds_per_pass(encoder, settings.batch_size) if rate is None else 1 / rate
        found[model] = _Rate(model, encoder, seconds, most_held())
    return found


def _expenses(rate: _Rate, settings: Settings) -> Table:
    from mcdo.estimators import MonteCarloConfig
    from mcdo.harness.expense import expense
    from mcdo.harness.remaining import duration
    from mcdo.report.terminal import Table
    from mcdo.stats.planning import Size

    ladder = (4, 8, 16, 32, 64, 128, 256)
    rows = []
    for size in (Size(n, K, T) for n in GRID[0] for K in GRID[1] for T in GRID[2]):
        config = MonteCarloConfig(settings.dropout, ladder, size.trials, geometry=(64,))  # as phase 1 takes it
        each = expense(rate.encoder, size, config, rate.seconds)
        rows.append(
            (
                *(f"{size.images:,}", str(size.trials), str(size.passes), f"{each.passes:,}"),
                *(duration(each.seconds), size_of(each.memory), size_of(each.stored)),
            )
        )
    title = (
        f"What a run of {rate.model} takes on {settings.device}, at {1 / rate.seconds:,.0f} passes a second "
        f"(memory on top of the {size_of(rate.held)} of the process)"
    )
    return Table(title, ("N", "K", "T", "passes", "time", "memory", "store"), tuple(rows))


# ---- what is said


def _claims(plans: list[Planned], rates: Mapping[str, _Rate]) -> Iterator[Table]:
    from mcdo.report.terminal import Table

    heading = ("model", "claim", "now", "bar", "is", "N", "K", "T", "time", "chance")
    groups = (
        ("Is the score usable, and from which size on?", True),
        ("Claims of single figures, at the trials and passes of the pilot", False),
    )
    for title, usable in groups:
        rows = tuple(_row(each, rates) for each in plans if (each.bar == "usable") is usable)
        yield Table(title, heading, rows)


def _row(each: Planned, rates: Mapping[str, _Rate]) -> tuple[str, ...]:
    from mcdo.report.terminal import interval, number

    need, size = each.need, each.need.size
    now = interval(each.estimate) if each.estimate.n else f"{number(each.estimate.value)} (assumed)"
    is_ = {"decided": f"{need.outcome} already", "attainable": f"to be {need.outcome}", "out of reach": "out of reach"}
    sizes = ("", "", "") if size is None else (f"{size.images:,}", str(size.trials), str(size.passes))
    chance = f"{need.chance:.2f}" if need.state == "attainable" else ""
    what = f"{each.experiment}/{each.claim}"
    return each.model, what, now, each.bar, is_[need.state], *sizes, _time(each, need, rates), chance


def _time(each: Planned, need: Need, rates: Mapping[str, _Rate]) -> str:
    from mcdo.harness.remaining import duration

    rate = rates.get(each.model) or next(iter(rates.values()), None)
    if need.size is None or need.state == "decided" or rate is None:
        return ""
    return duration(need.size.total * rate.seconds)


def _closing(plans: list[Planned], missing: list[Missing], asked: argparse.Namespace, power: float) -> list[str]:
    said = [f"Planned so that a run decides with probability {power:g}; N counts originals."]
    open_ = [each for each in plans if each.need.state == "out of reach"]
    said += [f"{each.model} {each.experiment}/{each.claim}: {each.need.reason}" for each in open_]
    doubts = [each for each in plans if each.need.state == "attainable" and each.need.reason]
    said += [f"{each.model} {each.experiment}/{each.claim}: {each.need.reason}" for each in doubts]
    if missing:
        keys = ", ".join(dict.fromkeys(each.experiment for each in missing))
        said.append(f"No pilot in {asked.store} of {keys}: pytest -m phase1, or -m prelim, with the same options.")
    for model in dict.fromkeys(each.model for each in plans if each.bar == "usable"):
        size = _together([each.need.size for each in plans if each.model == model and each.bar == "usable"])
        if size is not None and model != "assumed":
            sizes = f"--num-images={size.images}", f"--trials={size.trials}", f"--passes={size.passes}"
            said.append(f"{model}: {_command(asked, (model,), *sizes)}")
    return said


def _together(sizes: list[Size | None]) -> Size | None:
    """One size that serves several scores."""
    from mcdo.stats.planning import Size

    held = [size for size in sizes if size is not None]
    if not held:
        return None
    return Size(*(max(getattr(size, name) for size in held) for name in ("images", "trials", "passes")))


_OF_THE_PILOT: Mapping[str, object] = {
    "images": "digits",
    "store": Path("store"),
    "device": "auto",
    "precision": "float32",
    "perturbation": None,
    "seed": 42,
}
"""Options of a pilot beside its sizes, with what pytest takes unasked: another pilot's plan holds for no other run."""


def _command(asked: argparse.Namespace, models: tuple[str, ...], *sizes: str) -> str:
    given = {name: getattr(asked, name) for name, default in _OF_THE_PILOT.items() if getattr(asked, name) != default}
    random = [name for name in words(asked.random_weights) if name in models]
    options = {"models": ",".join(models), **given} | ({"random-weights": ",".join(random)} if random else {})
    return shlex.join(["pytest", "-m", "phase1", *(f"--{name}={value}" for name, value in options.items()), *sizes])


def _entry(each: Planned) -> dict[str, Any]:
    from dataclasses import asdict

    from mcdo.schema import plain

    facts: dict[str, Any] = plain(asdict(each))
    return facts
