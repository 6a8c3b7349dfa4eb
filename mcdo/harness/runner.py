"""Runs an experiment: measures what it requests, computes, judges its claims, and writes its files; once a session."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.estimators.provenance import encoder_provenance, versions
from mcdo.estimators.run import EncoderRun
from mcdo.harness.experiment import Experiment, Inputs, Subject, View, foreseen
from mcdo.harness.requests import FirstOrder, Images, Logits, Passes, Request
from mcdo.harness.session import Session
from mcdo.names import file_name
from mcdo.report.files import add_to_json, read_json, write_json, write_npz, write_text
from mcdo.report.judgement import Judgement
from mcdo.report.made import made
from mcdo.schema import plain
from mcdo.threads import one_blas_thread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mcdo.harness.sheets import Sheet

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Completed(Generic[Result]):
    """An experiment about a subject, computed and judged; ``files`` are what was written of it."""

    experiment: Experiment[Result]
    inputs: Inputs
    result: Result
    judgements: Mapping[str, Judgement]
    summary: Mapping[str, Any]
    arrays: Mapping[str, Mapping[str, ArrayLike]]
    files: tuple[Path, ...] = ()


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
        self.session.foresee((experiment, subject), lambda: self._foreseen(experiment, subject))

    def _foreseen(self, experiment: Experiment[Any], subject: Subject) -> list[Request[Any]]:
        """Nothing before the encoders are loaded, of whose sites it may be."""
        loaded = self.session.loads.keys() >= set(subject.models)
        return foreseen(self.session, experiment, subject) if loaded else []

    def run(self, experiment: Experiment[Result], subject: Subject) -> Completed[Result]:
        """Measured or looked up, computed, judged and written.

        Where an experiment is about one model, what another asks of it about a further one is not written: its files
        have one name, and hold what its own tests say.
        """
        key = (experiment, subject)
        if key not in self._completed:
            judged = self.judged(experiment, subject)
            if experiment.of_one_model and subject not in experiment.subjects(self.session.settings):
                return self._completed.setdefault(key, judged)
            files = (*_written(judged), *_sheets(self.session, judged))
            self._completed[key] = replace(judged, files=files)
        return cast("Completed[Result]", self._completed[key])

    def judged(self, experiment: Experiment[Result], subject: Subject) -> Completed[Result]:
        """Measured or looked up, computed and judged, of which nothing is written."""
        first = tuple(experiment.requests(View(self.session, subject)))
        any_head = experiment.judges_heads
        inputs = Inputs(self, subject, first, any_head=any_head)
        if not any_head:  # one that reads nothing is found before anything is spent on what it would be needed for
            for request in first:
                if isinstance(request, Logits) and request.shown.degradation is None:
                    inputs[request]
        later = tuple(experiment.follow_up(inputs))
        self.session.foresee((experiment, subject), lambda: later)
        inputs = Inputs(self, subject, (*first, *later), any_head=any_head)
        _check_noise(experiment, inputs.requests)
        with one_blas_thread():
            result = experiment.compute(inputs)
            self.session.foresee((experiment, subject), tuple)  # nothing any more
            self.session.used(experiment.name, inputs.requests)
            judgements = {claim.name: claim.judge(result) for claim in experiment.claims()}
            arrays = experiment.arrays(inputs, result)
        summary = {
            "model": subject.name,
            **plain(experiment.summary(result)),
            "claims": [judgement.as_dict() for judgement in judgements.values()],
            **provenance(experiment, inputs),
            "experiment": experiment.described(),
            "files": {**_names(experiment, inputs), "arrays": [_named(name, subject) for name in arrays]},
            "made": made(),
        }
        return Completed(experiment, inputs, result, judgements, summary, arrays)


def _names(experiment: Experiment[Any], inputs: Inputs) -> dict[str, str]:
    """The experiment's folder below the reports, and what it writes about a subject there."""
    reports = inputs.settings.reports
    names = {what: _named(name, inputs.subject) for what, name in asdict(experiment.files).items() if name}
    return {"folder": experiment.place(reports).relative_to(reports).as_posix(), **names}


def _named(name: str, subject: Subject) -> str:
    return name.replace("{}", file_name(subject.name))


def _check_noise(experiment: Experiment[Any], requests: Iterable[Request[Any]]) -> None:
    for request in requests:
        if isinstance(request, Passes) and _is_shared(request) and not experiment.knows_shared_noise:
            kind = request.config.dropout
            what, way = (
                (f"{kind}", "a perturbation whose masks are each image's own")
                if kind.shared_by_images
                else (f"Images(..., common_masks=True) under {kind}", "the images without common masks")
            )
            raise McdoError(
                f"{experiment.name}: {what} gives all images of a pass the same noise, and intervals over images would "
                f"be too narrow; use {way}"
            )


def _is_shared(request: Passes) -> bool:
    common = isinstance(request.shown, Images) and request.shown.common_masks
    return common or request.config.dropout.shared_by_images


