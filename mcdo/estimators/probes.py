"""Probe directions for the trace of a first-order covariance: random, but the same for every image.

Any v with E[v vᵀ] = 1 makes vᵀΣv an unbiased estimate of the trace of Σ (Hutchinson 1990). Two things cut its noise
where images are to be *ranked*. Probes shared by all images make errors that images share, which cancel in a ranking.
And random signs only leave an error from the off-diagonal of Σ; in the eigenbasis of the mean Σ little is off the
diagonal. So each of R probes is the signed sum of every R-th axis of that basis, and together they use each axis once.

The basis must not depend on the images that are scored. It is taken once from a few passes on fixed inputs of the
encoder's own (smooth noise, or prompts): it only decides how noisy the estimate is, never what it estimates.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.overflow import check_finite
from mcdo.estimators.progress import Silent
from mcdo.estimators.resumption import unkept
from mcdo.perturbation import PASS_BLOCK, Perturbation, image_keys, perturbed

CALIBRATION_IMAGES, CALIBRATION_PASSES = 8, 64
"""Passes on fixed inputs that give the basis: their cost, in forward passes, is the product, once for a run."""


def noise_basis(encoder: Encoder, kind: Perturbation) -> NDArray[np.float64]:
    """Axes ``[D, D]`` (columns) along which the feature moves most under ``kind``, for the encoder's fixed inputs.

    Raises:
        McdoError: for passes that are not finite.

    """
    inputs = encoder.calibration_inputs(CALIBRATION_IMAGES)
    keys = image_keys([f"smooth noise {i}" for i in range(CALIBRATION_IMAGES)], encoder.device)
    loop = BlockLoop(encoder, CALIBRATION_IMAGES, PASS_BLOCK, PASS_BLOCK)  # each input by itself
    moved = torch.empty(CALIBRATION_IMAGES, CALIBRATION_PASSES, encoder.feature_dim, dtype=torch.float64)

    def measure(start: int, stop: int) -> None:
        pieces = list(tower.passes(inputs[start:stop], keys[start:stop], 0, CALIBRATION_PASSES, loop.rows))
        passes = torch.cat(pieces, dim=1).cpu().double()
        check_finite(encoder, passes.isfinite().all(-1)[None], [f"calibration input {i}" for i in range(start, stop)])
        moved[start:stop] = passes - passes.mean(1, keepdim=True)

    with perturbed(encoder, kind, seed=0, exact=True) as tower:
        tower.before_map = loop.check_wanted
        loop.run(measure, unkept(), Silent())
    deviations = moved.flatten(0, 1)
    _, axes = torch.linalg.eigh(deviations.mT @ deviations)
    basis: NDArray[np.float64] = axes.flip(-1).numpy()
    return basis


def stratified_probes(basis: NDArray[np.float64], count: int, seed: int, trial: int) -> Tensor:
    """``count`` probes float32 ``[count, D]``, whose outer products sum to the identity in expectation.

    Args:
        basis: orthonormal columns ``[D, D]``, the most important first.
        count: R, at most D.
        seed: seed of the run.
        trial: number of the trial; trials are independent.

    """
    rng = np.random.default_rng((seed, trial, count))
    width = len(basis)
    # Each probe gets one axis of every run of R neighbours, so that all carry about the same variance.
    owner = np.concatenate([rng.permutation(count)[: min(count, width - i)] for i in range(0, width, count)])
    signed = basis * rng.choice((-1.0, 1.0), width)
    probes = np.stack([signed[:, owner == r].sum(1) for r in range(count)])
    return torch.from_numpy(probes.astype(np.float32))
