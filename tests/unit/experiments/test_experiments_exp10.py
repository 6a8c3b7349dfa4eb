from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_inputs import inputs_of
from made_up_runs import Array, made_up_run, noisy
from numpy.typing import NDArray

import mcdo
from mcdo.encoders import Prompts, TextTower, load_encoder
from mcdo.encoders.recipe import CLASS_NAMES
from mcdo.encoders.text_tower import Tokens
from mcdo.errors import McdoError
from mcdo.estimators import TRACES, FirstOrderRun, MonteCarloRun
from mcdo.experiments.phase4.exp10_text_tower.experiment import FIRST_ORDER, ROLES, TextTowerDropout
from mcdo.experiments.phase4.exp10_text_tower.fixed_length import (
    crossed,
    frame_means,
    generic_differences,
    level_ratio,
    same_length_ranks,
    style_means,
)
from mcdo.experiments.phase4.exp10_text_tower.prompt_bank import (
    NEGATIVE,
    POSITIVE,
    PUBLISHED,
    Prompt,
    bank,
    read_prompts,
    sample,
    specificity,
    unknown_words,
    wording,
)
from mcdo.experiments.phase4.exp10_text_tower.result import TextResult
from mcdo.harness import FirstOrder, Inputs, Passes, Request, Session, Settings, TokenCounts
from mcdo.perturbation import Dropout
from mcdo.schema import plain
from mcdo.stats import group_differences, partial_spearman, spearman

BANK = bank("clip_tiny", CLASS_NAMES)
EXPERIMENT = TextTowerDropout()

# ---- the bank


def test_the_bank_of_the_embedded_encoders_keeps_to_their_words_and_repeats_nothing() -> None:
    assert not [prompt.text for prompt in BANK if unknown_words(prompt.text)]
    assert len({prompt.text for prompt in BANK}) == len(BANK)
    assert set(Counter(prompt.style for prompt in BANK)) == {*PUBLISHED, "generic"}
    for style, frame in PUBLISHED.items():
        assert {frame.format(name) for name in CLASS_NAMES} <= {p.text for p in BANK if p.style == style}


def test_no_prompt_of_the_bank_is_cut_by_the_context_of_the_embedded_encoders() -> None:
    tower = TextTower(load_encoder("clip_tiny", device="cpu"))
    assert tower.token_counts([prompt.text for prompt in BANK]).max() < tower.blank(1).shape[1]


def test_style_and_specificity_are_crossed_with_length() -> None:
    """The published bank has one frame for each style: at any one length all its prompts are equally specific."""
    texts = [prompt.text for prompt in BANK]
    tokens = np.array([len(text.replace("-", " - ").split()) + 1 for text in texts])
    assert crossed(tokens, specificity(texts, tokens)).mean() > 0.8
    published = [prompt.text for prompt in BANK if prompt.frame in PUBLISHED.values()]
    few = np.array([len(text.split()) for text in published])
    assert not crossed(few, specificity(published, few)).any()


def test_other_encoders_get_the_published_generic_prompts_and_no_frames_for_numbers() -> None:
    texts = {prompt.text for prompt in bank("clip_b32", ["tench", "goldfish"])}
    assert {"a visual concept", "a blurry object", "a photo of a tench", "something that might be a goldfish"} <= texts
    assert not any("number" in text or "scan" in text for text in texts)


def test_a_sample_follows_the_seed_and_is_sorted_and_takes_all_where_there_are_few() -> None:
    drawn = sample(BANK, 50, 3)
    assert drawn == sample(BANK, 50, 3) == tuple(sorted(drawn))
    assert drawn != sample(BANK, 50, 4)
    assert len(set(drawn)) == 50
    assert sample(BANK, 1000, 0) == BANK


# ---- specificity


