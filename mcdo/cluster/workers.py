"""Several processes on this machine: this one, and others that are given the same plan and share its blocks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import IO

from mcdo.compiled import cores, threads
from mcdo.errors import McdoError

_PATIENCE_S = 30.0
_TAIL = 2000
BEGIN = b"begin\n"
"""What a process waits for on its standard input."""


def commands(
    arguments: Sequence[str], workers: int | None, devices: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Arguments of this process, and of those beside it.

    The cores are divided among them, from now on; a smaller OMP_NUM_THREADS is kept to. To be called before torch is
    imported.

    Args:
        arguments: pytest's, the same for all.
        workers: how many processes; None for as many as there are devices.
        devices: one for each process; none leaves it to ``arguments``.

    Raises:
        McdoError: for less than one process.

    """
    count = len(devices) if workers is None else workers
    if count < 1:
        raise McdoError(f"--workers={count}: at least one process is needed")
    if len(set(devices)) < len(devices):
        raise McdoError(f"--devices={','.join(devices)}: one process has a device; name each once")
    os.environ["OMP_NUM_THREADS"] = str(min(max(1, cores() // count), threads()))
    each = [[*arguments, f"--device={device}"] for device in devices] or [list(arguments)] * count
    return each[0], each[1:]


class Beside:
    """Other processes that measure the same meanwhile; they load at once, and are ended with what is done inside.

    Args:
        others: arguments of each.

    Attributes:
        failed: says in the end which of them did: what one has begun, the others take over.

    """

    def __init__(self, others: Sequence[Sequence[str]]) -> None:
        self._others = others
        self._running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        self.failed: list[str] = []

    def __enter__(self) -> Beside:
        for arguments in self._others:
            log: IO[bytes] = tempfile.TemporaryFile()
            command = [sys.executable, "-m", "mcdo", "measure", "--when-told", *arguments]
            process = subprocess.Popen(  # noqa: S603
                command, bufsize=0, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
            self._running.append((process, log))
        return self

    def begin(self) -> None:
        """Tell them that nothing is in the way of measuring."""
        for process, _ in self._running:
            assert process.stdin is not None  # as asked
            with suppress(BrokenPipeError):  # it has failed
                process.stdin.write(BEGIN)

    def __exit__(self, *error: object) -> None:
        for number, (process, log) in enumerate(self._running, start=2):
            failed = process.poll()
            with process:
                _end(process)
            if failed:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _TAIL))
                tail = log.read().decode(errors="replace").strip()
                self.failed.append(f"process {number} of {len(self._running) + 1} ended with status {failed}: {tail}")
            log.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
