"""The census: what every site does on its own, measured by the passes of the pass loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo import arguments
from mcdo.encoders import Encoder
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import BlockLoop, check_inputs, prepared
from mcdo.estimators.progress import Progress, Reporting, Silent, progress_of
from mcdo.estimators.provenance import identity, provenance
from mcdo.estimators.resumption import KeptValues, measured_once, unkept
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.shown import Shown
from mcdo.perturbation import PASS_BLOCK, Perturbation, PerturbedTower, Site, SiteRecord, image_keys, perturbed
from mcdo.store import Arrays, Store, Unfinished, check_shapes
from mcdo.threads import StoppedError


def census(
    encoder: Encoder,
    images: Shown,
    dropout: Perturbation,
    *,
    seed: int = 0,
    limit: int | None = None,
    store: Store | Path | str | None = None,
    progress: Reporting = True,
) -> tuple[SiteRecord, ...]:
    """What every requested site does on its own, on the first ``limit`` images (8, or 1 for inputs above 64 px).

    Whether each fires and changes the output, and how much it does, is kept in the ``store`` as it comes; None measures
    it anew.

    Raises:
        McdoError: naming every requested site that is unknown, never fires, or changes nothing, and for a store that
            cannot be written.

    """
    check_inputs(encoder, images, dropout)
    seed = arguments.seed(seed)
    limit = None if limit is None else arguments.whole("limit", limit, least=1)
    few = images.select(slice(0, limit or (8 if encoder.resolution <= 64 else 1)))
    shown, n = prepared(encoder, few), len(few)
    sites = alive_sites(encoder, shown, dropout, store=store, progress=bool(progress), images=n)
    pixels, keys = shown.batch(slice(None)), image_keys(few.mask_ids, encoder.device)

    def measure(parts: Unfinished | None) -> NDArray[np.float64]:
        kept = KeptValues(parts, len(sites) * n, label)
        left = (~kept.done).reshape(len(sites), n).sum(axis=1)
        total = sum(passes_of_site(site, dropout, n) * int(images) for site, images in zip(sites, left, strict=True))
        with progress_of(progress, total, f"{encoder.key} on {few.name}, census") as bar, kept.saved():
            return site_variances(encoder, pixels, keys, sites, dropout, seed, kept, bar)

    protocol = {"kind": dropout.as_dict(), "seed": seed, "sites": [site.name for site in sites]}
    label = {"encoder": encoder.key, "images": few.name, "protocol": f"{dropout}, census of {len(sites)} sites"}

    def find(opened: Store, name: str) -> NDArray[np.float64] | None:
        found = opened.get(name, lambda arrays, facts: check_shapes(arrays, {"variance": (len(sites), n)}))
        return None if found is None else found[0]["variance"]

    def key() -> str:
        family = {"method": "census", "protocol": protocol, **identity(encoder, few)}
        return Store.key(family, {"images": few.fingerprint})

    def packed(found: NDArray[np.float64]) -> tuple[Arrays, Mapping[str, Any]]:
        return {"variance": found}, {"label": label, "protocol": protocol, "provenance": provenance(encoder, few)}

    variances = np.zeros((len(sites), n))
    if dropout.p:
        variances = measured_once(store, key, find, measure, packed, progress=bool(progress))
    return tuple(
        SiteRecord(site.name, site.role.value, site.calls, site.units, float(variance.mean()))
        for site, variance in zip(sites, variances, strict=True)
    )


def passes_of_site(site: Site, kind: Perturbation, images: int) -> int:
    """In which a site is looked at alone: as many as drop 64 units on average, between 4 and 256; none at p = 0."""
    if not kind.p:
        return 0
    units = site.layout(kind)[1]
    return min(256, max(4, math.ceil(64 / max(kind.p * units * images, 1e-9))))


def site_variances(
    encoder: Encoder,
    pixels: Tensor,
    keys: Tensor,
    sites: Sequence[Site],
    kind: Perturbation,
    seed: int,
    kept: KeptValues | None = None,
    bar: Progress | None = None,
) -> NDArray[np.float64]:
    """trace_pre of each image [S, B] when ``kind`` acts at one of the ``sites`` alone, from between 4 and 256 passes.

    A thread has a site to itself, so that few images take all cores. Variances and what leads to them are ``kept``.
    Passes are in float32: at one site alone, rounding to bfloat16 adds up to two fifths to them.
    """
    n, rows = len(pixels), pixel_rows(encoder, None)
    kept = kept or KeptValues(None, len(sites) * n, {})
    before = kept.done.reshape(len(sites), n).copy()
    loop = BlockLoop(encoder, len(sites), rows, rows)
    loop.restored[:] = before.all(axis=1)

    def measure(number: int, _: int) -> None:
        site, together = sites[number], max(1, loop.rows // PASS_BLOCK)
        wanted = passes_of_site(site, kind, n)
        with perturbed(encoder, kind.at(site.name), seed, exact=True, beside=True) as tower:
            tower.before_map = loop.check_wanted
            for start in range(0, n, together):
                stop = min(n, start + together)
                if not before[number, start:stop].all():
                    _measure(tower, pixels[start:stop], keys[start:stop], wanted, kept, number * n + start, loop)

    loop.run(measure, unkept(), bar or Silent())
    return kept.values.reshape(len(sites), n)


def _measure(
    tower: PerturbedTower, pixels: Tensor, keys: Tensor, wanted: int, kept: KeptValues, first: int, loop: BlockLoop
) -> None:
    """Variances of some images [B] from ``wanted`` passes, into ``kept`` from number ``first`` on."""
    block = first, first + len(pixels), loop.rows
    begun = kept.begun(block)
    pieces = [] if begun is None else [torch.from_numpy(begun["passes"]).to(pixels.device)]
    done = sum(piece.shape[1] for piece in pieces)
    loop.tick(done * len(pixels))  # by an earlier process

    def state() -> Arrays:
        return {"passes": torch.cat(pieces, dim=1).cpu().numpy()}

    try:
        for piece in tower.passes(pixels, keys, 0, wanted, loop.rows, done):
            pieces.append(piece)
            loop.tick(piece.shape[0] * piece.shape[1])
            kept.keep(block, state)
    except StoppedError:
        if pieces:
            kept.keep(block, state, now=True)
        raise
    kept.put(first, torch.cat(pieces, dim=1).cpu().double().var(dim=1).mean(1).numpy())