@pytest.mark.parametrize(
    ("prompt", "tokens", "by_hand"),
    [
        ("a dog", 2, (0.06 + 0.25) / 1.25),
        ("a detailed close-up photo of a dog in natural lighting", 12, (0.36 + 0.24 + 0.25) / 1.25),
        ("something that might be a dog", 6, (0.18 - 0.10 + 0.25) / 1.25),
        ("an unknown blurry object, possibly a thing", 7, 0.0),
        ("a dog", 500, 0.85 / 1.25),
    ],
)
def test_specificity_is_the_published_figure(prompt: str, tokens: int, by_hand: float) -> None:
    assert specificity([prompt], [tokens])[0] == pytest.approx(max(0, by_hand))


def test_words_are_whole_and_none_is_in_both_lists() -> None:
    assert not POSITIVE & NEGATIVE
    assert wording(["anything within coloring", "Something", "something, something", "lighting"]).tolist() == [
        0, -0.1, -0.2, 0.08,
    ]  # fmt: skip


# ---- a file of prompts


def lines(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "prompts.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


GOOD = tuple(f"simple\ta {name}" for name in CLASS_NAMES[:6])


def test_a_file_of_prompts_is_read_sorted_each_a_frame(tmp_path: Path) -> None:
    found = read_prompts(lines(tmp_path, "own\tsomething", *GOOD), "clip_tiny")
    assert [prompt.text for prompt in found] == sorted(prompt.text for prompt in found)
    assert Prompt("something", "own", "something") in found
    assert len(found) == 7


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("simple a one", "line 7: 'simple a one' is not 'style<TAB>prompt'"),
        ("simple\t", "line 7"),
        ("\ta one", "line 7"),
        ("simple\ta one\tmore", "line 7"),
        ("", "line 7: '' is not"),
        (GOOD[2], "line 7: the prompt 'a two' stands in the file already"),
        ("simple\ta handwriten one", "line 7: clip_tiny does not know the word 'handwriten' .nearest: handwritten"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(tmp_path: Path, row: str, said: str) -> None:
    with pytest.raises(McdoError, match=said):
        read_prompts(lines(tmp_path, *GOOD, row), "clip_tiny")


def test_words_are_only_checked_for_encoders_with_few(tmp_path: Path) -> None:
    assert len(read_prompts(lines(tmp_path, *GOOD, "simple\ta dog"), "clip_b32")) == 7


def test_a_file_that_is_missing_too_short_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="cannot be read"):
        read_prompts(tmp_path / "none.tsv", "clip_tiny")
    with pytest.raises(McdoError, match="2 prompts are too few"):
        read_prompts(lines(tmp_path, *GOOD[:2]), "clip_tiny")
    (tmp_path / "bytes.tsv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(McdoError, match="is UTF-16 or no text at all"):
        read_prompts(tmp_path / "bytes.tsv", "clip_tiny")


# ---- length held fixed


def test_ranks_among_prompts_of_one_length_by_hand() -> None:
    ranks = same_length_ranks([5.0, 1, 9, 9, 7], [2, 2, 3, 3, 4])
    assert ranks.tolist() == pytest.approx([0.75, 0.25, 0.5, 0.5, 0.5])


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 3)), min_size=1, max_size=30))
def test_no_length_ranks_above_another(rows: list[tuple[int, int]]) -> None:
    values, tokens = (np.array(column) for column in zip(*rows, strict=True))
    ranks = same_length_ranks(values, tokens)
    for length in set(tokens.tolist()):
        assert ranks[tokens == length].mean() == pytest.approx(0.5)
    np.testing.assert_allclose(same_length_ranks(np.exp(values) + 100 * tokens, tokens), ranks)


def test_crossed_lengths_by_hand() -> None:
    held = crossed([2, 2, 3, 3, 4], [0.1, 0.2, 0.3, 0.3, 0.9])
    assert held.tolist() == [True, True, False, False, False]


@dataclasses.dataclass(frozen=True)
class Made:
    prompts: tuple[Prompt, ...]
    tokens: NDArray[np.int64]
    run: MonteCarloRun
    first_order: Array

    def inputs(self, **parts: Any) -> Inputs:
        """As a session would give them; first-order scores [K, N] are the same before and after normalisation."""

        def value(request: Request[Any]) -> Any:
            if isinstance(request, FirstOrder):
                return SimpleNamespace(
                    scores=lambda name: self.first_order, config=SimpleNamespace(trials=len(self.first_order))
                )
            return self.run if isinstance(request, Passes) else {"tokens": self.tokens}

        images, encoder = SimpleNamespace(class_names=CLASS_NAMES), SimpleNamespace(feature_dim=64)
        return inputs_of(value, image_set=images, encoders={"clip_tiny": encoder}, **parts)


