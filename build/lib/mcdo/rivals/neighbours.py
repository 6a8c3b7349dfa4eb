"""Distances to a calibration set, all of features at norm one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders.zero_shot import unit
from mcdo.rivals.seen import Array, Calibration, Seen
from mcdo.rivals.table import rival

K = 10
"""Neighbours; fewer where the set is smaller."""


@rival("calibration")
def knn_distance(seen: Seen) -> Array:
    """Distance to the tenth nearest calibration image (Sun et al. 2022)."""
    from sklearn.neighbors import NearestNeighbors

    held = _held(seen)
    index = NearestNeighbors(n_neighbors=min(K, len(held.features))).fit(held.unit)
    return np.asarray(index.kneighbors(seen.unit)[0][:, -1])


@rival("labelled calibration")
def mahalanobis(seen: Seen) -> Array:
    """Mahalanobis distance to the nearest class mean, shared covariance shrunk by Ledoit & Wolf (Lee et al. 2018)."""
    from sklearn.covariance import LedoitWolf

    held, labels, means = _classes(seen)
    classes = np.unique(labels)
    precision = LedoitWolf().fit(held.unit - means[np.searchsorted(classes, labels)]).precision_
    away = seen.unit[:, None, :] - means[None]
    return np.asarray(np.einsum("ncd,de,nce->nc", away, precision, away).min(axis=1))


@rival("labelled calibration")
def class_prototypes(seen: Seen) -> Array:
    """One minus the cosine with the nearest class mean."""
    _, _, means = _classes(seen)
    return 1 - np.asarray((seen.unit @ unit(means).T).max(axis=1))


def _held(seen: Seen) -> Calibration:
    assert seen.calibration is not None
    return seen.calibration


def _classes(seen: Seen) -> tuple[Calibration, NDArray[np.int64], Array]:
    """The calibration set, its labels [M], and the means of its classes in the order of their labels [C, D]."""
    held = _held(seen)
    assert held.labels is not None
    means = np.stack([held.unit[held.labels == label].mean(axis=0) for label in np.unique(held.labels)])
    return held, held.labels, means
