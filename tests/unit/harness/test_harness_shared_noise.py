from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.experiments.phase1.exp5_subset_ambiguity import SubsetAmbiguity
from mcdo.harness import Images, Passes, Runner, Session, Settings, Subject
from mcdo.harness.runner import _check_noise
from mcdo.perturbation import Dropout, Rademacher, TiedDropout


@pytest.mark.parametrize(
    ("kind", "shared"),
    [(Dropout(), False), (TiedDropout(), False), (TiedDropout(over_images=True), True), (Rademacher(), True)],
    ids=["own", "tied-over-tokens", "tied-over-images", "signs"],
)
def test_only_masks_tied_over_images_and_signs_are_shared_by_them(kind: Dropout, shared: bool) -> None:
    assert kind.shared_by_images is shared
    assert kind.at("fc1").shared_by_images is shared


def test_an_experiment_whose_intervals_are_over_images_is_not_run_under_noise_that_they_share(tmp_path: Path) -> None:
    settings = Settings(("clip_tiny",), reports=tmp_path)
    experiment = FirstOrderReliability(n=6, subset=4, passes=4, dropout=TiedDropout(over_images=True))
    with pytest.raises(
        McdoError, match=r"exp0_first_order: TiedDropout\(.*over_images=True\) gives all images of a pass"
    ):
        Runner(Session(settings)).run(experiment, Subject("clip_tiny", ("clip_tiny",)))


def test_common_masks_are_noise_that_images_share_whatever_the_kind() -> None:
    run = Passes("clip_tiny", Images(20), MonteCarloConfig(Dropout(), (4,), 2))
    _check_noise(FirstOrderReliability(), [run])
    with pytest.raises(McdoError, match=r"the same noise.*; use the images without common masks"):
        _check_noise(FirstOrderReliability(), [replace(run, shown=Images(20, common_masks=True))])


def test_the_gate_s_intervals_hold_the_noise_that_signs_give_all_images(tmp_path: Path) -> None:
    runner = Runner(Session(Settings(("clip_tiny",), reports=tmp_path)))
    subject = Subject("clip_tiny", ("clip_tiny",))

    def width(kind: Dropout | Rademacher) -> float:
        experiment = NestedPasses(n=40, passes=(4, 8), trials=5, dropout=kind)
        found = runner.run(experiment, subject).result.reliability[8]["post_norm"].estimate("spearman")
        drift = runner.run(experiment, subject).result.drift["post_norm"]
        assert found.low < found.value < found.high
        return drift.high - drift.low

    # a common factor of each trial moves the mean of all 40 images: no resample of images shows it
    assert width(Rademacher()) > 2 * width(Dropout())
    assert SubsetAmbiguity(dropout=Rademacher()).run("clip_tiny").config.trials == 5
    assert SubsetAmbiguity(dropout=Dropout()).run("clip_tiny").config.trials == 1
