"""The figure: F1, AUC and onset error per backbone with their intervals, and predicted against true onset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcdo.report.figures import save_figure
from mcdo.studies.backbones.table import METRICS, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMES = {"f1": "F1 per fold", "auc": "AUC per fold", "onset_mae_days": "onset MAE (days)"}


def draw_table(table: Table, path: Path, shown: str) -> Path:
    """Write the figure; the onsets are those of the baseline and of the backbone ``shown``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.3])
    for panel, name in zip(panels, METRICS, strict=False):
        _estimates(panel, table, name)
    panels[0].set_yticks(range(len(table.rows)), [row.backbone for row in table.rows])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2, fontsize="small")
    _onsets(panels[3], table, shown)
    return save_figure(figure, path)


def _estimates(panel: Axes, table: Table, name: str) -> None:
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
    panel.set_yticks(range(len(table.rows)), [""] * len(table.rows))
    panel.set_ylim(len(table.rows) - 0.5, -0.5)
    panel.set_xlabel(_NAMES[name])
    panel.grid(axis="x", alpha=0.3)


def _onsets(panel: Axes, table: Table, shown: str) -> None:
    """Mean over seeds; moved apart a little, because days are few."""
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
