"""Tables and lines for a terminal: every name made harmless, letters that it cannot show replaced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mcdo.names import columns, encodable, printable
from mcdo.stats import Estimate

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading and a title."""

    title: str
    heading: Row
    rows: tuple[Row, ...]


def lines(tables: Sequence[Table], closing: Sequence[str], encoding: str | None = "utf-8") -> list[str]:
    """Lines for a terminal of ``encoding``: the tables that have rows, then ``closing``."""
    text = [
        line
        for table in tables
        if table.rows
        for line in ("", table.title, *columns([table.heading, *table.rows], encoding))
    ]
    return [encodable(printable(line), encoding) for line in (*text, "", *closing)]


def number(value: float, digits: int = 2) -> str:
    """``value``, or a dash where it is undefined."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def interval(estimate: Estimate, digits: int = 2) -> str:
    """``0.42 [0.40, 0.44]``."""
    return f"{number(estimate.value, digits)} [{number(estimate.low)}, {number(estimate.high)}]"
