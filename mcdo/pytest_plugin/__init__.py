"""The pytest side of the harness: options, marks, collection, fixtures, outcomes and scheduling."""

from __future__ import annotations

import pytest

PARTS = ("options", "marks", "collection", "fixtures", "benchmark", "outcomes", "scheduling")


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load the parts; for each that ``pytest_plugins`` named, pytest would read what all installed packages offer."""
    for part in PARTS:
        pluginmanager.import_plugin(f"{__name__}.{part}")
