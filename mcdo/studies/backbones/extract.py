"""From pictures to a feature file, so that a kill at any moment costs at most one block.

Blocks of images are written as whole files beside the output, every few seconds and when the run is ended, and merged
into it at the end; a second run goes on after the last whole block, also in the middle of a plant. While it runs, a
lock keeps a second writer out; the operating system takes the lock back from a killed one.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from filelock import Timeout
from tqdm import tqdm

from mcdo.errors import McdoError
from mcdo.estimators.provenance import versions
from mcdo.estimators.resumption import SAVE_EVERY_S, interrupted_by_signals
from mcdo.names import printable, say
from mcdo.store import digest
from mcdo.store.fingerprint import measuring_code
from mcdo.store.locks import acquired, file_lock
from mcdo.studies.backbones.features import Features, Identity, Vector, read_features, union, write_features
from mcdo.studies.backbones.plants import PlantImages, View
from mcdo.studies.backbones.registry import Backbone


@cache
def software() -> str:
    """SHA-256 of the code that makes a vector of a picture, and of the versions of its libraries."""
    code = measuring_code(*(f"mcdo.studies.backbones.{name}" for name in ("extract", "registry", "dinov2")))
    return digest([code, dict(versions())])


def identity_of(plants: PlantImages, backbone: Backbone) -> Identity:
    """What a feature file of this backbone on these plants must say of itself."""
    return Identity(
        backbone.name,
        backbone.feature_size,
        backbone.random_weights,
        backbone.weights,
        backbone.architecture,
        backbone.preprocessing,
        software(),
        plants.fingerprint,
    )


def shard_views(plants: PlantImages, shard: int, shards: int) -> list[View]:
    """The images of one shard of several (counted from 1): an unbroken stretch, sizes differing by at most one."""
    if not 1 <= shard <= shards:
        raise McdoError(f"shard {shard}/{shards}: shards are counted from 1 to their number")
    n = len(plants.views)
    return list(plants.views[n * (shard - 1) // shards : n * shard // shards])


def shard_path(out: Path, shard: int, shards: int) -> Path:
    """Where a shard of ``out`` is written: ``out`` itself when there is but one."""
    return out if shards == 1 else out.with_name(f"{out.stem}.shard-{shard}-of-{shards}{out.suffix}")


def extract(
    plants: PlantImages,
    backbone: Backbone,
    out: Path,
    *,
    shard: int = 1,
    shards: int = 1,
    block: int = 256,
    batch_size: int | None = None,
) -> Path:
    """Extract one shard, or go on with it; returns its file.

    Args:
        plants: the image series.
        backbone: from :func:`load_backbone`, which has made sure of its feature size.
        out: the feature file; see :func:`shard_path` for that of a shard.
        shard: counted from 1.
        shards: how many there are.
        block: images between two saves.
        batch_size: images of one forward pass; None takes the backbone's.

    Raises:
        McdoError: when another process writes this file, when the file or its blocks are of another backbone or of
            other pictures, or for an unreadable picture.

    """
    views, path = shard_views(plants, shard, shards), shard_path(out, shard, shards)
    identity = identity_of(plants, backbone)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    lock = file_lock(place)
    try:
        if not acquired(lock, timeout=0):
            say(f"{path.parent} has no locks: take care that no other process extracts the same", sys.stderr)
    except Timeout:
        raise McdoError(f"{path} is being written by another process; wait for it, or give another output") from None
    try:
        with interrupted_by_signals():
            return _extract(plants, backbone, identity, views, path, block, batch_size or backbone.batch_size)
    finally:
        place.unlink(missing_ok=True)
        lock.release()


def _extract(
    plants: PlantImages,
    backbone: Backbone,
    identity: Identity,
    views: Sequence[View],
    path: Path,
    block: int,
    batch_size: int,
) -> Path:
    folder = path.with_name(f"{path.name}.blocks")
    for left_behind in (*path.parent.glob(f".{path.name}.[0-9]*"), *folder.glob(".block-*.h5.[0-9]*")):
        left_behind.unlink(missing_ok=True)  # by a process that was killed while it wrote
    whole = [path] if path.exists() else sorted(folder.glob("block-*.h5"))
    done = [_checked(each, identity, plants) for each in whole]
    held = {view for piece in done for view in piece.vectors}
    left = [place for place, view in enumerate(views) if view not in held]
    if path.exists() and left:
        raise McdoError(
            f"{path} is whole but lacks {views[left[0]].address}, which these plants have; give another output"
        )
    if left:
        with tqdm(
            total=len(views), initial=len(held), desc=printable(backbone.name), unit="image", disable=None
        ) as bar:
            saving = _Saving(folder, identity, block)
            try:
                for places in _chunks(left, min(batch_size, block)):
                    saving.add(places[0], _measured(plants, backbone, [views[place] for place in places]))
                    bar.update(len(places))
            finally:
                saving.save()
        done += saving.pieces
    if not path.exists():
        write_features(path, union((path, piece) for piece in done))
    shutil.rmtree(folder, ignore_errors=True)
    return path


class _Saving:
    """Writes what is measured beside the output: every ``block`` images, and every few seconds.

    ``pieces`` are those written.
    """

    def __init__(self, folder: Path, identity: Identity, block: int) -> None:
        self._folder, self._identity, self._block = folder, identity, block
        self.pieces: list[Features] = []
        self._begin()

    def _begin(self) -> None:
        self._first = -1
        self._vectors: dict[View, Vector] = {}
        self._hashes: dict[View, str] = {}
        self._due = time.monotonic() + SAVE_EVERY_S

    def add(self, place: int, measured: tuple[dict[View, Vector], dict[View, str]]) -> None:
        """Add a batch, which begins with the image at ``place``."""
        self._first = place if self._first < 0 else self._first
        self._vectors |= measured[0]
        self._hashes |= measured[1]
        if len(self._vectors) >= self._block or time.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write what is not written yet."""
        if self._vectors:
            piece = Features(self._identity, self._vectors, self._hashes)
            write_features(self._folder / f"block-{self._first:08d}.h5", piece)
            self.pieces.append(piece)
            self._begin()


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (places[start : start + size] for start in range(0, len(places), size))


def _checked(path: Path, identity: Identity, plants: PlantImages) -> Features:
    """A file that is already there, if it is of this backbone and its pictures are still the same."""
    piece = read_features(path)
    identity.check_same(piece.identity, str(path))
    for view, held in piece.hashes.items():
        if plants.source.content_hash(view) != held:
            raise McdoError(f"{path}: the picture {view.address} has changed since; delete the file and extract anew")
    return piece


def _measured(
    plants: PlantImages, backbone: Backbone, views: Sequence[View]
) -> tuple[dict[View, Vector], dict[View, str]]:
    """Vectors and hashes of the pictures of one batch."""
    loaded = [plants.source.load(view) for view in views]
    found = backbone.features([picture for picture, _ in loaded]).numpy().astype(np.float32)
    return dict(zip(views, found, strict=True)), {view: seen for view, (_, seen) in zip(views, loaded, strict=True)}