def made_up(by_length: float = 0.0, by_wording: float = 0.0, by_style: float = 0.0) -> Made:
    """Scores of the bank that grow by given powers of length, unspecific wording and being generic; little noise."""
    rng, texts = np.random.default_rng(0), [prompt.text for prompt in BANK]
    tokens = np.array([len(text.replace("-", " - ").split()) + 1 for text in texts])
    generic = np.array([prompt.style == "generic" for prompt in BANK])
    of_frame = dict(zip(sorted({prompt.frame for prompt in BANK}), rng.normal(size=99), strict=False))
    shared = np.array([of_frame[prompt.frame] for prompt in BANK])
    true = np.exp(by_length * np.log(tokens) - by_wording * wording(texts) + by_style * generic + 0.1 * shared)
    scores = {name: noisy(true, 3, rng, 2000) for name in TRACES}
    norm, origins = np.exp(0.1 * rng.normal(size=len(texts))), [prompt.frame for prompt in BANK]
    run = made_up_run(scores, encoder="clip_tiny:text", ids=texts, origins=origins, norm=norm, roles=ROLES)
    return Made(BANK, tokens, run, true[None])


@cache
def result_of(by_length: float = 0.0, by_wording: float = 0.0, by_style: float = 0.0) -> TextResult:
    return EXPERIMENT.compute(made_up(by_length, by_wording, by_style).inputs())


def test_a_score_that_follows_length_alone_follows_specificity_only_while_length_is_free() -> None:
    """The published figure's confounding: put back, it passes for a relation to specificity."""
    result = result_of(by_length=1.0)
    found = result.specific["trace_pre"]
    assert found.rho.low > 0.3
    assert abs(found.given.value) < 0.2
    assert found.given.low <= 0 <= found.given.high
    assert result.same_length["trace_pre"].rho.low <= 0 <= result.same_length["trace_pre"].rho.high
    assert result.length["trace_pre"].rho.low > 0.8


def test_relations_are_given_the_norm_or_the_length_as_they_say() -> None:
    result = result_of(by_length=1.0)
    score, target, tokens, norm = result.scores["trace_pre"], result.specificity, result.tokens, result.feature_norm
    for found, other, held in (
        (result.specific, target, tokens),
        (result.given_norm, target, norm),
        (result.length, tokens, norm),
    ):
        assert found["trace_pre"].given.value == pytest.approx(partial_spearman(score, other, held).value)


def test_a_score_that_follows_wording_is_found_at_fixed_length_though_length_hides_it() -> None:
    result = result_of(by_length=1.0, by_wording=3.0)
    assert result.specific["trace_pre"].given.high < -0.3
    assert result.specific["trace_pre"].given_p_holm < 0.001
    assert result.same_length["trace_pre"].rho.high < -0.3
    assert result.specific["trace_pre"].rho.value > -0.3
    assert result.detects["trace_pre"]["auroc_same_length"].low > 0.5 > result.detects["trace_pre"]["auroc"].low


def test_a_score_is_set_against_what_costs_nothing_by_how_unspecific_a_prompt_is() -> None:
    """A score points one way: up where less is said. Norm and length may be read either way."""
    result = result_of(by_wording=3.0)
    ahead = result.advantage["trace_pre", "feature_norm", "unspecificity"].estimate
    norm = spearman(result.feature_norm, -result.specificity).value
    expected = spearman(result.scores["trace_pre"], -result.specificity).value - abs(norm)
    assert ahead.value == pytest.approx(expected)
    assert expected > 0.1


