"""What a pilot in the store says of every claim, and what it would take to decide it.

A pilot is any run of an experiment: its measurements are looked up, nothing is measured, and its claims are judged as
always. Where an experiment repeats trials, each of its scores is planned for as well (is it usable, and from how many
passes on?).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.harness.catalogue import experiments_of
from mcdo.harness.experiment import Experiment, Inputs, Subject, View
from mcdo.harness.requests import Images, Passes
from mcdo.harness.runner import Runner
from mcdo.harness.session import Session
from mcdo.harness.settings import ProtocolName, Settings, Sizes
from mcdo.report.judgement import ALPHA
from mcdo.stats import Estimate
from mcdo.stats.planning import MOST, POWER, Need, PilotForecast, Size, needed_for_usable, needed_images
from mcdo.stats.resampling import Direction

PHASES = ("phase1", "prelim")
"""Whose claims are planned for: the gate's, and the share of images that damage raises."""
PROTOCOLS: tuple[ProtocolName, ...] = ("full", "quick")
"""Under which a pilot is looked for, in this order."""
JUDGED = ("trace_pre", "trace_post")
"""Scores whose reliability phase 1 judges."""


@dataclass(frozen=True)
class Planned:
    """A claim about a model, and what decides it.

    Attributes:
        model: the encoder.
        experiment: key of the experiment; the phase, where the claim is about the reliability of a score.
        claim: its name; ``usable/SCORE at T=...`` for reliability.
        estimate: what the pilot says.
        bar: in words.
        need: what it takes.

    """

    model: str
    experiment: str
    claim: str
    estimate: Estimate
    bar: str
    need: Need


@dataclass(frozen=True)
class Missing:
    """An experiment without a pilot in the store, and why."""

    model: str
    experiment: str
    reason: str


def planned(
    settings: Settings,
    phases: Iterable[str] = PHASES,
    *,
    power: float = POWER,
    most: int = MOST,
) -> Iterator[Planned | Missing]:
    """Every claim of the phases about every model of ``settings``, from what its store holds.

    Args:
        settings: of the pilot; no model is loaded.
        phases: whose experiments are looked at.
        power: probability with which the planned run decides.
        most: originals above which nothing is planned.

    """
    session = Session(replace(settings, from_store=True))
    kinds = [kind for phase in phases for kind in experiments_of(phase) if not kind.is_verdict]
    most = min(most, _originals(session))
    for model in settings.models:
        subject = Subject(model, (model,))
        largest: tuple[int, Experiment[Any], MonteCarloRun] | None = None
        for kind in kinds:
            if kind.about_estimator in ("", "mc") and subject in kind.subjects(settings):
                experiment = kind.configured(settings)
                try:
                    inputs, result = _computed(Runner(session.afresh()), experiment, subject)
                    found = list(_claims(inputs, experiment, result, power, most))
                except McdoError as error:
                    yield Missing(model, experiment.key, str(error))
                    continue
                yield from found
                for run in _repeated(inputs) if experiment.about_estimator == "mc" else ():
                    total = _total(run)
                    if largest is None or total > largest[0]:
                        largest = total, experiment, run
        if largest is not None:
            yield from _usable(largest[2], largest[1], model, len(settings.models), power, most)


def forecasts(settings: Settings, model: str) -> tuple[PilotForecast, ...]:
    """What the largest pilot of a model says of each score that phase 1 judges; () where the store holds none.

    Looked for are runs of the full protocol, then of the quick one; no model is loaded.
    """
    subject = Subject(model, (model,))
    for protocol in PROTOCOLS:
        session = Session(replace(settings, protocol=protocol, sizes=Sizes(), budget="", from_store=True))
        found: list[tuple[Experiment[Any], MonteCarloRun]] = []
        for kind in experiments_of(PHASES[0]):
            if kind.about_estimator == "mc" and not kind.is_verdict and subject in kind.subjects(session.settings):
                experiment = kind.configured(session.settings)
                with suppress(McdoError):  # what the store does not hold is no pilot
                    requests = tuple(experiment.requests(View(session, subject)))
                    found += ((experiment, run) for run in _repeated(Inputs(Runner(session), subject, requests)))
        if found:
            experiment, run = max(found, key=lambda each: _total(each[1]))
            with suppress(McdoError):  # one without intervals
                return tuple(_forecast(run, score, experiment.seed) for score in _scores(experiment))
    return ()


