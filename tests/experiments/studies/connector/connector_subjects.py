"""What the command line names for the connector study, and what a study left: shared by conftest and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.studies.connector import Comparison, Result


@dataclass(frozen=True)
class Sources:
    """What the command line names in place of the embedded data and connectors."""

    json: Path | None
    root: Path | None
    model: Path | None
    max_seq_len: int

    @classmethod
    def of(cls, config: pytest.Config) -> Sources:
        named = {name: config.getoption(name, default=None) for name in ("--llava-json", "--image-root")}
        model = config.getoption("--connector-model", default=None)
        if (named["--llava-json"] is None) != (named["--image-root"] is None):
            raise McdoError("--llava-json and --image-root belong together: the file, and where its images lie")
        if model is not None and named["--llava-json"] is None:
            raise McdoError("--connector-model needs --llava-json and --image-root: held-out items to judge it on")
        json, root, checkpoint = (None if each is None else Path(each) for each in (*named.values(), model))
        return cls(json, root, checkpoint, int(config.getoption("--max-seq-len", default=None) or 512))


@dataclass(frozen=True, eq=False)
class Written:
    """A result, its comparisons by connector, and the files it left."""

    result: Result
    compared: list[dict[str, Comparison]]
    files: dict[str, Path]
