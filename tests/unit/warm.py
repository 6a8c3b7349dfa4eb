"""Preloaded by the server that the processes of forked.py come from: what takes long to import, and one measurement."""

from __future__ import annotations

import gc
import importlib
from pkgutil import walk_packages

import torch
from store_child import measure

from mcdo import experiments, pytest_plugin, studies
from mcdo.store.fingerprint import measuring_code

OURS = [
    module.name
    for room in (experiments, pytest_plugin, studies)
    for module in walk_packages(room.__path__, f"{room.__name__}.")
]
THEIRS = (
    *("_hypothesis_pytestplugin", "pdb", "pytest_benchmark.plugin", "xdist.plugin"),  # every pytest here takes them
    *("fontTools.subset", *(f"matplotlib.backends.backend_{form}" for form in ("agg", "pdf", "svg"))),
)
for name in ("cluster_child", "hypothesis", "pytest_child", *THEIRS, *OURS):
    importlib.import_module(name)

measuring_code()
torch.set_num_threads(1)  # a pool of threads would not survive the fork
measure(None, passes=(2,), trials=1, progress=False)
gc.freeze()  # or each process visits all of this, several times where it runs pytest: it collects garbage at its end
