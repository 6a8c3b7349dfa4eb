"""Root conftest: loads the harness, so that its options, marks and fixtures exist wherever pytest is called from."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest


def _is_timed() -> bool:
    """Whether pytest-benchmark is asked for: it starts git six times, whether anything is timed or not."""
    words = sys.argv[1:]
    asked = any(word.startswith("--benchmark") for word in words) and "no:benchmark" not in words
    return asked and find_spec("pytest_benchmark") is not None


pytest_plugins = ["mcdo.pytest_plugin", *(["pytest_benchmark.plugin"] if _is_timed() else [])]

SLOW = {
    *("h5py", "huggingface_hub", "matplotlib", "numba", "open_clip", "pandas", "sklearn", "timm", "torchvision"),
    *("transformers", "scipy.optimize", "scipy.special", "scipy.stats"),  # a part is imported where it is named
}
"""Libraries that take long to import: tests import them where they are used, or each of them waits for all."""

gc.set_threshold(10_000, 10, 10)
"""A tenth of the time went to collections: every library that a test brings and every model that it builds starts some,
and each walks all that came before it."""

PHASES = ("experiments", "gates")
"""Folders of the tests that bear the mark of a phase."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m phase1`` leaves out all other folders: it need not import their modules to say so of each test."""
    tests = Path(__file__).parent / "tests"
    elsewhere = collection_path.parent == tests and collection_path.name not in PHASES
    return True if elsewhere and re.fullmatch(r"phase\d", config.option.markexpr) else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A test's module that imports a slow library as it is collected is an error.

    But where encoders or data of one's own are named: what is told of them may take the library that they are of.
    """
    from mcdo.pytest_plugin.options import OWN_DATA

    before = SLOW & sys.modules.keys()
    report = yield
    brought = (SLOW & sys.modules.keys()) - before
    own = ("--models", "--scorers", *OWN_DATA)
    named = any(str(word).startswith(own) for word in collector.config.invocation_params.args)
    if brought and not named:
        report.outcome = "failed"
        where = collector.nodeid or "a conftest.py"
        report.longrepr = f"{where} imports {', '.join(sorted(brought))} as it is collected: import it where it is used"
    return report
