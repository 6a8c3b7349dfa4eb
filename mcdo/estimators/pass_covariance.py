"""Covariance over passes, seen in a few directions: what exp8 needs and the moments of a run do not keep.

The passes are those of :func:`mcdo.monte_carlo` under the same seed, because masks are keyed: the trace of both agrees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.estimators.scores import pixel_rows
from mcdo.experiments.base import Need
from mcdo.experiments.bench import Bench
from mcdo.perturbation import PASS_BLOCK, PerturbedTower, image_keys, perturbed

Array = NDArray[np.float64]


def pass_moments(bench: Bench, need: Need, text: NDArray[np.floating]) -> dict[str, Array]:
    """Variances over passes, measured once and kept.

    Args:
        bench: the session.
        need: images, perturbation, T (the largest of ``passes``), trials and seed.
        text: pre-norm text features ``[n, D]`` of the prompts.

    Returns:
        ``frame`` [q, D]: orthonormal rows that span the text features and the mean unit image feature;
        ``covariance`` [K, N, q, q] in it; ``total`` [K, N], the trace of the whole covariance; ``similarity``
        [K, N, n], the variance of the cosine with every prompt; ``mean_covariance`` [D, D], the mean over images and
        trials of covariance/trace. All sample covariances (ddof 1).

    """
    images, config = bench.images(need.n, need.images, need.degradation), need.config
    features = bench.features(need.model, need.n, need.images, need.degradation)
    units = torch.nn.functional.normalize(torch.from_numpy(np.asarray(text, dtype=np.float64)), dim=-1)
    mean = torch.nn.functional.normalize(torch.from_numpy(features).double(), dim=-1).mean(0, keepdim=True)
    frame = _row_space(torch.cat([units, mean]))

    def compute() -> dict[str, NDArray[Any]]:
        encoder, pixels = bench.encoder(need.model), bench.pixels(need.model, need.n, need.images, need.degradation)
        keys = image_keys(images.mask_ids, encoder.device)
        step = max(1, pixel_rows(encoder, bench.settings.batch_size) // PASS_BLOCK)
        rows: list[list[dict[str, Tensor]]] = [[] for _ in range(config.trials)]
        shares = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
        with perturbed(encoder, config.dropout, config.seed) as tower:
            for start in range(0, len(images), step):
                part = slice(start, start + step)
                x = pixels.batch(part)
                for trial, found in enumerate(rows):
                    passes = _passes(tower, x, keys[part], trial, config.passes[-1])
                    moments, share = _moments(passes, frame, units)
                    found.append(moments)
                    shares += share
        held = {
            name: torch.stack([torch.cat([piece[name] for piece in found]) for found in rows]) for name in rows[0][0]
        }
        held["mean_covariance"] = shares / (config.trials * len(images))
        return {"frame": frame.numpy(), **{name: value.numpy() for name, value in held.items()}}

    identity = {
        "images": images.fingerprint,
        "dropout": config.dropout.as_dict(),
        "passes": config.passes[-1],
        "trials": config.trials,
        "seed": config.seed,
        "text": np.round(units.numpy(), 6).tolist(),
    }
    return bench.kept("pass moments 1", need.model, identity, compute)


def _row_space(rows: Tensor) -> Tensor:
    """Orthonormal rows with the span of ``rows``; directions of rounding are kept, they do no harm."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    kept: Tensor = basis[values > 1e-10 * values[0]]
    return kept


def _passes(tower: PerturbedTower, pixels: Tensor, keys: Tensor, trial: int, count: int) -> Tensor:
    """``[B, T, D]`` in float64 on the CPU."""
    blocks = [
        tower(pixels, keys, trial, start // PASS_BLOCK, 0, min(PASS_BLOCK, count - start)).cpu().double()
        for start in range(0, count, PASS_BLOCK)
    ]
    return torch.cat(blocks, dim=1)


def _moments(passes: Tensor, frame: Tensor, units: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Of one block of images: what is kept of each, and the sum of their covariances, each over its trace."""
    shifted = passes - passes[:, :1]  # equal passes give exact zeros
    centred = shifted - shifted.mean(1, keepdim=True)
    freedom = passes.shape[1] - 1
    inside = centred @ frame.T
    total = centred.square().sum((1, 2)) / freedom
    cosines = torch.nn.functional.normalize(passes, dim=-1) @ units.T
    scaled = (centred / (freedom * total[:, None, None]).sqrt()).flatten(0, 1)
    kept = {"covariance": inside.mT @ inside / freedom, "total": total, "similarity": cosines.var(dim=1)}
    return kept, scaled.T @ scaled
