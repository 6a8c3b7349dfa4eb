"""The verdict of Phase 1: the decision tree of S0 §6, decided by intervals, beside the published point rule.

The published rule reads three point estimates, the best of dozens of cells. GO here needs one cell whose three figures
are met by their intervals, corrected over the cells that were looked at, from enough originals; and it says apart
whether a reliable score is valid beyond the feature norm. Without the harness's own gates there is no verdict.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from mcdo.errors import McdoError
from mcdo.harness.requests import Images
from mcdo.names import few_of
from mcdo.report.files import read_json, write_json
from mcdo.report.judgement import ALPHA, Outcome
from mcdo.report.made import made
from mcdo.report.terminal import Table, interval
from mcdo.schema import checked, plain, with_nan
from mcdo.stats import THRESHOLDS, Estimate, Reliability, usable_cells
from mcdo.store import canonical_json, digest
from mcdo.store.fingerprint import measuring_code

if TYPE_CHECKING:
    from mcdo.harness.experiment import View

Decision = Literal["GO", "NO-GO", "UNDECIDED"]
FILE = "verdict.json"
UNJUDGED = ".verdict_unjudged.json"
"""What a worker leaves until all workers' gates have ended; no later phase looks for it."""
NOT_RUN = "not run"
"""How a gate of the harness ended that was selected and did not: the run was cut off, or its worker died."""
_SEAL, _MADE = "checksum", "made"
LEAST_ORIGINS = 100
"""Originals below which there is no verdict."""


@dataclass(frozen=True)
class Cell:
    """Reliability of one score of one model at one budget.

    Attributes:
        passes: T, or R probes to first order.
        status: the published one, of the three point estimates.
        p_usable: one-sided p of "one of the three figures is not above its bar", uncorrected.
        usable: whether it is usable by its three figures, corrected over all cells; see :func:`judged`.

    """

    model: str
    score: str
    passes: int
    estimator: str
    spearman: Estimate
    snr: Estimate
    icc: Estimate
    n_images: int
    n_trials: int
    status: str
    p_usable: float
    usable: Outcome = "undecided"

    @classmethod
    def of(cls, model: str, score: str, passes: int, found: Reliability, estimator: str = "mc") -> Cell:
        """From what was measured; its outcome is decided together with the other cells'."""
        spearman, snr, icc = (found.estimate(name) for name in ("spearman", "snr", "icc"))
        return cls(
            model, score, passes, estimator, spearman, snr, icc, n_images=found.n_images, n_trials=found.n_trials,
            status=found.status, p_usable=found.p_usable,
        )  # fmt: skip

    @property
    def setting(self) -> str:
        """T=64, or R=8 probes to first order."""
        return f"T={self.passes}" if self.estimator == "mc" else f"R={self.passes} (first order)"

    @property
    def failed(self) -> bool:
        """Whether the whole interval of ρ or of SNR lies below its lower bound."""
        return self.spearman.high < THRESHOLDS.failed_spearman or self.snr.high < THRESHOLDS.failed_snr

    def rank(self) -> tuple[bool, bool, float]:
        """Larger is better, as published: usable, then marginal, then by Spearman."""
        return self.status == "usable", self.status == "marginal", self.spearman.value

    def __str__(self) -> str:
        figures = f"ρ={self.spearman.value:.3f}, SNR={self.snr.value:.2f}, ICC={self.icc.value:.3f}"
        return f"{self.model} {self.score} at {self.setting}: {figures}"


