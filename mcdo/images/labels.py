"""Labels that stand beside images, in a list, a table or an archive: from what is written there to classes by name.

A label is a name, or an ImageNet synset ID. Whole numbers name nothing: the same 65 is a salamander in one order of the
1000 classes and a snake in another. So they are read by a file of names alone, ``classes.txt``: line 1 is class 0.
Class directories that are numbers are read by it as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError, refused_as
from mcdo.images.class_names import class_names
from mcdo.images.mat_table import struct_rows
from mcdo.images.splits import SPLITS
from mcdo.names import visible
from mcdo.schema import check_regular, read_lines

Named = tuple[NDArray[np.int64], tuple[str, ...]]
"""int64 [N] into names of classes, and these."""
CLASSES = "classes.txt"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
META = "meta.mat"
LISTS = (GROUND_TRUTH, "labels.txt")
"""Lists that are found by name, in a folder of images or beside it."""
_LIKE = 0.8
"""Share of letters, as difflib counts it, from which a name of a column is another one mistyped."""
_ABSENT = frozenset({"nan", "-nan", "<na>", "nat", "-1"})
"""As pandas and its like write what is missing; as a class among others it would hold images of any."""
_LIST_LIMIT = 2**27
_META_LIMIT = 2**26
"""Bytes of the devkit's table, as it is and unpacked."""
_DEVKIT = ("", "data", "ILSVRC2012_devkit_t12/data")


def named(where: str, labels: Sequence[str], places: Sequence[str], names_in: Path) -> Named:
    """int64 [N] into the names of classes, and these.

    Args:
        where: the file, for messages.
        labels: as they are written.
        places: of each, such as "line 3", for messages.
        names_in: the folder of ``classes.txt``.

    Raises:
        McdoError: for an empty label, and for a number without a name.

    """
    for label, place in zip(labels, places, strict=True):
        if not label.strip():
            raise McdoError(f"{where}, {place}: there is no label, but others have one; give it, or leave out all")
    odd = next((at for at, label in enumerate(labels) if not _is_whole(label)), None)
    if odd is not None and all(map(_is_number, labels)):
        raise McdoError(
            f"{where}, {places[odd]}: the label {labels[odd]} is no class: numbers of classes are whole, from 0 on. "
            "Leave out images without a class, and write 3 for 3.0"
        )
    if odd is not None:
        for label, place in zip(labels, places, strict=True):
            if label.casefold() in _ABSENT:
                raise McdoError(
                    f"{where}, {place}: the label {label} is how tables write that there is none; leave out images "
                    "without a class, or give a class of that name a longer one"
                )
        known = sorted(set(labels))
        at = {name: i for i, name in enumerate(known)}
        return np.array([at[label] for label in labels], dtype=np.int64), class_names(Path(where), known)
    file = names_in / CLASSES
    lines = _names(file, labels, where, "labels", lambda i: f"{where}, {places[i]}")
    return np.array([int(label) for label in labels], dtype=np.int64), class_names(file, lines)


def named_directories(root: Path, directories: Sequence[str]) -> tuple[str, ...]:
    """Names of the classes of a folder, in the order of ``directories``; of mere numbers, by ``classes.txt``.

    It lies in the folder, or beside it where the folder is a split of a data set.

    Raises:
        McdoError: for numbers without names, besides what ``class_names`` raises.

    """
    if not directories or not all(map(_is_whole, directories)):
        return class_names(root, list(directories))
    places = (root, root.parent) if root.name.lower() in SPLITS else (root,)  # beside others, it may be of those
    file = next((at / CLASSES for at in places if (at / CLASSES).is_file()), root / CLASSES)
    lines = _names(file, directories, str(root), "class directories", lambda i: str(root / directories[i]))
    return class_names(file, [lines[int(each)] for each in directories])


def _names(file: Path, numbers: Sequence[str], where: str, what: str, place: Callable[[int], str]) -> list[str]:
    """Lines of ``classes.txt``, which name each of ``numbers``: line 1 is class 0. ``place`` is that of one of them."""
    if not file.is_file():
        raise McdoError(
            f"{where}: its {what} are numbers ({numbers[0]}, ...), which name no class. Put the names into {file}, one "
            "a line: line 1 is class 0"
        )
    lines = [line.strip() for line in read_lines(file, limit=_LIST_LIMIT)]
    while lines and not lines[-1]:
        lines.pop()
    for i, number in enumerate(numbers):
        if _number(number) >= len(lines):
            raise McdoError(f"{place(i)}: class {number[:20]}, but {file} names {len(lines)}, from 0 on")
    return lines


def check_columns(where: object, names: Iterable[str], lacking: Iterable[str]) -> None:
    """Raise McdoError where a column that nothing reads looks like one that is ``lacking``: it was mistyped."""
    for name in names:
        for like in get_close_matches(visible(name).strip().casefold(), lacking, n=1, cutoff=_LIKE):
            raise McdoError(f"{where}: nothing reads the column {name!r}; name it {like}, or leave it out")


def _is_whole(label: str) -> bool:
    return label.isascii() and label.isdigit()


