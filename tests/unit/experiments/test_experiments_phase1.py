from __future__ import annotations

from pathlib import Path

import pytest

import mcdo
from mcdo.errors import NotApplicableError
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.experiments.phase1.exp0b_norm_geometry import NormGeometry
from mcdo.experiments.phase1.exp4_subset_recipe import SubsetRecipe
from mcdo.experiments.phase1.exp5_subset_ambiguity import SubsetAmbiguity
from mcdo.experiments.phase1.verdict import Phase1Verdict
from mcdo.harness import ALL_MODELS, Runner, Session, Settings, Sizes, Subject
from mcdo.harness.requests import Passes, merged
from mcdo.perturbation import Dropout


def test_exp4_is_inside_exp0_s_run() -> None:
    (run,) = merged([NestedPasses().run("m"), SubsetRecipe().run("m")])
    assert isinstance(run, Passes)
    assert run.config.passes == (4, 8, 16, 32, 64, 128, 256)
    assert run.config.trials == 10
    assert run.config.geometry == (64,)


def test_the_full_protocol_is_the_published_one() -> None:
    zero, four, five = NestedPasses(), SubsetRecipe(), SubsetAmbiguity()
    assert (zero.n, zero.trials, zero.passes[0], zero.passes[-1], zero.dropout.p) == (500, 10, 4, 256, 0.01)
    assert (four.n, four.trials, four.passes) == (500, 10, 64)
    assert (five.n, five.trials, five.passes) == (5000, 1, 64)


def test_passes_that_all_agree_have_no_geometry(tmp_path: Path) -> None:
    settings = Settings(("clip_tiny",), reports=tmp_path)
    rare = NormGeometry(n=12, passes=4, trials=3, dropout=Dropout(1e-4, sites=("visual.proj",)))
    with pytest.raises(NotApplicableError, match=r"of 36 trials of an image all 4 passes agree"):
        Runner(Session(settings)).run(rare, Subject("clip_tiny", ("clip_tiny",)))


def test_a_head_that_knows_nothing_leaves_a_verdict_of_reliability(tmp_path: Path) -> None:
    """Validity alone is unknown then, of each model whose head it is; GO speaks of reliability."""
    for i, image in enumerate(mcdo.load_images("digits", 60)):  # shuffled: the classes say nothing of the images
        folder = tmp_path / "images" / ("three", "seven")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{i}.png")
    models = ("clip_tiny", "siglip_tiny")
    sizes = Sizes(num_images=60, passes=(4,), trials=2)
    shown, reports = f"folder:{tmp_path / 'images'}", tmp_path / "reports"
    settings = Settings(models, images=shown, sizes=sizes, reports=reports, figures=False, thumbnails=False)
    verdict = Runner(Session(settings)).run(Phase1Verdict.configured(settings), Subject(ALL_MODELS, models)).result
    assert {cell.model for cell in verdict.cells} == set(models)
    assert {row.outcome for row in verdict.validity} == {"not applicable"}
    assert len(verdict.statements) == 4
    assert all("validity unknown (the zero-shot head is right on" in said for said in verdict.statements)
