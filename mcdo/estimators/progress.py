"""Progress of a long measurement: a bar with rate and ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mcdo.names import encodable, printable

PLAIN_EVERY_S = 30.0
SoFar = tuple[NDArray[np.float64], Sequence[str]]
"""Scores [K, n] of the n images that are done, and the images' origins."""


class Progress:
    """Counts image passes, or another unit.

    On anything but a terminal it prints nothing in the first ``PLAIN_EVERY_S``, and then a line as often: of one long
    measurement, or of many short ones.

    Args:
        total: how many there are.
        what: is measured.
        unit: that is counted.
        stream: where it is shown; standard error by default.
        beside: given how many are done, what else is to be said: where a plan of several measurements stands.

    """

    _said = _busy = -PLAIN_EVERY_S
    """When a line was last said, or would have been, and when anything was counted, by any of them."""

    def __init__(
        self,
        total: int,
        what: str,
        unit: str = "passes",
        stream: TextIO | None = None,
        beside: Callable[[int], str] = lambda done: "",
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        what = encodable(printable(what), getattr(self._stream, "encoding", None))
        self._total, self._what, self._unit, self._done, self._beside = total, what, unit, 0, beside
        self.measured: Callable[[], SoFar | None] = lambda: None
        """What says how a figure stands looks at; set by the measurement."""
        self.ended: Callable[[int, float], None] = lambda done, seconds: None
        """Told at the end how many were counted, and in which time."""
        self._start = time.monotonic()
        if self._start - Progress._busy > PLAIN_EVERY_S:
            Progress._said = self._start
        Progress._busy = self._start
        self._lock = threading.Lock()
        self._bar = (
            tqdm(
                total=total,
                desc=what,
                unit=f" {unit}",
                unit_scale=True,
                file=self._stream,
                leave=False,
                **_size(self._stream),
            )
            if self._stream.isatty()
            else None
        )

    def __enter__(self) -> Progress:
        if self._bar is not None and (said := self._beside(0)):  # which may ask this very progress
            self._bar.set_postfix_str(said)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        self.ended(self._done, time.monotonic() - self._start)
        if kind is KeyboardInterrupt and self._total:
            share = self._done / self._total
            print(f"\n{self._what}: interrupted at {share:.1%}", file=self._stream, flush=True)

    def update(self, passes: int) -> None:
        """Count ``passes`` more image passes; fewer than none take back what has to be done again. For any thread."""
        with self._lock:
            self._done += passes
            Progress._busy = now = time.monotonic()
            due = now - Progress._said >= (PLAIN_EVERY_S if self._bar is None else 1.0)
            if due:
                Progress._said = now
            if self._bar is not None:
                if due:
                    self._bar.set_postfix_str(self._beside(self._done), refresh=False)
                self._bar.update(passes)
            elif due and self._done > 0:
                rate = self._done / (now - self._start)
                left = (self._total - self._done) / rate
                line = f"{self._what}: {self._done / self._total:.0%} at {rate:,.0f} {self._unit}/s, {left:.0f} s left"
                beside = self._beside(self._done)
                print(f"{line}; {beside}" if beside else line, file=self._stream, flush=True)


def _size(stream: TextIO) -> dict[str, Any]:
    """What tqdm is told of a terminal's size: on one of no columns, or no lines, it would show nothing."""
    with suppress(OSError, ValueError):
        if 0 in (size := os.get_terminal_size(stream.fileno())):
            known = shutil.get_terminal_size()  # COLUMNS and LINES, or 80 and 24
            return {"ncols": size.columns or known.columns, "nrows": size.lines or known.lines}
    return {"dynamic_ncols": True}


class Silent(Progress):
    """Progress that says nothing."""

    def __init__(self) -> None:
        self.measured = lambda: None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *ended: object) -> None:
        return

    def update(self, passes: int) -> None:
        """Count nothing."""


Reporting = bool | Callable[[int, str, str], Progress]
"""Whether progress is shown, or what shows it: made from total, what and unit."""


def progress_of(asked: Reporting, total: int, what: str, unit: str = "passes") -> Progress:
    """The progress that was asked for."""
    if callable(asked):
        return asked(total, what, unit)
    return Progress(total, what, unit) if asked else Silent()
