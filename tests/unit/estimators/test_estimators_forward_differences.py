"""First order without a gradient, against gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import scipy
import torch
from tiny_tower import tiny_encoder
from torch import nn

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.chosen_passes import RIDGES, following, near_one
from mcdo.estimators.forward_differences import ForwardDifferencesRun, forward_differences
from mcdo.perturbation import Rademacher, check_alive, deterministic_features
from mcdo.perturbation.stages import StagedTower

KIND = Rademacher(0.01)


@pytest.fixture(scope="module", params=["clip_tiny", "siglip_tiny"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return mcdo.load_encoder(request.param, "cpu")


@pytest.fixture(scope="module")
def tiny() -> Encoder:
    """Where the tower does not matter."""
    return tiny_encoder()


@pytest.fixture(scope="module")
def images() -> mcdo.ImageSet:
    return mcdo.load_images("digits", n=16)


def staged(encoder: Encoder, kind: Rademacher = KIND, seed: int = 1) -> StagedTower:
    return StagedTower(encoder, kind, check_alive(encoder, encoder.calibration_inputs(1), kind), seed)


def test_the_expectation_is_that_of_gradients(encoder: Encoder, images: mcdo.ImageSet) -> None:
    run = forward_differences(encoder, images, KIND, 30, 6, progress=False)
    exact = mcdo.first_order(encoder, images, mcdo.Dropout(0.01), encoder.feature_dim + 1, 1, progress=False)
    for name in ("trace_pre", "trace_post"):
        found, truth = run.scores(name), exact.scores(name)[0]
        ratio = (found / truth).mean(axis=1)
        assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / np.sqrt(len(ratio)) + 0.01, "a bend of STEP at most"
        assert np.mean([scipy.stats.spearmanr(each, truth)[0] for each in found]) > 0.9
    np.testing.assert_allclose(run.scores("trace_pre", p=0.2), run.scores("trace_pre") * 0.25 / KIND.variance)
    np.testing.assert_array_equal(run.features, exact.features)


def test_each_stage_moves_by_its_own_sites_alone(encoder: Encoder) -> None:
    tower, pixels = staged(encoder), encoder.calibration_inputs(3)
    plain, moved = tower(pixels, (range(2),) * len(tower.stages), 0)
    torch.testing.assert_close(plain, deterministic_features(encoder, pixels), rtol=1e-5, atol=1e-5)
    names = [tower.sites[i].name for stage in tower.stages for i in stage.sites]
    closed = [] if tower.closed is None else [tower.sites[tower.closed].name]
    assert names + closed == [site.name for site in tower.sites]
    costs = [stage.cost for stage in tower.stages]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == 1
    for stage, piece in zip(tower.stages, moved, strict=True):
        assert (piece.norm(dim=-1) > 0).all()
        alone = staged(encoder, Rademacher(0.01, tuple(tower.sites[i].name for i in stage.sites)))
        assert len(alone.stages) <= len(stage.sites)
        if len(alone.stages) == 1:
            (same,) = alone(pixels, (range(2),), 0)[1]
            torch.testing.assert_close(piece, same, rtol=0.02, atol=0.02 * float(same.abs().max()))


def test_blocks_and_a_head_are_stages(encoder: Encoder) -> None:
    starts = [stage.start for stage in staged(encoder).stages]
    if encoder.key == "clip_tiny":
        assert starts == [f"visual.transformer.resblocks.{i}" for i in range(3)]
        assert staged(encoder).closed == len(staged(encoder).sites) - 1, "the projection puts out the feature"
    else:
        blocks = [f"visual.trunk.blocks.{i}" for i in range(3)]
        assert starts == [*blocks, "visual.trunk.attn_pool", "visual.trunk.attn_pool.proj"]
        assert staged(encoder).closed is None


def test_signs_depend_on_no_batch_and_trials_differ(encoder: Encoder) -> None:
    tower, pixels = staged(encoder), encoder.calibration_inputs(4)
    passes = ((0,),) * len(tower.stages)
    _, together = tower(pixels, passes, 0)
    apart = [tower(pixels[i : i + 1], passes, 0)[1] for i in range(4)]
    for n, piece in enumerate(together):
        torch.testing.assert_close(piece, torch.cat([each[n] for each in apart]), rtol=1e-3, atol=1e-3)
        assert not torch.allclose(piece, tower(pixels, passes, 1)[1][n], rtol=0.1)


def test_no_more_passes_than_are_paid_for(encoder: Encoder) -> None:
    tower = staged(encoder)
    costs = [stage.cost for stage in tower.stages]
    spent = [1 + np.dot(tower.allotted(forwards), costs) for forwards in (4, 8, 12, 30)]
    assert all(s <= f for s, f in zip(spent, (4, 8, 12, 30), strict=True))
    assert spent[-1] > 28
    with pytest.raises(McdoError, match="a pass of each costs"):
        tower.allotted(2)


def test_a_run_is_kept_and_found(tiny: Encoder, images: mcdo.ImageSet, tmp_path: Path) -> None:
    few = images.select(np.arange(5))
    run = forward_differences(tiny, few, KIND, 8, 2, store=tmp_path, progress=False)
    again = forward_differences(tiny, few, KIND, 8, 2, store=tmp_path, progress=False)
    assert isinstance(again, ForwardDifferencesRun)
    assert (again.passes, again.stages, again.sites) == (run.passes, run.stages, run.sites)
    np.testing.assert_array_equal(again.scores("trace_post"), run.scores("trace_post"))
    with pytest.raises(McdoError, match="no score"):
        run.scores("entropy_of_nothing")
    with pytest.raises(McdoError, match="Rademacher"):
        forward_differences(tiny, few, mcdo.Dropout(0.01), progress=False)  # type: ignore[arg-type]


def test_threads_share_the_tower_and_not_each_others_rows(encoder: Encoder, images: mcdo.ImageSet) -> None:
    threads, found, few = torch.get_num_threads(), [], images.select(np.arange(8))
    try:
        for each in (1, 4):
            torch.set_num_threads(each)
            found.append(forward_differences(encoder, few, KIND, 8, 2, batch_size=2, progress=False))
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found[1].across, found[0].across)


def test_hooks_are_gone_also_after_an_error(encoder: Encoder) -> None:
    tower = staged(encoder)
    with pytest.raises((AssertionError, RuntimeError)):  # as the tower says it
        tower(torch.rand(1, 3, 7, 7), ((0,),) * len(tower.stages), 0)
    assert not any(module._forward_pre_hooks for module in encoder.model.modules() if isinstance(module, nn.Module))


def test_each_pass_taken_brings_the_mean_closest_to_that_of_all() -> None:
    columns = np.random.default_rng(0).normal(size=(50, 8)) + np.linspace(0, 3, 50)[:, None]
    taken, goal = following(columns, 4), columns.mean(axis=1)
    assert len(set(taken)) == 4
    for count, last in enumerate(taken):
        tried = {
            i: np.corrcoef(columns[:, [*taken[:count], i]].mean(axis=1), goal)[0, 1]
            for i in set(range(8)) - set(taken[:count])
        }
        assert last == max(tried, key=tried.__getitem__)
    assert following(np.ones((20, 3)), 2) == [0, 1], "where nothing varies the first ones do"


def test_weights_are_held_near_one_as_images_left_out_say_best() -> None:
    rng = np.random.default_rng(3)
    columns = rng.gamma(2.0, size=(20, 1)) + rng.normal(size=(20, 5))
    goal = columns @ [1.3, 0.6, 1.0, 1.0, 1.2] + 0.5 * rng.normal(size=20)
    X = columns - columns.mean(axis=0)
    unit = np.square(X).sum() / 5

    def fitted(rows: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
        """Constant and changes of the weights, by least squares with rows for the ridge."""
        design = np.concatenate(
            [np.c_[np.ones(len(rows)), columns[rows]], np.c_[np.zeros(5), np.eye(5) * (ridge * unit) ** 0.5]]
        )
        values = np.concatenate([goal[rows] - columns[rows].sum(axis=1), np.zeros(5)])
        constant, *changes = np.linalg.lstsq(design, values, rcond=None)[0]
        return constant, np.array(changes)

    errors = {}
    for ridge in RIDGES:
        without = [fitted(np.delete(np.arange(20), i), ridge) for i in range(20)]
        errors[ridge] = np.mean([(goal[i] - c - columns[i] @ (1 + w)) ** 2 for i, (c, w) in enumerate(without)])
    best = min(RIDGES, key=errors.__getitem__)
    np.testing.assert_allclose(near_one(columns, goal), 1 + fitted(np.arange(20), best)[1], rtol=1e-9)
    np.testing.assert_array_equal(near_one(np.ones((20, 3)), goal), np.ones(3))
    assert (near_one(np.c_[goal, -3 * goal], goal) >= 0).all()


def test_passes_chosen_on_other_images_rank_better_at_the_same_cost_and_keep_the_level() -> None:
    clip = mcdo.load_encoder("clip_tiny", "cpu")
    held = mcdo.load_images("digits", n=80)
    scored, others = held.select(np.arange(40, 80)), held.select(np.arange(40))
    exact = mcdo.first_order(clip, scored, mcdo.Dropout(0.01), clip.feature_dim + 1, 1, progress=False)
    truth = exact.scores("trace_post")[0]
    plain, chosen = (
        forward_differences(clip, scored, KIND, 12, 5, calibration=of, progress=False) for of in (None, others)
    )
    assert chosen.passes == plain.passes
    assert (plain.calibrated, chosen.calibrated) == ("", others.name)
    found = [[scipy.stats.spearmanr(each, truth)[0] for each in run.scores("trace_post")] for run in (chosen, plain)]
    assert scipy.stats.ttest_ind(*found, alternative="greater").pvalue < 0.05
    for name in ("trace_pre", "trace_post"):
        ratio = chosen.scores(name).mean() / exact.scores(name).mean()
        assert 0.95 < ratio < 1.05
    with pytest.raises(McdoError, match=r"40 of the scored originals would be calibrated on, such as .*: use others"):
        forward_differences(clip, held, KIND, 12, 1, calibration=others, progress=False)
    with pytest.raises(McdoError, match="5 images to calibrate on: give at least 16"):
        forward_differences(clip, scored, KIND, 12, 1, calibration=others.select(np.arange(5)), progress=False)


def test_passes_are_chosen_once_for_all_images_and_every_p(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = mcdo.load_images("digits", n=32)
    others, here, there = (held.select(np.arange(i, j)) for i, j in ((0, 16), (16, 20), (20, 32)))

    def run(shown: mcdo.ImageSet, p: float, store: Path | None, seed: int = 1) -> ForwardDifferencesRun:
        kind = Rademacher(p)
        return forward_differences(tiny, shown, kind, 6, 2, seed, calibration=others, store=store, progress=False)

    expected = run(there, 0.2, None)
    run(here, 0.01, tmp_path)

    def refused(*args: object) -> None:
        raise AssertionError("candidates are looked at again")

    monkeypatch.setattr(sys.modules["mcdo.estimators.chosen_passes"], "of_every_image", refused)
    np.testing.assert_array_equal(run(there, 0.2, tmp_path).across, expected.across)
    with pytest.raises(AssertionError, match="again"):
        run(there, 0.2, tmp_path, seed=2)


def test_a_pass_has_the_signs_of_its_number(encoder: Encoder) -> None:
    tower, pixels = staged(encoder), encoder.calibration_inputs(2)
    some = tower(pixels, ((4, 1),) * len(tower.stages), 3)[1]
    every = tower(pixels, (range(5),) * len(tower.stages), 3)[1]
    for piece, whole in zip(some, every, strict=True):
        torch.testing.assert_close(piece, whole[:, [4, 1]], rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
