"""CIFAR-10 (Krizhevsky 2009) from its standard archive, its unpacked folder, or a folder of image files.

The archive's batches are pickles. They are read straight from the archive, which is never unpacked beyond the size of
CIFAR-10, by an unpickler that makes nothing but text, numbers and plain records of what an array is said to hold; the
arrays are made here, from as many bytes as they claim. A pickle that asks for anything more is refused by name.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import pickletools
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.images import ImageSet, load_images
from mcdo.schema import read_bytes

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_INNER = "cifar-10-batches-py"
_LAYOUT = (
    "give cifar-10-python.tar.gz, the folder cifar-10-batches-py it unpacks to, "
    "or a folder with train/CLASS/*.png and test/CLASS/*.png"
)
_LARGEST_BATCH = 2**25
"""Bytes: 10 000 images of 3072 bytes with their labels and file names take 31 035 704."""
_LARGEST_ARCHIVE = 8 * _LARGEST_BATCH
_NUMBERS = {"u1": np.uint8, "i4": np.int32, "i8": np.int64}


class _Dtype:
    """What a pickle says of an array's numbers."""

    def __init__(self, name: Any = None, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like; numbers of CIFAR-10 have one byte."""
        if state[1] == ">":
            raise pickle.UnpicklingError("its numbers are in another byte order")


class _Array:
    """What a pickle says that an array holds."""

    values: NDArray[Any]

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, content = state
        name = dtype.name.decode("ascii") if isinstance(dtype.name, bytes) else dtype.name
        if name not in _NUMBERS or by_column or not isinstance(content, bytes):
            raise pickle.UnpicklingError(f"it holds an array of {name!r}, not of whole numbers row by row")
        self.values = np.frombuffer(content, _NUMBERS[name]).reshape(shape).copy()


def _encoded(text: str, _: Any) -> bytes:
    return text.encode("latin1")


# How NumPy arrays and Python 3's bytes are spelled in a pickle of protocol 2.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
}
_COLLECTIONS = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "LIST", "DICT"}
_OPERATIONS = _COLLECTIONS | {
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG1"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES"),
    *("SHORT_BINBYTES", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    *("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")
        return _ALLOWED[module, name]


def _check_operations(content: bytes) -> None:
    """Raise UnpicklingError for what a batch never does, and what may take any time or memory before it fails."""
    made: dict[int, str] = {}
    before = ""
    argument: Any
    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        if name not in _OPERATIONS:
            raise pickle.UnpicklingError(f"it holds the operation {name}, which no CIFAR-10 batch needs")
        if name.endswith("PUT") or name == "MEMOIZE":
            place = len(made) if name == "MEMOIZE" else int(argument)
            if place > len(content):
                raise pickle.UnpicklingError(f"it counts to {place}, but has {len(content)} bytes")
            made[place] = before
        elif name.endswith("GET") and made.get(int(argument), "") in _COLLECTIONS:
            raise pickle.UnpicklingError("it holds a collection in several places")
        before = name


def read_batch(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels uint8 [n, 3072] (planes R, G, B of 32 x 32) and labels int64 [n] of one batch.

    Raises McdoError naming the batch when it holds anything but arrays, or not those.
    """
    try:
        _check_operations(content)
        held = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        data, labels = _plain(held[b"data"]), _plain(held[b"labels"])
    except Exception as error:  # a damaged pickle raises almost any type
        raise McdoError(f"{name} is no CIFAR-10 batch ({type(error).__name__}: {error}); {_LAYOUT}") from error
    good = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072
    if not good or labels.dtype.kind not in "iu" or labels.shape != (len(data),):
        raise McdoError(f"{name} is no CIFAR-10 batch: it needs uint8 data [n, 3072] and as many labels; {_LAYOUT}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(CLASS_NAMES)):
        raise McdoError(f"{name}: a label lies outside the {len(CLASS_NAMES)} classes; {_LAYOUT}")
    return data, labels.astype(np.int64)


def _plain(held: Any) -> NDArray[Any]:
    """An array, or a list of numbers as one."""
    if isinstance(held, _Array):
        return held.values
    if not isinstance(held, list) or not all(type(each) is int and abs(each) < 2**31 for each in held):
        raise pickle.UnpicklingError("it holds something else than arrays and whole numbers")
    return np.array(held, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class CifarSource:
    """Images by id, ``cifar10/SPLIT/NNNNN`` with the number in the archive's order; ``data`` uint8 [n, 3072]."""

    data: NDArray[np.uint8]

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        """32 x 32, RGB."""
        planes = self._row(image_id).reshape(3, 32, 32)
        return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0))), self.content_hash(image_id)

    def content_hash(self, image_id: str) -> str:
        """sha256 of the 3072 bytes."""
        return hashlib.sha256(self._row(image_id).tobytes()).hexdigest()

    def _row(self, image_id: str) -> NDArray[np.uint8]:
        row: NDArray[np.uint8] = self.data[int(image_id.rsplit("/", 1)[1])]
        return row


