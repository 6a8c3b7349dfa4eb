from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mcdo.errors import McdoError
from mcdo.images import load_images
from mcdo.images.decode import UnreadableImageError, decode
from mcdo.images.folder import LEFT_BEHIND, folder
from mcdo.images.signatures import HEAD, head_of, readable, unreadable


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 20, 30)).save(buffer, form)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def heif(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(64)


UNREADABLE = {
    "a.HEIC": (heif(b"heic"), "HEIC"),
    "a.heif": (heif(b"mif1"), "HEIC"),
    "no_suffix": (heif(b"heix"), "HEIC"),
    "a.cr3": (heif(b"crx "), "Canon raw"),
    "a.dng": (encoded("TIFF"), "camera raw"),
    "a.NEF": (b"MM\0*" + bytes(60), "camera raw"),
    "a.tif": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(60), "camera raw"),
    "a.raf": (b"FUJIFILMCCD-RAW 0201", "Fujifilm raw"),
    "a.jxl": (b"\xff\x0a" + bytes(20), "JPEG XL"),
    "a.svg": (b'<?xml version="1.0"?>\n<!-- made by hand -->\n<svg xmlns="x"/>', "SVG"),
    "a.npy": (npy(np.zeros((4, 4, 3), np.uint8)), "NumPy"),
    "mask.npy": (npy(np.zeros((4, 4), np.uint8)), "NumPy"),
    "heic_in_disguise.jpg": (heif(b"heic"), "HEIC"),
}

NO_IMAGE = {
    "notes.txt": b"P1 is a plan",
    "labels.json": b"{}",
    "features.npy": npy(np.zeros((4, 512), np.float32)),
    "labels.npy": npy(np.zeros(4, np.uint8)),
    "broken.npy": b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x', '",
    "clip.mp4": heif(b"isom"),
    "page.html": b"<html><body><svg/></body></html>",
    "empty": b"",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One class with one image."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(encoded("PNG"))
    return tmp_path


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_image_of_a_format_that_is_not_read_is_named_and_recorded(name: str, root: Path) -> None:
    content, form = UNREADABLE[name]
    (root / "cat" / name).write_bytes(content)
    with pytest.raises(McdoError, match=rf"cat/{name}: {form} images are not read here; .*--skip-unreadable"):
        load_images(f"folder:{root}")
    images = load_images(f"folder:{root}", skip_unreadable=True)
    assert images.ids == ("cat/0.png",)
    assert [each.path for each in images.skipped] == [f"cat/{name}"]


@pytest.mark.parametrize("name", NO_IMAGE)
def test_what_is_no_image_is_ignored(name: str, root: Path) -> None:
    (root / "cat" / name).write_bytes(NO_IMAGE[name])
    images = load_images(f"folder:{root}")
    assert images.ids == ("cat/0.png",)
    assert images.skipped == ()


def test_a_class_of_unreadable_formats_only_says_so(root: Path) -> None:
    (root / "dog").mkdir()
    (root / "dog" / "1.heic").write_bytes(UNREADABLE["a.HEIC"][0])
    with pytest.raises(McdoError, match=r"dog/1\.heic: HEIC"):
        load_images(f"folder:{root}")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "JPEG2000", "AVIF"])
def test_an_image_that_can_be_read_needs_no_suffix(form: str, root: Path) -> None:
    try:
        content = encoded(form)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow writes no {form}")
    (root / "cat" / "photo").write_bytes(content)
    (root / "cat" / "photo.jpg_large").write_bytes(content)
    assert load_images(f"folder:{root}").ids == ("cat/0.png", "cat/photo", "cat/photo.jpg_large")


def test_a_raw_under_the_name_of_a_tiff_is_no_thumbnail() -> None:
    buffer, tags = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    Image.new("RGB", (4, 4)).save(buffer, "TIFF", tiffinfo=tags)
    with pytest.raises(
        UnreadableImageError, match="its first picture is a thumbnail of another one, as in a camera's raw"
    ):
        decode(buffer.getvalue(), "a.tif")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM"])
def test_no_readable_format_counts_as_unreadable(form: str) -> None:
    head = encoded(form)[:HEAD]
    assert unreadable(head) is None
    assert (readable(head) is None) == (form in ("BMP", "PPM"))  # whose first bytes could be text: their suffix decides


@pytest.mark.parametrize("name", sorted(LEFT_BEHIND))
def test_folders_that_file_servers_leave_are_no_classes(name: str, root: Path) -> None:
    for place in (root / name, root / "cat" / name / "deeper"):
        place.mkdir(parents=True)
        (place / "SYNOPHOTO_THUMB_XL.jpg").write_bytes(encoded("JPEG"))
    images = folder(root)
    assert images.ids == ("cat/0.png",)
    assert images.class_names == ("cat",)
    assert {each.path for each in images.skipped} == {name, f"cat/{name}"}
    assert all("no class" in each.reason for each in images.skipped)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert head_of(tmp_path / "pipe") == b""
    assert head_of(tmp_path / "missing") == b""
    assert head_of(tmp_path) == b""
