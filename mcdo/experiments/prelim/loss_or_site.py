"""Loss or site? Which of training loss, tower and perturbed sites decides whether the score is reliable and valid.

The published explanation, softmax against sigmoid loss, compared one model of each: they differed in the tower and in
which of their maps were perturbed as well. Here all twelve cells of {softmax, sigmoid} x {MultiheadAttention tower,
timm tower} x {all, mlp, attention} are measured under one protocol: the same images, T, K, p and roles. "all" means the
roles that every tower has; what a tower has beyond them (final projection, pooling head) is perturbed in four further
cells for comparison, outside the analysis.

There is one trained encoder for each loss and tower. What is particular to an encoder falls into loss, tower and their
interaction, and nothing here says how much another training would move them: they are differences between these four
encoders, without a test, and claims about them stay undecided. Sites are compared within encoders; the error of such a
contrast is its spread over the four encoders, with the noise of the images in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import TRACES, MonteCarloRun
from mcdo.experiments.prelim.grid import (
    CELLS,
    ENCODERS,
    FACTORS,
    FIGURES,
    SITES,
    UNMATCHED,
    Cell,
    GridAnalysis,
    Measured,
    analyse,
    outcomes,
)
from mcdo.experiments.prelim.grid_figure import draw_cells, draw_shares
from mcdo.harness import Claim, Experiment, Files, Images, Inputs, Logits, Passes, Request, Settings, Subject, View
from mcdo.perturbation import check_comparable
from mcdo.report.figures import Panel
from mcdo.stats import Estimate, Reliability, reliability

JUDGED = "trace_pre"
ONE_TRAINING = "one training for each loss and tower: nothing says how much another would differ"


@dataclass(frozen=True)
class LossOrSiteResult:
    """What the grid says.

    Attributes:
        grid: by score.
        reliability: by score and cell, those of everything perturbed included.

    """

    grid: Mapping[str, GridAnalysis]
    reliability: Mapping[str, Mapping[Cell, Reliability]]


@dataclass(frozen=True)
class LossOrSite(Experiment[LossOrSiteResult]):
    """N images of ``images``, K trials at one T for every cell, and one trial at every degradation."""

    key = "prelim_loss_or_site"
    name = "prelim_loss_or_site"
    phase = "prelim"
    files = Files(summary="prelim_loss_or_site_summary.json", figure="prelim_loss_or_site.png")
    quick = {"n": 80, "passes": 8, "trials": 2, "resamples": 200}
    published = TRACES

    n: int = 500
    passes: int = 64
    trials: int = 3
    images: str = "digits"
    degradations: tuple[str, ...] = ("blur:4%", "blur:10%")
    resamples: int = 1000

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        """The four embedded encoders together, whatever the models asked for."""
        return (Subject("all_four", tuple(ENCODERS.values())),)

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The twelve, and the four in which everything is perturbed."""
        return (*CELLS, *((loss, tower, UNMATCHED) for loss, tower in ENCODERS))

    @property
    def outcomes(self) -> tuple[str, ...]:
        return outcomes(self.degradations)

    def shown(self, degradation: str | None = None) -> Images:
        return Images(self.n, self.images, degradation)

    def run(self, cell: Cell, degradation: str | None = None) -> Passes:
        """A cell's run: K trials of the clean images, one of degraded ones."""
        loss, tower, site = cell
        kind = self.dropout if site == UNMATCHED else self.dropout.at(*SITES[site])
        trials = self.trials if degradation is None else 1
        protocol = self.protocol((self.passes,), trials, kind)
        return Passes(ENCODERS[loss, tower], self.shown(degradation), protocol)

    def degraded(self, cell: Cell) -> dict[str, Passes]:
        """A cell's runs of degraded images: none where roles are not matched."""
        return {} if cell[2] == UNMATCHED else {each: self.run(cell, each) for each in self.degradations}

    def logits(self, cell: Cell) -> Logits:
        return Logits(ENCODERS[cell[:2]], self.shown())

    def requests(self, about: View) -> Iterable[Request[Any]]:
        asked: list[Request[Any]] = []
        for cell in self.cells:
            asked += [self.run(cell), *self.degraded(cell).values(), self.logits(cell)]
        return asked

    def compute(self, inputs: Inputs) -> LossOrSiteResult:
        check_roles({cell: inputs[self.run(cell)] for cell in CELLS})
        origins = inputs.images(self.shown()).origins
        measured = self.measured(inputs)
        return LossOrSiteResult(
            grid={score: analyse(measured, score, origins, self.seed, self.resamples) for score in self.reported},
            reliability={
                score: {
                    cell: reliability(of.scores[score], origins=origins, shared_noise=False, seed=self.seed)
                    for cell, of in measured.items()
                }
                for score in self.reported
            },
        )

    def measured(self, inputs: Inputs) -> dict[Cell, Measured]:
        return {cell: self._measured(inputs, cell) for cell in self.cells}

    def _measured(self, inputs: Inputs, cell: Cell) -> Measured:
        degraded = {spec: inputs[request] for spec, request in self.degraded(cell).items()}
        logits = inputs[self.logits(cell)]["logits"]
        return Measured.of(inputs[self.run(cell)], degraded, logits, cell[0], self.reported)

    def claims(self) -> Sequence[Claim[LossOrSiteResult]]:
        return [
            *(_loss_decides(outcome) for outcome in self.outcomes),
            *(_softmax_above_sigmoid(outcome) for outcome in self.outcomes if outcome != "reliability"),
            *(_mlp_below_all(outcome) for outcome in self.outcomes),
            *(_all_above_mlp(outcome, made) for made in ENCODERS for outcome in self.outcomes),
        ]

    def summary(self, result: LossOrSiteResult) -> Mapping[str, Any]:
        return {
            "encoders": {"/".join(made): model for made, model in ENCODERS.items()},
            "roles": SITES,
            "scores": {score: self._summary(grid, result.reliability[score]) for score, grid in result.grid.items()},
            "intervals": "over the originals; of contrasts between sites over the four encoders as well",
            "tests": f"none between losses or towers: {ONE_TRAINING}. Between sites the four encoders are the error "
            "stratum. All less mlp is of one encoder each, over the originals",
            "correction": "Holm over the contrasts between sites of one outcome; over all outcomes and encoders for "
            "all less mlp",
        }

    def _summary(self, grid: GridAnalysis, trials: Mapping[Cell, Reliability]) -> dict[str, Any]:
        return {
            "cells": {
                "/".join(cell): {
                    **{outcome: grid.figures[outcome][cell] for outcome in self.outcomes},
                    "trials": trials[cell],
                }
                for cell in CELLS
            },
            "analysis": grid.analyses,
            "encoder_or_site": grid.by_encoder,
            "all_less_mlp": {
                outcome: {"/".join(made): difference for made, difference in table.items()}
                for outcome, table in grid.within.items()
            },
            "everything_perturbed": {
                "/".join(made): {outcome: grid.figures[outcome][(*made, UNMATCHED)] for outcome in FIGURES}
                for made in ENCODERS
            },
        }

    def arrays(self, inputs: Inputs, result: LossOrSiteResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        arrays: dict[str, ArrayLike] = {"paths": np.array(inputs.images(self.shown()).ids)}
        for cell, of in self.measured(inputs).items():
            name, model = "/".join(cell), ENCODERS[cell[:2]]
            arrays |= {f"{name}/{score}": values for score, values in of.scores.items()}
            arrays |= {f"{name}/{spec}/{s}": v for spec, after in of.degraded.items() for s, v in after.items()}
            arrays |= {f"{model}/entropy": of.entropy, f"{model}/feature_norm": of.norm}
        return {"prelim_loss_or_site.npz": arrays}

    def title(self) -> str:
        return f"{JUDGED}: loss, tower or site? (N={self.n}, T={self.passes}, K={self.trials}, matched roles)"

    def panels(self, inputs: Inputs, result: LossOrSiteResult) -> Sequence[Panel]:
        """For each outcome the twelve cells, then the shares of the factors."""
        grid = result.grid[JUDGED]
        return [
            lambda axes, outcome=outcome, draw=draw: draw(axes, grid, outcome)  # type: ignore[misc]
            for draw in (draw_cells, draw_shares)
            for outcome in self.outcomes
        ]


def check_roles(runs: Mapping[Cell, MonteCarloRun]) -> None:
    """Refuse cells of one site level that were perturbed at different roles.

    Raises:
        McdoError: naming them.

    """
    for site in SITES:
        check_comparable({f"{loss}/{tower}": run.roles for (loss, tower, at), run in runs.items() if at == site})


def _loss_decides(outcome: str) -> Claim[LossOrSiteResult]:
    """S1's explanation: the loss accounts for more of the spread between cells than the sites do."""

    def beside(result: LossOrSiteResult) -> str:
        grid = result.grid[JUDGED]
        shares = {**grid.analyses[outcome].shares, "encoder": grid.by_encoder[outcome].shares["encoder"]}
        return f"share of the sites less share of the loss; {ONE_TRAINING}; " + ", ".join(
            f"{name} {share}" for name, share in shares.items()
        )

    return Claim(
        f"loss_decides/{outcome}",
        lambda r: r.grid[JUDGED].analyses[outcome].share_differences["loss", "site"],
        rule=("< 0 over trainings", lambda r: "undecided"),
        beside=beside,
    )


def _softmax_above_sigmoid(outcome: str) -> Claim[LossOrSiteResult]:
    """The direction of S1's explanation; that the sigmoid loss is the more reliable one is not disputed there."""
    return Claim(
        f"softmax_above_sigmoid/{outcome}",
        lambda r: r.grid[JUDGED].analyses[outcome].between["loss", "softmax", "sigmoid"],
        rule=("< 0 over trainings", lambda r: "undecided"),
        beside=lambda r: f"sigmoid less softmax, mean over towers and sites of these encoders; {ONE_TRAINING}",
    )


def _mlp_below_all(outcome: str) -> Claim[LossOrSiteResult]:
    """Over encoders: with MLP sites only the score is less reliable and less valid than with all sites."""

    def beside(result: LossOrSiteResult) -> str:
        by_encoder = result.grid[JUDGED].within[outcome]
        within = ", ".join(f"{'/'.join(made)} {difference.estimate}" for made, difference in by_encoder.items())
        return f"the encoders are the error stratum; all less mlp: {within}"

    return Claim(
        f"mlp_below_all/{outcome}",
        lambda r: r.grid[JUDGED].analyses[outcome].within["site", "all", "mlp"].estimate,
        below=0.0,
        beside=beside,
        p_holm=lambda r: r.grid[JUDGED].analyses[outcome].within["site", "all", "mlp"].p_holm,
    )


def _all_above_mlp(outcome: str, made: tuple[str, str]) -> Claim[LossOrSiteResult]:
    """The lead, of one encoder: with all sites perturbed the score is more reliable and valid than with MLP sites."""

    def beside(result: LossOrSiteResult) -> str:
        figures = result.grid[JUDGED].figures[outcome]
        return "of this encoder; " + ", ".join(f"{site} {figures[(*made, site)]}" for site in FACTORS["site"])

    def estimate(result: LossOrSiteResult) -> Estimate:
        return result.grid[JUDGED].within[outcome][made].estimate

    return Claim(f"all_above_mlp/{outcome}/{ENCODERS[made]}", estimate, above=0.0, beside=beside)
