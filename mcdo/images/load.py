"""From a specification or a manifest to an image set. A new kind of image set is one entry in ``KINDS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcdo import arguments
from mcdo.errors import McdoError, nearest
from mcdo.images import arrow, csv_list, shards
from mcdo.images.decode import suffixes
from mcdo.images.digits import HELDOUT, DigitSource, digit_origin, digits
from mcdo.images.folder import FolderSource, folder
from mcdo.images.folder import listed as folder_listed
from mcdo.images.folder import source as folder_source
from mcdo.images.image_set import ImageSet, Skipped, Source
from mcdo.images.listing import Listing, Looked, TooFewImagesError
from mcdo.images.retrieval import retrieval
from mcdo.images.synthetic import SyntheticSource, synthetic
from mcdo.images.threads import for_each
from mcdo.names import to_path
from mcdo.schema import LIST_LIMIT, Count, OpenRecord, Text, read_json

Names = tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of image set: ``usage`` for messages, and how the text after the colon becomes a set or a bare source.

    ``origins`` follow from ids and content hashes, for manifests that were written before they held origins.
    """

    usage: str
    load: Callable[[str, int | None, int, bool], ImageSet]
    source: Callable[[str], Source]
    origins: Callable[[Names, Names], Names]
    listed: Callable[[str], Listing] | None = None
    """What there is, where that can be told before anything is decoded."""


def _of_listing(usage: str, listed: Callable[[str], Listing]) -> Kind:
    """A kind of which a listing says all."""
    return Kind(
        usage=usage,
        load=lambda spec, n, seed, skip: listed(spec).load(n, seed, skip_unreadable=skip),
        source=lambda spec: listed(spec).source,
        origins=lambda _, hashes: hashes,
        listed=listed,
    )


KINDS = {
    "digits": Kind(
        usage="digits, digits:train",
        load=lambda split, n, seed, _: digits(n, seed, split or HELDOUT),
        source=lambda _: DigitSource(),
        origins=lambda ids, _: tuple(map(digit_origin, ids)),
    ),
    "folder": Kind(
        usage="folder:PATH, folder:PATH@LIST",
        load=lambda path, n, seed, skip: folder(path, n, seed, skip_unreadable=skip),
        listed=folder_listed,
        source=lambda path: folder_source(to_path(path)),
        origins=lambda _, hashes: hashes,
    ),
    "csv": _of_listing("csv:FILE.csv, csv:FILE.csv@SPLIT", csv_list.listed),
    "webdataset": _of_listing("webdataset:FILE.tar, webdataset:FOLDER, webdataset:FOLDER@SPLIT", shards.listed),
    "hf-dataset": _of_listing("hf-dataset:FOLDER, hf-dataset:FOLDER@SPLIT", arrow.listed),
    "retrieval": Kind(
        usage="retrieval:FILE.json",
        load=lambda path, n, seed, _: retrieval(path, n, seed),
        source=lambda path: FolderSource(arguments.path(to_path(path)).resolve().parent),
        origins=lambda _, hashes: hashes,
    ),
    "synthetic": Kind(
        usage="synthetic:solid, synthetic:gradient, synthetic:noise",
        load=lambda kind, n, seed, _: synthetic(kind, n, seed),
        source=lambda _: SyntheticSource(),
        origins=lambda ids, _: ids,
    ),
}


def load_images(spec: str, n: int | None = None, seed: int = 42, *, skip_unreadable: bool = False) -> ImageSet:
    """Load an image set: ``"digits"`` (held-out; ``"digits:train"`` for calibration), ``"folder:PATH"`` or a bare path.

    Also ``csv:FILE``, ``webdataset:TARS``, ``hf-dataset:FOLDER`` and ``retrieval:FILE``.

    ``n`` images are spread over the classes by ``seed`` and returned sorted by id; None takes every real image. Every
    image is decoded once here, so that nothing fails later; ``skip_unreadable`` drops and records the bad ones of a
    folder. Raises McdoError for an unknown specification, a wrong n or seed, and whatever the kind refuses.
    """
    kind, argument = _parse(spec)
    n = None if n is None else arguments.whole("n", n, least=1)
    return kind.load(argument, n, arguments.seed(seed), skip_unreadable)


def look_at(spec: str, n: int | None, seed: int, seconds: float) -> Looked:
    """What there is to :func:`load_images`, decoding for so long; raises McdoError for what cannot be loaded at all."""
    kind, argument = _parse(spec)
    if kind.listed is not None:
        return kind.listed(argument).look(n, seed, seconds)
    try:
        images = kind.load(argument, n, seed, False)
    except TooFewImagesError:
        images = kind.load(argument, None, seed, False)
    return Looked(len(images), images.class_names, len(images), len(images), len(set(images.origins)))


