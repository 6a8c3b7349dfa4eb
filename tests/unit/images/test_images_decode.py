"""Malformed and unusual files: what becomes of each, and by value."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images.decode import UnreadableImageError, decode, suffixes

RED = (255, 0, 0)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *extra: bytes, rows: bytes = b"", bits: int = 8, colour: int = 0) -> bytes:
    """A PNG, of 8-bit grey unless told, written by hand, so that a gigantic one costs nothing."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff_12_bit(first: int, second: int) -> bytes:
    """A 2 x 1 grey TIFF of 12 bits per sample."""
    tags = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    pixels = ((first << 12) | second).to_bytes(3, "big") + b"\0"
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 12) + pixels + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def palette_png() -> bytes:
    """Two pixels: opaque red, and blue that is fully transparent."""
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return encoded(image, "PNG", transparency=b"\xff\x00")


def frames(kind: str, count: int) -> bytes:
    pictures = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(count)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:])


def grey16(value: int) -> Image.Image:
    return Image.fromarray(np.full((2, 2), value, dtype=np.uint16))


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "zero-byte": (lambda: b"", "zero bytes"),
    "truncated-jpeg": (lambda: encoded(noise(), "JPEG")[:-400], "truncated"),
    "truncated-png": (lambda: encoded(noise(), "PNG")[:-400], "cannot be decoded"),
    "header-only-jpeg": (lambda: encoded(noise(), "JPEG")[:20], "no image that Pillow can read"),
    "text-renamed": (lambda: b"404 Not Found\n" * 20, "no image that Pillow can read"),
    "postscript-renamed": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "no image"),
    "animated-gif": (lambda: frames("GIF", 3), "several frames or pages"),
    "animated-webp": (lambda: frames("WEBP", 3), "several frames or pages"),
    "animated-png": (lambda: frames("PNG", 2), "several frames or pages"),
    "two-page-tiff": (lambda: frames("TIFF", 2), "several frames or pages"),
    "gigantic-png": (lambda: png(9500, 9500), "90250000 pixels, more than the limit of 89478485"),
    "bomb-png": (lambda: png(100_000, 100_000), "10000000000 pixels"),
    "float-tiff": (lambda: encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "float pixels have no agreed white level"),
    "colour-key-16-bit-png": (
        lambda: png(1, 1, chunk(b"tRNS", b"\1\0" * 3), rows=b"\0" + b"\1\0" * 3, bits=16, colour=2),
        "a transparent colour of 16 bits a channel",
    ),
    "int32-tiff": (lambda: encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "32-bit integer pixels"),
}

