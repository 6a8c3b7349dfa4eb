"""Runs an experiment: measures what it requests, computes, judges its claims, and writes its files; once a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from mcdo.errors import McdoError
from mcdo.estimators.provenance import versions
from mcdo.estimators.run import EncoderRun
from mcdo.harness.claim import Judgement
from mcdo.harness.experiment import Experiment, Inputs, Subject, View
from mcdo.harness.requests import FirstOrder, Passes, Request
from mcdo.harness.session import Session
from mcdo.names import file_name
from mcdo.report.files import add_to_json, write_json, write_npz

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Completed(Generic[Result]):
    """An experiment about a subject, computed and judged; ``summary`` and ``files`` are what was written."""

    experiment: Experiment[Result]
    inputs: Inputs
    result: Result
    judgements: Mapping[str, Judgement]
    summary: Mapping[str, Any]
    files: tuple[Path, ...]


class Runner:
    """The experiments of one session, each computed once whichever tests ask for it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._completed: dict[tuple[Experiment[Any], Subject], Completed[Any]] = {}

    @property
    def completed(self) -> tuple[Completed[Any], ...]:
        """In the order they were computed."""
        return tuple(self._completed.values())

    def plan(self, experiment: Experiment[Any], subject: Subject) -> None:
        """Announce what it will request, before the first measurement; what is wrong with it, running it will say."""
        with suppress(McdoError):
            self.session.plan(experiment.requests(View(self.session, subject)))

    def run(self, experiment: Experiment[Result], subject: Subject) -> Completed[Result]:
        """Measured or looked up, computed, judged and written."""
        key = (experiment, subject)
        if key not in self._completed:
            self._completed[key] = self._run(experiment, subject)
        return cast("Completed[Result]", self._completed[key])

    def _run(self, experiment: Experiment[Result], subject: Subject) -> Completed[Result]:
        first = tuple(experiment.requests(View(self.session, subject)))
        later = tuple(experiment.follow_up(Inputs(self, subject, first)))
        inputs = Inputs(self, subject, (*first, *later))
        _check_noise(experiment, inputs.requests)
        result = experiment.compute(inputs)
        judgements = {claim.name: claim.judge(result) for claim in experiment.claims()}
        summary = {
            "model": subject.name,
            **experiment.summary(result),
            "claims": [judgement.as_dict() for judgement in judgements.values()],
            **provenance(experiment, inputs),
        }
        files = _written(experiment, inputs, result, summary)
        return Completed(experiment, inputs, result, judgements, summary, files)


def _check_noise(experiment: Experiment[Any], requests: Iterable[Request[Any]]) -> None:
    for request in requests:
        if (
            isinstance(request, Passes)
            and request.config.dropout.shared_by_images
            and not experiment.knows_shared_noise
        ):
            raise McdoError(
                f"{experiment.name}: {request.config.dropout} gives all images of a pass the same noise, and intervals "
                "over images would be too narrow; use a perturbation whose masks are each image's own"
            )


def provenance(experiment: Experiment[Any], inputs: Inputs) -> dict[str, Any]:
    """What stands in every summary: configuration, sites, seed, device and versions."""
    runs = [inputs[request] for request in inputs.requests if _yields_run(request)]
    if not runs:
        weights = {model: inputs.encoder(model).weights_hash for model in inputs.subject.models}
        facts = {"weights": weights, "versions": dict(versions())}
        sites = {"requested": experiment.dropout.sites} if inputs.subject.models else None  # nothing was perturbed
        return {"config": experiment.as_dict(), "sites": sites, "provenance": facts}
    run: EncoderRun = runs[0]
    return {
        "config": experiment.as_dict(),
        "num_images": len(run.ids),
        "num_origins": len(set(run.origins)),
        "sites": {
            "requested": run.config.dropout.sites,  # type: ignore[attr-defined]
            "live": [name for name, _ in run.sites],
            "roles": list(run.roles),
        },
        "provenance": dict(run.provenance),
    }


def _yields_run(request: Request[Any]) -> bool:
    return isinstance(request, Passes | FirstOrder)


def _written(
    experiment: Experiment[Result], inputs: Inputs, result: Result, summary: Mapping[str, Any]
) -> tuple[Path, ...]:
    settings, about, files = inputs.settings, inputs.subject.name, experiment.files
    folder = settings.reports / experiment.phase / experiment.name

    def place(name: str) -> Path:
        return folder / name.replace("{}", file_name(about))

    written = [write_npz(place(name), **arrays) for name, arrays in experiment.arrays(inputs, result).items()]
    written += [write_json(place(name), value) for name, value in experiment.documents(inputs, result).items()]
    if files.summary:
        written.append(write_json(place(files.summary), summary))
    sections = experiment.overall(result, summary) if files.overall else {}
    for section, value in sections.items():
        add_to_json(place(files.overall), settings.session, section, about, value)
    if sections:
        written.append(place(files.overall))
    panels = experiment.panels(inputs, result) if files.figure else ()
    if panels:
        from mcdo.report.figures import draw, save_figure

        written.append(save_figure(draw(panels, f"{about}: {experiment.title()}"), place(files.figure)))
    return tuple(written)
