from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run
from numpy.typing import NDArray

import mcdo
from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import FirstOrderConfig, FirstOrderRun
from mcdo.experiments.phase4.exp11_concrete_proxy.experiment import SCORES, ConcreteProxy, contributions
from mcdo.experiments.phase4.exp11_concrete_proxy.objective import ICC_WEIGHT, WEIGHTS, compare, objectives
from mcdo.experiments.phase4.exp11_concrete_proxy.result import Confirmation, ProxyResult
from mcdo.experiments.phase4.exp11_concrete_proxy.search import (
    GRADIENT,
    RANDOM,
    UNIFORM,
    Budget,
    ChoosingHalf,
    ReportingHalf,
    depth_groups,
    split,
)
from mcdo.harness import FirstOrder, Images, Inputs, Logits, Passes, Request
from mcdo.images.sampling import second_half
from mcdo.perturbation import find_sites
from mcdo.schema import plain
from mcdo.stats import AmbiguityTargets, Estimate, ambiguity_targets, reliability
from mcdo.stats.sample import Sample

Array = NDArray[np.float64]
BUDGET = Budget()


def targets_of(difficulty: Array, rng: np.random.Generator) -> AmbiguityTargets:
    n = len(difficulty)
    entropy, sensitivity = (difficulty + 0.3 * rng.normal(size=n) for _ in range(2))
    return AmbiguityTargets(difficulty, entropy, sensitivity, None, np.zeros(n, dtype=np.intp))


def made_up(n: int, rng: np.random.Generator, signal: float = 0.0, groups: int = 4) -> tuple[Array, AmbiguityTargets]:
    """Contributions [2, n, G]: the first group follows the targets by ``signal``, the others nothing."""
    difficulty = rng.normal(size=n)
    base = rng.normal(size=(n, groups))
    base[:, 0] = signal * difficulty + np.sqrt(1 - signal**2) * base[:, 0]
    parts = np.exp(0.5 * base) * np.exp(0.05 * rng.normal(size=(2, n, groups)))
    return parts, targets_of(difficulty, rng)


def names(n: int) -> list[str]:
    return [f"image {i}" for i in range(n)]


def halves(n: int, seed: int, signal: float = 0.0) -> tuple[ChoosingHalf, ReportingHalf]:
    parts, targets = made_up(n, np.random.default_rng(seed), signal)
    return split(parts, targets, names(n), seed)


def sites(blocks: int, head: bool) -> list[str]:
    block = [f"visual.trunk.blocks.{i}.{part}" for i in range(blocks) for part in ("attn.qkv", "attn.proj", "mlp.fc1")]
    return [*block, *(f"visual.trunk.attn_pool.{part}" for part in ("q", "kv", "mlp.fc1") if head)]


# ---- groups by depth


def test_groups_follow_depth_with_the_head_last_and_block_10_after_9() -> None:
    groups = depth_groups(sites(12, head=True), 4)
    assert list(itertools.chain(*groups)) == sites(12, head=True)
    assert [len(group) for group in groups] in ([9, 9, 9, 12], [9, 9, 12, 9], [9, 12, 9, 9], [12, 9, 9, 9])
    assert groups[-1][-1] == "visual.trunk.attn_pool.mlp.fc1"
    assert not any("attn_pool" in name for group in groups[:-1] for name in group)
    of = {name: i for i, group in enumerate(groups) for name in group}
    assert of["visual.trunk.blocks.10.attn.qkv"] >= of["visual.trunk.blocks.9.attn.qkv"]
    assert of["visual.trunk.blocks.10.attn.qkv"] > of["visual.trunk.blocks.2.attn.qkv"]


def test_names_sorted_as_text_are_refused() -> None:
    """The published trap: as text, block 10 stands before block 2."""
    with pytest.raises(McdoError, match="block 10 after block 9"):
        depth_groups(sorted(sites(12, head=True)), 4)


def test_a_digit_inside_a_word_is_no_block_number() -> None:
    groups = depth_groups(["v.layers.0.mlp.fc1", "v.layers.0.mlp.fc2", "v.head.mlp.fc1", "v.head.mlp.fc2"], 2)
    assert groups == (("v.layers.0.mlp.fc1", "v.layers.0.mlp.fc2"), ("v.head.mlp.fc1", "v.head.mlp.fc2"))


