"""All experiments by key: mcdo's own, each in a module of its phase's package, and those that others register."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules, walk_packages
from typing import Any, TypeVar

from mcdo.errors import McdoError
from mcdo.harness.experiment import Experiment
from mcdo.registration import Table

ROOMS = ("mcdo.experiments", "mcdo.studies")
"""Where mcdo's own stand: the package of a phase is named like its mark, and its docstring says what it is about."""

Kind = TypeVar("Kind", bound=type[Experiment[Any]])


def _accepted(name: str, found: object) -> type[Experiment[Any]]:
    if not (isinstance(found, type) and issubclass(found, Experiment) and found.key == name):
        raise McdoError(f"the entry point {name!r} of mcdo.experiments names {found!r}, and no Experiment of that key")
    return found


EXPERIMENTS: Table[type[Experiment[Any]]] = Table("experiment", "mcdo.experiments", _accepted)
"""Experiments from outside, by ``key``: what was registered, and what installed packages offer."""


def register_experiment(kind: Kind) -> Kind:
    """Decorates an experiment, whose phase then is a mark, and which ``tests_of(phase)`` collects.

    Raises:
        McdoError: for a key that is taken.

    """
    EXPERIMENTS.add(kind.key, kind)
    return kind


def phases() -> dict[str, str]:
    """Phases by name, and what each is about: the marks that select experiments."""
    found = {}
    for room in ROOMS:
        for folder in _folders(room):
            for module in iter_modules([str(folder)]):
                if module.ispkg:
                    found[module.name] = _about(folder / module.name / "__init__.py")
    for name in EXPERIMENTS:
        kind = EXPERIMENTS.find(name)
        found.setdefault(kind.phase, (inspect.getdoc(kind) or kind.key).partition("\n")[0].rstrip("."))
    return found


def experiments_of(phase: str) -> tuple[type[Experiment[Any]], ...]:
    """The experiments of a phase, mcdo's own first.

    Raises:
        McdoError: for a phase without any, and for one from outside with the key of one of mcdo's own.

    """
    own = {kind.key: kind for kind in _own(phase)}
    others = [kind for kind in map(EXPERIMENTS.find, EXPERIMENTS) if kind.phase == phase]
    for kind in others:
        if kind.key in own:
            raise McdoError(f"the experiment {kind.key!r} of {kind.__module__} has the key of {own[kind.key].__name__}")
    if not own and not others:
        raise McdoError(f"there is no experiment of phase {phase!r}; phases are {', '.join(phases())}")
    return (*own.values(), *others)


def _folders(room: str) -> Iterator[Path]:
    spec = find_spec(room)
    yield from map(Path, () if spec is None else spec.submodule_search_locations or ())


def _about(file: Path) -> str:
    """First line of a package's docstring, which is not imported for it."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0].rstrip(".")


def _own(phase: str) -> Iterator[type[Experiment[Any]]]:
    for room in ROOMS:
        for folder in _folders(room):
            place = folder / phase
            for module in walk_packages([str(place)], f"{room}.{phase}."):
                if not module.name.endswith("__main__"):
                    yield from _defined(import_module(module.name), phase)


def _defined(module: Any, phase: str) -> Iterator[type[Experiment[Any]]]:
    here = [kind for kind in vars(module).values() if getattr(kind, "__module__", None) == module.__name__]
    for kind in here:
        if isinstance(kind, type) and issubclass(kind, Experiment) and hasattr(kind, "key") and kind.phase == phase:
            yield kind
