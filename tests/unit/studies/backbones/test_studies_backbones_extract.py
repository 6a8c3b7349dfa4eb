"""Extraction survives a kill, has one writer, and does not mix."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import begin
from PIL import Image

from mcdo.errors import McdoError
from mcdo.studies.backbones.extract import extract, shard_path, shard_views
from mcdo.studies.backbones.features import merge
from mcdo.studies.backbones.plants import FileSource, PlantImages, View, load_plants
from mcdo.studies.backbones.registry import Backbone, load_backbone
from mcdo.studies.backbones.wilting import Wilting, wilting_plants


@cache
def few_plants() -> PlantImages:
    """Two plants in six rounds: 36 images."""
    return wilting_plants(Wilting(groups=1, rounds=6, size=32))


def stopping(out: Path) -> None:
    """What the killed process does: it stops for good after two blocks of five."""
    colour, seen = load_backbone("mean_colour"), list[int]()

    def slow(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        if sum(seen) > 12:
            time.sleep(600)
        return colour.forward(pixels)

    extract(few_plants(), replace(colour, forward=slow), out, block=5, batch_size=1)


@pytest.fixture
def plants() -> PlantImages:
    return few_plants()


@pytest.fixture
def colour() -> Backbone:
    return load_backbone("mean_colour")


def _counting(backbone: Backbone) -> tuple[Backbone, list[int]]:
    shown: list[int] = []

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        shown.append(len(pixels))
        return backbone.forward(pixels)

    return replace(backbone, forward=forward), shown


def _same(one: Path, two: Path) -> bool:
    return one.read_bytes() == two.read_bytes()


def test_a_killed_extraction_goes_on_in_the_middle_of_a_plant(
    tmp_path: Path, plants: PlantImages, colour: Backbone
) -> None:
    out = tmp_path / "killed" / "f.h5"
    process = begin(stopping, out)
    try:
        blocks = out.with_name("f.h5.blocks")
        deadline = time.monotonic() + 120
        while len(list(blocks.glob("block-*.h5"))) < 2:
            assert process.exitcode is None, "the process ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(McdoError, match=r"f\.h5 is being written by another process"):
            extract(plants, colour, out)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    assert plants.views[9].plant == plants.views[10].plant, "the kill must fall inside a plant"

    counting, shown = _counting(colour)
    resumed = extract(plants, counting, out, block=7)
    assert sum(shown) == len(plants.views) - 10
    assert _same(resumed, extract(plants, colour, tmp_path / "whole.h5"))
    assert sorted(path.name for path in out.parent.iterdir() if not path.name.startswith(".")) == ["f.h5"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_saves_every_finished_batch_and_nothing_is_left_at_the_end(
    name: str, tmp_path: Path, plants: PlantImages, colour: Backbone
) -> None:
    def ended(pixels: torch.Tensor) -> torch.Tensor:
        if len(shown) == 3:
            os.kill(os.getpid(), getattr(signal, name))
        shown.append(len(pixels))
        return colour.forward(pixels)

    shown: list[int] = []
    out = tmp_path / "f.h5"
    with pytest.raises(KeyboardInterrupt):
        extract(plants, replace(colour, forward=ended), out, batch_size=4)
    for half in (".f.h5.123", "f.h5.blocks/.block-00000004.h5.123"):
        (tmp_path / half).write_bytes(b"half a file of a process that was killed")
    counting, again = _counting(colour)
    extract(plants, counting, out, batch_size=4)
    assert sum(again) == len(plants.views) - 12
    assert _same(out, extract(plants, colour, tmp_path / "whole.h5"))
    (tmp_path / "f.h5.blocks").mkdir()  # killed between the file and the end
    extract(plants, colour, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.h5", "whole.h5"]


def test_a_whole_file_is_not_extracted_again(tmp_path: Path, plants: PlantImages, colour: Backbone) -> None:
    path = extract(plants, colour, tmp_path / "f.h5")
    counting, shown = _counting(colour)
    assert extract(plants, counting, path) == path
    assert shown == []


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_blocks_and_batches_change_nothing(
    tmp_path: Path, plants: PlantImages, colour: Backbone, shards: int
) -> None:
    out = tmp_path / "f.h5"
    pieces = [
        extract(plants, colour, out, shard=i, shards=shards, block=11, batch_size=4) for i in range(1, shards + 1)
    ]
    assert pieces == [shard_path(out, i, shards) for i in range(1, shards + 1)]
    merged = merge(pieces, tmp_path / "merged.h5", plants)
    assert _same(merged, extract(plants, colour, tmp_path / "whole.h5"))


def test_shards_are_a_partition(plants: PlantImages) -> None:
    for shards in (1, 4, 7):
        parts = [shard_views(plants, i, shards) for i in range(1, shards + 1)]
        assert [view for part in parts for view in part] == list(plants.views)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(McdoError, match="counted from 1"):
        shard_views(plants, 0, 2)


def test_another_backbone_or_other_weights_are_refused(tmp_path: Path, plants: PlantImages, colour: Backbone) -> None:
    path = extract(plants, colour, tmp_path / "f.h5")
    before = path.read_bytes()
    with pytest.raises(McdoError, match="has backbone = 'mean_colour', not 'round_only'"):
        extract(plants, load_backbone("round_only"), path)
    with pytest.raises(McdoError, match="has weights = "):
        extract(plants, replace(colour, weights="other"), path)
    assert path.read_bytes() == before


def test_a_block_of_another_backbone_is_refused(tmp_path: Path, plants: PlantImages, colour: Backbone) -> None:
    def fail(pixels: torch.Tensor) -> torch.Tensor:
        if len(left) > 5:
            raise RuntimeError("out of memory")
        left.append(len(pixels))
        return colour.forward(pixels)

    left: list[int] = []
    with pytest.raises(RuntimeError, match="out of memory"):
        extract(plants, replace(colour, forward=fail), tmp_path / "f.h5", block=2, batch_size=1)
    with pytest.raises(McdoError, match=r"block-00000000\.h5 has backbone"):
        extract(plants, load_backbone("round_only"), tmp_path / "f.h5")


def test_a_changed_or_added_picture_is_refused(tmp_path: Path, colour: Backbone) -> None:
    paths = {View("p", 0, "top"): tmp_path / "a.png", View("p", 1, "top"): tmp_path / "b.png"}
    for path in paths.values():
        Image.new("RGB", (8, 8), (50, 0, 0)).save(path)
    (tmp_path / "plants.csv").write_text(
        "plant,group,round,day,view,path,onset_day\np,g,0,1,top,a.png,\np,g,1,2,top,b.png,\n", encoding="utf-8"
    )
    plants = load_plants(str(tmp_path / "plants.csv"))
    assert isinstance(plants.source, FileSource)
    out = extract(plants, colour, tmp_path / "f.h5")
    Image.new("RGB", (8, 8), (60, 0, 0)).save(tmp_path / "a.png")
    with pytest.raises(McdoError, match="p/0/top has changed"):
        extract(plants, colour, out)


def test_a_feature_of_another_size_is_refused_before_anything_is_written(
    tmp_path: Path, plants: PlantImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcdo.studies.backbones import registry

    wrong = replace(registry.BACKBONES["mean_colour"], feature_size=768)
    monkeypatch.setitem(registry.BACKBONES, "mean_colour", wrong)
    with pytest.raises(McdoError, match=r"gives features of \(3,\), but \(768,\) is stated"):
        extract(plants, load_backbone("mean_colour"), tmp_path / "f.h5")
    assert not list(tmp_path.iterdir())


def test_mean_colour_is_the_mean_of_the_pixels(plants: PlantImages, colour: Backbone) -> None:
    picture, _ = plants.source.load(plants.views[0])
    expected = np.asarray(picture, dtype=np.float64).mean(axis=(0, 1)) / 255
    found: Any = colour.features([picture])[0]
    assert np.allclose(found, expected, rtol=1e-6)
