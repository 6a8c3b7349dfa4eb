"""The census: what every site does on its own, measured by the passes of the pass loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo import arguments
from mcdo.encoders import Encoder
from mcdo.estimators.blocks import BlockLoop, check_inputs, prepared
from mcdo.estimators.progress import Progress, Reporting, Silent, progress_of
from mcdo.estimators.provenance import identity, provenance
from mcdo.estimators.resumption import KeptValues, measured_once, unkept
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.shown import Shown
from mcdo.perturbation import PASS_BLOCK, Perturbation, Site, SiteRecord, check_alive, image_keys, perturbed
from mcdo.store import Arrays, Store, Unfinished, check_shapes


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

    Whether each fires and changes the output is looked at in any case; how much it does is kept in the ``store``, site
    by site, and None measures it anew.

    Raises:
        McdoError: naming every requested site that is unknown, never fires, or changes nothing, and for a store that
            cannot be written.

    """
    check_inputs(encoder, images, dropout)
    seed = arguments.seed(seed)
    limit = None if limit is None else arguments.whole("limit", limit, least=1)
    few = images.select(slice(0, limit or (8 if encoder.resolution <= 64 else 1)))
    pixels = prepared(encoder, few).batch(slice(None))
    keys = image_keys(few.mask_ids, encoder.device)
    sites = check_alive(encoder, pixels, dropout)

    def measure(parts: Unfinished | None) -> NDArray[np.float64]:
        kept = KeptValues(parts, len(sites), label)
        left = np.flatnonzero(~kept.done).tolist()
        total = sum(_passes(sites[i], dropout, len(pixels)) for i in left) * len(pixels)
        with progress_of(progress, total, f"{encoder.key} on {few.name}, census") as bar, kept.saved():
            for i in left:
                kept.put(i, np.array([site_variance(encoder, pixels, keys, sites[i], dropout, seed, bar)]))
        return kept.values

    protocol = {"kind": dropout.as_dict(), "seed": seed, "sites": [site.name for site in sites]}
    label = {"encoder": encoder.key, "images": few.name, "protocol": f"{dropout}, census of {len(sites)} sites"}

    def find(opened: Store, name: str) -> NDArray[np.float64] | None:
        found = opened.get(name, lambda arrays, facts: check_shapes(arrays, {"variance": (len(sites),)}))
        return None if found is None else found[0]["variance"]

    def key() -> str:
        family = {"method": "census", "protocol": protocol, **identity(encoder, few)}
        return Store.key(family, {"images": few.fingerprint})

    def packed(found: NDArray[np.float64]) -> tuple[Arrays, Mapping[str, Any]]:
        return {"variance": found}, {"label": label, "protocol": protocol, "provenance": provenance(encoder, few)}

    variances = np.zeros(len(sites))
    if dropout.p:
        variances = measured_once(store, key, find, measure, packed, progress=bool(progress))
    return tuple(
        SiteRecord(site.name, site.role.value, site.calls, site.units, float(variance))
        for site, variance in zip(sites, variances, strict=True)
    )


def _passes(site: Site, kind: Perturbation, images: int) -> int:
    """As many as give 64 dropped units on average, between 4 and 256."""
    units = site.layout(kind)[1]
    return min(256, max(4, math.ceil(64 / max(kind.p * units * images, 1e-9))))


def site_variance(
    encoder: Encoder,
    pixels: Tensor,
    keys: Tensor,
    site: Site,
    kind: Perturbation,
    seed: int,
    bar: Progress | None = None,
) -> float:
    """Mean over images of trace_pre when ``kind`` acts at ``site`` alone, from between 4 and 256 passes."""
    wanted, variance = _passes(site, kind, len(pixels)), np.zeros(len(pixels))
    loop = BlockLoop(encoder, len(pixels), pixel_rows(encoder, None), PASS_BLOCK)

    def measure(start: int, stop: int) -> None:
        pieces = []
        for piece in tower.passes(pixels[start:stop], keys[start:stop], 0, wanted, loop.rows):
            pieces.append(piece)
            loop.tick(piece.shape[0] * piece.shape[1])
        variance[start:stop] = torch.cat(pieces, dim=1).cpu().double().var(dim=1).mean(1).numpy()

    with perturbed(encoder, kind.at(site.name), seed) as tower:
        tower.before_map = loop.check_wanted
        loop.run(measure, unkept(), bar or Silent())
    return float(variance.mean())
