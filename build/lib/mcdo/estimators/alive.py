"""Whether every site that is asked for changes the features: looked at once for each encoder, and kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders import Encoder, TextTower
from mcdo.estimators.blocks import is_out_of_memory, no_memory
from mcdo.estimators.progress import progress_of
from mcdo.estimators.provenance import encoder_identity, encoder_provenance
from mcdo.estimators.resumption import KeptValues, measured_once
from mcdo.estimators.shown import Prepared
from mcdo.perturbation import Perturbation, Site, check_alive
from mcdo.store import Arrays, Store, Unfinished, check_shapes, open_store
from mcdo.store.fingerprint import measuring_code


def alive_sites(
    encoder: Encoder,
    pixels: Prepared,
    dropout: Perturbation,
    *,
    store: Store | Path | str | None,
    progress: bool,
    images: int = 1,
) -> tuple[Site, ...]:
    """The sites of ``dropout``, each of which fires and changes the features of the first ``images``.

    One that is alive on some image is alive, so the ``store`` keeps which are, by what the encoder does, for every
    kind, probability and image. One that was not is looked at again.

    Raises:
        McdoError: for a site that does not, too little memory for one image, or a store that cannot be written.

    """
    opened = open_store(store)
    waiting = None if opened is None else Store(opened.root)  # for who looks, whatever is left to others of the run

    def look(sites: Sequence[Site], acts: Callable[[Site], bool]) -> Collection[Site]:
        found = _found(encoder, sites, acts, dropout, waiting, progress)
        return [site for site, alive in zip(sites, found, strict=True) if alive or acts(site)]

    try:
        return check_alive(encoder, pixels.batch(slice(0, images)), dropout, look)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise no_memory(encoder) from error


def _found(
    encoder: Encoder,
    sites: Sequence[Site],
    acts: Callable[[Site], bool],
    kind: Perturbation,
    store: Store | None,
    progress: bool,
) -> NDArray[np.float64]:
    """Of each site 1 or 0 [S]: whether it was found alive, now or by an earlier process."""
    names = [site.name for site in sites]
    label = {"encoder": encoder.key, "images": "any", "protocol": f"whether {len(sites)} sites are alive"}

    def key() -> str:
        identity = encoder_identity(encoder, text=isinstance(encoder, TextTower))
        where = "probabilities" if kind.where == "probabilities" else "maps"
        family = {"method": "alive sites", "where": where, "code": measuring_code(), **identity}
        return Store.key(family, {"sites": names})

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        check_shapes(arrays, {"alive": (len(facts["sites"]),)})
        if not np.isin(arrays["alive"], (0, 1)).all():
            raise ValueError("it says neither yes nor no")

    def find(opened: Store, name: str) -> NDArray[np.float64] | None:
        others = (other for other, facts in opened.family(name) if set(facts["sites"]) >= set(names))
        for held in (name, *others):
            entry = opened.get(held, fits)
            if entry is not None:
                by_name = dict(zip(entry[1]["sites"], entry[0]["alive"], strict=True))
                return np.array([by_name[each] for each in names])
        return None

    def measure(parts: Unfinished | None) -> NDArray[np.float64]:
        kept = KeptValues(parts, len(sites), label)
        left = np.flatnonzero(~kept.done).tolist()
        with progress_of(progress, len(left), f"{encoder.key}, sites alive", "sites") as bar, kept.saved():
            for i in left:
                kept.put(i, np.array([float(acts(sites[i]))]))
                bar.update(1)
        return kept.values

    def packed(found: NDArray[np.float64]) -> tuple[Arrays, Mapping[str, Any]]:
        return {"alive": found}, {"label": label, "sites": names, "provenance": encoder_provenance(encoder)}

    return measured_once(store, key, find, measure, packed, progress=progress)
