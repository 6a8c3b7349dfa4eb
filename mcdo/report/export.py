"""Results to take away: the claims as a table, and the scores by image as tidy rows, in formats that others read."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError
from mcdo.names import csv_cell, markdown_table, printable
from mcdo.report.files import write_text, written
from mcdo.report.per_image import per_image
from mcdo.report.results import Reports
from mcdo.schema import plain

Row = Mapping[str, Any]
CLAIM_COLUMNS = (
    "phase", "experiment", "model", "claim", "outcome", "value", "low", "high", "level", "n", "bar", "p_holm", "beside",
)  # fmt: skip
SCORE_COLUMNS = ("experiment", "model", "file", "score", "id", "origin", "trial", "value")


def claims(reports: Reports) -> list[Row]:
    """One row for each claim; numbers are numbers, and what is undefined is None."""
    rows: list[Row] = []
    for each in reports.experiments:
        named = {"phase": each.experiment["phase"], "experiment": each.experiment["name"], "model": each.subject}
        for judgement in each.claims:
            said = judgement.as_dict()
            estimate = said.pop("estimate") or dict.fromkeys(("value", "low", "high", "n", "level"))
            rows.append({name: {**named, **said, **estimate}[name] for name in CLAIM_COLUMNS})
    return rows


def scores(reports: Reports) -> Iterator[Row]:
    """One row for each image, score and trial."""
    for held in per_image(reports):
        experiment, model, file, score = held.key
        for trial, values in enumerate(held.values):
            for image, origin, value in zip(held.ids, held.origins, values, strict=True):
                row = (experiment, model, file, score, str(image), str(origin), trial, plain(float(value)))
                yield dict(zip(SCORE_COLUMNS, row, strict=True))


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    for row in (columns, *([row[name] for name in columns] for row in rows)):
        writer.writerow([csv_cell(each) if isinstance(each, str) else each for each in row])
    return held.getvalue()


def _json(rows: Sequence[Row], columns: Sequence[str]) -> str:
    return json.dumps(list(rows), indent=1, allow_nan=False) + "\n"


def _markdown(rows: Sequence[Row], columns: Sequence[str]) -> str:
    return "\n".join(markdown_table(*_table(rows, columns))) + "\n"


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "α": r"$\alpha$", "λ": r"$\lambda$", "π": r"$\pi$", "ρ": r"$\rho$", "σ": r"$\sigma$", "τ": r"$\tau$",
    "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$", "≠": r"$\neq$",
    "→": r"$\rightarrow$", "√": r"$\surd$", "²": r"$^2$", "‖": r"$\|$", "−": "$-$", "…": r"\ldots{}",
    "–": r"\textendash{}", "—": r"\textemdash{}",
})  # fmt: skip
_ACCENTS = frozenset("\N{COMBINING GRAVE ACCENT}\N{COMBINING ACUTE ACCENT}\N{COMBINING CIRCUMFLEX ACCENT}"
                     "\N{COMBINING TILDE}\N{COMBINING DIAERESIS}\N{COMBINING CARON}")  # fmt: skip
"""Of letters that LaTeX sets in every font encoding."""


def _latex(rows: Sequence[Row], columns: Sequence[str]) -> str:
    heading, cells = _table(rows, columns)
    lines = [" & ".join(map(_in_latex, row)) + r" \\" for row in (heading, *cells)]
    lines = [f"{{}}{line}" if line.startswith(("[", "*")) else line for line in lines]  # or it is an argument
    return "\n".join([
        "% needs \\usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * len(heading)}}}",
        r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
        r"\end{tabular}", "",
    ])  # fmt: skip


def _in_latex(cell: str) -> str:
    """As any engine with any font encoding sets it: what not all have is a code point, and no hyphens grow together."""
    letters = (letter if _is_set(letter) else f"[U+{ord(letter):04X}]" for letter in printable(cell))
    return re.sub(r"-(?=-)", "-{}", "".join(letters).translate(_LATEX))


def _is_set(letter: str) -> bool:
    parts = unicodedata.normalize("NFD", letter)
    accented = len(parts) == 2 and parts[0].isascii() and parts[1] in _ACCENTS and ord(letter) < 0x180
    return letter.isascii() or ord(letter) in _LATEX or accented


def _table(rows: Sequence[Row], columns: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """For people: estimate and interval are one column, and the words beside are left out."""
    from mcdo.stats import Estimate

    def cell(row: Row, name: str) -> str:
        if name == "value" and "low" in row:
            return "" if row["level"] is None else Estimate.of(row).without_n
        return "" if row[name] is None else f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name])

    shown = [name for name in columns if name not in ("low", "high", "level", "beside")]
    heading = ["estimate [95 %]" if name == "value" and "low" in columns else name for name in shown]
    return heading, [[cell(row, name) for name in shown] for row in rows]


TEXTS: Mapping[str, Callable[[Sequence[Row], Sequence[str]], str]] = {
    "csv": _csv, "json": _json, "markdown": _markdown, "latex": _latex,
}  # fmt: skip
FORMATS = (*TEXTS, "parquet")
NO_FRAMES = 'this needs pandas and pyarrow: pip install "mcdo[frames]"'


def export(rows: Sequence[Row], columns: Sequence[str], form: str, out: Path | None) -> str:
    """Write ``rows`` to ``out``; returns its name, or the text itself where ``out`` is None.

    Raises:
        McdoError: if there are no rows, Parquet has no library or no file, or the file cannot be written.

    """
    if not rows:
        raise McdoError("the reports hold no such rows")
    if form == "parquet":
        if out is None:
            raise McdoError("parquet is no text: name a file with --out")
        return str(written(out, lambda part: _parquet(rows, columns, part)))
    text = TEXTS[form](rows, columns)
    return text.rstrip("\n") if out is None else str(write_text(out, text))


def _parquet(rows: Sequence[Row], columns: Sequence[str], path: Path) -> None:
    table = frame(rows, columns)
    try:
        table.to_parquet(path, index=False)
    except ImportError as error:  # pandas without a library for it
        raise McdoError(NO_FRAMES) from error


def frame(rows: Sequence[Row], columns: Sequence[str]) -> Any:
    """``rows`` as a pandas DataFrame.

    Raises:
        McdoError: without pandas.

    """
    try:
        import pandas as pd
    except ImportError as error:
        raise McdoError(NO_FRAMES) from error
    return pd.DataFrame(list(rows), columns=list(columns))
