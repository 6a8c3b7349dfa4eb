"""At the quick sizes, what phase 1 leaves open is measured on the first encoder; on each other one it is slow.

A second encoder takes as long again, and what it tells of an experiment beyond the first is its figures: phase 1 takes
both through the measurements. ``make slow`` runs these tests, ``make experiments`` runs all at the full sizes.
"""

from __future__ import annotations

import pytest

from mcdo.harness import Subject
from mcdo.pytest_plugin.options import models_of


@pytest.hookimpl(tryfirst=True)  # before -m looks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--protocol") != "quick":
        return
    others = models_of(config)[1:]
    for item in items:
        subject = item.callspec.params.get("subject") if hasattr(item, "callspec") else None
        of_another = isinstance(subject, Subject) and len(subject.models) == 1 and subject.models[0] in others
        if of_another and item.get_closest_marker("phase1") is None:
            item.add_marker(pytest.mark.slow)
