"""Whether a model's weights are those that were seen before: a quick checksum, and the hash that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

Checksum = tuple[tuple[tuple[str, str, tuple[int, ...]], ...], tuple[int, ...]]
"""(name, type, shape) of every tensor of a state dict, and sums over their bits."""

_CHUNK = 1 << 16
_SMALL = 1 << 14
"""Numbers of a tensor that is summed with others."""
_ODD = 0x9E3779B97F4A7C15 - (1 << 64)  # the golden ratio's odd multiplier, as an int64


def sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of a state dict, sorted by name."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def checksum(state: Mapping[str, Tensor]) -> Checksum:
    """What differs when any bit of a state dict does, found where the tensors are.

    A sum is that of 64-bit words, each times an odd number that depends on its place, modulo 2**64: one word that
    changes changes it for certain, and words that trade places or change together but for a chance of 2**-64 or so. It
    is no cryptographic hash. Small tensors of one type have a sum together: most of a model's are, and the operations
    on each would take longer than its bytes.
    """
    named = tuple((name, str(value.dtype), tuple(value.shape)) for name, value in state.items())
    flat = [value.detach().contiguous().view(-1) for value in state.values()]
    together: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for value in flat:
        if value.numel() <= _SMALL:
            together.setdefault((value.device, value.dtype), []).append(value)
    pieces = [*map(torch.cat, together.values()), *(value for value in flat if value.numel() > _SMALL)]
    sums = [_weighted_sum(piece) for piece in pieces]
    same_device = len({total.device for total in sums}) == 1
    return named, tuple(torch.stack(sums).tolist() if same_device else map(int, sums))


@cache
def _factors(device: torch.device) -> Tensor:
    return torch.arange(1, 2 * _CHUNK, 2, device=device).mul_(_ODD)


def _weighted_sum(flat: Tensor) -> Tensor:
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # its bytes can be read as words only from a whole word on
    octets = flat.view(torch.uint8)
    whole = octets.numel() // 8 * 8
    factors = _factors(flat.device)
    rest = octets[whole:].long()
    total = (rest * factors[: len(rest)]).sum()
    for words in torch.split(octets[:whole].view(torch.int64), _CHUNK):
        total = total * 3 + (words * factors[: len(words)]).sum()
    return total
