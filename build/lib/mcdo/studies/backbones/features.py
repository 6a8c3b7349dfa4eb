"""Feature files: HDF5 with one vector per image at ``/plant/round/view``, float32 [D], and where it came from.

A file is whole or not there: it is written under another name and renamed. So a kill can cost what was being computed
and nothing else. Its first 512 bytes, which HDF5 leaves to its users, hold a checksum of all others, and it is verified
before anything is read: a damaged file may keep HDF5 busy for ever. Large extractions are written as many such files,
*pieces*, which are merged; pieces of different backbones, weights, preprocessing or plants do not merge.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.studies.backbones.plants import PlantImages, View

FORMAT = "mcdo plant features 2"
_USER_BLOCK = 512
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Identity:
    """All that decides a vector apart from the picture: files of different identities are never mixed.

    ``weights`` is the SHA-256 of the state dict, ``architecture`` of what the model does with them, ``software`` of our
    code and the libraries' versions, ``plants`` the fingerprint of the whole image series.
    """

    backbone: str
    feature_size: int
    random_weights: bool
    weights: str
    architecture: str
    preprocessing: str
    software: str
    plants: str

    def check_same(self, other: Identity, where: str) -> None:
        """Raise McdoError naming the first thing that differs."""
        for each in fields(self):
            mine, its = getattr(self, each.name), getattr(other, each.name)
            if mine != its:
                raise McdoError(
                    f"{where} has {each.name} = {its!r}, not {mine!r}: one feature file holds one backbone, with the "
                    "same weights, architecture, preprocessing, software and plants. Give another output, or delete "
                    "that file"
                )


@dataclass(frozen=True)
class Features:
    """What a feature file holds: its identity, and per image the vector and the hash of the picture."""

    identity: Identity
    vectors: Mapping[View, Vector]
    hashes: Mapping[View, str]

    def check(self, error: Callable[[str], McdoError]) -> None:
        """Raise ``error(what is wrong)`` unless every vector is finite float32 of the stated size."""
        size = (self.identity.feature_size,)
        for view, vector in self.vectors.items():
            if vector.shape != size or vector.dtype != np.float32:
                raise error(f"{view.address}: {vector.dtype} {vector.shape}, expected float32 {size}")
            if not np.isfinite(vector).all():
                raise error(f"{view.address}: the features are not finite")


def write_features(path: Path, features: Features) -> Path:
    """Write a feature file, whole or not at all.

    Raises:
        McdoError: if a vector is not finite float32 of the stated size.

    """
    import h5py

    features.check(lambda wrong: McdoError(f"{features.identity.backbone}: {wrong}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(part, "w", track_order=False, userblock_size=_USER_BLOCK) as file:
            _fill(file, features)
        seal(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def _fill(file: Any, features: Features) -> None:
    file.attrs.update({"format": FORMAT, **asdict(features.identity), "images": len(features.vectors)})
    file.attrs["versions"] = json.dumps(
        {
            name: importlib.metadata.version(name)
            for name in ("mcdo", "torch", "open_clip_torch", "transformers", "h5py")
        }
    )
    for view in sorted(features.vectors):
        held = file.create_dataset(view.address, data=features.vectors[view], track_times=False)
        held.attrs["sha256"] = features.hashes[view]


def _seal(path: Path) -> bytes:
    """What the first bytes of a file must be: its format, and the SHA-256 of what follows the user block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(_USER_BLOCK)
        while piece := file.read(2**20):
            digest.update(piece)
    return f"{FORMAT} {digest.hexdigest()}\n".encode()


def seal(path: Path) -> None:
    """Write the checksum of a file that is to be read again, and flush it."""
    with path.open("r+b") as file:
        file.write(_seal(path))
        os.fsync(file.fileno())


def _check_seal(path: Path) -> None:
    with path.open("rb") as file:
        head = file.readline(_USER_BLOCK)
    if not head.startswith(FORMAT.encode()):
        raise McdoError(f"{path} is damaged, or no feature file of this version ({FORMAT}); delete it, extract anew")
    if head != _seal(path):
        raise McdoError(f"{path} is damaged (its checksum is wrong); delete it and extract anew")


def _vector(where: str, held: Any, size: int) -> Vector:
    """The vector in a data set that stands in this very file and claims no more than it should."""
    import h5py

    if not isinstance(held, h5py.Dataset) or held.external or held.is_virtual:
        raise ValueError(f"{where} is no data set of this file")
    if held.shape != (size,) or held.dtype != np.float32:
        raise ValueError(f"{where} is {held.dtype} {held.shape}, expected float32 ({size},)")
    vector: Vector = held[()]
    return vector


def _members(group: Any) -> Iterator[tuple[str, Any]]:
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"{group.name}/{name} is a link to somewhere else")
        yield name, group[name]


def read_features(path: Path) -> Features:
    """Read a feature file.

    Raises:
        McdoError: if it is not there, damaged or none of ours.

    """
    import h5py

    try:
        _check_seal(path)
        with h5py.File(path, "r") as file:
            identity = Identity(**{each.name: _plain(file.attrs[each.name]) for each in fields(Identity)})
            vectors, hashes = {}, {}
            for plant, rounds in _members(file):
                for number, views in _members(rounds):
                    for name, held in _members(views):
                        view = View(plant, int(number), name)
                        vectors[view] = _vector(view.address, held, identity.feature_size)
                        hashes[view] = str(held.attrs["sha256"])
            expected = int(file.attrs["images"])
    except FileNotFoundError:
        raise McdoError(f"{path} is not there; run: python -m mcdo.studies.backbones extract") from None
    except (OSError, KeyError, ValueError, AttributeError, TypeError, RuntimeError) as error:
        raise McdoError(f"{path} is damaged or no feature file ({error}); delete it and extract anew") from error
    if len(vectors) != expected:
        raise McdoError(f"{path} holds {len(vectors)} images, but was written with {expected}; delete it, extract anew")
    features = Features(identity, vectors, hashes)
    features.check(lambda wrong: McdoError(f"{path} is damaged ({wrong}); delete it and extract anew"))
    return features


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def union(pieces: Iterable[tuple[Path, Features]]) -> Features:
    """All vectors of pieces of one identity.

    Raises:
        McdoError: naming the first piece that is of another identity, or the image that two pieces hold.

    """
    merged: Features | None = None
    for path, piece in pieces:
        if merged is None:
            merged = Features(piece.identity, dict(piece.vectors), dict(piece.hashes))
            continue
        merged.identity.check_same(piece.identity, str(path))
        twice = merged.vectors.keys() & piece.vectors.keys()
        if twice:
            raise McdoError(f"{path} holds {min(twice).address}, which another piece holds too; merge each shard once")
        merged = Features(merged.identity, {**merged.vectors, **piece.vectors}, {**merged.hashes, **piece.hashes})
    if merged is None:
        raise McdoError("there are no feature files to merge")
    return merged


def merge(paths: Iterable[Path], out: Path, plants: PlantImages | None = None) -> Path:
    """Merge shards into one file; with ``plants``, every image must be there.

    Raises:
        McdoError: for mixed identities, an image held twice, or a missing one.

    """
    merged = union((path, read_features(path)) for path in paths)
    if plants is not None:
        missing = [view.address for view in plants.views if view not in merged.vectors]
        if missing:
            raise McdoError(f"{out}: {len(missing)} images are missing, the first {missing[0]}; a shard is unfinished")
    return write_features(out, merged)
