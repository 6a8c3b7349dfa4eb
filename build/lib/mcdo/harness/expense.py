"""What a run of N images, K trials and T passes takes: time, memory, and room in the store.

Time is N·K·T passes at a rate that :func:`mcdo.harness.remaining.seconds_per_pass` measures here, on this device.
Memory and room follow from what a run holds: the pixels, a byte for each value, and every score that is taken at every
T. The model itself, and what one batch needs on its way through it, come on top and do not grow with the run.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcdo.encoders import Encoder
from mcdo.estimators import MonteCarloConfig
from mcdo.estimators.score_table import BUILT_IN
from mcdo.estimators.scores import EIGENVALUES
from mcdo.stats.planning import Size

_NUMBER = 8
_TOKEN = 16  # of an image in the store, and about the head of a file for each array
_HEAD = 160


@dataclass(frozen=True)
class Expense:
    """What a run takes.

    Attributes:
        passes: of one image, in all.
        seconds: expected.
        memory: bytes of the pixels and the results.
        stored: bytes of the file in the store.

    """

    passes: int
    seconds: float
    memory: int
    stored: int


def expense(encoder: Encoder, size: Size, config: MonteCarloConfig, seconds_per_pass: float) -> Expense:
    """What a run of that size takes, by its scores.

    Args:
        encoder: the encoder, or its identity.
        size: images, trials and passes.
        config: of a run with these scores; its T up to those of ``size`` are taken, and those of ``size``.
        seconds_per_pass: of one image.

    """
    ladder = {T for T in config.passes if size.passes > T} | {size.passes}
    geometry = {T for T in ladder if T in config.geometry}
    by_kind = {"moments": ladder, "passes": geometry}
    own = [by_kind.get(score.while_measuring or "", ()) for score in BUILT_IN.values()]
    arrays = sum(map(len, own)) + len(config.scores) * len(ladder)
    numbers = size.trials * (arrays + EIGENVALUES * len(geometry))
    stored = size.images * (_NUMBER * numbers + 4 * encoder.feature_dim + _TOKEN) + _HEAD * (arrays + 8)
    pixels = size.images * 3 * encoder.resolution**2
    return Expense(size.total, size.total * seconds_per_pass, pixels + stored, stored)
