from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats.crossed import crossed_mean
from mcdo.stats.factorial import FactorialAnalysis, factorial_analysis

FACTORS = {"loss": ("softmax", "sigmoid"), "tower": ("mha", "timm"), "site": ("all", "mlp", "attention")}
SHAPE = (2, 2, 3)
CELLS = arrays(np.float64, SHAPE, elements=st.floats(-10, 10, allow_nan=False).map(lambda v: round(v, 3)))


def analysis(values: NDArray[np.float64], draws: NDArray[np.float64], n: int = 10) -> FactorialAnalysis:
    """Encoders are made with a loss and a tower, and perturbed at sites."""
    return factorial_analysis(FACTORS, values, draws, n, units=("loss", "tower"))


def spread(values: NDArray[np.float64], sd: float = 0.01, seed: int = 0) -> NDArray[np.float64]:
    return values + np.random.default_rng(seed).normal(scale=sd, size=(400, *values.shape))


def test_a_table_by_hand() -> None:
    values = np.zeros(SHAPE)
    values[1] += 2  # sigmoid: 2 more, everywhere
    values[:, :, 1] += 3  # mlp: 3 more
    found = analysis(values, spread(values), 500)
    assert found.between["loss", "softmax", "sigmoid"].value == pytest.approx(2)
    assert found.between["tower", "mha", "timm"].value == pytest.approx(0)
    assert found.within["site", "all", "mlp"].estimate.value == pytest.approx(3)
    assert found.within["site", "all", "attention"].estimate.value == pytest.approx(0)
    assert found.within["site", "mlp", "attention"].estimate.value == pytest.approx(-3)
    # SS(loss) = 12 · 1² = 12; SS(site) = 4 · (1 + 4 + 1) = 24
    assert {name: e.value for name, e in found.shares.items()} == pytest.approx(
        {"loss": 1 / 3, "tower": 0, "site": 2 / 3, "loss x tower": 0, "loss x site": 0, "tower x site": 0, "rest": 0},
        abs=1e-12,
    )
    assert found.share_differences["loss", "site"].value == pytest.approx(12 / 36)
    assert found.share_differences["loss", "site"].outcome(0, ">") == "met"


def test_an_interaction_is_no_main_effect() -> None:
    values = np.zeros(SHAPE)
    values[0, 0], values[1, 1], values[0, 1], values[1, 0] = 1, 1, -1, -1
    found = analysis(values, spread(values), 500)
    assert found.shares["loss x tower"].value == pytest.approx(1)
    assert all(e.value == pytest.approx(0) for e in found.between.values())
    assert all(d.estimate.value == pytest.approx(0) for d in found.within.values())


@settings(deadline=None, max_examples=40)
@given(CELLS)
def test_shares_are_those_of_a_regression_on_dummies(values: NDArray[np.float64]) -> None:
    if np.ptp(values) < 1e-3:
        return
    found = analysis(values, values[None].repeat(2, axis=0))
    y = values.ravel() - values.mean()
    index = np.array(list(itertools.product(*(range(s) for s in SHAPE))))

    def explained(*axes: int) -> float:
        codes = np.ravel_multi_index(index[:, axes].T, [SHAPE[a] for a in axes])
        dummies = np.eye(codes.max() + 1)[codes]
        fitted = dummies @ np.linalg.lstsq(dummies, y, rcond=None)[0]
        return float(fitted @ fitted) / float(y @ y)

    for axis, name in enumerate(FACTORS):
        assert found.shares[name].value == pytest.approx(explained(axis), abs=1e-9)
    for (i, a), (j, b) in itertools.combinations(enumerate(FACTORS), 2):
        both = explained(i, j) - explained(i) - explained(j)
        assert found.shares[f"{a} x {b}"].value == pytest.approx(both, abs=1e-9)
    assert sum(e.value for e in found.shares.values()) == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(CELLS, st.floats(-5, 5), st.floats(0.5, 4))
def test_shift_and_scale_change_no_share(values: NDArray[np.float64], shift: float, scale: float) -> None:
    if np.ptp(values) < 1e-3:
        return
    other = shift + scale * values
    one, two = (analysis(v, v[None].repeat(2, axis=0)).shares for v in (values, other))
    for name in one:
        assert one[name].value == pytest.approx(two[name].value, abs=1e-6)


