"""The verdict: may the score be used (reliability), and does it say more than the feature norm (validity)?

It measures nothing of its own: reliability is exp0's, validity exp5's, and where no cell is usable the convergence
sweep says whether more passes would do. Models with random weights take no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mcdo.experiments.phase1.convergence_sweep import ConvergenceSweep
from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability
from mcdo.experiments.phase1.exp0_nested_mc import SPACES, NestedPasses
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS, BEYOND_NORM, AmbiguityResult, SubsetAmbiguity
from mcdo.harness import (
    ALL_MODELS,
    Experiment,
    FirstOrder,
    Images,
    Inputs,
    Passes,
    Request,
    Settings,
    Subject,
    View,
)  # fmt: skip
from mcdo.harness.decision import (
    Cell,
    Validity,
    Verdict,
    decide,
    identity_of,
    judged,
    published,
    statements,
    wants_sweep,
)  # fmt: skip
from mcdo.harness.session import LEAST_IMAGES
from mcdo.images import ImageSet
from mcdo.names import few_of
from mcdo.stats import Reliability
from mcdo.stats.prototypes import classes_without_prototype, why_no_prototypes


@dataclass(frozen=True)
class Phase1Verdict(Experiment[Verdict]):
    """GO, NO-GO or UNDECIDED over ``trusted`` models, by the estimators that are judged."""

    key = "verdict"
    name = "verdict"
    phase = "phase1"
    is_verdict = True
    judges_heads = True
    knows_shared_noise = True

    estimator: str = "mc"

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        return {"estimator": settings.estimator}

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        """One verdict about all models; with another choice of tests, about those that are left."""
        return (Subject(ALL_MODELS, settings.models),)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        for model in _trusted(about):
            view = about.of(Subject(model, (model,)))
            for experiment in self._experiments:
                if experiment is not SubsetAmbiguity or not _without_targets(view):
                    yield from experiment.configured(about.settings).requests(view)

    @property
    def _experiments(self) -> tuple[type[Experiment[Any]], ...]:
        of = {"mc": (NestedPasses,), "first_order": (FirstOrderReliability,)}
        judged = (*of["mc"], *of["first_order"]) if self.estimator == "both" else of[self.estimator]
        return (*judged, SubsetAmbiguity)

    def compute(self, inputs: Inputs) -> Verdict:
        models = _trusted(inputs)
        measured = [cell for model in models for cell in self._cells(inputs, Subject(model, (model,)))]
        cells, sweep = judged(measured)
        if (best := wants_sweep(cells)) is not None:
            cells, sweep = judged(measured, _sweep(inputs, best.model))
        unread = {model: _without_targets(inputs.of(Subject(model, (model,)))) for model in models}
        read = [model for model in models if not unread[model]]
        validity = [row for model in read for row in self._validity(inputs, Subject(model, (model,)))]
        originals = min((cell.spearman.n for cell in cells), default=0)
        decision, reason = decide(cells, originals, sweep)
        if not models:
            reason = "random weights decide nothing"
        settings, less = inputs.settings, self._less(inputs, swept=bool(sweep))
        if less:
            reason += f"; from less than the protocol ({'; '.join(less)})"
        return Verdict(
            decision=decision,
            reason=reason,
            published=published(cells, sweep),
            statements=(*statements(cells, validity, unread=unread), *_by_prototypes(inputs, read)),
            cells=(*cells, *sweep),
            validity=tuple(validity),
            models=models,
            images=settings.images,
            originals=originals,
            protocol=settings.protocol,
            sizes=settings.sizes.as_dict(),
            budget=settings.budget,
            less=less,
            dropout=self.dropout.p,
            sites=self.dropout.sites,
            seed=self.seed,
            session=settings.session,
            estimator=self.estimator,
            identity=identity_of(inputs, models, _plain_images(inputs)),
        )

    def _less(self, inputs: Inputs, *, swept: bool) -> tuple[str, ...]:
        """What was smaller than published: by the session's sizes, or because there are no more images."""
        found, sweep = [], (ConvergenceSweep,) if swept else ()
        kinds: tuple[type[Experiment[Any]], ...] = (*self._experiments, *sweep)
        for kind in kinds:
            experiment: Any = kind.configured(inputs.settings)
            shown = replace(experiment, n=len(inputs.images(Images(experiment.n))))
            if less := shown.less_than_published():
                found.append(f"{kind.key}: {', '.join(less)}")
        return tuple(found)

    def _cells(self, inputs: Inputs, model: Subject) -> Iterable[tuple[Cell, Reliability]]:
        """Cells of a model; first order takes part where it ranks as Monte Carlo does."""
        if NestedPasses in self._experiments:
            scores = NestedPasses.configured(inputs.settings).spaces
            for t, spaces in inputs.result(NestedPasses, model).reliability.items():
                for space, r in spaces.items():
                    yield Cell.of(model.name, scores[space], t, r), r
        if FirstOrderReliability in self._experiments:
            linear = inputs.result(FirstOrderReliability, model)
            for probes, spaces in linear.reliability.items():
                for space, r in spaces.items():
                    if linear.ranks(SPACES[space], self.dropout.p) == "met":
                        yield Cell.of(model.name, SPACES[space], probes, r, "first_order"), r

    def _validity(self, inputs: Inputs, model: Subject) -> Iterable[Validity]:
        found = inputs.result(SubsetAmbiguity, model)
        ambiguity = SubsetAmbiguity.configured(inputs.settings)
        for estimator in ambiguity.estimators:
            for score in ambiguity.judged(estimator):
                yield _row(found, model.name, score, estimator)

    def summary(self, result: Verdict) -> Mapping[str, Any]:
        return {}