def test_fewer_blocks_than_groups_are_refused() -> None:
    with pytest.raises(McdoError, match="2 blocks cannot make 4"):
        depth_groups(sites(2, head=False), 4)


@given(st.integers(1, 12), st.booleans(), st.integers(1, 5))
def test_groups_partition_the_sites_and_cut_no_block(blocks: int, head: bool, count: int) -> None:
    held = sites(blocks, head)
    if blocks + head < count:
        return
    groups = depth_groups(held, count)
    assert list(itertools.chain(*groups)) == held
    assert len(groups) == count
    assert all(groups)
    for block in range(blocks):
        assert sum(any(f".blocks.{block}." in name for name in group) for group in groups) == 1
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 3, "blocks of three: no more than one block apart"


@pytest.mark.parametrize(("key", "last"), [("clip_tiny", {"final_projection"}), ("siglip_tiny", {"pooling_head"})])
def test_in_a_real_tower_the_head_is_the_last_group(key: str, last: set[str]) -> None:
    table = find_sites(load_encoder(key, device="cpu")).select("all")
    groups = depth_groups([site.name for site in table], 4)
    roles = {site.name: site.role.value for site in table}
    assert {roles[name] for name in groups[-1]} == last


# ---- the objective


def test_the_objective_is_the_published_sum() -> None:
    rng = np.random.default_rng(0)
    parts, targets = made_up(80, rng, 0.5)
    half, _ = split(parts, targets, names(80), 0)
    scores = half.contributions.sum(-1)
    mean = scores.mean(0)
    rho = {name: float(scipy.stats.spearmanr(mean, values).statistic) for name, values in half.targets.items()}
    by_hand = rho["neg_margin"] + rho["entropy"] + 0.5 * rho["prompt_sensitivity"] + 0.10 * reliability(scores).icc
    assert objectives(scores[None], half.targets)[0] == pytest.approx(by_hand, abs=1e-12)
    assert half.objective(np.ones(4)) == pytest.approx(by_hand, abs=1e-12)
    alone = objectives(scores[None, :1], half.targets)[0]  # one trial has no ICC
    first = {name: float(scipy.stats.spearmanr(scores[0], values).statistic) for name, values in half.targets.items()}
    assert alone == pytest.approx(first["neg_margin"] + first["entropy"] + 0.5 * first["prompt_sensitivity"])


def test_the_surrogate_has_the_icc_of_the_trials() -> None:
    """Beside what the mean over trials gives alone."""
    half, _ = halves(80, 0, 0.5)
    odds = np.array([0.02, 0.001, 0.05, 0.01])
    mean = ChoosingHalf(half.contributions.mean(0, keepdims=True), half.targets, half.origins)
    icc = half.surrogate(np.log(odds))[0] - mean.surrogate(np.log(odds))[0]
    assert icc == pytest.approx(0.10 * reliability(half.contributions @ odds).icc)


def test_the_level_of_p_is_free() -> None:
    half, _ = halves(60, 1, 0.5)
    odds = np.array([0.02, 0.001, 0.05, 0.01])
    assert half.objective(odds) == pytest.approx(half.objective(7 * odds), abs=1e-12)
    value, slope = half.surrogate(np.log(odds))
    assert half.surrogate(np.log(7 * odds))[0] == pytest.approx(value, abs=1e-12)
    assert slope.sum() == pytest.approx(0, abs=1e-12), "and so the gradient has no part along the level"


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_the_surrogate(seed: int) -> None:
    half, _ = halves(60, seed, 0.4)
    at = np.random.default_rng(seed).uniform(-6, -2, 4)
    numeric = scipy.optimize.approx_fprime(at, lambda x: half.surrogate(x)[0], 1e-6)
    np.testing.assert_allclose(half.surrogate(at)[1], numeric, atol=2e-6)


def test_the_surrogate_stands_for_the_objective() -> None:
    half, _ = halves(400, 2, 0.6)
    drawn = np.random.default_rng(0).uniform(np.log(0.001), np.log(0.1), (40, 4))
    smooth = [half.surrogate(x)[0] for x in drawn]
    assert scipy.stats.spearmanr(smooth, [half.objective(np.exp(x)) for x in drawn]).statistic > 0.95


# ---- the searches


