"""CIFAR-10 (Krizhevsky 2009) from its standard archive, its unpacked folder, or a folder of image files.

The archive's batches are pickles. They are read by an unpickler that can make NumPy arrays and nothing else, straight
from the archive: nothing is extracted, and a pickle that asks for anything more is refused by name.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError
from mcdo.images import ImageSet, load_images

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_INNER = "cifar-10-batches-py"
_LAYOUT = (
    "give cifar-10-python.tar.gz, the folder cifar-10-batches-py it unpacks to, "
    "or a folder with train/CLASS/*.png and test/CLASS/*.png"
)
# How NumPy arrays and Python 3's bytes are spelled in a pickle of protocol 2; none of it runs code that a file names.
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs")
        return _ALLOWED[module, name]


def read_batch(content: bytes, name: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels uint8 [n, 3072] (planes R, G, B of 32 x 32) and labels int64 [n] of one batch.

    Raises McdoError naming the batch when it holds anything but arrays, or not those.
    """
    try:
        held = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        data, labels = held[b"data"], np.asarray(held[b"labels"])
    except Exception as error:  # a damaged pickle raises almost any type
        raise McdoError(f"{name} is no CIFAR-10 batch ({type(error).__name__}: {error}); {_LAYOUT}") from error
    good = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072
    if not good or labels.dtype.kind not in "iu" or labels.shape != (len(data),):
        raise McdoError(f"{name} is no CIFAR-10 batch: it needs uint8 data [n, 3072] and as many labels; {_LAYOUT}")
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(CLASS_NAMES)):
        raise McdoError(f"{name}: a label lies outside the {len(CLASS_NAMES)} classes; {_LAYOUT}")
    return data, labels.astype(np.int64)


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
    path = path.expanduser()
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
    try:
        return path.read_bytes()
    except OSError as error:
        raise McdoError(f"{path} cannot be read ({error.strerror}); {_LAYOUT}") from error


class _Members(dict[str, bytes]):
    def __missing__(self, name: str) -> bytes:
        raise McdoError(f"the archive holds no {_INNER}/{name}; {_LAYOUT}")


def _members(archive: Path) -> _Members:
    """All batches in one pass: a compressed archive has no index, so looking up each would unpack it again."""
    wanted = {name for names in BATCHES.values() for name in names}
    found = _Members()
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if member.isfile() and path.name in wanted and path.parent.name == _INNER:
                    held = tar.extractfile(member)
                    assert held is not None  # it is a regular file
                    found[path.name] = held.read()
    except (tarfile.TarError, OSError, EOFError) as error:
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
