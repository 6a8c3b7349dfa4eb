from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mcdo.encoders import load_encoder
from mcdo.encoders.checksum import checksum, sha256

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.bool, torch.int64)


def state(dtype: torch.dtype = torch.float32, size: int = 1000) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {name: (torch.randn(size, generator=generator) * 50).to(dtype) for name in "ab"}


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(TYPES), st.integers(1, 70000), st.data())
def test_any_single_element_changes_it(dtype: torch.dtype, size: int, data: st.DataObject) -> None:
    held = state(dtype, size)
    before = checksum(held)
    place = data.draw(st.integers(0, size - 1))
    held["b"][place] = ~held["b"][place] if dtype is torch.bool else held["b"][place] * 2 + 1
    assert checksum(held) != before


CHANGES: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "two elements trade places": lambda s: {**s, "a": s["a"][torch.tensor([1, 0, *range(2, 1000)])]},
    "halves trade places": lambda s: {**s, "a": s["a"].roll(500)},
    "tensors trade places": lambda s: {"a": s["b"], "b": s["a"]},
    "another shape": lambda s: {**s, "a": s["a"].view(10, 100)},
    "another type": lambda s: {**s, "a": s["a"].view(torch.int32)},
    "another name": lambda s: {"a": s["a"], "c": s["b"]},
    "one less": lambda s: {"a": s["a"]},
    "the sign of a zero": lambda s: {**s, "a": torch.where(torch.arange(1000) == 3, -torch.zeros(()), s["a"])},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_changes_it(change: str) -> None:
    held = state()
    held["a"][3] = 0.0
    assert checksum(CHANGES[change](held)) != checksum(held)


def test_the_same_bits_give_the_same_sum_wherever_they_lie() -> None:
    held = state()
    shifted = torch.cat([torch.zeros(1), held["a"]])[1:]  # not at a whole word
    strided = torch.stack([held["b"], held["a"]], dim=1)[:, 0]
    assert checksum({"a": shifted, "b": strided}) == checksum({"a": held["a"], "b": held["b"]})
    assert sha256({"a": shifted, "b": strided}) == sha256(held)
    empty, zero, one = torch.empty(0), torch.tensor(0.0), torch.tensor(1.0)
    assert checksum({"a": empty, "b": zero}) != checksum({"a": empty, "b": one})


def test_it_is_faster_than_the_hash_that_it_spares() -> None:
    held = {"a": torch.randn(1 << 22)}
    spent = {}
    for each in (checksum, sha256):
        rounds = []
        for _ in range(5):
            began = time.perf_counter()
            each(held)
            rounds.append(time.perf_counter() - began)
        spent[each] = min(rounds)
    assert spent[checksum] < spent[sha256]


def test_the_hash_of_an_encoder_follows_its_weights_and_comes_back_with_them() -> None:
    encoder = load_encoder("clip_tiny")
    before, weight = encoder.weights_hash, encoder.model.get_parameter("visual.proj")
    held = weight.detach().clone()
    weight.data[3, 4] += 1e-4  # leaves no trace in the version of the tensor
    assert weight._version == 0 or encoder.weights_hash != before
    changed = encoder.weights_hash
    weight.data.copy_(held)
    assert changed != before == encoder.weights_hash


def test_a_layer_without_weights_is_part_of_the_tree_of_modules() -> None:
    one, other = load_encoder("clip_tiny"), load_encoder("clip_tiny")
    assert one.architecture == other.architecture
    mlp = other.model.get_submodule("visual.transformer.resblocks.0.mlp")
    mlp.gelu = torch.nn.ReLU()
    assert other.weights_hash == one.weights_hash
    assert other.architecture != one.architecture