def test_both_searches_find_the_group_that_follows_the_targets() -> None:
    choosing, reporting = halves(600, 0, 0.8)
    best, _ = choosing.random(BUDGET)
    ascended, uniform = choosing.gradient(BUDGET), choosing.choice(UNIFORM, np.full(4, 0.01))
    for choice in (best, ascended):
        assert choice.p.argmax() == 0
        assert reporting.objective(choice.odds) > reporting.objective(uniform.odds) + 0.2
    assert ascended.in_sample >= best.in_sample - 0.02


def test_either_search_spends_the_same_budget_inside_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    choosing, _ = halves(80, 3, 0.3)
    spent: list[Array] = []
    for method in ("objective", "surrogate"):
        original = getattr(ChoosingHalf, method)

        def counted(self: ChoosingHalf, at: Array, original: Any = original, method: str = method) -> Any:
            spent.append(at if method == "objective" else np.exp(at))
            return original(self, at)

        monkeypatch.setattr(ChoosingHalf, method, counted)
    best, tried = choosing.random(BUDGET)
    assert len(spent) == len(tried) == BUDGET.candidates
    np.testing.assert_allclose(tried[0].p, 0.01)
    drawn = np.concatenate([choice.p for choice in tried[1:]])
    assert 0.35 < np.mean(drawn < 0.01) < 0.65, "uniform in the logarithm of p, of .001 to .1"
    assert best.in_sample == max(choice.in_sample for choice in tried)
    spent.clear()
    choosing.gradient(BUDGET)
    assert 3 <= len(spent) <= BUDGET.candidates
    for odds in spent:
        assert (odds / (1 + odds) > 0.001 - 1e-9).all()
        assert (odds / (1 + odds) < 0.1 + 1e-9).all()


# ---- trap 8: chosen and reported on the same images


def test_no_search_can_be_given_the_reporting_half_and_no_report_the_choosing_one() -> None:
    choosing, reporting = halves(60, 0)
    assert not any(hasattr(reporting, name) for name in ("random", "gradient", "choice", "surrogate"))
    assert not any(hasattr(choosing, name) for name in ("compare", "check_unseen"))


def test_a_choice_is_refused_where_it_was_made() -> None:
    choosing, reporting = halves(60, 0)
    best, _ = choosing.random(BUDGET)
    same = ReportingHalf(choosing.contributions, choosing.targets, choosing.origins)
    with pytest.raises(McdoError, match="chosen on 30 of the origins"):
        same.compare([best], seed=0)
    reporting.check_unseen([best])


def test_variants_of_an_origin_stay_in_one_half() -> None:
    parts, targets = made_up(120, np.random.default_rng(0))
    origins = [f"digit {i % 20}" for i in range(120)]
    choosing, reporting = split(parts, targets, origins, 5)
    assert not set(choosing.origins) & set(reporting.origins)
    assert len(choosing.origins) == len(reporting.origins) == 60
    np.testing.assert_array_equal(
        np.sort(np.concatenate([choosing.targets["neg_margin"], reporting.targets["neg_margin"]])),
        np.sort(targets.neg_margin),
    )


@pytest.mark.parametrize("name", [RANDOM, GRADIENT])
def test_on_null_data_the_gain_in_sample_is_optimistic_and_the_held_out_one_is_not(name: str) -> None:
    inside, outside = [], []
    for seed in range(40):
        choosing, reporting = halves(60, seed)
        uniform = choosing.choice(UNIFORM, np.full(4, 0.01))
        best = choosing.random(BUDGET)[0] if name == RANDOM else choosing.gradient(BUDGET)
        inside.append(best.in_sample - uniform.in_sample)
        outside.append(reporting.objective(best.odds) - reporting.objective(uniform.odds))
    assert scipy.stats.ttest_1samp(inside, 0).statistic > 7
    # a group alone repeats a little better than their sum, so chance in the ICC is all that may be left
    assert abs(scipy.stats.ttest_1samp(outside, 0).statistic) < 3
    assert np.mean(inside) > 5 * abs(np.mean(outside))


# ---- the comparison on the reporting half


