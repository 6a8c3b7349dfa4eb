from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.stats import (
    debiased_ece,
    debiased_squared_calibration_error,
    expected_calibration_error,
    reliability_diagram,
)

Array = NDArray[np.float64]
law = settings(derandomize=True, deadline=None, max_examples=25)
confidences = hnp.arrays(np.float64, st.integers(2, 60), elements=st.integers(0, 60).map(lambda i: i / 60))
ERRORS = (debiased_ece, debiased_squared_calibration_error)
DRAWN: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "uniform": lambda rng, n: rng.random(n),
    "middling": lambda rng, n: rng.beta(5, 2, n),
    "sure": lambda rng, n: rng.beta(8, 0.6, n),
}
"""Confidences, the last with most of them above .9."""


def tempered(confidence: Array, temperature: float) -> Array:
    """The probability behind a stated confidence whose logit is too large by a factor."""
    return np.asarray(1 / (1 + ((1 - confidence) / confidence) ** (1 / temperature)))


TRUTHS: dict[str, Callable[[Array], Array]] = {
    "calibrated": lambda confidence: confidence,
    "temperature": lambda confidence: tempered(np.clip(confidence, 1e-9, 1 - 1e-9), 1.3),
    "overconfident": lambda confidence: np.clip(confidence - 0.05, 0, 1),
}


@cache
def true_ece(drawn: str, truth: str) -> float:
    """The gaps of the bins without the noise of outcomes."""
    confidence = DRAWN[drawn](np.random.default_rng(9), 400_000)
    place = np.searchsorted(np.arange(1, 16) / 15, confidence)
    return float(np.abs(np.bincount(place, TRUTHS[truth](confidence) - confidence, 15)).sum() / len(confidence))


def simulated(drawn: str, truth: str, n: int) -> tuple[Array, Array]:
    """Debiased and plug-in ECE of 100 data sets."""
    found = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        confidence = DRAWN[drawn](rng, n)
        correct = rng.random(n) < TRUTHS[truth](confidence)
        found.append((debiased_ece(confidence, correct), expected_calibration_error(confidence, correct)))
    debiased, plain = np.array(found).T
    return debiased, plain


@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("drawn", sorted(DRAWN))
def test_a_quarter_of_the_plug_ins_bias_is_left_where_the_model_is_calibrated(drawn: str, n: int) -> None:
    debiased, plain = simulated(drawn, "calibrated", n)
    error = debiased.std(ddof=1) / np.sqrt(len(debiased))
    assert debiased.mean() < 0.28 * plain.mean() + 2 * error
    assert np.sqrt(np.mean(debiased**2)) < 0.4 * np.sqrt(np.mean(plain**2))


@pytest.mark.parametrize(("n", "share"), [(100, 0.23), (300, 0.20), (1000, 0.10)])
@pytest.mark.parametrize("truth", ["temperature", "overconfident"])
@pytest.mark.parametrize("drawn", sorted(DRAWN))
def test_the_bias_left_of_a_miscalibrated_model_is_within_what_is_stated(
    drawn: str, truth: str, n: int, share: float
) -> None:
    debiased, plain = simulated(drawn, truth, n)
    target, error = true_ece(drawn, truth), debiased.std(ddof=1) / np.sqrt(len(debiased))
    assert abs(debiased.mean() - target) < share * target + 2 * error
    assert abs(debiased.mean() - target) < plain.mean() - target


def test_the_squared_error_of_a_calibrated_model_is_zero_on_average() -> None:
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        confidence = rng.choice([0.3, 0.5, 0.9], 150)  # one value per bin, so the bins are exactly calibrated
        found.append(debiased_squared_calibration_error(confidence, rng.random(150) < confidence))
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(400)


def variants(seed: int, originals: int = 200, each: int = 5) -> tuple[Array, NDArray[np.bool_], NDArray[np.int64]]:
    """A calibrated model whose errors on the variants of one original go together."""
    rng = np.random.default_rng(seed)
    confidence = np.clip(np.repeat(rng.random(originals), each) + rng.normal(0, 0.02, originals * each), 0, 1)
    return confidence, np.repeat(rng.random(originals), each) < confidence, np.repeat(np.arange(originals), each)


def test_variants_of_one_original_are_no_independent_outcomes() -> None:
    plain, naive, debiased, squared, naive_squared = np.array(
        [
            (
                expected_calibration_error(confidence, correct),
                debiased_ece(confidence, correct),
                debiased_ece(confidence, correct, origins=origins),
                debiased_squared_calibration_error(confidence, correct, origins=origins),
                debiased_squared_calibration_error(confidence, correct),
            )
            for confidence, correct, origins in map(variants, range(75))
        ]
    ).T
    assert naive.mean() > 0.6 * plain.mean()
    assert debiased.mean() < 0.28 * plain.mean()
    assert abs(squared.mean()) < 4 * squared.std() / np.sqrt(75)
    assert naive_squared.mean() > 7 * naive_squared.std() / np.sqrt(75)


def test_origins_of_one_image_each_change_nothing_and_too_few_names_are_refused() -> None:
    confidence, correct, origins = variants(0)
    for error in ERRORS:
        assert error(confidence, correct, origins=np.arange(1000)) == error(confidence, correct)
        names = [f"digit {i}" for i in origins]
        assert error(confidence, correct, origins=names) == pytest.approx(error(confidence, correct, origins=origins))
        with pytest.raises(McdoError):
            error(confidence, correct, origins=origins[1:])


# ---- against other ways to compute the same


