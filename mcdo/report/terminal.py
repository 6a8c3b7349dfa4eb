"""The tables and the verdict line that end a Phase 1 run on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mcdo.experiments import exp0_first_order as first_order
from mcdo.experiments import verdict
from mcdo.experiments.phase1.exp0_nested_mc import SPACES, NestedPasses
from mcdo.experiments.phase1.exp5_subset_ambiguity import AUROC_ENTROPY_BAR, RHO_ENTROPY_BAR, SubsetAmbiguity
from mcdo.names import columns, encodable, printable

DOMAIN = ("model", "score", "p", "Monte Carlo / first order [95 %]", "ρ, noise-corrected [95 %]", "holds")
RELIABILITY = ("model", "score", "T or R", "N", "K", "ρ [95 %]", "SNR", "ICC", "status")
VALIDITY = ("model", "score", "N", "ρ(entropy) [95 %]", "given norm", "AUROC(high entropy) [95 %]", "given norm")


def verdict_lines(reports: Path, session: str, encoding: str | None = "utf-8") -> list[str]:
    """Lines for a terminal of ``encoding``; empty when this session measured no reliability."""
    reliability, validity = _reliability(reports, session), _validity(reports, session)
    if not reliability:
        return []
    bars = f"bars: ρ > {RHO_ENTROPY_BAR}, AUROC > {AUROC_ENTROPY_BAR}"
    lines = ["", "Reliability: is it the same when measured again?", *columns([RELIABILITY, *reliability], encoding)]
    domain = _domain(reports, session)
    if domain:
        title = "Validity domain: does first order say what Monte Carlo says?"
        lines += ["", title, *columns([DOMAIN, *domain], encoding)]
    if validity:
        lines += [
            "",
            f"Validity: does it follow ambiguity, beyond the feature norm? ({bars})",
            *columns([VALIDITY, *validity], encoding),
        ]
    lines += ["", *_verdict(reports, session)]
    return [encodable(printable(line), encoding) for line in lines]


def _of_session(path: Path, session: str) -> dict[str, Any]:
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return held if held.get("session") == session else {}


def _reliability(reports: Path, session: str) -> list[tuple[str, ...]]:
    files = (NestedPasses.name, "exp0_overall_summary.json"), (first_order.FOLDER, "exp0_first_order_summary.json")
    return [
        _reliability_row(model, score, label, spaces[space])
        for folder, name in files
        for model, by_passes in _of_session(reports / folder / name, session).get("results", {}).items()
        for space, score in SPACES.items()
        for label, spaces in by_passes.items()
    ]


def _domain(reports: Path, session: str) -> list[tuple[str, ...]]:
    held = _of_session(reports / first_order.FOLDER / "exp0_first_order_summary.json", session)
    return [
        (model, score, label.removeprefix("p="), *_domain_cells(spaces[space]))
        for model, by_p in held.get("domain", {}).items()
        for space, score in SPACES.items()
        for label, spaces in by_p.items()
    ]


def _domain_cells(found: dict[str, Any]) -> tuple[str, ...]:
    ratio, rho = found["ratio"], found["spearman_corrected"]
    return (
        _interval(ratio["value"], [ratio["low"], ratio["high"]], 2),
        _interval(rho["value"], [rho["low"], rho["high"]], 2),
        found["holds"],
    )


def _reliability_row(model: str, score: str, label: str, r: dict[str, Any]) -> tuple[str, ...]:
    rho = _interval(r["pairwise_spearman_median"], r["pairwise_spearman_median_ci"], 3)
    sizes = (label.removeprefix("T="), str(r["n_images"]), str(r["n_trials"]))
    return (model, score, *sizes, rho, _number(r["snr"], 2), _number(r["icc"], 3), r["status"])


def _validity(reports: Path, session: str) -> list[tuple[str, ...]]:
    held = _of_session(reports / SubsetAmbiguity.name / "exp5_subset_overall_summary.json", session)
    rows = []
    for model, summary in held.get("results", {}).items():
        for score in ("trace_pre", "trace_post", "feature_norm"):
            report = summary["scores"][f"{score}/softmax"]
            figures = []
            for key in ("rho_uncertainty_vs_entropy", "auroc_high_entropy"):
                figures.append(_interval(report[key], report[f"{key}_ci"], 2))
                figures.append(_number(report.get(f"{key}_given_norm"), 2))
            rows.append((model, score, str(report["n"]), *figures))
    return rows


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _interval(value: float | None, ends: list[float | None], digits: int) -> str:
    return f"{_number(value, digits)} [{_number(ends[0], 2)}, {_number(ends[1], 2)}]"


def _verdict(reports: Path, session: str) -> list[str]:
    held = _of_session(reports / verdict.FILE, session)
    return [f"{held['decision']}: {held['reason']}. Report: {reports}"] if held else []