@dataclass(frozen=True)
class Validity:
    """Whether one score of one model follows ambiguity, and beyond the feature norm.

    Attributes:
        follows: whether ρ(entropy) lies above its bar.
        outcome: "met" where ρ given the norm does as well; "not met" where one of the two does not.
        reason: why nothing can be said, or empty.

    """

    model: str
    score: str
    estimator: str
    rho: Estimate
    rho_given_norm: Estimate
    auroc: Estimate
    auroc_given_norm: Estimate
    follows: Outcome
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """The decision, why, and what it holds for.

    Attributes:
        published: what the published point rule says.
        statements: of each score of each model: reliable or not, valid beyond the norm or not.
        sizes: those that took the place of the protocol's.
        budget: the time that they were chosen for, or "".
        less: what was smaller than the published protocol, in words.
        own_gates: the harness's own, by name: "passed", "failed", "skipped" or "not run"; None before they are looked
            at.
        skipped: why, of the gates that were skipped.
        identity: of all that was judged, as :func:`identity_of` gives it.

    """

    decision: Decision
    reason: str
    published: Decision
    statements: tuple[str, ...]
    cells: tuple[Cell, ...]
    validity: tuple[Validity, ...]
    models: tuple[str, ...]
    images: str
    originals: int
    protocol: str
    dropout: float
    sites: tuple[str, ...] | str
    seed: int
    session: str
    estimator: str = "mc"
    sizes: Mapping[str, Any] = field(default_factory=dict)
    budget: str = ""
    less: tuple[str, ...] = ()
    own_gates: Mapping[str, str] | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)

    def with_gates(self, outcomes: Mapping[str, str], skipped: Mapping[str, str] = MappingProxyType({})) -> Verdict:
        """The verdict in the light of the harness's own gates: unless all of them ended and none failed, no GO."""
        judged = replace(self, own_gates=dict(outcomes), skipped=dict(skipped))
        objection = self._objection(outcomes)
        if not objection:
            return judged
        without = f"{self.decision}: {self.reason}"
        return replace(judged, decision="UNDECIDED", reason=f"{objection}; without that: {without}")

    def _objection(self, outcomes: Mapping[str, str]) -> str:
        """What the gates say against the decision, or nothing."""
        failed, missing = ([_test(gate) for gate, ended in outcomes.items() if ended == w] for w in ("failed", NOT_RUN))
        some = f"{len(failed or missing)} of the harness's own gates"
        if failed:
            return f"{some} failed ({', '.join(failed)}), so nothing follows from its numbers"
        if missing and self.decision == "GO":
            return f"{some} did not run to their end ({few_of(missing)}); run them all"
        if "passed" not in outcomes.values() and self.decision == "GO":
            return "none of the harness's own gates ran in this session; run pytest -m phase1 whole"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        facts: dict[str, Any] = plain(asdict(self))
        return facts

    def write(self, reports: Path, file: str = FILE) -> Path:
        """Where later phases look for it, unless ``file`` is another."""
        facts = {**self.as_dict(), _MADE: made()}
        return write_json(reports / file, {**facts, _SEAL: digest(facts)})

    @classmethod
    def read(cls, reports: Path, file: str = FILE) -> Verdict:
        """The inverse of :meth:`write`.

        Raises:
            McdoError: if there is none, or it is damaged or of another version.

        """
        remedy = "run pytest -m phase1"
        facts = read_json(reports / file, remedy)
        seal = facts.pop(_SEAL, None)
        sealed = digest(facts)
        facts.pop(_MADE, None)
        try:
            verdict: Verdict = checked(with_nan(facts, cls), cls, reports / file)
        except McdoError as error:
            raise McdoError(f"{error}, so it is damaged or of another version; {remedy}") from error
        if seal != sealed:
            raise McdoError(f"{reports / file} is not as it was written: it is damaged, or was changed; {remedy}")
        return verdict


def _test(gate: str) -> str:
    """The name of a test, of its node id."""
    return gate.rpartition("::")[2]


def identity_of(about: View, models: Iterable[str], images: Iterable[Images]) -> dict[str, Any]:
    """What a verdict holds for: options, the content of ``images``, what ``models`` do, and the code that judges."""
    settings = about.settings
    encoders = {model: about.encoder(model) for model in models}
    facts = {
        "protocol": settings.protocol,
        "sizes": settings.sizes.as_dict(),
        "seed": settings.seed,
        "precision": settings.precision,
        "perturbation": settings.dropout.as_dict(),
        "images": [[shown.n, about.images(shown).fingerprint] for shown in images],
        "encoders": {
            model: {
                "weights": encoder.weights_hash,
                "random_weights": encoder.random_weights,
                "architecture": encoder.architecture,
                "probe": encoder.probe,
                "preprocessing": encoder.preprocess_id,
            }
            for model, encoder in encoders.items()
        },
        "code": measuring_code("mcdo.rivals.logits", "mcdo.stats", "mcdo.experiments.phase1", __name__),
    }
    normal: dict[str, Any] = json.loads(canonical_json(facts))
    return normal


def dropped(reports: Path, session: str) -> None:
    """Remove the verdict of another session: Phase 1 begins, and if it is killed there is none."""
    with suppress(McdoError):
        if Verdict.read(reports).session == session:
            return
    with suppress(OSError):
        (reports / FILE).unlink()


def judged(
    cells: Sequence[tuple[Cell, Reliability]], sweep: Sequence[tuple[Cell, Reliability]] = ()
) -> tuple[list[Cell], list[Cell]]:
    """The cells, and those of the sweep, each with its outcome: :func:`mcdo.stats.usable_cells` over all of them.

    A score of a model is a chain, tested from its largest budget down, and the chains share :data:`ALPHA`. One share
    is the sweep's, whether it is run or not: that it is run depends on what the others gave.
    """
    if not cells and not sweep:
        return [], []
    every = [*(((False, *_series(cell)), cell, r) for cell, r in cells), *(((True,), cell, r) for cell, r in sweep)]
    family = {i: r for i, (_, _, r) in enumerate(every)}
    chains = [
        sorted((i for i, (its, _, _) in enumerate(every) if its == series), key=lambda i: -every[i][1].passes)
        for series in dict.fromkeys(series for series, _, _ in every)
    ]
    share = 1.0 if sweep else len(chains) / (len(chains) + 1)
    outcomes = usable_cells(family, chains=chains, alpha=share * ALPHA)
    done = [replace(cell, usable=outcomes[i].decision) for i, (_, cell, _) in enumerate(every)]
    return done[: len(cells)], done[len(cells) :]