def provenance(experiment: Experiment[Any], inputs: Inputs) -> dict[str, Any]:
    """What stands in every summary: configuration, sizes, image set, sites, device, versions; by model if several."""
    config, models, settings = experiment.as_dict(), inputs.subject.models, inputs.settings
    shown = (getattr(request, "shown", None) for request in inputs.requests)
    named: dict[str, Any] = {"protocol": settings.protocol, "sizes": settings.sizes.as_dict()}
    named |= {"image_set": settings.images} if any(isinstance(each, Images) for each in shown) else {}
    runs: dict[str, list[EncoderRun]] = {}
    for request in inputs.requests:
        if isinstance(request, Passes | FirstOrder):
            runs.setdefault(request.model, []).append(inputs[cast("Request[Any]", request)])
    if not runs:
        sites = {"requested": experiment.dropout.sites} if models and experiment.perturbs else None
        facts = {model: encoder_provenance(inputs.encoder(model)) for model in models}
        return {"config": config, **named, "sites": sites, "provenance": _by_model(facts)}
    first = next(iter(runs.values()))[0]
    sites_of = {model: _sites(found) for model, found in runs.items()}
    return {
        "config": config,
        **named,
        "num_images": len(first.ids),
        "num_origins": len(set(first.origins)),
        "sites": sites_of if len(runs) > 1 else next(iter(sites_of.values())),
        "provenance": _by_model({model: found[0].provenance for model, found in runs.items()}),
    }


def _by_model(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of one model as it is; of several, or of none, the versions, and the rest by model."""
    if len(facts) == 1:
        return dict(next(iter(facts.values())))
    return {"versions": dict(versions()), "models": {model: dict(each) for model, each in facts.items()}}


def _sites(runs: Iterable[EncoderRun]) -> dict[str, Any] | list[dict[str, Any]]:
    """Sites of one model's runs: what was asked for, and what was alive; a list where they are not the same in all."""
    found: list[dict[str, Any]] = []
    for run in runs:
        requested = run.config.dropout.sites  # type: ignore[attr-defined]
        sites = {"requested": requested, "live": [name for name, _ in run.sites], "roles": list(run.roles)}
        if sites not in found:
            found.append(sites)
    return found[0] if len(found) == 1 else found


def _written(judged: Completed[Any]) -> list[Path]:
    experiment, inputs, result, summary = judged.experiment, judged.inputs, judged.result, judged.summary
    settings, about, files = inputs.settings, inputs.subject.name, experiment.files
    folder = experiment.place(settings.reports)

    def place(name: str) -> Path:
        return folder / _named(name, inputs.subject)

    written = [write_npz(place(name), **held) for name, held in judged.arrays.items()]
    for name, value in experiment.documents(inputs, result).items():
        written.append((write_text if isinstance(value, str) else write_json)(place(name), value))
    if files.summary:
        written.append(write_json(place(files.summary), summary))
    sections = dict(experiment.overall(result, summary)) if files.overall else {}
    if sections:
        sections["provenance"] = {name: summary[name] for name in ("config", "sites", "provenance", "made")}
    for section, value in sections.items():
        add_to_json(place(files.overall), settings.session, section, about, value)
    if sections:
        written.append(place(files.overall))
    figure = figure_of(judged) if settings.figures else None
    formats: tuple[str, ...] = ()
    if figure is not None:
        from mcdo.report.figures import FORMATS, save_figure

        formats = tuple(FORMATS) if settings.vector_figures else ("png",)
        written.append(save_figure(figure, place(files.figure), formats))
    for form in ("png", "svg", "pdf") if files.figure else ():
        if form not in formats:
            _removed(place(files.figure).with_suffix(f".{form}"))
    return written


def _removed(path: Path) -> None:
    """What an earlier run wrote and this one does not: a page would show it beside the figures of this one."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


def figure_of(judged: Completed[Any]) -> Figure | None:
    """Its figure, or None where it has none."""
    experiment = judged.experiment
    panels = experiment.panels(judged.inputs, judged.result) if experiment.files.figure else ()
    if not panels:
        return None
    from mcdo.report.figures import draw

    return draw(panels, f"{judged.inputs.subject.name}: {experiment.title()}", experiment.columns)


def _sheets(session: Session, judged: Completed[Any]) -> list[Path]:
    """Contact sheets; with ``--from-store``, where no encoder says what it is shown, those that say the same stay."""
    experiment, inputs, settings = judged.experiment, judged.inputs, judged.inputs.settings
    sheets = experiment.sheets(inputs, judged.result) if settings.thumbnails else ()
    about, folder = inputs.subject, experiment.place(settings.reports)
    path = folder / f"{file_name(about.name)}_sheets.json"
    if sheets and not settings.from_store:
        from mcdo.harness.sheets import drawn

        return [write_json(path, {"model": about.name, "sheets": drawn(session, about.model, sheets)})]
    if path.is_file() and not (sheets and _says(path, session, sheets)):
        _removed(path)
    return []


def _says(path: Path, session: Session, sheets: Iterable[Sheet]) -> bool:
    """Whether contact sheets that were drawn show these images in this order, with these words."""
    from mcdo.harness.sheets import words

    try:
        held = read_json(path, "")["sheets"]
        found = [(sheet["title"], [(t["id"], t["caption"]) for t in sheet["tiles"]]) for sheet in held]
    except (McdoError, KeyError, TypeError):
        return False
    return found == words(session, sheets)
