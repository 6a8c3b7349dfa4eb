"""What the study measures: a backbone's predictions for every fold and seed, kept in the study's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mcdo.harness import Request, Session
from mcdo.studies.backbones.config import BackbonesConfig
from mcdo.studies.backbones.features import Identity
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.backbones.runs import read_runs, tasks_of
from mcdo.studies.backbones.series import Series, series_of
from mcdo.studies.backbones.steps import extract_shard, feature_path, train_some, whole_features
from mcdo.studies.backbones.training import Prediction


@dataclass(frozen=True, eq=False)
class Predicted:
    """Where a backbone's features come from, what was trained on, and what every run predicts."""

    identity: Identity
    series: Series
    predictions: Sequence[Prediction]


@dataclass(frozen=True)
class Predictions(Request[Predicted]):
    """Of the backbone ``model``, which needs not be an encoder of mcdo.

    Features and runs are files of the study's folder ``root``, because jobs on other machines write them as well: they
    are this study's store. What is not there is made, but with ``--from-store`` missed.
    """

    config: BackbonesConfig
    root: str

    def measure(self, session: Session) -> Predicted:
        config, root = self.config, Path(self.root)
        if not session.settings.from_store:
            with session.unmuted():
                self._make(root, session.settings.device)
        features = whole_features(config, root, self.model)
        series = series_of(load_plants(config.plants), features)
        return Predicted(
            features.identity, series, read_runs(series, tasks_of(series.folds, config), config, root / "runs")
        )

    def _make(self, root: Path, device: str) -> None:
        for shard in range(1, self.config.shards + 1):
            if not feature_path(root, self.model).exists() or self.config.shards == 1:
                extract_shard(self.config, root, self.model, shard, device)
        train_some(self.config, root, self.model)
