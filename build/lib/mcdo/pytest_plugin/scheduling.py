"""Scheduling under xdist: all tests of a subject go to one worker."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mcdo.names import file_name
from mcdo.pytest_plugin.options import models_of
from mcdo.pytest_plugin.state import SESSION_ID


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give workers the controller's session id through xdist's own run id."""
    node.config.stash[SESSION_ID] = node.workerinput["testrunuid"]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send all tests of a model to one worker, so that no model is loaded and nothing is measured twice.

    Only for xdist's default mode; ``--dist`` chosen by the user is left alone.
    """
    if config.getoption("dist", "no") not in ("load", "no"):
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ModelScheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            model = re.search(r"\[([^\]-]+)", nodeid)
            ids = {file_name(m) for m in models_of(config)}
            if model and any(nodeid.split("[")[1].startswith(i) for i in ids):
                return max((i for i in ids if nodeid.split("[")[1].startswith(i)), key=len)
            return nodeid.split("::")[0]

    return ModelScheduling(config, log)
