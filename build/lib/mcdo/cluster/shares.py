"""Shares: which process measures which images, from the plan alone, so that all know it without asking."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.harness import Request, Session

Owners = NDArray[np.int64]
"""``[N]``, the share of each image, counted from 0; of a measurement that is not divided ``[1]``."""


@dataclass(frozen=True)
class Share:
    """Share ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    @staticmethod
    def parse(text: str) -> Share:
        """``i/n``. Raises McdoError for anything else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise McdoError(f"--shard={text}: write it as i/n, such as 1/6 for the first of six")
        return Share(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def divided(session: Session, requests: Iterable[Request[Any]], shares: int) -> dict[Request[Any], Owners]:
    """Who measures what, so that all have about as much to do.

    A measurement is cut into one run of images for each share, at the ends of blocks. Blocks that are over go to who
    has least so far, reckoned in passes of the same model: so shares are even whatever a pass of a model costs. What
    cannot be cut goes to whom has least, the largest first.

    Args:
        session: knows how many images there are, and what is measured together.
        requests: planned ones.
        shares: how many there are.

    """
    work: defaultdict[str, Counter[int]] = defaultdict(Counter)
    """Passes by model and share."""
    owners: dict[Request[Any], Owners] = {}
    whole: list[Request[Any]] = []
    for request in requests:
        cut = request.divisible(session)
        if cut is None:
            whole.append(request)
            continue
        n, block = cut[0], min(cut)
        blocks = -(-n // block)
        each, over = divmod(blocks, shares)
        counts = np.full(shares, each)
        counts[_least(work, request.model, shares)[:over]] += 1
        owners[request] = np.repeat(np.arange(shares), counts * block)[:n]
        for share, count in enumerate(counts.tolist()):
            work[request.model][share] += count * block * request.expected_passes(session) // n
    for request in sorted(whole, key=lambda each: -each.expected_passes(session)):
        share = _least(work, request.model, shares)[0]
        owners[request] = np.array([share])
        work[request.model][share] += request.expected_passes(session) or 1
    return owners


def _least(work: defaultdict[str, Counter[int]], model: str, shares: int) -> Sequence[int]:
    """Shares, those with least work of a model first, and of these those with least in all."""
    every = sum(work.values(), Counter[int]())
    return sorted(range(shares), key=lambda share: (work[model][share], every[share], share))
