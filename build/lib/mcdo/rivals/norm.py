"""The norm of the feature: the baseline that most scores turn out to follow."""

from __future__ import annotations

import numpy as np

from mcdo.rivals.seen import Array, Seen
from mcdo.rivals.table import rival


@rival("features")
def feature_norm(seen: Seen) -> Array:
    """Minus the norm of the feature: short features are uncertain."""
    return np.asarray(-np.linalg.norm(seen.features, axis=1))
