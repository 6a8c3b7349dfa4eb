"""Covariance over passes, seen in a few directions: what the moments of a run leave out.

The passes are those of :func:`mcdo.monte_carlo` under the same seed, because masks are keyed: the trace of both agrees.
"""

from __future__ import annotations

import hashlib
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import BlockLoop, prepared
from mcdo.estimators.progress import Reporting, progress_of
from mcdo.estimators.provenance import identity
from mcdo.estimators.resumption import Keeper, check_columns, measured_once
from mcdo.estimators.rounding import check_rounding
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.run import MonteCarloConfig
from mcdo.images import ImageSet, Pixels
from mcdo.perturbation import PASS_BLOCK, Perturbation, PerturbedTower, image_keys, perturbed
from mcdo.store import Arrays, Store, Unfinished, canonical_json, check_shapes

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PassCovariance:
    """Sample covariances over passes (ddof 1) of N images in K trials, float64.

    Attributes:
        frame: ``[q, D]``, orthonormal rows that span the directions.
        within: ``[K, N, q, q]``, the covariance in the frame.
        total: ``[K, N]``, the trace of the whole covariance.
        cosine: ``[K, N, n]``, the variance of the cosine with each of the n directions.
        mean: ``[D, D]``, the mean over images and trials of covariance/trace.

    """

    frame: Array
    within: Array
    total: Array
    cosine: Array
    mean: Array

    def along(self, vectors: Array) -> Array:
        """Variance along unit ``vectors`` [r, D] in the span of the directions, ``[K, N, r]``.

        Raises:
            McdoError: for a vector outside the span, about which nothing was measured.

        """
        inside = vectors @ self.frame.T
        if not np.allclose(np.square(inside).sum(-1), 1, atol=1e-6):
            raise McdoError("a direction lies outside the span whose covariance was measured; measure it with that one")
        return np.asarray(np.einsum("rp,knpq,rq->knr", inside, self.within, inside))


def pass_covariance(
    encoder: Encoder,
    images: ImageSet,
    dropout: Perturbation,
    directions: ArrayLike,
    passes: int = 64,
    trials: int = 3,
    seed: int = 42,
    *,
    batch_size: int | None = None,
    store: Store | Path | str | None = None,
    pixels: Pixels | Callable[[], Pixels] | None = None,
    progress: Reporting = True,
) -> PassCovariance:
    """Covariances over ``passes`` passes of every image in every trial, along ``directions`` [n, D].

    Other arguments as for :func:`mcdo.monte_carlo`, and kept and resumed as there. Directions need not be of norm one.

    Raises:
        McdoError: for a dead site, passes that are all equal or not finite, an impossible protocol, directions of
            another size than the features, a store that cannot be written, or too little memory for one image.

    """
    config = MonteCarloConfig(dropout, (operator.index(passes),), operator.index(trials), operator.index(seed))
    units = _units(directions, encoder)

    def key() -> str:
        # rounded, so that the last bits of another machine's text tower do not make them other directions
        digest = hashlib.sha256(np.round(units.numpy(), 6).tobytes()).hexdigest()
        family = {"method": "pass covariance", "protocol": config.as_dict(), "directions": digest}
        return Store.key({**family, **identity(encoder, images)}, {"images": images.fingerprint})

    def measure(parts: Unfinished | None) -> PassCovariance:
        ready = prepared(encoder, images, pixels)
        alive_sites(encoder, ready, dropout, store=store, progress=bool(progress))
        return _Measurement(encoder, images, config, ready, units, batch_size, parts).run(progress)

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        (q, d), shape = arrays["frame"].shape, (config.trials, len(images))
        within, cosine = (*shape, q, q), (*shape, len(units))
        check_shapes(arrays, {"total": shape, "within": within, "cosine": cosine, "mean": (d, encoder.feature_dim)})
        if canonical_json(facts["protocol"]) != canonical_json(config.as_dict()):
            raise ValueError("it is of another protocol")

    def find(store: Store, name: str) -> PassCovariance | None:
        found = store.get(name, fits)
        return None if found is None else PassCovariance(**found[0])

    def packed(found: PassCovariance) -> tuple[Arrays, Mapping[str, Any]]:
        return dict(vars(found)), {"label": _label(encoder, images, config), "protocol": config.as_dict()}

    return measured_once(store, key, find, measure, packed, progress=bool(progress))


