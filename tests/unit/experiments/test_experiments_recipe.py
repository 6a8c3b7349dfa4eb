"""The recipe: the map's groups, the choice on one half, its report on the other, and that chance gains nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy
from recipe_world import CHOSEN_ON, SITES, TOWER, UNSEEN, world

from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import monte_carlo
from mcdo.experiments.recipe import choice as choosing
from mcdo.experiments.recipe.choice import (
    OVER_ALL,
    OVER_TRIVIAL,
    Candidates,
    Trivial,
    choose,
    false_gains,
    fit,
    report,
    resplit,
)
from mcdo.experiments.recipe.experiment import _measured as measured
from mcdo.experiments.recipe.halves import Baseline, Half, check_apart, difference, lower_ends, share_raised
from mcdo.experiments.recipe.sites import Tower, block_of
from mcdo.images import degraded, load_images
from mcdo.images.sampling import second_half
from mcdo.perturbation import Dropout
from mcdo.stats import reliability, share, t_mean

CANDIDATES = Candidates.of(TOWER, probes=8)
FC2 = [3, 7, 11]


# ---- sites


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("visual.transformer.resblocks.11.attn.in_proj", "visual.transformer.resblocks.11"),
        ("visual.trunk.blocks.0.mlp.fc2", "visual.trunk.blocks.0"),
        ("encoder.layers.encoder_layer_3.mlp.0", "encoder.layers.encoder_layer_3"),
        ("vision_model.encoder.layers.7.self_attn.q_proj", "vision_model.encoder.layers.7"),
        ("layers.1.blocks.2.attn.qkv", "layers.1.blocks.2"),
        ("trunk.stages.2.blocks.10.mlp.fc1", "trunk.stages.2.blocks.10"),
        ("visual.proj", ""),
        ("visual.trunk.attn_pool.mlp.fc2", ""),
    ],
)
def test_the_part_of_a_name_that_is_a_block(name: str, block: str) -> None:
    assert block_of(name) == block


def test_blocks_are_numbers_in_the_order_of_execution() -> None:
    tower = Tower.of([(f"visual.blocks.{i}.mlp.fc2", "fc2") for i in range(12)])
    assert tower.blocks == tuple(range(12))
    assert tower.thirds == (0,) * 4 + (1,) * 4 + (2,) * 4
    assert tower.published()["blocks 7 to 9, fc2"].nonzero()[0].tolist() == [7, 8, 9]
    assert tower.published()["last three fc2"].nonzero()[0].tolist() == [9, 10, 11]
    stages = Tower.of([(f"layers.{i}.blocks.{j}.fc1", "fc1") for i in range(3) for j in range(2)])
    assert stages.blocks == tuple(range(6))


def test_sites_sorted_as_text_are_refused() -> None:
    with pytest.raises(McdoError, match="order of execution"):
        Tower.of([(name, "fc2") for name in sorted(f"blocks.{i}.mlp.fc2" for i in range(12))])


def test_groups_and_candidates_are_sets_of_sites_each_once() -> None:
    groups, candidates = TOWER.groups(), TOWER.candidates()
    assert groups["all"].all()
    assert groups["fc2, last third"].nonzero()[0].tolist() == [11]
    assert groups["final_projection"].nonzero()[0].tolist() == [12]
    assert sum(groups[f"block {i}"].sum() for i in range(3)) == 12
    masks = [mask.tobytes() for mask in candidates.values()]
    assert len(set(masks)) == len(masks)
    assert "blocks 0 to 1" in candidates
    assert {mask.tobytes() for mask in TOWER.published().values()} <= set(masks)


def test_a_gradient_passes_what_lies_behind_the_first_site() -> None:
    assert TOWER.reach(np.eye(13)[0]) == 1
    assert TOWER.reach(np.eye(13)[12]) == pytest.approx(1 / 13)
    assert CANDIDATES.cost(np.eye(13)[12]) == pytest.approx(1 + 8 / 13)


# ---- shares


def test_what_is_raised_by_hand() -> None:
    clean = np.ones((1, 2, 2))
    rise = {"a": np.array([[[1.0, -2.0], [0.0, 0.0]]]), "b": np.array([[[1.0, 1.0], [-1.0, 0.5]]])}
    half = Half(clean, rise, ("x", "y"))
    weights = np.array([[1.0, 0.0], [1.0, 1.0]])
    assert half.raised(weights, ["a"])[:, 0].tolist() == [[1, 0], [0, 0]]
    assert half.raised(weights, ["a", "b"])[:, 0].tolist() == [[1, 0], [0.5, 0]]
    flipped = half.flipped({"a": np.array([True, False])})
    assert flipped.raised(weights, ["a"])[:, 0].tolist() == [[0, 0], [1, 0]], "no tie is a rise"


def test_what_rounding_alone_parts_is_no_rise() -> None:
    """A plain picture stays as it is when blurred; its clean passes may be part of a run that was cut at other T."""
    encoder, plain = load_encoder("clip_tiny"), load_images("synthetic:solid", 20)
    runs = {
        spec: monte_carlo(encoder, shown, Dropout(), passes, 2, progress=False)
        for spec, shown, passes in ((None, plain, (4, 64)), ("blur:2", degraded(plain, "blur:2"), (64,)))
    }
    scores = {spec: run.scores("trace_pre", 64) for spec, run in runs.items()}
    assert (scores["blur:2"] > scores[None]).any(), "nothing to tell apart"
    half = measured(scores.__getitem__, ["blur:2"], plain.origins)
    assert half.raised(np.ones((1, 1)), ["blur:2"]).sum() == 0
    for sign in (1, -1):
        free = Baseline(scores[None][0], {"blur:2": scores["blur:2"][0]})
        assert free.raised(["blur:2"], np.ones(20, dtype=np.bool_), {}, sign).sum() == 0


def test_lower_ends_are_those_of_the_intervals() -> None:
    half = world({"fc2": 0.3}, variants=2).scores["trace_pre"]
    raised = half.raised(CANDIDATES.weights, CHOSEN_ON)
    lows = lower_ends(raised, half)
    for i in (0, 3, 10):
        assert lows[i] == pytest.approx(share_raised(raised[i], half).low)
    one = Half(half.clean[:1], {s: r[:1] for s, r in half.rise.items()}, half.origins)
    alone = one.raised(CANDIDATES.weights[:1], CHOSEN_ON[:1])
    assert share_raised(alone[0], one).value == share(alone[0, 0] > 0.5, origins=half.origins).value


def test_a_difference_holds_images_and_trials() -> None:
    half = world({"fc2": 0.3}).scores["trace_pre"]
    first, second = (half.raised(CANDIDATES.weights[i : i + 1], CHOSEN_ON)[0] for i in (0, 4))
    found = difference(first, second, half).estimate
    over_images = t_mean((first - second).mean(axis=0))
    assert found.value == pytest.approx(over_images.value)
    of_trials = (first - second).mean(axis=1)
    reach = scipy.stats.t.ppf(0.975, 4) * of_trials.std(ddof=1) / np.sqrt(5)
    assert found.high - found.value == pytest.approx(np.hypot(over_images.high - over_images.value, reach))
    apart = Half(half.clean, half.rise, half.origins, shared_noise=False)
    assert difference(first, second, apart).estimate == over_images


def test_a_status_is_that_of_the_reliability() -> None:
    for noise in (0.05, 1.0):
        half = world({}, noise=noise).scores["trace_pre"]
        weights = np.ones(len(SITES))
        assert half.status(weights) == reliability(half.scores(weights), resamples=10).status


@pytest.mark.parametrize(("snr", "status"), [(3.3, "usable"), (3.1, "marginal")])
def test_a_status_takes_the_icc_at_its_own_trials(snr: float, status: str) -> None:
    """With five, an ICC of .75 is an SNR of 3.2; a few images with much noise leave the ranks as they are."""
    rng = np.random.default_rng(0)
    noise = 0.05 * rng.normal(size=(5, 200))
    noise[:, :10] *= 60
    noise -= noise.mean(axis=0)
    true = rng.permutation(np.linspace(-1, 1, 200))
    true *= np.sqrt(snr * noise.var(axis=0, ddof=1).mean() / true.var(ddof=1))
    half = Half((true + noise)[..., None], {}, tuple(map(str, range(200))), shared_noise=False)
    assert half.status(np.ones(1)) == status


def test_a_status_takes_the_median_pair_of_trials() -> None:
    """Of images of which a few are far above the others, which no trial ranks as another; two trials are the same."""
    scores = np.random.default_rng(0).normal(size=(5, 200))
    scores[1] = scores[0]
    scores[:, :20] += 100
    half = Half(scores[..., None], {}, tuple(map(str, range(200))), shared_noise=False)
    assert half.status(np.ones(1)) == "failed"


# ---- the choice


def test_all_sites_stand_under_the_score_that_does_best_with_them() -> None:
    seen, unseen = world({role: 0.5 for _, role in SITES}), world({})
    for names in (("trace_pre", "trace_post"), ("trace_post", "trace_pre")):
        scores = dict(zip(names, (seen.scores["trace_pre"], unseen.scores["trace_pre"]), strict=True))
        _, every = choose(replace(seen, scores=scores), CANDIDATES.on_other_halves())
        assert every.score == names[0]
        _, every = choose(replace(seen, scores=dict(reversed(scores.items()))), CANDIDATES.on_other_halves())
        assert every.score == names[0]


def test_the_sites_that_see_the_damage_are_chosen_and_gain_on_the_other_half() -> None:
    data = world({"fc2": 0.5}, n=120)
    chosen, every = choose(data, CANDIDATES)
    assert chosen.name == "fc2" or chosen.name.startswith("fitted")
    assert chosen.weights[FC2].mean() > 3 * np.delete(chosen.weights, FC2).mean()
    found = report(data, chosen, every)
    assert found.gains[OVER_ALL, "chosen on"].estimate.low > 0
    assert found.gains[OVER_TRIVIAL, "not chosen on"].estimate.low > 0
    assert set(found.gains) >= {(OVER_ALL, family) for family in UNSEEN}
    assert chosen.origins.isdisjoint(data.reporting["trace_pre"].origins)


def test_optimism_is_what_a_gain_loses_on_the_other_half() -> None:
    data = world({"fc2": 0.2}, n=40)
    chosen, every = choose(data, replace(CANDIDATES.on_other_halves(), fitted=False))
    inside, outside = (
        [half[each.score].raised(each.weights[None], CHOSEN_ON).mean() for each in (chosen, every)]
        for half in (data.choosing, data.reporting)
    )
    lost = (inside[0] - inside[1]) - (outside[0] - outside[1])
    assert abs(lost) > 0.01
    assert report(data, chosen, every).optimism(OVER_ALL) == pytest.approx(lost)


def test_what_is_reported_is_not_what_was_chosen_on() -> None:
    data = world({})
    chosen, every = choose(data, CANDIDATES)
    with pytest.raises(McdoError, match="both halves"):
        report(data.split_anew(99), chosen, every)
    check_apart(["a"], ["b"])


def test_images_of_one_origin_are_in_one_half() -> None:
    data = world({}, variants=4)
    assert set(data.choosing["trace_pre"].origins).isdisjoint(data.reporting["trace_pre"].origins)


def test_a_choice_that_is_not_reliable_is_passed_over() -> None:
    """One role sees the damage and is all noise; the next best is taken."""
    data = world({"fc2": 0.5, "fc1": 0.3}, n=120)
    noisy = np.array([role == "fc2" for _, role in SITES])
    rng = np.random.default_rng(1)
    shaken = np.exp(3 * rng.normal(size=(5, 120, 1)))
    scores = {}
    for name, half in data.scores.items():
        factor = np.where(noisy, shaken, 1.0)
        scores[name] = Half(half.clean * factor, {s: r * factor for s, r in half.rise.items()}, half.origins)
    unreliable = replace(data, scores=scores)
    chosen, _ = choose(unreliable, CANDIDATES.on_other_halves())
    assert chosen.status == "usable"
    assert not chosen.weights[noisy].any()


def test_equal_lower_ends_are_decided_by_cost() -> None:
    """Where every site sees the damage, the last one is as good as all, and the cheapest."""
    data = world({role: 5.0 for _, role in SITES})
    chosen, _ = choose(data, CANDIDATES)
    assert chosen.cost == min(CANDIDATES.cost(w) for w in CANDIDATES.weights)


def test_fitted_weights_find_the_sites_and_are_steps() -> None:
    half = world({"fc2": 0.5}, n=120).choosing["trace_pre"]
    weights = fit(half, CHOSEN_ON, ridge=0.1)
    assert weights.max() == 1
    assert (weights * choosing.LEVELS == np.round(weights * choosing.LEVELS)).all()
    assert weights[FC2].mean() > 2 * np.delete(weights, FC2).mean()
    everything = {spec: np.ones(120 // 2, dtype=bool) for spec in CHOSEN_ON}
    assert not fit(half.flipped(everything), CHOSEN_ON, 0.1)[FC2].any(), "exchanged, these sites fall"


def test_fitted_weights_are_judged_on_the_fold_that_did_not_fit_them() -> None:
    data = world({"fc2": 0.5}, n=120, variants=2)
    half = data.choosing["trace_pre"]
    fold = second_half(half.origins, data.seed + 1)
    for ridge, (_, _, across) in zip(choosing.RIDGES, choosing._fitted(half, data), strict=True):
        for take in (fold, ~fold):
            others = fit(half.rows(~take), CHOSEN_ON, ridge)
            assert (across[:, take] == half.rows(take).raised(others[None], CHOSEN_ON)[0]).all()


def test_the_best_baseline_is_read_in_the_better_direction() -> None:
    data = world({})
    sharp = data.baselines["sharpness"]
    falling = type(sharp)(sharp.clean, dict.fromkeys(sharp.degraded, sharp.clean - 1))
    found = Trivial.on(replace(data, baselines={"sharpness": falling}))
    assert (found.label, found.share) == ("sharpness down", 1.0)


def test_the_best_baseline_is_that_of_the_half_that_chooses() -> None:
    data = world({})
    clean = data.baselines["sharpness"].clean
    after = dict.fromkeys(data.baselines["sharpness"].degraded, clean + np.where(data.second, -1, 1))
    found = Trivial.on(replace(data, baselines={"sharpness": Baseline(clean, after)}))
    assert (found.label, found.share) == ("sharpness up", 1.0)


def test_a_relative_rise_is_of_the_sum_over_all_sites() -> None:
    """Clean 1 and 3, degraded 2 and 5 at two sites: (1, 2) over 4 + 7."""
    half = Half(np.array([[[1.0, 3.0]]]), {"blur:4%": np.array([[[1.0, 2.0]]])}, ("a",))
    np.testing.assert_allclose(half.relative_rise("blur:4%"), [[1 / 11, 2 / 11]])


def test_nothing_is_gained_among_exchanged_copies() -> None:
    """Also where sites see the damage: at most .05 of the repetitions, by their exact interval."""
    for seeing, variants in (({}, 1), ({"fc2": 0.5}, 2)):
        rate = false_gains(world(seeing, n=60, variants=variants), CANDIDATES.on_other_halves(), 40, seed=0)
        assert rate.low <= 0.05
        assert rate.value <= 0.1


def test_copies_are_exchanged_anew_each_time_by_degradation_and_whole_origins_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nulls: list[choosing.Data] = []

    def exchanged(data: choosing.Data, rng: np.random.Generator) -> choosing.Data:
        nulls.append(of(data, rng))
        return nulls[-1]

    of = choosing.Data.exchanged
    monkeypatch.setattr(choosing.Data, "exchanged", exchanged)
    false_gains(world({}, n=40, variants=2), CANDIDATES.on_other_halves(), 3, seed=0)
    flips = [null.flips[spec] for null in nulls for spec in CHOSEN_ON]
    assert len({each.tobytes() for each in flips}) == 3 * len(CHOSEN_ON)
    assert all((each[::2] == each[1::2]).all() for each in flips)
    assert np.mean(flips) == pytest.approx(0.5, abs=0.15)


def test_a_choice_reported_where_it_was_made_is_caught_by_the_null(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check can fail: with both halves the same, noise that was chosen is reported as a gain."""
    monkeypatch.setattr(choosing, "check_apart", lambda *_: None)
    monkeypatch.setattr(choosing.Data, "reporting", property(lambda self: self.choosing))
    monkeypatch.setattr(choosing.Data, "second", property(lambda self: np.arange(len(self.origins)) < 12))
    data = world({}, n=60)
    data = replace(data, baselines={})
    rng, false = np.random.default_rng(0), 0
    for _ in range(30):
        null = data.exchanged(rng)
        chosen, every = choose(null, CANDIDATES.on_other_halves())
        half = null.choosing[chosen.score]
        own, other = (half.raised(each.weights[None], CHOSEN_ON)[0] for each in (chosen, every))
        test = difference(own, other, half)
        false += test.p_value < 0.05 and test.estimate.value > 0
    assert false / 30 > 0.1


def test_other_halves_say_how_much_better_a_choice_looks_where_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, data = list[int](), world({}, n=40)
    anew = choosing.Data.split_anew

    def noted(self: choosing.Data, seed: int) -> choosing.Data:
        seeds.append(seed)
        return anew(self, seed)

    monkeypatch.setattr(choosing.Data, "split_anew", noted)
    found = resplit(data, CANDIDATES, 6)
    assert len(set(seeds) - {data.seed}) == 6, "none is the half that chose"
    assert np.mean([each.inside - each.outside for each in found]) > 0.05
