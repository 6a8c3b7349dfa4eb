"""What the study leaves: a table as JSON and as markdown, the losses, a figure, and truncation and coverage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mcdo.report.figures import save_figure
from mcdo.report.files import write_json, write_npz, write_text
from mcdo.report.panels import interval_panel
from mcdo.stats import Estimate
from mcdo.studies.connector import published
from mcdo.studies.connector.ablation import Ablation, Comparison, compare
from mcdo.studies.connector.arms import CORRECT
from mcdo.studies.connector.study import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOLDER = Path("studies") / "connector"
HEADER = "| arm | seed | loss [95 %] | minus correct [95 %] | items worse | p (Holm) | verdict | published loss |"


def write(result: Result, folder: Path) -> dict[str, Path]:
    """Write everything into ``folder``; returns the paths by name."""
    seed = result.seeds[0]
    compared = compare(result.ablations, seed)
    return {
        "json": write_json(folder / "ablation.json", _as_dict(result, compared)),
        "table": write_text(folder / "ablation.md", table(result, compared)),
        "losses": write_npz(folder / "losses.npz", **_arrays(result)),
        "figure": save_figure(_figure(result, compared), folder / "ablation.png"),
        "coverage": write_json(folder / "coverage.json", _coverage(result)),
    }


def table(result: Result, compared: Sequence[dict[str, Comparison]]) -> str:
    """The ablation and the coverage as markdown, with the published figures beside ours."""
    n = len(result.ablations[0].ids)
    lines = [f"# Connector: {result.subject}, {n} held-out items", "", HEADER, "|---" * 8 + "|"]
    for seed, ablation, by_arm in zip(result.seeds, result.ablations, compared, strict=True):
        lines.append(
            f"| {CORRECT} | {seed} | {_three(ablation.mean(CORRECT, result.seeds[0]))} | | | | | {_known(CORRECT)} |"
        )
        for arm, c in by_arm.items():
            cells = [arm, str(seed), _three(c.loss), _three(c.difference), f"{c.worse.value:.0%}", f"{c.p_holm:.1e}"]
            lines.append("| " + " | ".join([*cells, c.verdict, _known(arm)]) + " |")
    theirs = published.COVERAGE
    lines += [
        "",
        "Losses in nats: mean over items of the mean over an item's label tokens. Holm over all rows of the table.",
        "",
        f"Coverage: {result.coverage}. Published: {theirs['truncated']:.0%} truncated, {theirs['without_labels']:.0%} "
        f"without labels, {theirs['mean_label_tokens']} label tokens (n = {theirs['n']}).",
        "",
    ]
    return "\n".join(lines)


def _known(arm: str) -> str:
    return f"{published.LOSSES[arm]:.4f}" if arm in published.LOSSES else "–"


def _three(e: Estimate) -> str:
    return f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"


def _as_dict(result: Result, compared: Sequence[dict[str, Comparison]]) -> dict[str, object]:
    return {
        "subject": result.subject,
        "items": len(result.ablations[0].ids),
        "connectors": [
            {
                "seed": seed,
                CORRECT: ablation.mean(CORRECT, result.seeds[0]).as_dict(),
                "arms": {arm: comparison.as_dict() for arm, comparison in by_arm.items()},
                "mean_over_label_tokens": {arm: ablation.token_mean(arm) for arm in ablation.losses},
            }
            for seed, ablation, by_arm in zip(result.seeds, result.ablations, compared, strict=True)
        ],
        "holm": "over all arms of all connectors",
        "published": published.as_dict(),
        "provenance": dict(result.provenance),
    }


def _coverage(result: Result) -> dict[str, object]:
    return {
        "subject": result.subject,
        **result.coverage.as_dict(),
        "epochs": {
            str(seed): [progress.as_dict() for progress in history]
            for seed, history in zip(result.seeds, result.histories, strict=True)
        },
        "published": dict(published.COVERAGE),
    }


def _arrays(result: Result) -> dict[str, Any]:
    first: Ablation = result.ablations[0]
    losses = {arm: np.stack([a.losses[arm] for a in result.ablations]) for arm in first.losses}  # [connectors, N]
    return {"ids": first.ids, "seeds": result.seeds, "label_tokens": first.label_tokens, **losses}


def _figure(result: Result, compared: Sequence[dict[str, Comparison]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    series = {
        f"seed {seed}": {CORRECT: ablation.mean(CORRECT, result.seeds[0]), **{arm: c.loss for arm, c in by_arm.items()}}
        for seed, ablation, by_arm in zip(result.seeds, result.ablations, compared, strict=True)
    }
    interval_panel(left, series, None, "loss per label token, nats (mean over items, 95 %)")
    left.set_title(f"{result.subject}: loss by arm, {len(result.ablations[0].ids)} held-out items")
    _differences(right, result, compared)
    return figure


def _differences(axes: Axes, result: Result, compared: Sequence[dict[str, Comparison]]) -> None:
    """Every item's paired difference as a dot, the mean with its interval in black."""
    arms = list(compared[0])
    step = 0.7 / len(result.ablations)
    for k, (seed, ablation, by_arm) in enumerate(zip(result.seeds, result.ablations, compared, strict=True)):
        x = np.arange(len(arms)) + (k - (len(result.ablations) - 1) / 2) * step
        spread = np.linspace(-0.3, 0.3, len(ablation.ids)) * step
        dots = np.concatenate([place + spread for place in x])
        axes.scatter(
            dots, np.concatenate([ablation.difference(arm) for arm in arms]), s=5, alpha=0.4, label=f"seed {seed}"
        )
        found = [by_arm[arm].difference for arm in arms]
        reach = np.array([[e.value - e.low, e.high - e.value] for e in found]).T
        bars = axes.errorbar(x, [e.value for e in found], yerr=reach.clip(0), fmt="_k", capsize=4, markersize=12)
        bars.set_label("mean, 95 %" if k == 0 else "_later seeds")
    axes.axhline(0, color="black", linestyle="--", linewidth=1, label="no difference")
    axes.set_xticks(range(len(arms)), arms, rotation=30, ha="right")
    axes.set_ylabel("loss minus that with the correct image, nats")
    axes.set_title("paired difference of each item")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
