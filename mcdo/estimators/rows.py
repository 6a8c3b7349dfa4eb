"""Rows (image × pass) of one forward pass: as many as keep the device busy and fit into its memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mcdo.arguments import whole
from mcdo.encoders import Encoder
from mcdo.estimators.jacobian import SiteGraph
from mcdo.perturbation import PASS_BLOCK, Perturbation, Site, deterministic_features

MOST_ROWS = 4096
"""More keep no GPU busier, and a block of images gets long."""

GRAPH_ROWS = 4
"""How many times more memory a row with a graph takes on a CPU than one without, as a rule of thumb."""

_SHARE = 0.3
"""Of the free memory: passes are held as graphs beside what runs on its own, and there are moments and noise."""


def pixel_rows(encoder: Encoder, rows: int | None) -> int:
    """Rows as asked for, or by the size of the tower's input; on CUDA by what they take of the memory that is free."""
    if rows is not None:
        return whole("batch_size", rows, least=1)
    if encoder.device.type == "cuda":
        each = _bytes_of_a_row(encoder, lambda n: deterministic_features(encoder, encoder.blank(n)), PASS_BLOCK)
        return PASS_BLOCK * min(max(_fitting(encoder, each) // PASS_BLOCK, 1), MOST_ROWS // PASS_BLOCK)
    # On a CPU more rows of a large picture are no faster, and who is ended loses the batch that is under way.
    return 1024 if encoder.resolution <= 64 else PASS_BLOCK if encoder.device.type == "cpu" else 256


def graph_images(encoder: Encoder, kind: Perturbation, sites: tuple[Site, ...]) -> int:
    """Images whose graph is held at once for first order."""
    if encoder.device.type != "cuda":
        return max(1, pixel_rows(encoder, None) // GRAPH_ROWS)

    def products(images: int) -> None:
        graph = SiteGraph(encoder, encoder.blank(images), kind, sites)
        for last in (False, True):
            graph.terms(torch.ones_like(graph.features), last)

    return min(max(_fitting(encoder, _bytes_of_a_row(encoder, products, 1)), 1), MOST_ROWS)


def _fitting(encoder: Encoder, each: float) -> int:
    """Rows of ``each`` bytes in a share of the GPU's free memory."""
    held = torch.cuda.memory_reserved(encoder.device) - torch.cuda.memory_allocated(encoder.device)
    return int(_SHARE * (torch.cuda.mem_get_info(encoder.device)[0] + held) / max(each, 1.0))


def _bytes_of_a_row(encoder: Encoder, do: Callable[[int], object], rows: int) -> float:
    """What one more row takes of the GPU's memory at its peak."""
    peaks = []
    for count in (rows, 2 * rows):  # what does not grow with the rows cancels
        torch.cuda.reset_peak_memory_stats(encoder.device)
        before = torch.cuda.memory_allocated(encoder.device)
        do(count)
        peaks.append(torch.cuda.max_memory_allocated(encoder.device) - before)
    return (peaks[1] - peaks[0]) / rows
