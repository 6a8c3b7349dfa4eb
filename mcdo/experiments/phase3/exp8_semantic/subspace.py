"""The directions that texts span, and how much of a variance lies in them, beside chance and random subspaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders.zero_shot import unit
from mcdo.errors import McdoError
from mcdo.stats import Estimate, Origins, mean

Array = NDArray[np.float64]
_RANK_TOLERANCE = 1e-5  # relative; features are float32, so a direction below it is rounding
_AT_ONCE = 2**22  # numbers of random subspaces held at once (32 MB)


@dataclass(frozen=True, eq=False)
class Basis:
    """Orthonormal rows ``vectors`` [r, D], by falling singular value, in a space of ``dim`` directions."""

    vectors: Array
    dim: int

    @property
    def chance(self) -> float:
        """Share of any covariance that lies in r random directions, on average: r over the dimension."""
        return len(self.vectors) / self.dim


def semantic_basis(text: NDArray[np.floating], gap: Array | None = None, variance: float = 1.0) -> Basis:
    """Right singular vectors of centred unit text features ``[n, D]``; those of rounding left out.

    With ``gap`` [D] that direction is taken from the texts first, and one dimension is gone. ``variance`` below 1 takes
    as few directions as hold that share of the variance of the texts.

    Raises:
        McdoError: if the texts do not differ.

    """
    units = unit(text)
    centred = units - units.mean(0)
    dim = centred.shape[1]
    if gap is not None:
        direction = unit(gap)
        centred, dim = centred - np.outer(centred @ direction, direction), dim - 1
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    taken = values > max(_RANK_TOLERANCE * values[0], 1e-8)
    if not taken.any():
        raise McdoError("the prompts have one and the same text feature, so they span no direction")
    if variance < 1:
        cumulative = np.cumsum(np.square(values)) / np.square(values).sum()
        taken[np.searchsorted(cumulative, variance) + 1 :] = False
    return Basis(rows[taken], dim)


def modality_gap(features: NDArray[np.floating], text: NDArray[np.floating]) -> Array:
    """Mean unit image feature minus mean unit text feature, ``[D]``."""
    return np.asarray(unit(features).mean(0) - unit(text).mean(0))


@dataclass(frozen=True)
class Share:
    """How much of the variance over passes lies in a basis.

    Attributes:
        rank, dim: of the basis.
        chance: rank / dim.
        observed: mean over images, mean over trials first.
        null: the central 95 % of random subspaces of that rank.
        p_value: the share of random subspaces that hold at least as much (+1 rule).
        images: the share of the variance between images, which is what a semantic share looks like.
        by_rank: the observed share as directions are added.

    """

    rank: int
    dim: int
    chance: float
    observed: Estimate
    null: tuple[float, float]
    p_value: float
    images: float
    by_rank: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "rank": self.rank,
            "dim": self.dim,
            "chance_share": self.chance,
            "parallel_share": self.observed.as_dict(),
            "random_subspaces_95": list(self.null),
            "p_value_random_subspaces": self.p_value,
            "share_of_variance_between_images": self.images,
            "cumulative_share_by_rank": list(self.by_rank),
        }

    def __str__(self) -> str:
        return (
            f"{self.observed}, chance {self.chance:.3f} (rank {self.rank} of {self.dim}), random subspaces "
            f"{self.null[0]:.3f} to {self.null[1]:.3f} (p {self.p_value:.4f}), between images {self.images:.3f}"
        )


def share_in(
    basis: Basis,
    along: Array,
    total: Array,
    covariance: Array,
    features: NDArray[np.floating],
    gap: Array | None = None,
    *,
    subspaces: int,
    origins: Origins | None = None,
    seed: int = 0,
) -> Share:
    """The share of the variance over passes that lies in ``basis``.

    Args:
        basis: r directions.
        along: ``[K, N, r]``, variance of every image in every trial along each.
        total: ``[K, N]``, its whole variance, without that along ``gap`` where one is given.
        covariance: ``[D, D]``, mean over images and trials of covariance/trace.
        features: ``[N, D]``, deterministic ones.
        gap: ``[D]``, a direction that is left out of everything.
        subspaces: number of random ones.
        origins: of the images, [N].
        seed: of random subspaces and resamples.

    """
    fractions = (along / total[..., None]).mean(axis=0)
    P = without(features.shape[1], gap)
    passes, between = P @ covariance @ P, P @ np.cov(np.asarray(features, dtype=np.float64).T) @ P
    null = random_shares(passes, len(basis.vectors), P, subspaces, seed)
    inside = _inside(basis, passes)
    return Share(
        rank=len(basis.vectors),
        dim=basis.dim,
        chance=basis.chance,
        observed=mean(fractions.sum(-1), origins=origins, seed=seed),
        null=(float(np.quantile(null, 0.025)), float(np.quantile(null, 0.975))),
        p_value=float((1 + np.sum(null >= inside)) / (1 + len(null))),
        images=_inside(basis, between),
        by_rank=tuple(float(value) for value in np.cumsum(fractions.mean(axis=0))),
    )


def _inside(basis: Basis, covariance: Array) -> float:
    return float(np.trace(basis.vectors @ covariance @ basis.vectors.T) / np.trace(covariance))


def without(D: int, gap: Array | None) -> Array:
    """The projection onto what is orthogonal to ``gap``, ``[D, D]``."""
    direction = np.zeros(D) if gap is None else unit(gap)
    return np.asarray(np.eye(D) - np.outer(direction, direction))


def random_shares(covariance: Array, rank: int, P: Array, draws: int, seed: int) -> Array:
    """Share of ``covariance`` in random subspaces of ``rank`` within the range of ``P``, ``[draws]``."""
    rng, D = np.random.default_rng((seed, 8)), len(P)
    step = max(1, _AT_ONCE // (D * rank))
    shares = []
    for start in range(0, draws, step):
        rows, _ = np.linalg.qr(P @ rng.normal(size=(min(step, draws - start), D, rank)))
        shares.append(np.einsum("sdr,sdr->s", rows, covariance @ rows) / np.trace(covariance))
    return np.concatenate(shares)