def _without_targets(about: View) -> str:
    """Why ambiguity has no measure here, or ""."""
    if about.encoder().has_text:
        return "" if len(about.images(Images(LEAST_IMAGES)).class_names) > 1 else "no classes"
    images = about.images(Images(SubsetAmbiguity.configured(about.settings).n))
    reason = why_no_prototypes(images.labels, images.origins)
    return f"no text tower, and {reason}; -m prelim asks whether scores rise under degradations" if reason else ""


def _by_prototypes(inputs: Inputs, models: Iterable[str]) -> Iterable[str]:
    """Said of models whose validity is read off labels, as they have no text tower."""
    images = inputs.images(Images(SubsetAmbiguity.configured(inputs.settings).n))
    for model in models:
        if not inputs.encoder(model).has_text:
            said = "no text tower; validity is by class prototypes, each image read by the other half"
            yield f"{model}: {said}{_unnamed(images)}"


def _unnamed(images: ImageSet) -> str:
    """Of which classes there is no prototype, and what that means; "" where there is one of each."""
    if images.labels is None:
        return ""
    names = [images.class_names[label] for label in classes_without_prototype(images.labels, images.origins)]
    return f"; classes of one original have none, so their images count as errors: {few_of(names)}" if names else ""


def _plain_images(inputs: Inputs) -> list[Images]:
    """The parts of the session's own image set that were judged on."""
    shown = {request.shown for request in inputs.requests if isinstance(request, Passes | FirstOrder)}
    return sorted((each for each in shown if isinstance(each, Images) and each == Images(each.n)), key=str)


def _trusted(about: View) -> tuple[str, ...]:
    return tuple(model for model in about.subject.models if model not in about.settings.random_weights)


def _sweep(inputs: Inputs, model: str) -> list[tuple[Cell, Reliability]]:
    sweep = inputs.result(ConvergenceSweep, Subject(model, (model,)))
    return [(Cell.of(model, sweep.score, t, r), r) for t, r in sweep.measured.items()]


def _row(found: AmbiguityResult, model: str, score: str, estimator: str) -> Validity:
    figures = found.of(score, estimator)
    assert figures is not None, f"{estimator} was not asked for"
    (rho_key, _), (area_key, _) = BARS["rho_entropy"], BARS["auroc_high_entropy"]
    return Validity(
        model=model,
        score=score,
        estimator=estimator,
        rho=figures[rho_key],
        rho_given_norm=figures[BEYOND_NORM],
        auroc=figures[area_key],
        auroc_given_norm=figures[f"{area_key}_given_norm"],
        follows=found.follows(score, estimator),
        outcome=found.beyond_norm(score, estimator),
        reason=found.head_reason,
    )
