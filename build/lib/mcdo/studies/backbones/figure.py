"""The figure: F1, AUC and onset error per backbone with their intervals, and predicted against true onset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mcdo.studies.backbones.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"f1": "F1 per fold", "auc": "AUC per fold", "onset_mae_days": "onset MAE (days)"}


def estimates_panel(panel: Axes, table: Table, name: str) -> None:
    """A figure of each backbone, the baseline's in grey."""
    for kind, colour in (("baseline", "0.45"), ("backbone", "C0")):
        base = kind == "baseline"
        rows = [(i, row) for i, row in enumerate(table.rows) if (row.backbone == table.baseline) == base]
        value = np.array([row.estimates[name].value for _, row in rows])
        low = np.array([row.estimates[name].low for _, row in rows])
        high = np.array([row.estimates[name].high for _, row in rows])
        panel.errorbar(
            value, [i for i, _ in rows], xerr=[value - low, high - value], fmt="o", color=colour, capsize=3,
            label=f"{kind}, mean and 95 %",
        )  # fmt: skip
    panel.set_yticks(range(len(table.rows)), [row.backbone for row in table.rows])
    panel.set_ylim(len(table.rows) - 0.5, -0.5)
    panel.set_xlabel(_NAMES[name])
    panel.grid(axis="x", alpha=0.3)
    panel.legend(fontsize="small")


def onsets_panel(panel: Axes, table: Table, shown: str) -> None:
    """Onsets of the baseline and of the backbone ``shown``, mean over seeds; moved apart, because days are few."""
    rng, ends = np.random.default_rng(0), []
    for name, colour, marker in ((table.baseline, "0.45", "x"), (shown, "C0", "o")):
        true, found = (days.mean(axis=0) for days in table.row(name).onsets)
        panel.scatter(
            true + rng.uniform(-0.6, 0.6, len(true)), found, s=18, marker=marker, color=colour, alpha=0.8, label=name
        )
        ends += [*true, *found]
    if ends:
        line = [min(ends), max(ends)]
        panel.plot(line, line, color="k", linewidth=0.8, label="exact")
    panel.set_xlabel("true onset (day)")
    panel.set_ylabel("predicted onset (day)")
    panel.legend(fontsize="small")