def _series(cell: Cell) -> tuple[str, str, str]:
    return cell.model, cell.score, cell.estimator


def published(cells: Sequence[Cell], sweep: Sequence[Cell] = ()) -> Decision:
    """The published point rule: any status usable: GO; best is marginal: as the sweep at its largest T; else NO-GO."""
    best = max(cells, key=Cell.rank, default=None)
    if best is None or best.status == "insufficient_trials":
        return "UNDECIDED"
    if best.status == "usable":
        return "GO"
    if best.status == "failed":
        return "NO-GO"
    top = max(sweep, key=lambda cell: cell.passes, default=None)
    return "GO" if top is not None and top.status == "usable" else "UNDECIDED"


def wants_sweep(cells: Sequence[Cell]) -> Cell | None:
    """The best cell where no cell is usable and more passes could help; first order has no sweep."""
    if any(cell.usable == "met" for cell in cells):
        return None
    best = max((cell for cell in cells if cell.estimator == "mc"), key=Cell.rank, default=None)
    return None if best is None or best.failed or best.status == "insufficient_trials" else best


def decide(cells: Sequence[Cell], originals: int, sweep: Sequence[Cell] = ()) -> tuple[Decision, str]:
    """The decision tree, by intervals.

    Args:
        cells: every model, score and budget, their outcomes decided together with those of the sweep.
        originals: number of sampled units behind them.
        sweep: of the convergence sweep, where it was run.

    """
    best = max(cells, key=Cell.rank, default=None)
    if best is None:
        return "UNDECIDED", "nothing was measured"
    if best.status == "insufficient_trials":
        return "UNDECIDED", f"reliability needs at least two trials whose scores vary ({best})"
    if originals < LEAST_ORIGINS:
        return "UNDECIDED", f"{originals} originals are too few for a verdict: at least {LEAST_ORIGINS} (best: {best})"
    usable = [cell for cell in (*cells, *sweep) if cell.usable == "met"]
    if usable:
        first, top = min(usable, key=lambda cell: cell.passes), max(usable, key=Cell.rank)
        return "GO", f"usable from {first.setting} on ({first.model} {first.score}); best is {top}"
    last = {_series(cell): cell for cell in sorted(cells, key=lambda cell: cell.passes)}
    if all(cell.failed for cell in last.values()):
        return "NO-GO", f"every score of every model failed at its largest budget; best is {best}"
    if not sweep:
        return "UNDECIDED", f"no interval lies above the bars (best: {best})"
    after = max(sweep, key=lambda cell: cell.passes)
    return "UNDECIDED", f"no interval lies above the bars (best: {best}), nor in the convergence sweep ({after})"


