"""``mcdo judge``: scores in the columns of a table, judged without an encoder."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mcdo.errors import McdoError, nearest
from mcdo.names import say, words


def add_command(rooms: Any) -> None:
    """Add the command to the parser's ``rooms``."""
    parser = rooms.add_parser("judge", help="judge scores that stand in the columns of a CSV file")
    parser.add_argument("table", type=Path, help="a CSV file: one row for each image, one column for each score")
    parser.add_argument("--scores", default="", help="columns to judge, by commas (default: all other numbers)")
    parser.add_argument(
        "--error", default=None, help="column of 0 and 1, or False and True: whether the prediction was wrong"
    )
    parser.add_argument("--entropy", default=None, help="column of the entropy of the prediction")
    parser.add_argument("--norm", default=None, help="column of the feature norm, to be held fixed")
    parser.add_argument(
        "--foreign", default=None, help="column of 0 and 1, or False and True: whether the image is of another kind"
    )
    parser.add_argument("--origin", default=None, help="column that names the sampled unit (default: each row its own)")
    parser.add_argument("--trivial", default="", help="columns that cost nothing, to be beaten, by commas")
    parser.add_argument("--out", type=Path, default=None, help="write the figures as JSON too")
    parser.set_defaults(run=run)


def run(asked: argparse.Namespace) -> int:
    """Judge, and print the table."""
    import numpy as np

    from mcdo.experiments.rivals.rating import Scored, Truth, ahead_of_trivial, rated
    from mcdo.experiments.rivals.score_files import ID_COLUMNS, may_hold_scores
    from mcdo.report.files import check_file, write_json
    from mcdo.report.terminal import lines
    from mcdo.schema import numbers_of, read_columns

    if asked.out is not None:
        check_file(asked.out)
    columns = read_columns(asked.table)
    named = {what: getattr(asked, what) for what in ("error", "entropy", "norm", "foreign", "origin")}
    roles = {what: _column(columns, name, asked.table) for what, name in named.items() if name is not None}
    trivial = words(asked.trivial)
    taken = {*named.values(), *trivial}
    wanted = words(asked.scores) or [
        n for n, cells in columns.items() if may_hold_scores(n) and n not in taken and numbers_of(cells)
    ]
    if not wanted:
        raise McdoError(f"{asked.table}: no column of numbers is left to judge; name some with --scores")
    rows = len(next(iter(columns.values())))
    kinds = np.zeros(rows, dtype=bool)
    if "foreign" in roles:
        kinds = _flags(roles["foreign"], asked.foreign, asked.table)
        if len(set(kinds.tolist())) == 1:
            said = f"{asked.table}: {asked.foreign} is {int(kinds[0])} in every row"
            raise McdoError(f"{said}; 1 marks images of another kind, which are told from the others, marked 0")
    origins = np.array(
        _names(roles["origin"], named["origin"], asked.table) if "origin" in roles else [str(i) for i in range(rows)]
    )
    _check_rows(asked, kinds, origins)
    readers = {"error": _flags, "entropy": _numbers, "norm": _numbers}
    truth = Truth(
        origins[~kinds],
        **{w: of(_only(roles[w], ~kinds), named[w], asked.table) for w, of in readers.items() if w in roles},
        foreign_origins=origins[kinds] if kinds.any() else None,
    )

    def scored(name: str) -> Scored:
        values = _numbers(_column(columns, name, asked.table), name, asked.table)
        return Scored(values[~kinds][None], float("nan"), values[kinds] if kinds.any() else None)

    scores, cheap = ({name: scored(name) for name in group} for group in (wanted, trivial))
    found = {name: rated(each, truth) for name, each in {**scores, **cheap}.items()}
    ahead = ahead_of_trivial(scores, cheap, truth) if cheap else {}
    if not any(found.values()):
        raise McdoError("nothing is known that scores could be judged by: name --error, --entropy or --foreign")
    title = f"{asked.table}: {int((~kinds).sum())} images of {len(set(truth.origins.tolist()))} originals"
    remarks = [
        f"{name} never errs at {measure}: does it hold the answer?"
        for name, row in found.items()
        for measure, estimate in row.items()
        if measure.startswith("auroc") and estimate.value in (0, 1)
    ]
    remarks += [_reversed(name, below) for name in scores if (below := _below_chance(found[name]))]
    remarks += [said for which in (~kinds, kinds) if which.any() for said in _uneven(origins[which])]
    if "origin" not in roles:
        ids = {n: len({cell.strip() for cell in columns[n].values()}) for n in ID_COLUMNS if n in columns}
        remarks += [_repeated(n, rows - different, rows) for n, different in ids.items() if different < rows]
        unnoisy = [n for n in (asked.entropy, asked.norm, *trivial) if n is not None] or wanted
        for which, names in ((~kinds, unnoisy), (kinds, trivial or wanted)):
            remarks += _copies(names, np.stack([_numbers(_only(columns[n], which), n, asked.table) for n in names]))
    for line in lines(_tables(title, found, ahead), remarks, sys.stdout.encoding):
        say(line)
    if asked.out is not None:
        value = {
            "remarks": remarks,
            "measures": {name: {m: e.as_dict() for m, e in row.items()} for name, row in found.items()},
            "ahead": {f"{n} at {t}": {"baseline": e.baseline, **e.difference.as_dict()} for (n, t), e in ahead.items()},
        }
        say(str(write_json(asked.out, value)))
    return 0


