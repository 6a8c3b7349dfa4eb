"""How much of a plan is left, in passes and, by the rates that were seen, in time."""

from __future__ import annotations

import math
import mmap
import platform
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from mcdo.encoders import Encoder, TextTower
from mcdo.errors import McdoError
from mcdo.estimators.progress import PLAIN_EVERY_S, Progress, SoFar
from mcdo.estimators.rows import pixel_rows
from mcdo.names import file_name, say
from mcdo.perturbation import deterministic_features
from mcdo.report.files import write_json
from mcdo.report.made import made
from mcdo.report.results import RATES
from mcdo.threads import StoppedError, one_thread

TIMING_S = 8.0
"""Seconds that timing a pass of a model may take."""
LEAST_TIMED_S = 1.0
"""Seconds of passes below which their rate is not worth a line."""
SITES_PASSES = 12
"""Passes of one image, at most, in which the sites of a tower are found."""
SITES_S = 30.0
"""Seconds above which these are not carried out for the sake of an estimate."""
FIGURE_EVERY_S = 10.0
LEAST_SHOWN, MOST_SHOWN = 20, 500
"""Origins from which on a running figure is said, and the most images, the last, that it is taken over."""

if TYPE_CHECKING:
    from mcdo.harness.requests import Request
    from mcdo.harness.session import Session

    Left = Callable[[], tuple[Sequence[Request[Any]], str]]
    """Planned requests that have no value yet with what will follow from them, and the place in the plan of the one at
    work, such as "measurement 3 of 11"."""


class Remaining:
    """What is left of a session's plan.

    The time is an upper bound as far as measurements may still be found in the store, and about right otherwise: a
    model that no pass was timed of is taken to be as fast as the one at work.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seconds: dict[str, float] = {}
        """Of a pass, by model."""
        self._bytes: dict[str, int] = {}
        """Of a row of a forward pass, by model."""
        self.taken: dict[str, Taken] = {}
        """Passes over images that this session carried out, by model."""
        self.slow: set[str] = set()
        """Models of which no pass was over within :attr:`timing_s`, which then stands for its time."""
        self.timing_s = TIMING_S
        """Seconds that timing a pass of one model may take."""

    def progress(self, request: Request[Any], left: Left) -> _ProgressOf:
        """What makes the progress of ``request``, the planned one, when it is measured."""
        return _ProgressOf(self, request, left)

    def expected(self, requests: Sequence[Request[Any]], at_work: str) -> float:
        """Seconds for ``requests`` while ``at_work`` is measured."""
        return sum(
            self.passes(request) * self._seconds.get(request.model, self._seconds[at_work]) for request in requests
        )

    def passes(self, request: Request[Any]) -> int:
        """About how many passes of one image a request takes, those that follow from its encoder among them."""
        return request.expected_passes(self._session) + self.passes_beside(request)

    def passes_beside(self, request: Request[Any]) -> int:
        """Those that follow from the encoder; 0 of one that is not loaded, or too slow to be looked at for this."""
        model = request.model
        looked = self._seconds.get(model, 0.0) * torch.get_num_threads() * SITES_PASSES
        if model not in self._session.loads or looked > SITES_S:
            return 0
        try:
            return request.passes_beside(self._session)
        except McdoError:  # measuring will say it
            return 0

    def rate(self, model: str) -> float:
        """Seconds of a pass of one image, timed on a few at the first question, for :attr:`timing_s` at most."""
        if model not in self._seconds:
            encoder, rows = self._session.encoder(model), self._session.settings.batch_size
            try:
                timed = timing(encoder, rows, self.timing_s)
            except StoppedError:
                timed = Timing(self.timing_s, 0)
                self.slow.add(model)
            self._seconds[model], self._bytes[model] = timed.seconds, timed.memory
        return self._seconds[model]

    def bytes_at_once(self, model: str) -> int:
        """Memory of forward passes beside the weights, as the pass loop carries them out; by the timed one."""
        self.rate(model)
        encoder = self._session.encoder(model)
        if encoder.device.type != "cpu":
            return 0  # rows are fitted into that of the device
        rows = pixel_rows(encoder, self._session.settings.batch_size)
        return self._bytes.get(model, 0) * rows * torch.get_num_threads()

    def announce(self, request: Request[Any], left: Left) -> None:
        """Time a few passes of a model before its first, and say what is expected where that is long."""
        if request.model in self._seconds:
            return
        self.rate(request.model)
        mine = [each for each in (request, *left()[0]) if each.model == request.model]
        passes, seconds = sum(map(self.passes, mine)), self.expected(mine, request.model)
        if seconds >= PLAIN_EVERY_S:
            count = f"{len(mine)} measurement" + ("s" if len(mine) > 1 else "")
            say(f"{request.model}: {count}, at most {passes:,} passes, about {duration(seconds)}", sys.stderr)

    def saw(self, model: str, passes: int, seconds: float) -> None:
        """Remember how long passes of a model take."""
        if passes > 0 and seconds > 0:
            self._seconds[model] = seconds / passes

    def took(self, model: str, passes: int, seconds: float) -> None:
        """Add to what passes of a model took."""
        before = self.taken.get(model, Taken(0, 0.0))
        self.taken[model] = Taken(before.passes + max(0, passes), before.seconds + seconds)

    def write_rates(self, reports: Path) -> None:
        """Write how fast each model's passes were, where enough of them were carried out to say so."""
        settings = self._session.settings
        for model, taken in self.taken.items():
            if taken.seconds >= LEAST_TIMED_S and taken.passes:
                how = {"device": settings.device, "threads": torch.get_num_threads(), "machine": platform.machine()}
                facts = {"model": model, "passes": taken.passes, "seconds": taken.seconds, **how, "made": made()}
                write_json(reports / RATES / f"{file_name(model)}.json", facts)


