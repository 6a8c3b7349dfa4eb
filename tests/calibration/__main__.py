"""``python tests/calibration``, from the root of the repository, counts what intervals cover for docs/coverage.md.

``python tests/calibration false-go`` counts wrong verdicts for the last section of that page. Both take minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import errors
import false_go
from counts import Cell, Count, counted, plan
from page import VERDICTS, page, with_verdicts

PAGE = Path("docs/coverage.md")
RUNS, RESAMPLES = 300, 200
FAMILIES, CELLS, NULLS = 250, 200, 300


def coverage() -> None:
    """All counts, and what is not as it should be."""
    counts: dict[Cell, Count] = {}
    for group, name, K, N in plan():
        counts |= counted(group, name, K, N, RUNS, resamples=RESAMPLES)
        print(group.label, name, K, N, flush=True)
    for name in errors.MODELS:
        counts |= errors.counted(name, errors.IMAGES, RUNS)
    biases = {name: errors.biases(name, errors.IMAGES, RUNS) for name in errors.MODELS}
    verdicts = PAGE.read_text(encoding="utf-8").partition(VERDICTS)[2]
    PAGE.write_text(with_verdicts(page(counts, biases, RUNS, RESAMPLES), verdicts), encoding="utf-8")
    for cell, count in counts.items():
        if not count.defined or not count.right():
            print(f"not as it should be: {cell}: {count.share:.3f} of {count.defined}")


def verdicts(workers: int) -> None:
    """False GO, power, and null gates."""
    lines = []
    for line in false_go.tables(FAMILIES, CELLS, NULLS, workers):
        print(line, flush=True)
        lines.append(line)
    before = PAGE.read_text(encoding="utf-8").partition(VERDICTS)[0]
    PAGE.write_text(with_verdicts(before, "\n" + "\n".join(lines) + "\n"), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("coverage", "false-go"), default="coverage")
    parser.add_argument("--workers", type=int, default=1, help="processes of false-go; they change no number")
    asked = parser.parse_args()
    if asked.what == "coverage":
        coverage()
    else:
        verdicts(asked.workers)
