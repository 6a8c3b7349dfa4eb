"""From a feature file to what is trained on: per plant and round one vector, a label, and whether there is an image."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.store import canonical_json
from mcdo.studies.backbones.features import Features
from mcdo.studies.backbones.plants import PlantImages


@dataclass(frozen=True, eq=False)
class Series:
    """P plants, R rounds, D features.

    ``features`` float32 [P, R, D]: the mean over the views of a round, 0 where there is none. ``seen`` bool [P, R].
    ``labels`` bool [P, R]: whether the day of the round is at or after the plant's onset. ``days`` float64 [R].
    ``onset`` float64 [P], the first *photographed* day with the label, NaN for a plant without one. ``key`` hashes the
    features, their identity and the pictures that they were extracted from.
    """

    name: str
    key: str
    plants: tuple[str, ...]
    groups: tuple[str, ...]
    features: NDArray[np.float32]
    seen: NDArray[np.bool_]
    labels: NDArray[np.bool_]
    days: NDArray[np.float64]

    @property
    def onset(self) -> NDArray[np.float64]:
        """The first photographed day with the label."""
        true = self.labels & self.seen
        return np.where(true.any(axis=1), self.days[true.argmax(axis=1)], np.nan)

    @property
    def folds(self) -> tuple[str, ...]:
        """The groups, in order of first appearance."""
        return tuple(dict.fromkeys(self.groups))


def series_of(plants: PlantImages, features: Features) -> Series:
    """Pool the views of each round.

    Raises:
        McdoError: when the features are of other plants, or lack an image.

    """
    if features.identity.plants != plants.fingerprint:
        raise McdoError(
            f"the features of {features.identity.backbone} are of other plants than {plants.name}; extract anew"
        )
    missing = [view.address for view in plants.views if view not in features.vectors]
    if missing:
        raise McdoError(
            f"the features of {features.identity.backbone} lack {len(missing)} of {len(plants.views)} images, "
            f"the first {missing[0]}; run extract again, it goes on where it stopped"
        )
    place = {plant.name: i for i, plant in enumerate(plants.plants)}
    shape = len(plants.plants), len(plants.days)
    total, count = np.zeros((*shape, features.identity.feature_size)), np.zeros(shape)
    for view in plants.views:
        total[place[view.plant], view.round] += features.vectors[view]
        count[place[view.plant], view.round] += 1
    days = np.array(plants.days)
    onset = np.array([np.inf if plant.onset_day is None else plant.onset_day for plant in plants.plants])
    return Series(
        name=features.identity.backbone,
        key=_key(features),
        plants=tuple(plant.name for plant in plants.plants),
        groups=tuple(plant.group for plant in plants.plants),
        features=(total / np.maximum(count, 1)[..., None]).astype(np.float32),
        seen=count > 0,
        labels=days[None] >= onset[:, None],
        days=days,
    )


def _key(features: Features) -> str:
    digest = hashlib.sha256(canonical_json(asdict(features.identity)).encode())
    for view in sorted(features.vectors):
        digest.update(f"{view.address} {features.hashes[view]} ".encode())
        digest.update(features.vectors[view].tobytes())
    return digest.hexdigest()
