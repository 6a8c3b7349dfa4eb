"""The version of a measurement is a fingerprint of the code that makes it: a stale result is not taken for a new one.

Comments, docstrings, blank lines and layout do not count; everything else does. It is coarse on purpose: whole rooms
count unless a module is exempt by name, because a result that is measured anew costs time and a stale one costs trust.
"""

from __future__ import annotations

import hashlib
import marshal
import py_compile
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import MAGIC_NUMBER, cache_from_source, find_spec, source_hash
from pathlib import Path
from py_compile import PycInvalidationMode, PyCompileError
from types import CodeType

from mcdo.errors import McdoError

MEASURING = ("mcdo.images", "mcdo.encoders", "mcdo.perturbation", "mcdo.estimators")
"""The rooms that turn images into numbers."""

EXEMPT = frozenset(
    {
        "mcdo.encoders.card",  # describes the embedded models
        "mcdo.encoders.quiet",  # hides what libraries print
        "mcdo.encoders.recipe",  # how the embedded models were trained; their weights are in every key
        "mcdo.encoders.registry",  # names; weights and preprocessing are in every key
        "mcdo.encoders.train",
        "mcdo.estimators.progress",
        "mcdo.estimators.provenance",  # keys themselves
        "mcdo.estimators.resumption",
        "mcdo.studies.connector.published",
        "mcdo.studies.connector.report",
        "mcdo.studies.connector.study",
        "mcdo.studies.subtasks.compare",
        "mcdo.studies.subtasks.evaluate",
        "mcdo.studies.subtasks.published",
        "mcdo.studies.subtasks.report",
        "mcdo.studies.subtasks.runs",
        "mcdo.studies.subtasks.study",
        "mcdo.studies.subtasks.temperature",
        "mcdo.studies.subtasks.triaged",
    }
)
"""Modules of those rooms, and of studies, that cannot change a number."""


@cache
def measuring_code(*modules: str) -> str:
    """Fingerprint of the measuring rooms and of further ``modules``, such as the one that declares a measurement.

    A package stands for all its modules but the exempt ones.
    """
    rooms = (*MEASURING, *(name for name in modules if _file(name).stem == "__init__"))
    return code_fingerprint(*(name for room in rooms for name in _modules(room)), *modules)


def code_fingerprint(*modules: str) -> str:
    """sha256 over what modules do; their order does not matter, and none of them is run."""
    digest = hashlib.sha256()
    for name in sorted(set(modules)):
        digest.update(f"{name}\0{_code_in(_file(name))}\0".encode())
    return digest.hexdigest()


def _file(module: str) -> Path:
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise McdoError(f"{module} has no source file, so what it measures cannot be told from another version's")
    return Path(spec.origin)


@cache
def code_of(source: str) -> str:
    """What a module does, as text: its compiled code without docstrings and line numbers."""
    # asserts are left out as well: they stop a measurement and do not change it
    return text_of(compile(source, "", "exec", dont_inherit=True, optimize=2))


def _code_in(file: Path) -> str:
    """:func:`code_of` a file, of what Python has compiled where that is kept beside it and is of the same source."""
    source = file.read_bytes()
    return _kept(file, source) or code_of(source.decode())


@cache  # measurements of several kinds have most modules in common
def _kept(file: Path, source: bytes) -> str:
    head = MAGIC_NUMBER + (0b11).to_bytes(4, "little") + source_hash(source)  # PEP 552: valid for this source alone
    try:
        place = Path(cache_from_source(file, optimization=2))
        held = place.read_bytes() if place.is_file() else b""
        if not held.startswith(head) and not sys.dont_write_bytecode:
            py_compile.compile(str(file), doraise=True, optimize=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
            held = place.read_bytes()
        if not held.startswith(head):  # as well where the source was changed in between
            return ""
        return text_of(marshal.loads(held[len(head) :]))  # noqa: S302 (python -OO would run it)
    except (OSError, NotImplementedError, ValueError, EOFError, TypeError, PyCompileError):
        return ""  # no place to keep it, or a file that is no code


def text_of(value: object) -> str:
    """A constant as text that does not depend on the order of a set."""
    if isinstance(value, CodeType):
        parts = (value.co_name, value.co_code, value.co_names, value.co_varnames, value.co_freevars, value.co_flags)
        return repr(parts) + text_of(value.co_consts)
    if isinstance(value, tuple):
        return f"({','.join(map(text_of, value))})"
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _modules(room: str) -> Iterable[str]:
    folder = _file(room).parent
    for file in folder.rglob("*.py"):
        parts = file.relative_to(folder).with_suffix("").parts
        name = ".".join((room, *(part for part in parts if part != "__init__")))
        if name not in EXEMPT:
            yield name
