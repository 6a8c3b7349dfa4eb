"""Run by test_perturbation_cuda.py under Triton's interpreter: the GPU's kernels and its graphs, on a CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mcdo.encoders import load_encoder
from mcdo.perturbation import PASS_BLOCK, Dropout, KeyedMasks, MaskedSite, image_keys, perturbed
from mcdo.perturbation.cuda_masks import CudaMasks
from mcdo.perturbation.graphs import PassGraphs


def zeroes_the_same_units() -> None:
    keys, trial, block = image_keys(["x", "y", "z"]), 2, 3
    for p in (1e-300, 0.01, 0.9):
        sites = [MaskedSite("a", 300, p), MaskedSite("b", 3, p), MaskedSite("c", 200, p), MaskedSite("d", 7, p, 5, 2)]
        masks = KeyedMasks(sites, 5)
        kernels = CudaMasks(sites, masks._seed, torch.device("cpu"))
        started = kernels.start(torch.full((1,), kernels.block_key(trial, block)), keys)
        for index, site in enumerate(sites):
            for first, last in ((0, PASS_BLOCK), (3, 7)):
                y = torch.randn(len(keys) * (last - first), site.size)
                expected = masks.zero_(y.clone(), index, trial, block, keys, first, last)
                dtype = torch.bfloat16 if first else torch.float32
                found = kernels.zero_(y.to(dtype), index, started, keys, first, last)
                assert torch.equal(found, expected.to(dtype)), (p, site, first, last, dtype)


class Again:
    """In the place of a captured graph: carries the work out again, into the same tensor; or does not."""

    def __init__(self, stale: bool = False) -> None:
        self.captured = self.replayed = 0
        self._stale = stale

    def __call__(self, do: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        self.captured += 1
        output = do().clone()

        def replay() -> None:
            self.replayed += 1
            if not self._stale:
                output.copy_(do())

        return replay, output


def replays_passes() -> None:
    encoder = load_encoder("clip_tiny")
    pixels = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    names = [image_keys(["a", "b"]), image_keys(["c", "d"])]
    wanted = [(i, trial, block, first, last) for i in range(2) for trial in range(2) for block in range(2)
              for first, last in ((0, 2), (2, 4), (0, 2))]  # fmt: skip
    kind = Dropout(0.01, "fc2")
    with perturbed(encoder, kind, 7) as tower:
        expected = [tower(pixels[i], names[i], *which) for i, *which in wanted]
    for stale in (False, True):
        again = Again(stale)
        with perturbed(encoder, kind, 7) as tower:
            assert isinstance(tower._noise, KeyedMasks)
            tower._kernels = CudaMasks(tower._noise.sites, tower._noise._seed, torch.device("cpu"))
            graphs = tower.graphs = PassGraphs(again)
            found = [tower(pixels[i], names[i], *which) for i, *which in wanted]
        assert all(map(torch.equal, expected, found)), stale
        assert again.captured == (1 if stale else 2), again.captured
        assert again.replayed > 15 or stale
        assert bool(graphs.refused) is stale, graphs.refused


def goes_on_without_graphs() -> None:
    def refuses(do: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = PassGraphs(refuses)
    for number in range(5):
        rows, keys = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
        found = graphs(lambda rows, keys, run: rows * run, "shape", rows, keys, number)
        assert torch.equal(found, rows * number)
    assert "not permitted" in graphs.refused


zeroes_the_same_units()
replays_passes()
goes_on_without_graphs()
