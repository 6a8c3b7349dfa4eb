"""What a plan will take: time, from a few passes of each kind that are measured now, and size of what is stored."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from mcdo.cluster.look import measured
from mcdo.cluster.work import Work, described
from mcdo.estimators import first_order, monte_carlo
from mcdo.estimators.progress import Silent
from mcdo.harness import FirstOrder, Passes, Request
from mcdo.harness.expense import expense
from mcdo.harness.remaining import duration, seconds_per_pass
from mcdo.perturbation import PASS_BLOCK
from mcdo.stats.planning import Size

SAMPLE_S = 3.0
"""About how long a kind of measurement is tried."""


@dataclass(frozen=True)
class Row:
    """A measurement of the plan.

    Attributes:
        what: it is.
        passes: of one image, or products; 0 for next to none.
        state: "whole", "to do", or how many images are there.
        seconds: that are left; None where nothing is known.
        size: bytes in the store; None where nothing is known.

    """

    what: str
    passes: int
    state: str
    seconds: float | None
    size: int | None

    @property
    def said_time(self) -> str:
        """For people."""
        return "-" if self.seconds is None else duration(self.seconds)

    @property
    def said_size(self) -> str:
        """For people."""
        return "-" if self.size is None else f"{self.size / 2**20:.1f} MB"


class _Timed(Silent):
    """Says when the passes began, and when they ended."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __call__(self, total: int, what: str, unit: str) -> _Timed:
        return self

    def __enter__(self) -> _Timed:
        self._began = time.monotonic()
        return self

    def __exit__(self, *ended: object) -> None:
        self.seconds = time.monotonic() - self._began


class Estimates:
    """Estimates for the requests of some work.

    Attributes:
        seconds: of all that was asked for.

    """

    def __init__(self, work: Work) -> None:
        self._work, self._session = work, work.session
        self.seconds = 0.0
        self._plain: dict[str, float] = {}
        self._rates: dict[tuple[Any, ...], tuple[float, float]] = {}

    def of(self, request: Request[Any]) -> Row:
        """What a planned request takes."""
        passes, size = request.expected_passes(self._session), self._size(request)
        if request in self._work.whole:
            return Row(described(request), passes, "whole", 0.0, size)
        if request not in self._work.keys:
            return Row(described(request), passes, "cannot be measured", None, None)
        passes += request.passes_beside(self._session)
        cut, share, state = request.divisible(self._session), 1.0, "to do"
        if cut is not None:
            assert self._session.store is not None
            done = int(measured(self._session.store, self._work.keys[request], cut[0]).sum())
            share, state = 1 - done / cut[0], f"{done} of {cut[0]} images" if done else state
        seconds = self._seconds(request, passes * share)
        self.seconds += seconds or 0.0
        return Row(described(request), passes, state, seconds, size)

    def _seconds(self, request: Request[Any], passes: float) -> float | None:
        if isinstance(request, Passes | FirstOrder):
            kind = _kind(request)
            if kind not in self._rates:
                self._rates[kind] = self._sampled(request)
            setup, each = self._rates[kind]
            return setup + each * passes
        return passes * self._plain_pass(request.model) if passes else None

    def _plain_pass(self, model: str) -> float:
        if model not in self._plain:
            self._plain[model] = seconds_per_pass(self._session.encoder(model), self._session.settings.batch_size)
        return self._plain[model]

    def _sampled(self, request: Passes | FirstOrder) -> tuple[float, float]:
        """Seconds before the first pass, and of a pass or product: of one trial of some blocks, as it is measured.

        Of a slow encoder fewer images are taken, and fewer passes; then without what only all passes give.
        """
        encoder, images, _ = self._session.tower(request.model, request.shown)
        cut = request.divisible(self._session)
        assert cut is not None
        threads = torch.get_num_threads() if encoder.device.type == "cpu" else 1
        config = request.config if isinstance(request, Passes) else None
        each = config.passes[-1] if config is not None else request.probes  # type: ignore[union-attr]
        affordable = SAMPLE_S / max(self._plain_pass(request.model) * each, 1e-9)
        few = int(min(len(images), threads * cut[1], max(threads, affordable)))
        if config is not None:
            config = replace(config, trials=1)
            if few * each * self._plain_pass(request.model) > 3 * SAMPLE_S:
                config, each = replace(config, passes=(PASS_BLOCK,), geometry=()), PASS_BLOCK
        shown, timed, batch = images.select(slice(0, few)), _Timed(), self._session.settings.batch_size
        spread = min(cut[1], -(-few // threads)) * PASS_BLOCK  # so that each thread has a block
        taken = np.inf
        for _ in range(2):  # the first is slow: caches, compilation
            began = time.monotonic()
            if config is not None:
                monte_carlo(
                    encoder, shown, config.dropout, config.passes, 1, config.seed, geometry=config.geometry,
                    scores=config.scores, batch_size=spread if few < threads * cut[1] else batch, progress=timed,
                )  # fmt: skip
            else:
                assert isinstance(request, FirstOrder)
                first_order(encoder, shown, request.dropout, request.probes, 1, request.seed, progress=timed)
            taken = time.monotonic() - began
        return taken - timed.seconds, timed.seconds / (few * each)

    def _size(self, request: Request[Any]) -> int | None:
        if not isinstance(request, Passes):
            return None
        encoder, images, _ = self._session.tower(request.model, request.shown)
        size = Size(len(images), request.config.trials, request.config.passes[-1])
        return expense(encoder, size, request.config, 0.0).stored


def _kind(request: Passes | FirstOrder) -> tuple[Any, ...]:
    """Requests that cost the same by pass."""
    shown = request.model, type(request.shown)
    if isinstance(request, Passes):
        config = request.config
        return *shown, config.dropout.with_p(0.5), config.geometry, config.passes, config.scores
    return *shown, request.dropout.with_p(0.5), request.probes
