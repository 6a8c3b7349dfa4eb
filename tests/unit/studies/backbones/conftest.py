"""A small image series and backbones that need no model, for the parts of the study that are about files and lines."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mcdo.studies.backbones.features import Features, Identity
from mcdo.studies.backbones.plants import PlantImages
from mcdo.studies.backbones.registry import Backbone, load_backbone
from mcdo.studies.backbones.series import Series, series_of
from mcdo.studies.backbones.wilting import Wilting, wilting_plants


@pytest.fixture(scope="session")
def plants() -> PlantImages:
    return wilting_plants(Wilting(groups=4, rounds=6, size=32))


@pytest.fixture
def colour() -> Backbone:
    return load_backbone("mean_colour")


def posture_series(plants: PlantImages, seed: int = 0, size: int = 4) -> Series:
    """Features that are the label and noise: what a perfect backbone would give."""
    rng = np.random.default_rng(seed)
    identity = Identity("oracle", size, False, "0" * 64, "none", plants.fingerprint)
    vectors = {}
    for view in plants.views:
        onset = plants.by_name[view.plant].onset_day
        wilting = onset is not None and plants.days[view.round] >= onset
        vectors[view] = (rng.normal(0, 0.3, size) + wilting).astype(np.float32)
    return series_of(plants, Features(identity, vectors, dict.fromkeys(plants.views, "0")))


@pytest.fixture(scope="session")
def oracle(plants: PlantImages) -> Series:
    return posture_series(plants)


@pytest.fixture(scope="session")
def relabelled(plants: PlantImages, oracle: Series) -> Series:
    """As ``oracle``, but the plants of the first group have nonsense for features and labels."""
    mine = np.array(oracle.groups) == oracle.folds[0]
    features, labels = oracle.features.copy(), oracle.labels.copy()
    features[mine], labels[mine] = 1e3, ~labels[mine]
    return replace(oracle, features=features, labels=labels)
