"""``python tests/calibration`` from the root of the repository writes docs/coverage.md: several minutes of one core."""

from __future__ import annotations

from pathlib import Path

import errors
from counts import Cell, Count, counted, plan
from page import page

RUNS, RESAMPLES = 300, 200


def main() -> None:
    counts: dict[Cell, Count] = {}
    for group, name, K, N in plan():
        counts |= counted(group, name, K, N, RUNS, resamples=RESAMPLES)
        print(group.label, name, K, N, flush=True)
    for name in errors.MODELS:
        counts |= errors.counted(name, errors.IMAGES, RUNS)
    biases = {name: errors.biases(name, errors.IMAGES, RUNS) for name in errors.MODELS}
    Path("docs/coverage.md").write_text(page(counts, biases, RUNS, RESAMPLES), encoding="utf-8")
    for cell, count in counts.items():
        if not count.defined or not count.right():
            print(f"not as it should be: {cell}: {count.share:.3f} of {count.defined}")


if __name__ == "__main__":
    main()
