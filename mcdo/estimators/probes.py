"""Probe directions for the trace of a first-order covariance: random, but the same for every image.

Any v with E[v vᵀ] = 1 makes vᵀΣv an unbiased estimate of the trace of Σ (Hutchinson 1990). Two things cut its noise
where images are to be *ranked*. Probes shared by all images make errors that images share, which cancel in a ranking.
And random signs only leave an error from the off-diagonal of Σ; in the eigenbasis of the mean Σ little is off the
diagonal. So each of R probes is the signed sum of every R-th axis of that basis, and together they use each axis once.

The basis must not depend on the images that are scored. It is taken once from a few passes on fixed inputs of the
encoder's own (smooth noise, or prompts): it only decides how noisy the estimate is, never what it estimates. The store
keeps it for every later run of the same encoder, kind and sites, and a process keeps the last ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder, TextTower
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.by_image import of_passes
from mcdo.estimators.overflow import check_finite
from mcdo.estimators.provenance import encoder_identity, encoder_provenance
from mcdo.estimators.resumption import measured_once
from mcdo.perturbation import PASS_BLOCK, SCHEME, Perturbation, image_keys, perturbed
from mcdo.store import Arrays, Store, Unfinished, check_shapes
from mcdo.store.fingerprint import measuring_code

_HELD: dict[str, NDArray[np.float64]] = {}
"""The last bases that this process measured, by the store's key: for runs without a store."""
MOST_HELD = 8
"""Of them; the largest that there is takes 10 MB."""
CALIBRATION_IMAGES, CALIBRATION_PASSES, CALIBRATION_P = 8, 64, 0.01
"""Passes on fixed inputs that give the basis: their cost, in forward passes, is the product of the first two.

At one p for all, because first order is linear in p / (1 - p): runs at several p have the same probes.
"""
BATCH = PASS_BLOCK
"""Rows of one forward pass: each input is by itself."""


def noise_basis(
    encoder: Encoder, kind: Perturbation, *, store: Store | Path | str | None = None, progress: bool = False
) -> NDArray[np.float64]:
    """Axes ``[D, D]`` (columns) along which the feature moves most under ``kind``, for the encoder's fixed inputs.

    Kept in the ``store`` by what the encoder does, the kind and its sites, and in this process likewise (read-only).
    ``progress`` reports the passes, and whom this process waits for.

    Raises:
        McdoError: for passes that are not finite, or a store that cannot be written.

    """
    kind, D = kind.with_p(CALIBRATION_P), encoder.feature_dim
    protocol = {"kind": kind.as_dict(), "inputs": CALIBRATION_IMAGES, "passes": CALIBRATION_PASSES}

    def key() -> str:
        identity = encoder_identity(encoder, text=isinstance(encoder, TextTower))
        family = {"method": "noise basis", "code": measuring_code(), "masks": SCHEME, **identity}
        return Store.key({**family, "protocol": protocol})

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        check_shapes(arrays, {"basis": (D, D)})
        if not np.allclose(arrays["basis"].T @ arrays["basis"], np.eye(D), atol=1e-6):
            raise ValueError("its axes are not orthonormal")

    def find(opened: Store, name: str) -> NDArray[np.float64] | None:
        found = opened.get(name, fits)
        return None if found is None else found[0]["basis"]

    def measure(parts: Unfinished | None) -> NDArray[np.float64]:
        name = key()
        basis = _HELD.get(name)
        if basis is None:
            basis = _noise_basis(encoder, kind, parts, progress)
            basis.setflags(write=False)
            _HELD[name] = basis
            held = list(_HELD)
            for old in held[: max(0, len(held) - MOST_HELD)]:
                _HELD.pop(old, None)
        return basis

    def packed(basis: NDArray[np.float64]) -> tuple[Arrays, Mapping[str, Any]]:
        passes = f"{CALIBRATION_IMAGES} inputs, T = {CALIBRATION_PASSES}"
        label = {"encoder": encoder.key, "images": "fixed inputs", "protocol": f"{kind}, noise basis, {passes}"}
        return {"basis": basis}, {"label": label, "protocol": protocol, "provenance": encoder_provenance(encoder)}

    return measured_once(store, key, find, measure, packed, progress=progress)


def _noise_basis(encoder: Encoder, kind: Perturbation, parts: Unfinished | None, progress: bool) -> NDArray[np.float64]:
    inputs = encoder.calibration_inputs(CALIBRATION_IMAGES)
    names = [f"calibration input {i}" for i in range(CALIBRATION_IMAGES)]
    keys = image_keys([f"smooth noise {i}" for i in range(CALIBRATION_IMAGES)], encoder.device)

    def look(part: slice, loop: BlockLoop) -> tuple[NDArray[np.float32]]:
        begun = loop.begun(part.start, part.stop)
        pieces = [] if begun is None else [torch.from_numpy(begun["passes"])]
        done = sum(piece.shape[1] for piece in pieces)
        loop.tick(done * (part.stop - part.start))  # by an earlier process

        def state() -> Arrays:
            return {"passes": torch.cat(pieces, dim=1).numpy()}

        tower.before_map = loop.check_wanted
        for piece in tower.passes(inputs[part], keys[part], 0, CALIBRATION_PASSES, loop.rows, done):
            pieces.append(piece.float().cpu())
            loop.tick(piece.shape[0] * piece.shape[1], state)
        passes = torch.cat(pieces, dim=1)
        check_finite(encoder, passes.isfinite().all(-1)[None], names[part])
        return (passes.numpy(),)

    with perturbed(encoder, kind, seed=0, exact=True) as tower:
        (passes,) = of_passes(
            encoder, CALIBRATION_IMAGES, look, CALIBRATION_PASSES, "noise basis", BATCH, progress, parts
        )  # fmt: skip
    seen = torch.from_numpy(passes).double()
    deviations = (seen - seen.mean(1, keepdim=True)).flatten(0, 1)
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
