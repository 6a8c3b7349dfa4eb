"""Heads and meta-learner: a multilayer perceptron whose initialisation and dropout masks are given from outside.

No layer draws a random number by itself, so training can be resumed bit for bit, Monte Carlo dropout does not depend on
the batch, and the process-wide generator is never touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mcdo.studies.subtasks.config import Architecture


def generator(*seed: int) -> torch.Generator:
    """A CPU generator that belongs to a sequence of whole numbers (a seed, a purpose, an epoch)."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


class Perceptron(nn.Module):
    """[B, inputs] to logits [B, outputs] through ``architecture.hidden`` layers of Linear, BatchNorm, ReLU and mask."""

    def __init__(self, inputs: int, outputs: int, architecture: Architecture, seed: int) -> None:
        super().__init__()
        self.architecture = architecture
        widths = (inputs, *architecture.hidden, outputs)
        # skip_init: the layers' own initialisation would draw from the process-wide generator
        self.linears = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, a, b)  # type: ignore[no-untyped-call]
            for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in architecture.hidden if architecture.batchnorm)
        self._initialise(generator(seed, 0))

    def _initialise(self, source: torch.Generator) -> None:
        """PyTorch's own default for linear maps: uniform within ±1/√fan_in."""
        with torch.no_grad():
            for linear in self.linears:
                assert isinstance(linear, nn.Linear)
                bound = 1 / math.sqrt(linear.in_features)
                linear.weight.uniform_(-bound, bound, generator=source)
                linear.bias.uniform_(-bound, bound, generator=source)

    def forward(self, x: Tensor, masks: Sequence[Tensor] | None = None) -> Tensor:
        """Logits; ``masks`` are factors [B, width] for each hidden layer (None: no dropout)."""
        for i, linear in enumerate(self.linears[:-1]):
            x = linear(x)
            if self.architecture.batchnorm:
                x = self.norms[i](x)
            x = functional.relu(x)
            if masks is not None:
                x = x * masks[i]
        return torch.as_tensor(self.linears[-1](x))

    def draw_masks(self, rows: int, source: torch.Generator) -> list[Tensor] | None:
        """Inverted dropout: 0 with probability p, else 1/(1 − p); None where p = 0."""
        p = self.architecture.dropout
        if p == 0:
            return None
        return [(torch.rand(rows, width, generator=source) >= p) / (1 - p) for width in self.architecture.hidden]
