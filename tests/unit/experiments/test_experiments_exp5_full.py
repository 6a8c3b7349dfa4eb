from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import Array, made_up_run
from scipy import stats

import mcdo
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp5_full_ambiguity as exp5
from mcdo.experiments import exp5_retrieval as retrieval
from mcdo.experiments.bench import Bench, Settings
from mcdo.images import load_images
from mcdo.images.retrieval import RetrievalItem, read_items

CONFIG = exp5.Exp5FullConfig(n=240)


def clustered(follow: float = 1.0) -> tuple[MonteCarloRun, Array, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """60 originals in four variants each; the norm tells entropy well, the score as well as ``follow`` says."""
    rng = np.random.default_rng(0)
    origins = [f"digit{i:04d}" for i in range(60)] * 4
    logits = np.tile(3 * rng.normal(size=(60, 3)), (4, 1))
    logits = np.stack([logits + 0.1 * rng.normal(size=logits.shape) for _ in range(3)])
    entropy = stats.entropy(np.exp(logits[0]), axis=1)
    score = follow * entropy + rng.normal(size=240) + 5
    norm = np.exp(-entropy + 0.05 * rng.normal(size=240))
    run = made_up_run({"trace_pre": score[None], "trace_post": score[None]}, norm=norm, origins=origins)
    return run, logits, rng.integers(0, 3, 240)


def test_figures_count_originals_and_the_score_is_compared_with_the_norm() -> None:
    run, logits, labels = clustered()
    found = exp5.compute(CONFIG, run, logits, labels)
    assert found.originals == 60
    assert {estimate.n for table in found.figures.values() for estimate in table.values()} == {60}
    norm = found.figures[f"{exp5.BASELINE}/softmax"]["rho_uncertainty_vs_entropy"]
    assert norm.low > 0.8
    assert found.gain["trace_pre"].estimate.high < 0, "the norm is the better score here, and it must show"
    assert found.gain["trace_pre"].p_holm < 0.05
    score = found.figures["trace_pre/softmax"]["rho_uncertainty_vs_entropy"]
    entropy = found.targets["softmax"].entropy
    assert score.value == pytest.approx(stats.spearmanr(found.scores["trace_pre"], entropy).statistic)
    assert found.gain["trace_pre"].estimate.value == pytest.approx(score.value - norm.value)
    assert found.accuracy == pytest.approx(np.mean(logits[0].argmax(axis=1) == labels))


def test_a_score_that_is_the_entropy_beats_the_norm() -> None:
    run, logits, labels = clustered(follow=1e6)
    gain = exp5.compute(CONFIG, run, logits, labels).gain["trace_pre"]
    assert gain.estimate.low > 0


def test_the_protocol_is_the_published_one_and_quick_has_variants_too() -> None:
    full, quick = exp5.Exp5FullConfig.of("full"), exp5.Exp5FullConfig.of("quick")
    assert (full.n, full.passes, full.trials) == (10_000, 64, 1)
    assert quick.n > 600, "fewer would leave the bootstrap over originals untried"


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    run, logits, labels = clustered()
    found = exp5.compute(CONFIG, run, logits, labels)
    images = load_images("digits", 3)
    overall = exp5.write(CONFIG, run, images, found, tmp_path, "session")
    folder = tmp_path / exp5.FOLDER / "clip_tiny"
    summary = json.loads((folder / "exp5_full_summary.json").read_text())
    assert summary["originals"] == summary["n"] == 60
    assert summary["rho_uncertainty_vs_entropy_ci"][0] < summary["rho_uncertainty_vs_entropy"]
    assert set(summary["rho_entropy_above_negative_norm"]) == set(exp5.SCORES)
    assert json.loads(overall.read_text())["skipped"]["clip_tiny"] == []
    with np.load(folder / "exp5_full_outputs.npz", allow_pickle=False) as arrays:
        assert arrays["uncertainty"].shape == (240,)
    assert (folder / f"{exp5.FOLDER}.png").stat().st_size > 10_000


ITEMS = (
    RetrievalItem("a.png", ("x", "y"), 0),
    RetrievalItem("b.png", ("y", "x", "z"), 0),
    RetrievalItem("c.png", ("z", "x"), 1),
)


def test_gap_and_rank_by_hand() -> None:
    texts = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], dtype=np.float32)
    assert retrieval.prompts(ITEMS) == ["x", "y", "z"]
    images = np.array([[5.0, 0.0], [4.0, 0.0], [3.0, 3.0]], dtype=np.float32)
    gap, rank = retrieval.gap_and_rank(ITEMS, images, texts)
    half = 1 / np.sqrt(2)
    # a: x 1, y 0; b: y 0, x 1, z .71, so y is third; c: z 1, x .71, so x is second
    np.testing.assert_allclose(gap, [1, 1 - half, 1 - half], atol=1e-12)
    assert rank.tolist() == [1, 3, 2]