def by_matrices(confidence: Array, correct: NDArray[np.bool_]) -> float:
    """The empirical Bayes figure by a search for the likelihood's maximum and the conditional of a joint normal."""
    diagram = reliability_diagram(confidence, correct, 15)
    full = np.flatnonzero(diagram.count)
    n, gap = diagram.count[full], (diagram.accuracy - diagram.confidence)[full]
    inside = [(confidence > diagram.lower[b]) & (confidence <= diagram.upper[b]) for b in full]
    noise = np.array([(confidence[take] * (1 - confidence[take])).sum() for take in inside]) / n**2

    def prior(variances: Array) -> Array:
        return np.asarray(variances[0] * np.eye(len(gap)) + variances[1])

    def deviance(roots: Array) -> float:
        return -float(scipy.stats.multivariate_normal.logpdf(gap, cov=prior(roots**2) + np.diag(noise)))

    starts = [np.array([a, b]) * np.abs(gap).max() for a in (0.0, 0.3, 1) for b in (0.0, 0.3, 1)]
    best = min(
        (scipy.optimize.minimize(deviance, x, method="Nelder-Mead") for x in starts), key=lambda found: found.fun
    )
    P = prior(best.x**2)
    gain = P @ np.linalg.inv(P + np.diag(noise))
    mean, sd = gain @ gap, np.sqrt(np.diag(P - gain @ P).clip(1e-30))
    return float(scipy.stats.foldnorm.mean(np.abs(mean) / sd, scale=sd) @ n / n.sum())


@pytest.mark.parametrize("truth", sorted(TRUTHS))
@pytest.mark.parametrize("n", [200, 2000])
def test_the_figure_is_that_of_the_likelihood_s_maximum(truth: str, n: int) -> None:
    for seed in (1,):
        rng = np.random.default_rng(seed)
        confidence = rng.uniform(0.01, 0.99, n)
        correct = rng.random(n) < TRUTHS[truth](confidence)
        plain = expected_calibration_error(confidence, correct)
        expected = min(by_matrices(confidence, correct), plain)
        assert debiased_ece(confidence, correct) == pytest.approx(expected, abs=0.03 * plain)


def test_one_bin_by_hand() -> None:
    confidence = np.full(10, 0.8)
    seven, four = np.array([1] * 7 + [0] * 3), np.array([1] * 4 + [0] * 6)
    assert debiased_squared_calibration_error(confidence, seven) == pytest.approx(0.1**2 - 0.7 * 0.3 / 9)
    # noise .8 · .2 / 10 = .016: a gap of .1 is within it, so the true gap's variance, .01 - .016, is set to zero
    assert debiased_ece(confidence, seven) == 0
    # a gap of .4: variance .16 - .016 = .144, share .9, mean .36, sd √(.9 · .016) = .12, and the folded mean at z = 3
    # is 2 · .12 · φ(3) + .36 (2 Φ(3) - 1) = .36009
    assert debiased_ece(confidence, four) == pytest.approx(0.36009, abs=0.002)


def test_a_confidence_at_an_edge_has_its_noise_in_the_bin_below() -> None:
    right = [1] * 7 + [0] * 18 + [1] * 5 + [0] * 15
    at, within = ([low] * 25 + [0.25] * 20 for low in (0.2, 0.1999))  # the third of fifteen bins ends at .2
    assert debiased_ece(at, right) == pytest.approx(debiased_ece(within, right), abs=1e-3)


def test_a_gap_that_all_images_share_does_not_make_those_of_an_origin_go_together() -> None:
    """Of three pairs one is right, of the fourth none: about the accuracy 3/8 they vary less than single images."""
    correct, origins = np.array([1, 0, 1, 0, 1, 0, 0, 0]), np.repeat(np.arange(4), 2)
    for error in ERRORS:
        assert error(np.full(8, 0.8), correct, origins=origins) == error(np.full(8, 0.8), correct)


@law
@given(confidences, st.integers(1, 15), st.integers(0, 9))
def test_it_is_between_zero_and_the_plug_in_and_the_order_does_not_matter(
    confidence: Array, bins: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    correct, order = rng.integers(0, 2, len(confidence)), rng.permutation(len(confidence))
    plain = expected_calibration_error(confidence, correct, bins)
    assert 0 <= debiased_ece(confidence, correct, bins) <= plain + 1e-12
    assert debiased_squared_calibration_error(confidence, correct, bins) <= plain + 1e-12
    for error in ERRORS:
        again = error(confidence[order], correct[order], bins)
        assert error(confidence, correct, bins) == pytest.approx(again, rel=1e-6, abs=1e-9)


def test_confidence_zero_and_one_ties_empty_bins_and_bins_of_one() -> None:
    for error in ERRORS:
        assert error([1.0, 1.0], [1, 1]) == 0
        assert error([0.0, 0.0], [0, 0]) == 0
        assert error([1.0, 1.0, 1.0], [0, 0, 0]) == 1  # no noise by its own statement, and none seen
        assert error([0.2, 0.2, 0.9, 0.9], [0, 0, 1, 1], 1) == error([0.55] * 4, [0, 0, 1, 1], 1)
    assert debiased_squared_calibration_error([0.6], [0]) == 0  # one image says nothing of its own scatter
    # a gap of -.6 with noise .24: variance .36 - .24 = .12, share a third, mean .2, sd √(.24 / 3) = .283, z = .707
    assert debiased_ece([0.6], [0]) == pytest.approx(0.27986, abs=0.002)
