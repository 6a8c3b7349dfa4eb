"""Preloaded by the server that the processes of test_store_processes.py are forked from: they start at once."""

from __future__ import annotations

import torch
from store_child import measure

torch.set_num_threads(1)  # a pool of threads would not survive the fork
measure(None, passes=(2,), trials=1, progress=False)