def test_the_comparison_is_paired_and_resamples_origins() -> None:
    rng = np.random.default_rng(0)
    parts, targets = made_up(90, rng, 0.5)
    held = {name: getattr(targets, name) for name in WEIGHTS}
    first, second = parts.sum(-1), parts @ np.array([3.0, 1, 1, 1])
    alone = names(90)
    values, differences = compare({"a": first, "b": second}, held, alone, seed=1, resamples=300)
    whole = objectives(np.stack([first, second]), held)
    assert [values["a"].value, values["b"].value] == pytest.approx(whole.tolist())
    gap = differences["b - a"].estimate
    assert gap.value == pytest.approx(whole[1] - whole[0])
    assert gap.high - gap.low < values["a"].high - values["a"].low, "what both share cancels"
    tripled = {name: np.tile(column, 3) for name, column in held.items()}
    again, _ = compare({"a": np.tile(first, 3), "b": np.tile(second, 3)}, tripled, alone * 3, seed=1, resamples=300)
    assert again["a"].n == values["a"].n == 90
    assert again["a"].high - again["a"].low == pytest.approx(values["a"].high - values["a"].low, rel=0.05)


def test_a_resample_is_the_objective_of_the_images_drawn() -> None:
    """Multiplicities against repeated columns: the same origins are drawn for scores, targets and ICC."""
    parts, targets = made_up(40, np.random.default_rng(1), 0.5)
    held, scores = {name: getattr(targets, name) for name in WEIGHTS}, parts.sum(-1)
    origins = [f"photo {i // 2}" for i in range(40)]
    values, _ = compare({"a": scores, "b": scores**2}, held, origins, seed=4, resamples=60)
    drawn = Sample(40, origins, 4, 60).units.multiplicities(60, 4).astype(int)
    picked = [np.repeat(np.arange(40), times) for times in drawn]
    by_hand = [objectives(scores[None][..., at], {n: v[at] for n, v in held.items()})[0] for at in picked]
    by_hand.sort()
    assert (values["a"].low, values["a"].high) == pytest.approx((by_hand[1], by_hand[58]), abs=1e-9)


def test_probes_that_all_images_share_are_part_of_the_interval() -> None:
    """Two groups are alike, so choices that mirror each other truly differ by nothing; probes favour one by chance."""
    rng, covered = np.random.default_rng(0), {True: 0, False: 0}
    for seed in range(40):
        difficulty = rng.normal(size=400)
        groups = np.exp(0.8 * (difficulty + rng.normal(size=(2, 400))))
        trials = np.einsum("kg,gn->kng", rng.chisquare(4, (6, 2)) / 4, groups)
        targets = targets_of(difficulty, rng)
        held = {name: getattr(targets, name) for name in WEIGHTS}
        choices = {"a": trials @ np.array([2.0, 1.0]), "b": trials @ np.array([1.0, 2.0])}
        for shared in covered:
            _, differences = compare(choices, held, names(400), shared_noise=shared, seed=seed, resamples=100)
            gap = differences["b - a"].estimate
            covered[shared] += gap.low <= 0 <= gap.high
    assert covered[True] >= 33, "38 expected; 33 is more than three standard deviations below"
    assert covered[False] < 33, "a bootstrap over images alone does not see the probes"


def test_a_difference_may_be_twice_as_large_as_an_objective() -> None:
    """Between a score that follows every target and one that runs against them."""
    held = {name: np.arange(60.0) for name in WEIGHTS}
    along = np.arange(60.0) + 1e-3 * np.random.default_rng(0).normal(size=(5, 60))
    values, differences = compare({"a": along, "b": -along}, held, names(60), shared_noise=True, resamples=50)
    most = sum(WEIGHTS.values())
    assert values["a"].value == pytest.approx(most + ICC_WEIGHT, abs=0.01)
    gap = differences["b - a"].estimate
    assert gap.low <= gap.value <= gap.high <= -1.9 * most


def test_too_few_trials_to_show_shared_noise_are_refused() -> None:
    choosing, reporting = halves(60, 0)
    with pytest.raises(McdoError, match="at least 5 are needed"):
        reporting.compare([choosing.choice(UNIFORM, np.full(4, 0.01))], seed=0)


def test_a_score_against_itself_differs_by_nothing() -> None:
    parts, targets = made_up(50, np.random.default_rng(3))
    held = {name: getattr(targets, name) for name in WEIGHTS}
    _, differences = compare({"a": parts.sum(-1), "b": 2 * parts.sum(-1)}, held, names(50), seed=0, resamples=50)
    found = differences["b - a"]
    assert (found.estimate.low, found.estimate.high, found.p_value) == pytest.approx((0, 0, 1), abs=1e-12)


