"""Several processes on this machine: this one, and others that are given the same plan and share its blocks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from mcdo.errors import McdoError

_PATIENCE_S = 30.0
_TAIL = 2000


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
    share, asked = max(1, cores() // count), os.environ.get("OMP_NUM_THREADS", "")
    os.environ["OMP_NUM_THREADS"] = str(min(share, int(asked)) if asked.isdecimal() and int(asked) else share)
    each = [[*arguments, f"--device={device}"] for device in devices] or [list(arguments)] * count
    return each[0], each[1:]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def beside(others: Sequence[Sequence[str]]) -> Iterator[list[str]]:
    """Run other processes meanwhile; they are ended afterwards.

    Gives a list that says in the end which of them failed: what one has begun, the others take over.
    """
    said: list[str] = []
    with ExitStack() as stack:
        running: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        for arguments in others:
            log: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            command = [sys.executable, "-m", "mcdo", "measure", *arguments]
            running.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), log))  # noqa: S603
        try:
            yield said
        finally:
            for number, (process, wrote) in enumerate(running, start=2):
                failed = process.poll()
                _end(process)
                if failed:
                    wrote.seek(max(0, wrote.seek(0, os.SEEK_END) - _TAIL))
                    tail = wrote.read().decode(errors="replace").strip()
                    said.append(f"process {number} of {len(running) + 1} ended with status {failed}: {tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
