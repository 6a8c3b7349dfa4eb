from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest

from mcdo.encoders import load_encoder
from mcdo.estimators import monte_carlo
from mcdo.estimators.progress import PLAIN_EVERY_S, Progress
from mcdo.images import load_images
from mcdo.perturbation import Dropout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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
        "clip on digits: 20% at 100 passes/s, 80 s left",
        "clip on digits: 40% at 100 passes/s, 60 s left",
        "clip on digits: 60% at 100 passes/s, 40 s left",
        "clip on digits: 80% at 100 passes/s, 20 s left",
        "clip on digits: 100% at 100 passes/s, 0 s left",
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
    encoder, images = load_encoder("clip_tiny", weights="random"), load_images("digits", n=5)
    monte_carlo(encoder, images, Dropout(0.1), (4, 20), 3, batch_size=32)
    assert sum(seen) == 5 * 20 * 3
    assert "clip_tiny on digits: 100% at" in capsys.readouterr().err
    monte_carlo(encoder, images, Dropout(0.1), (4, 20), 3, progress=False)
    assert capsys.readouterr() == ("", "")
