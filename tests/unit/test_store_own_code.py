"""Code of the user's takes part in numbers, so in keys: its file, and its own modules that this imports."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mcdo
from mcdo.errors import McdoError
from mcdo.store import own_code as module
from mcdo.store.own_code import is_outside, own_code

SOURCE = """import numpy
{imports}

def score(x):
    '''What it says.'''
    return helped(x) + {constant}  # {comment}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def written(name: str, source: str, function: str = "score") -> Any:
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        if file.parent != tmp_path:
            (file.parent / "__init__.py").touch()
        file.write_text(source)
        for loaded in set(sys.modules) - before:
            del sys.modules[loaded]
        importlib.invalidate_caches()
        module._files_code.cache_clear()
        return getattr(importlib.import_module(name), function, None)

    yield written
    for loaded in set(sys.modules) - before:
        del sys.modules[loaded]


@pytest.mark.parametrize(
    ("name", "helper", "imports"),
    [
        ("alone", "beside", "from beside import helped"),
        ("pack.scores", "pack.helpers", "from .helpers import helped"),
        ("pack.scores", "pack.helpers", "from . import helpers\nhelped = helpers.helped"),
        ("pack.scores", "pack.helpers", "import pack.helpers\nhelped = pack.helpers.helped"),
    ],
    ids=["beside", "relative", "sibling", "absolute"],
)
def test_a_constant_counts_wherever_it_stands_and_a_comment_nowhere(
    name: str, helper: str, imports: str, write: Any
) -> None:
    write(helper, "def helped(x):\n    return 2 * x\n")
    one = own_code(write(name, SOURCE.format(imports=imports, constant=1, comment="one")))
    assert own_code(write(name, SOURCE.format(imports=imports, constant=1, comment="another"))) == one
    assert own_code(write(name, SOURCE.format(imports=imports, constant=2, comment="one"))) != one
    write(helper, "def helped(x):\n    return 3 * x\n")
    changed = own_code(write(name, SOURCE.format(imports=imports, constant=1, comment="one")))
    assert changed != one


def test_things_in_partials_and_instances_are_their_functions_and_classes(write: Any) -> None:
    source = "def score(x, y): return x\n\nclass Kind:\n    def __call__(self): return 1\n"
    score, kind = write("things", source), write("things", source, "Kind")
    assert own_code(functools.partial(score, y=1)) == own_code(score) == own_code(kind) == own_code(kind())
    assert is_outside(kind)
    assert not is_outside(mcdo.Dropout)


def test_code_without_a_source_is_refused() -> None:
    typed: dict[str, Any] = {}
    exec("def score(x): return x", typed)  # noqa: S102  (the code is the test's own)
    with pytest.raises(McdoError, match="has no source file"):
        own_code(typed["score"])
