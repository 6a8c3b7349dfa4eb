"""What a folder of reports holds: the summaries that experiments wrote, read back without knowing any experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import msgspec

from mcdo import schema
from mcdo.errors import McdoError
from mcdo.names import file_name
from mcdo.report.files import read_json
from mcdo.report.judgement import Judgement, Outcome
from mcdo.schema import Count, OpenRecord, Record, checked

_MARKS = {"claims", "config", "provenance", "experiment", "files"}
"""Keys that the harness puts into every summary."""
VERDICT = Path("phase1") / "verdict.json"
RATES = "rates"
"""Folder, within that of the reports, of what passes took."""


RUN = "run.json"
"""How the last run of experiments ended, within the folder of reports."""


def _check_made(made: Mapping[str, str]) -> None:
    if "time" not in made:
        raise ValueError("made lacks the key time")


@dataclass(frozen=True)
class LastRun:
    """How the last run of experiments into a folder ended, whose page may hold results of earlier ones.

    Attributes:
        interrupted: by the user, a signal or a limit of failures; or it still runs, or was killed.
        errors: ids of tests that ended with an error, so that what they judge was not measured.
        made: when and by what.

    """

    interrupted: bool
    errors: tuple[str, ...]
    made: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_made(self.made)

    @property
    def whole(self) -> bool:
        """Whether it measured all that it was asked for."""
        return not (self.interrupted or self.errors)


@dataclass(frozen=True)
class Rate:
    """How fast the passes of a model were in the last run that carried out any, beside whatever else the machine did.

    Attributes:
        model: the encoder.
        passes: that were carried out, each of one image.
        seconds: that they took.
        device: on which.
        threads: of the process.
        machine: its architecture.
        made: when and by what.

    """

    model: str
    passes: Annotated[int, msgspec.Meta(gt=0)]
    seconds: Annotated[float, msgspec.Meta(gt=0)]
    device: str
    threads: int
    machine: str
    made: Mapping[str, str]

    def __post_init__(self) -> None:
        _check_made(self.made)

    @property
    def ms(self) -> float:
        """Milliseconds of one pass of one image."""
        return 1000 * self.seconds / self.passes


class _Interval(OpenRecord, frozen=True):
    """As :meth:`mcdo.stats.Estimate.as_dict` writes it."""

    value: float | None
    low: float | None
    high: float | None
    n: Count | None
    level: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.95
    reason: str = ""


class _Claim(Record, frozen=True):
    claim: str
    outcome: Outcome
    estimate: _Interval | None
    bar: str
    beside: str = ""
    p_holm: float | None = None
    at: tuple[float, ...] = ()


class _Experiment(OpenRecord, frozen=True):
    key: str
    name: str
    phase: str
    question: str
    reading: str


class _Files(OpenRecord, frozen=True):
    folder: str
    figure: str = ""
    arrays: tuple[str, ...] = ()


class _Measured(OpenRecord, frozen=True):
    models: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)
    versions: dict[str, str] = msgspec.field(default_factory=dict)


class _Made(OpenRecord, frozen=True):
    time: str


class _Summary(OpenRecord, frozen=True):
    """What every reader of a summary may rely on."""

    experiment: _Experiment
    model: str
    claims: tuple[_Claim, ...]
    config: dict[str, Any]
    provenance: _Measured
    files: _Files
    made: _Made | msgspec.UnsetType = msgspec.UNSET
    protocol: str = ""
    sizes: dict[str, Any] = msgspec.field(default_factory=dict)


class _Score(OpenRecord, frozen=True):
    model: str
    score: str
    estimator: Literal["mc", "first_order"]


class _Cell(_Score, frozen=True):
    passes: int
    n_images: int
    n_trials: int
    usable: str
    status: str
    spearman: _Interval
    snr: _Interval
    icc: _Interval


class _Validity(_Score, frozen=True):
    outcome: str


class _Identity(OpenRecord, frozen=True):
    encoders: dict[str, dict[str, Any]] = msgspec.field(default_factory=dict)


class _Verdict(OpenRecord, frozen=True):
    decision: Literal["GO", "NO-GO", "UNDECIDED"]
    reason: str
    published: str
    own_gates: dict[str, str]
    cells: tuple[_Cell, ...]
    statements: tuple[str, ...]
    validity: tuple[_Validity, ...] = ()
    models: tuple[str, ...] = ()
    sites: str | tuple[str, ...] = ()
    sizes: dict[str, Any] = msgspec.field(default_factory=dict)
    identity: _Identity = _Identity()


class _Tile(OpenRecord, frozen=True, rename={"name": "class"}):
    id: str
    name: str
    png: str
    caption: str


class _Sheet(OpenRecord, frozen=True):
    title: str
    tiles: tuple[_Tile, ...]


class _Sheets(OpenRecord, frozen=True):
    sheets: tuple[_Sheet, ...]


@dataclass(frozen=True)
class Reported:
    """One experiment about one subject, as it stands in the reports.

    Attributes:
        experiment: its key, name, phase, question and how to read it.
        subject: usually a model.
        claims: how each ended.
        summary: all of it.
        file: where it was read.

    """

    experiment: Mapping[str, str]
    subject: str
    claims: tuple[Judgement, ...]
    summary: Mapping[str, Any]
    file: Path

    def place(self, folder: Path) -> Path:
        """Where its files are, in a folder of reports."""
        return folder / str(self.summary["files"]["folder"])

    @property
    def key(self) -> tuple[str, str]:
        """Folder of the experiment, and subject."""
        return f"{self.experiment['phase']}/{self.experiment['name']}", self.subject

    @property
    def identity(self) -> tuple[str, ...]:
        """The same, where several experiments share a folder and a subject."""
        return (*self.key, self.experiment["key"])

    def figure(self, folder: Path) -> Path | None:
        """Its figure as SVG, where there is one, in the folder of reports."""
        name = self.summary["files"].get("figure", "")
        return self.held(folder, str(Path(name).with_suffix(".svg"))) if name else None

    def held(self, folder: Path, name: str) -> Path | None:
        """One of its files, where it is in the folder of reports and no link leads out of that."""
        path = self.place(folder) / name
        return path if path.is_file() and path.resolve().is_relative_to(folder.resolve()) else None

    def sheets(self, folder: Path) -> list[Mapping[str, Any]]:
        """Its contact sheets, where it drew any: titles, and tiles of id, class, caption and a PNG in base64."""
        path = self.held(folder, f"{file_name(self.subject)}_sheets.json")
        if path is None:
            return []
        held = read_json(path, "delete it")
        checked(held, _Sheets, path)
        return list(held["sheets"])


@dataclass(frozen=True)
class Reports:
    """Everything in a folder of reports; ``verdict`` is None without a Phase 1.

    A folder of another run's reports may lie in it (``--reports=reports/quick``): what is there is not part of it.
    """

    folder: Path
    experiments: tuple[Reported, ...]
    verdict: Mapping[str, Any] | None
    rates: tuple[Rate, ...] = ()
    last_run: LastRun | None = None

    @classmethod
    def read(cls, folder: Path) -> Reports:
        """Read a folder.

        Raises:
            McdoError: if there are no reports in it, or one cannot be read.

        """
        remedy = "delete it, or run the experiment again"
        found: dict[tuple[str, ...], Reported] = {}
        others: list[Path] = []
        for path in sorted(folder.rglob("*.json")):
            if path.name.startswith(".") or not _is_object(path):
                continue
            for summary in _summaries(read_json(path, remedy)):
                if not _lies_in_its_place(summary, path.relative_to(folder)):
                    others.append(path)
                    continue
                try:
                    each = _reported(summary, path)
                except McdoError as error:
                    raise McdoError(f"{error}; it is no summary of this version: {remedy}") from error
                found.setdefault(each.identity, each)
        verdict = read_json(folder / VERDICT, remedy) if (folder / VERDICT).exists() else None
        if verdict is not None:
            checked(verdict, _Verdict, folder / VERDICT)
        if not found and verdict is None:
            there = f" of its own ({others[0]} is of a folder within)" if others else ""
            raise McdoError(
                f"{folder} holds no reports{there}; run pytest -m phase1, or name another folder with --reports"
            )
        last = schema.read_json(folder / RUN, LastRun, remedy) if (folder / RUN).exists() else None
        return cls(folder, tuple(found.values()), verdict, read_rates(folder), last)


def read_rates(folder: Path) -> tuple[Rate, ...]:
    """The rates in a folder of reports. Raises McdoError for a file that is none."""
    remedy = "delete it, or run the experiment again"
    return tuple(schema.read_json(path, Rate, remedy) for path in sorted((folder / RATES).glob("*.json")))


def _is_object(path: Path) -> bool:
    """Whether a JSON file could hold a summary; an experiment may write lists as well."""
    schema.check_regular(path, "delete it, or run the experiment again")
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError as error:
        raise McdoError(f"{path} cannot be read ({error.strerror}); delete it, or run the experiment again") from error


def _summaries(value: Any, depth: int = 2) -> Iterator[Mapping[str, Any]]:
    """Summaries in the JSON of one file: the whole, or those that stand under sections and subjects."""
    if not isinstance(value, dict):
        return
    if value.keys() >= _MARKS:
        yield value
    elif depth:
        for each in value.values():
            yield from _summaries(each, depth - 1)


def _lies_in_its_place(summary: Mapping[str, Any], place: Path) -> bool:
    """Whether a summary says that it stands there in its folder of reports, or does not say."""
    folder = files.get("folder") if isinstance(files := summary["files"], dict) else None
    return not isinstance(folder, str) or place.is_relative_to(folder) or ".." in PurePosixPath(folder).parts


def _reported(summary: Mapping[str, Any], path: Path) -> Reported:
    known: _Summary = checked(summary, _Summary, path)
    for name in (known.files.folder, known.files.figure, *known.files.arrays):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise McdoError(f"{path} names a file outside of the reports: {name}")
    _check_estimates(summary, path)
    claims = tuple(Judgement.of(each) for each in summary["claims"])
    return Reported(msgspec.to_builtins(known.experiment), known.model, claims, summary, path)


def _check_estimates(value: Any, path: Path) -> None:
    """Raise McdoError for what has the keys of an estimate and is none, or an end of an interval that is no number."""
    if isinstance(value, dict):
        if value.keys() >= {"value", "low", "high", "n"}:
            checked(value, _Interval, path)
        for key, each in value.items():
            if isinstance(each, int | float) and isinstance(value.get(f"{key}_ci"), list):
                ends = {"value": each, **dict(zip(("low", "high"), value[f"{key}_ci"], strict=False))}
                checked(
                    {"low": None, "high": None, "n": value.get("n") or value.get("n_origins"), **ends}, _Interval, path
                )
            _check_estimates(each, path)
    elif isinstance(value, list):
        for each in value:
            _check_estimates(each, path)
