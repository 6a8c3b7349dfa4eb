from __future__ import annotations

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import agreement

Array = np.ndarray


def noisy(linear: Array, noise: float, scale: float = 1.0, trials: int = 6) -> Array:
    return scale * linear * np.random.default_rng(1).lognormal(0, noise, (trials, len(linear)))


def test_the_same_scores_with_noise_agree_in_ranking_and_level() -> None:
    linear = np.random.default_rng(0).lognormal(0, 0.5, 300)
    found = agreement(noisy(linear, 0.3), linear[None])
    assert (found.ranking, found.level) == ("met", "met")
    assert found.ratio.low < np.exp(0.3**2 / 2) < found.ratio.high, "the mean of the noise"
    assert 0.9 < found.corrected.low < 1 < found.corrected.high
    assert found.spearman.value < found.corrected.value, "noise lowers the raw correlation only"
    assert found.spearman.value == pytest.approx(scipy.stats.spearmanr(noisy(linear, 0.3).mean(0), linear).statistic)


def test_ranking_and_level_are_two_statements() -> None:
    rng = np.random.default_rng(0)
    linear = rng.lognormal(0, 0.5, 300)
    halved = agreement(noisy(linear, 0.1, scale=0.5), linear[None])
    assert (halved.ranking, halved.level) == ("met", "not met")
    other = agreement(noisy(linear * rng.lognormal(0, 0.8, 300), 0.05), linear[None])
    assert (other.ranking, other.level) == ("not met", "met")


def test_few_noisy_images_are_undecided() -> None:
    linear = np.random.default_rng(3).lognormal(0, 0.2, 12)
    found = agreement(noisy(linear, 0.6, trials=2), linear[None])
    assert "undecided" in (found.ranking, found.level)


def test_two_trials_are_corrected_and_one_is_not() -> None:
    linear = np.random.default_rng(3).lognormal(0, 0.5, 200)
    first, second = scores = noisy(linear, 0.3, trials=2)
    raw = np.mean([scipy.stats.spearmanr(each, linear).statistic for each in scores])
    found = agreement(scores, linear[None]).corrected.value
    assert found == pytest.approx(raw / np.sqrt(scipy.stats.spearmanr(first, second).statistic))
    assert np.isnan(agreement(scores[:1], linear[None]).corrected.value)


def test_noise_of_the_other_score_is_corrected_as_well() -> None:
    linear = np.random.default_rng(5).lognormal(0, 0.5, 1000)
    rng = np.random.default_rng(6)
    other = linear * rng.lognormal(0, 0.4, (4, 1000))
    found = agreement(noisy(linear, 0.4), other).corrected
    assert 0.9 < found.low < 1 < found.high


def test_originals_are_the_unit() -> None:
    linear = np.random.default_rng(0).lognormal(0, 0.5, 100)
    plain = agreement(noisy(linear, 0.3), linear[None])
    five = agreement(np.repeat(noisy(linear, 0.3), 5, axis=1), np.repeat(linear, 5)[None], origins=np.arange(500) // 5)
    assert five.ratio.n == plain.ratio.n == 100
    assert five.spearman.low == pytest.approx(plain.spearman.low, abs=1e-12)


def test_what_has_no_ratio_is_refused() -> None:
    with pytest.raises(McdoError, match="image 1 is zero"):
        agreement([[1, 2, 3], [1, 2, 4]], [[1, 0, 2]])
    with pytest.raises(McdoError, match="same images"):
        agreement([[1, 2, 3]], [[1, 2, 3, 4]])
