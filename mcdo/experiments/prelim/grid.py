"""The grid of loss, tower and sites: the figures of its cells, and which factor they differ by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcdo.estimators import MonteCarloRun
from mcdo.stats import (
    Difference,
    Estimate,
    FactorialAnalysis,
    Origins,
    Sample,
    ambiguity_targets,
    corrected,
    factorial_analysis,
)
from mcdo.stats.association import among
from mcdo.stats.paired import rise
from mcdo.stats.resampling import correlation, rank_covariance

ENCODERS = {
    ("softmax", "mha"): "clip_tiny",
    ("sigmoid", "mha"): "clip_tiny_sigmoid",
    ("softmax", "timm"): "siglip_tiny_softmax",
    ("sigmoid", "timm"): "siglip_tiny",
}
"""The trained encoder of each loss and tower."""
SITES = {
    "all": ("qkv", "attention_output", "fc1", "fc2"),
    "mlp": ("fc1", "fc2"),
    "attention": ("qkv", "attention_output"),
}
"""Roles by level. "all" are the roles that the four towers share."""
FACTORS = {"loss": ("softmax", "sigmoid"), "tower": ("mha", "timm"), "site": tuple(SITES)}
UNMATCHED = "everything"
"""In the place of a level of the sites: all that a tower has."""
FIGURES = ("reliability", "rho_entropy", "rho_entropy_given_norm", "rho_own_entropy")
"""Figures of a cell that need no degraded images."""
Array = NDArray[np.float64]
Cell = tuple[str, str, str]
Made = tuple[str, str]
"""What an encoder was made with: loss and tower."""
CELLS: tuple[Cell, ...] = tuple(itertools.product(*FACTORS.values()))  # type: ignore[arg-type]
"""The twelve, in the order of :data:`FACTORS`."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What the figures of a cell are computed from.

    Attributes:
        scores: by name, [K, N].
        degraded: by degradation and name, [N], under the masks of the first trial.
        norm: of the deterministic features, [N].
        entropy: of the softmax over classes, [N].
        own_entropy: the same for the head the model was trained with.

    """

    scores: Mapping[str, Array]
    degraded: Mapping[str, Mapping[str, Array]]
    norm: Array
    entropy: Array
    own_entropy: Array

    @classmethod
    def of(
        cls, run: MonteCarloRun, degraded: Mapping[str, MonteCarloRun], logits: Array, loss: str, names: Sequence[str]
    ) -> Measured:
        """From the runs of an encoder that was trained with ``loss``; scores by ``names``."""
        return cls(
            scores={name: run.scores(name) for name in names},
            degraded={spec: {name: of.scores(name)[0] for name in names} for spec, of in degraded.items()},
            norm=run.feature_norm,
            entropy=ambiguity_targets(logits, head="softmax").entropy,
            own_entropy=ambiguity_targets(logits, head=loss).entropy,  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class GridAnalysis:
    """What the grid says of one score.

    Attributes:
        figures: by outcome and cell; those of everything perturbed included.
        analyses: by outcome: loss, tower and site.
        by_encoder: by outcome: the encoder as a whole and site.
        within: by outcome and what the encoder was made with: all sites less MLP sites within this encoder, over
            images; Holm over all of them.

    """

    figures: Mapping[str, Mapping[Cell, Estimate]]
    analyses: Mapping[str, FactorialAnalysis]
    by_encoder: Mapping[str, FactorialAnalysis]
    within: Mapping[str, Mapping[Made, Difference]]


def outcomes(degradations: Sequence[str]) -> tuple[str, ...]:
    """Names of the figures of a cell."""
    return (*FIGURES, *(f"increased/{degradation}" for degradation in degradations))


def analyse(cells: Mapping[Cell, Measured], score: str, origins: Origins, seed: int, resamples: int) -> GridAnalysis:
    """Every figure of ``score`` in the twelve cells, in the same resamples of the origins, and what they differ by."""
    sample = Sample(len(origins), origins, seed, resamples)
    drawn = {cell: figures(measured, score, sample) for cell, measured in cells.items()}  # {outcome: [1 + R]}
    shape = tuple(len(levels) for levels in FACTORS.values())
    grids = {o: np.stack([drawn[cell][o] for cell in CELLS], axis=1).reshape(-1, *shape) for o in drawn[CELLS[0]]}
    encoders = tuple(ENCODERS[made] for made in itertools.product(FACTORS["loss"], FACTORS["tower"]))
    two = {"encoder": encoders, "site": FACTORS["site"]}

    def analysed(grid: Array, factors: Mapping[str, Sequence[str]], units: Sequence[str]) -> FactorialAnalysis:
        return factorial_analysis(factors, grid[0], grid[1:], sample.n, units=units)

    def estimates(outcome: str) -> dict[Cell, Estimate]:
        known = {cell: of[outcome] for cell, of in drawn.items() if outcome in of}
        return {cell: sample.estimate(values[0], values[1:]) for cell, values in known.items()}

    whole = {outcome: grid.reshape(len(grid), len(encoders), -1) for outcome, grid in grids.items()}
    return GridAnalysis(
        figures={outcome: estimates(outcome) for outcome in grids},
        analyses={outcome: analysed(grid, FACTORS, ("loss", "tower")) for outcome, grid in grids.items()},
        by_encoder={outcome: analysed(grid, two, ("encoder",)) for outcome, grid in whole.items()},
        within=_all_less_mlp(grids, sample),
    )


def figures(cell: Measured, score: str, sample: Sample) -> dict[str, Array]:
    """Every outcome in the sample and in each resample of the origins, [1 + R]."""
    trials = cell.scores[score]
    rows = np.stack([trials.mean(axis=0), cell.entropy, cell.own_entropy, cell.norm])
    i, j = np.triu_indices(len(trials), 1)
    more = np.array([rise(after[score], trials[0]) > 0 for after in cell.degraded.values()]).reshape(-1, len(cell.norm))

    def on(weights: Array) -> Array:
        pairs = correlation(rank_covariance(trials, weights))[:, i, j]
        ranks = rank_covariance(rows, weights)
        return np.column_stack(
            [
                np.median(pairs, axis=1) if len(i) else np.full(len(weights), math.nan),
                among(0, 1).of(ranks),
                among(0, 1, 3).of(ranks),
                among(0, 2).of(ranks),
                weights @ more.T / weights.sum(axis=1, keepdims=True),
            ]
        )

    whole, draws = sample.both(on)
    return dict(zip(outcomes(tuple(cell.degraded)), np.concatenate([whole[None], draws]).T, strict=True))


def _all_less_mlp(grids: Mapping[str, Array], sample: Sample) -> dict[str, dict[Made, Difference]]:
    every, mlp = (FACTORS["site"].index(site) for site in ("all", "mlp"))
    places = list(itertools.product(FACTORS["loss"], FACTORS["tower"]))
    found: dict[tuple[str, Made], Difference] = {}
    for outcome, grid in grids.items():
        difference = (grid[..., every] - grid[..., mlp]).reshape(len(grid), -1)
        for place, made in enumerate(places):
            one = sample.inferred(difference[0, place], difference[1:, place])
            found[outcome, made] = Difference(one.estimate, one.p_value, one.p_value)
    adjusted = corrected(found)
    return {outcome: {made: adjusted[outcome, made] for made in places} for outcome in grids}
