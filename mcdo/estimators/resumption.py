"""Keeping what was measured: whole runs, so that nothing is measured twice, and finished blocks of one under way.

Finished blocks of images are kept as parts, and of those that are not, the passes so far. A process that is killed
loses what was done since the last save: a batch of passes, or ``SAVE_EVERY_S`` seconds, or where saving is slow a
hundred times as long as a save takes but no more than ``MOST_S`` (ten times as long, where a save takes more than half
a second). SIGTERM and SIGHUP save as Ctrl-C does.

Processes that want the same run share its blocks: each is measured by the one that claims it, who keeps the claim until
the block is in a part, and takes over what others have kept.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.names import say
from mcdo.store import (
    Arrays,
    FinishedElsewhereError,
    Store,
    Unfinished,
    UnsavedResultWarning,
    check_shapes,
    open_store,
)

SAVE_EVERY_S = 2.0
MOST_S = 5.0
COST = 0.01
"""Share of the time that saving may take, while no more than ``MOST_S`` is lost."""
MOST_COST = 0.1
"""Share of the time that it may take in any case."""

Result = TypeVar("Result")


def measured_once(
    store: Store | Path | str | None,
    key: Callable[[], str],
    find: Callable[[Store, str], Result | None],
    measure: Callable[[Unfinished | None], Result],
    packed: Callable[[Result], tuple[Arrays, Mapping[str, Any]]],
    progress: bool,
    *,
    shared: bool = False,
) -> Result:
    """A run from the store, or measured and kept there.

    Args:
        store: None measures without a store.
        key: of the run in the store.
        find: the run in a store under a key, or None.
        measure: the run, from what an earlier process has left of it.
        packed: arrays and facts of a run, for the store.
        progress: say whom this process waits for.
        shared: processes share the blocks of the run, as the :class:`Keeper` that ``measure`` makes says; else one
            measures and the others wait.

    Raises:
        McdoError: for a store that cannot be written, before anything is measured. If it fails afterwards, the run is
            returned with an UnsavedResultWarning.
        NotWholeError: if the store says not to wait for other processes, and they measure what is missing.

    """
    opened = open_store(store)
    if opened is None:
        return measure(None)
    name = key()
    run = find(opened, name)
    if run is not None:
        return run
    opened.check_writable()
    parts = opened.unfinished(name)
    tell = notify if progress else _say_nothing
    with parts.shared(tell) if shared else parts.held(tell):
        begun = False
        while True:
            run = find(opened, name)  # by the process that was waited for
            if run is not None:
                if begun:
                    parts.remove()  # of what was measured here as well
                return run
            begun = True
            try:
                with interrupted_by_signals():
                    run = measure(parts)
                break
            except FinishedElsewhereError:
                continue
        try:
            opened.put(name, *packed(run))
            parts.remove()
        except McdoError as error:  # a full disk must not cost a finished measurement
            warnings.warn(f"the run is not kept: {error}", UnsavedResultWarning, stacklevel=3)
    return run


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Take SIGTERM and SIGHUP for Ctrl-C inside, where nobody else takes or ignores them: what is done is saved."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    mine = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [number for number in numbers if mine and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, interrupt)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def check_columns(columns: NDArray[Any], n: int) -> int:
    """How many of ``n`` images a part is of. Raises ValueError for places of images that there are not, or twice."""
    if columns.ndim != 1 or columns.dtype != np.int64 or not len(columns):
        raise ValueError("it names no images")
    if columns.min() < 0 or columns.max() >= n or len(np.unique(columns)) != len(columns):
        raise ValueError(f"it is of other images than the {n} that are measured")
    return len(columns)


def notify(line: str) -> None:
    """Tell people, on standard error."""
    say(line, sys.stderr)


def _say_nothing(line: str) -> None:
    return


class Keeper:
    """Saves finished images as parts of a stored result, now and then, and takes over those of other processes.

    Args:
        parts: where they are kept; None keeps nothing.
        arrays: gives what was measured of some images, by their columns.
        facts: what is kept beside each part.
        restore: takes over parts that :func:`arrays` gave, if blocks may be shared with other processes.
        fits: raises ValueError or KeyError for a part that ``restore`` cannot take.

    """

    def __init__(
        self,
        parts: Unfinished | None,
        arrays: Callable[[NDArray[np.int64]], Arrays],
        facts: Mapping[str, Any],
        restore: Callable[[Iterable[Arrays]], None] | None = None,
        fits: Callable[[Arrays, Mapping[str, Any]], object] = lambda arrays, facts: None,
    ) -> None:
        self._parts, self._arrays, self._facts = parts, arrays, facts
        self._restore, self._fits = restore, fits
        self._lock = threading.Lock()
        self._columns: list[int] = []
        self._blocks: list[int] = []
        self._next = time.monotonic() + SAVE_EVERY_S
        self._begun: dict[int, float] = {}
        """When the passes so far of a block are to be kept next, by its first image."""
        self._warned = False

    def claim(self, block: int) -> bool:
        """Whether this process is to measure the block that begins with this image: no other is at it.

        What others have finished meanwhile is restored, this block perhaps among it.
        """
        if self._parts is None or self._restore is None:
            return True
        if not self._parts.claim(block):
            return False
        self.take_over()
        return True

    def release(self, block: int) -> None:
        """Give a claimed block back."""
        if self._parts is not None and self._restore is not None:
            self._parts.release(block)

    def take_over(self) -> None:
        """Restore what others have kept since the last time. Raises FinishedElsewhereError if they have kept all."""
        if self._parts is not None and self._restore is not None:
            with self._lock:
                self._restore(self._parts.parts(self._fits))
            self._parts.check_unfinished()  # after that: who finishes it removes the parts

    def wait(self, blocks: Sequence[int]) -> None:
        """Wait a moment for those who measure the blocks that begin with these images.

        Raises:
            NotWholeError: if this process is not to.
            FinishedElsewhereError: if they have finished all.

        """
        assert self._parts is not None
        self._parts.wait(blocks)
        self.take_over()

    def kept(self, block: int) -> Arrays | None:
        """What :meth:`keep` has kept of a block, here or in another process."""
        return None if self._parts is None else self._parts.kept(block)

    def add(self, start: int, stop: int) -> None:
        """Count images ``start:stop`` as finished, and save when it is time; for the thread that measured them."""
        with self._lock:
            self._columns.extend(range(start, stop))
            self._blocks.append(start)
            if time.monotonic() >= self._next:
                self._save()

    def keep(self, block: tuple[int, int, int], state: Callable[[], Arrays], *, now: bool = False) -> None:
        """Keep the state of a block (first image, one past the last, rows of a batch) when it is time, or ``now``."""
        if self._parts is None:
            return
        began = time.monotonic()
        if not now and began < self._begun.setdefault(block[0], began + SAVE_EVERY_S):
            return
        try:
            self._parts.keep(block[0], {"block": np.array(block), **state()}, self._facts)
        except McdoError as error:
            self._warn(error)
        self._begun[block[0]] = _next(began)

    def save(self) -> None:
        """Save what is finished and not saved yet. What cannot be written is tried again, and warned of once."""
        with self._lock:
            self._save()

    def _save(self) -> None:
        if self._parts is None or not self._columns:
            return
        columns = np.array(sorted(self._columns))
        began = time.monotonic()
        try:
            self._parts.add({"columns": columns, **self._arrays(columns)}, self._facts)
            self._columns.clear()
            for block in set(columns.tolist()).intersection(self._begun):
                self._parts.drop(block)
                del self._begun[block]
            for block in self._blocks:
                self.release(block)
            self._blocks.clear()
        except McdoError as error:  # the measurement matters more than what would be lost if it were killed
            self._warn(error)
        self._next = _next(began)

    def _warn(self, error: McdoError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"parts of the run are not kept: {error}", UnsavedResultWarning, stacklevel=5)


class KeptValues:
    """``values`` float64 [n] that are kept as they come; ``done`` bool [n] says which are there.

    Args:
        parts: where they are kept, and what another process has left; None keeps nothing.
        n: how many.
        label: what is kept beside them, for people.

    """

    def __init__(self, parts: Unfinished | None, n: int, label: Mapping[str, str]) -> None:
        self.values, self.done = np.zeros(n), np.zeros(n, dtype=bool)
        for part in parts.parts(self._check) if parts else ():
            self.values[part["columns"]], self.done[part["columns"]] = part["values"], True
        self._keeper = Keeper(parts, lambda columns: {"values": self.values[columns]}, {"label": dict(label)})

    def _check(self, part: Arrays, facts: Mapping[str, Any]) -> None:
        check_shapes(part, {"values": (check_columns(part["columns"], len(self.values)),)})

    def begun(self, block: tuple[int, int, int]) -> Arrays | None:
        """What :meth:`keep` has kept of values that are not there yet, here or in another process."""
        found = self._keeper.kept(block[0])
        return found if found is not None and found["block"].tolist() == list(block) else None

    def keep(self, block: tuple[int, int, int], state: Callable[[], Arrays], *, now: bool = False) -> None:
        """Keep what leads to some values (first, one past the last, rows of a batch), when it is time, or ``now``."""
        self._keeper.keep(block, state, now=now)

    def put(self, start: int, values: NDArray[np.float64]) -> None:
        """Values from ``start`` on; saved when it is time."""
        stop = start + len(values)
        self.values[start:stop], self.done[start:stop] = values, True
        self._keeper.add(start, stop)

    @contextmanager
    def saved(self) -> Iterator[None]:
        """Save what there is, when anything ends what is inside."""
        try:
            yield
        finally:
            self._keeper.save()


def _next(began: float) -> float:
    """When to save next, after a save that began then."""
    now = time.monotonic()
    spent = now - began
    return now + min(max(SAVE_EVERY_S, spent / COST), max(MOST_S, spent / MOST_COST))


def unkept() -> Keeper:
    """Keeps nothing, for what is measured anew each time."""
    return Keeper(None, lambda columns: {}, {})
