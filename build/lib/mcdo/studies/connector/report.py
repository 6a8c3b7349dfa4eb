"""How the study is shown: the table as markdown, and the panel of every item's difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from mcdo.stats import Estimate
from mcdo.studies.connector import published
from mcdo.studies.connector.ablation import Ablation, Comparison
from mcdo.studies.connector.arms import CORRECT
from mcdo.studies.connector.coverage import Coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEADER = "| arm | seed | loss [95 %] | minus correct [95 %] | items worse | p (Holm) | verdict | published loss |"
Compared = Mapping[int, Mapping[str, Comparison]]


def table(subject: str, ablations: Mapping[int, Ablation], compared: Compared, coverage: Coverage) -> str:
    """The ablation of each connector by its seed, and the coverage, with the published figures beside ours."""
    first = next(iter(ablations))
    lines = [f"# Connector: {subject}, {len(ablations[first].ids)} held-out items", "", HEADER, "|---" * 8 + "|"]
    for seed, ablation in ablations.items():
        lines.append(f"| {CORRECT} | {seed} | {_three(ablation.mean(CORRECT, first))} | | | | | {_known(CORRECT)} |")
        for arm, c in compared[seed].items():
            cells = [arm, str(seed), _three(c.loss), _three(c.difference), f"{c.worse.value:.0%}", f"{c.p_holm:.1e}"]
            lines.append("| " + " | ".join([*cells, c.verdict, _known(arm)]) + " |")
    theirs = published.COVERAGE
    lines += [
        "",
        "Losses in nats: mean over items of the mean over an item's label tokens. Holm over all rows of the table.",
        "",
        f"Coverage: {coverage}. Published: {theirs['truncated']:.0%} truncated, {theirs['without_labels']:.0%} "
        f"without labels, {theirs['mean_label_tokens']} label tokens (n = {theirs['n']}).",
        "",
    ]
    return "\n".join(lines)


def _known(arm: str) -> str:
    return f"{published.LOSSES[arm]:.4f}" if arm in published.LOSSES else "–"


def _three(e: Estimate) -> str:
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def differences_panel(axes: Axes, ablations: Mapping[int, Ablation], compared: Compared) -> None:
    """Every item's paired difference as a dot, the mean with its interval in black."""
    arms = list(next(iter(compared.values())))
    step = 0.7 / len(ablations)
    for k, (seed, ablation) in enumerate(ablations.items()):
        x = np.arange(len(arms)) + (k - (len(ablations) - 1) / 2) * step
        spread = np.linspace(-0.3, 0.3, len(ablation.ids)) * step
        dots = np.concatenate([place + spread for place in x])
        axes.scatter(
            dots, np.concatenate([ablation.difference(arm) for arm in arms]), s=5, alpha=0.4, label=f"seed {seed}"
        )
        found = [compared[seed][arm].difference for arm in arms]
        reach = np.array([[e.value - e.low, e.high - e.value] for e in found]).T
        bars = axes.errorbar(x, [e.value for e in found], yerr=reach.clip(0), fmt="_k", capsize=4, markersize=12)
        bars.set_label("mean, 95 %" if k == 0 else "_later seeds")
    axes.axhline(0, color="black", linestyle="--", linewidth=1, label="no difference")
    axes.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
    axes.set_ylabel("loss minus that with the correct image, nats")
    axes.set_title("paired difference of each item")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
