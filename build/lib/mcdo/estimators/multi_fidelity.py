"""Multi-fidelity estimate: what passes would say, with first order to take out most of their noise.

Passes have the level that is asked about, and the noise of their masks; first order has next to no noise, and no eye
for what a tower bends. The link is the linear part of the same masks (:class:`~mcdo.perturbation.linear.LinearPart`):
its noise is nearly that of the passes, and its expectation is what first order gives. So it is a control variate,

    estimate = passes − c (linear part of the same masks − first order),

whose expectation is that of the passes whatever c is: drops that matter much, the curvature of the normalisation and
everything else that first order leaves out stays in. The c with the least variance is taken from other originals than
an image's own, so that it is fixed as far as that image goes (Lavenberg and Welch 1981; Peherstorfer, Willcox and
Gunzburger 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcdo import arguments
from mcdo.encoders import Encoder
from mcdo.errors import McdoError, nearest
from mcdo.estimators.first_order import first_order
from mcdo.estimators.first_order_run import FirstOrderRun
from mcdo.estimators.monte_carlo import monte_carlo
from mcdo.estimators.progress import Reporting
from mcdo.estimators.run import MonteCarloRun, Scores
from mcdo.estimators.score_table import WEIGHTED, names_from
from mcdo.estimators.shown import Shown
from mcdo.perturbation import LinearPart, Perturbation
from mcdo.store import Store


@dataclass(frozen=True, eq=False)
class PairedRun:
    """Passes, and the linear part of the same passes.

    Attributes:
        passes: of a perturbation.
        linear: of its :class:`~mcdo.perturbation.linear.LinearPart`, with the same images, trials and seed.

    """

    passes: MonteCarloRun = field(repr=False)
    linear: MonteCarloRun = field(repr=False)

    def __post_init__(self) -> None:
        of, part = self.passes.config, self.linear.config
        same = (of.trials, of.passes, of.seed) == (part.trials, part.passes, part.seed)
        kind = part.dropout.of if isinstance(part.dropout, LinearPart) else None
        if kind != of.dropout or not same or self.passes.ids != self.linear.ids:
            raise McdoError(
                f"{part.dropout} is not the linear part of the same passes: it must be LinearPart({of.dropout}), on "
                "the same images, with the same trials, passes and seed"
            )

    def both(self, name: str, passes: int | None = None) -> tuple[Scores, Scores]:
        """A score of the passes, and of their linear part: float64 ``[K, N]`` twice."""
        part = self.linear.config.dropout
        assert isinstance(part, LinearPart)
        return self.passes.scores(name, passes), self.linear.scores(name, passes) / part.step**2

    def select(self, columns: NDArray[np.integer]) -> PairedRun:
        """The same of fewer images."""
        return PairedRun(self.passes.select(columns), self.linear.select(columns))

    def coefficient(self, name: str, passes: int | None = None) -> float:
        """What the passes' noise is to that of their linear part: least squares within images, over trials.

        Raises:
            McdoError: for one trial, or scores without noise.

        """
        noise = [scores - scores.mean(axis=0) for scores in self.both(name, passes)]
        power = float((noise[1] ** 2).sum())
        if not power > 0:
            raise McdoError(f"the trials of {name} do not differ: two or more, at p > 0, show what noise there is")
        return float((noise[0] * noise[1]).sum()) / power


@dataclass(frozen=True, eq=False)
class MultiFidelityRun:
    """Scores with the expectation of passes, and little of their noise.

    Attributes:
        pair: passes and their linear part, of the scored images.
        first_order: of the same images, in as many trials.
        calibration: passes and their linear part of other images, for the coefficients; None: each half of the scored
            originals has the coefficient of the other.

    """

    pair: PairedRun
    first_order: FirstOrderRun
    calibration: PairedRun | None = None

    def __post_init__(self) -> None:
        run, linear = self.pair.passes, self.first_order
        if run.config.dropout.shared_by_images:
            raise McdoError(
                f"{run.config.dropout} gives all images the same noise, which the coefficient of other images would "
                "know: take a perturbation whose masks are each image's own"
            )
        if (run.ids, run.config.dropout, run.sites) != (linear.ids, linear.config.dropout, linear.sites):
            raise McdoError(f"{linear} is not the first order of {run}")
        if linear.config.trials not in (1, run.config.trials):
            raise McdoError(f"first order has {linear.config.trials} trials, the passes {run.config.trials}")
        seen = set(run.origins) & set(self.calibration.passes.origins if self.calibration else ())
        if seen:
            raise McdoError(
                f"{len(seen)} of the scored originals are in the calibration set, such as {min(seen)}: the coefficient "
                "would know their noise; calibrate on others"
            )
        if self.calibration is None and len(set(run.origins)) < 2:
            raise McdoError("all images are of one original: give other images as a calibration set")

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the scored images."""
        return self.pair.passes.ids

    @property
    def origins(self) -> tuple[str, ...]:
        """The sampled unit behind each."""
        return self.pair.passes.origins

    @property
    def score_names(self) -> tuple[str, ...]:
        """Scores that passes and first order both have."""
        return tuple(name for name in names_from("terms") if name not in WEIGHTED)

    def scores(self, name: str, passes: int | None = None) -> Scores:
        """float64 ``[K, N]`` (trials × images); ``passes`` defaults to the largest T. Noise can take one below zero.

        The images of a trial share the noise of first order's probes: intervals need ``shared_noise=True`` and K ≥ 5.

        Raises:
            McdoError: for a score that passes and first order do not both have, or that was not taken at that T.

        """
        if name not in self.score_names:
            raise McdoError(f"no score {name!r} of both; the nearest: {nearest(name, self.score_names)}")
        found, linear = self.pair.both(name, passes)
        return found - self.coefficients(name, passes) * (linear - self.first_order.scores(name))

    def coefficients(self, name: str, passes: int | None = None) -> NDArray[np.float64]:
        """C of every image, float64 ``[N]``."""
        if self.calibration is not None:
            return np.full(len(self.ids), self.calibration.coefficient(name, passes))
        half = np.unique(self.origins, return_inverse=True)[1] % 2
        by_half = [self.pair.select(np.flatnonzero(half == which)).coefficient(name, passes) for which in (0, 1)]
        return np.array(by_half)[1 - half]


