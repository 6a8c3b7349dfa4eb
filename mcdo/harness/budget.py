"""Sizes that fit a time: images are the first to be fewer, then trials, and passes last.

Reliability rests on passes, and its interval on originals, of which a verdict needs a hundred; so images shrink to that
many, then trials to three, and only then the largest T, whose smaller ones stay. Passes that the store holds already
are counted as if they were not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mcdo.errors import McdoError
from mcdo.harness.decision import LEAST_ORIGINS
from mcdo.harness.experiment import Experiment, Subject, View
from mcdo.harness.remaining import duration
from mcdo.harness.requests import Request, merged
from mcdo.harness.session import Session
from mcdo.harness.settings import Sizes

IMAGES = (10_000, 5000, 2000, 1000, 700, 500, 400, 300, 250, 200, 150, 120, LEAST_ORIGINS)
TRIALS = (10, 7, 5, 4, 3)
PASSES = (512, 256, 128, 64, 32, 16)
_UNITS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """Seconds of a duration such as ``90s``, ``30min`` or ``2h``.

    Raises:
        McdoError: for anything else.

    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS.get(text[len(number) :])
    if unit is None or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise McdoError(f"{text!r} is no time: say 90s, 30min or 2h")
    return float(int(number) * unit)


def candidates() -> Iterator[Sizes]:
    """From the protocol's own sizes to the smallest."""
    yield Sizes()
    for n in IMAGES:
        yield Sizes(num_images=n, at_most=True)
    for k in TRIALS:
        yield Sizes(num_images=IMAGES[-1], trials=k, at_most=True)
    for t in PASSES:
        yield Sizes(num_images=IMAGES[-1], passes=(t,), trials=TRIALS[-1], at_most=True)


def set_sizes(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], seconds: float) -> float:
    """Give the session the largest sizes under which what is asked takes at most ``seconds`` of passes.

    Returns:
        About how many it takes.

    Raises:
        McdoError: where the smallest take longer.

    """
    settings, takes = session.settings, 0.0
    for sizes in candidates():
        session.settings = replace(settings, sizes=sizes)
        takes = _seconds(session, asked)
        if takes <= seconds:
            return takes
    session.settings = settings
    raise McdoError(
        f"the smallest sizes ({sizes}) take about {duration(takes)} of passes; give more than {duration(seconds)}, "
        "fewer tests (-k) or models, or a smaller encoder"
    )


def _seconds(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]]) -> float:
    plan: list[Request[Any]] = []
    for experiment, subject in asked:
        with suppress(McdoError):  # which running it will say
            configured = type(experiment).configured(session.settings)
            plan = merged(configured.requests(View(session, subject)), plan)
    timed = [request for request in plan if request.model]
    return sum(request.expected_passes(session) * session.remaining.rate(request.model) for request in timed)
