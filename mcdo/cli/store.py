"""``mcdo store``: what was measured is listed, counted, verified, merged with other stores, and pruned."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from mcdo.errors import McdoError
from mcdo.names import columns, say, size_of
from mcdo.store import upkeep


def add_commands(store: argparse.ArgumentParser) -> None:
    """Add what ``mcdo store`` does."""
    commands = store.add_subparsers(required=True, metavar="list|stats|verify|push|pull|prune")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--store", type=Path, default=Path("store"), help="folder of the store (default: store)")
    for name, run, meaning in (
        ("push", _push, "copy to another store what it lacks"),
        ("pull", _pull, "copy from another store what this one lacks"),
    ):
        command = commands.add_parser(
            name, parents=[place], help=meaning, description=f"{meaning}; nothing is replaced but what is damaged"
        )
        command.add_argument("other", metavar="DIR|URL", help="a folder, or ssh://host/folder, s3://bucket/folder, …")
        command.set_defaults(run=run)
    for name, run, meaning in (
        ("list", _list, "what is in the store, oldest first"),
        ("stats", _stats, "how much is in the store, by encoder and by experiment"),
        ("verify", _verify, "read every file; exit status 1 if one is damaged"),
        ("prune", _prune, "remove damaged files and what killed processes left; says what it would do without --yes"),
    ):
        command = commands.add_parser(name, parents=[place], help=meaning, description=meaning)
        command.set_defaults(run=run)
    command.add_argument("--yes", action="store_true", help="do it")
    command.add_argument(
        "--older-than",
        type=float,
        default=7.0,
        metavar="DAYS",
        help="age of unfinished runs and other versions (default: 7)",
    )
    command.add_argument(
        "--other-versions", action="store_true", help="results of other versions of the libraries as well"
    )


def _list(asked: argparse.Namespace) -> int:
    found = upkeep.entries(asked.store)
    rows = [("key", "encoder", "images", "size", "age", "protocol")]
    for entry in found:
        label = entry.label
        protocol = label.get("protocol", "cannot be read: see mcdo store verify" if entry.facts is None else "?")
        state = "" if entry.parts is None else f"unfinished, {entry.parts} parts: "
        rows.append(
            (
                *(upkeep.short(entry.path.stem), label.get("encoder", "?"), label.get("images", "?")),
                *(size_of(entry.size), _age(entry.age), state + protocol),
            )
        )
    for line in columns(rows, sys.stdout.encoding):
        say(line)
    say(f"{asked.store}: {len(found)} in all, {size_of(sum(entry.size for entry in found))}")
    return 0


def _stats(asked: argparse.Namespace) -> int:
    found = {entry.path.stem: entry for entry in upkeep.entries(asked.store)}
    uses = upkeep.uses(asked.store)
    users: dict[str, list[str]] = {}
    for experiment, keys in uses.items():
        for key in keys & found.keys():
            users.setdefault(key, []).append(experiment)
    groups: dict[tuple[str, str], list[upkeep.Entry]] = {}
    for key, entry in found.items():
        encoder = entry.label.get("encoder", (entry.facts or {}).get("provenance", {}).get("model", "?"))
        for experiment in users.get(key, ["-"]):
            groups.setdefault((str(encoder), experiment), []).append(entry)
    rows = [("encoder", "experiment", "whole", "unfinished", "size")]
    for (encoder, experiment), entries in sorted(groups.items()):
        whole = sum(entry.parts is None for entry in entries)
        size = size_of(sum(entry.size for entry in entries))
        rows.append((encoder, experiment, str(whole), str(len(entries) - whole), size))
    for line in columns(rows, sys.stdout.encoding):
        say(line)
    size = size_of(sum(entry.size for entry in found.values()))
    say(f"{asked.store}: {len(found)} in all, {size}; several experiments may want the same")
    return 0


def _push(asked: argparse.Namespace) -> int:
    return _merge(str(asked.store), asked.other)


def _pull(asked: argparse.Namespace) -> int:
    return _merge(asked.other, str(asked.store))


def _merge(source: str, target: str) -> int:
    from mcdo.store.exchange import merge

    done = merge(source, target)
    for name, why in done.damaged.items():
        say(f"damaged, and left: {name} ({why})")
    for name, why in done.replaced.items():
        say(f"damaged where it was copied to, and replaced: {name} ({why})")
    for name in done.different:
        say(f"other numbers under one key, and left: {name}")
    say(f"{len(done.copied)} files copied, {size_of(done.size)}; {done.there} were there")
    return int(bool(done.damaged or done.different))


def _verify(asked: argparse.Namespace) -> int:
    count, bad = 0, 0
    for path, error in upkeep.verified(asked.store):
        count += 1
        if error is not None:
            bad += 1
            say(f"damaged: {path} ({error})")
    advice = "; mcdo store prune removes damaged ones, and they are measured again when wanted" if bad else ""
    print(f"{count} files read, {bad} damaged{advice}")
    return 1 if bad else 0


def _prune(asked: argparse.Namespace) -> int:
    from mcdo.estimators.provenance import versions  # torch, for those who ask for versions

    if not 0 <= asked.older_than < math.inf:
        raise McdoError(f"--older-than={asked.older_than:g} is no age; give days, 0 or more")
    found = upkeep.waste(asked.store, asked.older_than, versions() if asked.other_versions else None)
    gone = []
    for each in found:
        if not asked.yes or each.remove():
            gone.append(each)
            say(f"{'removed' if asked.yes else 'would remove'} {each.path} ({size_of(each.size)}; {each.reason})")
        else:
            say(f"left {each.path}: a process works on it")
    total = f"{len(gone)} things, {size_of(sum(each.size for each in gone))}"
    print(f"removed {total}" if asked.yes else f"would remove {total}" + ("; --yes does it" if found else ""))
    return 0


def _age(days: float) -> str:
    hours = 24 * days
    return f"{days:.0f} d" if days >= 2 else f"{hours:.0f} h" if hours >= 2 else f"{60 * hours:.0f} min"
