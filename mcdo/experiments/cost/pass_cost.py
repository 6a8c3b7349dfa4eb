"""What a pass costs, in forward equivalents: multiples of the deterministic forward pass of one image.

Absolute times of a shared machine mean little, so every method is timed in turn with the deterministic pass, round by
round, and the ratio is taken inside each round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mcdo.encoders import Encoder
from mcdo.estimators.jacobian import SiteGraph
from mcdo.perturbation import PASS_BLOCK, Perturbation, check_alive, find_sites, image_keys, perturbed
from mcdo.perturbation.intercept import Compute, LinearMaps

DETERMINISTIC = "deterministic"


@dataclass(frozen=True)
class Cost:
    """Forward equivalents of one image-pass: median over rounds, and the quartiles; ``seconds`` is one image-pass."""

    ratio: float
    q25: float
    q75: float
    seconds: float
    rounds: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.ratio:.2f} [{self.q25:.2f}, {self.q75:.2f}]"


def compare(methods: Mapping[str, Callable[[], int]], rounds: int, device: torch.device) -> dict[str, Cost]:
    """Cost of each method in multiples of ``methods["deterministic"]``.

    Args:
        methods: each carries out some image-passes and returns how many.
        rounds: of timing, after one that warms up.
        device: is waited for before a clock is read.

    """
    seconds = np.array([[_timed(method, device) for method in methods.values()] for _ in range(rounds + 1)])[1:]
    reference = seconds[:, list(methods).index(DETERMINISTIC)]
    ratios = seconds / reference[:, None]
    q25, median, q75 = np.quantile(ratios, [0.25, 0.5, 0.75], axis=0)
    each = zip(methods, median, q25, q75, np.median(seconds, axis=0), strict=True)
    return {name: Cost(float(m), float(a), float(b), float(s), rounds) for name, m, a, b, s in each}


def _timed(method: Callable[[], int], device: torch.device) -> float:
    start = time.perf_counter()
    passes = method()
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()
    return (time.perf_counter() - start) / passes


def deterministic(encoder: Encoder, pixels: Tensor, passes: int) -> Callable[[], int]:
    """The model's own forward pass, with nothing of ours around it."""
    rows = pixels.repeat_interleave(passes, dim=0)

    def run() -> int:
        with torch.inference_mode():
            encoder.forward_image(rows)
        return len(rows)

    return run


def native(encoder: Encoder, pixels: Tensor, passes: int, kind: Perturbation) -> Callable[[], int]:
    """Torch's own dropout at the same sites."""
    rows = pixels.repeat_interleave(passes, dim=0)
    table, sites = find_sites(encoder), set(find_sites(encoder).select_for(kind))

    def drop(weight: Tensor, part: str, compute: Compute) -> Tensor:
        y = compute()
        wanted = table.at(weight, part) in sites
        return functional.dropout(y, kind.p, training=True) if wanted else y

    def run() -> int:
        with torch.inference_mode(), LinearMaps(drop):
            encoder.forward_image(rows)
        return len(rows)

    return run


def monte_carlo(encoder: Encoder, pixels: Tensor, passes: int, kind: Perturbation) -> Callable[[], int]:
    """Keyed passes, as :func:`mcdo.monte_carlo` carries them out."""
    keys = image_keys([f"image {i}" for i in range(len(pixels))], encoder.device)
    blocks = iter(range(10**9))

    def run() -> int:
        with perturbed(encoder, kind, seed=0) as tower:
            tower(pixels, keys, 0, next(blocks), 0, min(passes, PASS_BLOCK))
        return len(pixels) * min(passes, PASS_BLOCK)

    return run


def first_order(encoder: Encoder, pixels: Tensor, probes: int, kind: Perturbation) -> Callable[[], int]:
    """One image's scores from ``probes`` vector-Jacobian products count as one image-pass."""
    sites = check_alive(encoder, pixels[:1], kind)
    directions = torch.randn(probes, encoder.feature_dim, generator=torch.Generator().manual_seed(0))

    def run() -> int:
        graph = SiteGraph(encoder, pixels, kind, sites)
        for i, direction in enumerate(directions.to(encoder.device)):
            graph.terms(direction, last=i == probes - 1)
        return len(pixels)

    return run
