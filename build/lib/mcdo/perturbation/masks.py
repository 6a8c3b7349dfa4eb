"""Keyed masks: which units a dropout zeroes follows from (seed, trial, pass, image id, site) and from nothing else.

Native dropout draws one random number per unit and so nearly doubles the cost of a pass, although at p = 0.01 only one
draw in a hundred matters. Here the *gaps* between dropped units are drawn instead. In a sequence of independent
Bernoulli(p) units the gap before the next success is geometric, so the set of dropped units has the distribution of
dropout: exactly, but for the 32 bits of a uniform number, which move the probability of a gap by at most 2**-32.

One stream of gaps runs over the units of ``PASS_BLOCK`` consecutive passes of one image at one site. It comes from
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with a key hashed from the five names above: a counter-based generator,
so no state is carried and batch size, image order, sharding and resumption cannot change a mask.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.compiled import compiled
from mcdo.names import as_bytes

if TYPE_CHECKING:
    from mcdo.perturbation.cuda_masks import CudaMasks

PASS_BLOCK = 16
"""Passes that share one stream. Part of the mask scheme: changing it changes every mask."""

SCHEME = "splitmix64-gaps-16"
"""Name of this scheme, for store keys and result files."""

_WORD = 1 << 64
_GAMMA = 0x9E3779B97F4A7C15
_MIX1 = 0xBF58476D1CE4E5B9
_MIX2 = 0x94D049BB133111EB
_FAR = 2.0**53
"""A gap beyond every stream."""


def _signed(word: int) -> int:
    """The int64 with the same bits as an unsigned 64-bit word."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word


def _mix(word: int) -> int:
    """SplitMix64's finaliser on one unsigned word."""
    word %= _WORD
    word = (word ^ (word >> 30)) * _MIX1 % _WORD
    word = (word ^ (word >> 27)) * _MIX2 % _WORD
    return word ^ (word >> 31)


def _mix_(words: Tensor) -> Tensor:
    """:func:`_mix` on an int64 tensor, in place. Shifts of int64 are arithmetic, hence the bit masks."""
    for shift, factor in ((30, _MIX1), (27, _MIX2), (31, None)):
        words.bitwise_xor_((words >> shift).bitwise_and_((1 << (64 - shift)) - 1))
        if factor is not None:
            words.mul_(_signed(factor))
    return words


def name_key(name: str) -> int:
    """Unsigned 64-bit key of a name (an image id or a site)."""
    return int.from_bytes(hashlib.sha256(as_bytes(name)).digest()[:8], "little")


def image_keys(ids: Iterable[str], device: torch.device | str = "cpu") -> Tensor:
    """int64 ``[N]``: the key of each image id."""
    return torch.tensor([_signed(name_key(i)) for i in ids], dtype=torch.int64, device=device)


def _stream_words(units: int, p: float, sigmas: float) -> int:
    """64-bit words (two gaps each) that carry a stream past ``PASS_BLOCK * units`` units, ``sigmas`` above the mean."""
    mean = PASS_BLOCK * units * p
    return math.ceil((mean + sigmas * math.sqrt(mean * (1 - p)) + 8) / 2)


def _inverse_log_q(p: float) -> float:
    """Turns the logarithm of a uniform number into a geometric gap."""
    return 1 / math.log1p(-p)


@dataclass(frozen=True)
class MaskedSite:
    """What the generator needs of a site: its name, units per image and pass, and its drop probability.

    One unit stands for ``outer`` × ``inner`` numbers: the output of an image and pass is ``[outer, units, inner]``.
    """

    name: str
    units: int
    p: float
    outer: int = 1
    inner: int = 1

    @property
    def size(self) -> int:
        """Numbers per image and pass."""
        return self.outer * self.units * self.inner


@dataclass(frozen=True)
class _Layout:
    """Where the streams of all sites lie side by side; one object, because blocks of images are drawn in threads.

    Attributes:
        slices: columns of each site, two of a word.
        counters: int64 ``[words]``; word j of a site's stream is mix(image key + site key + gamma * (j + 1)).
        keys: int64 ``[words]``, key of each word's site.
        inverses: float64 ``[columns]``, 1 / log(1 - p).
        ends: last column of every site but the last.

    """

    slices: tuple[slice, ...]
    counters: Tensor
    keys: Tensor
    inverses: Tensor
    ends: Tensor


