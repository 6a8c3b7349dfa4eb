"""From pictures to a feature file, so that a kill at any moment costs at most one block.

Blocks of images are written as whole files beside the output and merged into it at the end; a second run goes on
after the last whole block, also in the middle of a plant. While it runs, a lock keeps a second writer out; the
operating system takes the lock back from a killed one.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout
from tqdm import tqdm

from mcdo.errors import McdoError
from mcdo.estimators.provenance import versions
from mcdo.names import printable
from mcdo.store import canonical_json
from mcdo.store.fingerprint import measuring_code
from mcdo.store.locks import acquired, file_lock
from mcdo.studies.backbones.features import Features, Identity, read_features, union, write_features
from mcdo.studies.backbones.plants import PlantImages, View
from mcdo.studies.backbones.registry import Backbone


@cache
def software() -> str:
    """SHA-256 of the code that makes a vector of a picture, and of the versions of its libraries."""
    code = measuring_code(*(f"mcdo.studies.backbones.{name}" for name in ("extract", "registry", "dinov2")))
    return hashlib.sha256(canonical_json([code, dict(versions())]).encode()).hexdigest()


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
    lock = file_lock(path.with_name(f".{path.name}.lock"))
    try:
        acquired(lock, timeout=0)
    except Timeout:
        raise McdoError(f"{path} is being written by another process; wait for it, or give another output") from None
    try:
        return _extract(plants, backbone, identity, views, path, block, batch_size or backbone.batch_size)
    finally:
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
    whole = [path] if path.exists() else sorted(folder.glob("block-*.h5"))
    done = [(each, _checked(each, identity, plants)) for each in whole]
    held = {view for _, piece in done for view in piece.vectors}
    left = [place for place, view in enumerate(views) if view not in held]
    if path.exists() and left:
        raise McdoError(
            f"{path} is whole but lacks {views[left[0]].address}, which these plants have; give another output"
        )
    if path.exists():
        return path
    with tqdm(total=len(views), initial=len(held), desc=printable(backbone.name), unit="image", disable=None) as bar:
        for places in _chunks(left, block):
            piece = _measured(plants, backbone, identity, [views[place] for place in places], batch_size, bar)
            done.append((write_features(folder / f"block-{places[0]:08d}.h5", piece), piece))
    write_features(path, union(done))
    shutil.rmtree(folder, ignore_errors=True)
    return path


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
    plants: PlantImages,
    backbone: Backbone,
    identity: Identity,
    views: Sequence[View],
    batch_size: int,
    bar: tqdm[Any],
) -> Features:
    vectors, hashes = {}, {}
    for batch in (views[start : start + batch_size] for start in range(0, len(views), batch_size)):
        loaded = [plants.source.load(view) for view in batch]
        found = backbone.features([picture for picture, _ in loaded]).numpy().astype(np.float32)
        for view, vector, (_, content) in zip(batch, found, loaded, strict=True):
            vectors[view], hashes[view] = vector, content
        bar.update(len(batch))
    return Features(identity, vectors, hashes)
