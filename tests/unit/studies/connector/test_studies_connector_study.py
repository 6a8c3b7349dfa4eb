"""The whole way from data to files, on small data of one's own and on a random checkpoint; no claim is made here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from connector_cases import Case, llava_model

from mcdo.errors import McdoError
from mcdo.harness import Completed, Runner, Session, Settings
from mcdo.studies.connector import ConnectorStudy, TrainingConfig, published
from mcdo.studies.connector.data import Data, Source, load_data
from mcdo.studies.connector.items import Captioned, digit_items
from mcdo.studies.connector.study import ConnectorResult

SMALL: dict[str, Any] = {
    "held_out": 64,
    "connectors": 2,
    "training": TrainingConfig(language_epochs=1, connector_epochs=1),
}


def run(tmp_path: Path, model: str = "siglip_tiny", **own: Any) -> Completed[ConnectorResult]:
    data = {f"--{name.replace('_', '-')}": str(value) for name, value in own.items()}
    settings = Settings((model,), store=tmp_path / "store", reports=tmp_path / "reports", own_data=data)
    study = replace(ConnectorStudy.configured(settings), **{**SMALL, **({"connectors": 1} if len(own) > 2 else {})})
    return Runner(Session(settings)).run(study, study.subjects(settings)[0])


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


def test_the_command_line_decides() -> None:
    quick = ConnectorStudy.configured(Settings(("clip_tiny",), protocol="quick", seed=5))
    full = ConnectorStudy.configured(Settings(("clip_tiny",), seed=5, own_data={"--max-seq-len": "768"}))
    assert (quick.held_out, quick.seeds, full.held_out, full.seeds) == (64, (5,), 256, (5, 6, 7))
    assert (quick.tiny.max_seq_len, full.tiny.max_seq_len) == (512, 768)
    assert "dropout" not in full.as_dict(), "nothing is perturbed"
    for own in ({"--llava-json": "a"}, {"--connector-model": "a"}, {"--max-seq-len": "0"}):
        with pytest.raises(McdoError, match=r"--max-seq-len|--image-root"):
            ConnectorStudy.options(Settings(("clip_tiny",), own_data=own))


def test_digits_to_train_on_and_held_out_ones_are_different_pictures() -> None:
    data = load_data(Source(64, 0, 42))
    assert (len(data.train), len(data.held_out)) == (1197, 64)
    assert set(data.train.images.content_hashes).isdisjoint(data.held_out.images.content_hashes)


def test_variants_of_an_original_are_not_on_both_sides() -> None:
    with pytest.raises(McdoError, match="60 originals are trained on and held out"):
        Data(digit_items("digits", 660, 0), digit_items("digits", 60, 0))


def test_copies_of_a_picture_are_not_on_both_sides(own_data: tuple[Path, Path], tmp_path: Path) -> None:
    entries, root = json.loads(own_data[0].read_text(encoding="utf-8")), tmp_path / "images"
    shutil.copytree(own_data[1], root)
    for entry in list(entries):
        shutil.copy(root / entry["image"], root / f"copy-{entry['image']}")
        entries.append({**entry, "id": f"copy-{entry['id']}", "image": f"copy-{entry['image']}"})
    (tmp_path / "twice.json").write_text(json.dumps(entries), encoding="utf-8")
    data = load_data(Source(64, 4900, 42, str(tmp_path / "twice.json"), str(root)))
    assert set(data.train.origins).isdisjoint(data.held_out.origins)
    assert len(data.train) == 2 * (160 - len(set(data.held_out.origins)))


def test_own_data_goes_all_the_way_to_table_figure_and_json(own_data: tuple[Path, Path], tmp_path: Path) -> None:
    done = run(tmp_path, llava_json=own_data[0], image_root=own_data[1])
    result, files = done.result, {path.name: path for path in done.files}
    assert tuple(result.connectors) == (42, 43)
    assert len({a.losses["correct"].tobytes() for a in result.ablations.values()}) == 2, "two seeds, two connectors"
    assert {path.parent for path in done.files} == {tmp_path / "reports" / "studies" / "connector" / "siglip_tiny"}
    held = json.loads(files["ablation.json"].read_text(encoding="utf-8"))
    assert held["items"] == 64
    assert held["data"]["train"]["items"] == 96
    assert held["published"]["losses"]["shuffled"] == published.LOSSES["shuffled"]
    assert held["config"]["training"]["connector_epochs"] == 1
    assert held["connectors"][1]["arms"]["noise"]["difference"]["n"] == 64
    coverage = json.loads(files["coverage.json"].read_text(encoding="utf-8"))
    assert [e["stage"] for e in coverage["epochs"]["43"]] == ["language", "connector"]
    assert coverage["truncated"]["value"] == 0
    with np.load(files["losses.npz"]) as losses:
        assert np.array_equal(losses["zeroed"][1], result.ablations[43].losses["zeroed"])
    table = files["ablation.md"].read_text(encoding="utf-8").splitlines()
    assert len([line for line in table if line.startswith("| ")]) == 1 + 2 * 6


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
    done = run(tmp_path, llava_json=own_data[0], image_root=own_data[1], connector_model=checkpoint)
    result = done.result
    assert result.coverage.n == 160
    assert len(result.ablations[42].ids) == 64
    assert set(result.ablations[42].losses) == {"correct", "shuffled", "zeroed", "noise", "blank", "caption_only"}
    assert abs(result.compared[42]["shuffled"].difference.value) < 0.1, "random weights use no image"
    assert (tmp_path / "reports" / "studies" / "connector" / "checkpoint" / "ablation.png").exists()


def test_a_bad_picture_of_a_held_out_item_is_reported_before_the_checkpoint_is_loaded(
    own_data: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(McdoError, match="64 of 64 items cannot be used"):
        run(tmp_path, llava_json=own_data[0], image_root=tmp_path, connector_model=tmp_path / "no checkpoint")


def test_the_published_figures_are_those_of_the_document() -> None:
    assert published.LOSSES == {"correct": 3.5150, "shuffled": 4.4022, "zeroed": 5.2885, "noise": 5.6652}
    deltas = [round(published.LOSSES[arm] - published.LOSSES["correct"], 4) for arm in ("shuffled", "zeroed", "noise")]
    assert deltas == [0.8872, 1.7735, 2.1502], "as the document prints them"


def test_items_chosen_keep_their_images(digits: Captioned) -> None:
    chosen = digits.only([3, 1])
    assert [item.id for item in chosen.items] == [digits.items[3].id, digits.items[1].id]
    assert chosen.rows.tolist() == [3, 1]
    assert chosen.fingerprint != digits.fingerprint
