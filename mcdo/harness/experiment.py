"""The contract of an experiment: what it is, what it asks for, what it computes, and what it claims.

An experiment is a frozen dataclass whose fields are the published protocol. It declares its requests, computes a typed
result from their values alone, and names its claims; measuring, writing and judging are the harness's, the same for
all (:mod:`mcdo.harness.runner`). So it runs from pytest, from the command line and from another repository alike.
"""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.estimators.score_table import needs_passes
from mcdo.harness.claim import Claim
from mcdo.harness.requests import Images, Logits, Request
from mcdo.harness.settings import Settings, SizeName, first_model
from mcdo.perturbation import Dropout, Perturbation
from mcdo.stats.prototypes import why_no_prototypes

if TYPE_CHECKING:
    from mcdo.encoders import Encoder
    from mcdo.harness.runner import Runner
    from mcdo.harness.session import Session
    from mcdo.harness.sheets import Sheet
    from mcdo.images import ImageSet
    from mcdo.report.figures import Panel

Result = TypeVar("Result")
Value = TypeVar("Value")
Self = TypeVar("Self", bound="Experiment[Any]")
ALL_MODELS = "all_models"
"""Name of the subject that is a session's models together."""


@dataclass(frozen=True)
class Subject:
    """What a result is about: usually one model, else whatever the experiment names, with the models it takes."""

    name: str
    models: tuple[str, ...]

    @property
    def model(self) -> str:
        """Its only model.

        Raises:
            McdoError: if it has none, or several.

        """
        if len(self.models) != 1:
            raise McdoError(f"{self.name} is about {len(self.models)} models, not one")
        return self.models[0]


class View:
    """What is known of a subject before anything is measured: its image sets, and its encoders' identities."""

    def __init__(self, session: Session, subject: Subject) -> None:
        self._session, self.subject = session, subject

    @property
    def model(self) -> str:
        """The subject's only model."""
        return self.subject.model

    @property
    def settings(self) -> Settings:
        """What the session was asked to do."""
        return self._session.settings

    def of(self, subject: Subject) -> View:
        """The same of another subject, such as one of several models."""
        return View(self._session, subject)

    def images(self, images: Images) -> ImageSet:
        """The image set that requests with ``images`` are about: ids, labels, origins, class names."""
        return self._session.image_set(images)

    def encoder(self, model: str | None = None) -> Encoder:
        """An encoder's identity and sizes; with ``--from-store`` nothing more than that is there."""
        return self._session.encoder(self.model if model is None else model)

    def why_no_head(self, images: Images) -> str:
        """Why nothing reads classes of ``images``, or "": a text tower reads them by name, else class prototypes do."""
        found = self.images(images)
        named, without = len(found.class_names) > 1, why_no_prototypes(found.labels, found.origins)
        if named != bool(without):  # both, or neither
            return "" if named else f"{found.name} has no classes to read"
        if getattr(self.encoder(), "has_text", True):
            return "" if named else f"{found.name} has no classes to name"
        return without


def foreseen(session: Session, experiment: Experiment[Any], subject: Subject) -> list[Request[Any]]:
    """What is likely to be measured after an experiment's requests; what is wrong with it, running it will say."""
    with suppress(McdoError):
        return list(experiment.foreseen(View(session, subject)))
    return []


class Inputs(View):
    """What an experiment computes from: the values of its requests, and the results of other experiments."""

    def __init__(
        self, runner: Runner, subject: Subject, requests: Iterable[Request[Any]], *, any_head: bool = True
    ) -> None:
        super().__init__(runner.session, subject)
        self._runner, self._any_head = runner, any_head
        self.requests = tuple(dict.fromkeys(requests))
        self._declared = frozenset(self.requests)

    def __getitem__(self, request: Request[Value]) -> Value:
        """The value of a declared request.

        Raises:
            McdoError: for one that was not declared: it would be measured outside the plan.
            UntrainedHeadError: for logits of a head that is no better than a constant answer, where that matters.

        """
        if request not in self._declared:
            raise McdoError(f"{self.subject.name}: {request} was computed with but not requested; declare it")
        value = self._session.measure(request)
        if isinstance(request, Logits) and not self._any_head:
            self._session.check_head(request)
        return value

    def why_unread(self, request: Logits) -> str:
        """Why logits say nothing of classes, or "": there is no head, or it is no better than a constant answer."""
        return self.why_no_head(replace(request.shown, degradation=None)) or self._session.head_reason(request)

    def result(self, experiment: type[Experiment[Result]], subject: Subject) -> Result:
        """The result of another experiment under the session's settings."""
        return self._runner.run(experiment.configured(self.settings), subject).result


