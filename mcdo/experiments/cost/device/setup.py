"""Sizes of the device check, and what its sections share: the encoders, inputs, clocks and memory of the device."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcdo.encoders import Encoder, load_encoder
from mcdo.estimators.rows import pixel_rows
from mcdo.experiments.cost.pass_cost import DETERMINISTIC, Cost, timed
from mcdo.perturbation import PASS_BLOCK, deterministic_features, find_sites, image_keys

Row = dict[str, Any]
"""One line of a section's table, JSON-able; ``ok`` says whether what it is judged by holds."""

PRECISIONS = ("bfloat16", "tf32", "float32")


@dataclass(frozen=True)
class DeviceCheck:
    """Sizes.

    Attributes:
        embedded: encoders with trained weights.
        towers: encoders with random weights, whose cost is measured.
        compared: the one of ``towers`` that is carried out on the CPU too.
        precisions: of the cost of a pass.
        images: of comparisons.
        passes: T of comparisons on embedded encoders.
        ladder: T of the run in which nothing may synchronise.
        probabilities: of the masks.
        product: side of the matrix product that stands for the card's peak.
        seconds: that a forward pass may take when it is timed; rows follow.
        most_rows: likewise, a bound on rows.
        rounds: of timing.
        loop: (images, passes, trials) of the timed pass loop.
        compiler: backend of ``torch.compile``.
        patience: how many times its seconds a section may take.
        total: seconds after which no section begins.

    """

    embedded: tuple[str, ...] = ("clip_tiny", "siglip_tiny")
    towers: tuple[str, ...] = ("clip_b32", "clip_l14", "siglip2_so400m")
    compared: str = "clip_b32"
    precisions: tuple[str, ...] = PRECISIONS
    images: int = 100
    passes: int = 64
    ladder: tuple[int, ...] = (4, 16, 40)
    probabilities: tuple[float, ...] = (0.001, 0.01, 0.3)
    product: int = 8192
    seconds: float = 0.3
    most_rows: int = 4096
    rounds: int = 5
    loop: tuple[int, int, int] = (512, 64, 5)
    compiler: str = "inductor"
    patience: float = 1.0
    total: float = 420.0


TOY = DeviceCheck(
    embedded=("clip_tiny",),
    towers=("clip_tiny",),
    compared="clip_tiny",
    precisions=("bfloat16", "float32"),
    images=4,
    passes=4,
    ladder=(2, 4),
    probabilities=(0.01,),
    product=64,
    most_rows=32,
    rounds=1,
    loop=(4, 4, 1),
    compiler="eager",
    patience=1e6,
    total=1e6,
)
"""The same at a size for a CPU and a test suite."""


def _load(key: str, device: str, weights: str) -> Encoder:
    encoder = load_encoder(key, device, weights=weights)
    find_sites(encoder)
    return encoder


def guarded(facts: Row, measure: Callable[[], Row]) -> Row:
    """A row, or what went wrong with it: one tower's failure shall not cost the others' rows."""
    try:
        return {**facts, **measure()}
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "mcdo" in frame.filename]
        at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return {**facts, "ok": False, "error": f"{at}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}


class Machine:
    """One device: its encoders (loaded one after the other beside the first sections), clocks and peaks."""

    def __init__(self, device: str, sizes: DeviceCheck) -> None:
        self.device, self.sizes = torch.device(device), sizes
        self.cuda = self.device.type == "cuda"
        self.peak: dict[str, float] = {}
        """FLOP/s of a large matrix product, by precision."""
        self._pool = ThreadPoolExecutor(1)
        self._loading: dict[tuple[str, str], Future[Encoder]] = {}

    def _wanted(self) -> Iterator[tuple[str, str]]:
        device, sizes = str(self.device), self.sizes
        yield from ((sizes.compared, where) for where in ("cpu", device))
        yield from ((key, where) for key in sizes.embedded for where in ("cpu", device))
        yield from ((key, device) for key in sizes.towers)

    def weights(self, key: str) -> str:
        """Embedded encoders are trained; no other weights are needed for what a pass costs."""
        return "pretrained" if key in self.sizes.embedded else "random"

    def encoder(self, key: str, device: str | None = None) -> Encoder:
        """The encoder, in float32; waits until it is loaded. The first call begins to load them all."""
        for wanted in () if self._loading else self._wanted():
            if wanted not in self._loading:
                self._loading[wanted] = self._pool.submit(_load, *wanted, self.weights(wanted[0]))
        return self._loading[key, str(self.device) if device is None else device].result()

    def all_loaded(self) -> None:
        """Wait for every encoder, also one that cannot be loaded: nothing else shall run while clocks are read."""
        wait(self._loading.values())

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def compared(self) -> tuple[str, ...]:
        """Encoders that are carried out on the CPU too."""
        return tuple(dict.fromkeys((*self.sizes.embedded, self.sizes.compared)))

    @contextlib.contextmanager
    def precision(self, encoder: Encoder, name: str) -> Iterator[None]:
        """Carry products out in a precision; "tf32" is float32 with torch's matmul precision "high"."""
        before = torch.get_float32_matmul_precision(), encoder.precision
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        encoder.precision = "float32" if name == "tf32" else name  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            encoder.precision = before[1]

    def sync(self) -> None:
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def timed(self, do: Callable[[], object], warm: int = 1, at_once: int = 1) -> float:
        """Median seconds of a call, after ``warm`` others; ``at_once`` calls between two looks at the clock."""
        for _ in range(warm):
            do()
        self.sync()
        seconds = []
        for _ in range(self.sizes.rounds):
            start = time.perf_counter()
            for _ in range(at_once):
                do()
            self.sync()
            seconds.append((time.perf_counter() - start) / at_once)
        return sorted(seconds)[len(seconds) // 2]

    def costs(self, methods: dict[str, Callable[[], int]]) -> dict[str, Cost]:
        """Forward equivalents of each, in multiples of the deterministic pass of the same round."""
        seconds = dict(zip(methods, timed(methods, self.sizes.rounds, self.device), strict=True))
        return {name: Cost.of(taken, seconds[DETERMINISTIC]) for name, taken in seconds.items()}

    def memory(self, do: Callable[[], object]) -> float | None:
        """MiB of the device that a call reserves at its peak, above what is held; None where it is not known."""
        if not self.cuda:
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_reserved(self.device)
        do()
        self.sync()
        return (torch.cuda.max_memory_reserved(self.device) - before) / 2**20

    def inputs(self, encoder: Encoder, images: int) -> tuple[Tensor, Tensor]:
        """Normalised pixels of noise, and image keys."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(images, 3, encoder.resolution, encoder.resolution, generator=generator)
        return pixels.to(encoder.device), image_keys([f"image {i}" for i in range(images)], encoder.device)

    def flops(self, encoder: Encoder) -> float:
        """Floating-point operations of one image's forward pass."""
        from torch.utils.flop_counter import FlopCounterMode  # brings triton along

        with FlopCounterMode(display=False) as counter:
            deterministic_features(encoder, encoder.blank(1))
        return float(counter.get_total_flops())

    def rows(self, encoder: Encoder, precision: str) -> tuple[int, int]:
        """(rows as the pass loop chooses them, rows that are timed: fewer where a pass would take too long)."""
        chosen = pixel_rows(encoder, None)
        peak = self.peak.get(precision, self.peak.get("float32", 1e11))
        affordable = int(self.sizes.seconds * 0.5 * peak / self.flops(encoder))
        timed = min(chosen, self.sizes.most_rows, max(affordable, PASS_BLOCK))
        return chosen, timed // PASS_BLOCK * PASS_BLOCK