def test_generic_frames_are_told_from_named_ones_by_frames() -> None:
    result = result_of(by_style=1.0)
    assert result.generic["trace_pre"].exceedance.low > 0.7
    assert result.generic["trace_pre"].exceedance.n == result.frames == len({prompt.frame for prompt in BANK})
    means = {"a": np.arange(5.0), "b": np.arange(5.0) + 1}
    assert group_differences(means)["a", "b"].exceedance.value > 0.5, "the second group is the one that exceeds"
    even = result_of(by_length=1.0)
    assert even.generic["trace_pre"].p_holm > 0.05


def test_intervals_count_frames_not_prompts() -> None:
    result = result_of(by_length=1.0)
    assert result.specific["trace_pre"].rho.n == result.frames < len(BANK) / 5
    assert result.reliability["trace_pre"].n_origins == result.ratio.n == result.frames
    assert result.detects["trace_pre"]["auroc"].n == result.frames
    assert result.styles["trace_pre"]["generic"].n == 15
    assert result.ratio.value == pytest.approx(1, abs=0.01)


def test_frames_are_the_origins_of_prompts_in_every_request() -> None:
    inputs = made_up().inputs()
    passes, linear, counts = EXPERIMENT.requests(inputs)
    assert isinstance(passes, Passes)
    assert isinstance(linear, FirstOrder)
    assert isinstance(counts, TokenCounts)
    texts, frames = tuple(p.text for p in BANK), tuple(p.frame for p in BANK)
    assert passes.shown == linear.shown
    assert (passes.shown.prompts, passes.shown.origins, counts.prompts) == (texts, frames, texts)  # type: ignore[union-attr]
    assert (linear.probes, linear.trials) == (65, 1)
    wide = inputs_of(
        lambda _: None,
        image_set=inputs.images(cast("Any", None)),
        encoders={"clip_tiny": SimpleNamespace(feature_dim=512)},
    )
    many = EXPERIMENT.first_order(wide, BANK)
    assert (many.probes, many.trials) == (16, 5)


def test_prompts_that_are_not_crossed_are_refused() -> None:
    made = made_up()
    alone = dataclasses.replace(made, tokens=np.arange(len(BANK)))
    with pytest.raises(McdoError, match="length cannot be held fixed"):
        EXPERIMENT.compute(alone.inputs())


def test_prompts_of_a_file_take_the_place_of_the_bank_s(tmp_path: Path) -> None:
    path = lines(tmp_path, "own\tsomething", *GOOD)
    settings = Settings(models=("clip_tiny",), own_data={"--prompts": str(path)})
    experiment = TextTowerDropout.configured(settings)
    assert experiment.as_dict()["own"] == str(path)
    found = experiment.prompts(made_up().inputs())
    assert {prompt.text for prompt in found} == {"something", *(f"a {name}" for name in CLASS_NAMES[:6])}
    assert all(prompt.frame == prompt.text for prompt in found)


def test_claims_are_judged_by_their_intervals() -> None:
    outcomes = {c.name: c.judge(result_of(by_style=1.0)).outcome for c in EXPERIMENT.claims()}
    assert outcomes["generic_at_same_length/first_order_pre"] == "met"
    outcomes = {c.name: c.judge(result_of(by_length=1.0)).outcome for c in EXPERIMENT.claims()}
    assert outcomes["repeats/trace_pre"] == "met"
    assert outcomes["specificity_given_length/trace_pre"] != "met"
    (claim,) = (c for c in EXPERIMENT.claims() if c.name == "specificity_given_length/trace_pre")
    assert claim.estimate(result_of(by_length=1.0)) == result_of(by_length=1.0).specific["trace_pre"].given
    assert outcomes["generic_at_same_length/trace_pre"] != "met"
    none = dataclasses.replace(result_of(by_length=1.0), generic={})
    judged = {c.name: c.judge(none) for c in EXPERIMENT.claims()}["generic_at_same_length/trace_pre"]
    assert (judged.outcome, "fewer than two generic frames" in judged.beside) == ("not applicable", True)


# ---- probes that all prompts share


