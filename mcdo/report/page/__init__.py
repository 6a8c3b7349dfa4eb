"""The page: a folder of reports as one HTML file that needs nothing beside itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from mcdo.errors import McdoError
from mcdo.names import printable
from mcdo.report.caveats import caveats, flat, moment, provenances
from mcdo.report.compare import Comparison, tables
from mcdo.report.files import check_file, write_text
from mcdo.report.judgement import Judgement
from mcdo.report.results import Reported, Reports
from mcdo.schema import LIMIT, read_bytes
from mcdo.stats import Estimate
from mcdo.stats.status import THRESHOLDS

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST = 10_000_000
"""Bytes of a page; beyond that, thumbnails are left out, and the page says so."""
MOST_FIGURES = 200
"""Estimates of one summary that are listed; the rest is in the file that the page names."""
PHASES = ("phase1", "prelim", "phase2", "phase3", "phase4", "rivals", "recipe", "perf")

WORDS = (
    ("pass", "the encoder is shown an image once, with noise at its sites: dropout of probability p, if not said else"),
    ("T", "how many passes a score is made of"),
    ("site", "a linear map of the encoder that noise is put into, or all"),
    ("score", "a number for each image, its uncertainty, made of the features of its T passes"),
    ("trace_pre, trace_post", "scores: the variance over passes, mean over a feature's dimensions, before and after "
     "features are brought to length 1"),
    ("first order", "the same scores from gradients in place of passes, along R probes"),
    ("trial", "one of K measurements of the same images, with other noise"),
    ("ρ", "Spearman's rank correlation: of the scores of two trials, or of a score and what it is to follow"),
    ("SNR, ICC", "how much images differ, beside how much trials of one image do: variance between by variance within, "
     "and the share that lies between"),
    ("reliable", "ranks images as before when it is measured again"),
    ("valid", "follows the entropy of the zero-shot prediction; beyond the norm: also among images whose features "
     "are equally long"),
    ("claim, bar", "what an experiment asserts of a figure, and the value that the figure is held against"),
    ("[low, high]", "95 % interval of a figure, over originals"),
    ("original, n", "what was drawn independently: variants and copies of an image count once"),
    ("own gates", "what the harness checks of itself: that noise reaches every site, that p = 0 changes nothing, that "
     "permuted scores fail, and so on"),
)  # fmt: skip
"""What a reader of a page may not know, with its meaning."""


def write_page(folder: Path, page: Path, thumbnails: bool = True) -> Path:
    """Write the page of the reports in ``folder``; returns where it is.

    Args:
        folder: of reports.
        page: the HTML file.
        thumbnails: show the pictures that the reports hold.

    Raises:
        McdoError: if there is nothing to show, or the page cannot be written.

    """
    reports = Reports.read(folder)
    text = rendered(reports, thumbnails)
    if len(text.encode()) > LARGEST and thumbnails:
        text = rendered(reports, False, left_out=f"they would make the page larger than {LARGEST // 10**6} MB")
    return write_text(page, text)


def write_comparison(comparison: Comparison, names: tuple[str, str], page: Path) -> Path:
    """Write the page of a comparison of two folders of reports, called ``names``."""
    template = _environment().get_template("compare.html.j2")
    said = template.render(
        style=_beside("page.css"),
        script=_beside("page.js"),
        names=names,
        conclusion=comparison.conclusion(),
        tables=tables(comparison),
    )
    return write_text(page, said)


def rendered(reports: Reports, thumbnails: bool = True, left_out: str = "") -> str:
    """The page as text."""
    sections = _sections(reports, thumbnails)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            style=_beside("page.css"),
            script=_beside("page.js"),
            verdict=reports.verdict,
            several=len((reports.verdict or {}).get("models", ())) != 1,
            words=WORDS,
            bars=THRESHOLDS,
            sentence="" if reports.verdict is None else _sentence(reports.verdict),
            not_said=_not_said(reports),
            measured=_measured(reports),
            rates=reports.rates,
            costs=_costs(reports),
            perf=[section for section in sections if section.experiment["phase"] == "perf"],
            cells=[_cell(cell) for cell in (reports.verdict or {}).get("cells", ())],
            rows=[row for section in sections for part in section.parts for row in part.rows],
            sections=sections,
            thumbnails=thumbnails,
            left_out=left_out,
            outcomes=("met", "not met", "undecided", "not applicable"),
        )
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # only who asks for a page should wait for it

    environment = Environment(
        loader=PackageLoader("mcdo.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["moment"] = moment
    environment.finalize = lambda value: printable(value, "\n\t") if type(value) is str else value
    return environment


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


# ---- claims


@dataclass(frozen=True)
class Axis:
    """A claim's interval and bar on a small axis, as shares of its width in percent."""

    low: float
    high: float
    value: float
    bars: tuple[float, ...]

    @classmethod
    def of(cls, estimate: Estimate, bars: Sequence[float]) -> Axis | None:
        """None where there is no interval to draw: a bare point would read as exact. Infinite ends are at the edge."""
        every = (estimate.low, estimate.high, estimate.value, *bars)
        marks = [mark for mark in every if math.isfinite(mark)]
        if any(map(math.isnan, every)) or not marks:
            return None
        low, high = min(marks), max(marks)
        room = 0.08 * (high - low) or 1.0

        def place(x: float) -> float:
            share = (min(max(x, low - room), high + room) - low + room) / (high - low + 2 * room)
            return round(100 * share, 2)

        return cls(place(estimate.low), place(estimate.high), place(estimate.value), tuple(map(place, bars)))


