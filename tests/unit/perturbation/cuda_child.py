"""Carried out by test_perturbation_cuda.py in another process, which imports Triton anew to have it interpret."""

from __future__ import annotations

import os
import sys

import torch

from mcdo.encoders import load_encoder
from mcdo.perturbation import PASS_BLOCK, Dropout, KeyedMasks, MaskedSite, image_keys, perturbed


def kernels_zero_the_units_of_the_cpu() -> None:
    """Under Triton's interpreter: site by site, and in a pass of a tower."""
    os.environ["TRITON_INTERPRET"] = "1"  # read as Triton and the kernels are imported
    for name in [name for name in sys.modules if name.partition(".")[0] == "triton" and "._C" not in name]:
        del sys.modules[name]
    from mcdo.perturbation.cuda_masks import CudaMasks

    keys, trial, block, cpu = image_keys(["x", "y"]), 2, 3, torch.device("cpu")
    for p in (1e-300, 0.01, 0.9):
        sites = [MaskedSite("a", 300, p), MaskedSite("b", 3, p), MaskedSite("c", 200, p), MaskedSite("d", 7, p, 5, 2)]
        masks = KeyedMasks(sites, 5)
        kernels = CudaMasks(sites, masks._seed, cpu)
        started = kernels.start(torch.full((1,), kernels.block_key(trial, block)), keys)
        for index, site in enumerate(sites):
            for first, last, dtype in ((0, PASS_BLOCK, torch.float32), (3, 7, torch.bfloat16)):
                y = torch.randn(len(keys) * (last - first), site.size)
                expected = masks.zero_(y.clone(), index, trial, block, keys, first, last)
                found = kernels.zero_(y.to(dtype), index, started, keys, first, last)
                assert torch.equal(found, expected.to(dtype)), (p, site, dtype)

    encoder = load_encoder("clip_tiny")
    pixels = encoder.calibration_inputs(2)
    with perturbed(encoder, Dropout(0.01, "visual.proj"), 7) as tower:
        expected, noise = tower(pixels, keys, trial, block, 3, 7), tower._noise
        assert isinstance(noise, KeyedMasks)
        tower._kernels = CudaMasks(noise.sites, noise._seed, cpu)
        assert torch.equal(tower(pixels, keys, trial, block, 3, 7), expected)
        tower._kernels = CudaMasks(noise.sites, noise._seed + 1, cpu)
        assert not torch.equal(tower(pixels, keys, trial, block, 3, 7), expected)