def test_intervals_are_of_paired_contrasts() -> None:
    """What all cells share in a resample cancels in every contrast."""
    values = np.zeros(SHAPE)
    values[:, :, 1] += 3
    values[1] += 2
    common = np.random.default_rng(0).normal(scale=5, size=(300, 1, 1, 1))
    found = analysis(values, values + common, 500)
    for estimate in (*found.between.values(), *(difference.estimate for difference in found.within.values())):
        assert estimate.high - estimate.low < 1e-9


def test_a_contrast_within_units_is_judged_by_its_spread_over_them() -> None:
    """Attention less all of .08, .01, .04 and .01: Student's t with three degrees of freedom."""
    values = np.zeros(SHAPE)
    values[..., 2] = [[0.08, 0.01], [0.04, 0.01]]
    found = analysis(values, np.tile(values, (5, 1, 1, 1)))
    attention = found.within["site", "all", "attention"]
    assert attention.p_value == pytest.approx(scipy.stats.ttest_1samp([0.08, 0.01, 0.04, 0.01], 0).pvalue)
    assert attention.estimate.outcome(0, ">") == "undecided"
    draws = spread(values, 0.05)
    found = analysis(values, draws, 500)
    by_unit = (values[..., 2] - values[..., 1]).ravel(), (draws[..., 2] - draws[..., 1]).reshape(-1, 4)
    assert found.within["site", "mlp", "attention"].p_value == crossed_mean(*by_unit, 500).p_value


def test_a_contrast_between_units_has_no_test() -> None:
    """One encoder for each loss and tower: nothing says how much another training would differ."""
    values = np.zeros(SHAPE)
    values[1] += 2
    written = analysis(values, spread(values), 500).as_dict()["effects"]
    assert set(written["loss: sigmoid - softmax"]) == {"value", "low", "high", "n", "level"}
    assert set(written["tower: timm - mha"]) == {"value", "low", "high", "n", "level"}
    assert {"p_value", "p_holm"} < set(written["site: mlp - all"])


def test_contrasts_within_units_are_corrected_together_and_have_their_n() -> None:
    values = np.zeros(SHAPE)
    values[..., 1] = [[0.02, 0.03], [0.01, 0.025]]
    found = analysis(values, spread(values, 0.005), 500)
    ordered = sorted(found.within.values(), key=lambda difference: difference.p_value)
    assert ordered[0].p_holm == pytest.approx(min(1, 3 * ordered[0].p_value), rel=1e-9, abs=0)
    assert {difference.estimate.n for difference in ordered} == {500}
    assert set(found.as_dict()["shares"]) == {*FACTORS, "loss x tower", "loss x site", "tower x site", "rest"}


def test_an_undefined_cell_leaves_its_contrasts_undefined_and_is_no_test() -> None:
    values = np.zeros(SHAPE)
    values[0, 0, 0] = np.nan
    found = analysis(values, np.zeros((5, *SHAPE)))
    assert np.isnan(found.between["loss", "softmax", "sigmoid"].value)
    assert np.isnan(found.within["site", "all", "mlp"].p_holm)
    assert found.within["site", "mlp", "attention"].estimate.value == 0
    assert found.shares["site"].outcome(0.5, ">") == "undecided"


@pytest.mark.parametrize(
    ("values", "draws"),
    [(np.zeros((2, 2)), np.zeros((5, 2, 2))), (np.zeros(SHAPE), np.zeros((5, 2, 2))), (np.zeros(SHAPE), np.zeros(5))],
)
def test_a_table_with_missing_cells_is_refused(values: NDArray[np.float64], draws: NDArray[np.float64]) -> None:
    with pytest.raises(McdoError, match="one value per cell"):
        analysis(values, draws)


def test_of_two_factors_the_interaction_is_the_rest() -> None:
    found = factorial_analysis({"a": "xy", "b": "xy"}, np.eye(2), np.eye(2)[None].repeat(3, axis=0), 10, units=("a",))
    assert {name: e.value for name, e in found.shares.items()} == pytest.approx({"a": 0, "b": 0, "rest": 1})


def test_a_factor_needs_two_levels() -> None:
    with pytest.raises(McdoError, match="two levels"):
        factorial_analysis({"a": ("x",)}, np.zeros(1), np.zeros((5, 1)), 10, units=("a",))


@pytest.mark.parametrize("units", [(), ("encoder",)])
def test_units_are_named_by_factors(units: tuple[str, ...]) -> None:
    with pytest.raises(McdoError, match="name one or more of the factors loss, tower, site"):
        factorial_analysis(FACTORS, np.zeros(SHAPE), np.zeros((5, *SHAPE)), 10, units=units)