def test_noise_of_probes_is_in_every_interval_about_first_order() -> None:
    """A trial's probes favour one of two parts of the variance, which prompts weigh differently."""
    made = made_up(by_length=1.0)
    rng = np.random.default_rng(3)
    weigh = rng.uniform(size=len(BANK))
    probes = rng.chisquare(3, (5, 2, 1)) / 3
    drawn = made.first_order * (probes[:, 0] * weigh + probes[:, 1] * (1 - weigh))
    probed, blind = (
        EXPERIMENT.compute(dataclasses.replace(made, first_order=held).inputs())
        for held in (drawn, drawn.mean(axis=0, keepdims=True))
    )
    exact = result_of(by_length=1.0)

    def reaches(result: TextResult, name: str) -> Array:
        given, rho = result.specific[name].given, result.length[name].rho
        estimates = (given, rho, result.detects[name]["auroc"], result.generic[name].exceedance)
        return np.array([estimate.high - estimate.low for estimate in estimates])

    assert (reaches(probed, "first_order_pre") > reaches(blind, "first_order_pre")).all()
    assert probed.ratio.high - probed.ratio.low > 3 * (exact.ratio.high - exact.ratio.low)
    np.testing.assert_allclose(reaches(probed, "trace_pre"), reaches(exact, "trace_pre"))  # masks are each prompt's own


