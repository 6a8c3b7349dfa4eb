"""Whose features tell when a plant wilts? Folds over groups of plants, each backbone against the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdo.harness import Claim, Experiment, Files, Inputs, Request, Runner, Session, Settings, Subject, View
from mcdo.stats import Estimate
from mcdo.studies.backbones.config import BackbonesConfig, load_config
from mcdo.studies.backbones.figure import estimates_panel, onsets_panel
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.backbones.requests import Predicted, Predictions
from mcdo.studies.backbones.table import METRICS, Comparison, Table, as_json, compare, markdown, row_of

if TYPE_CHECKING:
    from mcdo.report.figures import Panel

EMBEDDED = "clip_tiny"
"""The encoder that claims are about; the drawn plants are made so that it can win."""


@dataclass(frozen=True, eq=False)
class BackboneResult:
    """The table, and by backbone what it rests on.

    ``embedded``: whether the plants are the drawn ones, about which there are claims.
    """

    table: Table
    plants: str
    predicted: Mapping[str, Predicted]
    embedded: bool

    def beaten(self, figure: str) -> Comparison | None:
        """The embedded encoder against mean colour; None on plants of one's own."""
        return self.table.comparison(EMBEDDED, figure) if self.embedded else None


@dataclass(frozen=True)
class BackboneStudy(Experiment[BackboneResult]):
    """S3: backbones for series of plant images.

    ``root`` is the folder of features and runs. ``alone``: the table goes there as well, and not below the reports.
    """

    key = "backbones"
    name = "backbones"
    phase = "backbones"
    folder = "studies"
    perturbs = False
    files = Files(summary="table.json", figure="table.png")

    config: BackbonesConfig = field(default_factory=BackbonesConfig)
    root: str = ""
    alone: bool = False

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        """The drawn plants in the protocol's sizes, or those that --plants names, as published."""
        given = settings.own_data.get("--plants")
        shipped = load_config("quick" if settings.protocol == "quick" else "embedded")
        config = shipped if given is None else replace(load_config(), plants=given, shards=1)
        seeds = tuple(settings.seed + i for i in range(len(config.seeds)))
        root = settings.reports / cls.folder / cls.name
        return {"config": replace(config, seeds=seeds), "root": str(root)}

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return (cls.configured(settings).subject,)

    @property
    def subject(self) -> Subject:
        """The plants; no encoder of the session is asked for."""
        return Subject(self.config.plants, ())

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return [self._predictions(backbone) for backbone in self.config.backbones]

    def _predictions(self, backbone: str) -> Predictions:
        return Predictions(backbone, self.config, self.root)

    def compute(self, inputs: Inputs) -> BackboneResult:
        predicted = {backbone: inputs[self._predictions(backbone)] for backbone in self.config.backbones}
        rows = [row_of(each.series, each.predictions) for each in predicted.values()]
        plants, embedded = load_plants(self.config.plants), self.config.plants.split(":")[0] == "wilting"
        compared = embedded and EMBEDDED in self.config.backbones and self.config.baseline == "mean_colour"
        return BackboneResult(compare(rows, self.config.baseline), plants.name, predicted, compared)

    def claims(self) -> Sequence[Claim[BackboneResult]]:
        """That the embedded encoder beats mean colour: paired over folds, Holm over all comparisons of the table."""
        return [
            Claim(
                f"better_than_mean_colour/{figure}",
                partial(_improvement, figure),
                above=0.0,
                beside=lambda r: "" if r.embedded else f"a claim about {EMBEDDED} and mean colour on the drawn plants",
                p_holm=partial(_p_holm, figure),
                one_sided=True,
            )
            for figure in METRICS
        ]

    def summary(self, result: BackboneResult) -> Mapping[str, Any]:
        epochs = {name: [run.epochs for run in each.predictions] for name, each in result.predicted.items()}
        return {
            **as_json(result.table),
            "plants": result.plants,
            "epochs": {name: [min(counts), max(counts)] for name, counts in epochs.items()},
            "features": {name: asdict(each.identity) for name, each in result.predicted.items()},
        }

    def documents(self, inputs: Inputs, result: BackboneResult) -> Mapping[str, Any]:
        return {"table.md": markdown(result.table)}

    def title(self) -> str:
        return "which features tell when a plant wilts?"

    def panels(self, inputs: Inputs, result: BackboneResult) -> Sequence[Panel]:
        """Each figure by backbone, and the onsets of the baseline and of the last backbone."""
        estimates = [partial(estimates_panel, table=result.table, name=name) for name in METRICS]
        return *estimates, partial(onsets_panel, table=result.table, shown=self.config.backbones[-1])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self.config)

    def place(self, reports: Path) -> Path:
        return reports if self.alone else super().place(reports)


def _improvement(figure: str, result: BackboneResult) -> Estimate | None:
    found = result.beaten(figure)
    return None if found is None else found.difference


def _p_holm(figure: str, result: BackboneResult) -> float:
    return result.table.comparison(EMBEDDED, figure).p_holm


def run_study(config: BackbonesConfig, root: Path, device: str = "cpu") -> Table:
    """All of it here, resuming whatever is done; table and figure are written to ``root``."""
    return _run(config, Settings((), device=device, reports=root))


def collect(config: BackbonesConfig, root: Path) -> Table:
    """Merge the shards, and write table and figure from all runs.

    Raises:
        McdoError: if a feature or a run is missing.

    """
    return _run(config, Settings((), reports=root, from_store=True))


def _run(config: BackbonesConfig, settings: Settings) -> Table:
    study = BackboneStudy(config=config, root=str(settings.reports), alone=True)
    return Runner(Session(settings)).run(study, study.subject).result.table