class _ProgressOf:
    """Makes the progress of one request."""

    def __init__(self, remaining: Remaining, request: Request[Any], left: Left) -> None:
        self._remaining, self._request, self._left = remaining, request, left

    def __call__(self, total: int, what: str, unit: str = "passes") -> Progress:
        self._remaining.announce(self._request, self._left)
        began = time.monotonic()
        model, running = self._request.model, _Running()

        def beside(done: int) -> str:
            taken = time.monotonic() - began
            if unit == "passes":
                self._remaining.saw(model, done, taken)
            mine = taken * (total - done) / done if done > 0 else self._remaining.expected([self._request], model)
            others, place = self._left()
            plan = f"{place}, about {duration(mine + self._remaining.expected(others, model))} left in all"
            return ", ".join(part for part in (plan, running(bar.measured), memory()) if part)

        bar = Progress(total, what, unit, beside=beside)
        if self._request.passes_of_images and unit == "passes":
            bar.ended = partial(self._remaining.took, model)
        return bar


class _Running:
    """Where the reliability of the images that are done stands, looked at now and then; no decision rests on it."""

    def __init__(self) -> None:
        self._at, self._said = time.monotonic(), ""

    def __call__(self, measured: Callable[[], SoFar | None]) -> str:
        now = time.monotonic()
        if now - self._at >= FIGURE_EVERY_S and (found := measured()) is not None:
            from mcdo.stats import reliability

            scores, origins = found[0][:, -MOST_SHOWN:], found[1][-MOST_SHOWN:]
            if len(scores) > 1 and len(set(origins)) >= LEAST_SHOWN:
                self._at = now
                estimate = reliability(scores, origins=origins, shared_noise=False, resamples=200).estimate("spearman")
                self._said = f"ρ(trace_pre) {estimate} so far"
        return self._said


def memory() -> str:
    """The most that this process has held, in GB; "" where the system does not say."""
    held = most_held()
    return f"{held / 2**30:.1f} GB" if held else ""


def most_held() -> int:
    """Bytes that this process holds at its peak so far; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class PeakMemory:
    """While it lasts, how much more memory this process came to hold, looked at a few hundred times a second.

    Attributes:
        grown: bytes; 0 where the system does not say.

    """

    def __init__(self) -> None:
        self.grown, self._over = 0, threading.Event()
        self._watch = threading.Thread(target=self._look, args=(self.now(),), daemon=True)

    def __enter__(self) -> PeakMemory:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self, before: int) -> None:
        while not self._over.wait(0.003):
            self.grown = max(self.grown, self.now() - before)

    @staticmethod
    def now() -> int:
        """Bytes that this process holds."""
        try:
            return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * mmap.PAGESIZE
        except (OSError, ValueError, IndexError):
            return 0


@dataclass(frozen=True)
class Taken:
    """Passes over images, and the seconds that they took, whatever else the machine did."""

    passes: int
    seconds: float


@dataclass(frozen=True)
class Timing:
    """Of a pass of one image: seconds, and bytes beside the weights while it is carried out."""

    seconds: float
    memory: int


def seconds_per_pass(encoder: Encoder, batch_size: int | None) -> float:
    """Of one image, as the pass loop will carry it out."""
    return timing(encoder, batch_size).seconds


def timing(encoder: Encoder, batch_size: int | None, at_most: float = math.inf) -> Timing:
    """A forward pass as the pass loop will carry it out, after two of one image.

    Args:
        encoder: the encoder.
        batch_size: rows of the pass loop, or None.
        at_most: seconds; of what takes longer fewer images are timed, or the first alone.

    Raises:
        StoppedError: where that one is not over by then.

    """
    whole = pixel_rows(encoder, batch_size)
    rows = 64 if isinstance(encoder, TextTower) else max(whole // 16, min(whole, 4))
    inputs, until = encoder.calibration_inputs(rows), time.monotonic() + at_most
    workers = torch.get_num_threads() if encoder.device.type == "cpu" else 1

    def seconds_of(shown: Any) -> float:
        began = time.monotonic()
        deterministic_features(encoder, shown).cpu()
        return time.monotonic() - began

    def check(*_: object) -> None:
        if time.monotonic() > until:
            raise StoppedError

    with one_thread(), PeakMemory() as peak:
        with register_module_forward_pre_hook(check) if math.isfinite(at_most) else nullcontext():
            taken = seconds_of(inputs[:1])
        fit = 1
        if taken < at_most / 4:
            taken = seconds_of(inputs[:1])  # without what is set up once
            left = until - time.monotonic()
            fit = rows if math.isinf(left) else max(1, min(rows, int(left / max(taken, 1e-9))))
            taken = seconds_of(inputs[:fit]) / fit
    return Timing(taken / workers, peak.grown // fit)


def duration(seconds: float) -> str:
    """``40 s``, ``14 min`` or ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
