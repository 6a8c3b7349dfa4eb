"""How often a family of cells at the bar is called usable: the published point rule, and the decision by interval."""

from __future__ import annotations

from pathlib import Path

import false_go
import numpy as np
import pytest
from false_go import CHAINS, Called, independent_family, nested_family
from page import VERDICTS

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"


def test_a_family_just_below_the_bar_is_seldom_called_usable() -> None:
    rng = np.random.default_rng(0)
    called = [Called.of(nested_family(rng, 0.79, K=5, N=120), CHAINS) for _ in range(20)]
    assert np.mean([one.point for one in called]) > 0.6  # the page has .76 or so
    assert np.mean([one.holm for one in called]) <= 0.05
    assert np.mean([one.chains for one in called]) <= 0.1  # two of twenty; the page has less


def test_the_correction_holds_where_every_cell_lies_at_the_bar() -> None:
    rng = np.random.default_rng(1)
    called = [Called.of(independent_family(rng, 0.8, 5, 120), CHAINS) for _ in range(20)]
    assert np.mean([one.alone for one in called]) > 0.2
    assert np.mean([one.chains for one in called]) <= 0.08  # at most .05 in longer runs


def test_a_clearly_usable_family_is_called_usable() -> None:
    called = Called.of(nested_family(np.random.default_rng(2), 0.88, K=10, N=500), CHAINS)
    assert called.holm
    assert called.chains


def test_the_page_holds_the_null_gates() -> None:
    page = PAGE.read_text(encoding="utf-8").partition(VERDICTS)[2]
    for noise in false_go.NOISE:
        assert page.count(f"| {noise}: usable |") == len(false_go.SIZES)
    assert page.count("| norm plus noise: beyond the norm |") == len(false_go.SIZES)


@pytest.mark.parametrize("noise", false_go.NOISE)
def test_noise_is_not_usable(noise: str) -> None:
    assert false_go.null_usable(noise, 120, 5, 20)[1] == 0


def test_the_norm_plus_noise_is_reliable_and_nothing_beyond_the_norm() -> None:
    passed = false_go.norm_plus_noise(500, 10, 20)
    assert passed["usable"] == passed["ρ"] == passed["AUROC"] == 20
    assert passed["beyond the norm"] == 0
