"""The pass loop: it runs over blocks of images, and for each over trials and blocks of ``PASS_BLOCK`` passes.

One forward pass carries several images times up to ``PASS_BLOCK`` passes. Moments stay on the device until all trials
of a block of images are done.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.progress import Progress
from mcdo.estimators.resumption import Keeper
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun, Scores
from mcdo.estimators.scores import EIGENVALUES, DimensionWeights, PassMoments, geometry_scores
from mcdo.images import ImageSet, Pixels, prepare_pixels
from mcdo.perturbation import PASS_BLOCK, PerturbedTower, deterministic_features, image_keys, perturbed
from mcdo.store import Arrays
from mcdo.threads import one_thread


def is_out_of_memory(error: BaseException) -> bool:
    """Only CUDA has a type for it: the CPU and MPS raise a RuntimeError that says so."""
    said = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "DefaultCPUAllocator: can't allocate memory" in said
        or "MPS backend out of memory" in said
    )


def no_memory(encoder: Encoder) -> McdoError:
    """The error for too little memory for one pass of one image."""
    return McdoError(f"{encoder.key}: out of memory on {encoder.device} with one image and one pass at a time")


class Measurement:
    """One run: its inputs, and the arrays that it fills.

    Args:
        encoder: the encoder.
        images: N images.
        config: the protocol.
        pixels: prepared pixels of ``images``.
        weights: for weighted_trace and topk_trace.
        rows: rows (images × passes) of one forward pass; halved when memory runs out.

    """

    def __init__(
        self,
        encoder: Encoder,
        images: ImageSet,
        config: MonteCarloConfig,
        pixels: Pixels,
        weights: DimensionWeights | None,
        rows: int,
    ) -> None:
        self.encoder, self.images, self.config, self.pixels = encoder, images, config, pixels
        self.weights, self.rows = weights, rows
        self._lock = threading.Lock()
        self.keys = image_keys(images.mask_ids, encoder.device)
        self.features = np.zeros((len(images), encoder.feature_dim), dtype=np.float32)
        self.values: dict[tuple[str, int], Scores] = {}
        self.eigenvalues: dict[int, Scores] = {
            t: np.full((config.trials, len(images), EIGENVALUES), np.nan) for t in config.geometry
        }
        self._restored = np.zeros(len(images), dtype=bool)

    def restore(self, parts: Iterable[Arrays]) -> None:
        """Take over what :meth:`arrays` gave in an earlier process."""
        for part in parts:
            columns = part["columns"]
            features, values, eigenvalues = MonteCarloRun.split_arrays(part)
            self.features[columns] = features
            for key, value in values.items():
                self._scores(key)[:, columns] = value
            for t, value in eigenvalues.items():
                self.eigenvalues[t][:, columns] = value
            self._restored[columns] = True

    def arrays(self, columns: NDArray[np.int64]) -> dict[str, NDArray[np.floating]]:
        """What was measured of some images, by flat names."""
        part: dict[str, NDArray[np.floating]] = {"features": self.features[columns]}
        part |= {f"{name}@{t}": value[:, columns] for (name, t), value in self.values.items()}
        return part | {f"eigenvalues@{t}": value[:, columns] for t, value in self.eigenvalues.items()}

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Images that are measured together and not restored: (first, one past the last).

        Where a block begins does not depend on what was restored: sizes of matrices decide the last bits of a score.
        """
        n, step = len(self.images), max(1, self.rows // PASS_BLOCK)
        every = [(start, min(n, start + step)) for start in range(0, n, step)]
        return [(start, stop) for start, stop in every if not self._restored[start:stop].all()]

    def run(self, bar: Progress, keeper: Keeper) -> None:
        """Measure what was not restored."""
        blocks = self.blocks
        workers = workers_for(self.encoder.device, len(blocks))
        with (
            perturbed(self.encoder, self.config.dropout, self.config.seed) as tower,
            one_thread(),
            ThreadPoolExecutor(workers) as pool,
        ):
            try:
                for start, stop in pool.map(lambda block: self._block(tower, keeper, *block), blocks):
                    bar.update((stop - start) * self.config.trials * self.config.passes[-1])
            except BaseException:
                pool.shutdown(cancel_futures=True)
                keeper.save()
                raise

    def _block(self, tower: PerturbedTower, keeper: Keeper, start: int, stop: int) -> tuple[int, int]:
        """Images ``start:stop``, in smaller pieces where memory runs out."""
        done = start
        while done < stop:
            rows = self.rows
            end = min(stop, done + max(1, rows // PASS_BLOCK))
            try:
                self._images(tower, done, end)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                done = end
                continue
            self._smaller(rows)  # here, where the error no longer holds the tensors of the failed pass
        keeper.add(start, stop)
        return start, stop

    def _smaller(self, tried: int) -> None:
        """Halve the rows of a forward pass: the masks are keyed, so the numbers stay the same."""
        if tried == 1:
            raise no_memory(self.encoder)
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
                self._scores(key)[trial, start:stop] = value.double().cpu().numpy()
            for t, value in eigenvalues.items():
                self.eigenvalues[t][trial, start:stop] = value.numpy()

    def _scores(self, key: tuple[str, int]) -> Scores:
        """The array of a score at a T, made when it is first wanted."""
        if key not in self.values:
            self.values.setdefault(key, np.full((self.config.trials, len(self.images)), np.nan))
        return self.values[key]

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


def prepared(encoder: Encoder, images: ImageSet) -> Pixels:
    """Pixels of ``images`` as the encoder wants them, on its device."""
    preprocessing = encoder.preprocessing
    return prepare_pixels(images, encoder.to_uint8, preprocessing.mean, preprocessing.std, encoder.device)


def workers_for(device: torch.device, blocks: int) -> int:
    """Blocks of images measured at once: on a CPU, whole blocks share the cores better than single operations do."""
    return max(1, min(torch.get_num_threads(), blocks, 16)) if device.type == "cpu" else 1


def _cut(features: Tensor, done: int, passes: Sequence[int]) -> list[Tensor]:
    """Split ``[B, P, D]``, which follows ``done`` passes, at every T of ``passes`` that lies inside it."""
    last = done + features.shape[1]
    edges = [done, *(t for t in passes if done < t < last), last]
    return [features[:, a - done : b - done] for a, b in itertools.pairwise(edges)]
