"""The same study as jobs, on three groups of plants: a cluster of one process gives what one process gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcdo.studies.backbones.config import BackbonesConfig, load_config
from mcdo.studies.backbones.features import read_features
from mcdo.studies.backbones.jobs import stages, submit
from mcdo.studies.backbones.steps import feature_path
from mcdo.studies.backbones.study import collect, run_study
from mcdo.studies.backbones.table import Table

pytestmark = pytest.mark.backbones


@pytest.fixture
def small() -> BackbonesConfig:
    quick = load_config("quick")
    training = replace(quick.training, max_epochs=4, validation_groups=1)
    return replace(
        quick,
        plants="wilting:3",
        backbones=("mean_colour", "clip_tiny"),
        folds=0,
        shards=2,
        block=64,
        training=training,
    )


def test_jobs_give_the_table_of_one_process(
    small: BackbonesConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = list[Table]()
    monkeypatch.setattr("mcdo.studies.backbones.jobs.collect", lambda *given: tables.append(collect(*given)))
    planned = stages(small, tmp_path / "jobs")
    assert [len(stage.arguments) for stage in planned] == [2 * 2, 2 * 3, 1]
    ids = submit(planned, tmp_path / "jobs", "debug")
    assert [len(held) for held in ids.values()] == [4, 6, 1]
    (by_jobs,), here = tables, run_study(replace(small, shards=1), tmp_path / "here")
    for row in here.rows:
        for figure, values in row.folds.items():
            np.testing.assert_allclose(by_jobs.row(row.backbone).folds[figure], values, atol=1e-6)
    assert (tmp_path / "jobs" / "table.png").exists()
    for name in small.backbones:
        one, two = (read_features(feature_path(tmp_path / where, name)) for where in ("jobs", "here"))
        assert one.identity == two.identity
        assert one.hashes == two.hashes
        assert max(float(np.abs(one.vectors[view] - two.vectors[view]).max()) for view in one.vectors) < 1e-5
