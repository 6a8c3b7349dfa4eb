"""Identity of code that mcdo does not ship: a user's score, kind, factory or module takes part in numbers, so in keys.

What counts is the file where a thing is defined, and the files that it imports from the same package, or beside it
where it is in none; installed libraries count by their versions, as everywhere.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.store.fingerprint import code_of

_INSTALLED = {"site-packages", "dist-packages"}


def is_outside(thing: Any) -> bool:
    """Whether a class or function is not mcdo's."""
    return str(getattr(thing, "__module__", "")).partition(".")[0] != "mcdo"


def own_code(*things: Any) -> str:
    """sha256 over what the code of classes and functions does, comments and docstrings apart; their order is nothing.

    Raises:
        McdoError: for one without source, as typed into an interpreter.

    """
    digests = sorted({_code(thing) for thing in things})
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _code(thing: Any) -> str:
    file = _file(thing)
    if file is None:
        raise McdoError(
            f"{thing!r} has no source file, so what it measures cannot be told from another version's: "
            "put it into a module, or measure with store=None"
        )
    if not file.exists():  # a notebook's cell
        return hashlib.sha256(code_of("".join(linecache.getlines(str(file)))).encode()).hexdigest()
    return _files_code(file)


@functools.cache
def _files_code(file: Path) -> str:
    root = _root(file)
    digest = hashlib.sha256()
    for each in sorted(_closure(file, root)):
        code = code_of(each.read_text(encoding="utf-8"))
        digest.update(f"{each.relative_to(root).as_posix()}\0{code}\0".encode())
    return digest.hexdigest()


def _file(thing: Any) -> Path | None:
    while isinstance(thing, functools.partial):
        thing = thing.func
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        thing = type(thing)
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:
        return None
    if file is None or not (Path(file).exists() or linecache.getlines(file)):
        return None
    return Path(file).resolve()


def _root(file: Path) -> Path:
    """The folder that holds the file's top package or, where it is in none, the file."""
    folder = file.parent
    while (folder / "__init__.py").exists():
        folder = folder.parent
    return folder


def _closure(start: Path, root: Path) -> set[Path]:
    """``start`` and all that it imports, and these import, from below ``root``."""
    top = start.relative_to(root).parts[0] if _INSTALLED & set(root.parts) else None
    found, todo = set(), [start]
    while todo:
        file = todo.pop()
        if file in found:
            continue
        found.add(file)
        for parts in _imported(file, root):
            if parts and parts[0] != "mcdo" and top in (None, parts[0]):
                todo.extend(_modules(parts, root))
    return found


def _modules(parts: tuple[str, ...], root: Path) -> Iterator[Path]:
    """Files that importing a dotted name runs; its last part may be a name inside a module."""
    for end in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:end])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                yield file


def _imported(file: Path, root: Path) -> Iterator[tuple[str, ...]]:
    package = file.relative_to(root).parent.parts
    yield package
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)
