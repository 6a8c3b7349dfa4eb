"""Names from outside (of models, images, files) where they become a path, bytes, or text for people.

A name may hold anything that a file system or a shell lets through: slashes and dots, bytes that are no UTF-8 (Python
keeps them as lone surrogates), control characters, letters that a terminal cannot show.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TextIO

# No capitals: on many file systems LR1 and lr1 are one file.
_PLAIN = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_DIGEST = 12
_ENDS_LIKE_ESCAPED = re.compile(rf"-[0-9a-f]{{{_DIGEST}}}")
_LONGEST = 80
"""Characters of a plain name; every file system takes 255 bytes, and suffixes follow."""

# Controls (a terminal obeys them), separators and overrides of direction (they reorder a line), what takes no room (two
# names would look the same), lone surrogates and non-characters (neither UTF-8 nor XML has them).
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\ud800-\udfff\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_COMMAND = re.compile(r"^([ \t]*):(?=:)|#(?=#\[)", re.MULTILINE)
"""What begins a command to GitHub where it reads a line of a job's output."""

_LONG = re.compile(r"(.{2000}).{1000,}(.{1000})")
"""A line of which nobody reads the middle: a name that is a megabyte of text."""
_BROKEN = re.compile("[\ud800-\udfff]")

_ASCII = str.maketrans(
    {
        **{"ρ": "rho", "σ": "sigma", "Δ": "delta", "µ": "u", "×": "x", "÷": "/", "±": "+-", "²": "^2", "√": "sqrt"},
        **{"–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "≥": ">=", "≤": "<=", "≠": "!=", "≈": "~"},
    }
)

UNITS = ((2**30, "GB"), (2**20, "MB"), (2**10, "kB"), (1, "B"))


def file_name(name: str) -> str:
    """A name for a file or folder, ASCII and without separators: different for different names, also apart from case.

    A plain name (without capitals) is left as it is. Any other is made readable, and a digest of the whole name is put
    behind it.
    """
    plain = len(name) <= _LONGEST and _PLAIN.fullmatch(name)
    if plain and not _ENDS_LIKE_ESCAPED.search(name, len(name) - _DIGEST - 1):
        return name
    words = re.sub(r"[^A-Za-z0-9_]*[^A-Za-z0-9_.-][^A-Za-z0-9_]*|[.-]{2,}", "-", name).strip(".-")
    digest = hashlib.sha256(as_bytes(name)).hexdigest()[:_DIGEST]
    return "-".join(filter(None, (words[-_LONGEST:].lstrip(".-"), digest)))


def is_unicode(name: str) -> bool:
    """Whether a name is text, and holds no bytes that are no UTF-8."""
    return not _BROKEN.search(name)


def as_bytes(name: str) -> bytes:
    """Bytes of a name for a digest: UTF-8, in which lone surrogates stand for themselves. Never raises."""
    return name.encode("utf-8", "surrogatepass")


def from_path(path: str | os.PathLike[str]) -> str:
    """A path as text that is the same under every locale: its bytes read as UTF-8."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def to_path(text: str) -> str:
    """The inverse of :func:`from_path`."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


@cache
def utf8_path(path: Path) -> Path:
    """The same file or folder under a path that libraries written in Rust can open: they take UTF-8 alone.

    Where the bytes of ``path`` are no UTF-8, or another text under this locale, that is a link in a temporary folder.
    """
    text = str(path)
    if is_unicode(text) and os.fsencode(text) == text.encode():
        return path
    link = _links() / file_name(text)
    link.symlink_to(path.absolute())
    return link


@cache
def _links() -> Path:
    folder = tempfile.mkdtemp(prefix="mcdo-links-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def printable(text: str, kept: str = "") -> str:
    """Text that a terminal, XML and JSON can show: controls and broken letters are written as escapes.

    Args:
        text: anything.
        kept: controls that are meant, such as the line ends of a message.

    """

    def escaped(found: re.Match[str]) -> str:
        char = found[0]
        if char in kept:
            return char
        code = ord(char)
        byte = code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code  # a byte that is no UTF-8
        return f"\\x{byte:02x}" if byte < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return _UNPRINTABLE.sub(escaped, text)


def visible(text: str) -> str:
    """Text without what takes no room where it is shown."""
    return _UNPRINTABLE.sub("", text)


def message(text: str) -> str:
    """Text of several lines with names in it, for people: as :func:`printable`, further lines indented, none too long.

    So a name that holds a line end makes no line that begins as one of ours does, such as the verdict's.
    """
    shown = re.sub(r"\n(?=\S)", "\n  ", _without_commands(printable(text, kept="\n\t")))
    return _LONG.sub(r"\1 [...] \2", shown)


def _without_commands(text: str) -> str:
    return _COMMAND.sub(lambda found: f"{found[1]}\\x3a" if found[1] is not None else "\\x23", text)


def encodable(text: str, encoding: str | None) -> str:
    """Text in an encoding: letters that it lacks are spelled out (``rho``, ``+-``) or, failing that, escaped."""
    encoding = encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def markdown(text: str) -> str:
    """A name inside a table of Markdown: nothing in it ends the cell, is taken for HTML, or names a picture or link."""
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", printable(text)).replace("|", "&#124;").replace("](", "]&#40;")


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a table of Markdown."""
    return [
        f"| {' | '.join(markdown(str(cell)) for cell in row)} |" for row in (heading, ["---"] * len(heading), *rows)
    ]


def columns(rows: Sequence[tuple[str, ...]], encoding: str | None = "utf-8") -> list[str]:
    """Lines of a table of plain text, each column as wide as its widest cell, in letters of ``encoding``."""
    shown = [tuple(encodable(printable(cell), encoding) for cell in row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def words(text: str) -> tuple[str, ...]:
    """What stands between the commas of ``text``, without blanks around it."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def few_of(names: Sequence[str], most: int = 5) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def size_of(count: int) -> str:
    """Bytes as ``1.5 MB``."""
    unit, name = next(((unit, name) for unit, name in UNITS if count >= unit), (1, "B"))
    return f"{count / unit:.0f} {name}" if unit == 1 else f"{count / unit:.1f} {name}"


def csv_cell(text: str) -> str:
    """A name inside a cell of CSV, which a spreadsheet would run where it begins as a formula does."""
    shown = printable(text)
    return f"'{shown}" if unicodedata.normalize("NFKC", shown).lstrip().startswith(("=", "+", "-", "@")) else shown


def say(line: str, to: TextIO | None = None) -> None:
    """Print one line that holds names, in whatever letters the stream has."""
    say_text(printable(line), to)


def say_text(text: str, to: TextIO | None = None) -> None:
    """Print text of several lines whose names were made harmless, as :func:`message` or a table does."""
    to = sys.stdout if to is None else to
    print(encodable(_without_commands(printable(text, kept="\n\t")), to.encoding), file=to, flush=True)
