from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

import mcdo
from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import FirstOrderConfig, FirstOrderRun
from mcdo.experiments import exp11_concrete_proxy as exp11
from mcdo.experiments.depth_search import (
    GRADIENT,
    ICC_WEIGHT,
    RANDOM,
    UNIFORM,
    WEIGHTS,
    Budget,
    ChoosingHalf,
    ReportingHalf,
    agreements,
    compare,
    depth_groups,
    split,
)
from mcdo.perturbation import find_sites
from mcdo.stats import AmbiguityTargets, reliability

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
    rho = {name: float(stats.spearmanr(mean, values).statistic) for name, values in half.targets.items()}
    by_hand = rho["neg_margin"] + rho["entropy"] + 0.5 * rho["prompt_sensitivity"] + 0.10 * reliability(scores).icc
    assert agreements(scores[None], half.targets)[0] == pytest.approx(by_hand, abs=1e-12)
    assert half.objective(np.ones(4)) == pytest.approx(by_hand, abs=1e-12)
    alone = agreements(scores[None, :1], half.targets)[0]  # one trial has no ICC
    first = {name: float(stats.spearmanr(scores[0], values).statistic) for name, values in half.targets.items()}
    assert alone == pytest.approx(first["neg_margin"] + first["entropy"] + 0.5 * first["prompt_sensitivity"])


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
    numeric = optimize.approx_fprime(at, lambda x: half.surrogate(x)[0], 1e-6)
    np.testing.assert_allclose(half.surrogate(at)[1], numeric, atol=2e-6)


def test_the_surrogate_stands_for_the_objective() -> None:
    half, _ = halves(400, 2, 0.6)
    drawn = np.random.default_rng(0).uniform(np.log(0.001), np.log(0.1), (40, 4))
    smooth = [half.surrogate(x)[0] for x in drawn]
    assert stats.spearmanr(smooth, [half.objective(np.exp(x)) for x in drawn]).statistic > 0.95


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
    assert best.in_sample == max(choice.in_sample for choice in tried)
    spent.clear()
    choosing.gradient(BUDGET)
    assert 3 <= len(spent) <= BUDGET.candidates
    for odds in spent:
        assert (odds / (1 + odds) > 0.001 - 1e-9).all()
        assert (odds / (1 + odds) < 0.1 + 1e-9).all()


def test_the_same_seed_chooses_the_same() -> None:
    choosing, _ = halves(80, 3, 0.3)
    np.testing.assert_array_equal(choosing.random(BUDGET)[0].p, choosing.random(BUDGET)[0].p)
    np.testing.assert_array_equal(choosing.gradient(BUDGET).p, choosing.gradient(BUDGET).p)


# ---- trap 8: chosen and reported on the same images


def test_no_search_can_be_given_the_reporting_half_and_no_report_the_choosing_one() -> None:
    choosing, reporting = halves(60, 0)
    assert not any(hasattr(reporting, name) for name in ("random", "gradient", "choice", "surrogate"))
    assert not any(hasattr(choosing, name) for name in ("compare", "check_unseen"))


def test_a_choice_is_refused_where_it_was_made() -> None:
    choosing, reporting = halves(60, 0)
    best, _ = choosing.random(BUDGET)
    same = ReportingHalf(choosing.contributions, choosing.targets, choosing.originals)
    with pytest.raises(McdoError, match="chosen on 30 of the originals"):
        same.compare([best], seed=0)
    reporting.check_unseen([best])


def test_variants_of_an_original_stay_in_one_half() -> None:
    parts, targets = made_up(120, np.random.default_rng(0))
    originals = [f"digit {i % 20}" for i in range(120)]
    choosing, reporting = split(parts, targets, originals, 5)
    assert not set(choosing.originals) & set(reporting.originals)
    assert len(choosing.originals) == len(reporting.originals) == 60
    np.testing.assert_array_equal(
        np.sort(np.concatenate([choosing.targets["neg_margin"], reporting.targets["neg_margin"]])),
        np.sort(targets.neg_margin),
    )
    with pytest.raises(McdoError, match="cannot be halved"):
        split(parts, targets, [f"digit {i % 9}" for i in range(120)], 5)


