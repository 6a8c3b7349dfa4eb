"""Runs in a store as scores by image, so that two of them can be compared as reports are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mcdo.errors import McdoError
from mcdo.report.per_image import PerImage
from mcdo.store import Store, upkeep

NOT_A_RUN = (
    "is no Monte Carlo run, and of nothing else does a store hold the images beside the scores; first order and rivals "
    "are compared as reports (mcdo compare FOLDER FOLDER)"
)


@dataclass(frozen=True)
class StoredRun:
    """A run in a store: how it is listed, what decided it, and its scores by image."""

    name: str
    label: Mapping[str, str]
    settings: Mapping[str, Any]
    scores: tuple[PerImage, ...]

    @classmethod
    def find(cls, store: Path, name: str) -> StoredRun:
        """The run that ``mcdo store list`` shows as ``name``, or whose key begins so.

        Raises:
            McdoError: if there is none, several, or it is no Monte Carlo run or damaged.

        """
        keys = {entry.path.stem for entry in upkeep.entries(store) if entry.parts is None}
        found = sorted(key for key in keys if upkeep.short(key) == name or (len(name) >= 6 and key.startswith(name)))
        if len(found) != 1:
            said = "no run" if not found else f"{len(found)} runs"
            raise McdoError(f"{store} holds {said} called {name!r}; mcdo store list --store={store} names them")
        held = Store(store).get(found[0])
        if held is None:
            raise McdoError(f"{store}: {name} is damaged; mcdo store verify --store={store} says how")
        arrays, facts = held
        if not {"images", "origins"} <= arrays.keys():
            raise McdoError(f"{store}: {name} ({facts['label']['protocol']}) {NOT_A_RUN}")
        ids = np.array([f"{low:016x}{high:016x}" for low, high in arrays["images"].tolist()])
        origins = arrays["origins"].astype(str)
        scores = [
            PerImage("stored run", "", f"T={t}", score, ids, origins, values)
            for key, values in sorted(arrays.items())
            for score, at, t in [key.partition("@")]
            if at and values.ndim == 2
        ]
        settings = {name: facts[name] for name in ("label", "protocol", "sites", "provenance")}
        return cls(name, facts["label"], settings, tuple(scores))
