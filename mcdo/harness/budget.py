"""Sizes that fit a time, chosen by the planner: those with which most is decided.

A pass is timed, and every N·K·T whose passes fit the time is a candidate. The planner says with which probability each
decides what the verdict rests on, whether a score is usable (:func:`mcdo.stats.planning.chance_judged`): from a pilot
in the store, or, where there is none, from reliabilities that are all as likely
(:data:`mcdo.stats.planning.UNKNOWN`). Of sizes that decide as much, those with the most images are taken, which every
other claim rests on. Passes that the store holds already are counted as if they were not there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mcdo.errors import McdoError
from mcdo.harness.decision import LEAST_ORIGINS
from mcdo.harness.experiment import Experiment, Subject, View
from mcdo.harness.remaining import duration
from mcdo.harness.requests import Passes, Request, merged
from mcdo.harness.session import Session
from mcdo.harness.settings import Sizes
from mcdo.report.judgement import ALPHA
from mcdo.stats.planning import UNKNOWN, Forecast, Size, chance_judged

IMAGES = (None, 5000, 2000, 1000, 700, 500, 400, 300, 250, 200, 150, 120, LEAST_ORIGINS)
TRIALS = (10, 7, 5, 4, 3)
PASSES = (512, 256, 128, 64, 32, 16)
AS_MUCH = 0.01
"""Probabilities that lie no further apart count as equal."""
_UNITS = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True)
class Chosen:
    """What a time was given to.

    Attributes:
        seconds: of passes that it takes, about.
        chance: with which it is decided whether a score is usable, over the scores; None where nothing asks that.
        pilots: models that a pilot in the store speaks for.

    """

    seconds: float
    chance: float | None
    pilots: tuple[str, ...] = ()


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


def set_sizes(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], seconds: float) -> Chosen:
    """Give the session the sizes with which most is decided in at most ``seconds`` of passes.

    Raises:
        McdoError: where the smallest take longer.

    """
    settings = session.settings
    published = _judged(session, asked, Sizes())
    top = max((size.passes for sizes in published.values() for size in sizes), default=0)
    beside = _beside(session, asked)
    fitting = _fitting(session, asked, seconds - beside)
    if not fitting:
        smallest = Sizes(IMAGES[-1], (PASSES[-1],), TRIALS[-1], at_most=True)
        takes = _seconds(session, asked, smallest) + beside
        raise McdoError(
            f"the smallest sizes ({smallest}) take about {duration(takes)} of passes; give more than "
            f"{duration(seconds)}, fewer tests (-k) or models, or a smaller encoder"
        )
    forecasts = _forecasts(session)
    alpha = ALPHA / (1 + max(1, sum(map(len, forecasts.values()))))

    def chance(sizes: Sizes) -> float | None:
        chances = [
            max(chance_judged(forecast, size, alpha, last=size.passes >= top) for size in runs)
            for model, runs in _judged(session, asked, sizes).items()
            for forecast in forecasts.get(model, UNKNOWN)
        ]
        return sum(chances) / len(chances) if chances else None

    chances = {sizes: chance(sizes) for sizes in fitting}
    best = max((each or 0.0 for each in chances.values()), default=0.0)
    equal = [sizes for sizes in fitting if (chances[sizes] or 0.0) >= best - AS_MUCH]
    chosen = max(equal, key=_given)
    session.settings = replace(settings, sizes=chosen)
    return Chosen(_seconds(session, asked, chosen) + beside, chances[chosen], tuple(forecasts))


def _given(sizes: Sizes) -> tuple[float, float, float]:
    """Images, trials and passes; what is as published is more than any number."""
    top = None if sizes.passes is None else sizes.passes[-1]
    images, trials, passes = (float("inf") if n is None else n for n in (sizes.num_images, sizes.trials, top))
    return images, trials, passes


def _fitting(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], seconds: float) -> list[Sizes]:
    """Of each K and T the most images that fit the time; the protocol as published where that does."""
    if _seconds(session, asked, Sizes()) <= seconds:
        return [Sizes()]
    found = []
    for t in PASSES:
        for k in TRIALS:
            every = [Sizes(n, (t,), k, at_most=True) for n in reversed(IMAGES)]  # more images never take less
            fit = bisect_right(every, seconds, key=lambda sizes: _seconds(session, asked, sizes))
            found += every[fit - 1 : fit]
    return found


def _forecasts(session: Session) -> dict[str, tuple[Forecast, ...]]:
    """By model, of each score that is judged, where the store holds a pilot."""
    from mcdo.harness.pilot import forecasts

    settings = session.settings
    if settings.store is None:
        return {}
    found = {model: forecasts(settings, model) for model in settings.models}
    return {model: each for model, each in found.items() if each}


def _judged(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], sizes: Sizes) -> dict[str, list[Size]]:
    """By model, the runs whose trials are repeated: reliability is judged on each, and one is enough."""
    found: dict[str, list[Size]] = {}
    for request in _plan(session, asked, sizes):
        if isinstance(request, Passes) and request.config.trials > 2:
            size = Size(session.count(request.shown), request.config.trials, request.config.passes[-1])
            found.setdefault(request.model, []).append(size)
    return found


def _beside(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]]) -> float:
    """Seconds of what follows from the encoders, such as passes of each site: the same whatever the sizes."""
    return sum(
        session.remaining.rate(request.model) * session.remaining.passes_beside(request)
        for request in _plan(session, asked, Sizes())
        if request.model
    )


def _seconds(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], sizes: Sizes) -> float:
    timed = (*_plan(session, asked, sizes), *_foreseen(session, asked, sizes))
    return sum(
        request.expected_passes(session) * session.remaining.rate(request.model) for request in timed if request.model
    )


def _plan(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], sizes: Sizes) -> list[Request[Any]]:
    plan: list[Request[Any]] = []
    for requests in _declared(session, asked, sizes, lambda experiment, about: experiment.requests(about)):
        plan = merged(requests, plan)
    return plan


def _foreseen(session: Session, asked: Sequence[tuple[Experiment[Any], Subject]], sizes: Sizes) -> list[Request[Any]]:
    found = _declared(session, asked, sizes, lambda experiment, about: experiment.foreseen(about))
    return [request for requests in found for request in requests]


def _declared(
    session: Session,
    asked: Sequence[tuple[Experiment[Any], Subject]],
    sizes: Sizes,
    of: Callable[[Experiment[Any], View], Iterable[Request[Any]]],
) -> list[list[Request[Any]]]:
    """What each experiment names under ``sizes``."""
    settings, found = session.settings, list[list[Request[Any]]]()
    session.settings = replace(settings, sizes=sizes)
    try:
        for experiment, subject in asked:
            with suppress(McdoError):  # which running it will say
                found.append(list(of(type(experiment).configured(session.settings), View(session, subject))))
    finally:
        session.settings = settings
    return found
