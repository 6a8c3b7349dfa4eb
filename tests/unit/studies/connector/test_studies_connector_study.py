"""The whole way from data to files, on small data of one's own and on a random checkpoint; no claim is made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from connector_cases import Case, llava_model

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.store import Store
from mcdo.studies.connector import published
from mcdo.studies.connector.ablation import compare
from mcdo.studies.connector.items import Captioned, digit_items
from mcdo.studies.connector.study import ConnectorConfig, digits_data, json_data, study_encoder, study_llava
from mcdo.studies.connector.training import TrainingConfig
from mcdo.studies.connector.write import table, write

CONFIG = ConnectorConfig(held_out=64, connectors=2, training=TrainingConfig(language_epochs=1, connector_epochs=1))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """160 training digits as a LLaVA-Pretrain file: its JSON, and the root of its images."""
    folder, source = tmp_path_factory.mktemp("llava"), digit_items("digits:train", 160, 0)
    root, entries = folder / "images", []
    root.mkdir()
    for i, item in enumerate(source.items):
        source.images.image(i).save(root / f"{i}.png")
        turns = [{"from": "human", "value": item.prompt}, {"from": "gpt", "value": item.answer}]
        entries.append({"id": str(i), "image": f"{i}.png", "conversations": turns})
    path = folder / "pretrain.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path, root


def test_quick_changes_sizes_only() -> None:
    quick, full = ConnectorConfig.of("quick", 5), ConnectorConfig.of("full", 5)
    assert (quick.held_out, quick.connectors, full.held_out, full.connectors) == (128, 1, 256, 3)
    assert replace(quick, held_out=256, connectors=3, training=full.training) == full
    assert ConnectorConfig.of("quick", 5, max_seq_len=768).tiny.max_seq_len == 768


def test_digits_to_train_on_and_held_out_ones_are_different_pictures() -> None:
    data = digits_data(CONFIG)
    assert (len(data.train), len(data.held_out)) == (1197, 64)
    assert set(data.train.images.content_hashes).isdisjoint(data.held_out.images.content_hashes)


def test_own_data_goes_all_the_way_to_table_figure_and_json(
    encoder: Encoder, own_data: tuple[Path, Path], tmp_path: Path
) -> None:
    data = json_data(CONFIG, *own_data)
    assert (len(data.held_out), len(data.train)) == (64, 96)
    result = study_encoder(encoder, data, CONFIG, Store(tmp_path / "store"))
    assert result.seeds == (42, 43)
    assert len({a.losses["correct"].tobytes() for a in result.ablations}) == 2, "two seeds, two connectors"
    files = write(result, tmp_path / "out")
    held = json.loads(files["json"].read_text(encoding="utf-8"))
    assert held["items"] == 64
    assert held["published"]["losses"]["shuffled"] == published.LOSSES["shuffled"]
    assert held["provenance"]["config"]["training"]["connector_epochs"] == 1
    assert held["connectors"][1]["arms"]["noise"]["difference"]["n"] == 64
    coverage = json.loads(files["coverage"].read_text(encoding="utf-8"))
    assert [e["stage"] for e in coverage["epochs"]["43"]] == ["language", "connector"]
    assert coverage["truncated"]["value"] == 0
    with np.load(files["losses"]) as losses:
        assert np.array_equal(losses["zeroed"][1], result.ablations[1].losses["zeroed"])
    assert files["figure"].read_bytes().startswith(b"\x89PNG")
    rows = [line for line in table(result, compare(result.ablations, 42)).splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 * 6
    again = study_encoder(encoder, data, CONFIG, Store(tmp_path / "store"))
    assert np.array_equal(again.ablations[0].losses["correct"], result.ablations[0].losses["correct"])


@pytest.fixture
def checkpoint(tiny: Case, tmp_path: Path) -> Path:
    from transformers import CLIPImageProcessor

    folder = tmp_path / "checkpoint"
    llava_model(len(tiny.wording.tokenizer), tiny.wording.image_token_id).save_pretrained(folder)
    tiny.wording.tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


def test_a_random_llava_checkpoint_is_ablated_and_its_coverage_is_of_the_whole_file(
    checkpoint: Path, own_data: tuple[Path, Path], tmp_path: Path
) -> None:
    result = study_llava(checkpoint, *own_data, CONFIG, "cpu")
    assert result.coverage.n == 160
    assert len(result.ablations[0].ids) == 64
    assert set(result.ablations[0].losses) == {"correct", "shuffled", "zeroed", "noise", "blank", "caption_only"}
    shuffled = compare(result.ablations)[0]["shuffled"]
    assert abs(shuffled.difference.value) < 0.1, "random weights use no image"
    assert write(result, tmp_path / "out")["figure"].exists()


def test_a_bad_picture_of_a_held_out_item_is_reported_before_the_checkpoint_is_loaded(
    own_data: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(McdoError, match="64 of 64 items cannot be used"):
        study_llava(tmp_path / "no checkpoint", own_data[0], tmp_path, CONFIG, "cpu")


def test_the_published_figures_are_those_of_the_document() -> None:
    assert published.LOSSES == {"correct": 3.5150, "shuffled": 4.4022, "zeroed": 5.2885, "noise": 5.6652}
    deltas = [round(published.LOSSES[arm] - published.LOSSES["correct"], 4) for arm in ("shuffled", "zeroed", "noise")]
    assert deltas == [0.8872, 1.7735, 2.1502], "as the document prints them"


def test_items_chosen_keep_their_images(digits: Captioned) -> None:
    chosen = digits.only([3, 1])
    assert [item.id for item in chosen.items] == [digits.items[3].id, digits.items[1].id]
    assert chosen.rows.tolist() == [3, 1]
    assert chosen.fingerprint != digits.fingerprint
