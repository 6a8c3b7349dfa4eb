"""Progress of a long measurement: a bar with rate and ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from mcdo.names import encodable, printable

PLAIN_EVERY_S = 15.0


class Progress:
    """Counts image passes, or another unit.

    On anything but a terminal it prints nothing for runs shorter than ``PLAIN_EVERY_S``.
    """

    def __init__(self, total: int, what: str, unit: str = "passes", stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        what = encodable(printable(what), getattr(self._stream, "encoding", None))
        self._total, self._what, self._unit, self._done = total, what, unit, 0
        self._start = self._said = time.monotonic()
        self._bar = (
            tqdm(total=total, desc=what, unit=f" {unit}", unit_scale=True, file=self._stream, leave=False)
            if self._stream.isatty()
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, passes: int) -> None:
        """Count ``passes`` more image passes."""
        self._done += passes
        if self._bar is not None:
            self._bar.update(passes)
            return
        now = time.monotonic()
        if now - self._said >= PLAIN_EVERY_S:
            self._said = now
            rate = self._done / (now - self._start)
            left = (self._total - self._done) / rate
            line = f"{self._what}: {self._done / self._total:.0%} at {rate:,.0f} {self._unit}/s, {left:.0f} s left"
            print(line, file=self._stream, flush=True)


class Silent(Progress):
    """Progress that says nothing."""

    def __init__(self) -> None:
        self._bar = None

    def update(self, passes: int) -> None:
        """Count nothing."""
