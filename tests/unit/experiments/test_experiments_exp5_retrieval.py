from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.experiments.phase2.exp5_full_ambiguity import BASELINE
from mcdo.experiments.phase2.exp5_retrieval import (
    OPTION,
    CaptionRetrieval,
    RetrievalResult,
    figures,
    gap_and_rank,
    prompts,
)
from mcdo.harness import Completed, Features, Images, Runner, Session, Settings, Subject
from mcdo.images import load_images
from mcdo.images.retrieval import RetrievalItem
from mcdo.report.files import read_json

MODEL = Subject("clip_tiny", ("clip_tiny",))
ITEMS = (
    RetrievalItem("a.png", ("x", "y"), 0),
    RetrievalItem("b.png", ("y", "x", "z"), 0),
    RetrievalItem("c.png", ("z", "x"), 1),
)


def test_gap_and_rank_by_hand() -> None:
    texts = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]], dtype=np.float32)
    assert prompts(ITEMS) == ("x", "y", "z")
    images = np.array([[5.0, 0.0], [4.0, 0.0], [3.0, 3.0]], dtype=np.float32)
    gap, rank = gap_and_rank(ITEMS, images, texts)
    half = 1 / np.sqrt(2)
    # a: x 1, y 0; b: y 0, x 1, z .71, so y is third; c: z 1, x .71, so x is second
    np.testing.assert_allclose(gap, [1, 1 - half, 1 - half], atol=1e-12)
    assert rank.tolist() == [1, 3, 2]


def test_rank_and_order_of_gaps_do_not_depend_on_norms() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(3, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    gap, rank = gap_and_rank(ITEMS, images, texts)
    scaled = gap_and_rank(ITEMS, images * np.float32(7), texts * np.float32(0.5))
    np.testing.assert_allclose(scaled[0], gap, atol=1e-6)
    assert scaled[1].tolist() == rank.tolist()


def test_a_wrong_caption_is_any_but_the_first() -> None:
    score, rank = np.random.default_rng(0).normal(size=40), np.repeat([1, 2, 1, 3], 10)
    found = figures(score, np.linspace(1, 2, 40), rank, None)
    above = score[rank > 1][:, None] > score[rank == 1]
    assert found["auroc_wrong_caption"].value == pytest.approx(above.mean())


def test_captions_that_the_text_tower_cannot_tell_apart_are_refused_by_name() -> None:
    items = (RetrievalItem("a.png", ("x", "X"), 0), *ITEMS[1:])
    texts = np.array([[1.0, 0.0], [1.0, 1e-7], [0.0, 1.0], [0.6, 0.8]], dtype=np.float32)
    assert prompts(items) == ("x", "X", "y", "z")
    with pytest.raises(McdoError, match=r"a\.png: the captions 'x' and 'X' are the same to the text tower"):
        gap_and_rank(items, np.ones((3, 2), dtype=np.float32), texts)


def test_without_a_file_nothing_is_asked_and_every_claim_says_why(tmp_path: Path) -> None:
    completed = run(Settings(("clip_tiny",), reports=tmp_path))
    assert (completed.inputs.requests, completed.result, completed.files) == ((), None, ())
    assert {judgement.outcome for judgement in completed.judgements.values()} == {"not applicable"}
    assert all(OPTION in judgement.beside for judgement in completed.judgements.values())


def test_a_wrong_entry_stops_its_own_experiment_only(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text('[{"image_path": 3}]')
    settings = Settings(("clip_tiny",), reports=tmp_path, own_data={OPTION: str(tmp_path / "items.json")})
    runner, experiment = Runner(Session(settings)), CaptionRetrieval.configured(settings)
    runner.plan(experiment, MODEL)
    with pytest.raises(McdoError, match=r"items\.json: \[0\]\.image_path is 3: Expected str"):
        runner.run(experiment, MODEL)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 digits as PNG files, the first of them twice, with the right caption and two wrong ones."""
    folder = tmp_path_factory.mktemp("retrieval")
    images = load_images("digits", 30)
    assert images.labels is not None
    entries = []
    for i, digit in enumerate((*range(30), 0)):
        names = [images.class_names[(images.labels[digit] + step) % 10] for step in (3, 0, 7)]
        images.image(digit).save(folder / f"{i:02d}.png")
        entries.append(
            {"image_path": f"{i:02d}.png", "captions": [f"a photo of a {n}" for n in names], "correct_index": 1}
        )
    (folder / "items.json").write_text(json.dumps(entries))
    return folder / "items.json"


def run(settings: Settings) -> Completed[RetrievalResult | None]:
    return Runner(Session(settings)).run(CaptionRetrieval.configured(settings), MODEL)


def test_retrieval_of_real_images_and_captions(captioned: Path, tmp_path: Path) -> None:
    given = Settings(("clip_tiny",), protocol="quick", reports=tmp_path, own_data={OPTION: str(captioned)})
    runner = Runner(Session(given))
    completed = runner.run(CaptionRetrieval.configured(given), MODEL)
    result, experiment = completed.result, completed.experiment
    assert result is not None
    assert isinstance(experiment, CaptionRetrieval)
    shown = completed.inputs[experiment.run("clip_tiny")]
    assert shown.ids == tuple(f"{i:02d}.png" for i in range(31))
    # the same digits by their own path: equal features, so the PNG files are what was shown
    digits = runner.session.measure(Features("clip_tiny", Images(30)))["features"]
    np.testing.assert_allclose(shown.features, digits[[*range(30), 0]], atol=1e-5)
    assert result.recall.value > 0.7, "one of three captions by chance; the encoder reads digits"
    assert (result.rank == 1).mean() == result.recall.value
    scores = {name: shown.scores(name)[0] for name in experiment.reported} | {BASELINE: -shown.feature_norm}
    for name, score in scores.items():
        rho = scipy.stats.spearmanr(score, -result.gap).statistic
        assert result.figures[name]["rho_uncertainty_vs_negative_gap"].value == pytest.approx(rho)
    assert {judgement.outcome for judgement in completed.judgements.values()} <= {"met", "not met", "undecided"}

    folder = tmp_path / "phase2" / experiment.name
    held = read_json(folder / "exp5_full_overall_summary.json", "")["retrieval"]["clip_tiny"]
    assert (held["num_images"], held["recall_at_1"]["n"]) == (31, 30), "a copy is no draw of its own"
    assert {e["n"] for table in held["scores"].values() for e in table.values()} == {30}
    assert held["file"] == "items.json"
    assert held["config"]["retrieval"] == str(captioned)
    with np.load(folder / "clip_tiny" / "exp5_full_retrieval.npz", allow_pickle=False) as arrays:
        assert arrays["rank"].tolist() == result.rank.tolist()