def _total(run: MonteCarloRun) -> int:
    return len(run.ids) * run.config.trials * run.config.passes[-1]


def _scores(experiment: Experiment[Any]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*JUDGED, *experiment.further)))


def _forecast(run: MonteCarloRun, score: str, seed: int) -> PilotForecast:
    by_passes = {T: run.scores(score, T) for T in run.config.passes}
    return PilotForecast(by_passes, run.config.passes[-1], origins=run.origins, seed=seed)


def _originals(session: Session) -> int:
    """How many the image set holds; for a folder, whose images would all be decoded for it, no bound."""
    if session.settings.images.startswith("folder:"):
        return MOST
    return len(set(session.image_set(Images(None)).origins))


def _computed(runner: Runner, experiment: Experiment[Any], subject: Subject) -> tuple[Inputs, Any]:
    first = tuple(experiment.requests(View(runner.session, subject)))
    later = tuple(experiment.follow_up(Inputs(runner, subject, first)))
    inputs = Inputs(runner, subject, (*first, *later))
    return inputs, experiment.compute(inputs)


def _claims(inputs: Inputs, experiment: Experiment[Any], result: Any, power: float, most: int) -> Iterator[Planned]:
    size = _size(experiment, [request for request in inputs.requests if isinstance(request, Passes)])
    for claim in experiment.claims():
        judged = claim.judge(result)
        if judged.estimate is None or not judged.at:
            continue
        pilot = replace(size, images=judged.estimate.n)
        direction: Direction = ">=" if claim.below is None else "<"
        need = needed_images(judged.estimate, judged.at, pilot, power=power, most=most, direction=direction)
        if judged.outcome in ("met", "not met"):
            need = replace(need, state="decided", outcome=judged.outcome, size=pilot, chance=1.0, reason="")
        elif need.state == "decided":  # by its interval, but not by its test over the family
            reason = f"its interval is clear of the bar, but its corrected p is {judged.p_holm:.2g}: more images"
            need = replace(need, state="out of reach", outcome="undecided", size=None, chance=0.0, reason=reason)
        yield Planned(inputs.model, experiment.key, claim.name, judged.estimate, judged.bar, need)


def _repeated(inputs: Inputs) -> Iterator[MonteCarloRun]:
    """Runs of several T and enough trials for an interval."""
    for request in inputs.requests:
        if isinstance(request, Passes) and request.config.trials > 2 and len(request.config.passes) > 1:
            yield inputs[request]


def _usable(
    run: MonteCarloRun, experiment: Experiment[Any], model: str, models: int, power: float, most: int
) -> Iterator[Planned]:
    """The scores that phase 1 judges: of each model each is a chain, and the sweep has a share as well."""
    scores = _scores(experiment)
    top, alpha = run.config.passes[-1], ALPHA / (models * len(scores) + 1)
    for score in scores:
        forecast = _forecast(run, score, experiment.seed)
        need = needed_for_usable(forecast, alpha=alpha, power=power, most=most)
        measured = forecast.measured
        if measured.p_usable <= alpha:
            size = Size(measured.n_origins, measured.n_trials, top)
            need = replace(need, state="decided", outcome="met", size=size, chance=1.0, reason="")
        said = measured.estimate("spearman")
        yield Planned(model, experiment.phase, f"usable/{score} at T={top}", said, "usable", need)


def _size(experiment: Experiment[Any], passes: Sequence[Passes]) -> Size:
    """Trials and passes of a pilot; images are those of each claim."""
    if not passes:
        return Size(getattr(experiment, "n", 0), 1, 1)
    config = max((request.config for request in passes), key=lambda each: each.passes[-1])
    return Size(getattr(experiment, "n", 0), config.trials, config.passes[-1])
