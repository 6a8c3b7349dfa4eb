"""What only CUDA carries out, on a CPU: its kernels under Triton's interpreter, and its graphs by repeated passes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from mcdo.encoders import Encoder, load_encoder
from mcdo.perturbation import PASS_BLOCK, Dropout, KeyedMasks, MaskedSite, image_keys, perturbed
from mcdo.perturbation.graphs import PassGraphs


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("clip_tiny")


KIND = Dropout(0.01, "fc2")


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Any]]:
    """The kernels under Triton's interpreter: it is chosen as Triton and they are imported, here for once."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs triton, which torch brings on Linux")

    def loaded() -> list[str]:
        kernels = "mcdo.perturbation.cuda_masks"
        return [n for n in sys.modules if n == kernels or (n.partition(".")[0] == "triton" and "._C" not in n)]

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    before = {name: sys.modules.pop(name) for name in loaded()}
    yield importlib.import_module("mcdo.perturbation.cuda_masks").CudaMasks
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(before)


def test_kernels_zero_the_units_of_the_cpu(interpreted: type[Any], encoder: Encoder) -> None:
    """Site by site, and in a pass of a tower."""
    keys, trial, block, cpu = image_keys(["x", "y"]), 2, 3, torch.device("cpu")
    for p in (1e-300, 0.01, 0.9):
        sites = [MaskedSite("a", 300, p), MaskedSite("b", 3, p), MaskedSite("c", 200, p), MaskedSite("d", 7, p, 5, 2)]
        masks = KeyedMasks(sites, 5)
        kernels = interpreted(sites, masks._seed, cpu)
        started = kernels.start(torch.full((1,), kernels.block_key(trial, block)), keys)
        for index, site in enumerate(sites):
            for first, last, dtype in ((0, PASS_BLOCK, torch.float32), (3, 7, torch.bfloat16)):
                y = torch.randn(len(keys) * (last - first), site.size)
                expected = masks.zero_(y.clone(), index, trial, block, keys, first, last)
                found = kernels.zero_(y.to(dtype), index, started, keys, first, last)
                assert torch.equal(found, expected.to(dtype)), (p, site, dtype)

    pixels = encoder.calibration_inputs(2)
    with perturbed(encoder, Dropout(0.01, "visual.proj"), 7) as tower:
        expected, noise = tower(pixels, keys, trial, block, 3, 7), tower._noise
        assert isinstance(noise, KeyedMasks)
        tower._kernels = interpreted(noise.sites, noise._seed, cpu)
        assert torch.equal(tower(pixels, keys, trial, block, 3, 7), expected)
        tower._kernels = interpreted(noise.sites, noise._seed + 1, cpu)
        assert not torch.equal(tower(pixels, keys, trial, block, 3, 7), expected)


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


class ByTheCpu:
    """Kernels that read which passes are wanted from a tensor, as CUDA's do, and zero as the CPU does."""

    def __init__(self, masks: KeyedMasks) -> None:
        self._masks = masks

    def block_key(self, trial: int, block: int) -> int:
        return 100 * trial + block

    def start(self, run: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return run, keys

    def zero_(
        self, y: Tensor, index: int, started: tuple[Tensor, Tensor], keys: Tensor, first: int, last: int
    ) -> Tensor:
        return self._masks.zero_(y, index, *divmod(int(started[0]), 100), keys, first, last)


@pytest.mark.parametrize("stale", [False, True])
def test_replayed_passes_have_the_bits_of_their_own_and_stale_ones_are_refused(encoder: Encoder, stale: bool) -> None:
    pixels = [torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    names = [image_keys(["a", "b"]), image_keys(["c", "d"])]
    wanted = [(i, trial, block, first, last) for i in range(2) for trial in range(2) for block in range(2)
              for first, last in ((0, 2), (2, 4), (0, 2))]  # fmt: skip
    with perturbed(encoder, KIND, 7) as tower:
        expected = [tower(pixels[i], names[i], *which) for i, *which in wanted]
    again = Again(stale)
    with perturbed(encoder, KIND, 7) as tower:
        assert isinstance(tower._noise, KeyedMasks)
        tower._kernels = ByTheCpu(tower._noise)  # type: ignore[assignment]
        graphs = tower.graphs = PassGraphs(again)
        found = [tower(pixels[i], names[i], *which) for i, *which in wanted]
    assert all(map(torch.equal, expected, found))
    assert again.captured == (1 if stale else 2)
    assert again.replayed > 15 or stale
    assert bool(graphs.refused) is stale, graphs.refused


def test_a_replay_reads_the_rows_that_it_is_given() -> None:
    graphs, keys = PassGraphs(Again()), torch.zeros(2, dtype=torch.int64)
    one, other = torch.ones(2, 3), torch.full((2, 3), 5.0)  # neither takes the other's place in memory
    for number, rows in enumerate((one, one, one, other, one)):
        found = graphs(lambda rows, keys, run: rows * run, "shape", rows, keys, number)
        assert torch.equal(found, rows * number)


def test_passes_that_cannot_be_captured_are_carried_out_without_graphs() -> None:
    def refuses(do: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = PassGraphs(refuses)
    for number in range(5):
        rows, keys = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
        found = graphs(lambda rows, keys, run: rows * run, "shape", rows, keys, number)
        assert torch.equal(found, rows * number)
    assert "not permitted" in graphs.refused
