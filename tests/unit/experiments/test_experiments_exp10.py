from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up_runs import Array, made_up_run, noisy
from numpy.typing import NDArray

from mcdo.encoders import Prompts, TextTower, load_encoder
from mcdo.encoders.recipe import CLASS_NAMES
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp10_text_tower as exp10
from mcdo.experiments.bench import Bench, Settings
from mcdo.experiments.prompt_bank import (
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
from mcdo.perturbation import Dropout
from mcdo.stats import group_differences

BANK = bank("clip_tiny", CLASS_NAMES)
CONFIG = exp10.Exp10Config()

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
    assert exp10.crossed(tokens, specificity(texts, tokens)).mean() > 0.8
    published = [prompt.text for prompt in BANK if prompt.frame in PUBLISHED.values()]
    few = np.array([len(text.split()) for text in published])
    assert not exp10.crossed(few, specificity(published, few)).any()


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


def test_a_prompt_s_origin_is_its_class_and_itself_where_it_names_none() -> None:
    origins: dict[str, set[str]] = {}
    for prompt in BANK:
        origins.setdefault(prompt.origin, set()).add(prompt.text)
    for name in CLASS_NAMES:
        assert all(name in text.split() for text in origins[name])
    generic = {prompt.text for prompt in BANK if prompt.style == "generic"}
    assert generic
    assert all(origins[text] == {text} for text in generic)
    assert set(origins) == {*CLASS_NAMES, *generic}


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
    assert Prompt("something", "own", "something", "something") in found
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
    with pytest.raises(McdoError, match="cannot be read as UTF-8"):
        read_prompts(tmp_path / "bytes.tsv", "clip_tiny")


# ---- length held fixed


def test_ranks_among_prompts_of_one_length_by_hand() -> None:
    ranks = exp10.same_length_ranks([5.0, 1, 9, 9, 7], [2, 2, 3, 3, 4])
    assert ranks.tolist() == pytest.approx([0.75, 0.25, 0.5, 0.5, 0.5])


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 3)), min_size=1, max_size=30))
def test_no_length_ranks_above_another(rows: list[tuple[int, int]]) -> None:
    values, tokens = (np.array(column) for column in zip(*rows, strict=True))
    ranks = exp10.same_length_ranks(values, tokens)
    for length in set(tokens.tolist()):
        assert ranks[tokens == length].mean() == pytest.approx(0.5)
    np.testing.assert_allclose(exp10.same_length_ranks(np.exp(values) + 100 * tokens, tokens), ranks)


def test_crossed_lengths_by_hand() -> None:
    held = exp10.crossed([2, 2, 3, 3, 4], [0.1, 0.2, 0.3, 0.3, 0.9])
    assert held.tolist() == [True, True, False, False, False]


Made = tuple[tuple[Prompt, ...], NDArray[np.int64], MonteCarloRun, dict[str, Array]]


def made_up(by_length: float = 0.0, by_wording: float = 0.0, by_style: float = 0.0) -> Made:
    """Scores of the bank that grow by given powers of length, unspecific wording and being generic; little noise."""
    rng, texts = np.random.default_rng(0), [prompt.text for prompt in BANK]
    tokens = np.array([len(text.replace("-", " - ").split()) + 1 for text in texts])
    generic = np.array([prompt.style == "generic" for prompt in BANK])
    frames = dict(zip(sorted({prompt.frame for prompt in BANK}), rng.normal(size=99), strict=False))
    shared = np.array([frames[prompt.frame] for prompt in BANK])
    true = np.exp(by_length * np.log(tokens) - by_wording * wording(texts) + by_style * generic + 0.1 * shared)
    scores = {name: noisy(true, 3, rng, 2000) for name in exp10.SCORES}
    norm = np.exp(0.1 * rng.normal(size=len(texts)))
    run = made_up_run(scores, encoder="clip_tiny:text", ids=texts, norm=norm, roles=exp10.ROLES)
    return BANK, tokens, run, dict.fromkeys(exp10.FIRST_ORDER, true)


@cache
def result_of(by_length: float = 0.0, by_wording: float = 0.0, by_style: float = 0.0) -> exp10.Exp10Result:
    return exp10.compute(CONFIG, *made_up(by_length, by_wording, by_style))


def test_a_score_that_follows_length_alone_follows_specificity_only_while_length_is_free() -> None:
    """The published figure's confounding: put back, it passes for a relation to specificity."""
    result = result_of(by_length=1.0)
    found = result.specific["trace_pre"]
    assert found.rho.low > 0.3
    assert abs(found.given.value) < 0.2
    assert found.given.low <= 0 <= found.given.high
    assert result.same_length["trace_pre"].rho.low <= 0 <= result.same_length["trace_pre"].rho.high
    assert result.length["trace_pre"].rho.low > 0.8


def test_a_score_that_follows_wording_is_found_at_fixed_length_though_length_hides_it() -> None:
    result = result_of(by_length=1.0, by_wording=3.0)
    assert result.specific["trace_pre"].given.high < -0.3
    assert result.specific["trace_pre"].given_p_holm < 0.001
    assert result.same_length["trace_pre"].rho.high < -0.3
    assert result.specific["trace_pre"].rho.value > -0.3
    assert result.detects["trace_pre"]["auroc_same_length"].low > 0.5 > result.detects["trace_pre"]["auroc"].low


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
    assert result.styles["trace_pre"]["generic"].n == 15
    assert result.ratio.value == pytest.approx(1, abs=0.01)