@dataclass(frozen=True)
class Row:
    """A claim as a row of the table."""

    phase: str
    experiment: str
    anchor: str
    subject: str
    judgement: Judgement
    axis: Axis | None

    @property
    def figure(self) -> str:
        """Estimate and interval as text."""
        estimate = self.judgement.estimate
        return "" if estimate is None else shown(estimate)

    @property
    def distance(self) -> str:
        """For sorting: how far the estimate lies from its bar, in widths of the interval; "" where it has none."""
        e, at = self.judgement.estimate, self.judgement.at
        if e is None or not at or not math.isfinite(e.value) or not e.high > e.low:
            return ""
        return f"{min(abs(e.value - bar) for bar in at) / (e.high - e.low):.4f}"


def shown(estimate: Estimate) -> str:
    """``0.42 [0.40, 0.44]``; what is not known is a dash."""

    def number(x: float) -> str:
        if math.isnan(x) or math.isinf(x):
            return "–" if math.isnan(x) else f"{x:+}".replace("inf", "∞")
        return f"{x:.{estimate.decimals}f}" if abs(x) < 1e5 else f"{x:.3g}"

    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


# ---- experiments


@dataclass(frozen=True)
class Part:
    """One subject of an experiment."""

    subject: str
    rows: tuple[Row, ...]
    address: str
    width: int
    estimates: tuple[tuple[str, str, int], ...]
    more: int
    sheets: tuple[Mapping[str, Any], ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """One experiment."""

    anchor: str
    experiment: Mapping[str, str]
    reading: tuple[str, ...]
    parts: tuple[Part, ...]


def _sections(reports: Reports, thumbnails: bool) -> list[Section]:
    by_folder: dict[str, list[Reported]] = {}
    for each in reports.experiments:
        by_folder.setdefault(each.key[0], []).append(each)
    known = {phase: place for place, phase in enumerate(PHASES)}
    order = sorted(by_folder, key=lambda folder: (known.get(folder.split("/")[0], len(known)), folder))
    return [_section(reports.folder, by_folder[folder], thumbnails) for folder in order]


def _section(folder: Path, found: Sequence[Reported], thumbnails: bool) -> Section:
    experiment = found[0].experiment
    anchor = re.sub(r"[^A-Za-z0-9_-]", "-", found[0].key[0])
    paragraphs = tuple(" ".join(part.split()) for part in experiment["reading"].split("\n\n") if part.strip())
    reading = tuple(re.sub(r":\w+:`~?\.?(?:\w+\.)*(\w+)`", r"\1", each).replace("``", "") for each in paragraphs)
    return Section(anchor, experiment, reading, tuple(_part(folder, each, anchor, thumbnails) for each in found))


def _part(folder: Path, reported: Reported, anchor: str, thumbnails: bool) -> Part:
    phase, name = reported.experiment["phase"], reported.experiment["name"]
    rows = tuple(
        Row(phase, name, anchor, reported.subject, j, None if j.estimate is None else Axis.of(j.estimate, j.at))
        for j in reported.claims
    )
    figure = reported.figure(folder)
    drawn = b"" if figure is None else _lighter(read_bytes(figure, "run the experiment again", limit=LIMIT))
    address = _address(drawn) if drawn else ""
    claims_apart = {key: value for key, value in reported.summary.items() if key != "claims"}
    estimates = list(_estimates(claims_apart))
    sheets = tuple(reported.sheets(folder)) if thumbnails else ()
    listed = tuple((path, shown(e), e.n) for path, e in estimates[:MOST_FIGURES])
    return Part(
        reported.subject,
        rows,
        address,
        _width(drawn),
        listed,
        max(0, len(estimates) - MOST_FIGURES),
        sheets,
        _facts(folder, reported),
    )


def _width(svg: bytes) -> int:
    """Pixels of a figure at its natural size, at which its letters have theirs; 0 of none."""
    found = re.search(rb'<svg[^>]*\swidth="(\d{1,9}(?:\.\d*)?)pt"', svg[:4000])
    return 0 if found is None else round(float(found[1]) * 96 / 72)


_UNSEEN = re.compile(
    rb"<\?xml.*?(\?>|\Z)|<!DOCTYPE.*?(>|\Z)|<!--.*?(-->|\Z)|<metadata>.*?(</metadata>|\Z)", re.DOTALL
)  # what nobody ends goes on to the end, once and not from each begin of it


def _lighter(svg: bytes) -> bytes:
    """A figure without what is not seen of it: comments, names that nothing refers to, blanks, a third digit and more.

    A number below 1 may be a scale, and keeps its digits.
    """
    svg = re.sub(rb"(?<![\d.])([1-9]\d*\.\d\d)\d+", rb"\1", _UNSEEN.sub(b"", svg))
    named = set(re.findall(rb"#([\w.-]+)", svg))
    svg = re.sub(rb' id="([^"]*)"', lambda found: found[0] if found[1] in named else b"", svg)
    svg = re.sub(rb'style="[^"]*"', lambda found: re.sub(rb"([:;]) ", rb"\1", found[0]), svg)
    return re.sub(rb"\s+", b" ", re.sub(rb">\s+<", b"><", svg)).strip()


def _address(svg: bytes) -> str:
    """A figure as a data URL that may stand in single quotes: none of <, >, & and ' is left. Base64 would be longer."""
    return "data:image/svg+xml," + quote(svg, safe=' /:;=,!()"*+-._~?@$')


def _estimates(value: Any, path: str = "") -> Iterable[tuple[str, Estimate]]:
    """Every estimate in a summary, under the keys that lead to it."""
    if not isinstance(value, dict):
        return
    if value.keys() >= {"value", "low", "high", "n"}:
        yield path.removesuffix(" · "), Estimate.of(value)
        return
    for key, each in value.items():
        interval = value.get(f"{key}_ci")
        if isinstance(interval, list) and len(interval) == 2 and isinstance(each, int | float):
            ends = {"value": each, "low": interval[0], "high": interval[1]}
            yield f"{path}{key}", Estimate.of({**ends, "n": value.get("n") or value.get("n_origins")})
        else:
            yield from _estimates(each, f"{path}{key} · ")


def _facts(folder: Path, reported: Reported) -> tuple[tuple[str, str], ...]:
    """Configuration, sites, versions, time and files of one summary, as text."""
    s = reported.summary
    files = {"summary": str(reported.file.relative_to(folder)), **s.get("files", {})}
    said = {
        "configuration": flat(s["config"]),
        "images": f"{s['num_images']} of {s['num_origins']} originals"
        if s.keys() >= {"num_images", "num_origins"}
        else "",
        "image set": flat(s.get("image_set", "")),
        "sites": _sites(s.get("sites")),
        "device": flat({k: v for k, v in s["provenance"].items() if k in ("device", "dtype", "machine")}),
        "versions": flat(s["provenance"].get("versions", {})),
        "made": flat(s.get("made", {})),
        "files": flat(files),
    }
    return tuple((name, text) for name, text in said.items() if text)


def _sites(sites: Any) -> str:
    if isinstance(sites, list):  # not the same in all runs
        return "; ".join(map(_sites, sites))
    if not isinstance(sites, dict):
        return ""
    if "requested" not in sites:  # by model
        return "; ".join(f"{model} {_sites(each)}" for model, each in sites.items())
    live = sites.get("live")
    return f"{flat(sites.get('requested', ''))}" + (f": {len(live)} linear maps" if isinstance(live, list) else "")


# ---- what the head of the page says


def _sentence(verdict: Mapping[str, Any]) -> str:
    """The verdict for somebody who has read nothing else."""
    if verdict["decision"] == "NO-GO":
        return "measured again, no score of these encoders ranks these images as before, at any size that was tried"
    if verdict["decision"] == "UNDECIDED":
        return "it is not decided whether any score ranks these images as before when it is measured again"

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(row[part] for part in ("model", "score", "estimator"))

    usable = {key(cell) for cell in verdict["cells"] if cell["usable"] == "met"}
    if not usable:
        return "measured again at the largest T of the convergence sweep, a score ranks these images as before"
    every = {key(cell) for cell in verdict["cells"]}
    valid = [row for row in verdict.get("validity", ()) if row["outcome"] == "met" and key(row) in usable]
    said = f"measured again, {len(usable)} of {len(every)} scores rank these images as before"
    if not valid:
        return f"{said}, but that one of them follows what is ambiguous, beyond the feature norm, is not shown"
    ways = {"mc": "by passes", "first_order": "to first order"}
    names = ", ".join(f"{row['model']} {row['score']} {ways[row['estimator']]}" for row in valid)
    return f"{said}; {len(valid)} of these also follow what is ambiguous, beyond the feature norm: {names}"


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell of the verdict, its three figures as text."""
    figures = {name: shown(Estimate.of(cell[name])) for name in ("spearman", "snr", "icc")}
    budget = f"{cell['passes']}" if cell["estimator"] == "mc" else f"R = {cell['passes']} (first order)"
    return {**cell, **figures, "budget": budget}


def _costs(reports: Reports) -> list[dict[str, Any]]:
    """What each score takes that is usable: passes of the fewest that are, and their time where a rate is known."""
    ms = {rate.model: rate.ms for rate in reports.rates}
    fewest: dict[tuple[str, str], int] = {}
    for cell in (reports.verdict or {}).get("cells", ()):
        if cell["estimator"] == "mc" and cell["usable"] == "met":
            key = cell["model"], cell["score"]
            fewest[key] = min(cell["passes"], fewest.get(key, cell["passes"]))
    return [
        {"model": model, "score": score, "passes": T, "ms": f"{T * ms[model]:.3g}" if model in ms else "not known"}
        for (model, score), T in fewest.items()
    ]


def _measured(reports: Reports) -> list[tuple[str, str]]:
    verdict = reports.verdict or {}
    made_by = [facts for each in reports.experiments for facts in provenances(each)]
    made = [each.summary["made"] for each in reports.experiments if "made" in each.summary]

    def every(key: str, of: Iterable[Mapping[str, Any]]) -> str:
        return ", ".join(dict.fromkeys(flat(facts[key]) for facts in of if facts.get(key)))

    times = sorted(facts["time"] for facts in made)
    said = {
        "encoders": ", ".join(dict.fromkeys(m for m in verdict.get("models", ()))) or every("encoder", made_by),
        "images": flat(verdict.get("images", "")),
        "originals": flat(verdict.get("originals", "")),
        "perturbation": f"{_kind(reports)}p = {verdict['dropout']}, sites {flat(verdict['sites'])}"
        if "dropout" in verdict
        else "",
        "passes": _passes(verdict.get("cells", ())),
        "protocol": ", ".join(filter(None, (flat(verdict.get("protocol", "")), flat(verdict.get("sizes", {}))))),
        "device": every("device", made_by),
        "versions": _versions(made_by),
        "mcdo": every("mcdo", made) + (f" ({every('commit', made)})" if every("commit", made) else ""),
        "time": " to ".join(dict.fromkeys(map(moment, (times[0], times[-1])))) if times else "",
    }
    return [(name, text) for name, text in said.items() if text]


def _versions(provenances: Iterable[Mapping[str, Any]]) -> str:
    """Of each library; of several that the results were made by, all."""
    held: dict[str, dict[str, None]] = {}
    for facts in provenances:
        for library, version in facts.get("versions", {}).items():
            held.setdefault(library, {})[str(version)] = None
    return ", ".join(f"{library} {' and '.join(of)}" for library, of in held.items())


def _kind(reports: Reports) -> str:
    """``Dropout, ``: the kind of perturbation of Phase 1, as far as its summaries say."""
    configs = (each.summary["config"] for each in reports.experiments if each.experiment["phase"] == "phase1")
    held = (config.get("dropout") for config in configs if isinstance(config, dict))
    return next((f"{each['kind']}, " for each in held if isinstance(each, dict) and "kind" in each), "")


def _passes(cells: Sequence[Mapping[str, Any]]) -> str:
    """Numbers of passes and trials that the verdict rests on."""
    T = sorted({cell["passes"] for cell in cells if cell["estimator"] == "mc"})
    R = sorted({cell["passes"] for cell in cells if cell["estimator"] != "mc"})
    K = sorted({cell["n_trials"] for cell in cells})
    said = [f"{name} = {', '.join(map(str, of))}" for name, of in (("T", T), ("R (first order)", R)) if of]
    return f"{'; '.join(said)}; each measured {' or '.join(map(str, K))} times" if said else ""


def _not_said(reports: Reports) -> list[str]:
    """What nobody should read into the verdict."""
    said = []
    verdict = reports.verdict
    if verdict is None:
        said.append("There is no verdict: no whole Phase 1 ran into this folder.")
    else:
        said.append(
            "Not that a score is right about an image: GO means that it ranks images alike when it is measured again. "
            "Whether a score follows what is ambiguous is said of each in the lines above."
        )
        said.append("Nothing about other encoders, images, sites or perturbations: each has to be measured.")
        if verdict.get("less"):
            said.append(f"Nothing final: less than the published protocol was measured ({flat(verdict['less'])}).")
        elif verdict.get("protocol") == "quick":
            said.append("Nothing final: the quick protocol is smaller than the published one.")
    said += caveats(reports)
    random = sorted({
        str(facts.get("encoder", each.subject))
        for each in reports.experiments
        for facts in provenances(each)
        if facts.get("random_weights")
    })  # fmt: skip
    if random:
        said.append(f"Random weights, which decide nothing: {', '.join(random)}.")
    undecided = sum(j.outcome == "undecided" for each in reports.experiments for j in each.claims)
    if undecided:
        said.append(
            f"Nothing either way about {undecided} undecided claims: their intervals hold their bars, and more "
            "images or trials would have to decide."
        )
    return said


def check_page(page: Path) -> Path:
    """Raise McdoError unless a page can be written here: to be asked before a measurement is paid for."""
    if page.is_dir():
        raise McdoError(f"{page} is a folder; name a file for the page, such as {page / 'report.html'}")
    check_file(page)
    return page