def cifar10(path: Path, split: str) -> ImageSet:
    """The split ``"train"`` (50 000) or ``"test"`` (10 000) of whatever lies at ``path``.

    Raises McdoError when nothing usable lies there, a batch is missing or damaged, or a class name is not CIFAR-10's.
    An image's origin is its content hash, so exact copies of one image share theirs.
    """
    path = arguments.path(path)
    if path.is_dir() and (path / split).is_dir():
        return _from_folder(path, split)
    read = _reader(path)
    batches = [read_batch(read(name), f"{path}: {name}") for name in BATCHES[split]]
    source = CifarSource(np.concatenate([data for data, _ in batches]))
    ids = tuple(f"cifar10/{split}/{i:05d}" for i in range(len(source.data)))
    hashes = tuple(source.content_hash(each) for each in ids)
    return ImageSet(
        name=f"cifar10:{split}",
        ids=ids,
        labels=np.concatenate([labels for _, labels in batches]),
        class_names=CLASS_NAMES,
        seed=0,
        source=source,
        content_hashes=hashes,
        origins=hashes,
    )


def _reader(path: Path) -> Callable[[str], bytes]:
    if path.is_dir():
        folder = path / _INNER if (path / _INNER).is_dir() else path
        return lambda name: _file(folder / name)
    if not path.is_file():
        raise McdoError(f"there is no CIFAR-10 at {path}; {_LAYOUT}")
    return _members(path).__getitem__


def _file(path: Path) -> bytes:
    return read_bytes(path, _LAYOUT, limit=_LARGEST_BATCH)


class _Members(dict[str, bytes]):
    def __missing__(self, name: str) -> bytes:
        raise McdoError(f"the archive holds no {_INNER}/{name}; {_LAYOUT}")


class _Bounded:
    """A stream that ends in an error where CIFAR-10 would long have ended."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile) -> None:
        self._stream, self._left = stream, _LARGEST_ARCHIVE

    def read(self, size: int) -> bytes:
        found = self._stream.read(min(size, self._left + 1))
        self._left -= len(found)
        if self._left < 0:
            raise tarfile.ReadError(f"it unpacks to more than {_LARGEST_ARCHIVE} bytes")
        return found


def _members(archive: Path) -> _Members:
    """All batches in one pass: a compressed archive has no index, so looking up each would unpack it again."""
    wanted = {name for names in BATCHES.values() for name in names}
    found = _Members()
    try:
        with archive.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = _Bounded(gzip.GzipFile(fileobj=file) if packed else file)
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    path = PurePosixPath(member.name)
                    if member.size > _LARGEST_BATCH:
                        raise tarfile.ReadError(f"{member.name} claims {member.size} bytes")
                    if member.isreg() and not member.issparse() and path.name in wanted and path.parent.name == _INNER:
                        held = tar.extractfile(member)
                        assert held is not None  # it is a regular file
                        found[path.name] = held.read()
    except Exception as error:  # a damaged archive raises almost any type
        raise McdoError(f"{archive} cannot be read as an archive ({error}); {_LAYOUT}") from error
    return found


def _from_folder(path: Path, split: str) -> ImageSet:
    images = load_images(f"folder:{path / split}")
    unknown = sorted(set(images.class_names) ^ set(CLASS_NAMES))
    if unknown or images.labels is None:
        raise McdoError(f"{path / split}: these are not CIFAR-10's classes, or are missing: {unknown}; {_LAYOUT}")
    order = np.array([CLASS_NAMES.index(name) for name in images.class_names])
    return ImageSet(
        name=f"cifar10:{split}",
        ids=tuple(f"cifar10/{split}/{each}" for each in images.ids),
        labels=order[images.labels],
        class_names=CLASS_NAMES,
        seed=images.seed,
        source=_Below(images.source, f"cifar10/{split}/"),
        content_hashes=images.content_hashes,
        origins=images.origins,
    )


@dataclass(frozen=True)
class _Below:
    """A source whose ids carry a prefix: ids of the two splits must differ."""

    inner: Any
    prefix: str

    def load(self, image_id: str) -> tuple[Image.Image, str]:
        image, found = self.inner.load(image_id.removeprefix(self.prefix))
        return image, found

    def content_hash(self, image_id: str) -> str:
        return str(self.inner.content_hash(image_id.removeprefix(self.prefix)))
