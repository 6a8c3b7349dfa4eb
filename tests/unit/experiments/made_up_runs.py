"""Measurements that were never made: runs with chosen scores, for the pure parts of experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.perturbation import Dropout, Perturbation

Array = NDArray[np.float64]
ROLES = ("qkv", "attention_output", "fc1", "fc2")


def made_up_run(
    scores: Mapping[str, ArrayLike],
    passes: int = 64,
    *,
    encoder: str = "clip_tiny",
    norm: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
    kind: Perturbation | None = None,
    roles: Sequence[str] = ROLES,
) -> MonteCarloRun:
    """A run whose ``scores`` [K, N] at T = ``passes`` and feature norms [N] are as given (norms: 1).

    Each image is its own origin where none are given.
    """
    values = {(name, passes): np.asarray(array, dtype=np.float64) for name, array in scores.items()}
    K, N = next(iter(values.values())).shape
    length = np.ones(N) if norm is None else np.asarray(norm, dtype=np.float64)
    features = np.zeros((N, 4), dtype=np.float32)
    features[:, 0] = length
    named = tuple(f"image{i:04d}" for i in range(N)) if ids is None else tuple(ids)
    return MonteCarloRun(
        config=MonteCarloConfig(kind or Dropout(), (passes,), K, 42),
        encoder=encoder,
        ids=named,
        origins=named if origins is None else tuple(origins),
        features=features,
        sites=tuple((f"block.{role}", role) for role in roles),
        provenance={"encoder": encoder},
        _values=values,
    )


def noisy(true: ArrayLike, trials: int, rng: np.random.Generator, degrees: int = 63) -> Array:
    """Scores [K, N] as a variance from ``degrees`` + 1 normal passes estimates ``true`` [N]."""
    held = np.asarray(true, dtype=np.float64)
    return np.asarray(held * rng.chisquare(degrees, (trials, len(held))) / degrees)


@dataclass(frozen=True)
class MadeUpFirstOrder:
    """Stands in for a first-order run: ``value`` gives the scores [K, N] of a name at p."""

    value: Callable[[str, float], Array]
    feature_norm: Array
    encoder: str = "clip_tiny"
    variants: int = 1
    """Images of each origin."""

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"image{i:04d}" for i in range(len(self.feature_norm)))

    @property
    def origins(self) -> tuple[str, ...]:
        return tuple(f"image{i // self.variants:04d}" for i in range(len(self.feature_norm)))

    def scores(self, name: str, p: float = 0.01) -> Array:
        return self.value(name, p)
