"""Images from WebDataset tars: a sample is the files of one name up to its first dot, such as 000.jpg and 000.cls.

The picture's path in its tar is the id. A label stands in ``.cls`` or in ``.txt`` behind it (``.cls.txt``), in letters
of either case; numbers are named by ``classes.txt`` beside the tars. Of tars that are named after several splits, those
of one are read (``webdataset:FOLDER@val``). Only plain tars are read, in which a picture is found without reading the
rest; nothing is unpacked, so names in a tar reach no file.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mcdo.errors import McdoError
from mcdo.images.decode import LARGEST_FILE, UnreadableImageError, WholeFiles, suffixes
from mcdo.images.image_set import Skipped
from mcdo.images.labels import named
from mcdo.images.listing import Listing
from mcdo.images.splits import files_of_split, parted
from mcdo.names import from_path
from mcdo.schema import MOST_ROWS, check_regular

LABELS = (".cls", ".cls.txt")
_LABEL_LIMIT = 4096
_HEAD_LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """Bytes of a file in a tar."""

    tar: Path
    start: int
    size: int

    def read(self) -> bytes:
        """All of them."""
        with self.tar.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True)
class ShardSource(WholeFiles):
    """Pictures in tars, by id."""

    members: dict[str, Member]

    def signature(self, image_id: str) -> Hashable:
        """Of the tar."""
        member = self.members[image_id]
        stat = member.tar.stat()
        return str(member.tar), stat.st_ino, stat.st_size, stat.st_mtime_ns, member.start

    def _read(self, image_id: str) -> bytes:
        if image_id not in self.members:
            raise UnreadableImageError(image_id, "is in no tar any more")
        member = self.members[image_id]
        if not 0 < member.size <= LARGEST_FILE:
            raise UnreadableImageError(image_id, f"{member.size} bytes; from 1 to {LARGEST_FILE} are read")
        try:
            return member.read()
        except OSError as error:
            raise UnreadableImageError(image_id, f"cannot be read ({error.strerror})") from error


def listed(spec: str) -> Listing:
    """What one tar, or all of a folder, hold, nothing decoded yet.

    A million files are listed in half a minute.

    Raises:
        McdoError: for what is no plain tar, more than ``MOST_ROWS`` files, and for samples of several pictures or
            without the label others have.

    """
    place, split = parted(spec)
    tars = sorted(place.glob("*.tar")) if place.is_dir() else [place]
    if not tars or not tars[0].exists():
        raise McdoError(f"{place} is no tar and holds none; name a .tar, or a folder of them")
    tars = files_of_split(place, tars, split, f"webdataset:{place}")
    pictures: dict[str, Member] = {}
    labels: dict[str, str] = {}
    skipped, left = [], MOST_ROWS
    for tar in tars:
        samples = _samples(tar, left)
        left -= sum(map(len, samples.values()))
        for sample, files in samples.items():
            shown = [name for name in files if Path(name).suffix.lower() in suffixes()]
            if len(shown) > 1:
                raise McdoError(f"{tar}: the sample {sample} has several pictures ({', '.join(shown)})")
            if not shown:
                skipped.append(Skipped(f"{tar.name}/{sample}", "a sample without a picture"))
                continue
            image_id = f"{tar.name}/{shown[0]}"
            pictures[image_id] = files[shown[0]]
            labels[image_id] = _label(sample, files)
    if not pictures:
        raise McdoError(f"{place} holds no pictures")
    ids = sorted(pictures)
    known, names = None, tuple[str, ...]()
    if any(labels.values()):
        beside = place if place.is_dir() else place.parent
        known, names = named(str(place), [labels[each] for each in ids], ids, beside)
    return Listing(
        name=f"webdataset:{from_path(spec)}",
        where=str(place),
        ids=tuple(ids),
        labels=known,
        class_names=names,
        source=ShardSource(pictures),
        skipped=tuple(skipped),
    )


def _samples(tar: Path, most: int) -> dict[str, dict[str, Member]]:
    """Files by sample and name. Raises McdoError for more than ``most``."""
    found: dict[str, dict[str, Member]] = {}
    for count, (name, member) in enumerate(_files(tar), start=1):
        if count > most:
            raise McdoError(f"{tar}: the data set has more than {MOST_ROWS} files; give fewer tars at once")
        folder, slash, base = name.rpartition("/")
        sample = f"{folder}{slash}{base.partition('.')[0]}"
        if name in found.setdefault(sample, {}):
            raise McdoError(f"{tar}: {name} occurs twice")
        found[sample][name] = member
    return found


def _files(tar: Path) -> Iterator[tuple[str, Member]]:
    check_regular(tar)
    try:
        with _Heads(tar) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for each in archive:
                archive.members.clear()  # type: ignore[attr-defined]  # else it keeps all that it has seen
                if each.isdir() or each.name.rpartition("/")[2].startswith("."):
                    continue
                if not each.isreg() or each.issparse():
                    raise ValueError(f"{each.name} is a link, sparse, or no file; write it as a file of its own")
                yield each.name, Member(tar, each.offset_data, each.size)
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # where tarfile ends without a word
                raise ValueError(f"damaged or cut off at byte {archive.offset}")
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:  # the library follows heads into heads
        raise McdoError(
            f"{tar} cannot be read as a plain tar ({error}); one that is compressed must be unpacked"
        ) from error


class _Heads(io.FileIO):
    """A tar of which heads alone are read, in one piece each: a head that claims gigabytes is refused."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most a head. Raises ValueError for more."""
        if size is None or not 0 <= size <= _HEAD_LIMIT:
            raise ValueError(f"a head of {size} bytes; at most {_HEAD_LIMIT} are read")
        return super().read(size) or b""


def _label(sample: str, files: dict[str, Member]) -> str:
    ends: dict[str, list[Member]] = {}
    for name, member in files.items():
        ends.setdefault(name.removeprefix(sample).lower(), []).append(member)
    at, *more = next((ends[end] for end in LABELS if end in ends), [None])
    if at is None:
        return ""
    if more:
        raise McdoError(f"{at.tar}: the sample {sample} has several labels")
    if at.size > _LABEL_LIMIT:
        raise McdoError(f"{at.tar}: the label of {sample} has {at.size} bytes; at most {_LABEL_LIMIT} are read")
    try:
        return at.read().decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise McdoError(f"{at.tar}: the label of {sample} is no UTF-8") from error