def _units(directions: ArrayLike, encoder: Encoder) -> Tensor:
    held = torch.from_numpy(np.array(directions, dtype=np.float64))
    if held.ndim != 2 or held.shape[1] != encoder.feature_dim or not held.isfinite().all():
        raise McdoError(f"directions of shape {list(held.shape)}: give [n, {encoder.feature_dim}], finite")
    return torch.nn.functional.normalize(held, dim=-1)


def _label(encoder: Encoder, images: ImageSet, config: MonteCarloConfig) -> dict[str, str]:
    protocol = f"{config.dropout}, covariance, T = {config.passes[-1]}, {config.trials} trials, seed {config.seed}"
    return {"encoder": encoder.key, "images": f"{images.name}, {len(images)}", "protocol": protocol}


class _Measurement:
    """One run: its inputs, and the arrays that it fills."""

    def __init__(
        self,
        encoder: Encoder,
        images: ImageSet,
        config: MonteCarloConfig,
        pixels: Pixels,
        units: Tensor,
        batch_size: int | None,
        parts: Unfinished | None,
    ) -> None:
        self.encoder, self.images, self.config, self.pixels, self.units = encoder, images, config, pixels, units
        self.frame = _row_space(units)
        self.loop = BlockLoop(encoder, len(images), pixel_rows(encoder, batch_size), PASS_BLOCK)
        self.keys = image_keys(images.mask_ids, encoder.device)
        shape, q = (config.trials, len(images)), len(self.frame)
        self.arrays = {
            "within": np.zeros((*shape, q, q)), "total": np.zeros(shape), "cosine": np.zeros((*shape, len(units))),
        }  # fmt: skip
        self._parts = parts
        self._sums: dict[int, Array] = {}
        """Sums of covariance/trace [D, D] over some images, by the first of them."""
        self._lock = threading.Lock()

    def run(self, progress: Reporting) -> PassCovariance:
        self._restore(self._parts.parts(self._check_part) if self._parts else ())
        check_rounding(self.encoder, self.config.dropout, self.config.seed, self.pixels, self.keys)
        passes = self.config.trials * self.config.passes[-1]
        keeper = Keeper(self._parts, self._part, {"label": _label(self.encoder, self.images, self.config)})
        what = f"{self.encoder.key} on {self.images.name}, covariance"
        with (
            progress_of(progress, self.loop.left * passes, what) as bar,
            perturbed(self.encoder, self.config.dropout, self.config.seed) as tower,
        ):
            tower.before_map = self.loop.check_wanted
            self.loop.run(lambda start, stop: self._images(tower, start, stop), keeper, bar)
        mean = sum(self._sums[first] for first in sorted(self._sums)) / self.arrays["total"].size
        return PassCovariance(frame=self.frame.numpy(), mean=np.asarray(mean), **self.arrays)

    def _images(self, tower: PerturbedTower, start: int, stop: int) -> None:
        pixels, keys = self.pixels.batch(slice(start, stop)), self.keys[start:stop]
        shares = np.zeros((self.encoder.feature_dim, self.encoder.feature_dim))
        begun, trial = self.loop.begun(start, stop), 0
        pieces = [torch.zeros(len(pixels), 0, self.encoder.feature_dim, dtype=torch.float64)]
        if begun is not None:
            trial, shares, pieces = int(begun["trial"].item()), begun["shares"], [torch.from_numpy(begun["passes"])]
            for name, array in self.arrays.items():
                array[:trial, start:stop] = begun[name]
            passed = trial * self.config.passes[-1] + pieces[0].shape[1]
            self.loop.tick(passed * (stop - start))  # by an earlier process

        def state() -> Arrays:
            held = {name: array[:trial, start:stop] for name, array in self.arrays.items()}
            return {"trial": np.array(trial), "shares": shares, "passes": torch.cat(pieces, dim=1).numpy(), **held}

        while trial < self.config.trials:
            done = sum(piece.shape[1] for piece in pieces)
            for piece in tower.passes(pixels, keys, trial, self.config.passes[-1], self.loop.rows, done):
                pieces.append(piece.cpu().double())
                self.loop.tick(piece.shape[0] * piece.shape[1], state)
            passes = torch.cat(pieces, dim=1)
            found, share = _moments(passes, self.frame, self.units)
            for name, value in found.items():
                self.arrays[name][trial, start:stop] = value.numpy()
            shares, trial, pieces = shares + share.numpy(), trial + 1, [passes[:, :0]]
        total = self.arrays["total"][:, start:stop]
        bad = ~(np.isfinite(total) & (total > 0)).all(axis=0)
        if bad.any():
            raise McdoError(
                f"{self.encoder.key}: the passes of {self.images.ids[start + int(bad.argmax())]} are all equal or not "
                "finite, so they have no covariance; look at its pixels and at the drop probability"
            )
        with self._lock:  # without a store nothing is saved apart, so one sum does
            first = 0 if self._parts is None else start
            self._sums[first] = self._sums.get(first, 0.0) + shares

    def _part(self, columns: NDArray[np.int64]) -> Arrays:
        """What was measured of images ``columns``; their sum is one from here on, a matrix for each save."""
        saved = set(columns.tolist())
        mine = sorted(first for first in list(self._sums) if first in saved)
        self._sums[mine[0]] = np.sum([self._sums.pop(first) for first in mine], axis=0)
        return {**{name: array[:, columns] for name, array in self.arrays.items()}, "sum": self._sums[mine[0]]}

    def _check_part(self, part: Arrays, facts: Mapping[str, Any]) -> None:
        columns, D = part["columns"], self.encoder.feature_dim
        check_columns(columns, len(self.images))
        check_shapes(part, {"sum": (D, D)} | {name: array[:, columns].shape for name, array in self.arrays.items()})

    def _restore(self, parts: Iterable[Arrays]) -> None:
        """Take over what an earlier process saved, in whole blocks: a part's sum cannot be divided."""
        blocks = self.loop.blocks
        for part in parts:
            columns: NDArray[Any] = part["columns"]
            held = np.isin(np.arange(len(self.images)), columns)
            if any(0 < held[start:stop].sum() < stop - start for start, stop in blocks):
                continue  # measured under another batch size
            for name, array in self.arrays.items():
                array[:, columns] = part[name]
            self._sums[int(columns[0])] = part["sum"]
            self.loop.restored[columns] = True


def _row_space(rows: Tensor) -> Tensor:
    """Orthonormal rows with the span of ``rows``; directions of rounding are left in, they do no harm."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    spanned: Tensor = basis[values > 1e-10 * values[0]]
    return spanned


def _moments(passes: Tensor, frame: Tensor, units: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Of one trial of some images, ``[B, T, D]``: moments of each, and their sum of covariance/trace."""
    shifted = passes - passes[:, :1]  # equal passes give exact zeros
    centred = shifted - shifted.mean(1, keepdim=True)
    freedom = passes.shape[1] - 1
    inside = centred @ frame.T
    total = centred.square().sum((1, 2)) / freedom
    cosines = torch.nn.functional.normalize(passes, dim=-1) @ units.T
    scaled = (centred / (freedom * total[:, None, None]).sqrt()).flatten(0, 1)
    found = {"within": inside.mT @ inside / freedom, "total": total, "cosine": cosines.var(dim=1)}
    return found, scaled.T @ scaled
