"""Dropout as a user would add it by hand: the reference that keyed masks are compared with."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.perturbation import Dropout, find_sites, image_keys, perturbed
from mcdo.threads import one_thread

Floats = NDArray[np.float64]

BATCHES = 20
"""Independent estimates of each variance; their spread gives the interval."""


def hooked_variance(encoder: Encoder, pixels: Tensor, modules: Collection[str], p: float, passes: int) -> Floats:
    """trace_pre ``[BATCHES, B]`` of passes in which torch's own dropout follows each of these modules."""
    hooks = []
    for name, module in encoder.model.named_modules():
        if name in modules:
            hooks.append(module.register_forward_hook(lambda m, i, y: nn.functional.dropout(y, p)))
    assert len(hooks) == len(modules)
    rows = pixels.repeat_interleave(passes, dim=0)  # native dropout draws every row's mask on its own
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(5)
        batches = [encoder.forward_image(rows).view(len(pixels), passes, -1) for _ in range(BATCHES)]
    for hook in hooks:
        hook.remove()
    return torch.stack([batch.var(1).mean(-1) for batch in batches]).double().numpy()


def keyed_variance(encoder: Encoder, pixels: Tensor, kind: Dropout, passes: int) -> Floats:
    """The same of keyed masks."""
    keys = image_keys([f"image {i}" for i in range(len(pixels))])
    with perturbed(encoder, kind, seed=1) as drop:
        batches = [[drop(pixels, keys, trial, block) for block in range(passes // 16)] for trial in range(BATCHES)]
    return torch.stack([torch.cat(batch, dim=1).var(1).mean(-1) for batch in batches]).double().numpy()


def assert_same_variance(encoder: Encoder, pixels: Tensor, p: float, passes: int) -> None:
    """Both ways at all sites have the same variance, image by image, within four standard errors of its logarithm.

    On one thread: the towers are small, and on a busy machine two threads wait for each other at every operation.
    """
    sites = {site.name.partition("#")[0] for site in find_sites(encoder).select("all")}
    with one_thread():
        ours = keyed_variance(encoder, pixels, Dropout(p), passes)
        theirs = hooked_variance(encoder, pixels, sites, p, passes)
    spread = [np.square(each.std(0, ddof=1) / each.mean(0)) / BATCHES for each in (ours, theirs)]
    z = np.log(ours.mean(0) / theirs.mean(0)) / np.sqrt(sum(spread))
    assert np.abs(z).max() < 4, z
    assert np.sqrt(sum(spread)).max() < 0.2, "too few passes to tell anything"