def multi_fidelity(
    encoder: Encoder,
    images: Shown,
    dropout: Perturbation,
    passes: int | Sequence[int] = (4, 8, 16),
    trials: int = 5,
    probes: int = 8,
    seed: int = 42,
    *,
    calibration: Shown | None = None,
    batch_size: int | None = None,
    store: Store | Path | str | None = None,
    progress: Reporting = True,
) -> MultiFidelityRun:
    """Passes with first order as their control variate; costs two forward passes a pass, and first order.

    Args:
        encoder: as for :func:`mcdo.monte_carlo`.
        images: that are scored.
        dropout: kind, probability and sites.
        passes: the T at which scores are taken.
        trials: K, two or more.
        probes: R of first order; with D + 1 the control's expectation has no noise.
        seed: seed of masks and probes.
        calibration: other images, of other originals, that give the coefficient; thirty do. None: the scored originals
            themselves, each half for the other.
        batch_size: of the passes.
        store: as for :func:`mcdo.monte_carlo`.
        progress: report progress.

    Raises:
        McdoError: as :func:`mcdo.monte_carlo` and :func:`mcdo.first_order`; for a calibration set that shares originals
            with the images, or for one trial.

    """
    if arguments.whole("trials", trials) < 2:
        raise McdoError("trials = 1: the coefficient is taken from differences between trials, at least two")

    def run(shown: Shown, kind: Perturbation) -> MonteCarloRun:
        return monte_carlo(
            encoder, shown, kind, passes, trials, seed,
            geometry=(), batch_size=batch_size, store=store, progress=progress,
        )  # fmt: skip

    def pair(shown: Shown) -> PairedRun:
        return PairedRun(run(shown, dropout), run(shown, LinearPart(dropout)))

    linear = first_order(encoder, images, dropout, probes, trials, seed, store=store, progress=progress)
    return MultiFidelityRun(pair(images), linear, None if calibration is None else pair(calibration))
