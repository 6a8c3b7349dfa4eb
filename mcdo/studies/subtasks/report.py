"""How the study is shown: a table as JSON and as markdown, and two panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from mcdo.names import markdown_table
from mcdo.schema import plain
from mcdo.stats import Estimate
from mcdo.studies.subtasks import published
from mcdo.studies.subtasks.dropout import CLASSES
from mcdo.studies.subtasks.evaluate import OPTIONS, OTHER_ERRORS, Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PER_CENT = ("accuracy", "ece", "brier")


def as_json(found: Evaluation) -> dict[str, Any]:
    """Every figure, and what S2 reports."""
    task, splits = found.runs.task, vars(found.runs.splits)
    shown = {name: images.fingerprint for name, images in task.shown.items()}
    return {
        "task": task.name,
        "superclass": dict(zip(task.class_names, task.superclass, strict=True)),
        "splits": {name: {"images": len(s), "origins": len(set(s.origins))} for name, s in splits.items()},
        "images": shown,
        "arms": {name: plain(asdict(arm)) for name, arm in found.arms.items()},
        "contrasts": [plain(asdict(each)) for each in found.contrasts],
        "mcnemar": [plain(asdict(each)) for each in found.mcnemar],
        "heads": {name: plain(asdict(head)) for name, head in found.heads.items()},
        "edges_over_variance": plain(asdict(found.edges_over_variance)),
        "triage": [plain(asdict(row)) for row in found.triage],
        "accept_over_rest": {arm: each.as_dict() for arm, each in found.accept_over_rest.items()},
        "mean_std": {arm: {k: e.as_dict() for k, e in each.items()} for arm, each in found.mean_std.items()},
        "reliability": {
            which: {name: plain(values.tolist()) for name, values in vars(diagram).items()}
            for which, diagram in found.diagrams.items()
        },
        "published": {
            "accuracy": published.ACCURACY,
            "ece": published.ECE,
            "temperature": published.TEMPERATURE,
            "mean_std": published.MEAN_STD,
            "subtasks": published.SUBTASK_ACCURACY,
            "accuracy_difference": asdict(published.difference_of(published.ACCURACY)),
            "ece_difference": asdict(published.difference_of(published.ECE)),
        },
    }


def markdown(found: Evaluation, encoder: str) -> str:
    """The same figures as tables for people; brackets are 95 % intervals over origins, given the seeds."""
    config, splits = found.runs.config, found.runs.splits
    sizes = ", ".join(f"{name} {len(s)} of {len(set(s.origins))}" for name, s in vars(splits).items())
    parts = [
        f"# Subtasks and calibration: {found.runs.task.name}, {encoder}",
        f"Images of origins: {sizes}. {len(config.seeds)} seeds, {config.passes} passes. Brackets: 95 % intervals over "
        f"{len(set(splits.test.origins))} test origins, given the seeds; p by swapping arms origin by origin, "
        "Holm-corrected within each family.",
        "## Arms on the test split",
        _arms_table(found),
        "## Other calibration errors after temperature (%; debiased_squared in 1e-4)",
        _other_table(found),
        "## Paired differences after temperature",
        _contrast_table(found),
        "## McNemar's exact test, one image per origin (Holm over the table)",
        _mcnemar_table(found),
        "## Subtask heads of A",
        _heads_table(found),
        "## Triage",
        _triage_table(found),
        "## What S2's own numbers allow",
        _published_table(),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return "\n".join(markdown_table(head, rows))


def show(estimate: Estimate, scale: float = 100.0, digits: int = 2) -> str:
    """Value [low, high], in per cent by default; "-" where it is not defined."""
    if np.isnan(estimate.value):
        return "-"
    value, low, high = (f"{scale * x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def _metric(name: str, estimate: Estimate) -> str:
    return show(estimate) if name in _PER_CENT else show(estimate, 1.0, 3)


def _arms_table(found: Evaluation) -> str:
    head = ["arm", "accuracy %", "ECE % before", "ECE % after", "ECE % after, T by ECE", "NLL before", "NLL after",
            "Brier % after", "T by NLL", "T by ECE", "accuracy % by seed", "epochs (best)"]  # fmt: skip
    rows = []
    for name, arm in found.arms.items():
        epochs = ", ".join(f"{e} ({b})" for e, b in zip(arm.epochs, arm.best_epochs, strict=True)) or "-"
        rows.append([
            name, show(arm.after["accuracy"]), show(arm.before["ece"]), show(arm.after["ece"]),
            show(arm.after_by_ece["ece"]), show(arm.before["nll"], 1, 3), show(arm.after["nll"], 1, 3),
            show(arm.after["brier"]), ", ".join(f"{t:.3f}" for t in arm.temperatures),
            ", ".join(f"{t:.3f}" for t in arm.temperatures_ece),
            ", ".join(f"{100 * a:.2f}" for a in arm.accuracy_by_seed), epochs,
        ])  # fmt: skip
    return _table(head, rows)


def _other_table(found: Evaluation) -> str:
    rows = [
        [name, *(show(e, 1e4 if kind == "debiased_squared" else 100.0) for kind, e in arm.other.items())]
        for name, arm in found.arms.items()
    ]
    return _table(["arm", *OTHER_ERRORS], rows)


def _contrast_table(found: Evaluation) -> str:
    rows = [
        [
            c.family,
            f"{c.first} - {c.second}",
            c.metric,
            _metric(c.metric, c.difference),
            _metric(c.metric, c.over_seeds),
            f"{c.p:.4f}",
            f"{c.p_holm:.4f}",
        ]
        for c in (*found.contrasts, found.edges_over_variance)
    ]
    return _table(["family", "difference", "metric", "over images", "over seeds (t)", "p", "p (Holm)"], rows)


def _mcnemar_table(found: Evaluation) -> str:
    rows = [
        [m.first, m.second, m.seed, m.only_first, m.only_second, m.n, f"{m.p:.3f}", f"{m.p_holm:.3f}",
         show(m.discordant)]
        for m in found.mcnemar
    ]  # fmt: skip
    return _table(["first", "second", "seed", "only first", "only second", "n", "p", "p (Holm)", "discordant %"], rows)


def _heads_table(found: Evaluation) -> str:
    known = published.SUBTASK_ACCURACY | {"variance_thirds": published.SUBTASK_ACCURACY["complexity_variance"]}
    rows = [[name, show(head.accuracy), show(head.gain), known.get(name, "-")] for name, head in found.heads.items()]
    return _table(["subtask", "accuracy %", "gain over the most frequent label, points", "S2 (CIFAR-10) %"], rows)


def _triage_table(found: Evaluation) -> str:
    rows = [
        [row.arm, row.reading, show(found.mean_std[row.arm][row.reading], 1, 3), row.name, show(row.share),
         show(row.accuracy), row.accuracy.n]
        for row in found.triage
    ]  # fmt: skip
    return _table(["arm", "std of", "mean std", "class", "share %", "accuracy inside %", "origins"], rows)


def _published_table() -> str:
    rows = []
    for what, values in (("accuracy", published.ACCURACY), ("ECE", published.ECE)):
        d = published.difference_of(values)
        rows.append([
            f"{what} B - A: {d.difference:+.2f} points", f"{d.p_intervals:.2g}", f"{d.p_runs_t:.2g}",
            f"{d.p_runs_sd:.2g}", f"{d.binomial_half_width:.2f}" if what == "accuracy" else "-",
            f"{d.correlation_needed:.2f}" if d.correlation_needed > 0 else "none",
            d.most_discordant if what == "accuracy" else "-",
        ])  # fmt: skip
    head = ["published", "p, ± as 95 % interval", "p, ± as t interval of 3 runs", "p, ± as sd of 3 runs",
            "± that 10 000 images give", "correlation for p < .05", "most discordant images for p < .05"]  # fmt: skip
    return _table(head, rows)


def reliability_panel(axes: Axes, found: Evaluation) -> None:
    """Reliability of A before and after temperature."""
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, label="perfect")
    for (which, diagram), marker in zip(found.diagrams.items(), "os", strict=True):
        full = diagram.count > 0
        ece = found.arms["A"].before["ece"] if which == "before" else found.arms["A"].after["ece"]
        axes.plot(diagram.confidence[full], diagram.accuracy[full], linewidth=1, alpha=0.6)
        axes.scatter(
            diagram.confidence[full], diagram.accuracy[full], marker=marker,
            s=10 + 200 * diagram.count[full] / diagram.count.sum(), label=f"{which} temperature: ECE {show(ece)} %",
        )  # fmt: skip
    axes.set(xlabel="confidence (probability)", ylabel="accuracy (share of images)")
    axes.set(xlim=(-0.05, 1.07), ylim=(-0.05, 1.08))
    axes.set_title("A: does a stated confidence come true? (area = images)")
    axes.legend(loc="upper left", fontsize=8)


def triage_panel(axes: Axes, found: Evaluation) -> None:
    """Accuracy inside each triage class."""
    for i, arm in enumerate(OPTIONS):
        rows = [row for row in found.triage if row.arm == arm and row.reading == "probability"]
        for row in rows:
            if np.isnan(row.accuracy.value):
                continue
            x, e = CLASSES.index(row.name) + 0.28 * (i - 1), row.accuracy
            axes.errorbar(
                x, e.value, yerr=[[e.value - e.low], [e.high - e.value]], fmt="o", color=f"C{i}", capsize=4,
                label=arm if row.name == "spot_check" else None,
            )  # fmt: skip
            axes.annotate(f"{100 * row.share.value:.1f} %", (x, e.low), xytext=(0, -11), textcoords="offset points",
                          ha="center", fontsize=8)  # fmt: skip
    axes.set_xticks(range(len(CLASSES)), CLASSES)
    axes.set(xlabel="triage class (number: share of images)", ylabel="accuracy inside (share, 95 % interval)")
    axes.set(xlim=(-0.6, 2.6), ylim=(-0.08, 1.04))
    axes.set_title("Triage by the std of the top probability over 25 passes")
    axes.legend(title="option", loc="lower right", fontsize=8)
