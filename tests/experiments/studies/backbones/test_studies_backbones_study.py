"""The backbone study end to end: pictures, features, training, table. Posture marks wilting, so an encoder must win.

Option: --plants=FOLDER or CSV, in place of the drawn ones.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mcdo.harness import Completed
from mcdo.harness.tests import claims_of, contract_of, of_experiment
from mcdo.studies.backbones import BackboneStudy
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.backbones.study import BackboneResult
from mcdo.studies.backbones.table import METRICS

pytestmark = of_experiment(BackboneStudy)

test_the_embedded_encoder_beats_mean_colour = claims_of(BackboneStudy)
test_contract = contract_of(BackboneStudy)


def test_every_backbone_has_every_fold_and_seed(
    completed: Completed[BackboneResult], record_property: Callable[[str, object], None]
) -> None:
    assert isinstance(completed.experiment, BackboneStudy)
    config, table = completed.experiment.config, completed.result.table
    folds = config.folds or len(load_plants(config.plants).groups)
    assert [row.backbone for row in table.rows] == list(config.backbones)
    for row in table.rows:
        assert row.folds["f1"].shape == (len(config.seeds), folds)
        for figure in METRICS:
            record_property(f"{row.backbone} {figure}", str(row.estimates[figure]))
            assert np.isfinite(row.estimates[figure].value), (row.backbone, figure)


def test_no_run_was_asked_about_a_group_that_it_saw(result: BackboneResult) -> None:
    for each in result.predicted.values():
        group_of = dict(zip(each.series.plants, each.series.groups, strict=True))
        for run in each.predictions:
            assert {group_of[name] for name in run.plants} == {run.task.group}


def test_features_name_their_backbone(result: BackboneResult) -> None:
    for name, each in result.predicted.items():
        assert each.identity.backbone == name
        assert each.identity.random_weights == name.startswith("random:")