class KeyedMasks:
    """Draws the dropped units of every site for a block of passes.

    Args:
        sites: the perturbed sites, each with ``0 < p < 1``.
        seed: the run's seed.
        device: where the positions are wanted. MPS has no float64, so there they are drawn on the CPU and copied.

    """

    def __init__(self, sites: Sequence[MaskedSite], seed: int, device: torch.device | str = "cpu") -> None:
        self.sites = tuple(sites)
        self.device = torch.device(device)
        self._draw_on = torch.device("cpu") if self.device.type == "mps" else self.device
        self._seed = _mix(seed % _WORD)
        self._site_keys = [name_key(s.name) for s in self.sites]
        # On a GPU a check for overrun would synchronise, so there the slack makes one impossible in practice (P <
        # 1e-17).
        self._sigmas = 4.0 if self._draw_on.type == "cpu" else 10.0
        self._laid: _Layout | None = None  # when first drawn: zero_ needs none of it

    @cached_property
    def on_cuda(self) -> CudaMasks | None:
        """The same masks by kernels of the GPU's own; None where there are none, and :meth:`draw` serves."""
        if self.device.type != "cuda" or find_spec("triton") is None:
            return None
        from mcdo.perturbation.cuda_masks import CudaMasks

        return CudaMasks(self.sites, self._seed, self.device)

    def _lay_out(self) -> _Layout:
        words = [_stream_words(s.units, s.p, self._sigmas) for s in self.sites]
        ends = np.cumsum(words).tolist()
        slices = tuple(slice(2 * (end - n), 2 * end) for n, end in zip(words, ends, strict=True))
        counts = torch.tensor(words, device=self._draw_on)
        keys = torch.tensor([_signed(key) for key in self._site_keys], device=self._draw_on)
        inverse = torch.tensor([_inverse_log_q(s.p) for s in self.sites], dtype=torch.float64, device=self._draw_on)
        return _Layout(
            slices=slices,
            counters=torch.cat([torch.arange(1, n + 1, device=self._draw_on) for n in words]).mul_(_signed(_GAMMA)),
            keys=keys.repeat_interleave(counts, output_size=ends[-1]),
            inverses=inverse.repeat_interleave(2 * counts, output_size=2 * ends[-1]),
            ends=torch.tensor([s.stop - 1 for s in slices[:-1]], dtype=torch.int64, device=self._draw_on),
        )

    def _gaps(self, layout: _Layout, trial: int, block: int, keys: Tensor) -> Tensor:
        """float64 ``[B, columns]``: for each stream, 1 + the number of kept units before each dropped one."""
        run = _mix(_mix(self._seed ^ trial) ^ block)
        sites = _mix_(layout.keys ^ _signed(run))
        words = _mix_(keys[:, None] + sites.add_(layout.counters))
        # The half keeps the uniform off 0 and 1 and, at every published p, farther off the boundaries between two gaps
        # than rounding reaches: so no library's logarithm can change a mask.
        uniform = words.view(torch.int32).to(torch.float64).add_(2.0**31 + 0.5).mul_(2.0**-32)
        return uniform.log_().mul_(layout.inverses).ceil_()

    def zero_(
        self, y: Tensor, index: int, trial: int, block: int, keys: Tensor, first: int, last: int, left: float = 0.0
    ) -> Tensor:
        """Zero the dropped units of site number ``index`` in its output ``y``, on the CPU; the rest as :meth:`draw`.

        ``left`` is the share of them that is left instead.
        """
        site = self.sites[index]
        run = _mix(_mix(_mix(self._seed ^ trial) ^ block) ^ self._site_keys[index])
        streams, rows = keys.numpy().view(np.uint64), y.view(len(keys), (last - first) * site.size).numpy()
        inverse, skip, end = _inverse_log_q(site.p), site.units * first, site.units * last
        share = np.float32(left)
        _zero_streams(rows, streams, np.uint64(run), inverse, skip, end, site.units, site.outer, site.inner, share)
        return y

    def draw(self, trial: int, block: int, keys: Tensor, first: int = 0, last: int = PASS_BLOCK) -> list[Tensor]:
        """Dropped units of passes ``first:last`` of a block.

        Args:
            trial: trial number.
            block: number of the block; it holds passes ``block * PASS_BLOCK`` onwards.
            keys: int64 ``[B]`` from :func:`image_keys`.
            first: first pass wanted, counted within the block.
            last: one past the last pass wanted.

        Returns:
            One float64 tensor per site, ``[B, n]``: ascending positions in the image's ``(last - first) * units`` units
            (pass-major). Entries outside ``[0, (last - first) * units)`` belong to other passes.

        """
        layout = self._laid = self._laid or self._lay_out()
        keys = keys.to(self._draw_on)
        ends = self._gaps(layout, trial, block, keys).cumsum_(1)
        before = torch.nn.functional.pad(ends[:, layout.ends], (1, 0))
        positions = [
            ends[:, columns] - (before[:, i : i + 1] + (1 + site.units * first))
            for i, (columns, site) in enumerate(zip(layout.slices, self.sites, strict=True))
        ]
        if self._draw_on.type == "cpu" and len(keys):
            widths = [site.units * (last - first) for site in self.sites]
            if any(bool((pos[:, -1] < width).any()) for pos, width in zip(positions, widths, strict=True)):
                self._sigmas *= 2
                self._laid = self._lay_out()  # longer streams continue the same sequence
                return self.draw(trial, block, keys, first, last)
        return positions


