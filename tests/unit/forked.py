"""Processes that start at once: they are forked from a server that has imported what ``warm.py`` names."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch


def begin(target: Callable[..., None], *arguments: Any, **options: Any) -> BaseProcess:
    """Start ``target(*arguments, **options)``; skips the test where processes cannot be forked."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs processes that are forked; this system has none")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    process = context.Process(target=_run, args=(target, *arguments), kwargs=options)
    with pytest.MonkeyPatch.context() as patch:  # the server starts with the first process
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        process.start()
    return process


def _run(target: Callable[..., None], *arguments: Any, **options: Any) -> None:
    # The first call after a fork that sets how many threads there are makes them anew, and is not safe beside another.
    torch.set_num_threads(torch.get_num_threads())
    target(*arguments, **options)
