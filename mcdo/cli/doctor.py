"""``mcdo doctor``: what is there, what is not, and the command that mends it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.names import columns, say, words
from mcdo.report.finding import Finding, State

PLUGINS = {
    "pytest-xdist": "pytest -n 2",
    "pytest-benchmark": "pytest tests/perf --benchmark",
    "hypothesis": "make test",
}
"""What the harness uses where it is installed, and for what."""
BROKEN = (ImportError, AttributeError, OSError, RuntimeError)
"""What a library that does not fit the others raises when it is imported."""
LEAST_FREE = 2**30
"""Bytes that a store should find free."""


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser("doctor", help="say what is there, what is not, and the command that mends it")
    parser.add_argument("--models", default="", help="encoders that are wanted, by commas: theirs must be on disk")
    parser.add_argument("--images", default="digits", help="image set that is wanted (default: digits)")
    parser.add_argument("--device", default="auto", help="device that is wanted: auto, cpu, cuda, mps (default: auto)")
    parser.add_argument("--store", type=Path, default=Path("store"), help="default: store")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="default: reports")
    parser.add_argument(
        "--check", type=Path, metavar="FOLDER", help="run the device's whole check into FOLDER too (8 min on a GPU)"
    )
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Say what was found; the exit status is 1 where something is wrong."""
    rooms: dict[str, Callable[[], Iterable[Finding]]] = {
        "software": _software,
        "devices": lambda: _devices(asked.device),
        "weights": lambda: _weights(words(asked.models)),
        "images": lambda: _images(asked.images),
        "folders": lambda: _places(asked.store, asked.reports),
        "programs": _programs,
    }
    found: list[Finding] = []
    for what, room in rooms.items():
        try:
            for each in room():
                found.append(each)
        except BROKEN as error:
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            found.append(Finding(what, "wrong", f"cannot be looked at ({why}): mend what is wrong here, and ask again"))
    rows = [(each.what, each.state, " ".join(each.said.removeprefix(f"{each.what}: ").split())) for each in found]
    for line in columns(rows, sys.stdout.encoding):
        say(line)
    wrong = [each.what for each in found if each.state == "wrong"]
    say(f"{len(wrong)} to be mended: {', '.join(wrong)}" if wrong else "Nothing is in the way.")
    if asked.check is not None and not wrong:
        return int(not _checked(asked.device, asked.check))
    return int(bool(wrong))


def _checked(device: str, folder: Path) -> bool:
    """Whether every section of the device check ran and nothing is broken; on a CPU at tiny sizes."""
    from mcdo.encoders.load import device_named
    from mcdo.experiments.cost.device.check import run as check_of
    from mcdo.experiments.cost.device.setup import TOY, DeviceCheck

    kind = device_named(device).type
    check = check_of(kind, TOY if kind == "cpu" else DeviceCheck(), folder, say)
    say(f"{folder / 'device.md'}: {'nothing is broken' if check.ok else 'not all ran, or something is broken'}")
    return check.ok


def _software() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    pinned = _constraints()
    for requirement in importlib.metadata.requires("mcdo") or ():
        name, _, rest = requirement.partition(";")
        bare = re.split(r"[<>=!~ \[]", name, maxsplit=1)[0]
        if "extra" in rest or "python_version" in rest:
            continue
        yield _version(bare, name.removeprefix(bare), pinned)
    for name, use in PLUGINS.items():
        try:
            yield Finding(name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "absent", f'pip install "mcdo[test]" brings it, for {use}')


def _version(name: str, bound: str, pinned: Mapping[str, str]) -> Finding:
    from packaging.specifiers import SpecifierSet

    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "wrong", f'is not installed: pip install "{name}{bound}"')
    if version not in SpecifierSet(bound, prereleases=True):
        return Finding(name, "wrong", f'{version}, but mcdo needs {bound}: pip install "{name}{bound}"')
    tested = pinned.get(name.replace("_", "-").lower(), version)
    return Finding(name, "ok", version if tested == version else f"{version} (tested with {tested})")


def _constraints() -> dict[str, str]:
    """What CI runs under this Python, where mcdo is a checkout."""
    from packaging.requirements import InvalidRequirement, Requirement

    path = Path(__file__).resolve().parents[2] / "constraints.txt"
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            requirement = Requirement(line.partition("#")[0])
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            found[requirement.name.lower()] = str(requirement.specifier).removeprefix("==")
    return found


def _devices(wanted: str) -> Iterator[Finding]:
    import torch

    from mcdo.encoders.load import device_named

    yield Finding("cpu", "ok", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    name = f"{torch.cuda.get_device_name(0)}, {torch.cuda.device_count()} of them" if cuda else "none that torch sees"
    kinds = {"cuda": (cuda, name), "mps": (mps, "Apple GPU" if mps else "none that torch sees")}
    kind = wanted
    if wanted != "auto":
        try:
            kind = device_named(wanted).type
        except McdoError as error:
            yield Finding("--device", "wrong", str(error))
    for tier, (there, said) in kinds.items():
        missing: State = "wrong" if kind == tier else "absent"
        yield Finding(tier, "ok" if there else missing, said)


def _weights(wanted: tuple[str, ...]) -> Iterator[Finding]:
    from mcdo.encoders import REGISTRY
    from mcdo.harness.preflight import weights

    for key in dict.fromkeys((*wanted, *REGISTRY)):
        yield weights(key, "wrong" if key in wanted else "absent")


def _images(spec: str) -> list[Finding]:
    from mcdo.harness.preflight import LOOK_S, images

    return images(spec, None, 0, LOOK_S, skip=False)[0]


def _places(store: Path, reports: Path) -> Iterator[Finding]:
    from mcdo.harness.preflight import places
    from mcdo.store import upkeep

    yield from places(store, reports, LEAST_FREE)
    with suppress(McdoError):  # which was said
        held = len(upkeep.entries(store)) if store.is_dir() else 0
        damaged = sum(error is not None for _, error in upkeep.verified(store)) if held else 0
        mend = f"mcdo store prune --store={store} --yes"
        said = f"{held} entries, {damaged} damaged" + (f": {mend}" if damaged else "")
        yield Finding("entries", "wrong" if damaged else "ok", said)


def _programs() -> Iterator[Finding]:
    slurm = shutil.which("sbatch")
    yield Finding("slurm", "ok" if slurm else "absent", slurm or "no sbatch on the path: arrays of jobs need one")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    yield Finding("chromium", "ok" if chromium else "absent", chromium or "only make browser needs it")