@pytest.mark.parametrize("name", [RANDOM, GRADIENT])
def test_on_null_data_the_gain_in_sample_is_optimistic_and_the_held_out_one_is_not(name: str) -> None:
    inside, outside = [], []
    for seed in range(60):
        choosing, reporting = halves(60, seed)
        uniform = choosing.choice(UNIFORM, np.full(4, 0.01))
        best = choosing.random(BUDGET)[0] if name == RANDOM else choosing.gradient(BUDGET)
        inside.append(best.in_sample - uniform.in_sample)
        outside.append(reporting.objective(best.odds) - reporting.objective(uniform.odds))
    assert stats.ttest_1samp(inside, 0).statistic > 7
    # a group alone repeats a little better than their sum, so chance in the ICC is all that may be left
    assert abs(stats.ttest_1samp(outside, 0).statistic) < 3
    assert np.mean(inside) > 5 * abs(np.mean(outside))


# ---- the comparison on the reporting half


def test_the_comparison_is_paired_and_resamples_originals() -> None:
    rng = np.random.default_rng(0)
    parts, targets = made_up(90, rng, 0.5)
    held = {name: getattr(targets, name) for name in WEIGHTS}
    first, second = parts.sum(-1), parts @ np.array([3.0, 1, 1, 1])
    alone = names(90)
    values, differences = compare({"a": first, "b": second}, held, alone, seed=1, resamples=300)
    whole = agreements(np.stack([first, second]), held)
    assert [values["a"].value, values["b"].value] == pytest.approx(whole.tolist())
    gap = differences["b - a"].estimate
    assert gap.value == pytest.approx(whole[1] - whole[0])
    assert gap.high - gap.low < values["a"].high - values["a"].low, "what both share cancels"
    tripled = {name: np.tile(column, 3) for name, column in held.items()}
    again, _ = compare({"a": np.tile(first, 3), "b": np.tile(second, 3)}, tripled, alone * 3, seed=1, resamples=300)
    assert again["a"].n == values["a"].n == 90
    assert again["a"].high - again["a"].low == pytest.approx(values["a"].high - values["a"].low, rel=0.05)


def test_a_score_against_itself_differs_by_nothing() -> None:
    parts, targets = made_up(50, np.random.default_rng(3))
    held = {name: getattr(targets, name) for name in WEIGHTS}
    _, differences = compare({"a": parts.sum(-1), "b": 2 * parts.sum(-1)}, held, names(50), seed=0, resamples=50)
    found = differences["b - a"]
    assert (found.estimate.low, found.estimate.high, found.p_value) == pytest.approx((0, 0, 1), abs=1e-12)


# ---- the whole of a model


def first_order_run(n: int = 80) -> tuple[FirstOrderRun, AmbiguityTargets]:
    rng = np.random.default_rng(0)
    found = [
        ("v.blocks.0.mlp.fc1", "fc1"),
        ("v.blocks.1.mlp.fc1", "fc1"),
        ("v.blocks.2.mlp.fc1", "fc1"),
        ("v.proj", "p"),
    ]
    parts, targets = made_up(n, rng, 0.8)
    run = FirstOrderRun(
        config=FirstOrderConfig(mcdo.Dropout(), 4, 2, 42),
        encoder="clip_tiny",
        ids=tuple(names(n)),
        origins=tuple(names(n)),
        features=np.ones((n, 4), dtype=np.float32),
        sites=tuple(found),
        provenance={"encoder": "clip_tiny"},
        along=0.1 * parts.mean(0).astype(np.float32),
        across=parts.astype(np.float32),
    )
    return run, targets


CONFIG = exp11.Exp11Config(n=80)
Whole = tuple[FirstOrderRun, exp11.Exp11Result]


@pytest.fixture(scope="module")
def whole() -> Whole:
    run, targets = first_order_run()
    return run, exp11.compute(CONFIG, run, targets)


def test_a_vector_of_p_weighs_contributions_by_its_odds() -> None:
    run, _ = first_order_run()
    groups = depth_groups([name for name, _ in run.sites], 2)
    parts = exp11.contributions(run, "trace_pre", groups)
    uniform = parts @ np.full(2, 0.01 / 0.99)
    np.testing.assert_allclose(uniform, run.scores("trace_pre", p=0.01), rtol=1e-12)
    by_hand = run.scores("trace_pre", p=0.05, sites=groups[0]) + run.scores("trace_pre", p=0.002, sites=groups[1])
    np.testing.assert_allclose(parts @ np.array([0.05 / 0.95, 0.002 / 0.998]), by_hand, rtol=1e-12)


