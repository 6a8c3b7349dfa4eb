"""The figure of loss or site: the cells of the grid, and what share of their spread each factor has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcdo.experiments.prelim.grid import ENCODERS, FACTORS, GridAnalysis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {
    "reliability": "Spearman's ρ between trials",
    "rho_entropy": "ρ with entropy",
    "rho_entropy_given_norm": "ρ with entropy, given the norm",
    "rho_own_entropy": "ρ with entropy of the trained head",
    "increased": "share more uncertain at",
}
MARKERS = {"mha": "o", "timm": "s"}
COLOURS = {"softmax": "tab:blue", "sigmoid": "tab:orange"}


def draw_cells(axes: Axes, grid: GridAnalysis, outcome: str) -> None:
    """The twelve cells by site; colour is the loss, the marker the tower."""
    sites = FACTORS["site"]
    for place, (loss, tower) in enumerate(ENCODERS):
        cells = [grid.figures[outcome][loss, tower, site] for site in sites]
        arms = np.array([[e.value - e.low, e.high - e.value] for e in cells]).T.clip(0)
        axes.errorbar(
            np.arange(len(sites)) + (place - 1.5) * 0.15, [e.value for e in cells], yerr=np.nan_to_num(arms), capsize=3,
            fmt=MARKERS[tower], color=COLOURS[loss], label=f"{loss}, {tower}",
        )  # fmt: skip
    name, _, degradation = outcome.partition("/")
    axes.set_xticks(range(len(sites)), sites)
    axes.set_xlabel("perturbed sites")
    axes.set_ylabel(f"{WORDS[name]} {degradation}".rstrip() + " [95 %]")
    axes.legend(fontsize=7)


def draw_shares(axes: Axes, grid: GridAnalysis, outcome: str) -> None:
    """Shares of the spread between these cells."""
    shares = {**grid.analyses[outcome].shares, "encoder": grid.by_encoder[outcome].shares["encoder"]}
    values = np.array([[e.value, e.value - e.low, e.high - e.value] for e in shares.values()])
    axes.bar(range(len(shares)), values[:, 0], yerr=values[:, 1:].T.clip(0), capsize=4, label="share [95 %, images]")
    axes.set_xticks(range(len(shares)), list(shares), rotation=40, ha="right")
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("factor (encoder = loss, tower, loss x tower)")
    axes.set_ylabel("share of the spread between cells")
    axes.set_title(outcome)
    axes.legend(fontsize=7)
