"""How much of a plan is left, in passes and, by the rates that were seen, in time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from mcdo.encoders import Encoder, TextTower
from mcdo.estimators.progress import PLAIN_EVERY_S, Progress, SoFar
from mcdo.estimators.rows import pixel_rows
from mcdo.names import say
from mcdo.perturbation import deterministic_features
from mcdo.threads import one_thread

FIGURE_EVERY_S = 10.0
LEAST_SHOWN, MOST_SHOWN = 20, 500
"""Origins from which on a running figure is said, and the most images, the last, that it is taken over."""

if TYPE_CHECKING:
    from mcdo.harness.requests import Request
    from mcdo.harness.session import Session


class Remaining:
    """What is left of a session's plan.

    The time is an upper bound as far as measurements may still be found in the store, and about right otherwise: a
    model that no pass was timed of is taken to be as fast as the one at work.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._seconds: dict[str, float] = {}
        """Of a pass, by model."""

    def progress(self, request: Request[Any], others: Sequence[Request[Any]], place: str) -> _ProgressOf:
        """What makes the progress of ``request`` when it is measured.

        Args:
            request: the planned one.
            others: planned ones that have no value yet.
            place: in the plan, such as "measurement 3 of 11".

        """
        return _ProgressOf(self, request, others, place)

    def expected(self, requests: Sequence[Request[Any]], at_work: str) -> float:
        """Seconds for ``requests`` while ``at_work`` is measured."""
        return sum(
            request.expected_passes(self._session) * self._seconds.get(request.model, self._seconds[at_work])
            for request in requests
        )

    def rate(self, model: str) -> float:
        """Seconds of a pass of one image, timed on a few at the first question."""
        if model not in self._seconds:
            encoder = self._session.encoder(model)
            self._seconds[model] = seconds_per_pass(encoder, self._session.settings.batch_size)
        return self._seconds[model]

    def announce(self, request: Request[Any], others: Sequence[Request[Any]]) -> None:
        """Time a few passes of a model before its first, and say what is expected where that is long."""
        if request.model in self._seconds:
            return
        self.rate(request.model)
        mine = [each for each in (request, *others) if each.model == request.model]
        passes, seconds = sum(each.expected_passes(self._session) for each in mine), self.expected(mine, request.model)
        if seconds >= PLAIN_EVERY_S:
            count = f"{len(mine)} measurement" + ("s" if len(mine) > 1 else "")
            say(f"{request.model}: {count}, at most {passes:,} passes, about {duration(seconds)}", sys.stderr)

    def saw(self, model: str, passes: int, seconds: float) -> None:
        """Remember how long passes of a model take."""
        if passes > 0 and seconds > 0:
            self._seconds[model] = seconds / passes


class _ProgressOf:
    """Makes the progress of one request."""

    def __init__(self, remaining: Remaining, request: Request[Any], others: Sequence[Request[Any]], place: str) -> None:
        self._remaining, self._request, self._others, self._place = remaining, request, others, place

    def __call__(self, total: int, what: str, unit: str = "passes") -> Progress:
        self._remaining.announce(self._request, self._others)
        began = time.monotonic()
        model, running = self._request.model, _Running()

        def beside(done: int) -> str:
            taken = time.monotonic() - began
            if unit == "passes":
                self._remaining.saw(model, done, taken)
            mine = taken * (total - done) / done if done > 0 else self._remaining.expected([self._request], model)
            left = mine + self._remaining.expected(self._others, model)
            plan = f"{self._place}, about {duration(left)} left in all"
            return ", ".join(part for part in (plan, running(bar.measured), memory()) if part)

        bar = Progress(total, what, unit, beside=beside)
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
    try:
        import resource
    except ImportError:  # Windows
        return ""
    unit = 1 if sys.platform == "darwin" else 1024  # of the system's figure, in bytes
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GB"


def seconds_per_pass(encoder: Encoder, batch_size: int | None) -> float:
    """Of one image, as the pass loop will carry it out: timed on one forward pass, after another."""
    rows = 64 if isinstance(encoder, TextTower) else max(1, pixel_rows(encoder, batch_size) // 16)
    inputs = encoder.calibration_inputs(rows)
    workers = torch.get_num_threads() if encoder.device.type == "cpu" else 1
    with one_thread():
        for _ in range(2):
            began = time.monotonic()
            deterministic_features(encoder, inputs).cpu()
            taken = time.monotonic() - began
    return taken / len(inputs) / workers


def duration(seconds: float) -> str:
    """``40 s``, ``14 min`` or ``2 h 5 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