def class_sizes(spec: str) -> NDArray[np.int64] | None:
    """Images of each class of a specification, [C], unreadable ones included; None where nobody labelled them.

    What is listed is not decoded. Raises McdoError as :func:`load_images`.
    """
    kind, argument = _parse(spec)
    whole = kind.listed(argument) if kind.listed is not None else kind.load(argument, None, 0, False)
    return None if whole.labels is None else np.bincount(whole.labels, minlength=len(whole.class_names))


def _parse(spec: str) -> tuple[Kind, str]:
    arguments.instance("images", spec, str, "give a specification such as digits or folder:PATH")
    if not spec.strip():
        raise McdoError("no images are named; give a specification such as digits or folder:PATH")
    name, _, argument = spec.partition(":")
    if name not in KINDS and (place := _place(spec)) is not None:
        name, argument = place, spec
    if name not in KINDS:
        likely = KINDS[nearest(name, KINDS, 1).split(", ")[0]].usage
        every = ", ".join(kind.usage for kind in KINDS.values())
        raise McdoError(
            f"unknown images {spec!r}; the nearest: {likely}. Images of one's own are folder:PATH, with a directory "
            f"for each class. There are: {every}"
        )
    if name in _OF_A_PLACE and not argument:
        raise McdoError(f"images {name!r} needs a path: {KINDS[name].usage}")
    return KINDS[name], argument


_OF_A_PLACE = ("folder", "csv", "webdataset", "hf-dataset", "retrieval")


_OF_FILES = {".csv": "csv", ".tar": "webdataset", ".arrow": "hf-dataset", ".parquet": "hf-dataset"}


def _place(spec: str) -> str | None:
    """The kind of a bare path, by the files there; None for what looks like none."""
    path = arguments.path(to_path(spec))
    if path.is_file():
        return _OF_FILES.get(path.suffix, "folder")
    if (path / "dataset_dict.json").is_file():
        return "hf-dataset"
    if path.is_dir():
        inside = [each for each in path.iterdir() if not each.name.startswith(".")]  # hf download leaves a .cache
        if any(each.is_dir() for each in inside):
            return "hf-dataset" if _only_rows(inside) else "folder"
        packed = (_OF_FILES.get(each.suffix) for each in inside)
        return next((kind for kind in packed if kind in ("webdataset", "hf-dataset")), "folder")
    return "folder" if spec.startswith(("/", "./", "../", "~")) else None


def _only_rows(inside: Sequence[Path]) -> bool:
    """Whether directories hold files of rows and no picture, such as ``data/`` of a data set as the Hub keeps it."""
    rows = False
    for directory in (each for each in inside if each.is_dir()):
        for each in directory.iterdir():
            if each.suffix.lower() in suffixes():
                return False
            rows = rows or _OF_FILES.get(each.suffix) == "hf-dataset"
    return rows


def read_manifest(path: str | Path) -> ImageSet:
    """The image set that :meth:`ImageSet.write_manifest` wrote, after verifying that every image has the same content.

    A manifest without ``origins`` is an older one: its origins are those that loading the images anew gives them.
    Raises McdoError when the manifest is not one, naming the key, or naming the first image that is missing or changed.
    """
    held: _Manifest = read_json(
        Path(path), _Manifest, "write the manifest again with write_manifest", limit=LIST_LIMIT, any_name=True
    )
    try:
        images = _of_manifest(held)
        for_each(lambda i: _verify(images, i), len(images), "verifying")
    except McdoError as error:
        raise McdoError(f"{path}: {error}") from error
    return images


def _of_manifest(held: _Manifest) -> ImageSet:
    kind, argument = _parse(held.name)
    return ImageSet(
        name=held.name,
        ids=held.paths,
        labels=None if held.labels is None else np.array(held.labels, dtype=np.int64),
        class_names=held.class_names,
        seed=held.seed,
        source=kind.source(argument),
        content_hashes=held.hashes,
        skipped=held.skipped,
        mask_ids=held.mask_ids or (),
        origins=kind.origins(held.paths, held.hashes) if held.origins is None else held.origins,
    )


class _Manifest(OpenRecord, frozen=True):
    name: Text
    seed: int
    paths: tuple[str, ...]
    labels: tuple[Count, ...] | None
    class_names: tuple[str, ...]
    hashes: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    origins: tuple[str, ...] | None = None
    mask_ids: tuple[str, ...] | None = None


def _verify(images: ImageSet, i: int) -> None:
    if images.source.content_hash(images.ids[i]) != images.content_hashes[i]:
        raise McdoError(
            f"{images.ids[i]} ({images.name}) has other content than when the manifest was written; "
            "restore the file, or load the images anew"
        )
