"""What the processes of test_store_processes.py do: they are forked from a server that has all this imported."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mcdo.estimators.resumption
import mcdo.store.leases
from mcdo.encoders import Encoder, load_encoder
from mcdo.estimators import MonteCarloRun, monte_carlo
from mcdo.estimators.measurement import Measurement
from mcdo.images import load_images
from mcdo.perturbation import Dropout

N, BLOCK = 48, 4
RUN: dict[str, Any] = {"passes": (2, 4, 6, 8), "trials": 3, "batch_size": 16 * BLOCK, "progress": True}


@cache
def encoder() -> Encoder:
    return load_encoder("clip_tiny", weights="random")


def measure(store: Path | None, **options: Any) -> MonteCarloRun:
    return monte_carlo(encoder(), load_images("digits", n=N), Dropout(0.05), store=store, **RUN | options)


def child(
    store: Path,
    log: Path,
    threads: int = 1,
    disk: tuple[int, int] | None = None,
    largest_file: int | None = None,
    script: str = "measure",
    bind: Path | None = None,
    silent_s: float | None = None,
) -> None:
    """Measure into ``store``; the blocks that are begun go to ``log``, what is said to its ``.said``, numbers to .npz.

    Args:
        store: the store.
        log: grows by one number for each block that is begun, which is there even if this process is killed.
        threads: of the measurement.
        disk: mount a disk of so many kB, of which so many are taken, for this process alone, and put the store on it.
        largest_file: bytes beyond which a file cannot be written.
        script: name of what is done.
        bind: mount this folder at ``store`` as well, for this process alone.
        silent_s: seconds after which leases are taken over.

    """
    warnings.simplefilter("always")
    torch.set_num_threads(threads)
    mcdo.estimators.resumption.SAVE_EVERY_S, mcdo.estimators.resumption.COST = 0.0, np.inf
    images = Measurement._images

    def counted(self: Measurement, tower: Any, start: int, stop: int) -> None:
        with log.open("a") as file:
            file.write(f"{start}\n")
        images(self, tower, start, stop)

    Measurement._images = counted  # type: ignore[method-assign]
    with log.with_suffix(".said").open("a", buffering=1) as said, contextlib.redirect_stderr(said):
        if disk is not None:
            store.mkdir(exist_ok=True)
            reason = mount(store, f"size={disk[0]}k")
            if reason:
                log.with_suffix(".skip").write_text(reason)
                return
            (store / "others").write_bytes(bytes(1024 * disk[1]))
        if bind is not None:
            store.mkdir()
            reason = mount(store, "", MS_BIND, bind)
            if reason:
                log.with_suffix(".skip").write_text(reason)
                return
        if silent_s is not None:
            mcdo.store.leases.SILENT_S = silent_s
        if largest_file is not None:
            import signal

            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with EFBIG
            log.write_text("")
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        SCRIPTS[script](store, log)


def once(store: Path, log: Path) -> None:
    np.savez(log.with_suffix(".npz"), **measure(store).arrays())  # type: ignore[arg-type]


def bounded_files(store: Path, log: Path) -> None:
    """Nothing but the error stream and the log can be written: so equality is found out here."""
    found, expected = measure(store).arrays(), measure(None).arrays()
    print("equal", all(np.array_equal(found[name], expected[name]) for name in expected), file=sys.stderr)


def full_at_once(store: Path, log: Path) -> None:
    try:
        measure(store)
    except Exception as error:
        print(type(error).__name__, error, file=sys.stderr)


def full_then_room(store: Path, log: Path) -> None:
    run = measure(store)
    whole = [path for path in store.rglob("*.*") if not path.name.startswith("partial-")]
    print("on the full disk:", sorted(path.suffix for path in whole), file=sys.stderr)
    np.savez(log.with_suffix(".npz"), **run.arrays())  # type: ignore[arg-type]
    (store / "others").unlink()
    with log.open("a") as file:
        file.write("room\n")
    again = measure(store)
    print("equal", all(np.array_equal(a, run.arrays()[name]) for name, a in again.arrays().items()), file=sys.stderr)
    print("with room:", sorted(path.suffix for path in store.rglob("*.*")), file=sys.stderr)


def read_only(store: Path, log: Path) -> None:
    run = measure(store)
    mount(store, "", MS_REMOUNT | MS_RDONLY)
    with log.open("a") as file:
        file.write("read only\n")
    again = measure(store)
    print("equal", all(np.array_equal(a, run.arrays()[name]) for name, a in again.arrays().items()), file=sys.stderr)
    print("part", measure(store, trials=1).scores("trace_pre").shape, file=sys.stderr)
    try:
        measure(store, seed=7)
    except Exception as error:
        print(type(error).__name__, error, file=sys.stderr)


SCRIPTS = {f.__name__: f for f in (once, bounded_files, full_at_once, full_then_room, read_only)} | {"measure": once}

CLONE_NEWNS, CLONE_NEWUSER, MS_RDONLY, MS_REMOUNT, MS_BIND = 0x20000, 0x10000000, 1, 32, 4096


def mount(where: Path, options: str, flags: int = 0, what: Path = Path("none")) -> str:
    """Mount memory, or a folder, at a folder, in a mount namespace of this process; why it cannot be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags & MS_REMOUNT:
        user, group = os.getuid(), os.getgid()
        try:
            if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS):
                return f"no mount namespace for this process ({os.strerror(ctypes.get_errno())})"
        except AttributeError:
            return f"no mount namespaces on {sys.platform}"
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    if libc.mount(bytes(what), bytes(where), b"tmpfs", flags, options.encode()):
        return f"nothing can be mounted ({os.strerror(ctypes.get_errno())})"
    return ""
