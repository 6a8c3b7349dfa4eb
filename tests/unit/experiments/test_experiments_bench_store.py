"""The bench with a store: kept arrays, and results without a loaded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.base import Need
from mcdo.experiments.bench import Bench, Settings
from mcdo.perturbation import Dropout, TiedDropout

NEED = Need("clip_tiny", 6, MonteCarloConfig(Dropout(), (4, 8), 2, 42))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(("clip_tiny",), store=tmp_path / "store", reports=tmp_path / "reports")


def test_everything_is_recomputed_from_the_store_without_a_model(settings: Settings) -> None:
    first, later = Bench(settings), Bench(replace(settings, from_store=True))
    for bench in (first, later):
        bench.plan([NEED])
    np.testing.assert_array_equal(first.run(NEED).scores("trace_pre"), later.run(NEED).scores("trace_pre"))
    np.testing.assert_array_equal(
        first.first_order(NEED, 3).scores("trace_post"), later.first_order(NEED, 3).scores("trace_post")
    )
    np.testing.assert_array_equal(first.logits("clip_tiny", 6), later.logits("clip_tiny", 6))
    prompts = ["a photo of a three", "a seven"]
    np.testing.assert_array_equal(first.text_features("clip_tiny", prompts), later.text_features("clip_tiny", prompts))
    assert first.loads["clip_tiny"] == 1
    assert not later.loads, "no model may be loaded"


def test_what_is_not_in_the_store_is_named(settings: Settings) -> None:
    with pytest.raises(McdoError, match=r"cannot be read.*run once without --from-store"):
        Bench(replace(settings, from_store=True)).run(NEED)
    Bench(settings).run(NEED)
    later = Bench(replace(settings, from_store=True))
    with pytest.raises(McdoError, match=r"not in the store.*run once without --from-store"):
        later.run(replace(NEED, config=replace(NEED.config, dropout=TiedDropout())))
    with pytest.raises(McdoError, match="--from-store needs a store"):
        Bench(replace(settings, from_store=True, store=None)).run(NEED)


def test_features_of_degraded_images_share_masks_and_not_features(settings: Settings) -> None:
    bench = Bench(settings)
    clean, blurred = bench.images(6), bench.images(6, degradation="blur:10%")
    assert blurred.mask_ids == clean.mask_ids
    assert not set(blurred.ids) & set(clean.ids)
    assert np.abs(bench.features("clip_tiny", 6) - bench.features("clip_tiny", 6, degradation="blur:10%")).max() > 0.1


def test_needs_join_over_passes_and_never_over_images_or_kinds() -> None:
    config = NEED.config
    assert NEED.joins(replace(NEED, config=replace(config, passes=(16,), trials=9)))
    for other in (
        replace(NEED, degradation="blur:5"),
        replace(NEED, images="synthetic:solid"),
        replace(NEED, n=7),
        replace(NEED, config=replace(config, dropout=TiedDropout())),
        replace(NEED, config=replace(config, seed=1)),
    ):
        assert not NEED.joins(other)
