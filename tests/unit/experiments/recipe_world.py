"""A tower of made-up sites, and images of which some sites see the damage."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.recipe.choice import Data
from mcdo.experiments.recipe.halves import Baseline, Half
from mcdo.experiments.recipe.sites import Tower

Array = NDArray[np.float64]
SITES = [
    (f"visual.blocks.{block}.{name}", role)
    for block in range(3)
    for name, role in (
        ("attn.qkv", "qkv"), ("attn.proj", "attention_output"), ("mlp.fc1", "fc1"), ("mlp.fc2", "fc2"),
    )
] + [("visual.head.proj", "final_projection")]  # fmt: skip
TOWER = Tower.of(SITES)
CHOSEN_ON = ("blur:1.33%", "blur:4%", "down:2.4", "down:4.8")
UNSEEN = {"noise": ("noise:0.2",), "jpeg": ("jpeg:10",)}


def world(
    seeing: Mapping[str, float], n: int = 80, trials: int = 5, noise: float = 0.05, seed: int = 0, variants: int = 1
) -> Data:
    """Sites of the roles in ``seeing`` rise under every damage by that factor, on average; the others do not.

    Contributions are log-normal; those of a trial share a part of their noise, as probes make them.
    """
    rng = np.random.default_rng(seed)
    S = len(SITES)
    own = np.exp(rng.normal(size=(n // variants, S))).repeat(variants, axis=0)

    def measured(factor: Array) -> Array:
        common = noise * rng.normal(size=(trials, 1, S))
        return own * factor * np.exp(common + noise * rng.normal(size=(trials, n, S)))

    rises = np.array([seeing.get(role, 0.0) for _, role in SITES])
    clean = measured(np.ones((n, S)))
    specs = (*CHOSEN_ON, *(spec for specs in UNSEEN.values() for spec in specs))
    after = {spec: measured(np.exp(rises + 0.3 * rng.normal(size=(n, S)))) for spec in specs}
    origins = tuple(f"o{i // variants:04}" for i in range(n))
    half = Half(clean, {spec: each - clean for spec, each in after.items()}, origins)
    sharp = rng.normal(size=n)
    baseline = Baseline(sharp, {spec: sharp + rng.normal(size=n) for spec in specs})
    return Data({"trace_pre": half, "trace_post": half}, {"sharpness": baseline}, CHOSEN_ON, UNSEEN, seed=seed)