@dataclass(frozen=True)
class Files:
    """Names of what is written below ``reports/<phase>/<name>/``; ``{}`` stands for the subject, "" for no file.

    Attributes:
        summary: of one subject.
        overall: of all subjects.
        figure: of one subject; SVG and PDF are written beside the PNG.

    """

    summary: str = ""
    overall: str = ""
    figure: str = ""

    @classmethod
    def of_each(cls, stem: str, figure: str) -> Files:
        """A folder for each subject with its summary and figure, and beside them the summary of all."""
        return cls(f"{{}}/{stem}_summary.json", f"{stem}_overall_summary.json", f"{{}}/{figure}.png")


@dataclass(frozen=True)
class Experiment(ABC, Generic[Result]):
    """One experiment under one configuration; fields are the published protocol, ``quick`` replaces sizes.

    Attributes:
        key: its name in claims and known negatives, such as ``exp1``.
        name: its folder under the reports, as the runbook names it.
        phase: the mark that selects it, and the folder above ``name``.
        folder: the folder above ``name`` where it is not ``phase``.
        files: what it writes.
        columns: panels of its figure that stand beside each other.
        quick: fields under ``--protocol=quick``.
        sized: fields that ``--num-images``, ``--passes`` and ``--trials`` take the place of.
        perturbs: whether it perturbs encoders; one that does not has neither ``dropout`` nor sites in its summary.
        published: scores that it reports by, as published.
        about_estimator: "mc" or "first_order", where ``--estimator`` selects it.
        is_gate: whether its claims are go/no-go criteria.
        is_verdict: whether its result is the verdict of its phase, and so its test.
        of_one_model: whether it is about one model, as published: the first CLIP, or the first there is.
        judges_heads: whether it says itself when a head is no better than a constant answer; one that does not is
            skipped then, with that reason.
        knows_shared_noise: whether its intervals hold noise that all images of a pass share; an experiment that does
            not know it is not run under such a perturbation.
        seed: of images, masks and intervals.
        dropout: the perturbation.
        further: scores of ``--scores``, reported beside the published ones where it reports by score.

    """

    key: ClassVar[str]
    name: ClassVar[str]
    phase: ClassVar[str]
    folder: ClassVar[str] = ""
    files: ClassVar[Files] = Files()
    columns: ClassVar[int] = 2
    quick: ClassVar[Mapping[str, Any]] = {}
    sized: ClassVar[Mapping[str, SizeName]] = {"n": "num_images", "passes": "passes", "trials": "trials"}
    perturbs: ClassVar[bool] = True
    published: ClassVar[tuple[str, ...]] = ()
    about_estimator: ClassVar[str] = ""
    is_gate: ClassVar[bool] = False
    is_verdict: ClassVar[bool] = False
    of_one_model: ClassVar[bool] = False
    judges_heads: ClassVar[bool] = False
    knows_shared_noise: ClassVar[bool] = False

    seed: int = 42
    dropout: Perturbation = field(default_factory=Dropout)
    further: tuple[str, ...] = ()

    @classmethod
    def configured(cls: type[Self], settings: Settings) -> Self:
        """The experiment under a session's settings."""
        fields = {**cls.sizes(settings), **cls.options(settings)}
        return cls(**fields, seed=settings.seed, dropout=settings.dropout, further=settings.scores)

    @classmethod
    def sizes(cls, settings: Settings) -> dict[str, Any]:
        """Fields of the session's protocol and sizes, where they are not as published."""
        quick = dict(cls.quick) if settings.protocol == "quick" else {}
        held = {each.name: each.default for each in fields(cls)} | quick
        return quick | {name: settings.sizes.of(what, held[name]) for name, what in cls.sized.items() if name in held}

    def less_than_published(self) -> tuple[str, ...]:
        """Sizes that are smaller than the published ones, in words."""
        words = {"num_images": "images", "images_at_most": "images", "passes": "passes", "trials": "trials"}
        published = {each.name: each.default for each in fields(self)}
        found = []
        for name, what in self.sized.items():
            if name in published:
                mine, its = (_largest(value) for value in (getattr(self, name), published[name]))
                found += [f"{mine} of {its} {words[what]}"] if mine < its else []
        return tuple(found)

    @property
    def reported(self) -> tuple[str, ...]:
        """Names of the scores that it reports by: the published ones, then further ones."""
        return tuple(dict.fromkeys((*self.published, *self.further)))

    def protocol(
        self, passes: tuple[int, ...], trials: int, kind: Perturbation | None = None, geometry: tuple[int, ...] = ()
    ) -> MonteCarloConfig:
        """Of a Monte Carlo run that gives every score it reports by; the perturbation is its own by default."""
        every = passes if any(map(needs_passes, self.reported)) else geometry
        return MonteCarloConfig(kind or self.dropout, passes, trials, self.seed, every, self.reported)

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        """Fields that follow from other settings, such as a file of the user's."""
        return {}

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        """What there is a result about: each model."""
        models = (first_model(settings.models),) if cls.of_one_model else settings.models
        return tuple(Subject(model, (model,)) for model in models)

    @abstractmethod
    def requests(self, about: View) -> Iterable[Request[Any]]:
        """Every measurement that can be named beforehand; none is made elsewhere."""

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        """Measurements that depend on what others gave."""
        return ()

    def obstacles(self, about: View) -> Iterable[str]:
        """What is wrong with data and names of the user's own, seen before an encoder is loaded: each a sentence."""
        return ()

    def foreseen(self, about: View) -> Iterable[Request[Any]]:
        """Measurements about as long as those of :meth:`follow_up`: the time of a run counts them, none is made."""
        return ()

    @abstractmethod
    def compute(self, inputs: Inputs) -> Result:
        """The result: a pure function of the values of the requests."""

    def claims(self) -> Sequence[Claim[Result]]:
        """What is claimed, each judged into a test outcome."""
        return ()

    @abstractmethod
    def summary(self, result: Result) -> Mapping[str, Any]:
        """What stands in the summary, for :func:`plain`; configuration, sites, versions and claims are added to it."""

    def overall(self, result: Result, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        """What stands under the subject's name in each section of the overall summary."""
        return {"results": summary}

    def arrays(self, inputs: Inputs, result: Result) -> Mapping[str, Mapping[str, ArrayLike]]:
        """Arrays by file name (``{}`` stands for the subject) and key."""
        return {}

    def documents(self, inputs: Inputs, result: Result) -> Mapping[str, Any]:
        """Further files by name (``{}`` stands for the subject): text as it is, anything else as JSON."""
        return {}

    def panels(self, inputs: Inputs, result: Result) -> Sequence[Panel]:
        """What the figure shows, one panel each."""
        return ()

    def sheets(self, inputs: Inputs, result: Result) -> Sequence[Sheet]:
        """Images that a reader should see, in an experiment about one model; none where nobody may see them."""
        return ()

    def title(self) -> str:
        """The figure's title, after the subject's name."""
        return self.name

    def described(self) -> dict[str, str]:
        """What a reader is told of it: its names, its question, and how to read it, as its module says."""
        question, _, reading = (inspect.getdoc(sys.modules[type(self).__module__]) or self.name).partition("\n\n")
        words = {"question": " ".join(question.split()), "reading": reading}
        return {"key": self.key, "name": self.name, "phase": self.phase, **words}

    def as_dict(self) -> dict[str, Any]:
        """The configuration, JSON-able: part of every result file."""
        config = {**asdict(self), "dropout": self.dropout.as_dict()}
        if not self.perturbs:
            del config["dropout"]
        return config

    def place(self, reports: Path) -> Path:
        """Where its files go."""
        return reports / (self.folder or self.phase) / self.name


def _largest(size: Any) -> int:
    return int(max(size) if isinstance(size, tuple) else size)
