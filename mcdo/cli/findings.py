"""The page of findings: the three answers, from the summaries that the experiments wrote, and all known negatives."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.experiments.cost.estimator_cost import JUDGED_PROBES, EstimatorCost
from mcdo.experiments.cost.pass_cost import FIRST_ORDER, SPARSE
from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability
from mcdo.experiments.phase1.exp0_nested_mc import SPACES, NestedPasses
from mcdo.experiments.prelim.replicates import Replicates
from mcdo.experiments.rivals.table import REFERENCE, RivalsTable
from mcdo.harness.negatives import KnownNegatives
from mcdo.names import markdown_table
from mcdo.report.files import read_json
from mcdo.report.results import Reported, Reports
from mcdo.stats import LEVEL_BAND, RANKING_BAR

Row = Sequence[str]
MOST_COLUMNS = 6
Estimate = Mapping[str, Any]
OUTCOMES = {
    "reliability": "reliability (Spearman of two trials)",
    "rho_entropy": "ρ(entropy)",
    "rho_entropy_given_norm": "ρ(entropy) given norm",
}
EFFECT = ["effect", *OUTCOMES.values()]


def write_page(reports: Path, page: Path) -> Path:
    """Write the page from what lies under ``reports``.

    Raises:
        McdoError: if an experiment that an answer needs has not been run.

    """
    parts = [
        "# Findings on the embedded encoders",
        "",
        "Written by `mcdo findings` from the summaries under `reports/`; `make experiments` makes those first. "
        "Brackets are 95 % intervals over originals. But where several trainings are named, one encoder stands for "
        "each loss and tower: what differs between losses or towers differs between these, and is not tested.",
        "",
        "## Does the loss, or do the perturbed sites, decide whether the score is valid?",
        "",
        *_loss_or_site(_read(reports / "prelim" / "prelim_loss_or_site" / "prelim_loss_or_site_summary.json")),
        *_replicates(reports / "prelim" / Replicates.name / Replicates.files.summary),
        "## Is first order enough?",
        "",
        *_first_order(_read(reports / "phase1" / FirstOrderReliability.name / "exp0_first_order_summary.json")),
        "## How many passes does a usable ranking cost?",
        "",
        *_passes(_read(reports / "phase1" / NestedPasses.name / "exp0_overall_summary.json")),
        "## What beats dropout?",
        "",
        *_rivals(reports / "rivals" / RivalsTable.name),
        "## What does a reliable score cost?",
        "",
        *_costs(reports / "perf" / EstimatorCost.name, page.parent / "figures"),
        "## What does not hold",
        "",
        "Each of these is a strict xfail: it is loud when it starts to hold.",
        "",
        *_negatives(KnownNegatives.load()),
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")
    return page


def fill_claims(reports: Path, pages: Path) -> list[Path]:
    """Write the claims and figures of each experiment into its page, where that asks; returns the pages that did.

    A page asks by ``<!-- claims: PHASE/FOLDER -->`` and ``<!-- end claims -->``, and for estimates of the summaries by
    ``<!-- figures: PHASE/FOLDER PATTERN … -->`` and ``<!-- end figures -->``, with patterns of their places in the
    summary, such as ``relations/*/rho``; several of one table are joined by ``|``. What stands between is replaced.

    Raises:
        McdoError: if a page asks for an experiment that the reports do not hold.

    """
    held = Reports.read(reports).experiments
    filled = []
    for page in sorted(pages.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if _CLAIMS.search(text) or _FIGURES.search(text):
            text = _CLAIMS.sub(partial(_claims, held, page), text)
            page.write_text(_FIGURES.sub(partial(_figures, held, page), text), encoding="utf-8")
            filled.append(page)
    return filled


_FIGURES = re.compile(r"(<!-- figures: (\S+) ([^\n]+?) -->\n).*?(<!-- end figures -->)", re.DOTALL)
_CLAIMS = re.compile(r"(<!-- claims: (\S+) -->\n).*?(<!-- end claims -->)", re.DOTALL)


def _parts(held: Sequence[Reported], page: Path, folder: str) -> list[Reported]:
    parts = [each for each in held if each.key[0] == folder]
    if not parts:
        raise McdoError(f"{page.name} asks for {folder}, which the reports do not hold; run make experiments first")
    return parts


def _figures(held: Sequence[Reported], page: Path, found: re.Match[str]) -> str:
    """For each pattern and subject a table: places that differ in their last word share a row."""
    lines = ["", "Written by `mcdo findings`:", ""]
    there = {each.subject: list(estimates(each.summary)) for each in _parts(held, page, found[2])}
    for pattern in found[3].split():
        before = len(lines)
        for subject, places in there.items():
            cells: dict[str, dict[str, str]] = {}
            for place, estimate in places:
                if any(fnmatchcase("/".join(place), each) for each in pattern.split("|")):
                    row = cells.setdefault(" / ".join(place[1:-1] or place[:-1]) or "of all", {})
                    row[place[-1]] = interval(estimate, _digits(estimate["value"]))
            if cells:
                lines += table(*_rows(subject, cells))
        if len(lines) == before:
            raise McdoError(f"{page.name}: no estimate of {found[2]} stands at {pattern}")
    return found[1] + "\n".join(lines) + found[4]


def _rows(subject: str, cells: Mapping[str, Mapping[str, str]]) -> tuple[Row, list[Row]]:
    """Head and rows; turned where there are many columns and few rows."""
    columns = list(dict.fromkeys(name for row in cells.values() for name in row))
    if len(columns) > max(MOST_COLUMNS, len(cells)):
        return [subject, *cells], [[name, *(row.get(name, "–") for row in cells.values())] for name in columns]
    return [subject, *columns], [[name, *(row.get(column, "–") for column in columns)] for name, row in cells.items()]


def _digits(value: float | None) -> int:
    """Two after the point, or two that count."""
    return 2 if not value or abs(value) >= 0.1 else 1 - math.floor(math.log10(abs(value)))


def estimates(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Estimate]]:
    """Every estimate of a summary and where it stands: as a mapping, or as ``NAME`` beside ``NAME_ci``."""
    if not isinstance(value, dict):
        return
    if {"value", "low", "high"} <= value.keys():
        yield place, value
        return
    for name, held in value.items():
        ends = value.get(f"{name}_ci")
        if isinstance(ends, list) and isinstance(held, int | float):
            yield (*place, name), {"value": held, "low": ends[0], "high": ends[1]}
        elif name not in ("config", "claims", "provenance", "made"):
            yield from estimates(held, (*place, str(name)))


def _claims(held: Sequence[Reported], page: Path, found: re.Match[str]) -> str:
    parts = _parts(held, page, found[2])
    rows = [
        [
            each.subject,
            judgement.claim,
            judgement.outcome,
            "–" if judgement.estimate is None else judgement.estimate.without_n,
            judgement.bar,
            "" if judgement.estimate is None else str(judgement.estimate.n),
        ]
        for each in parts
        for judgement in each.claims
    ]
    config = parts[0].summary["config"]
    sizes = ", ".join(f"{name} {value}" for name, value in config.items() if isinstance(value, int | str))
    lines = [
        f"Written by `mcdo findings` ({sizes}):",
        "",
        *table(["model", "claim", "outcome", "[95 %]", "bar", "n"], rows),
    ]
    return found[1] + "\n".join(lines) + found[3]


def _read(path: Path) -> dict[str, Any]:
    return read_json(path, "run make experiments first")


def table(head: Row, rows: Iterable[Row]) -> list[str]:
    """A Markdown table, and an empty line."""
    return [*markdown_table(head, rows), ""]


def interval(estimate: Estimate, digits: int = 2) -> str:
    """``0.42 [0.40, 0.44]``."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    return "–" if value is None else f"{value:.{digits}f} [{_end(low, digits)}, {_end(high, digits)}]"


def _end(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _loss_or_site(summary: dict[str, Any]) -> list[str]:
    lines = []
    degraded = [f"increased/{name}" for name in summary["config"]["degradations"]]
    shown = [*OUTCOMES, degraded[-1]]
    for score in ("trace_pre", "trace_post"):
        found = summary["scores"][score]
        lines += [*_decided(score, found["analysis"]), ""]
        lines += [f"**{score}**, n = {summary['num_images']}, one protocol and matched roles in all cells:", ""]
        head = ["loss", "tower", "sites", *OUTCOMES.values(), f"share raised by {degraded[-1].partition('/')[2]}"]
        rows = [[*cell.split("/"), *(interval(of[name]) for name in shown)] for cell, of in found["cells"].items()]
        lines += table(head, rows)
        lines += [
            "Differences of cell means. Between sites: within encoders, with their spread over the four in interval "
            "and p (Holm within a column). Between losses and towers: of these four encoders, over images, no test.",
            "",
            *table(EFFECT, _effects(found["analysis"])),
        ]
        shares = {name: found["analysis"][name]["shares"] for name in OUTCOMES}
        rows = [[factor, *(interval(shares[name][factor]) for name in OUTCOMES)] for factor in shares["reliability"]]
        lines += ["Share of the variation between these cells:", "", *table(["factor", *OUTCOMES.values()], rows)]
    return lines


def _replicates(file: Path) -> list[str]:
    """Contrasts over trainings, where some were given."""
    summary = _read(file) if file.is_file() else {}
    lines = ["### With several trainings of each", ""]
    if "scores" not in summary:
        return [*lines, "Not among these reports: `make replicates` trains them; its page holds what was found.", ""]
    for score in ("trace_pre", "trace_post"):
        found = summary["scores"][score]
        spread = ["sd between trainings", *(interval(found[name]["sd_between_trainings"]) for name in OUTCOMES)]
        lines += [
            f"**{score}**, {len(summary['trainings'])} trainings, n = {summary['num_images']}: intervals over "
            "trainings and images, Holm over the three contrasts of a kind.",
            "",
            *table(EFFECT, [*_effects(found), spread]),
        ]
    return lines


def _effects(analysis: Mapping[str, Any]) -> list[Row]:
    of = [analysis[name]["effects"] for name in OUTCOMES]
    return [[contrast, *(_effect(effects[contrast]) for effects in of)] for contrast in of[0]]


def _decided(score: str, analysis: Mapping[str, Any]) -> list[str]:
    """The answer in words: which contrasts between sites stand after correction, and what varies most."""
    lines = []
    for name, outcome in OUTCOMES.items():
        effects = analysis[name]["effects"]
        tested = {contrast: of for contrast, of in effects.items() if "p_holm" in of}
        stands = _said({c: of for c, of in tested.items() if of["p_holm"] is not None and of["p_holm"] < 0.05})
        differ = _said({contrast: of for contrast, of in effects.items() if contrast not in tested})
        most, much = max(analysis[name]["shares"].items(), key=lambda share: share[1]["value"] or 0)
        lines.append(
            f"- {score}, {outcome}: between sites, over the four encoders, {stands or 'no contrast stands'}; between "
            f"losses and towers, of these encoders and not tested, {differ}; the largest share of the variation "
            f"between cells is {most}, {interval(much)}."
        )
    return lines


def _said(effects: Mapping[str, Estimate]) -> str:
    return ", ".join(f"{contrast} {of['value']:+.2f}" for contrast, of in effects.items())


def _effect(estimate: Estimate) -> str:
    p = estimate.get("p_holm")
    return interval(estimate) + ("" if p is None else ", p < 0.001" if p < 0.001 else f", p = {p:.3f}")


def _first_order(summary: dict[str, Any]) -> list[str]:
    low, high = LEVEL_BAND
    by_p, by_group = (_domain(summary[section]) for section in ("domain", "domain_of_sites"))
    ranked, levelled = (sum(row[-place] == "met" for row in by_p) for place in (2, 1))
    head = ["model", "sites or p", "score", "Monte Carlo / first order", "Spearman, noise-corrected", "raw"]
    lines = [
        f"Of {len(by_p)} cases (model, p, score) it ranks as Monte Carlo does (corrected rank correlation at least "
        f"{RANKING_BAR}) in {ranked}, and has its level (median ratio within {low} to {high}) in {levelled}. "
        "The verdict takes first order only where the ranking holds.",
        "",
        *table([*head, "ranking", "level"], by_p),
        "Of single groups of sites, at the session's p:",
        "",
        *table([*head, "ranking", "level"], by_group),
    ]
    head = ["model", "score", "probes R", "Spearman of two trials", "SNR", "ICC", "status", "by interval"]
    return lines + table(head, _reliability_rows(summary["results"], "R="))


def _domain(section: Mapping[str, Any]) -> list[list[str]]:
    figures = ("ratio", "spearman_corrected", "spearman")
    return [
        [model, where, score, *(interval(of[name]) for name in figures), of["ranking"], of["level"]]
        for model, domains in section.items()
        for where, scores in domains.items()
        for score, of in scores.items()
    ]


def _passes(summary: dict[str, Any]) -> list[str]:
    lines = []
    for model, budgets in summary["results"].items():
        for space, score in SPACES.items():
            said = [
                f"{words} from {usable[0]} on" if usable else f"{words} at no T that was measured"
                for words, usable in (
                    ("usable by its three intervals", _where(budgets, space, "decision", "met")),
                    ("by the published point rule", _where(budgets, space, "status", "usable")),
                )
            ]
            lines.append(f"- {model}, {score}: {', '.join(said)}.")
    head = ["model", "score", "T", "Spearman of two trials", "SNR", "ICC", "status", "by interval"]
    return [*lines, "", *table(head, _reliability_rows(summary["results"], "T="))]


def _where(budgets: Mapping[str, Any], space: str, key: str, word: str) -> list[str]:
    return [budget for budget, spaces in budgets.items() if spaces[space][key] == word]


def _reliability_rows(results: dict[str, Any], prefix: str) -> list[list[str]]:
    return [
        [
            model,
            SPACES[space],
            budget.removeprefix(prefix),
            _median(of),
            f"{of['snr']:.2f}",
            f"{of['icc']:.3f}",
            of["status"],
            of["decision"],
        ]
        for model, budgets in results.items()
        for budget, spaces in budgets.items()
        for space, of in spaces.items()
    ]


def _median(of: Mapping[str, Any]) -> str:
    low, high = of["pairwise_spearman_median_ci"]
    return interval({"value": of["pairwise_spearman_median"], "low": low, "high": high}, 3)


_MEASURES = {
    "reliability": "reliability",
    "rho_entropy_given_norm": "ρ(entropy) given norm",
    "auroc_error": "AUROC of errors",
    "excess_aurc": "AURC over the oracle",
    "augrc": "AUGRC",
    "auroc_foreign": "AUROC of another kind",
    "fpr95_foreign": "FPR95",
    "auroc_misplaced": "Recall@1-AUROC",
}


_DECIMALS = {"excess_aurc": 4, "augrc": 4}
"""Where two would erase the figure."""


def _differs(of: Mapping[str, Any]) -> bool:
    """Whether a difference is more than noise; p may be so small that it is 0."""
    return of["p_holm"] is not None and of["p_holm"] < 0.05


def _rivals(folder: Path) -> list[str]:
    """One table for each encoder, and in words what beats dropout and what does not."""
    held = {path.parent.name: _read(path) for path in sorted(folder.glob("*/rivals_summary.json"))}
    if not held:
        return ["Not among these reports: `pytest -m rivals` measures it.", ""]
    config = next(iter(held.values()))["config"]
    sides_of: dict[tuple[str, str], list[set[str]]] = {}
    lines = [
        f"Of n = {config['n']} digits with T = {config['passes']} passes, and {config['foreign']} synthetic images of "
        f"another kind. Set against `{REFERENCE}` on the same images by AUROC (Holm over each table):",
        "",
    ]
    for model, found in held.items():
        over = found[f"over_{REFERENCE}"]
        for task, words in {"error": "errors", "foreign": "images of another kind"}.items():
            here = {key.removesuffix(f" at {task}"): of for key, of in over.items() if key.endswith(f" at {task}")}
            sides = {"ahead": 1, "behind": -1}
            said = {
                side: [name for name, of in here.items() if _differs(of) and of["value"] * sign > 0]
                for side, sign in sides.items()
            }
            decided = {name for names in said.values() for name in names}
            said["undecided"] = [name for name in here if name not in decided]
            parts = [f"{side} {', '.join(names)}" for side, names in said.items() if names]
            lines.append(f"- {model}, {words}: {'; '.join(parts) or 'nothing to say'}.")
            for side, names in said.items():
                sides_of.setdefault((words, side), []).append(set(names))
    for words in ("errors", "images of another kind") if len(held) > 1 else ():
        of_all = {
            side: sorted(set.intersection(*sides_of[words, side])) for side in ("ahead", "behind", "undecided")
            if len(sides_of.get((words, side), ())) == len(held)
        }  # fmt: skip
        parts = [f"{side} {', '.join(names)}" for side, names in of_all.items() if names]
        lines.append(f"- In all {len(held)} encoders, {words}: {'; '.join(parts) or 'nothing is the same'}.")
    for model, found in held.items():
        raised = {key: key for key in found["measures"] if key.startswith("raised/")}
        measures = {**_MEASURES, **raised}
        ahead = found["ahead_of_the_best_trivial"]
        rows = [
            [
                name,
                "–" if row["cost"] is None else f"{row['cost']:g}",
                *(interval(row[m], _DECIMALS.get(m, 2)) if m in row else "–" for m in measures),
                *(
                    _effect(ahead[key]) if (key := f"{name} at {task}") in ahead else "–"
                    for task in ("error", "foreign")
                ),
            ]
            for name, row in found["rows"].items()
        ]
        trivial = ("over the best trivial at errors", "… at another kind")
        lines += ["", f"**{model}** (cost in forwards of one image; trivial: {', '.join(found['trivial'])}):", ""]
        lines += table(["score", "cost", *measures.values(), *trivial], rows)[:-1]
        reasons: dict[str, list[str]] = {}
        for name, reason in found["left_out"].items():
            reasons.setdefault(reason, []).append(name)
        lines += ["", *(f"Left out: {', '.join(names)} ({reason})." for reason, names in reasons.items())]
    return [*lines, ""]


