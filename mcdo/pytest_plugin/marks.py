"""Marks: what a test is about and what it needs; strict, so a mistyped one is an error."""

from __future__ import annotations

import re
import sys
from contextlib import suppress

import pytest
import torch

from mcdo.encoders import REGISTRY, find_spec
from mcdo.errors import McdoError, nearest
from mcdo.harness.catalogue import phases
from mcdo.names import is_unicode, printable
from mcdo.pytest_plugin.option_names import option_of
from mcdo.pytest_plugin.state import NOTED

TIERS = ("cpu", "mps", "cuda")
LATER_PHASES = ("phase2", "phase3", "phase4")
MARKS = {
    "gate": "a go/no-go criterion",
    "own_gate": "a gate of the harness itself: without it there is no verdict",
    "decision": "the verdict; it comes after the experiments that it rests on",
    "perf": "throughput floors and ratios; only with --benchmark",
    "faults": "injects faults on purpose: killed processes, damaged files, hostile inputs",
    "cluster": "starts a SLURM of its own; skipped where there is none",
    "browser": "opens a page in Chromium; skipped where there is none",
    "slow": "takes more than a few seconds, or a large model",
    "own": "an encoder of one's own",
    "vit": "a classifier's vision transformer, without text",
    "cpu": "runs on the CPU",
    "mps": "runs on an Apple GPU",
    "cuda": "runs on an NVIDIA GPU",
    "experiment(type)": "the experiment of a test; what all selected ones request is planned together",
    "estimator(name)": "phase 1 of one estimator, mc or first_order; --estimator chooses",
    "first_model": "runs on one model only: the first of the family clip, or the first",
}
"""Marks that are not names of phases or families: these come from the experiments and the encoders."""


def every_mark(config: pytest.Config) -> dict[str, str]:
    """Marks by name: phases of experiments, families of encoders, those of this session's included, and the others."""
    families = [spec.family for spec in REGISTRY.values()]
    with suppress(McdoError):  # an unknown model is reported where settings are made
        families += [find_spec(model.strip()).family for model in option_of(config, "--models").split(",")]
    return {**phases(), **{family: f"about a tower of the family {family}" for family in families}, **MARKS}


WARNINGS = (
    "error::mcdo.errors.McdoWarning",
    "always::mcdo.errors.UnwrittenWarning",
    "always::mcdo.store.StoreWarning",
    "ignore:record_property is incompatible with junit_family:pytest.PytestWarning",  # it is written all the same
)
"""Of all warnings only our own doubts about a number fail a test: no other may cost a finished measurement."""


def pytest_configure(config: pytest.Config) -> None:
    if sys.flags.optimize:
        raise pytest.UsageError("python -O leaves assertions out, and gates rest on them: leave out -O, PYTHONOPTIMIZE")
    try:
        marks = every_mark(config)
    except McdoError as error:
        raise pytest.UsageError(str(error)) from error
    for name, meaning in marks.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")
    for rule in WARNINGS:
        config.addinivalue_line("filterwarnings", rule)
    _check_mark_expression(config)
    if option_of(config, "--benchmark") and (config.getoption("numprocesses", None) or hasattr(config, "workerinput")):
        raise pytest.UsageError("--benchmark measures times, which workers would spoil: leave out -n")
    loaded = any(map(config.pluginmanager.hasplugin, ("benchmark", "pytest_benchmark.plugin")))
    if option_of(config, "--benchmark") and not loaded:
        raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install -e '.[test]', and no -p no:benchmark")
    if config.getoption("numprocesses", None):
        _check_words(config)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:  # or every worker would take all cores, and wait for the others
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def _check_words(config: pytest.Config) -> None:
    """Refuse options that xdist cannot hand to its workers."""
    broken = [word for word in config.invocation_params.args if not is_unicode(str(word))]
    if broken:
        raise pytest.UsageError(f"{printable(str(broken[0]))} is no UTF-8, which workers cannot be told: leave out -n")


def _check_mark_expression(config: pytest.Config) -> None:
    """Refuse ``-m`` with a mark that does not exist: pytest would select nothing and say so only in passing."""
    known = {line.split(":")[0].split("(")[0].strip() for line in config.getini("markers")}
    for word in re.findall(r"[A-Za-z_]\w*", config.option.markexpr or ""):
        if word not in known | {"and", "or", "not", "True", "False"}:
            raise pytest.UsageError(f"unknown mark {word!r} in -m; the nearest: {nearest(word, known)}")


def tiers_of(item: pytest.Item) -> set[str]:
    """The hardware that a test is marked with."""
    return {tier for tier in TIERS if item.get_closest_marker(tier)}


def check_tier(item: pytest.Item) -> None:
    """Skip a test whose hardware is not there, or fail it with ``--require-tier``."""
    wanted = tiers_of(item)
    present = (
        {"cpu"}
        | {t for t in ("cuda",) if torch.cuda.is_available()}
        | {t for t in ("mps",) if torch.backends.mps.is_available()}
    )
    if wanted and not wanted & present:
        message = f"needs {' or '.join(sorted(wanted))}; found {', '.join(sorted(present))}"
        if wanted & set(option_of(item.config, "--require-tier")):
            pytest.fail(f"{message} (--require-tier)", pytrace=False)
        item.stash[NOTED] = ""  # it takes away no GO
        pytest.skip(message)
