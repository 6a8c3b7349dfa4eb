"""What pytest loads in every repository: the plug-in itself follows where a test or a conftest imports mcdo.

So where none does, there is no option, mark or fixture of ours, and no library to wait for. ``-p no:mcdo`` leaves all
of it out.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from fnmatch import fnmatch
from glob import iglob
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

PLUGIN = "mcdo.pytest_plugin"
MADE_IN = "mcdo.harness.tests"
"""Where ``tests_of`` stands, and says that its classes come from."""
REWRITTEN = (PLUGIN, MADE_IN, "mcdo.suite")
"""Modules of ours whose asserts end tests, and those that pytest itself imports as plug-ins."""
_IMPORTS = re.compile(rb"^\s*(?:from|import)\s+mcdo\b|^\s*pytest_plugins\b.*\bmcdo\.pytest_plugin\b", re.MULTILINE)


class _AsWritten(MetaPathFinder):
    """Finds our modules as Python does.

    pytest looks for asserts in all modules of a package that brings a plug-in, and reads what it has made of them
    several times as slowly. Only :data:`REWRITTEN` is left to it.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        ours = fullname.startswith("mcdo.") and not fullname.startswith(REWRITTEN)
        return PathFinder.find_spec(fullname, path) if ours else None


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Load the plug-in behind the conftests, whose options come first.

    Without the garbage collector, which would walk all that torch brings again and again, and finds nothing; where the
    plug-in is loaded, it is off until the tests are collected.
    """
    finder = _AsWritten()
    sys.meta_path.insert(0, finder)
    early_config.add_cleanup(lambda: sys.meta_path.remove(finder))
    gc.disable()
    early_config.add_cleanup(gc.enable)
    found = yield
    if any(map(_imports_mcdo, _candidates(early_config))):
        early_config.pluginmanager.import_plugin(PLUGIN)
    if not early_config.pluginmanager.hasplugin(PLUGIN):
        gc.enable()
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Refuse a run without its configuration, where pytest took the value of an option for a place of tests."""
    here, ini = config.invocation_params.dir, config.inipath
    moved = config.rootpath != here if ini is None else ini.parent not in (here, *here.parents)
    tests_named = config.args_source is pytest.Config.ArgsSource.ARGS
    ours = config.pluginmanager.hasplugin(PLUGIN)
    if ours and moved and not tests_named and not config.option.inifilename:
        for option, value in _in_two_words(config):
            raise pytest.UsageError(
                f"pytest took {value} for a place of tests, and looked there for its configuration and not in {here}: "
                f"write {option}={value}"
            )


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> None:
    """Refuse to pass over tests that ``tests_of`` made in a module that does not itself import mcdo."""
    made = isinstance(obj, type) and obj.__module__ == MADE_IN
    if made and not collector.config.pluginmanager.hasplugin(PLUGIN):
        raise pytest.UsageError(
            f"{collector.nodeid}::{name} needs mcdo's plug-in, which is loaded where a test module imports mcdo: "
            f'import tests_of there, or write pytest_plugins = ["{PLUGIN}"] into the conftest.py of the root folder'
        )


def _candidates(config: pytest.Config) -> Iterator[Path]:
    """Files that this run may collect tests from, or take fixtures from."""
    for plugin in config.pluginmanager.get_plugins():
        file = getattr(plugin, "__file__", None)
        if file and os.path.basename(file) == "conftest.py":
            yield Path(file)
    patterns, skipped = ("conftest.py", *config.getini("python_files")), config.getini("norecursedirs")
    for place in _places(config):
        yield from [place] if place.is_file() else _below(place, patterns, skipped)


def _places(config: pytest.Config) -> Iterable[Path]:
    here = config.invocation_params.dir
    given = map(str, config.known_args_namespace.file_or_dir)
    named = [here / each.partition("::")[0] for each in given if not each.startswith("-")]  # as --store="a b" looks yet
    if named and {value for _, value in _in_two_words(config)}.isdisjoint(map(Path, named)):
        return named
    patterns = config.getini("testpaths") if here == config.rootpath else ()
    tests = [Path(place) for each in patterns for place in iglob(str(here / each), recursive=True)]
    return [*named, *(tests or [here])]


def _in_two_words(config: pytest.Config) -> Iterator[tuple[str, Path]]:
    """Options and existing paths behind them, as ``--reports out``: a place of tests, unless the option is known."""
    words, here = map(str, config.invocation_params.args), config.invocation_params.dir
    for option, value in pairwise(words):
        if option.startswith("--") and "=" not in option and (here / value).exists():
            yield option, here / value


def _below(folder: Path, patterns: Iterable[str], skipped: Iterable[str]) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [
            each
            for each in folders
            if not any(fnmatch(each, pattern) for pattern in skipped)
            and not os.path.exists(os.path.join(place, each, "pyvenv.cfg"))
        ]
        for file in files:
            if file.endswith(".py") and any(fnmatch(file, pattern.rpartition("/")[2]) for pattern in patterns):
                yield Path(place, file)


def _imports_mcdo(file: Path) -> bool:
    try:
        return _IMPORTS.search(file.read_bytes()) is not None
    except OSError:  # pytest says so where it matters
        return False
