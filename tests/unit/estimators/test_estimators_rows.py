"""Rows of a forward pass on CUDA follow from the memory that is free; the arithmetic, without a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import rows

MIB = 2.0**20


@pytest.mark.parametrize(
    ("mib", "expected"),
    [(2.3, rows.MOST_ROWS), (45.0, 528), (5_000.0, 16), (1e9, 16)],
    ids=["bound", "memory", "one block", "at least one block"],
)
def test_rows_are_whole_blocks_of_passes_in_a_share_of_free_memory(
    mib: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder("clip_tiny", weights="random")
    encoder.device = torch.device("cuda")
    monkeypatch.setattr(rows, "_bytes_of_a_row", lambda *_: mib * MIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (78 * 1024 * MIB, 80 * 1024 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 2 * 1024 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1 * 1024 * MIB)
    assert rows.pixel_rows(encoder, None) == expected
    assert rows.pixel_rows(encoder, 7) == 7


@pytest.mark.parametrize(("device", "side", "expected"), [("cpu", 32, 1024), ("cpu", 224, 16), ("mps", 224, 256)])
def test_rows_elsewhere_follow_from_the_size_of_a_picture(device: str, side: int, expected: int) -> None:
    encoder = SimpleNamespace(device=torch.device(device), resolution=side)
    assert rows.pixel_rows(encoder, None) == expected  # type: ignore[arg-type]
    for wanted in (0, -1):
        with pytest.raises(McdoError, match=f"batch_size = {wanted}: it must be at least 1"):
            rows.pixel_rows(encoder, wanted)  # type: ignore[arg-type]
