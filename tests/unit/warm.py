"""Preloaded by the server that the processes of forked.py come from: what takes long to import, and one measurement."""

from __future__ import annotations

import gc
import importlib
from pkgutil import walk_packages

import torch
from store_child import measure

from mcdo import experiments

EXPERIMENTS = [module.name for module in walk_packages(experiments.__path__, "mcdo.experiments.")]
for name in ("hypothesis", "matplotlib.figure", "mcdo.pytest_plugin", "cluster_child", *EXPERIMENTS):
    importlib.import_module(name)

torch.set_num_threads(1)  # a pool of threads would not survive the fork
measure(None, passes=(2,), trials=1, progress=False)
gc.freeze()  # or each process visits all of this, several times where it runs pytest: it collects garbage at its end
