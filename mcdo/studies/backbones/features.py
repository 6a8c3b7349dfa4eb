"""Feature files: HDF5 with one vector per image at ``/plant/round/view``, float32 [D], and where it came from.

A file is whole or not there: it is written under another name and renamed. So a kill can cost what was being computed
and nothing else. Large extractions are written as many such files, *pieces*, which are merged; pieces of different
backbones, weights, preprocessing or plants do not merge.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.studies.backbones.plants import PlantImages, View

FORMAT = "mcdo plant features 1"
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Identity:
    """All that decides a vector apart from the picture: files of different identities are never mixed.

    ``weights`` is the SHA-256 of the state dict, ``plants`` the fingerprint of the whole image series.
    """

    backbone: str
    feature_size: int
    random_weights: bool
    weights: str
    preprocessing: str
    plants: str

    def check_same(self, other: Identity, where: str) -> None:
        """Raise McdoError naming the first thing that differs."""
        for each in fields(self):
            mine, its = getattr(self, each.name), getattr(other, each.name)
            if mine != its:
                raise McdoError(
                    f"{where} has {each.name} = {its!r}, not {mine!r}: one feature file holds one backbone, with the "
                    "same weights, preprocessing and plants. Give another output, or delete that file"
                )


@dataclass(frozen=True)
class Features:
    """What a feature file holds: its identity, and per image the vector and the hash of the picture."""

    identity: Identity
    vectors: Mapping[View, Vector]
    hashes: Mapping[View, str]


def write_features(path: Path, features: Features) -> Path:
    """Write a feature file, whole or not at all.

    Raises:
        McdoError: if a vector is not finite float32 of the stated size.

    """
    import h5py

    for view, vector in features.vectors.items():
        if vector.shape != (features.identity.feature_size,) or vector.dtype != np.float32:
            raise McdoError(
                f"{view.address}: {vector.dtype} {vector.shape} from {features.identity.backbone}, "
                f"expected float32 ({features.identity.feature_size},)"
            )
        if not np.isfinite(vector).all():
            raise McdoError(f"{view.address}: the features from {features.identity.backbone} are not finite")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(part, "w", track_order=False) as file:
            _fill(file, features)
        with part.open("rb") as done:
            os.fsync(done.fileno())
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


def read_features(path: Path) -> Features:
    """Read a feature file.

    Raises:
        McdoError: if it is not there, damaged or none of ours.

    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise McdoError(f"{path} is not a feature file of this version ({FORMAT}); extract it anew")
            identity = Identity(**{each.name: _plain(file.attrs[each.name]) for each in fields(Identity)})
            vectors, hashes = {}, {}
            for plant, rounds in file.items():
                for number, views in rounds.items():
                    for name, held in views.items():
                        view = View(plant, int(number), name)
                        vectors[view], hashes[view] = held[()], str(held.attrs["sha256"])
            expected = int(file.attrs["images"])
    except FileNotFoundError:
        raise McdoError(f"{path} is not there; run: python -m mcdo.studies.backbones extract") from None
    except (OSError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise McdoError(f"{path} is damaged or no feature file ({error}); delete it and extract anew") from error
    if len(vectors) != expected:
        raise McdoError(f"{path} holds {len(vectors)} images, but was written with {expected}; delete it, extract anew")
    return Features(identity, vectors, hashes)


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