def _costs(folder: Path, figures: Path) -> list[str]:
    """Reliability against cost, and the curves beside the page; ``make perf`` measures them."""
    held = {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}
    if not held:
        return ["Not measured: `make perf` writes it.", ""]
    figures.mkdir(parents=True, exist_ok=True)
    rows, curves = [], []
    for model, found in held.items():
        rows += [
            [model, score, p, *_cost_of_ways(found["points"][score], p), *map(_gain, by_way.values())]
            for score, by_p in found["gains"].items()
            for p, by_way in by_p.items()
        ]
        curve = figures / f"reliability_against_cost_{model}.png"
        shutil.copyfile(folder / f"{model}.png", curve)
        curves.append(f"![{model}]({figures.name}/{curve.name})")
    first = next(iter(held.values()))
    ways = next(iter(first["gains"]["trace_pre"].values()))
    budget, largest = f"R = {JUDGED_PROBES}", f"T = {max(first['config']['passes'])}"
    head = ["model", "score", "p", f"first order, {budget}: ρ at cost", f"keyed masks, {largest}: ρ at cost"]
    return [
        f"In forward passes of one image (n = {first['config']['n']} digits, {first['config']['trials']} trials, one "
        f"thread): what each way costs at the reliability that first order has with {budget}, relative to first order. "
        "Brackets follow from the interval of that reliability; > where even the largest number of passes does not "
        "reach it.",
        "",
        *table([*head, *(f"{way} ÷ first order" for way in ways)], rows),
        *curves,
        "",
    ]


def _cost_of_ways(points: Sequence[Mapping[str, Any]], p: str) -> list[str]:
    """Reliability and cost of first order, and of keyed masks with the largest budget."""
    here = [point for point in points if f"{point['p']:g}" == p]
    linear = next(q for q in here if (q["way"], q["budget"]) == (FIRST_ORDER, JUDGED_PROBES))
    keyed = max((q for q in here if q["way"] == SPARSE), key=lambda q: q["budget"])
    return [f"{_median(q['reliability'])} at {q['cost']:.1f}" for q in (linear, keyed)]


def _gain(estimate: Estimate) -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None:
        return f"> {low:.1f}"
    return f"{value:.1f} [{low:.1f}, {'more' if high is None else f'{high:.1f}'}]"


def _negatives(findings: KnownNegatives) -> list[str]:
    rows = [[f.experiment, f.claim, f.model, f.measured, f.reason] for f in findings.all]
    return table(["experiment", "claim", "model", "measured", "reason"], rows)
