"""What pytest loads in every repository: the plug-in itself follows where a test or a conftest imports mcdo.

So where none does, there is no option, mark or fixture of ours, and no library to wait for. ``-p no:mcdo`` leaves all
of it out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Iterator
from fnmatch import fnmatch
from glob import iglob
from pathlib import Path

import pytest

PLUGIN = "mcdo.pytest_plugin"
MADE_IN = "mcdo.harness.tests"
"""Where ``tests_of`` stands, and says that its classes come from."""
_IMPORTS = re.compile(rb"^\s*(?:from|import)\s+mcdo\b|^\s*pytest_plugins\b.*\bmcdo\.pytest_plugin\b", re.MULTILINE)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Load the plug-in behind the conftests, whose options come first."""
    found = yield
    if any(map(_imports_mcdo, _candidates(early_config))):
        early_config.pluginmanager.import_plugin(PLUGIN)
    return found


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
    if named or here != config.rootpath:
        return named or [here]
    return [
        Path(place) for each in config.getini("testpaths") for place in iglob(str(here / each), recursive=True)
    ] or [here]


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