def statements(
    cells: Sequence[Cell], validity: Sequence[Validity], unread: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Of each score of each model, apart: is it reliable, and is it valid beyond the feature norm?

    ``unread`` says of a model why ambiguity has no measure, such as "no text tower"; "" where it has one.
    """
    known = {(row.model, row.score, row.estimator): row for row in validity}
    lines = []
    for key in dict.fromkeys(map(_series, cells)):
        of = [cell for cell in cells if _series(cell) == key]
        usable = [cell for cell in of if cell.usable == "met"]
        if usable:
            reliable = f"reliable from {usable[0].setting} on"
        else:
            reliable = "reliability undecided" if any(c.usable == "undecided" for c in of) else "unreliable"
        name = f"{key[0]} {key[1]}" + (" (first order)" if key[2] != "mc" else "")
        why = unread.get(key[0])
        valid = f"validity unknown ({why})" if why else _validity(known.get(key))
        lines.append(f"{name}: {reliable}, {valid}")
    return tuple(lines)


def _validity(row: Validity | None) -> str:
    if row is None or row.outcome == "not applicable":
        return "validity unknown" + (f" ({row.reason})" if row is not None and row.reason else "")
    if row.follows == "not met":
        return f"not valid (ρ(entropy) = {row.rho.value:.2f})"
    words = {"met": "valid beyond the norm", "not met": "not valid beyond the norm"}
    return words.get(row.outcome, "validity beyond the norm undecided")


def tables(verdict: Verdict) -> list[Table]:
    """What the verdict rests on."""
    return [_reliability_table(verdict), _validity_table(verdict)]


def closing(verdict: Verdict, reports: Path) -> list[str]:
    """The lines that end a run: the harness's own gates, each score's two statements, and the decision."""
    gates = verdict.own_gates or {}
    words = ("passed", "failed", "skipped", *([NOT_RUN] if NOT_RUN in gates.values() else []))
    ended = [f"{sum(outcome == word for outcome in gates.values())} {word}" for word in words]
    published = "" if verdict.published == verdict.decision else f" (the published point rule says {verdict.published})"
    return [
        f"The harness's own gates: {', '.join(ended)}.",
        *(f"skipped: {_test(name)}: {reason}" for name, reason in verdict.skipped.items()),
        *verdict.statements,
        "",
        f"{verdict.decision}: {verdict.reason}{published}. Report: {reports}",
    ]


def _reliability_table(verdict: Verdict) -> Table:
    heading = ("model", "score", "T or R", "N", "K", "ρ [95 %]", "SNR [95 %]", "ICC [95 %]", "status", "by interval")
    rows = tuple(
        (
            cell.model, cell.score, cell.setting.removeprefix("T="), str(cell.n_images), str(cell.n_trials),
            interval(cell.spearman, 3), interval(cell.snr), interval(cell.icc, 3), cell.status, cell.usable,
        )
        for cell in verdict.cells
    )  # fmt: skip
    title = (
        "Reliability: is it the same when measured again? (usable: ρ >= "
        f"{THRESHOLDS.usable_spearman:g}, SNR >= {THRESHOLDS.usable_snr:g}, ICC >= {THRESHOLDS.usable_icc:g}; "
        f"by interval: corrected over {len(verdict.cells)} cells)"
    )
    return Table(title, heading, rows)


def _validity_table(verdict: Verdict) -> Table:
    heading = ("model", "score", "originals", "ρ(entropy) [95 %]", "given norm [95 %]", "AUROC(high entropy) [95 %]",
               "given norm [95 %]", "beyond norm")  # fmt: skip
    rows = tuple(
        (
            row.model, row.score + ("" if row.estimator == "mc" else " (first order)"), str(row.rho.n),
            interval(row.rho), interval(row.rho_given_norm), interval(row.auroc), interval(row.auroc_given_norm),
            row.outcome if not row.reason else f"{row.outcome}: {row.reason}",
        )
        for row in verdict.validity
    )  # fmt: skip
    return Table("Validity: does it follow ambiguity, beyond the feature norm?", heading, rows)


def refusal(about: View, reports: Path, *, loaded: bool = True) -> str | None:
    """Why a later phase must not run on the subject's models and these images, or None if it may.

    With ``loaded=False`` the encoders are left alone, and only what the verdict itself says is looked at.
    """
    path, settings, models = reports / FILE, about.settings, about.subject.models
    hint = "run pytest -m phase1 with the same options first, or pass --force"
    if not path.exists():
        return f"there is no Phase 1 verdict at {path}; {hint}"
    try:
        verdict = Verdict.read(reports)
        if verdict.images != settings.images or not set(models) <= set(verdict.models):
            return f"the Phase 1 verdict at {path} is for {', '.join(verdict.models)} on {verdict.images}; {hint}"
        if verdict.decision != "GO":
            return f"Phase 1 ended with {verdict.decision}: {verdict.reason}; pass --force to go on all the same"
        if not loaded:
            return None
        shown = [Images(n) for n, _ in verdict.identity["images"]]
        differs = _difference(verdict.identity, identity_of(about, models, shown))
    except (KeyError, TypeError, ValueError) as error:
        return f"the Phase 1 verdict at {path} does not say what it holds for ({error}); {hint}"
    except McdoError as error:
        return f"{error}, or pass --force"
    if differs:
        return f"the Phase 1 verdict at {path} holds for {differs}; {hint}"
    return None


def _difference(judged: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The first thing in which a session is not what was judged, in words, or nothing.

    The published sizes hold for any others as well, and a verdict over several models for each of them.
    """
    published = judged.get("protocol") == "full" and not judged.get("sizes")
    for name, mine in here.items():
        its = judged.get(name)
        if name in ("protocol", "sizes") and published:
            continue
        if name == "encoders":
            for model, facts in mine.items():
                said = [word for word, value in facts.items() if judged[name][model].get(word) != value]
                if said:
                    return f"{model} with other {', '.join(said).replace('_', ' ')} than it has now"
        elif its != mine:
            digests = name in ("images", "code")
            return f"other {name} than those here" if digests else f"{name} = {its!r}, not {mine!r}"
    return ""
