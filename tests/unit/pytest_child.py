"""pytest, ``mcdo`` and Python as processes of their own, forked from where everything is imported."""

from __future__ import annotations

import os
import signal
import sys
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from runpy import run_path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import IO, Any

import execnet.gateway_io
import pytest
import torch
from execnet.gateway_io import Popen2IOMaster
from forked import begin

from mcdo.cli import main
from mcdo.registration import Table

ROOT = Path(__file__).resolve().parents[2]


@cache
def plugin() -> tuple[str, ...]:
    """What pytest must be told to find mcdo's plug-in: nothing where its entry point is installed."""
    points = entry_points(group="pytest11")
    return () if any(each.value == "mcdo.pytest_entry" for each in points) else ("-p", "mcdo.pytest_entry")


def run_pytest(*arguments: str, cwd: Path = ROOT) -> CompletedProcess[str]:
    """``pytest arguments``."""
    # Assertions stay plain: what was imported before the fork cannot be rewritten, and pytest would complain of that.
    less = ("-p", "no:cacheprovider", "-p", "no:anyio", "--assert=plain", "--store=none")
    timed = any(argument.startswith("--benchmark") for argument in arguments)
    return _run(_pytest, *less, *(() if timed else ("-p", "no:benchmark")), *arguments, cwd=cwd)


def run_mcdo(*arguments: str, cwd: Path = ROOT) -> CompletedProcess[str]:
    """``mcdo arguments``, with nothing to read."""
    return _run(_mcdo, *arguments, cwd=cwd)


def run_python(code: str, *arguments: str, cwd: Path) -> CompletedProcess[str]:
    """``python -c code arguments``, where packages in ``cwd`` are found as if they were installed."""
    return _run(_python, code, *arguments, cwd=cwd)


def tables() -> list[Table[Any]]:
    """All tables of what is known by name."""
    ours = [vars(module) for name, module in sys.modules.items() if name.startswith("mcdo.")]
    return [each for held in ours for each in held.values() if isinstance(each, Table)]


def collected(*arguments: str) -> set[str]:
    """Ids of the tests that ``pytest arguments`` would run."""
    return {line for line in run_pytest("--collect-only", "-q", *arguments).stdout.splitlines() if "::" in line}


def _run(what: Callable[..., None], *arguments: str, cwd: Path) -> CompletedProcess[str]:
    with TemporaryDirectory() as folder:
        said = Path(folder) / "said.txt"
        process = begin(what, arguments, cwd, said)
        process.join(timeout=300)
        if process.exitcode is None:
            process.kill()  # or the end of this process waits for it
            pytest.fail(f"still running: {' '.join(arguments)}")
        return CompletedProcess(arguments, process.exitcode, stdout=said.read_text(encoding="utf-8"))


def _pytest(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    _as_a_process(("pytest", *arguments), cwd, said)
    if "-n" in arguments:
        many = int(arguments[arguments.index("-n") + 1]) + 1  # one may die
        Worker.waiting = iter([_worker() for _ in range(many)])
        execnet.gateway_io.Popen2IOMaster = Worker  # type: ignore[assignment,misc]
    sys.exit(int(pytest.main(list(arguments))))


def _worker() -> tuple[int, IO[bytes], IO[bytes]]:
    """A process that waits for what xdist sends a worker, which would import everything anew: its id, input and output.

    It is forked before execnet starts its threads.
    """
    (inside, to_it), (from_it, outside) = os.pipe(), os.pipe()
    process = os.fork()
    if process:
        os.close(inside)
        os.close(outside)
        return process, os.fdopen(to_it, "wb"), os.fdopen(from_it, "rb")
    torch.set_num_threads(torch.get_num_threads())  # as in forked.py
    os.dup2(inside, 0)
    os.dup2(outside, 1)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w")
    exec(literal_eval(sys.stdin.readline() or "''"))  # noqa: S102 (as any worker of execnet begins)
    os._exit(0)


class Worker(Popen2IOMaster):
    """In place of a process that execnet starts."""

    waiting: Iterator[tuple[int, IO[bytes], IO[bytes]]]

    def __init__(self, _: object, execmodel: Any) -> None:
        self.process, to_it, from_it = next(self.waiting)
        super(Popen2IOMaster, self).__init__(to_it, from_it, execmodel)

    def wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.process, 0)

    def kill(self) -> None:
        os.kill(self.process, signal.SIGKILL)


def _mcdo(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    _as_a_process(("mcdo", *arguments), cwd, said)
    sys.exit(main(list(arguments)))


def _python(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    code, *others = arguments
    _as_a_process(("-c", *others), cwd, said)
    sys.path.insert(0, str(cwd))
    for table in tables():
        vars(table).pop("_points", None)  # packages that were installed when the server looked
    script = said.with_name("code.py")
    script.write_text(code, encoding="utf-8")
    run_path(str(script), run_name="__main__")


def _as_a_process(arguments: tuple[str, ...], cwd: Path, said: Path) -> None:
    with said.open("wb") as file:  # both streams: what is said is looked for in either
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    sys.argv = [*arguments]