# ---- the whole of a model


EXPERIMENT = ConcreteProxy(n=80)
BLOCKS = tuple((f"v.blocks.{i}.mlp.fc1", "fc1") for i in range(3))


def first_order_run(parts: Array, features: Array | None = None) -> FirstOrderRun:
    """Of an origin for each image, across [K, N, 4] alone."""
    K, n, _ = parts.shape
    return FirstOrderRun(
        config=FirstOrderConfig(mcdo.Dropout(), 5, K, 42),
        encoder="clip_tiny",
        ids=tuple(names(n)),
        origins=tuple(names(n)),
        features=np.ones((n, 4), dtype=np.float32) if features is None else features.astype(np.float32),
        sites=(*BLOCKS, ("v.proj", "p")),
        provenance={"encoder": "clip_tiny"},
        along=np.zeros(parts.shape[1:], dtype=np.float32),
        across=parts.astype(np.float32),
    )


def inputs(run: FirstOrderRun, logits: Array, width: int = 4) -> Inputs:
    """What a Monte Carlo run at some sites gives is its first-order expectation, for the images asked for."""

    def value(request: Request[Any]) -> Any:
        if isinstance(request, FirstOrder):
            return run
        if isinstance(request, Logits):
            return {"logits": logits}
        assert isinstance(request, Passes)
        assert request.shown == Images(80, half=(42, 1))
        kind = request.config.dropout
        shown = run.scores("trace_pre", p=kind.p, sites=kind.sites)[:, second_half(run.origins, 42)]
        return made_up_run({"trace_pre": np.repeat(shown[:1], request.config.trials, axis=0)}, 32)

    images = SimpleNamespace(labels=None)
    return inputs_of(value, image_set=images, encoders={"clip_tiny": SimpleNamespace(feature_dim=width)})


def made_up_logits(difficulty: Array, rng: np.random.Generator) -> Array:
    """[2, N, 10]; the larger the difficulty, the flatter."""
    plain = rng.normal(size=(len(difficulty), 10))
    both = np.stack([plain, plain + 0.1 * rng.normal(size=plain.shape)])
    return np.asarray(both * (3 * np.exp(-0.6 * difficulty))[:, None])


def measured(trials: int = 1, norm: Array | None = None) -> Inputs:
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=80)
    base = rng.normal(size=(80, 4))
    base[:, 0] = 0.8 * difficulty + 0.6 * base[:, 0]
    parts = np.exp(0.5 * base) * np.exp(0.05 * rng.normal(size=(trials, 80, 4)))
    features = None
    if norm is not None:
        parts[:, :, 3] = norm**2  # the last map's share of trace_pre is the squared norm: what a search can switch off
        features = np.pad(norm[:, None], ((0, 0), (0, 3)))
    return inputs(first_order_run(parts, features), made_up_logits(difficulty, rng))


def run_of(held: Inputs) -> FirstOrderRun:
    return held[EXPERIMENT.first_order(held)]


@pytest.fixture(scope="module")
def whole() -> ProxyResult:
    return EXPERIMENT.compute(measured())


def test_a_vector_of_p_weighs_contributions_by_its_odds() -> None:
    run = run_of(measured())
    groups = depth_groups([name for name, _ in run.sites], 2)
    parts = contributions(run, "trace_pre", groups)
    uniform = parts @ np.full(2, 0.01 / 0.99)
    np.testing.assert_allclose(uniform, run.scores("trace_pre", p=0.01), rtol=1e-12)
    by_hand = run.scores("trace_pre", p=0.05, sites=groups[0]) + run.scores("trace_pre", p=0.002, sites=groups[1])
    np.testing.assert_allclose(parts @ np.array([0.05 / 0.95, 0.002 / 0.998]), by_hand, rtol=1e-12)


def test_choices_are_levelled_to_the_mean_score_of_the_uniform_p(whole: ProxyResult) -> None:
    run = run_of(measured())
    for score, searched in whole.searched.items():
        parts = contributions(run, score, whole.groups)
        choosing = np.setdiff1d(np.arange(80), whole.reported)
        level = searched.search.level
        means = {name: (parts[:, choosing] @ (p / (1 - p))).mean() for name, p in level.items()}
        assert list(means.values()) == pytest.approx([means[UNIFORM]] * 3)
        np.testing.assert_allclose(level[UNIFORM], 0.01)
    of = whole.searched["trace_pre"]
    gains = [choice.in_sample - of.search.choices[UNIFORM].in_sample for choice in of.search.tried]
    best = int(np.argmax(gains))
    assert of.optimism(UNIFORM) == 0
    assert of.optimism(RANDOM) == pytest.approx(gains[best] - (of.candidates[best] - of.candidates[0]))