def test_rank_and_order_of_gaps_do_not_depend_on_norms() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    gap, rank = retrieval.gap_and_rank(ITEMS, images, texts)
    scaled = retrieval.gap_and_rank(ITEMS, images * np.float32(7), texts * np.float32(0.5))
    np.testing.assert_allclose(scaled[0], gap, atol=1e-6)
    assert scaled[1].tolist() == rank.tolist()


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 digits as PNG files, each with the right caption and two wrong ones, in the embedded vocabulary."""
    folder = tmp_path_factory.mktemp("retrieval")
    images = load_images("digits", 30)
    assert images.labels is not None
    entries = []
    for i, label in enumerate(images.labels):
        images.image(i).save(folder / f"{i:02d}.png")
        names = [images.class_names[(label + step) % 10] for step in (3, 0, 7)]
        entries.append(
            {"image_path": f"{i:02d}.png", "captions": [f"a photo of a {n}" for n in names], "correct_index": 1}
        )
    (folder / "items.json").write_text(json.dumps(entries))
    return folder / "items.json"


def test_retrieval_of_real_images_and_captions(captioned: Path, tmp_path: Path) -> None:
    config = exp5.Exp5FullConfig(passes=16)
    bench, items = Bench(Settings(models=("clip_tiny",))), read_items(captioned)
    run = bench.run(retrieval.retrieval_need(config, "clip_tiny", captioned))
    texts = bench.text_features("clip_tiny", retrieval.prompts(items))
    found = retrieval.compute_retrieval(config, run, items, texts)

    assert run.ids == tuple(f"{i:02d}.png" for i in range(30))
    digits = mcdo.load_images("digits", 30)
    encoder = bench.encoder("clip_tiny")
    assert texts.shape == (10, encoder.feature_dim)
    # the same digits by their own path: equal features, so the PNG files are what was shown
    np.testing.assert_allclose(run.features, bench.features("clip_tiny", 30), atol=1e-5)
    assert digits.labels is not None
    assert found.recall.value > 0.7, "one of three captions by chance; the encoder reads digits"
    assert ((found.rank == 1).mean()) == found.recall.value
    for name in (*exp5.SCORES, "negative_norm"):
        assert np.isfinite(found.figures[name]["rho_uncertainty_vs_negative_gap"].value)

    overall = retrieval.write_retrieval(config, run, captioned, found, tmp_path, "session")
    held = json.loads(overall.read_text())["retrieval"]["clip_tiny"]
    assert held["recall_at_1"]["n"] == 30
    assert held["file"] == "items.json"
    with np.load(tmp_path / exp5.FOLDER / "clip_tiny" / "exp5_full_retrieval.npz", allow_pickle=False) as arrays:
        assert arrays["rank"].tolist() == found.rank.tolist()


def test_captions_that_the_text_tower_cannot_tell_apart_are_refused_by_name() -> None:
    items = (RetrievalItem("a.png", ("x", "X"), 0), *ITEMS[1:])
    texts = np.array([[1.0, 0.0], [1.0, 1e-7], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
    assert retrieval.prompts(items) == ["x", "X", "y", "z"]
    with pytest.raises(McdoError, match=r"a\.png: the captions 'x' and 'X' are the same to the text tower"):
        retrieval.gap_and_rank(items, np.ones((3, 2), dtype=np.float32), texts)
