"""Whether a model's weights are those that were seen before: a quick checksum, and the hash that names them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

Checksum = tuple[tuple[str, str, tuple[int, ...], int], ...]
"""(name, type, shape, sum) of every tensor of a state dict."""

_CHUNK = 1 << 16
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

    A tensor's sum is that of its 64-bit words, each times an odd number that depends on its place, modulo 2**64: one
    word that changes changes it for certain, and words that trade places or change together but for a chance of 2**-64
    or so. It is no cryptographic hash.
    """
    sums = [_weighted_sum(value) for value in state.values()]
    devices = {total.device for total in sums}
    totals = torch.stack(sums).tolist() if len(devices) == 1 else [int(total) for total in sums]
    named = zip(state.items(), totals, strict=True)
    return tuple((name, str(value.dtype), tuple(value.shape), total) for (name, value), total in named)


@cache
def _factors(device: torch.device) -> Tensor:
    return torch.arange(1, 2 * _CHUNK, 2, device=device).mul_(_ODD)


def _weighted_sum(value: Tensor) -> Tensor:
    flat = value.detach().contiguous().view(-1)
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()  # its bytes can be read as words only from a whole word on
    octets = flat.view(torch.uint8)
    whole = octets.numel() // 8 * 8
    factors = _factors(value.device)
    rest = octets[whole:].long()
    total = (rest * factors[: len(rest)]).sum()
    for words in torch.split(octets[:whole].view(torch.int64), _CHUNK):
        total = total * 3 + (words * factors[: len(words)]).sum()
    return total