def _check_rows(asked: argparse.Namespace, kinds: Any, origins: Any) -> None:
    """Refuse fewer rows than have ranks to compare, and rows of one original."""
    least = 3 if asked.norm is None else 4
    if (there := int((~kinds).sum())) < least:
        raise McdoError(f"{asked.table}: {there} rows to judge scores by; at least {least} are needed")
    for which, of in ((~kinds, "rows"), (kinds, "rows of another kind")):
        names = set(origins[which].tolist())
        if len(names) == 1:
            raise McdoError(f"{asked.table}: all {of} are of one original, {names.pop()!r}; at least two are needed")


def _below_chance(row: Mapping[str, Any]) -> list[str]:
    """Measures by which a score says the reverse, with their values; [] where another says that it does not."""
    chance = {m: 0.5 if m.startswith("auroc") else 0.0 for m in row if m.startswith(("auroc", "rho"))}
    if any(row[m].low > of or row[m].value == 1 for m, of in chance.items()):
        return []
    wrong = [m for m, of in chance.items() if row[m].high < of or (of > 0 and row[m].value == 0)]
    return [f"{m} {row[m].without_n}" for m in wrong]


def _reversed(name: str, below: list[str]) -> str:
    return (
        f"{name} lies below chance ({'; '.join(below)}): scores are read as larger = more uncertain. If a large {name} "
        "means that the model is sure, judge a column of its negative"
    )


def _uneven(origins: Any) -> list[str]:
    """What to say, if anything, where so few originals have most of the rows that all count for less than half."""
    from mcdo.stats.resampling import Units

    units = Units.of(origins, len(origins))
    if units.effective >= units.n / 2:
        return []
    return [
        f"{units.n} originals count as {units.effective:.0f}, for few of them have most of the rows: intervals "
        "are wider for it. Leave out rows of the largest"
    ]


_MANY_COPIES = 0.02  # of the rows: fewer that are equal in a few numbers may be so by rounding


def _copies(names: Iterable[str], values: Any) -> list[str]:
    """What to say, if anything, of rows that repeat the ``values`` [columns, rows] of another."""
    import numpy as np

    rows = values.shape[1]
    repeated = rows - np.unique(values, axis=1).shape[1]
    if repeated <= _MANY_COPIES * rows or len(np.unique(values[0])) <= 2:
        return []
    return [_repeated(" and ".join(names), repeated, rows)]


def _repeated(what: str, repeated: int, rows: int) -> str:
    return (
        f"{repeated} of {rows} rows repeat {what} of another row, as copies of one image do. Each row counts as a draw "
        "here; for copies that makes intervals too narrow: name the original with --origin"
    )


def _tables(title: str, found: Any, ahead: Any) -> list[Any]:
    from mcdo.experiments.rivals.rating import MEASURES
    from mcdo.report.terminal import Table

    measures = [name for name in MEASURES if any(name in row for row in found.values())]
    rows = [(name, *(row[m].without_n if m in row else "" for m in measures)) for name, row in found.items()]
    over = [
        (name, task, each.baseline, each.difference.estimate.without_n, _p(each.difference.p_holm))
        for (name, task), each in ahead.items()
    ]
    heading = ("score", "task", "baseline", "difference [95 %]", "p (Holm)")
    return [
        Table(title, ("score", *measures), tuple(rows)),
        Table("AUROC over that of the best of what costs nothing, read whichever way is better", heading, tuple(over)),
        Table(
            "What was measured, of scores that are larger where the model is less sure",
            ("name", "meaning"),
            tuple((name, MEASURES[name]) for name in measures),
        ),
    ]


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}"


Cells = Mapping[int, str]  # by line


def _only(cells: Cells, rows: Any) -> Cells:
    """Those of some rows: of an image of another kind nobody knows whether its prediction is wrong."""
    return {line: cell for (line, cell), wanted in zip(cells.items(), rows, strict=True) if wanted}


def _column(columns: Mapping[str, Cells], name: str, path: Path) -> Cells:
    if name not in columns:
        raise McdoError(
            f"{path} has no column {name!r}; the nearest: {nearest(name, columns)}. There are: {', '.join(columns)}"
        )
    return columns[name]


def _numbers(cells: Cells, name: str, path: Path) -> Any:
    import numpy as np

    from mcdo.schema import numbers_of, tied_whole_numbers

    found = numbers_of(cells) or [math.nan] * len(cells)
    tied = tied_whole_numbers(cells.values())
    if tied is not None:
        said = f"{path}, {name}: {' and '.join(tied)} are one number in float64; are they ids or hashes?"
        raise McdoError(f"{said} Name the columns to judge with --scores")
    for (line, cell), value in zip(cells.items(), found, strict=True):
        if not math.isfinite(value):
            said = f"{path}, line {line}, {name}: {cell!r} is no finite number"
            raise McdoError(f"{said}; name the columns to judge with --scores")
    return np.array(found)


_FLAGS = {"true": 1.0, "false": 0.0}  # as pandas writes them


def _flags(cells: Cells, name: str, path: Path) -> Any:
    import numpy as np

    from mcdo.schema import numbers_of

    found = []
    for line, cell in cells.items():
        value = _FLAGS.get(cell.strip().lower(), next(iter(numbers_of({line: cell})), math.nan))
        if value not in (0, 1):
            raise McdoError(f"{path}, line {line}, {name}: {cell!r} is neither 0 nor 1, nor True nor False")
        found.append(value == 1)
    return np.array(found)


def _names(cells: Cells, name: str, path: Path) -> list[str]:
    """Without the blanks around them, with which two rows of one original would be two draws."""
    for line, cell in cells.items():
        if not cell.strip():
            raise McdoError(f"{path}, line {line}, {name}: no original is named; give each row the one that it is of")
    return [cell.strip() for cell in cells.values()]