def test_what_is_said_of_a_candidate_held_out_is_not_what_chose_it(whole: ProxyResult) -> None:
    for searched in whole.searched.values():
        in_sample = np.array([choice.in_sample for choice in searched.search.tried])
        for name, place in ((UNIFORM, 0), (RANDOM, int(in_sample.argmax()))):
            assert searched.candidates[place] == pytest.approx(searched.held_out[name].value)
            assert searched.candidates[place] != pytest.approx(in_sample[place])


def test_each_choice_and_each_group_alone_stand_beside_the_feature_norm() -> None:
    held = measured(norm=np.exp(np.random.default_rng(1).normal(size=80)))
    result = EXPERIMENT.compute(held)
    relations = result.searched["trace_pre"].relations
    assert relations["group_3", "feature_norm"].rho.value == pytest.approx(1)
    assert relations[UNIFORM, "feature_norm"].rho.low > relations[GRADIENT, "feature_norm"].rho.value
    score = contributions(run_of(held), "trace_pre", result.groups).mean(0)[result.reported].sum(-1)
    entropy = ambiguity_targets(held[EXPERIMENT.logits("clip_tiny")]["logits"], None).entropy[result.reported]
    assert relations[UNIFORM, "entropy"].rho.value == pytest.approx(scipy.stats.spearmanr(score, entropy).statistic)
    norm = run_of(held).feature_norm[result.reported]
    plain, of_score, of_entropy = (
        scipy.stats.spearmanr(*pair).statistic for pair in ((score, entropy), (score, norm), (entropy, norm))
    )
    partial = (plain - of_score * of_entropy) / np.sqrt((1 - of_score**2) * (1 - of_entropy**2))
    assert relations[UNIFORM, "entropy"].given.value == pytest.approx(partial)
    assert set(result.searched) == set(SCORES)


def test_first_order_has_no_noise_or_enough_trials_to_show_it() -> None:
    held = measured()
    exact = EXPERIMENT.first_order(held)
    assert (exact.probes, exact.trials, exact.shown) == (5, 1, Images(80))
    wide = EXPERIMENT.first_order(inputs(run_of(held), np.empty(0), width=512))
    assert (wide.probes, wide.trials) == (16, 5)


def test_noise_of_probes_widens_every_interval_over_the_half(whole: ProxyResult) -> None:
    """Five trials with almost no noise say what one exact trial says; noise that images share says less."""
    exact, five = whole.searched["trace_pre"], EXPERIMENT.compute(measured(5)).searched["trace_pre"]
    for name, estimate in five.held_out.items():
        assert estimate.n == exact.held_out[name].n == 40
    noisy = measured(5)
    across = run_of(noisy).across * np.random.default_rng(2).chisquare(4, (5, 1, 4)) / 4
    drawn = dataclasses.replace(run_of(noisy), across=across.astype(np.float32))
    wide = EXPERIMENT.compute(inputs(drawn, noisy[EXPERIMENT.logits("clip_tiny")]["logits"])).searched["trace_pre"]

    mean = dataclasses.replace(
        drawn,
        across=drawn.across.mean(axis=0, keepdims=True),
        config=dataclasses.replace(drawn.config, trials=1),
    )
    alone = EXPERIMENT.compute(inputs(mean, noisy[EXPERIMENT.logits("clip_tiny")]["logits"])).searched["trace_pre"]

    def reach(estimate: Estimate) -> float:
        return estimate.high - estimate.low

    pair = "group_0", "entropy"
    assert wide.relations[pair].rho.value == pytest.approx(alone.relations[pair].rho.value)
    assert reach(wide.relations[pair].rho) > reach(alone.relations[pair].rho)
    assert reach(wide.held_out[UNIFORM]) > reach(five.held_out[UNIFORM])
    assert reach(wide.relations[UNIFORM, "entropy"].rho) > reach(five.relations[UNIFORM, "entropy"].rho)


