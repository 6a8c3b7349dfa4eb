"""Preloaded by the server that the processes of forked.py come from: what takes long to import, and one measurement."""

from __future__ import annotations

import gc
import importlib
from pkgutil import walk_packages

import torch
from _pytest.config import default_plugins
from pytest_child import tables
from store_child import measure

from mcdo import experiments, pytest_plugin, studies
from mcdo.report import figures
from mcdo.store.fingerprint import measuring_code

OURS = [
    module.name
    for room in (experiments, pytest_plugin, studies)
    for module in walk_packages(room.__path__, f"{room.__name__}.")
]
THEIRS = (
    *("_hypothesis_pytestplugin", "pdb", "readline", "tomllib"),  # every pytest here takes them
    *(f"pytest_benchmark.{part}" for part in ("hookspec", "plugin", "storage.file")),
    *("xdist.looponfail", "xdist.newhooks", "xdist.plugin", "xdist.remote"),
    *(f"_pytest.{name}" for name in default_plugins),
    *("scipy.optimize", "scipy.special", "scipy.stats", "matplotlib.backends.backend_agg", "matplotlib.pyplot"),
)
for name in ("cluster_child", "hypothesis", *THEIRS, *OURS):
    importlib.import_module(name)

figures.FORMATS = {"png": figures.FORMATS["png"]}  # as in conftest.py
measuring_code("mcdo.rivals.logits", "mcdo.stats", "mcdo.experiments.phase1")  # compiles what keys and verdicts name
for table in tables():
    list(table)  # reads what each installed package adds
torch.set_num_threads(1)  # a pool of threads would not survive the fork
measure(None, passes=(2,), trials=1, progress=False)
gc.freeze()  # or each process visits all of this, several times where it runs pytest: it collects garbage at its end