def _is_number(label: str) -> bool:
    """Whether a label is a number in any way of writing it: -1 and nan for no class, 3.0 where a table had gaps."""
    try:
        float(label)
    except ValueError:
        return False
    return True


def _number(digits: str) -> int:
    """A number in digits; one of more than Python reads is larger than any class."""
    return int(digits) if len(digits) <= 18 else 10**18


def found_list(folder: Path) -> Path | None:
    """The list of labels in a folder of images or beside it, if there is one by a known name."""
    return next((at / name for at in (folder, folder.parent) for name in LISTS if (at / name).is_file()), None)


def read_list(path: Path, files: Sequence[str]) -> Named:
    """Labels of ``files`` (sorted) from a list: lines ``FILE LABEL``, or ImageNet's ground truth, a number a line.

    Both may hold blanks: FILE is the longest name of a file there is that the line begins with.

    Raises:
        McdoError: for a line that cannot be read, a file without a label and a label without a file, naming them.

    """
    lines = [line.strip() for line in read_lines(path, limit=_LIST_LIMIT)]
    filled = [(at, line) for at, line in enumerate(lines, 1) if line]
    if not filled:
        raise McdoError(f"{path} is empty; expected lines FILE LABEL")
    if all(line.isascii() and line.isdigit() for _, line in filled):
        return _ground_truth(path, [_number(line) for _, line in filled], files)
    labels: dict[str, tuple[int, str]] = {}
    known = frozenset(files)
    for at, line in filled:
        file, label = _file_and_label(line, known)
        if not label:
            raise McdoError(f"{path}, line {at}: {line!r} is no FILE LABEL")
        if file in labels:
            raise McdoError(f"{path}, line {at}: {file} has a label already, in line {labels[file][0]}")
        labels[file] = at, label
    _check_same(path, labels, files)
    return named(
        str(path), [labels[file][1] for file in files], [f"line {labels[file][0]}" for file in files], path.parent
    )


def _file_and_label(line: str, files: Container[str]) -> tuple[str, str]:
    """Of a line of a list; the first word is taken for a file where the line begins with none of ``files``."""
    ends = [blank.start() for blank in re.finditer(r"[ \t]", line)] or [len(line)]
    end = next((end for end in reversed(ends) if line[:end] in files), ends[0])
    return line[:end], line[end:].replace("\t", " ").strip()


def _check_same(path: Path, labels: Mapping[str, object], files: Sequence[str]) -> None:
    without, surplus = sorted(set(files) - set(labels)), sorted(set(labels) - set(files))
    if without:
        raise McdoError(f"{path} has no label for {len(without)} of {len(files)} images, such as {without[0]}")
    if surplus:
        raise McdoError(f"{path} has labels for {len(surplus)} files that are not there, such as {surplus[0]}")


def _ground_truth(path: Path, numbers: Sequence[int], files: Sequence[str]) -> Named:
    """Of ImageNet's validation images: line i is the ILSVRC2012 number of image i, by the devkit's own order."""
    if len(numbers) != len(files):
        raise McdoError(f"{path} has {len(numbers)} labels for {len(files)} images; it must be one a line for each")
    synsets = _synsets(path)
    for at, number in enumerate(numbers, 1):
        if number not in synsets:
            raise McdoError(f"{path}, line {at}: {number} is no ILSVRC2012 class")
    wnids = sorted(synsets.values())
    index = {wnid: i for i, wnid in enumerate(wnids)}
    labels = np.array([index[synsets[number]] for number in numbers], dtype=np.int64)
    return labels, class_names(path, wnids)


def _synsets(path: Path) -> dict[int, str]:
    """Synset IDs of the 1000 classes by ILSVRC2012 number, which follow no order that could be guessed."""
    tried = [path.parent / place / META for place in _DEVKIT]
    file = next((each for each in tried if each.is_file()), None)
    if file is None:
        raise McdoError(
            f"{path}: its numbers are those of the devkit's {META}, in an order of its own, and that file is not "
            f"beside it; unpack ILSVRC2012_devkit_t12.tar.gz into {path.parent}, or write lines FILE SYNSET"
        )
    with refused_as(f"{file} cannot be read"):
        check_regular(file)
        if file.stat().st_size > _META_LIMIT:
            raise ValueError(f"{file.stat().st_size} bytes; at most {_META_LIMIT} are read")
        rows = struct_rows(file.read_bytes(), "synsets", _META_LIMIT)
        found: dict[int, str] = {}
        for row in rows:
            number, synset, children = row["ILSVRC2012_ID"], row["WNID"], row["num_children"]
            if not isinstance(number, float) or not number.is_integer() or number in found:
                raise ValueError(f"the ILSVRC2012_ID {number!r} is no whole number, or occurs twice")
            if not isinstance(synset, str) or not re.fullmatch(r"n\d{8}", synset):
                raise ValueError(f"the WNID {synset!r:.40} is no synset")
            found |= {int(number): synset} if children == 0 else {}
        if len(set(found.values())) != len(found):
            raise ValueError("a synset has several numbers")
        return found
