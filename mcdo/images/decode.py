"""Decoding a file to RGB, or saying why not.

Converted, because the meaning is clear: CMYK; palettes; grey of 1 to 16 bits, scaled from the full range of its bit
depth; transparency, composited on white. Refused: files that are not whole images, several frames (which one is
meant?), 32-bit integer or float pixels (which value is white?), a transparent colour of 16 bits a channel (Pillow gives
8 of them), and more pixels than Pillow's own safety limit.

The EXIF orientation is *not* applied. The training pipelines of the encoders and the published accuracies and
uncertainty figures were made without applying it, so an image turned upright here would not be the image they saw. That
of a TIFF is, for Pillow applies it itself, in those pipelines as well.
"""

from __future__ import annotations

import hashlib
import io
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from mcdo.errors import McdoError
from mcdo.images.signatures import HEAD, unreadable

# Formats that Pillow names but hands to another program or cannot decode itself.
_NOT_DECODED_BY_PILLOW = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
LARGEST_FILE = 2**29
"""Bytes of a file that is read."""
_ROOM = 2**31
"""Bytes that all threads together decode at a time."""
_BYTES_PER_PIXEL = 16
"""Of a picture and its copies on the way to RGB: four channels of one byte, twice composed, or grey of four bytes."""
_SUBFILE_TYPE = 254
"""A tag of TIFF; its lowest bit marks a picture of reduced resolution."""
_STEPS = {"L;2": 85, "L;4": 17}
"""Of 255, what Pillow makes of one level of a PNG's grey, by its raw mode."""


class UnreadableImageError(McdoError):
    """A file that gives no image: ``path`` and ``reason`` for the record, and the remedy in the message."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}. Repair or remove the file, "
            "or leave it out with --skip-unreadable (skip_unreadable=True)"
        )
        self.path = path
        self.reason = reason


@lru_cache(maxsize=1)
def formats() -> tuple[str, ...]:
    """The formats that are tried, whatever the suffix says."""
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NOT_DECODED_BY_PILLOW))


@lru_cache(maxsize=1)
def suffixes() -> frozenset[str]:
    """The lower-case suffixes, with the dot, by which a file in a folder counts as an image."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in (*formats(), "MPO"))


def read(path: Path, name: str | None = None) -> bytes:
    """The bytes of a regular file that is not empty; otherwise UnreadableImageError under ``name``."""
    name = str(path) if name is None else name
    try:
        if path.is_symlink() and not path.exists():
            raise UnreadableImageError(name, f"broken symbolic link to {path.readlink()}")
        if path.exists() and not path.is_file():
            raise UnreadableImageError(name, "not a regular file")
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise UnreadableImageError(name, f"{size} bytes, more than the limit of {LARGEST_FILE}; scale it down")
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have, such as one with a zero byte
        raise UnreadableImageError(name, f"cannot be read ({error})") from error
    if not content:
        raise UnreadableImageError(name, "the file is empty (zero bytes)")
    return content


def decode(source: Path | bytes, name: str | None = None, background: str = "white") -> Image.Image:
    """Decode a file, or its bytes under ``name``, in full; returns mode RGB, with ``background`` behind transparency.

    Raises UnreadableImageError (a McdoError) with the name and the reason. Safe to call from several threads.
    """
    if isinstance(source, Path):
        name = str(source) if name is None else name
        source = read(source, name)
    name = "<bytes>" if name is None else name
    form = unreadable(source[:HEAD], Path(name).suffix)
    if form is not None:
        raise UnreadableImageError(name, f"{form} images are not read here; convert it to PNG or JPEG")
    try:
        with _quiet, Image.open(io.BytesIO(source), formats=formats()) as image:
            _refuse(image, name)
            if image.format == "PNG" and "transparency" in image.info:
                _scale_transparent(image, name)
            with _room.taken(image.width * image.height * _BYTES_PER_PIXEL):
                image.load()
                return _to_rgb(image, name, background)
    except McdoError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(name, "the content is no image that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(name, f"too large to decode safely ({error})") from error
    except Exception as error:  # Pillow's plugins raise almost any type on damaged content
        raise UnreadableImageError(name, f"cannot be decoded ({type(error).__name__}: {error})") from error


def _refuse(image: Image.Image, name: str) -> None:
    """Raise for what the header alone rules out, before any pixel is decoded."""
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise UnreadableImageError(
            name,
            f"{image.width} x {image.height} = {pixels} pixels, more than the limit of {limit} "
            "(PIL.Image.MAX_IMAGE_PIXELS); scale it down",
        )
    if getattr(image, "tag_v2", {}).get(_SUBFILE_TYPE, 0) & 1:
        raise UnreadableImageError(name, "its first picture is a thumbnail of another one, as in a camera's raw")
    animated = getattr(image, "is_animated", None)  # which, unlike counting frames, takes no time
    several = getattr(image, "n_frames", 1) > 1 if animated is None else animated
    # The first picture of an MPO, as many cameras write it, is the photograph; the others are previews or depth.
    if several and image.format != "MPO":
        raise UnreadableImageError(name, "several frames or pages; save the one that is meant as a file of its own")


def _scale_transparent(image: ImageFile.ImageFile, name: str) -> None:
    """Pillow scales a PNG's pixels to 8 bits as it loads them, and leaves the transparent level as the file has it."""
    raw = image.tile[0][3]
    if raw == "RGB;16B":
        raise UnreadableImageError(
            name, "a transparent colour of 16 bits a channel, of which Pillow reads 8; save it with 8, or with alpha"
        )
    if raw in _STEPS:
        image.info["transparency"] *= _STEPS[raw]


def _to_rgb(image: Image.Image, name: str, background: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_deep_grey(image)
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "float"
        raise UnreadableImageError(name, f"{kind} pixels have no agreed white level; save it with 8 or 16 bits")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    behind = Image.new("RGBA", layer.size, background)
    return Image.alpha_composite(behind, layer).convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 9 to 16 bits to 8, rounded. Pillow's own conversion clips at 255, and leaves these three tags unread."""
    tags = getattr(image, "tag_v2", {})
    peak = 2 ** int(tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]) - 1
    pixels = np.asarray(image).astype(np.uint32)
    grey = (pixels * 255 + peak // 2) // peak
    if tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # zero is white
        grey = 255 - grey
    grey[pixels == image.info.get("transparency", -1)] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


class _Room:
    """Bytes that are lent to threads until they are given back; whoever asks for more than are left waits."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Of more than all there is, all is taken."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= size)
            self._left -= size
        try:
            yield
        finally:
            with self._changed:
                self._left += size
                self._changed.notify_all()


_room = _Room(_ROOM)


class _Quiet:
    """Pillow's warnings off, in any number of threads at once.

    ``warnings.catch_warnings`` changes process-wide state and is not safe when threads overlap, so only the first
    thread to enter switches the warnings off, and only the last to leave restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._saved.__exit__(None, None, None)


_quiet = _Quiet()


class WholeFiles(ABC):
    """Pictures that are read whole, out of a larger file, and then decoded and hashed."""

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """Read once, so that the hash is that of the very bytes that were decoded."""
        content = self._read(image_id)
        return decode(content, self._named(image_id)), hashlib.sha256(content).hexdigest()

    def content_hash(self, image_id: str) -> str:
        """sha256 of the picture's bytes."""
        return hashlib.sha256(self._read(image_id)).hexdigest()

    def _named(self, image_id: str) -> str:
        """What a message calls a picture."""
        return image_id

    @abstractmethod
    def _read(self, image_id: str) -> bytes:
        """The bytes of a picture.

        Raises:
            UnreadableImageError: if there are none, or too many.

        """