def test_choices_are_levelled_to_the_mean_score_of_the_uniform_p(whole: Whole) -> None:
    run, result = whole
    for score, found in result.searched.items():
        parts = exp11.contributions(run, score, result.groups)
        kept = np.setdiff1d(np.arange(80), result.reported)
        means = {name: (parts[:, kept] @ (p / (1 - p))).mean() for name, p in found.level.items()}
        assert list(means.values()) == pytest.approx([means[UNIFORM]] * 3)
        np.testing.assert_allclose(found.level[UNIFORM], 0.01)
    assert result.searched["trace_pre"].optimism(UNIFORM) == 0


def test_each_choice_and_each_group_alone_stand_beside_the_feature_norm(whole: Whole) -> None:
    run, targets = first_order_run()
    norm = np.exp(np.random.default_rng(1).normal(size=80)).astype(np.float32)
    parts = run.across.copy()
    parts[:, :, 3] = norm**2  # the last map's share of trace_pre is the squared norm: what a search can switch off
    features = np.zeros((80, 4), dtype=np.float32)
    features[:, 0] = norm
    scaled = dataclasses.replace(run, features=features, across=parts, along=np.zeros_like(run.along))
    found = exp11.compute(CONFIG, scaled, targets)
    relations = found.relations["trace_pre"]
    assert relations["group_3", "feature_norm"].rho.value == pytest.approx(1)
    assert relations[UNIFORM, "feature_norm"].rho.low > relations[GRADIENT, "feature_norm"].rho.value
    u = exp11.contributions(scaled, "trace_pre", found.groups).mean(0)[found.reported].sum(-1)
    plain = stats.spearmanr(u, targets.entropy[found.reported]).statistic
    assert relations[UNIFORM, "entropy"].rho.value == pytest.approx(plain)
    assert set(whole[1].relations) == set(exp11.SCORES)


def test_monte_carlo_is_asked_for_group_by_group_on_the_reporting_half_only(whole: Whole) -> None:
    run, result = whole
    asked = exp11.confirmation_protocols(CONFIG, result)
    assert [one.dropout.sites for one in asked[GRADIENT]] == list(result.groups)
    np.testing.assert_allclose([one.dropout.p for one in asked[GRADIENT]], result.searched["trace_pre"].level[GRADIENT])
    assert [one.dropout.p for one in asked[UNIFORM]] == pytest.approx([0.01] * 4)
    (joint,) = asked["joint"]
    assert (joint.dropout.p, set(joint.dropout.sites)) == (0.01, {name for name, _ in run.sites})
    assert {(one.passes, one.trials) for one in itertools.chain(*asked.values())} == {((32,), 2)}
    assert exp11.needs(CONFIG, "clip_tiny") == []


def test_files_hold_what_was_found(tmp_path: Path, whole: Whole) -> None:
    run, result = whole
    level, parts = result.searched["trace_pre"].level, exp11.contributions(run, "trace_pre", result.groups)
    shown = parts[:, result.reported]
    traces = {name: shown @ (level[name] / (1 - level[name])) for name in (UNIFORM, GRADIENT)}
    confirmed = exp11.confirm(CONFIG, result, {"joint": traces[UNIFORM], **traces})
    assert confirmed.additivity.value == pytest.approx(1)
    first_order = result.searched["trace_pre"].differences[f"{GRADIENT} - {UNIFORM}"].estimate
    assert confirmed.differences[f"{GRADIENT} - {UNIFORM}"].estimate.value == pytest.approx(first_order.value)
    overall = exp11.write(CONFIG, run, result, confirmed, tmp_path, "session")
    folder = tmp_path / exp11.FOLDER / "clip_tiny"
    summary = json.loads((folder / "exp11_summary.json").read_text())
    assert json.loads(overall.read_text())["results"]["clip_tiny"] == summary
    assert summary["objective_weights"]["icc"] == ICC_WEIGHT == 0.1
    assert set(summary["scores"]["trace_pre"]["choices"]) == {UNIFORM, RANDOM, GRADIENT}
    assert summary["images_reported"] == 40
    assert list(json.loads((folder / "exp11_groups.json").read_text())) == [f"group_{i}" for i in range(4)]
    with np.load(folder / "exp11_outputs.npz", allow_pickle=False) as arrays:
        assert arrays["trace_pre_candidates_p"].shape == (24, 4)
        assert arrays["trace_post_contributions"].shape == (2, 80, 4)
    assert (folder / f"{exp11.FOLDER}.png").stat().st_size > 10_000
