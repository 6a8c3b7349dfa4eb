from __future__ import annotations

import io
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from mcdo.harness import Request, Session
from mcdo.harness import remaining as module
from mcdo.harness.remaining import Remaining, Timing, duration, seconds_per_pass, timing
from mcdo.report.results import read_rates
from mcdo.stats import reliability
from mcdo.threads import StoppedError


@dataclass(frozen=True)
class Taking(Request[None]):
    """A request of so many passes."""

    count: int

    def measure(self, session: Session) -> None:
        return None

    def expected_passes(self, session: Session) -> int:
        return self.count


@pytest.fixture
def remaining(monkeypatch: pytest.MonkeyPatch) -> Remaining:
    """On a machine where every model takes 10 ms for a pass."""
    monkeypatch.setattr(module, "timing", lambda *_: Timing(0.01, 0))
    session = SimpleNamespace(encoder=lambda model: None, settings=SimpleNamespace(batch_size=None), loads={"a": 1})
    return Remaining(cast("Session", session))


def test_a_long_plan_is_announced_before_the_first_pass_of_each_model(
    remaining: Remaining, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, other = Taking("a", 100_000), Taking("a", 80_000), Taking("b", 100)
    remaining.announce(first, lambda: ([second, other], ""))
    assert capsys.readouterr().err == "a: 2 measurements, at most 180,000 passes, about 30 min\n"
    remaining.announce(second, lambda: ([other], ""))  # said already
    remaining.announce(other, lambda: ([], ""))  # a second is not worth a line
    assert capsys.readouterr().err == ""


def test_what_follows_from_an_encoder_is_left_too_where_it_is_loaded(
    remaining: Remaining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Taking, "passes_beside", lambda self, session: 400)
    monkeypatch.setattr(module, "memory", lambda: "")
    others = [Taking("a", 1000), Taking("b", 1000)]
    bar = remaining.progress(Taking("a", 1600), lambda: (others, "measurement 1 of 3"))(2000, "a on digits")
    assert bar._beside(0) == "measurement 1 of 3, about 44 s left in all"  # (2000 + 1400 + 1000) passes of 10 ms


class Terminal(io.StringIO):
    """One that says nothing of its width."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_plan_before_the_first_pass(remaining: Remaining, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("COLUMNS", raising=False)
    with remaining.progress(Taking("a", 1000), lambda: ([], "measurement 1 of 1"))(1000, "a on digits") as bar:
        assert "measurement 1 of 1, about 10 s left in all" in terminal.getvalue()
        bar.update(10)
    assert "a on digits" in terminal.getvalue()


@dataclass(frozen=True)
class OfImages(Taking):
    """One whose passes are over images."""

    passes_of_images: bool = True


def test_what_passes_of_images_took_is_written_for_the_page(
    remaining: Remaining, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(remaining._session.settings, "device", "cpu", raising=False)
    for request, unit in ((OfImages("a", 900), "passes"), (OfImages("a", 5), "products"), (Taking("a", 7), "passes")):
        with remaining.progress(request, lambda: ([], ""))(request.count, "a on digits", unit) as bar:
            bar.update(request.count + 10)
            bar.update(-10)  # what was done again
            now += 4.5
    stopped = remaining.progress(OfImages("a", 900), lambda: ([], ""))(900, "a on digits")
    with suppress(KeyboardInterrupt), stopped as bar:
        bar.update(100)
        now += 0.5
        raise KeyboardInterrupt
    with remaining.progress(OfImages("b", 9), lambda: ([], ""))(9, "b on digits") as bar:
        bar.update(9)
    remaining.write_rates(tmp_path)
    (rate,) = read_rates(tmp_path)  # those of b took no second
    assert (rate.model, rate.passes, rate.ms) == ("a", 1000, 5.0)


def test_what_is_left_follows_from_the_rates_that_were_seen(
    remaining: Remaining, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(module, "memory", lambda: "")
    monkeypatch.setattr(time, "monotonic", lambda: now)
    request, others = Taking("a", 1000), [Taking("a", 6000), Taking("b", 12_000)]
    bar = remaining.progress(request, lambda: (others, "measurement 3 of 11"))(1000, "a on digits")
    assert bar._beside(0) == "measurement 3 of 11, about 3 min left in all"  # 19 000 passes at 10 ms
    now += 50
    # 50 ms a pass for the 6 000 of the model at work, and for the other, of which none was timed
    assert bar._beside(1000) == "measurement 3 of 11, about 15 min left in all"
    remaining.saw("b", 100, 0.1)
    assert bar._beside(1000) == "measurement 3 of 11, about 5 min left in all"
    assert bar._beside(500) == "measurement 3 of 11, about 11 min left in all"  # 50 + 600 + 12 s


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (840, "14 min"), (7500, "2 h 5 min")]
)
def test_a_duration_is_rounded_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


class Clocked:
    """An encoder of which the first pass takes ``cold`` seconds beside ``each`` for every image."""

    resolution, device = 32, torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float, cold: float = 0.0) -> None:
        self.now, self.each, self.cold, self.seen = 1000.0, each, cold, list[int]()
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "deterministic_features", self.carry_out)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def calibration_inputs(self, n: int) -> torch.Tensor:
        return torch.zeros(n, 3, 1, 1)

    def carry_out(self, _: object, inputs: torch.Tensor) -> torch.Tensor:
        self.now += self.each * len(inputs) + (0.0 if self.seen else self.cold)
        self.seen.append(len(inputs))
        carried: torch.Tensor = torch.nn.Identity()(inputs)
        return carried


def test_a_pass_is_timed_on_the_threads_that_the_pass_loop_has(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = Clocked(monkeypatch, 0.1, cold=99.0)
    assert seconds_per_pass(encoder, None) == pytest.approx(0.05)  # 6.4 s for 64 rows, two blocks at once
    assert encoder.seen == [1, 1, 64]


@pytest.mark.parametrize(("each", "cold", "seen"), [(0.1, 1.0, [1, 1, 64]), (0.5, 1.0, [1, 1, 12]), (5.0, 0.0, [1])])
def test_timing_a_pass_is_over_within_its_time(
    each: float, cold: float, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder: Any = Clocked(monkeypatch, each, cold)
    assert timing(encoder, None, 8.0).seconds == pytest.approx(each / 2)
    assert encoder.seen == seen
    assert encoder.now <= 1008.0


def test_a_pass_that_is_not_over_in_time_is_stopped_between_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = Clocked(monkeypatch, 9.0)
    with pytest.raises(StoppedError):
        timing(encoder, None, 8.0)
    torch.nn.Identity()(torch.zeros(1))  # nobody is stopped from now on


def test_memory_of_a_pass_is_what_it_holds_at_its_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(_: object, inputs: torch.Tensor) -> torch.Tensor:
        fresh = mmap(-1, len(inputs) * 2**23)  # 8 MB for each image, which no allocator has lying about
        held = torch.frombuffer(fresh, dtype=torch.uint8).fill_(1)
        time.sleep(0.1)
        return held[: len(inputs), None].float()

    monkeypatch.setattr(module, "deterministic_features", carry_out)
    encoder: Any = SimpleNamespace(
        resolution=224, device=torch.device("cpu"), calibration_inputs=lambda n: torch.zeros(n, 3, 1, 1)
    )
    if module.PeakMemory.now() == 0:
        pytest.skip("this system does not say what a process holds")
    assert timing(encoder, 256).memory == pytest.approx(2**23, rel=0.3)


def test_the_running_figure_is_that_of_the_images_that_are_done(
    remaining: Remaining, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rng = np.random.default_rng(0)
    true = rng.standard_normal(100)
    scores = true + 0.3 * rng.standard_normal((4, 100))
    origins = [f"digit{i // 2}" for i in range(100)]
    bar = remaining.progress(Taking("a", 1000), lambda: ([], "measurement 1 of 1"))(1000, "a on digits")
    done = 30
    bar.measured = lambda: (scores[:, :done], origins[:done])
    now += 20
    assert "ρ" not in bar._beside(300), "15 originals are too few"
    done = 100
    said = bar._beside(900)
    assert str(reliability(scores, origins=origins, shared_noise=False, resamples=200).estimate("spearman")) in said
    assert "n=50 so far" in said
    assert said.endswith(" GB")
