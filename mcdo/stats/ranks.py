"""Ranks, on which most of these statistics rest, without the second that SciPy's statistics take to be imported."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mcdo.stats._checks import Array


def mid_ranks(values: Array) -> Array:
    """Ranks from 1 on along the last axis of ``values`` [..., N], ties at their mean; those of scipy.stats.rankdata."""
    rows = values.reshape(-1, values.shape[-1])
    found = np.empty(rows.shape)
    for row, ranks in zip(rows, found, strict=True):
        ranks[:] = ranked(*ordered(row))
    return found.reshape(values.shape)


def ranked(order: NDArray[np.intp], edges: NDArray[np.intp]) -> Array:
    """:func:`mid_ranks` of [N] values in this order, with these groups of equal ones."""
    ranks = np.empty(len(order))
    ranks[order] = (edges[:-1] + edges[1:] + 1).repeat(np.diff(edges)) / 2
    return ranks


def ordered(values: Array) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The ascending order of ``values`` [N], and the edges of its groups of equal ones: 0, …, N."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    new = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
    return order, np.concatenate([[0], new, [len(values)]])