def test_the_ratio_to_first_order_covers_what_other_probes_would_have_given() -> None:
    rng, inside = np.random.default_rng(0), 0
    for seed in range(60):
        true = np.exp(0.3 * rng.normal(size=120))
        probes = 1 + 0.05 * rng.normal(size=(5, 1))
        ratio = level_ratio(noisy(true, 3, rng), true * probes, np.arange(120) // 3, seed)
        inside += ratio.low <= 1 <= ratio.high
    assert inside >= 51  # 57 expected; 51 is more than three standard deviations below


def test_too_few_generic_frames_have_no_interval_however_far_apart_they_lie() -> None:
    """The percentile bootstrap of the exceedance says [1, 1] here."""
    prompts = [Prompt(f"{style} {i}", style, f"{style} {i}") for style in ("generic", "simple") for i in range(12)]
    ranks = np.linspace(0.9, 0.1, 24)
    few = generic_differences({"a": ranks[5:]}, prompts[5:], 0)["a"]
    assert few.exceedance.value == 1
    assert np.isnan(few.exceedance.low)
    many = generic_differences({"a": ranks}, prompts, 0)["a"]
    assert 0.5 < many.exceedance.low < many.exceedance.value == 1


def test_frames_count_once_however_many_classes_fill_them() -> None:
    prompts = [Prompt(f"a {i}", "simple", "a {}") for i in range(3)] + [Prompt("a thing", "generic", "a thing")]
    means = frame_means([1.0, 2, 6, 5], prompts)
    assert {style: held.tolist() for style, held in means.items()} == {"generic": [[5.0]], "simple": [[3.0]]}
    assert style_means([1.0, 2, 6, 5], prompts)["simple"].value == 3
    assert np.isnan(style_means([1.0, 2, 6, 5], prompts)["simple"].low), "one frame has no interval"
    assert generic_differences({"a": [1.0, 2, 6, 5]}, prompts, 0) == {}


# ---- first order of the text tower


ALL = 49
"""Probes of clip_tiny that leave no noise: D + 1."""


def text_run(prompts: tuple[str, ...], kind: Dropout, probes: int = ALL, trials: int = 1) -> FirstOrderRun:
    tower, shown = TextTower(load_encoder("clip_tiny", device="cpu")), Prompts(prompts)
    return mcdo.first_order(
        tower,
        cast("Any", shown),
        kind,
        probes,
        trials,
        pixels=lambda: cast("Any", Tokens.of(tower, shown)),
        progress=False,
    )


def test_first_order_of_a_text_tower_is_that_of_a_jacobian() -> None:
    """Against a Jacobian column by column: silence one unit of the last map, and everything before it stays."""
    prompts = ("a two", "something that might be a six", "a photo")
    run = text_run(prompts, Dropout(0.01, "final_projection"))
    tower = TextTower(load_encoder("clip_tiny", device="cpu"))
    features = tower.encode_text(list(prompts)).double().numpy()
    norm = np.square(features).sum(1)
    np.testing.assert_allclose(run.scores("trace_pre")[0], 0.01 / 0.99 * norm / features.shape[1], rtol=1e-5)
    # of diag(x²), the part across x: |x|² - Σ x⁴/|x|²
    across = norm - (features**4).sum(1) / norm
    np.testing.assert_allclose(run.scores("trace_post")[0], 0.01 / 0.99 * across / norm / features.shape[1], rtol=1e-5)


def test_fewer_probes_of_a_text_tower_agree_with_all() -> None:
    prompts, kind = tuple(prompt.text for prompt in sample(BANK, 30, 0)), Dropout(0.01, ROLES)
    exact, probed = text_run(prompts, kind), text_run(prompts, kind, 9, trials=8)
    for score in FIRST_ORDER.values():
        by_trial = probed.scores(score).mean(axis=1) / exact.scores(score).mean()
        error = by_trial.std(ddof=1) / np.sqrt(len(by_trial))
        assert 0 < error < 0.1
        assert abs(by_trial.mean() - 1) < 4 * error


def test_first_order_is_what_monte_carlo_measures_at_a_small_p_and_comes_from_the_store_alone(tmp_path: Path) -> None:
    settings = Settings(models=("clip_tiny",), store=tmp_path)
    session, experiment = Session(settings), TextTowerDropout(passes=96, dropout=Dropout(0.005))
    prompts = sample(BANK, 24, 0)
    asked = experiment.run("clip_tiny", prompts)
    linear = FirstOrder("clip_tiny", asked.shown, experiment.perturbation, ALL)
    run, first_order = session.measure(asked), session.measure(linear)
    for score in FIRST_ORDER.values():
        ratios = run.scores(score, 96) / first_order.scores(score)  # masks differ between prompts, so each is a draw
        error = ratios.std(ddof=1) / np.sqrt(ratios.size)
        assert error < 0.06
        assert abs(ratios.mean() - 1) < 4 * error
    assert first_order.origins == tuple(prompt.frame for prompt in prompts)
    again = Session(dataclasses.replace(settings, from_store=True))
    np.testing.assert_array_equal(again.measure(asked).scores("trace_pre"), run.scores("trace_pre"))
    np.testing.assert_array_equal(again.measure(linear).scores("trace_pre"), first_order.scores("trace_pre"))
    assert again.loads == Counter()
    with pytest.raises(McdoError, match="run once without --from-store"):
        again.measure(experiment.run("clip_tiny", (*prompts[:3], Prompt("a new prompt", "own", "a new prompt"))))


# ---- configuration and files


def test_the_matched_roles_are_asked_for_unless_the_session_names_sites() -> None:
    assert EXPERIMENT.perturbation == Dropout(0.01, ROLES)
    assert {"qkv", "attention_output"} <= set(EXPERIMENT.run("clip_tiny", BANK).config.dropout.sites)
    assert TextTowerDropout(dropout=Dropout(0.02, "mlp")).perturbation == Dropout(0.02, "mlp")
    config = EXPERIMENT.run("clip_tiny", BANK).config
    assert (EXPERIMENT.n, config.passes, config.trials) == (1000, (64,), 3)


def test_the_summary_and_the_arrays_hold_every_prompt() -> None:
    made, result = made_up(by_style=1.0), result_of(by_style=1.0)
    summary = plain(EXPERIMENT.summary(result))
    (manifest,) = EXPERIMENT.documents(made.inputs(), result).values()
    assert summary["num_prompts"] == len(manifest) == len(BANK)
    assert summary["specificity_given_tokens"]["trace_pre"]["given"]["n"] == result.frames
    (arrays,) = EXPERIMENT.arrays(made.inputs(), result).values()
    assert np.shape(arrays["trace_pre_trials"]) == (3, len(BANK))
    assert np.asarray(arrays["prompts"]).tolist() == [prompt.text for prompt in BANK]