def test_scores_of_other_prompts_and_prompts_that_are_not_crossed_are_refused() -> None:
    prompts, tokens, run, linear = made_up()
    with pytest.raises(McdoError, match="other prompts"):
        exp10.compute(CONFIG, prompts[::-1], tokens, run, linear)
    alone = np.arange(len(prompts))
    with pytest.raises(McdoError, match="length cannot be held fixed"):
        exp10.compute(CONFIG, prompts, alone, run, linear)


# ---- first order of the text tower


def test_first_order_traces_are_those_of_a_jacobian() -> None:
    """Against a Jacobian column by column: silence one unit of the last map, and everything before it stays."""
    tower = TextTower(load_encoder("clip_tiny", device="cpu"))
    tokens = tower.tokenize(["a two", "something that might be a six"])
    found = exp10.first_order_traces(tower, tokens, Dropout(0.01, "final_projection"))
    features = tower.encode_text(["a two", "something that might be a six"]).double().numpy()
    norm = np.square(features).sum(1)
    np.testing.assert_allclose(found["first_order_pre"], 0.01 / 0.99 * norm / features.shape[1], rtol=1e-5)
    # of diag(x²), the part across x: |x|² - Σ x⁴/|x|²
    across = norm - (features**4).sum(1) / norm
    np.testing.assert_allclose(found["first_order_post"], 0.01 / 0.99 * across / norm / features.shape[1], rtol=1e-5)


def test_first_order_is_what_monte_carlo_measures_at_a_small_p(tmp_path: Path) -> None:
    encoder = load_encoder("clip_tiny", device="cpu")
    settings = Settings(models=("clip_tiny",), store=tmp_path)
    bench, kind = Bench(settings), exp10.Exp10Config(dropout=Dropout(0.005)).perturbation
    texts = tuple(prompt.text for prompt in sample(BANK, 24, 0))
    config = exp10.Exp10Config(passes=96, trials=3, dropout=Dropout(0.005)).protocol
    run = bench.run_on("clip_tiny", Prompts(texts), config)
    found = exp10.first_order_traces(TextTower(encoder), encoder.tokenize(texts), kind)
    for score, linear in zip(("trace_pre", "trace_post"), found.values(), strict=True):
        ratios = run.scores(score, 96) / linear  # masks differ between prompts, so each is a draw
        error = ratios.std(ddof=1) / np.sqrt(ratios.size)
        assert error < 0.06
        assert abs(ratios.mean() - 1) < 4 * error
    # and from the store alone, without a model
    again = Bench(Settings(models=("clip_tiny",), store=tmp_path, from_store=True))
    again_run = again.run_on("clip_tiny", Prompts(texts), config)
    np.testing.assert_array_equal(again_run.scores("trace_pre", 96), run.scores("trace_pre", 96))
    assert again.loads == Counter()
    with pytest.raises(McdoError, match="run once without --from-store"):
        again.run_on("clip_tiny", Prompts((*texts[:3], "a new prompt")), config)


def test_wide_features_are_probed_and_agree_with_the_sum_over_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = TextTower(load_encoder("clip_tiny", device="cpu"))
    tokens = tower.tokenize([prompt.text for prompt in sample(BANK, 40, 0)])
    kind = exp10.Exp10Config().perturbation
    exact = exp10.first_order_traces(tower, tokens, kind)
    monkeypatch.setattr(exp10, "EXACT_UP_TO", 40)
    probed = exp10.first_order_traces(tower, tokens, kind)
    for name, values in exact.items():
        assert not np.array_equal(probed[name], values)
        assert probed[name].mean() / values.mean() == pytest.approx(1, abs=0.3)
    assert torch.is_grad_enabled()


# ---- configuration and files


def test_the_matched_roles_are_asked_for_unless_the_session_names_sites() -> None:
    assert CONFIG.perturbation == Dropout(0.01, exp10.ROLES)
    assert {"qkv", "attention_output"} <= set(CONFIG.protocol.dropout.sites)
    assert exp10.Exp10Config(dropout=Dropout(0.02, "mlp")).perturbation == Dropout(0.02, "mlp")
    assert (CONFIG.n, CONFIG.protocol.passes, CONFIG.protocol.trials) == (1000, (64,), 3)
    assert exp10.needs(CONFIG, "clip_tiny") == []


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    prompts, _, run, _ = made_up(by_style=1.0)
    result = result_of(by_style=1.0)
    overall = exp10.write(CONFIG, prompts, run, result, tmp_path, "session")
    folder = tmp_path / exp10.FOLDER / "clip_tiny"
    summary = json.loads((folder / "exp10_summary.json").read_text())
    assert json.loads(overall.read_text())["results"]["clip_tiny"] == summary
    assert summary["num_prompts"] == len(json.loads((folder / "exp10_prompt_manifest.json").read_text())) == len(BANK)
    assert summary["sites"]["requested"] == list(exp10.ROLES)
    assert summary["specificity_given_tokens"]["trace_pre"]["given"]["n"] == result.frames
    with np.load(folder / "exp10_outputs.npz", allow_pickle=False) as arrays:
        assert arrays["trace_pre_trials"].shape == (3, len(BANK))
        assert arrays["prompts"].tolist() == [prompt.text for prompt in BANK]
    assert (folder / f"{exp10.FOLDER}.png").stat().st_size > 10_000
