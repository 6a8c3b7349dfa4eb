"""Images from a folder: one directory per class, searched recursively; the id is the path below the folder.

A file is an image by its suffix or by its content. One that is an image, but of a format that is not read here (HEIC, a
camera's raw, ...), counts as unreadable and is named. Hidden entries and all other files are ignored. So are folders
that file servers and archivers leave behind (``@eaDir``, ...), and our own store and reports, which lie among the
images where a command was given in their folder; these are recorded as skipped. Symbolic links are followed, except
back to a directory above or one already searched for that class: such a link is recorded as skipped.

A folder with images and no directories is a set without labels, unless a list gives them: ``labels.txt`` of lines FILE
LABEL or ImageNet's ``ILSVRC2012_validation_ground_truth.txt``, in the folder or beside it, or any list that is named as
``folder:PATH@LIST``. Of a folder of splits (train, val) the validation images are taken.

Ids and names of classes are the same under every locale; what is no UTF-8 in them stays as lone surrogates.

An image's origin is its content hash: every file is one of its own, and exact copies of one, whatever their names and
classes, count once. A hash is the same whatever n was asked for, which the id of the first copy among the n is not.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from mcdo import arguments
from mcdo.errors import McdoError
from mcdo.images.decode import WholeFiles, read, suffixes
from mcdo.images.image_set import ImageSet, Skipped
from mcdo.images.labels import found_list, named_directories, read_list
from mcdo.images.listing import Listing
from mcdo.images.signatures import head_of, readable, unreadable
from mcdo.images.splits import SPLITS, VALIDATION
from mcdo.names import from_path, to_path
from mcdo.store.store import MARKER

_LEVELS = 100
"""Directories within one another that are searched."""
_LAYOUT = "expected one directory per class with images in it, FOLDER/CLASS/IMAGE.jpg"
LEFT_BEHIND = frozenset(
    {"@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", "@tmp", "$RECYCLE.BIN", "lost+found"}
    | {"System Volume Information", "__MACOSX", "Network Trash Folder", "Temporary Items"}
)
"""Names of folders with copies, thumbnails or rubbish, of Synology, QNAP, Windows, Linux and macOS."""

_RUN = "run.json"
"""What a folder of our reports holds beside them."""


@dataclass(frozen=True)
class FolderSource(WholeFiles):
    """Files below ``root``; the id is the path relative to it, with forward slashes."""

    root: Path

    def signature(self, image_id: str) -> Hashable:
        """Of the file, whatever it is that a link leads to."""
        try:
            stat = os.stat(self._path(image_id))
        except (OSError, ValueError):
            return None
        return str(self._path(image_id)), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns

    def _named(self, image_id: str) -> str:
        return str(self._path(image_id))

    def _read(self, image_id: str) -> bytes:
        return read(self._path(image_id))

    def _path(self, image_id: str) -> Path:
        return self.root / to_path(image_id)


@dataclass(frozen=True)
class _Listing:
    """What a folder holds: (id, label) sorted by id, the class directories, and the links not followed."""

    images: list[tuple[str, int]]
    classes: list[str]
    skipped: list[Skipped]


def folder(path: str | Path, n: int | None = None, seed: int = 42, *, skip_unreadable: bool = False) -> ImageSet:
    """Load ``n`` images (None: all), spread over the classes by ``seed``, sorted by id, each decoded once as a check.

    Labels index all class directories, also those that a small ``n`` leaves out. With ``skip_unreadable`` an unreadable
    image of the n is dropped and recorded in ``skipped``, so the set is smaller; it is not replaced. Raises McdoError
    for a wrong layout, for n above the number of images, and for unreadable images, naming them.
    """
    return listed(path).load(n, seed, skip_unreadable=skip_unreadable)


def listed(path: str | Path) -> Listing:
    """What a folder holds, nothing decoded yet; raises McdoError for a wrong layout or list."""
    whole, named_list = _parted(arguments.path(path))
    root = _split_of(whole)
    found = _list(root)
    ids = tuple(image_id for image_id, _ in found.images)
    labels, names = None, named_directories(root, found.classes)
    if found.classes:
        labels = np.array([label for _, label in found.images], dtype=np.int64)
        if named_list is not None:
            raise McdoError(f"{root} has class directories, and {named_list} lists classes as well; leave one out")
    elif (at := named_list or found_list(root)) is not None:
        labels, names = read_list(at, ids)
    below = from_path(root)[len(from_path(whole)) :]
    return Listing(
        name=f"folder:{from_path(path)}{below}",
        where=str(root),
        ids=ids,
        labels=labels,
        class_names=names,
        source=FolderSource(root),
        skipped=tuple(found.skipped),
    )


def source(path: str | Path) -> FolderSource:
    """Where the images lie."""
    return FolderSource(_parted(arguments.path(path))[0])


def _parted(whole: Path) -> tuple[Path, Path | None]:
    """The folder, and the list of labels named behind it."""
    before, at, named_list = str(whole).rpartition("@")
    if whole.exists() or not at or not Path(before).is_dir():
        return whole, None
    return Path(before), arguments.path(named_list)


def _split_of(root: Path) -> Path:
    """The validation images of a data set that is laid out by splits, as torchvision does; else the folder itself.

    Raises:
        McdoError: where it is, without validation images: its splits would be taken for classes.

    """
    if not root.is_dir():
        return root
    directories, loose = _entries(root, root, set(), [])
    names = {each.name.lower() for each in directories}
    alone = len(names) == 1 and names <= SPLITS and bool(_entries(root, directories[0], set(), [])[0])
    if loose or not (alone or len(names & SPLITS) > 1):
        return root
    chosen = next((each for each in directories if each.name.lower() in VALIDATION), None)
    if chosen is None:
        raise McdoError(
            f"{root} holds the splits {', '.join(sorted(names & SPLITS))}, no classes: name one, folder:{root}/SPLIT"
        )
    return chosen


def _list(root: Path) -> _Listing:
    if not root.is_dir():
        what = "is not a directory" if root.exists() else "does not exist"
        raise McdoError(f"image folder {root} {what}; {_LAYOUT}")
    above = {Path(os.path.realpath(root)), *Path(os.path.realpath(root)).parents}
    skipped: list[Skipped] = []
    directories, loose = _entries(root, root, set(above), skipped)
    if not directories and not loose:
        raise McdoError(f"image folder {root} holds neither class directories nor images; {_LAYOUT}")
    if directories and loose:
        raise McdoError(f"{loose[0]} lies beside class directories, so its class is unknown; {_LAYOUT}")
    if loose:
        return _Listing(sorted((_id(root, file), 0) for file in loose), [], skipped)
    images = []
    for label, directory in enumerate(directories):
        inside = [(_id(root, file), label) for file in _walk(root, directory, above.copy(), skipped)]
        if not inside:
            raise McdoError(f"class directory {directory} holds no images; remove it or fill it ({_LAYOUT})")
        images += inside
    return _Listing(sorted(images), [from_path(directory.name) for directory in directories], skipped)


def _walk(root: Path, directory: Path, seen: set[Path], skipped: list[Skipped], level: int = 0) -> Iterator[Path]:
    """Image files below ``directory``; ``seen`` holds the real directories that are not to be entered again."""
    if level > _LEVELS:
        raise McdoError(f"{directory} lies {level} levels below its class; at most {_LEVELS} are searched")
    seen.add(Path(os.path.realpath(directory)))
    directories, files = _entries(root, directory, seen, skipped)
    yield from files
    for each in directories:
        yield from _walk(root, each, seen, skipped, level + 1)


def _entries(root: Path, directory: Path, seen: set[Path], skipped: list[Skipped]) -> tuple[list[Path], list[Path]]:
    """Sub-directories to enter and image files, each in the order of their names."""
    try:
        visible = [each for each in directory.iterdir() if not each.name.startswith(".")]
        visible.sort(key=lambda each: from_path(each.name))
        folders = [each for each in visible if each.is_dir()]
    except OSError as error:
        raise McdoError(f"{error.filename} cannot be listed ({error.strerror}); check its permissions") from error
    directories, inner = [], frozenset(folders)
    for each in folders:
        if (each / MARKER).is_file():
            skipped.append(Skipped(_id(root, each), "a store of measurements, and no class"))
        elif (each / _RUN).is_file():
            skipped.append(Skipped(_id(root, each), "reports of measurements, and no class"))
        elif each.name in LEFT_BEHIND:
            skipped.append(Skipped(_id(root, each), "a folder that a file server or an archiver left, and no class"))
        elif Path(os.path.realpath(each)) in seen:
            skipped.append(
                Skipped(_id(root, each), "a symbolic link to a directory that is above it or already searched")
            )
        else:
            directories.append(each)
    return directories, [each for each in visible if each not in inner and _is_image(each)]


def _is_image(path: Path) -> bool:
    # A broken link has no file behind it, but with an image suffix it is a missing image, not noise.
    if path.suffix.lower() in suffixes():
        return True
    head = head_of(path)
    return (readable(head, path.suffix) or unreadable(head, path.suffix)) is not None


def _id(root: Path, path: Path) -> str:
    return from_path(PurePosixPath(path.relative_to(root)))
