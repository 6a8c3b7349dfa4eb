"""Figures on the pages of experiments: renewed by a command, or dated by hand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs" / "experiments").glob("*.md"))
NUMBER = r"[+−-]?\d*\.?\d+"
INTERVAL = re.compile(rf"{NUMBER}(?: ?%)? \[{NUMBER}, {NUMBER}\]")
GENERATED = re.compile("<!-- (end )?(claims|figures)\\b")
SOURCE = re.compile(r"Written by hand on \d{4}-\d\d-\d\d from `(pytest|make|mcdo) .+`\.")


def undated(page: str) -> Iterator[str]:
    """Lines with an interval that ``mcdo findings`` doesn't write, in a section that says neither when nor whence."""
    dated = generated = False
    for line in page.splitlines():
        if line.startswith("## "):
            dated = False
        if GENERATED.match(line):
            dated, generated = False, not line.startswith("<!-- end")
        dated = dated or SOURCE.match(line) is not None
        if not generated and not dated and INTERVAL.search(line):
            yield line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_that_no_command_renews_say_when_and_by_which_command_they_were_measured(page: Path) -> None:
    assert list(undated(page.read_text(encoding="utf-8"))) == []


def test_a_figure_without_a_source_is_found() -> None:
    source = "Written by hand on 2026-11-21 from `pytest tests/experiments/phase3 -k exp9`."
    generated = "<!-- figures: phase3/exp9 * -->\n.1 [.0, .2]\n<!-- end figures -->\n"
    assert list(undated(f"{source}\n\n.1 [.0, .2]\n{generated}+5.3 [+4.9, +5.7]\n")) == ["+5.3 [+4.9, +5.7]"]
    assert list(undated(f"{source}\n## Next\n−9 % [−12, −6]\nshape [2, 3]\n")) == ["−9 % [−12, −6]"]
    assert list(undated("Written by hand from `pytest`.\n1 [0, 2]\n")) == ["1 [0, 2]"]
