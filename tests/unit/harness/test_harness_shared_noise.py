from __future__ import annotations

from pathlib import Path

import pytest

from mcdo.errors import McdoError
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.harness import Runner, Session, Settings, Subject
from mcdo.perturbation import Dropout, TiedDropout


@pytest.mark.parametrize(
    ("kind", "shared"),
    [(Dropout(), False), (TiedDropout(), False), (TiedDropout(over_images=True), True)],
    ids=["own", "tied-over-tokens", "tied-over-images"],
)
def test_only_masks_tied_over_images_are_shared_by_them(kind: Dropout, shared: bool) -> None:
    assert kind.shared_by_images is shared
    assert kind.at("fc1").shared_by_images is shared


def test_an_experiment_whose_intervals_are_over_images_is_not_run_under_noise_that_they_share(tmp_path: Path) -> None:
    settings = Settings(("clip_tiny",), reports=tmp_path)
    experiment = NestedPasses(dropout=TiedDropout(over_images=True))
    with pytest.raises(
        McdoError, match=r"exp0_nested_mc: TiedDropout\(.*over_images=True\) gives all images of a pass"
    ):
        Runner(Session(settings)).run(experiment, Subject("clip_tiny", ("clip_tiny",)))
