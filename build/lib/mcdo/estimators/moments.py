"""Running mean and variance over passes, by Chan, Golub and LeVeque's pairwise update (1983).

E[x²] − E[x]² cancels when the variance is tiny beside the mean, as it is here; the pairwise update never subtracts two
large numbers. Passes are taken relative to the first one, so that equal passes give a variance of exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """float64 wherever the device has it; MPS has not."""
    return torch.float32 if device.type == "mps" else torch.float64


class RunningMoments:
    """Mean and sum of squared deviations over a growing number of passes.

    ``count`` is the number of passes seen.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first = self._shift = self._m2 = torch.empty(0)

    def update(self, passes: Tensor) -> None:
        """Add passes ``[B, P, ...]``."""
        passes = passes.to(accumulator_dtype(passes.device))
        new = passes.shape[1]
        if not self.count:
            self._first = passes[:, 0].clone()
        passes = passes - self._first.unsqueeze(1)
        mean = passes.mean(1)
        m2 = passes.sub_(mean.unsqueeze(1)).square_().sum(1)
        if not self.count:
            self.count, self._shift, self._m2 = new, mean, m2
            return
        total = self.count + new
        delta = mean - self._shift
        self._shift = self._shift + delta * (new / total)
        self._m2 = self._m2 + m2 + delta.square() * (self.count * new / total)
        self.count = total

    def state(self) -> dict[str, Tensor]:
        """All there is to know, for :meth:`of`."""
        return {"count": torch.tensor(self.count), "first": self._first, "shift": self._shift, "m2": self._m2}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> RunningMoments:
        """Moments that go on, to the same bits, where :meth:`state` was taken."""
        found = cls()
        found.count = int(state["count"])
        found._first, found._shift, found._m2 = state["first"], state["shift"], state["m2"]
        return found

    @property
    def mean(self) -> Tensor:
        """Mean over passes ``[B, ...]``."""
        return self._first + self._shift

    @property
    def variance(self) -> Tensor:
        """Sample variance (ddof 1) ``[B, ...]``; NaN before the second pass."""
        return self._m2 / (self.count - 1) if self.count > 1 else torch.full_like(self._m2, torch.nan)
