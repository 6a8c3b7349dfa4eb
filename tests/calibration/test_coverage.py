"""Every 95 % interval that a report prints covers .92 to .98, or what ``known.KNOWN`` says, which is strict.

In full by ``pytest tests/calibration -m slow``; ``python tests/calibration`` writes the counts to docs/coverage.md.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import errors
import numpy as np
import pytest
from counts import AIM, Cell, Count, counted, plan
from figures import LARGE, Group, truth
from groups import GROUPS
from known import KNOWN, REASONS
from page import shortfalls
from populations import POPULATIONS, normal_spearman

import mcdo.stats
from mcdo.stats import reliability

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"
RUNS = 300
CHANCE = 0.999
"""Level at which few data sets are held against a statement: the reduced suite has dozens of cells."""
FEW = 15_000
"""Images that give their truth to a fiftieth of what an interval of 100 images is wide."""

OF_OTHERS = {
    "above_chance": "a mean",
    "ambiguity_table": "the figures of each score as they are alone",
    "auroc_low": "an AUROC",
    "linearity": "a ratio of means",
    "median_ratio": "the ratio of an agreement",
    "null_pass_rate": "a proportion, exact",
    "percentile_estimate": "the ends of draws that others make",
    "quotients": "the draws of a ratio of means",
    "resampled": "the same, with the spread of the draws",
    "spearman_confidence": "the median ρ of a reliability",
    "snr_confidence": "the SNR of a reliability",
    "t_inferred": "Student's mean",
    "wholly_apart": "an AUROC of 0 or 1",
    "chance_decided": "no interval: the power of one",
    "check_resampling": "no interval",
    "multiplicities": "no interval",
}
"""Functions of ``mcdo.stats`` that take a level or resamples and are simulated as part of another."""


def check(counts: Mapping[Cell, Count], level: float) -> None:
    wrong = {cell: problem for cell, count in counts.items() if (problem := _problem(cell, count, level))}
    assert not wrong, "\n".join(f"{cell}: {problem}" for cell, problem in wrong.items())


def strict(counts: Mapping[Cell, Count]) -> None:
    """An entry is no longer needed where the coverage is right."""
    check(counts, 0.95)
    stale = [cell for cell, count in counts.items() if cell in KNOWN and count.defined and count.right()]
    assert not stale, f"covered as it should be: remove the entries {stale}"


def _problem(cell: Cell, count: Count, level: float) -> str:
    known = KNOWN.get(cell)
    if known is None:
        if not count.defined:
            return "no interval, and no entry that says why"
        return "" if count.right(level) else f"{count.hits} of {count.defined} hold the truth, and no entry says why"
    if known.coverage is None:
        return f"has intervals now ({count.defined}): remove the entry" if count.defined else ""
    low, high = count.range(level)
    if not low <= known.coverage <= high:
        return f"{count.hits} of {count.defined} hold the truth; the entry says {known.coverage}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize(("group", "name", "K", "N"), plan(), ids=lambda value: str(getattr(value, "label", value)))
def test_every_interval_covers_what_is_stated(group: Group, name: str, K: int, N: int) -> None:
    strict(counted(group, name, K, N, RUNS))


_FEW = [
    (group, name, K, N)
    for group, name, K, N in plan((100,))
    if name in ("normal", "heavy_noise", "clustered", "shared_noise") and K <= 5
]
_LEAST = {(group.label, name): K for group, name, K, _ in reversed(_FEW)}
SMALL = [each for each in _FEW if each[1] == "shared_noise" or each[2] == _LEAST[each[0].label, each[1]]]
"""Of each group the fewest trials: what more of them would show is seen in full only."""


@pytest.mark.parametrize(("group", "name", "K", "N"), SMALL, ids=lambda value: str(getattr(value, "label", value)))
def test_few_data_sets_are_covered_as_stated(group: Group, name: str, K: int, N: int) -> None:
    check(counted(group, name, K, N, 60, resamples=100, large=FEW), CHANCE)


@pytest.mark.parametrize(
    "group", [group for group in GROUPS if "clustered" in group.populations], ids=lambda g: g.label
)
def test_variants_taken_for_independent_images_lose_coverage(group: Group) -> None:
    """What was printed before intervals took ``origins``."""
    counts = counted(group, "clustered", 5, 100, 60, resamples=100, as_images=True, large=FEW)
    least = min(counts.values(), key=lambda count: count.share)
    assert least.range(CHANCE)[1] < AIM[0]


def test_three_trials_that_share_noise_do_not_print_an_interval_over_images_alone() -> None:
    population, runs = POPULATIONS["shared_noise"], 100
    goal, hits = population.snr(3), np.zeros(2)
    for sample in population.samples(runs, 3, 500, seed=3):
        for j, known in enumerate((None, False)):
            low, high = reliability(sample.scores, shared_noise=known, resamples=200).snr_ci
            hits[j] += low <= goal <= high
    judged, images_only = hits / runs
    assert images_only < 0.4  # .2 in longer runs
    assert judged > 0.75  # .87


def test_large_samples_agree_with_closed_forms() -> None:
    """Normal scores of 5 trials: r of their mean is r/√(1 + (1 − icc)/(5 icc)); ρ = (6/π) asin(r/2)."""
    population = POPULATIONS["normal"]
    found = truth(GROUPS[0], population, 5, 2 * LARGE)
    shrunk = (1 + (1 - population.icc) / (5 * population.icc)) ** -0.5
    assert found["Spearman"] == pytest.approx(normal_spearman(0.5 * shrunk), abs=0.006)
    gap = normal_spearman(0.5 * shrunk) - population.latent_spearman("rival", "target")
    assert found["difference of Spearman"] == pytest.approx(gap, abs=0.006)


def test_little_bias_is_left_in_the_calibration_error() -> None:
    plug_in, debiased = errors.biases("calibrated", errors.IMAGES, 200)
    assert 0 < debiased < 0.35 * plug_in  # .13 to .26 is stated; subtracting a resampled bias left .59
    assert abs(errors.biases("overconfident by .10", errors.IMAGES, 200)[1]) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", errors.MODELS)
def test_intervals_of_calibration_errors_cover_what_is_stated(name: str) -> None:
    strict(errors.counted(name, errors.IMAGES, RUNS))


def _with_intervals() -> Iterator[str]:
    for module in pkgutil.iter_modules(mcdo.stats.__path__):
        for name, of in vars(import_module(f"mcdo.stats.{module.name}")).items():
            if inspect.isfunction(of) and of.__module__ == f"mcdo.stats.{module.name}" and not name.startswith("_"):
                signature = inspect.signature(of)
                if {"level", "resamples"} & set(signature.parameters) or "Estimate" in str(signature.return_annotation):
                    yield name


def test_no_interval_is_left_out() -> None:
    taken = {
        name.id
        for file in Path(__file__).parent.glob("*.py")
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for name in [call.func]
        if isinstance(name, ast.Name)
    }
    functions = set(_with_intervals())
    assert functions - taken - set(OF_OTHERS) == set(), "simulate them here, or say in OF_OTHERS of what they are made"
    assert set(OF_OTHERS) <= functions - taken


def test_the_page_prints_every_known_shortfall() -> None:
    assert shortfalls() in PAGE.read_text(encoding="utf-8")
    assert {known.reason for known in KNOWN.values()} <= set(REASONS)
