from __future__ import annotations

import fcntl
import io
import os
import re
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from looked_at import looked_at
from tiny_tower import tiny_encoder

from mcdo.estimators import monte_carlo
from mcdo.estimators.progress import PLAIN_EVERY_S, Progress
from mcdo.images import load_images
from mcdo.perturbation import Dropout, PerturbedTower


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def nothing_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for since in ("_said", "_busy"):
        monkeypatch.setattr(Progress, since, -PLAIN_EVERY_S)


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = 100.0

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    return forward


def test_off_a_terminal_a_plain_line_now_and_then(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with Progress(10_000, "clip on digits", stream=stream) as bar:
        for _ in range(10):
            wait(10)
            bar.update(1000)
    assert stream.getvalue().splitlines() == [
        "clip on digits: 30% at 100 passes/s, 70 s left",
        "clip on digits: 60% at 100 passes/s, 40 s left",
        "clip on digits: 90% at 100 passes/s, 10 s left",
    ]


def test_off_a_terminal_short_runs_print_nothing(wait: Callable[[float], None]) -> None:
    stream = io.StringIO()
    with Progress(10, "x", stream=stream) as bar:
        wait(PLAIN_EVERY_S - 0.1)
        bar.update(10)
    assert stream.getvalue() == ""


def test_on_a_terminal_a_bar_with_rate() -> None:
    stream = Terminal()
    with Progress(2000, "clip on digits", stream=stream) as bar:
        bar.update(500)
        assert bar._bar is not None
        bar._bar.refresh()
    shown = stream.getvalue()
    assert "clip on digits" in shown
    assert "passes/s" in shown
    assert "500/2.00k" in shown


@pytest.mark.parametrize(("lines", "columns"), [(0, 0), (0, 80), (24, 0), (24, 80)])
def test_a_terminal_of_unknown_size_shows_every_batch(
    monkeypatch: pytest.MonkeyPatch, lines: int, columns: int
) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    control, terminal = os.openpty()
    fcntl.ioctl(control, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.set_blocking(control, False)
    with os.fdopen(terminal, "w", encoding="utf-8") as stream:
        bar = Progress(2000, "clip on digits", stream=stream)
        assert bar._bar is not None
        bar._bar.mininterval = bar._bar.miniters = 0  # tqdm shows ten states a second at most
        for _ in range(3):
            bar.update(500)
        stream.flush()
        shown, patience = "", time.monotonic() + 10
        while "75%" not in shown and time.monotonic() < patience:  # a pseudo-terminal passes on piece by piece
            with suppress(BlockingIOError):
                shown += os.read(control, 10_000).decode(errors="replace")
        bar.__exit__(None, None, None)
    os.close(control)
    assert all(f"{share}%" in shown for share in (0, 25, 50, 75)), shown
    assert "passes/s" in shown
    assert max(map(len, re.split(r"[\r\n]", shown))) <= 80


def test_a_measurement_counts_every_pass_once_and_is_silent_when_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wait: Callable[[float], None]
) -> None:
    seen: list[int] = []
    plain = Progress.update

    def update(self: Progress, passes: int) -> None:
        seen.append(passes)
        wait(60)
        plain(self, passes)

    monkeypatch.setattr(Progress, "update", update)
    encoder, images = looked_at(tiny_encoder()), load_images("digits", n=5)
    monte_carlo(encoder, images, Dropout(0.1), (4, 20), 3, batch_size=32)
    assert sum(seen) == 5 * 20 * 3
    assert max(seen) == 32  # each forward pass for itself, not a block of images with all their trials
    assert "tiny on digits: 100% at" in capsys.readouterr().err
    monte_carlo(encoder, images, Dropout(0.1), (4, 20), 3, progress=False)
    assert capsys.readouterr() == ("", "")


def test_what_is_done_again_for_lack_of_memory_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(Progress, "update", lambda self, passes: seen.append(passes))
    plain = PerturbedTower.__call__

    def short_of_memory(self: PerturbedTower, *where: Any) -> Any:
        if len(where[0]) > 1 and where[2] == 2:  # in the third trial, when two were counted
            raise MemoryError
        return plain(self, *where)

    monkeypatch.setattr(PerturbedTower, "__call__", short_of_memory)
    encoder, images = looked_at(tiny_encoder()), load_images("digits", n=5)
    monte_carlo(encoder, images, Dropout(0.1), 20, 3, batch_size=64)
    assert sum(seen) == 5 * 20 * 3
    assert min(seen) < 0


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_a_measurement_within_a_batch_and_says_how_far_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ticks: list[float] = []
    plain = Progress.update

    def update(self: Progress, passes: int) -> None:
        plain(self, passes)
        ticks.append(passes)
        if len(ticks) == 10:  # as a terminal does, which tells the main thread
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

    monkeypatch.setattr(Progress, "update", update)
    encoder, images = looked_at(tiny_encoder()), load_images("digits", n=8)
    with pytest.raises(KeyboardInterrupt):
        monte_carlo(encoder, images, Dropout(0.1), 16_000, 10, batch_size=64)
    assert len(ticks) < 200  # where the two blocks that had begun would take 10 000
    assert "tiny on digits: interrupted at 0." in capsys.readouterr().err


def test_many_short_measurements_say_a_line_as_often_as_a_long_one(wait: Callable[[float], None]) -> None:
    stream, said = io.StringIO(), []
    wait(2 * PLAIN_EVERY_S)  # since anything was measured
    for number in range(8):
        with Progress(10, f"set {number}", stream=stream) as bar:
            wait(10)
            bar.update(10)
        said.append(stream.getvalue().count("\n"))
    assert said == [0, 0, 1, 1, 1, 2, 2, 2]
    wait(2 * PLAIN_EVERY_S)  # of something else
    with Progress(10, "another", stream=stream) as bar:
        wait(1)
        bar.update(10)
    assert stream.getvalue().count("\n") == said[-1]
