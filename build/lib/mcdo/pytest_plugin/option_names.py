"""Options by name, also in a repository that has one of the same name: there, ours begins with ``--mcdo-``."""

from __future__ import annotations

from typing import Any

import pytest

PREFIX = "--mcdo-"


class Group:
    """A group of options under one title of ``pytest --help``."""

    def __init__(self, parser: pytest.Parser, name: str, title: str) -> None:
        self._group = parser.getgroup(name, title)
        groups = (parser._anonymous, *parser._groups)  # pytest has no public list of them
        self._taken = {name for group in groups for option in group.options for name in option.names()}

    def addoption(self, name: str, **attributes: Any) -> None:
        """Add ``--name``, or ``--mcdo-name`` where a plug-in or conftest came first."""
        shown = f"{PREFIX}{name[2:]}" if name in self._taken else name
        self._group.addoption(shown, dest=_dest(name), **attributes)


def option_of(config: pytest.Config, name: str) -> Any:
    """What our option ``--name`` was given, under whichever name it stands on the command line, or its default."""
    return config.getoption(_dest(name))


def _dest(name: str) -> str:
    return PREFIX[2:].replace("-", "_") + name[2:].replace("-", "_")
