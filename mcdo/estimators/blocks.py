"""Images measured block by block: in threads where that helps, and in smaller pieces where memory runs out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import overload

import numpy as np
import torch

from mcdo import arguments
from mcdo.encoders import Encoder, Prompts, TextTower, Tokens
from mcdo.errors import McdoError
from mcdo.estimators.progress import Progress, Silent
from mcdo.estimators.resumption import Keeper
from mcdo.estimators.shown import Prepared, Shown
from mcdo.images import ImageSet, Pixels, prepare_pixels
from mcdo.perturbation import Perturbation
from mcdo.store import Arrays
from mcdo.threads import StoppedError, one_thread, stoppable


def check_inputs(encoder: object, images: object, dropout: object) -> None:
    """Raise McdoError unless each is of its kind, naming what makes it, and the model as it was loaded."""
    arguments.having("encoder", encoder, "preprocess_id", "give what mcdo.load_encoder returns")
    if isinstance(encoder, Encoder):
        encoder.check_as_loaded()
    arguments.having("images", images, "mask_ids", "give what mcdo.load_images returns")
    arguments.instance("dropout", dropout, Perturbation, "give a perturbation, such as mcdo.Dropout(0.01)")


@overload
def prepared(encoder: Encoder, images: ImageSet, pixels: Pixels | Callable[[], Pixels] | None = None) -> Pixels: ...


@overload
def prepared(encoder: Encoder, images: Shown, pixels: Prepared | Callable[[], Prepared] | None = None) -> Prepared: ...


def prepared(encoder: Encoder, images: Shown, pixels: Prepared | Callable[[], Prepared] | None = None) -> Prepared:
    """What ``images`` are to the encoder, on its device: made, or those given (or how to get them).

    Raises:
        McdoError: for pixels of another number of images, and for images in the place of prompts or prompts in theirs.

    """
    if isinstance(encoder, Encoder) and isinstance(images, Prompts) is not isinstance(encoder, TextTower):
        raise McdoError(f"{encoder.key} on {images.name}: a text tower takes Prompts, an encoder takes images")
    if pixels is None and isinstance(images, Prompts):
        return Tokens.of(encoder, images)
    if pixels is None:
        assert isinstance(images, ImageSet)
        preprocessing = encoder.preprocessing
        return prepare_pixels(images, encoder.to_uint8, preprocessing.mean, preprocessing.std, encoder.device)
    ready = pixels() if callable(pixels) else pixels
    if len(ready) != len(images):
        raise McdoError(f"{len(ready)} prepared pixels for {len(images)} images of {images.name}")
    return ready


class BlockLoop:
    """Which images are measured together.

    Args:
        encoder: the encoder.
        n: number of images.
        rows: rows of one forward pass; halved when memory runs out.
        rows_per_image: rows that an image takes where there is room; with less, it is measured alone.

    Attributes:
        rows: as they are now.
        restored: bool ``[N]``, images that were measured, here or by another process.

    """

    def __init__(self, encoder: Encoder, n: int, rows: int, rows_per_image: int) -> None:
        self.encoder, self.n, self.rows, self._rows_per_image = encoder, n, rows, rows_per_image
        self.restored = np.zeros(n, dtype=bool)
        self._lock = threading.Lock()
        self._bar: Progress = Silent()
        self._stopping = threading.Event()
        self._local = threading.local()
        self._keeper: Keeper | None = None

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """Images that are measured together and not restored: (first, one past the last).

        Where a block begins does not depend on what was restored: sizes of matrices decide the last bits of a score.
        """
        step = self._at_once(self.rows)
        every = [(start, min(self.n, start + step)) for start in range(0, self.n, step)]
        return [(start, stop) for start, stop in every if not self.restored[start:stop].all()]

    @property
    def left(self) -> int:
        """Number of images in :attr:`blocks`."""
        return sum(stop - start for start, stop in self.blocks)

    def begun(self, start: int, stop: int) -> Arrays | None:
        """The state that an earlier process kept of this block, of the same size of batches, if there is one."""
        found = None if self._keeper is None else self._keeper.kept(start)
        return found if found is not None and found["block"].tolist() == [start, stop, self.rows] else None

    def run(self, measure: Callable[[int, int], None], keeper: Keeper, bar: Progress, each: int = 0) -> None:
        """Measure what was not restored and no other process measures; what they do is restored.

        Args:
            measure: measures images ``start:stop`` and calls :meth:`tick` as it goes; called from several threads, and
                again with fewer images where memory ran out.
            keeper: told of finished blocks, and made to save what there is when anything goes wrong.
            bar: counts what :meth:`tick` is told.
            each: what an image counts for that another process has measured.

        Raises:
            McdoError: for too little memory for one image.
            NotWholeError: if others measure what is left, and this process does not wait.

        """
        self._bar, self._keeper = bar, keeper
        self._stopping.clear()
        workers = self._workers(len(self.blocks))  # before operations are kept to one thread

        def block(ends: tuple[int, int]) -> None:
            self.check_wanted()
            if self.restored[slice(*ends)].all() or not self._claimed(keeper, ends, each):
                return
            try:
                with stoppable(self._stopping):
                    self._pieces(measure, *ends)
            except StoppedError:
                if self._local.state is not None:
                    keeper.keep(self._local.block, self._local.state, now=True)
                raise
            with self._lock:
                self.restored[slice(*ends)] = True
            keeper.add(*ends)

        with one_thread(), ThreadPoolExecutor(workers) as pool:
            try:
                while left := self.blocks:
                    for _ in pool.map(block, left):
                        pass
                    keeper.save()
                    if left := self.blocks:
                        before = self.restored.sum()
                        keeper.wait([start for start, _ in left])
                        bar.update(each * int(self.restored.sum() - before))
            except BaseException:
                self._stopping.set()
                pool.shutdown(cancel_futures=True)
                keeper.save()
                raise

    def _claimed(self, keeper: Keeper, ends: tuple[int, int], each: int) -> bool:
        """Whether a block is this process' to measure; what others have done meanwhile is counted."""
        with self._lock:
            before = self.restored.sum()
            mine = keeper.claim(ends[0])
            self._bar.update(each * int(self.restored.sum() - before))
        if mine and self.restored[slice(*ends)].all():
            keeper.release(ends[0])
            return False
        return mine

    def tick(self, passes: int, state: Callable[[], Arrays] | None = None) -> None:
        """Count image-passes, or products, of a batch that ``measure`` has done with.

        Args:
            passes: how many.
            state: gives what :meth:`begun` is to give another process that takes up the block after this batch; it is
                asked before the next call, or not at all.

        """
        self._local.state = state
        self.check_wanted()
        if state is not None and self._keeper is not None:
            self._keeper.keep(self._local.block, state)
        self._local.counted = getattr(self._local, "counted", 0) + passes  # a trial may be taken outside of run
        self._bar.update(passes)

    def check_wanted(self) -> None:
        """End the block of this thread where another has failed, or the user has interrupted."""
        if self._stopping.is_set():
            raise StoppedError

    def _at_once(self, rows: int) -> int:
        return max(1, rows // self._rows_per_image)

    def _workers(self, blocks: int) -> int:
        """Blocks measured at once: on a CPU, whole blocks share the cores better than single operations do."""
        return max(1, min(torch.get_num_threads(), blocks, 16)) if self.encoder.device.type == "cpu" else 1

    def _pieces(self, measure: Callable[[int, int], None], start: int, stop: int) -> None:
        while start < stop:
            rows = self.rows
            end = min(stop, start + self._at_once(rows))
            self._local.counted, self._local.state, self._local.block = 0, None, (start, end, rows)
            try:
                measure(start, end)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                start = end
                continue
            self._bar.update(-self._local.counted)  # it is done again
            self._smaller(rows)  # here, where the error no longer holds the tensors of the failed pass

    def _smaller(self, tried: int) -> None:
        """Halve the rows of a forward pass: noise is keyed by image, so the numbers stay the same."""
        if tried == 1:
            raise no_memory(self.encoder)
        with self._lock:
            if self.rows == tried:  # or another block has halved them already
                self.rows //= 2
        if self.encoder.device.type == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. Only CUDA has a type for it: the CPU and MPS raise a RuntimeError that says so."""
    said = str(error)
    return (
        isinstance(error, (torch.OutOfMemoryError, MemoryError))
        or "DefaultCPUAllocator: can't allocate memory" in said
        or "MPS backend out of memory" in said
    )


def no_memory(encoder: Encoder) -> McdoError:
    """The error for memory that does not do for one image."""
    return McdoError(f"{encoder.key}: out of memory on {encoder.device} with one image and one pass at a time")
