"""A small image series, and features that need no model, for several test files of this folder."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from mcdo.studies.backbones.features import Features, Identity
from mcdo.studies.backbones.plants import PlantImages
from mcdo.studies.backbones.series import Series, series_of
from mcdo.studies.backbones.wilting import Wilting, wilting_plants


@lru_cache
def small_plants() -> PlantImages:
    return wilting_plants(Wilting(groups=4, rounds=6, size=32))


@lru_cache
def oracle_series() -> Series:
    """Features that are the label and noise: what a perfect backbone would give."""
    plants, size, rng = small_plants(), 4, np.random.default_rng(0)
    identity = Identity("oracle", size, False, "0" * 64, "none", "none", "none", plants.fingerprint)
    vectors = {}
    for view in plants.views:
        onset = plants.by_name[view.plant].onset_day
        wilting = onset is not None and plants.days[view.round] >= onset
        vectors[view] = (rng.normal(0, 0.3, size) + wilting).astype(np.float32)
    return series_of(plants, Features(identity, vectors, dict.fromkeys(plants.views, "0")))


def relabelled_series() -> Series:
    """As :func:`oracle_series`, but the plants of the first group have nonsense for features and labels."""
    oracle = oracle_series()
    mine = np.array(oracle.groups) == oracle.folds[0]
    features, labels = oracle.features.copy(), oracle.labels.copy()
    features[mine], labels[mine] = 1e3, ~labels[mine]
    return replace(oracle, features=features, labels=labels)
