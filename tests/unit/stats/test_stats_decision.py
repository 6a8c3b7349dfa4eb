from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.stats import Reliability, reliability
from mcdo.stats.decision import Usable, usable_cells


@cache
def cell(noise: float, seed: int = 0, N: int = 300) -> Reliability:
    rng = np.random.default_rng(seed)
    return reliability(rng.normal(size=N) + noise * rng.normal(size=(6, N)), shared_noise=False)


def good() -> Reliability:
    return cell(0.2)


def near() -> Reliability:
    return cell(0.44)


def bad() -> Reliability:
    return cell(1.0)


def test_one_cell_is_its_own_one_sided_test() -> None:
    found = usable_cells({"a": near()})["a"]
    assert found.p == found.p_adjusted == near().p_usable
    assert 0.005 < found.p < 0.05
    assert found.decision == "met"
    assert usable_cells({"a": near()}, alpha=found.p / 2)["a"].decision == "undecided"


def test_holm_counts_every_cell_that_was_looked_at() -> None:
    cells = {"near": near()} | {f"bad{i}": bad() for i in range(27)}
    found = usable_cells(cells)
    assert found["near"].p_adjusted == pytest.approx(28 * near().p_usable)
    assert {name: one.decision for name, one in found.items()} == {
        "near": "undecided",
        **{f"bad{i}": "not met" for i in range(27)},
    }
    assert usable_cells({"good": good()} | cells)["good"].decision == "met"


def test_a_chain_costs_nothing_until_a_cell_is_not_met() -> None:
    cells = {("a", 256): good(), ("a", 128): near(), ("a", 64): bad(), ("b", 256): bad(), ("b", 128): good()}
    found = usable_cells(cells, chains=[[("a", 256), ("a", 128), ("a", 64)], [("b", 256), ("b", 128)]])
    assert found["a", 128].p_adjusted == pytest.approx(2 * near().p_usable)  # two chains
    assert found["a", 128].decision == "met"
    assert found["b", 128].p_adjusted == 1  # behind a cell that is not met
    assert found["b", 128].decision == "undecided"
    assert usable_cells(cells)["b", 128].decision == "met"  # Holm knows no order


def test_a_cell_without_interval_is_undecided_and_counts() -> None:
    two = reliability(np.random.default_rng(0).normal(size=(2, 50)))
    found = usable_cells({"near": near(), "two": two})
    assert np.isnan(found["two"].p)
    assert found["two"] == Usable("undecided", found["two"].p, 1.0)
    assert found["near"].p_adjusted == pytest.approx(2 * near().p_usable)


def test_nothing_looked_at_decides_nothing() -> None:
    assert usable_cells({}) == {}


@pytest.mark.parametrize("chains", [[["a"]], [["a", "b"], ["b"]], [["a", "b", "c"]]])
def test_chains_must_hold_every_cell_once(chains: list[list[str]]) -> None:
    with pytest.raises(McdoError, match="every cell once; look at"):
        usable_cells({"a": good(), "b": bad()}, chains=chains)


def test_a_senseless_level_is_refused() -> None:
    with pytest.raises(McdoError, match="alpha"):
        usable_cells({"a": good()}, alpha=0.5)
