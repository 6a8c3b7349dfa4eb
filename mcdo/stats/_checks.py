"""What every statistic asks of its input: numbers, finite, of the stated shape; each refusal names the place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError, McdoWarning

Array = NDArray[np.float64]
_MANY_TRIALS = 20  # more than these, and more than images: rather [N, K] than [K, N]


def numbers(name: str, values: ArrayLike) -> Array:
    """``values`` as a float64 array; text, ragged rows, complex numbers and masked values are refused."""
    if np.ma.is_masked(values):
        raise McdoError(f"{name} holds masked values; leave those images out before they are scored")
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"dtype {array.dtype}")
        return array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor that requires a gradient is a RuntimeError
        raise McdoError(f"{name} is not an array of real numbers ({error}); pass a rectangular numeric array") from None


def finite(name: str, array: Array, axes: tuple[str, ...]) -> None:
    """Refuse NaN and infinity; the message gives the first index, axis by axis."""
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = ", ".join(f"{axis} {index}" for axis, index in zip(axes, bad[0], strict=True))
        value = array[tuple(bad[0])]
        raise McdoError(
            f"{name} holds {value} at {where} ({len(bad)} of {array.size} values are not finite); "
            "find the pass that produced it, a statistic of such scores means nothing"
        )


def trials(name: str, values: ArrayLike, least_images: int = 3) -> Array:
    """``values`` as finite scores ``[K, N]`` with K >= 1 trials and at least ``least_images`` images."""
    array = numbers(name, values)
    if array.ndim != 2 or not array.shape[0]:
        raise McdoError(f"{name} has shape {list(array.shape)}; give [K, N], trials by images")
    if array.shape[1] < least_images:
        raise McdoError(f"{name} holds {array.shape[1]} images; at least {least_images} are needed for a ranking")
    finite(name, array, ("trial", "image"))
    _doubt_orientation(name, array)
    return array


def _doubt_orientation(name: str, array: Array) -> None:
    """Warn of ``array`` [K, N] that is rather [N, K]."""
    K, N = array.shape
    if max(N, _MANY_TRIALS) < K:
        said = f"{name} of shape [{K}, {N}] are read as {K} trials of {N} images; transpose them if they are [N, K]"
        warnings.warn(said, McdoWarning, stacklevel=4)


def images(least: int = 1, **named: Any) -> list[Array]:
    """The named arguments as finite ``[N]`` arrays of one length, at least ``least``."""
    arrays = [numbers(name, values) for name, values in named.items()]
    for name, array in zip(named, arrays, strict=True):
        if array.ndim != 1:
            raise McdoError(f"{name} has shape {list(array.shape)}; give [N], one number per image")
        finite(name, array, ("image",))
    _check_lengths({name: len(array) for name, array in zip(named, arrays, strict=True)}, least)
    return arrays


def _check_lengths(lengths: Mapping[str, int], least: int) -> None:
    if len(set(lengths.values())) > 1:
        raise McdoError(f"arrays of unequal length: {lengths}; pair them image by image")
    if min(lengths.values()) < least:
        raise McdoError(f"{', '.join(lengths)}: {min(lengths.values())} images; at least {least} are needed")


def scores_of(least: int, scores: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Scores [N] or [K, N], trials by images, by name, each as finite [K, N] of the same images, at least ``least``."""
    if not scores:
        raise McdoError("no scores are given; name one at least")
    held = {name: numbers(name, values) for name, values in scores.items()}
    for name, array in held.items():
        if array.ndim not in (1, 2) or (array.ndim == 2 and not len(array)):
            raise McdoError(f"{name} has shape {list(array.shape)}; give [N], or [K, N], trials by images")
        finite(name, array, ("image",) if array.ndim == 1 else ("trial", "image"))
        _doubt_orientation(name, np.atleast_2d(array))
    _check_lengths({name: array.shape[-1] for name, array in held.items()}, least)
    return {name: np.atleast_2d(array) for name, array in held.items()}


@lru_cache(4)
def places_of_pairs(K: int, apart: int = 1) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of all pairs of K things the first and the second, [P]; ``apart`` 0: also each with itself."""
    first, second = np.triu_indices(K, apart)
    for places in (first, second):
        places.setflags(write=False)
    return first, second


def trial_mean(array: Array) -> Array:
    """Mean over the trials of ``array`` [K, N], in which what is equal but for rounding is equal.

    Scores with few digits often have the same mean, but sums of 0.1, 0.2, 0.3 and of 0.2, 0.2, 0.2 differ in the last
    bit; ranks would order such images by it.
    """
    return array[0] if len(array) == 1 else without_rounding(array.mean(axis=0), np.abs(array).mean(axis=0), len(array))


def without_rounding(values: Array, size: Array, terms: int) -> Array:
    """``values`` [N], means of ``terms`` numbers of mean ``size`` [N], each run that rounding may part as its least."""
    order = np.argsort(values, kind="stable")
    ascending, slack = values[order], (terms + 1) * np.finfo(np.float64).eps * size[order]
    apart = np.diff(ascending) > slack[1:]
    if apart.all():
        return values
    first = np.concatenate([[True], apart])
    found = np.empty_like(values)
    found[order] = ascending[np.flatnonzero(first)][np.cumsum(first) - 1]
    return found


def of_order_one(values: Array) -> tuple[Array, int]:
    """``values`` over a power of two, and its exponent: the largest is then between 1/2 and 1, and squares are numbers.

    Exact. Without it the spread of likelihoods such as 1e-200 would be nil, and their p with it.
    """
    exponent = int(np.frexp(np.abs(values).max())[1])
    return np.ldexp(values, -exponent), exponent


def flags(name: str, values: Array) -> NDArray[np.bool_]:
    """0/1 or boolean ``values`` as booleans; anything else is refused."""
    bad = np.flatnonzero((values != 0) & (values != 1))
    if len(bad):
        raise McdoError(f"{name} holds {values[bad[0]]} at image {bad[0]}; it must be 0 or 1 (or bool)")
    return values.astype(bool)


def jsonable(value: float) -> float | None:
    """``value`` for strict JSON, which knows neither NaN nor infinity: both become None."""
    return float(value) if np.isfinite(value) else None