def test_monte_carlo_is_asked_for_group_by_group_on_the_reporting_half_only(whole: ProxyResult) -> None:
    held = measured()
    search = whole.searched["trace_pre"].search
    asked = EXPERIMENT.confirmation("clip_tiny", whole.groups, search)
    assert list(EXPERIMENT.follow_up(held)) == list(itertools.chain(*asked.values()))
    assert list(EXPERIMENT.requests(held)) == [EXPERIMENT.first_order(held), EXPERIMENT.logits("clip_tiny")]
    assert [one.config.dropout.sites for one in asked[GRADIENT]] == list(whole.groups)
    np.testing.assert_allclose([one.config.dropout.p for one in asked[GRADIENT]], search.level[GRADIENT])
    assert [one.config.dropout.p for one in asked[UNIFORM]] == pytest.approx([0.01] * 4)
    (joint,) = asked["joint"]
    assert (joint.config.dropout.p, set(joint.config.dropout.sites)) == (0.01, {*dict(BLOCKS), "v.proj"})
    every = list(itertools.chain(*asked.values()))
    assert {(one.config.passes, one.config.trials, one.shown) for one in every} == {
        ((32,), 2, Images(80, half=(42, 1)))
    }


def test_what_adds_up_is_confirmed_and_claims_are_judged_by_intervals(whole: ProxyResult) -> None:
    confirmed = whole.confirmed
    assert confirmed.additivity.value == pytest.approx(1)
    first_order = whole.searched["trace_pre"].differences[f"{GRADIENT} - {UNIFORM}"].estimate
    assert confirmed.differences[f"{GRADIENT} - {UNIFORM}"].estimate.value == pytest.approx(first_order.value)
    assert confirmed.additivity.n == len(set(whole.origins)) == 40
    outcomes = outcomes_of(EXPERIMENT, whole)
    assert outcomes["gain/gradient/trace_pre"] == outcomes["gain/monte_carlo/trace_pre"] == "met"
    assert outcomes["groups_add_up/above"] == outcomes["groups_add_up/below"] == "met"
    ahead = next(claim for claim in EXPERIMENT.claims() if claim.name == "gradient_over_random/trace_post")
    compared = whole.searched["trace_post"].differences
    assert (
        ahead.estimate(whole)
        == compared[f"{GRADIENT} - {RANDOM}"].estimate
        != compared[f"{GRADIENT} - {UNIFORM}"].estimate
    )
    nothing = dataclasses.replace(confirmed, additivity=dataclasses.replace(confirmed.additivity, low=0.7, high=0.8))
    doubted = dataclasses.replace(whole, confirmed=nothing)
    outcomes = outcomes_of(EXPERIMENT, doubted)
    assert outcomes["groups_add_up/above"] == "not met"


def test_additivity_is_the_joint_run_over_the_sum_of_groups_and_origins_are_counted() -> None:
    parts, targets = made_up(40, np.random.default_rng(0))
    held = {name: getattr(targets, name) for name in WEIGHTS}
    reporting = ReportingHalf(parts, held, tuple(f"photo {i // 2}" for i in range(40)))
    alone = parts.sum(-1)
    found = Confirmation.of({"joint": 2 * alone, UNIFORM: alone, GRADIENT: alone**2}, reporting, seed=0)
    assert found.additivity.value == pytest.approx(2)
    assert {found.additivity.n, *(each.n for each in found.held_out.values())} == {20}


def test_differences_are_corrected_over_both_scores(whole: ProxyResult) -> None:
    every = [each for of in whole.searched.values() for each in of.differences.values()]
    smallest = min(every, key=lambda each: each.p_value)
    assert len(every) == 6
    assert smallest.p_holm == pytest.approx(min(1.0, 6 * smallest.p_value))


def test_the_summary_says_what_was_chosen_where(whole: ProxyResult) -> None:
    summary = plain(EXPERIMENT.summary(whole))
    assert summary["objective_weights"]["icc"] == ICC_WEIGHT == 0.1
    assert set(summary["scores"]["trace_pre"]["choices"]) == {UNIFORM, RANDOM, GRADIENT}
    assert summary["images_reported"] == 40
    (arrays,) = EXPERIMENT.arrays(measured(), whole).values()
    assert np.shape(arrays["trace_pre_candidates_p"]) == (24, 4)
    assert np.shape(arrays["trace_post_contributions"]) == (1, 80, 4)
