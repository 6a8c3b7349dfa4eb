"""Passes replayed as CUDA graphs: one launch in place of the hundreds that a pass consists of.

The host takes longer over these launches than a GPU over a small tower's pass, or a large one's of few rows. What
changes from pass to pass (pixels, image keys, the key of the block of passes) is copied to where the graph reads it.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Pass = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Features of (rows, image keys, key of the block)."""

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], object], Tensor]]
"""From what launches work to its replay, and the tensor that a replay fills anew."""

_CALLS = 3
"""A shape is captured with this call: what comes less often is not worth it."""


class PassGraphs:
    """The graphs of one perturbed tower, one for each shape of a pass; not for several threads at once.

    The tower must not change as long as they are in use. ``refused`` says why passes are carried out one launch at a
    time after all: because one cannot be captured, or does not give the same bits when replayed.
    """

    def __init__(self, capture: Capture) -> None:
        self.refused = ""
        self._capture = capture
        self._seen: Counter[Any] = Counter()
        self._held: dict[Any, _Replay] = {}

    def __call__(self, carry_out: Pass, shape: object, rows: Tensor, keys: Tensor, block_key: int) -> Tensor:
        """What ``carry_out`` gives, by a graph where this ``shape`` of a pass has one."""
        held = self._held.get(shape)
        if held is not None:
            return held(rows, keys, block_key)
        run = torch.full((1,), block_key, dtype=torch.int64, device=rows.device)
        features = carry_out(rows, keys, run)
        self._seen[shape] += 1
        if self._seen[shape] == _CALLS and not self.refused:
            self._keep(carry_out, shape, rows, keys, block_key, features)
        return features

    def release(self) -> None:
        """Give back their memory; shapes that come again are captured anew."""
        self._held.clear()
        self._seen.clear()

    def _keep(
        self, carry_out: Pass, shape: object, rows: Tensor, keys: Tensor, block_key: int, features: Tensor
    ) -> None:
        try:
            replay = _Replay(self._capture, carry_out, rows, keys)
            same = torch.equal(replay(rows, keys, block_key), features)
        except RuntimeError as error:  # among them a synchronisation inside the tower, and too little memory
            self.refused = str(error) or type(error).__name__
        else:
            self.refused = "" if same else "a replay gave other bits than the pass itself"
        if self.refused:
            self._held.clear()
        else:
            self._held[shape] = replay


class _Replay:
    """A captured pass, and the tensors that it reads."""

    def __init__(self, capture: Capture, carry_out: Pass, rows: Tensor, keys: Tensor) -> None:
        self._rows, self._keys = torch.empty_like(rows), keys.clone()
        self._run = torch.zeros(1, dtype=torch.int64, device=rows.device)
        self._of: Callable[[], Tensor | None] = lambda: None
        self._replay, self._output = capture(lambda: carry_out(self._rows, self._keys, self._run))

    def __call__(self, rows: Tensor, keys: Tensor, block_key: int) -> Tensor:
        if self._of() is not rows:
            self._rows.copy_(rows)
            self._of = weakref.ref(rows)
        self._keys.copy_(keys)
        self._run.fill_(block_key)
        self._replay()
        return self._output.clone()


class CudaCapture:
    """Captures on a device, with one pool of memory: graphs that never run side by side share what is in between."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None

    def __call__(self, do: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """See :data:`Capture`."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        where = torch.cuda.device(self._device)
        with where, torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
            output = do()
        self._pool = graph.pool()
        return graph.replay, output
