"""The masks of :mod:`~mcdo.perturbation.masks` on an NVIDIA GPU: the same units, zeroed by one launch a site.

A stream of gaps is walked by one thread on a CPU; here it is cut into chunks that are walked side by side. One launch
sums the gaps of every chunk of every site, and from the sums before it a chunk knows where it begins. Gaps are drawn
twice, because drawing one costs less than fetching it from memory. Nothing waits for the host.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
import triton
import triton.language as tl
from torch import Tensor

from mcdo.perturbation.masks import MaskedSite, _inverse_log_q, _mix, _signed, _stream_words, name_key

CHUNK = 512
"""Words (two gaps each) of one program."""

_SIGMAS = 10.0
"""Streams are this many standard deviations longer than they need be on average: none falls short (P < 1e-17)."""


class CudaMasks:
    """Zeroes the dropped units of any site in place.

    Args:
        sites: the perturbed sites, each with ``0 < p < 1``.
        mixed_seed: of the run.
        device: of the outputs.

    """

    def __init__(self, sites: Sequence[MaskedSite], mixed_seed: int, device: torch.device) -> None:
        self._sites, self._seed, self._device = sites, mixed_seed, device
        counts = [math.ceil(_stream_words(s.units, s.p, _SIGMAS) / CHUNK) for s in sites]
        self._counts = counts
        self._begins = [sum(counts[:i]) for i in range(len(counts))]

        def by_chunk(values: list[int] | list[float], dtype: torch.dtype) -> Tensor:
            each = torch.tensor(values, dtype=dtype).repeat_interleave(torch.tensor(counts))
            return each.to(device)

        numbers = torch.cat([torch.arange(n) * CHUNK for n in counts])
        self._table = (
            by_chunk([_signed(name_key(s.name)) for s in sites], torch.int64),
            numbers.to(device),
            by_chunk([_inverse_log_q(s.p) for s in sites], torch.float64),
        )
        """Of each chunk: key of its site, number of its first word, 1 / log(1 - p)."""

    def block_key(self, trial: int, block: int) -> int:
        """The int64 that names a block of passes of a trial."""
        return _signed(_mix(_mix(self._seed ^ trial) ^ block))

    def start(self, run: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """What a block of passes needs: its key ``[1]`` itself, and int64 ``[B, chunks]``, units before each chunk."""
        chunks = sum(self._counts)
        totals = torch.empty(len(keys), chunks, dtype=torch.int64, device=keys.device)
        with self._there():
            _total[chunks, len(keys)](totals, keys, run, *self._table, chunks, CHUNK=CHUNK)
        return run, totals.cumsum(1).sub_(totals)

    def zero_(
        self, y: Tensor, index: int, started: tuple[Tensor, Tensor], keys: Tensor, first: int, last: int
    ) -> Tensor:
        """Zero the dropped units of site number ``index`` in its contiguous output, as on a CPU."""
        site, (run, before) = self._sites[index], started
        if site.outer * site.inner > 1:
            kept = y.new_ones(len(keys) * (last - first), site.units)
            self._zero_(kept, index, run, before, keys, first, last)
            y.view(len(kept), site.outer, -1, site.inner).mul_(kept[:, None, :, None])
            return y
        return self._zero_(y, index, run, before, keys, first, last)

    def _zero_(self, y: Tensor, index: int, run: Tensor, before: Tensor, keys: Tensor, first: int, last: int) -> Tensor:
        units, begin = self._sites[index].units, self._begins[index]
        rows = y.view(len(keys), (last - first) * units)
        grid = (self._counts[index], len(keys))
        with self._there():
            _zero[grid](
                rows, before, keys, run, *self._table, before.shape[1], begin, units * first, units * last,
                rows.shape[1], CHUNK=CHUNK,
            )  # fmt: skip
        return y

    def _there(self) -> AbstractContextManager[object]:
        """A launch goes to the current device, which need not be that of the tensors."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()


@triton.jit
def _mixed(word):
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB
    return word ^ (word >> 31)


@triton.jit
def _gap(half, inverse):
    uniform = ((half ^ 0x80000000).to(tl.int64).to(tl.float64) + 0.5) * 2.3283064365386963e-10
    # bounded, because sums of gaps that are beyond every stream must not overflow
    return tl.minimum(tl.ceil(tl.log(uniform) * inverse), 1099511627776.0).to(tl.int64)


@triton.jit
def _gaps(keys, run, site_keys, numbers, inverses, image, chunk, CHUNK: tl.constexpr):
    """Gaps of a chunk: those of the low halves of its words, and those of the high halves, which follow each."""
    site = _mixed(tl.load(run).to(tl.uint64, bitcast=True) ^ tl.load(site_keys + chunk).to(tl.uint64, bitcast=True))
    number = (tl.load(numbers + chunk) + tl.arange(0, CHUNK) + 1).to(tl.uint64, bitcast=True)
    key = tl.load(keys + image).to(tl.uint64, bitcast=True)
    word = _mixed(key + site + number * 0x9E3779B97F4A7C15)
    inverse = tl.load(inverses + chunk)
    return _gap(word & 0xFFFFFFFF, inverse), _gap(word >> 32, inverse)


@triton.jit(do_not_specialize=["chunks"])
def _total(totals, keys, run, site_keys, numbers, inverses, chunks, CHUNK: tl.constexpr):
    chunk, image = tl.program_id(0), tl.program_id(1)
    low, high = _gaps(keys, run, site_keys, numbers, inverses, image, chunk, CHUNK)
    tl.store(totals + image.to(tl.int64) * chunks + chunk, tl.sum(low + high, 0))


@triton.jit(do_not_specialize=["chunks", "begin", "skip", "end", "width"])
def _zero(y, before, keys, run, site_keys, numbers, inverses, chunks, begin, skip, end, width, CHUNK: tl.constexpr):
    chunk, image = begin + tl.program_id(0), tl.program_id(1)
    row = before + image.to(tl.int64) * chunks
    start = tl.load(row + chunk) - tl.load(row + begin)
    if start <= end:
        low, high = _gaps(keys, run, site_keys, numbers, inverses, image, chunk, CHUNK)
        second = start + tl.cumsum(low + high, 0)
        first = second - high
        at = y + image.to(tl.int64) * width - skip - 1
        tl.store(at + first, 0.0, mask=(first > skip) & (first <= end))
        tl.store(at + second, 0.0, mask=(second > skip) & (second <= end))