def zero_units_(y: Tensor, positions: Tensor, outer: int = 1, inner: int = 1) -> Tensor:
    """Zero the drawn units of ``y`` in place, without a synchronisation.

    Args:
        y: contiguous ``[B * P, ...]``, image-major, ``P`` passes of each image.
        positions: one tensor of :meth:`KeyedMasks.draw`, ``[B, n]``.
        outer: see :class:`MaskedSite`.
        inner: likewise.

    Returns:
        ``y``.

    """
    if outer * inner > 1:
        kept = zero_units_(y.new_ones(len(y), y[0].numel() // (outer * inner)), positions)
        y.view(len(y), outer, -1, inner).mul_(kept[:, None, :, None])
        return y
    batch = len(positions)
    width = y.numel() // batch
    flat = y.view(-1)
    starts = torch.arange(0, batch * width, width, device=positions.device, dtype=positions.dtype)[:, None]
    inside = (positions >= 0).logical_and_(positions < width)
    # Selecting the entries inside would synchronise a GPU. So those outside are redirected to their stream's first
    # inside entry; streams that drop nothing write the image's first unit with its own value. Every duplicate writes
    # the same.
    first = torch.where(inside, positions, torch.inf).amin(1, keepdim=True)
    none = first.isinf()
    index = torch.where(inside, positions, torch.where(none, 0.0, first)).add_(starts).to(flat.device, torch.int64)
    keep = torch.where(none.to(flat.device), flat[starts.to(flat.device, torch.int64)], 0)
    flat.scatter_(0, index.view(-1), keep.expand_as(index).reshape(-1))
    return y


@compiled()
def _zero_streams(
    y: NDArray[np.float32],
    keys: NDArray[np.uint64],
    site: np.uint64,
    inverse_log_q: float,
    skip: int,
    end: int,
    units: int,
    outer: int,
    inner: int,
    left: np.float32,
) -> None:
    """The CPU's way: walk each image's stream of gaps, and zero units of its row of ``y`` as they come."""
    for image in range(len(keys)):
        counter = keys[image] + site
        position = 0
        while position <= end:
            counter += np.uint64(_GAMMA)
            word = counter
            word = (word ^ (word >> np.uint64(30))) * np.uint64(_MIX1)
            word = (word ^ (word >> np.uint64(27))) * np.uint64(_MIX2)
            word ^= word >> np.uint64(31)
            # the low half of the word first, each half read as a signed 32-bit number plus 2**31
            for half in (word & np.uint64(0xFFFFFFFF), word >> np.uint64(32)):
                uniform = (float(half ^ np.uint64(0x80000000)) + 0.5) * 2.0**-32
                # bounded, because at p < 1e-17 a gap can be beyond int64
                position += int(min(np.ceil(math.log(uniform) * inverse_log_q), _FAR))
                if skip < position <= end:
                    unit = position - skip - 1
                    if outer == 1 and inner == 1:
                        y[image, unit] = y[image, unit] * left if left else np.float32(0)
                    else:
                        in_pass = unit // units
                        for i in range(outer):
                            start = ((in_pass * outer + i) * units + unit - in_pass * units) * inner
                            for j in range(start, start + inner):
                                y[image, j] = y[image, j] * left if left else np.float32(0)
