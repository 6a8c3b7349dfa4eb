"""What a file is by its first bytes, whatever its name says: an image that can be read, one that cannot, or neither."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HEAD = 512
"""Bytes that suffice to tell."""

_READABLE = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
)
_UNREADABLE = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"FUJIFILMCCD-RAW", "Fujifilm raw"),
    (b"IIU\0", "Panasonic raw"),
    (b"IIRO", "Olympus raw"),
    (b"IIRS", "Olympus raw"),
    (b"MMOR", "Olympus raw"),
    (b"FOVb", "Sigma raw"),
    (b"\0MRM", "Minolta raw"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"gimp xcf", "GIMP"),
    (b"BPG\xfb", "BPG"),
    (b"II\xbc\x01", "JPEG XR"),
)
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"),
    b"crx ": "Canon raw",
}
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RAW_SUFFIXES = frozenset(
    {".dng", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".cr2", ".pef", ".dcr", ".kdc", ".k25", ".erf", ".3fr", ".fff"}
    | {".mef", ".mos", ".iiq", ".rwl", ".srw", ".raw", ".gpr"}
)
"""Of TIFF files whose first picture is a thumbnail."""
_NUMPY = re.compile(rb"\x93NUMPY[\x01-\x03]\x00?(?:..|....)(\{.*?\})", re.DOTALL)
_SVG = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg.*?>\s*)?<svg[\s>]", re.DOTALL)


def readable(head: bytes, suffix: str = "") -> str | None:
    """The name of a common format that is decoded here, or None.

    Args:
        head: the first :data:`HEAD` bytes.
        suffix: of the file, with the dot: a camera's raw is often a TIFF file under another name.

    """
    if unreadable(head, suffix):
        return None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return "AVIF"
    if head.startswith(_TIFF):
        return "TIFF"
    return next((name for start, name in _READABLE if head.startswith(start)), None)


def unreadable(head: bytes, suffix: str = "") -> str | None:
    """The name of a format that is an image's and is not decoded here, or None; arguments as for :func:`readable`."""
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head.startswith(_TIFF) and (suffix.lower() in _RAW_SUFFIXES or head[8:10] == b"CR"):
        return "camera raw"
    if _SVG.match(head):
        return "SVG"
    if head.startswith(b"\x93NUMPY") and _is_picture(head):
        return "NumPy"
    return next((name for start, name in _UNREADABLE if head.startswith(start)), None)


def _is_picture(head: bytes) -> bool:
    """Whether a NumPy file holds 8-bit pixels, and no features or labels."""
    found = _NUMPY.match(head)
    try:
        said = ast.literal_eval(found[1].decode("latin-1")) if found else {}
        shape = said.get("shape", ())
        return said.get("descr") == "|u1" and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3, 4)))
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
        return False


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file; none of anything else, and none where it may not be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(HEAD)
    except OSError:
        return b""
