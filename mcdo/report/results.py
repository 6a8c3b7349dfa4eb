"""What a folder of reports holds: the summaries that experiments wrote, read back without knowing any experiment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.names import file_name
from mcdo.report.files import read_json
from mcdo.report.judgement import Judgement

_MARKS = {"claims", "config", "provenance", "experiment", "files"}
"""Keys that the harness puts into every summary."""
VERDICT = Path("phase1") / "verdict.json"


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
        path = (self.place(folder) / name).with_suffix(".svg") if name else None
        return path if path is not None and path.is_file() else None

    def sheets(self, folder: Path) -> list[Mapping[str, Any]]:
        """Its contact sheets, where it drew any: titles, and tiles of id, class, caption and a PNG in base64."""
        path = self.place(folder) / f"{file_name(self.subject)}_sheets.json"
        return list(read_json(path, "delete it")["sheets"]) if path.is_file() else []


@dataclass(frozen=True)
class Reports:
    """Everything in a folder of reports; ``verdict`` is None without a Phase 1."""

    folder: Path
    experiments: tuple[Reported, ...]
    verdict: Mapping[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> Reports:
        """Read a folder.

        Raises:
            McdoError: if there are no reports in it, or one cannot be read.

        """
        remedy = "delete it, or run the experiment again"
        found: dict[tuple[str, ...], Reported] = {}
        for path in sorted(folder.rglob("*.json")):
            if path.name.startswith(".") or not _is_object(path):
                continue
            for summary in _summaries(read_json(path, remedy)):
                try:
                    each = _reported(summary, path)
                except (KeyError, TypeError, AttributeError) as error:
                    raise McdoError(f"{path} is no summary of this version ({error!r}); {remedy}") from error
                found.setdefault(each.identity, each)
        verdict = read_json(folder / VERDICT, remedy) if (folder / VERDICT).exists() else None
        if not found and verdict is None:
            raise McdoError(f"{folder} holds no reports; run pytest -m phase1, or name another folder with --reports")
        return cls(folder, tuple(found.values()), verdict)


def _is_object(path: Path) -> bool:
    """Whether a JSON file could hold a summary; an experiment may write lists as well."""
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


def _reported(summary: Mapping[str, Any], path: Path) -> Reported:
    claims = tuple(Judgement.of(each) for each in summary["claims"])
    experiment = {name: str(summary["experiment"][name]) for name in ("key", "name", "phase", "question", "reading")}
    return Reported(experiment, str(summary["model"]), claims, summary, path)
