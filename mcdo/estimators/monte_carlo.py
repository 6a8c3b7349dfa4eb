"""Monte Carlo dropout: T passes, K trials, scores at every T on the way.

The pass loop runs over blocks of images, and for each over trials and blocks of ``PASS_BLOCK`` passes. One forward pass
carries several images times up to ``PASS_BLOCK`` passes. Moments stay on the device until all trials of a block of
images are done.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import operator
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.progress import Progress
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun, Scores
from mcdo.estimators.scores import EIGENVALUES, DimensionWeights, PassMoments, geometry_scores, pixel_rows
from mcdo.images import ImageSet, Pixels, prepare_pixels
from mcdo.perturbation import (
    PASS_BLOCK,
    SCHEME,
    Dropout,
    PerturbedTower,
    Site,
    SiteRecord,
    check_alive,
    deterministic_features,
    image_keys,
    perturbed,
    site_variance,
)
from mcdo.store import Store, UnsavedResultWarning, open_store


def _is_out_of_memory(error: BaseException) -> bool:
    """Only CUDA has a type for it: the CPU and MPS raise a RuntimeError that says so."""
    said = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "DefaultCPUAllocator: can't allocate memory" in said
        or "MPS backend out of memory" in said
    )


def monte_carlo(
    encoder: Encoder,
    images: ImageSet,
    dropout: Dropout,
    passes: Sequence[int] = (4, 16, 64),
    trials: int = 10,
    seed: int = 42,
    *,
    geometry: Sequence[int] | None = None,
    batch_size: int | None = None,
    store: Store | Path | str | None = None,
    pixels: Pixels | Callable[[], Pixels] | None = None,
    weights: DimensionWeights | None = None,
    progress: bool = True,
) -> MonteCarloRun:
    """Scores of every image in every trial, at every T of ``passes``.

    Args:
        encoder: from :func:`mcdo.load_encoder`.
        images: from :func:`mcdo.load_images`.
        dropout: probability and sites.
        passes: the T at which scores are taken; one run of ``max(passes)`` passes gives them all.
        trials: K, independent repetitions.
        seed: seed of the masks. A mask follows from (seed, trial, pass, image id, site), so neither ``batch_size`` nor
            the other images can change a score.
        geometry: the T at which angular variance, spectrum and off-diagonal mass are taken as well (default: all).
        batch_size: rows (images × passes) of one forward pass; halved when memory runs out.
        store: where results are kept and looked up; None measures anew. Whether it can be written is checked before any
            pass is spent; if it still fails afterwards, the run is returned with an UnsavedResultWarning.
        pixels: prepared pixels of ``images``, or how to get them, where the caller keeps them.
        weights: from a calibration set, for weighted_trace and topk_trace.
        progress: report progress.

    Raises:
        McdoError: for a dead site, an impossible protocol, images that were used to fit ``weights``, other pixels than
            the images', features that are not finite, a store that cannot be written, or too little memory for one
            pass.

    """
    passes, trials, seed = tuple(map(operator.index, passes)), operator.index(trials), operator.index(seed)
    rows = pixel_rows(encoder, batch_size)
    config = MonteCarloConfig(
        dropout, passes, trials, seed, passes if geometry is None else tuple(map(operator.index, geometry))
    )
    if weights is not None:
        weights.check_unseen(images)
    shelf = open_store(store)
    if shelf is None:
        return _measure(encoder, images, config, pixels, weights, rows, progress)
    key = shelf.key(_identity(encoder, images, config, weights))
    found = shelf.get(key)
    if found is not None:
        return _from_store(found, config, encoder.key, images)
    shelf.check_writable()
    run = _measure(encoder, images, config, pixels, weights, rows, progress)
    _keep(shelf, key, run)
    return run


def _measure(
    encoder: Encoder,
    images: ImageSet,
    config: MonteCarloConfig,
    pixels: Pixels | Callable[[], Pixels] | None,
    weights: DimensionWeights | None,
    rows: int,
    progress: bool,
) -> MonteCarloRun:
    if not isinstance(pixels, Pixels):
        pixels = _prepared(encoder, images) if pixels is None else pixels()
    if len(pixels) != len(images):
        raise McdoError(f"{len(pixels)} prepared pixels for {len(images)} images of {images.name}")
    sites = _check_alive(encoder, pixels, config.dropout)
    total = config.trials * config.passes[-1] * len(images)
    with Progress(total, f"{encoder.key} on {images.name}") if progress else _Silent() as bar:
        return _Measurement(encoder, images, config, pixels, weights, rows, bar).run(sites)


def _check_alive(encoder: Encoder, pixels: Pixels, dropout: Dropout) -> tuple[Site, ...]:
    try:
        return check_alive(encoder, pixels.batch(slice(0, 1)), dropout)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _no_memory(encoder) from error


def _no_memory(encoder: Encoder) -> McdoError:
    return McdoError(f"{encoder.key}: out of memory on {encoder.device} with one image and one pass at a time")


def _keep(shelf: Store, key: str, run: MonteCarloRun) -> None:
    try:
        shelf.put(key, run.arrays(), {"sites": run.sites, "provenance": run.provenance})
    except McdoError as error:  # a full disk must not cost a finished measurement
        warnings.warn(f"the run is not kept: {error}", UnsavedResultWarning, stacklevel=3)


def census(
    encoder: Encoder, images: ImageSet, dropout: Dropout, *, seed: int = 0, limit: int | None = None
) -> tuple[SiteRecord, ...]:
    """What every requested site does on its own, on the first ``limit`` images (8, or 1 for inputs above 64 px).

    Raises:
        McdoError: naming every requested site that is unknown, never fires, or changes nothing.

    """
    few = images.select(slice(0, limit or (8 if encoder.resolution <= 64 else 1)))
    pixels = _prepared(encoder, few).batch(slice(None))
    keys = image_keys(few.ids, encoder.device)
    return tuple(
        SiteRecord(
            site.name,
            site.role.value,
            site.calls,
            site.units,
            site_variance(encoder, pixels, keys, site, dropout.p, seed) if dropout.p else 0.0,
        )
        for site in check_alive(encoder, pixels, dropout)
    )


class _Silent(Progress):
    """Progress that says nothing."""

    def __init__(self) -> None:
        self._bar = None

    def update(self, passes: int) -> None:
        return


def _workers(device: torch.device, blocks: int) -> int:
    """Blocks of images measured at once: on a CPU, whole blocks share the cores better than single operations do."""
    return min(torch.get_num_threads(), blocks, 16) if device.type == "cpu" else 1


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let every operation run on one thread.

    How many threads share a product decides its last bits. With one, they do not depend on the machine's cores, nor on
    how many blocks a shard of the images makes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Measurement:
    """One call of :func:`monte_carlo`: its inputs, and the arrays that it fills."""

    def __init__(
        self,
        encoder: Encoder,
        images: ImageSet,
        config: MonteCarloConfig,
        pixels: Pixels,
        weights: DimensionWeights | None,
        rows: int,
        bar: Progress,
    ) -> None:
        self.encoder, self.images, self.config, self.pixels = encoder, images, config, pixels
        self.weights, self.rows, self.bar = weights, rows, bar
        self._lock = threading.Lock()
        self.keys = image_keys(images.ids, encoder.device)
        self.features = np.zeros((len(images), encoder.feature_dim), dtype=np.float32)
        self.values: dict[tuple[str, int], Scores] = {}
        self.eigenvalues: dict[int, Scores] = {
            t: np.full((config.trials, len(images), EIGENVALUES), np.nan) for t in config.geometry
        }

    def run(self, sites: tuple[Site, ...]) -> MonteCarloRun:
        step = max(1, self.rows // PASS_BLOCK)
        blocks = [(start, min(len(self.images), start + step)) for start in range(0, len(self.images), step)]
        workers = _workers(self.encoder.device, len(blocks))
        with (
            perturbed(self.encoder, self.config.dropout, self.config.seed) as tower,
            _one_thread_each(),
            ThreadPoolExecutor(workers) as pool,
        ):
            try:
                for start, stop in pool.map(lambda block: self._block(tower, *block), blocks):
                    self.bar.update((stop - start) * self.config.trials * self.config.passes[-1])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return MonteCarloRun(
            config=self.config,
            encoder=self.encoder.key,
            ids=self.images.ids,
            features=self.features,
            sites=tuple((site.name, site.role.value) for site in sites),
            provenance=provenance(self.encoder, self.images),
            _values=self.values,
            _eigenvalues=self.eigenvalues,
        )

    def _block(self, tower: PerturbedTower, start: int, stop: int) -> tuple[int, int]:
        """Images ``start:stop``, in smaller pieces where memory runs out."""
        done = start
        while done < stop:
            rows = self.rows
            end = min(stop, done + max(1, rows // PASS_BLOCK))
            try:
                self._images(tower, done, end)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
            else:
                done = end
                continue
            self._smaller(rows)  # here, where the error no longer holds the tensors of the failed pass
        return start, stop

    def _smaller(self, tried: int) -> None:
        """Halve the rows of a forward pass: the masks are keyed, so the numbers stay the same."""
        if tried == 1:
            raise _no_memory(self.encoder)
        with self._lock:
            if self.rows == tried:  # or another block has halved them already
                self.rows //= 2
        if self.encoder.device.type == "cuda":
            torch.cuda.empty_cache()

    def _images(self, tower: PerturbedTower, start: int, stop: int) -> None:
        """All trials of images ``start:stop``."""
        pixels = self.pixels.batch(slice(start, stop))
        plain = deterministic_features(self.encoder, pixels)
        self.features[start:stop] = plain.float().cpu().numpy()
        bad = ~np.isfinite(self.features[start:stop]).all(axis=1)
        if bad.any():
            raise McdoError(
                f"{self.encoder.key}: the features of {self.images.ids[start + int(bad.argmax())]} are not finite; "
                "look at its pixels and at the model's weights"
            )
        results = [
            self._trial(tower, pixels, plain, self.keys[start:stop], trial) for trial in range(self.config.trials)
        ]
        for trial, (scores, eigenvalues) in enumerate(results):
            for key, value in scores.items():
                if key not in self.values:
                    self.values.setdefault(key, np.full((self.config.trials, len(self.images)), np.nan))
                self.values[key][trial, start:stop] = value.double().cpu().numpy()
            for t, value in eigenvalues.items():
                self.eigenvalues[t][trial, start:stop] = value.numpy()

    def _trial(
        self, tower: PerturbedTower, pixels: Tensor, plain: Tensor, keys: Tensor, trial: int
    ) -> tuple[dict[tuple[str, int], Tensor], dict[int, Tensor]]:
        """One trial of one block of images: scores ``[B]`` by (name, T), leading eigenvalues by T."""
        moments = PassMoments.empty()
        kept: list[Tensor] = []
        scores: dict[tuple[str, int], Tensor] = {}
        eigenvalues: dict[int, Tensor] = {}
        keep_until = max(self.config.geometry, default=0)
        done = 0
        for t in self.config.passes:
            while done < t:
                first = done % PASS_BLOCK
                wanted = min(
                    PASS_BLOCK, first + self.config.passes[-1] - done, first + max(1, self.rows // len(pixels))
                )
                features = tower(pixels, keys, trial, done // PASS_BLOCK, first, wanted)
                for piece in _cut(features, done, self.config.passes):
                    moments.update(piece)
                    done += piece.shape[1]
                    if done <= keep_until:
                        kept.append(piece)
                    if done in self.config.passes:
                        scores |= {(name, done): s for name, s in moments.scores(plain, self.weights).items()}
                    if done in self.config.geometry:
                        extra, eigenvalues[done] = geometry_scores(torch.cat(kept, dim=1))
                        scores |= {(name, done): s for name, s in extra.items()}
        return scores, eigenvalues


def _cut(features: Tensor, done: int, passes: Sequence[int]) -> list[Tensor]:
    """Split ``[B, P, D]``, which follows ``done`` passes, at every T of ``passes`` that lies inside it."""
    last = done + features.shape[1]
    edges = [done, *(t for t in passes if done < t < last), last]
    return [features[:, a - done : b - done] for a, b in itertools.pairwise(edges)]


def _prepared(encoder: Encoder, images: ImageSet) -> Pixels:
    preprocessing = encoder.preprocessing
    return prepare_pixels(images, encoder.to_uint8, preprocessing.mean, preprocessing.std, encoder.device)


def provenance(encoder: Encoder, images: ImageSet) -> dict[str, Any]:
    """Where numbers come from: for result files and, where it changes them, for store keys."""
    libraries = ("torch", "open_clip_torch", "timm", "transformers", "numpy")
    return {
        "encoder": encoder.key,
        "weights": encoder.weights_hash,
        "random_weights": encoder.random_weights,
        "preprocessing": encoder.preprocess_id,
        "images": images.fingerprint,
        "device": encoder.device.type,
        "dtype": "float32",
        "masks": SCHEME,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "machine": platform.machine(),
    }


def _identity(
    encoder: Encoder, images: ImageSet, config: MonteCarloConfig, weights: DimensionWeights | None
) -> dict[str, Any]:
    """All that decides the numbers of a run."""
    facts = provenance(encoder, images)
    del facts["encoder"]  # a key is only a name: the weights decide
    dimensions = None if weights is None else weights.identity
    # To be counted up with any change of this package that changes a number.
    return {"kind": "monte_carlo 1", "config": config.as_dict(), "dimension_weights": dimensions, **facts}


def _from_store(found: Any, config: MonteCarloConfig, encoder: str, images: ImageSet) -> MonteCarloRun:
    arrays, facts = found
    features, values, eigenvalues = MonteCarloRun.split_arrays(arrays)
    sites = tuple((name, role) for name, role in facts["sites"])
    return MonteCarloRun(config, encoder, images.ids, features, sites, facts["provenance"], values, eigenvalues)