GREY_LINE = Image.fromarray(np.array([[0, 255]], dtype=np.uint8))
CONVERTED: dict[str, tuple[Callable[[], bytes], list[tuple[int, int, int]]]] = {
    "rgb-png": (lambda: encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), [(1, 2, 3)]),
    "grey-png": (lambda: encoded(Image.new("L", (1, 1), 7), "PNG"), [(7, 7, 7)]),
    "one-bit-png": (lambda: encoded(GREY_LINE.convert("1"), "PNG"), [(0, 0, 0), (255, 255, 255)]),
    "palette-transparent-png": (palette_png, [RED, (255, 255, 255)]),
    "colour-key-png": (lambda: encoded(GREY_LINE, "PNG", transparency=0), [(255, 255, 255), (255, 255, 255)]),
    "2-bit-level-png": (  # levels 0 to 3, of which 2 is transparent
        lambda: png(4, 1, chunk(b"tRNS", b"\0\2"), rows=b"\0\x1b", bits=2),
        [(0,) * 3, (85,) * 3, (255,) * 3, (255,) * 3],
    ),
    "4-bit-level-png": (  # levels 1 and 2, of which 1 is transparent
        lambda: png(2, 1, chunk(b"tRNS", b"\0\1"), rows=b"\0\x12", bits=4),
        [(255,) * 3, (34,) * 3],
    ),
    "rgba-half-png": (lambda: encoded(Image.new("RGBA", (1, 1), (255, 0, 0, 51)), "PNG"), [(255, 204, 204)]),
    "la-clear-png": (lambda: encoded(Image.new("LA", (1, 1), (0, 0)), "PNG"), [(255, 255, 255)]),
    "16-bit-png": (lambda: encoded(grey16(32768), "PNG"), [(128, 128, 128)] * 4),
    "16-bit-white-png": (lambda: encoded(grey16(65535), "PNG"), [(255, 255, 255)] * 4),
    "16-bit-tiff": (lambda: encoded(grey16(32768), "TIFF"), [(128, 128, 128)] * 4),
    "16-bit-zero-is-white-tiff": (lambda: encoded(grey16(0), "TIFF", tiffinfo={262: 0}), [(255, 255, 255)] * 4),
    "12-bit-tiff": (lambda: tiff_12_bit(4095, 2048), [(255, 255, 255), (128, 128, 128)]),
    "16-bit-pgm": (lambda: b"P5 1 1 65535\n\x80\x00", [(128, 128, 128)]),
    "single-frame-gif": (lambda: encoded(Image.new("P", (1, 1)), "GIF"), [(0, 0, 0)]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_is_no_single_whole_image_is_refused_by_name_with_reason_and_remedy(
    tmp_path: Path, name: str
) -> None:
    content, reason = REFUSED[name]
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(content())
    with pytest.raises(McdoError) as caught:
        decode(path)
    message = str(caught.value)
    assert str(path) in message
    assert reason in message
    assert "--skip-unreadable" in message


@pytest.mark.parametrize("name", CONVERTED)
def test_a_file_with_a_clear_meaning_becomes_rgb_of_the_right_values(tmp_path: Path, name: str) -> None:
    content, expected = CONVERTED[name]
    path = tmp_path / f"{name}.jpg"  # the suffix is wrong for nearly all of them, and does not matter
    path.write_bytes(content())
    image = decode(path)
    assert image.mode == "RGB"
    assert pixels(image).reshape(-1, 3).tolist() == [list(colour) for colour in expected]


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    image = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100))
    assert np.abs(pixels(image).astype(int) - RED).max() <= 2


@settings(deadline=None)
@given(st.integers(0, 65535))
def test_16_bit_grey_is_scaled_and_rounded_never_clipped(value: int) -> None:
    expected = int(np.floor(value * 255 / 65535 + 0.5))
    assert decode(encoded(grey16(value), "PNG")).getpixel((0, 0)) == (expected,) * 3


def test_the_transparent_level_of_16_bit_grey_is_white() -> None:
    image = decode(encoded(grey16(300), "PNG", transparency=300))
    assert image.getpixel((0, 0)) == (255, 255, 255)


def test_the_first_picture_of_an_mpo_is_the_photograph() -> None:
    pictures = [Image.new("RGB", (16, 16), colour) for colour in (RED, (0, 0, 255))]
    content = encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert np.abs(pixels(decode(content)).astype(int) - RED).max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_exif_orientation_is_applied_where_pillow_itself_applies_it_alone(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees"
    content = encoded(noise(8).crop((0, 0, 8, 4)), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        theirs = image.convert("RGB")
    assert theirs.size == ((4, 8) if kind == "TIFF" else (8, 4))
    assert np.array_equal(pixels(decode(content)), pixels(theirs))


def test_a_broken_link_a_missing_file_and_a_directory_each_say_what_they_are(tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to("nowhere.png")
    with pytest.raises(UnreadableImageError, match=r"link\.png: broken symbolic link to nowhere\.png"):
        decode(link)
    with pytest.raises(UnreadableImageError, match=r"none\.png: cannot be read \(No such file"):
        decode(tmp_path / "none.png")
    with pytest.raises(UnreadableImageError, match="not a regular file"):
        decode(tmp_path)


def test_pillow_warnings_stay_inside_in_every_thread_and_filters_come_back() -> None:
    # An animation header that announces no frames: Pillow warns and shows the still image.
    content = png(1, 1, chunk(b"acTL", struct.pack(">II", 0, 0)), rows=b"\0\x07")
    with pytest.warns(UserWarning, match="APNG"), Image.open(io.BytesIO(content)) as image:
        image.load()
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: decode(content).getpixel((0, 0)), range(64)))
    assert values == [(7, 7, 7)] * 64
    assert list(warnings.filters) == before


def test_suffixes_are_those_that_pillow_itself_decodes() -> None:
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".bmp", ".mpo"} <= suffixes()
    assert not {".txt", ".pdf", ".eps", ".ps", ".mpg", ".h5", ".json", ""} & suffixes()
