"""The page "what our intervals cover", docs/coverage.md."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from counts import Cell, Count
from figures import Group, names
from groups import GROUPS
from known import KNOWN, REASONS

from mcdo.stats.detection import LEAST_CLASS

Counts = Mapping[Cell, Count]
SIZES = (100, 500)
HEAD = """# What our intervals cover

A 95 % interval should hold the truth in 95 of 100 data sets. This page counts it: data sets are simulated from
populations whose truth is known (`tests/calibration/populations.py`), every interval that a report prints is taken
(`tests/calibration/of_scores.py` and `of_quantities.py`), and the share of intervals that hold the truth is set down.

Written by `python tests/calibration` from the root of the repository, with {runs} data sets a cell and {resamples}
resamples of the origins. (Reports take 1000: the ends of a percentile interval from 200 resamples lie around .945 of
their distribution, those from 1000 around .949.) Of {runs} data sets a coverage of .95 is measured as .925 to .975.
`pytest tests/calibration` fails on a coverage outside [.92, .98], beyond what chance allows, that is not among the
[known shortfalls](#known-shortfalls). An entry there fails too, once it is no longer true in either direction.
`make test` counts fewer data sets of the smaller size, `make slow` all.

| population | scores of K trials |
|---|---|
| normal | normal images, normal noise; ICC .75 here and below |
| log_normal | log-normal images, noise that grows with the score |
| heavy_images | t with 3 degrees of freedom: a few images carry the variance |
| heavy_noise | noise of a cell (trial, image) is t with 3 degrees of freedom |
| clustered | five variants of each origin, .8 of the variance between origins: N = 100 is 20 origins |
| shared_noise | half of the noise is common to the images of a trial |
| shared_level | the same, and half of that moves the level of all images |

## Before and now

"""
REST = """## Measured elsewhere

* **Predicted reliability** (ρ, SNR and ICC at a larger T): [convergence](experiments/convergence.md), and
  `tests/calibration/test_predicted_reliability.py`.
* **Means over units and images** (trained encoders): `mcdo.stats.crossed`. **Means of 6 to 50 origins**:
  `mcdo.stats.mean_differences`. **Few positives, areas near 1**: `mcdo.stats.detection`.
* **Origins of 1 to 50 images** (27 for 200 images, counting as 11; 67 for 500, as 27): the median ρ covers .88 and .87,
  and misses by saying too little in .11 and .12; SNR and ICC cover .97 (`tests/calibration/test_unequal_origins.py`).
  In 300 data sets of 60 and 300 originals (1 to 200 images each; normal, and t with 3 degrees of freedom; ρ .48, 400
  resamples) ρ of two scores, partial ρ, differences of two ρ and medians cover .93 to .97, and .96 to .99 where one
  original has half of the images; in 200 AUROC .92 to .98 and .93 to 1.00, excess AURC, AUGRC and FPR95 .92 to .97 and
  .99 to 1.00. `mcdo judge` says so where originals count for less than half of them.
  Means of skewed values suffer most: with 60 and 300 such originals (300 data sets) the mean of log-normal values
  covers .88 and .90 (of normal ones .94 and .93), Student's .86 and .87; rather give medians, or leave out images of
  the largest originals. Shares of .02 to .8 cover .91 to .99 (1000 data sets; rare ones covered .75 to .91).
* **A perfect order of few origins**: of five to ten normal ones with a true ρ of .90 and .99 the interval of ρ covers
  .97 to 1.00 (300 data sets). **Scores that most images have alike**: of 200 images of which ten and fifteen have
  another value, intervals of independent scores leave out zero in .06 of 400 data sets; with fewer there is none.
* **Fewer than five origins** make no interval by resampling: that of a mean would cover .79 with four and .52 with two
  (`mcdo.stats.resampling.LEAST_UNITS`). Student's intervals and Wilson's have no such bound.
"""
VERDICTS = "## False GO, and what certainty costs\n"


def page(counts: Counts, biases: Mapping[str, tuple[float, float]], runs: int, resamples: int) -> str:
    """``biases`` are those of :func:`errors.biases` for N = 300."""
    parts = [
        HEAD.format(runs=runs, resamples=resamples), before(counts, biases), "\n## Every interval\n\n",
        "Of K = 3, 5 and 10 where there are three figures, 3 and 5 where two, 5 where one. Bold: a known shortfall.\n"
        "Dash: refused. ° less than .98 of the data sets have an interval at all (too few origins of a class).\n\n",
        *(table(group, counts) for group in GROUPS), errors_table(counts, biases), shortfalls(), "\n", REST,
    ]  # fmt: skip
    return "".join(parts)


def table(group: Group, counts: Counts) -> str:
    """One line for each interval and size, one column for each population."""
    lines = [f"### {group.label.capitalize()}\n", _row(["interval", "N", *group.populations])]
    lines.append("|---" * (2 + len(group.populations)) + "|")
    for name in names(group):
        for N in SIZES:
            cells = [[Cell(name, where, K, N) for K in group.trials] for where in group.populations]
            lines.append(_row([name, str(N), *(" ".join(_share(cell, counts[cell]) for cell in row) for row in cells)]))
    return "\n".join(lines) + "\n\n"


def before(counts: Counts, biases: Mapping[str, tuple[float, float]]) -> str:
    """The audit's figures beside those of this page."""

    def now(interval: str, populations: Sequence[str], trials: Sequence[int]) -> str:
        shares = [counts[Cell(interval, name, K, N)].share for name in populations for K in trials for N in SIZES]
        return f"{_two(min(shares))}–{_two(max(shares))}"

    heavy = ("heavy_images", "heavy_noise")
    plug_in, debiased = biases["calibrated"]
    rows = [
        ["", "before", "now"],
        ["---", "---", "---"],
        ["ρ, five variants of an origin", ".6–.8", now("Spearman", ["clustered"], [5])],
        ["median ρ, noise shared by three trials", ".29–.59", now("median ρ", ["shared_noise"], [3])],
        ["SNR, noise shared by three trials", ".20–.44", now("SNR", ["shared_noise"], [3])],
        ["SNR, heavy tails", ".83–.92", now("SNR", heavy, (3, 5, 10))],
        ["AUROC, 2 positives; 5 positives", ".64; .80", f"no interval below {LEAST_CLASS} origins with positives"],
        ["AUROC, 10 positives of 100", "", _two(counts[Cell("AUROC, 1 in 10 positive", "normal", 5, 100)].share)],
        ["bias left in the ECE of a calibrated model", ".60 of the plug-in's", f"{_two(debiased / plug_in)} of it"],
    ]
    return "\n".join(_row(row) for row in rows) + "\n"


def errors_table(counts: Counts, biases: Mapping[str, tuple[float, float]]) -> str:
    """Of the debiased calibration error, N = 300, 15 bins."""
    lines = [
        "### Calibration error, 300 images\n",
        "Mean error of the plug-in and of the debiased ECE, and coverage of the interval that the study of subtasks\n"
        "prints: the bootstrap's with 100 resamples, moved to the value. It is no test of calibration.\n",
        _row(["model", "bias of the plug-in", "bias, debiased", "coverage"]),
        "|---|---|---|---|",
    ]
    for name, (plug_in, debiased) in biases.items():
        cell = next(cell for cell in counts if cell.population == name)
        lines.append(_row([name, f"{plug_in:.3f}", f"{debiased:.3f}", _share(cell, counts[cell])]))
    return "\n".join(lines) + "\n\n"


def shortfalls() -> str:
    """What ``known.KNOWN`` holds, by reason."""
    lines = ["## Known shortfalls\n"]
    for key, reason in REASONS.items():
        cells = [cell for cell, known in KNOWN.items() if known.reason == key]
        lines += [f"**{key.capitalize()}.** {reason}\n", *_by_interval(cells), ""]
    return "\n".join(lines)


def with_verdicts(before: str, tables: str) -> str:
    """The page with the section that ``false_go`` counts at its end."""
    return f"{before.rstrip()}\n\n{VERDICTS}{tables}"


def _by_interval(cells: list[Cell]) -> Iterator[str]:
    yield from (_row(["interval", "population", "K", "N", "coverage"]), "|---|---|---|---|---|")
    for cell in cells:
        coverage = KNOWN[cell].coverage
        yield _row([*map(str, cell), "refused" if coverage is None else f"{coverage:.3f}".removeprefix("0")])


def _share(cell: Cell, count: Count) -> str:
    if not count.defined:
        return "–"
    mark = "" if count.defined >= 0.98 * count.runs else "°"
    shown = _two(count.share) + mark
    return f"**{shown}**" if cell in KNOWN else shown


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _two(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.2f}".removeprefix("0")
