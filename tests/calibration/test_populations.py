from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy
from populations import LATENT, POPULATIONS, TRAITS, VARIANTS, Population, Sample, normal_spearman

pytestmark = pytest.mark.filterwarnings("error")


def signal_and_noise(sample: Sample) -> tuple[float, float]:
    return float(sample.scores.mean(axis=0).var(ddof=1)), float(sample.scores.var(axis=0, ddof=1).mean())


@pytest.mark.parametrize("name", [name for name, population in POPULATIONS.items() if not population.level])
def test_signal_noise_and_spearman_are_those_of_large_samples(name: str) -> None:
    population, K = POPULATIONS[name], 4
    draws = 400 if population.shared else 4
    samples = list(population.samples(draws, K, 100_000 // draws, seed=1))
    signal, noise = np.mean([signal_and_noise(sample) for sample in samples], axis=0)
    heavy = "heavy" in name  # a variance from t3 converges slowly
    assert signal / noise == pytest.approx(population.snr(K), rel=0.1 if heavy else 0.04)
    medians = [np.median(scipy.stats.spearmanr(s.scores, axis=1).statistic[np.triu_indices(K, 1)]) for s in samples]
    assert np.mean(medians) == pytest.approx(population.spearman(K), abs=0.006)


@pytest.mark.parametrize("name", POPULATIONS)
def test_rank_correlations_of_traits_do_not_depend_on_margins(name: str) -> None:
    sample = POPULATIONS[name].sample(2, 40_000, seed=0)
    for a, b in itertools.combinations(TRAITS, 2):
        measured = scipy.stats.spearmanr(getattr(sample, a), getattr(sample, b)).statistic
        assert measured == pytest.approx(POPULATIONS[name].latent_spearman(a, b), abs=0.03)


def test_closed_form_of_the_normal_is_pearsons() -> None:
    assert normal_spearman(0) == 0
    assert normal_spearman(1) == pytest.approx(1)
    assert Population(icc=0.8).spearman(10) == pytest.approx(normal_spearman(0.8))
    assert np.linalg.eigvalsh(LATENT).min() > 0


def test_samples_follow_the_seed_and_cluster_by_origin() -> None:
    population = POPULATIONS["clustered"]
    a, b, c = population.sample(3, 20, 1), population.sample(3, 20, 1), population.sample(3, 20, 2)
    np.testing.assert_array_equal(a.scores, b.scores)
    assert (a.scores != c.scores).all()
    assert a.origins.tolist() == [i // VARIANTS for i in range(20)]
    own = population.sample(2, 50_000, 3).own.reshape(-1, VARIANTS)
    assert scipy.stats.pearsonr(own[:, 0], own[:, 1]).statistic == pytest.approx(0.8, abs=0.02)


def test_shared_noise_is_common_to_images_of_a_trial() -> None:
    sample = POPULATIONS["shared_noise"].sample(3, 50_000, 0)
    residual = sample.scores - sample.own
    gram = residual @ residual.T / residual.shape[1]
    independent = Population().sample(3, 50_000, 0)
    off = independent.scores - independent.own
    correlations = np.asarray(np.corrcoef(off))
    assert np.abs(correlations[np.triu_indices(3, 1)]).max() < 0.03
    assert np.abs(gram[np.triu_indices(3, 1)]).max() > 0.03


def test_a_common_level_moves_all_images_of_a_trial_and_no_ranking() -> None:
    population = POPULATIONS["shared_level"]
    samples = list(population.samples(200, 3, 500, seed=2))
    levels = np.array([sample.scores.mean(axis=1) - sample.own.mean() for sample in samples])
    assert levels.var() == pytest.approx(1 / 3 * 0.5 / 2, rel=0.15)
    pairs = [scipy.stats.spearmanr(sample.scores.T).statistic[np.triu_indices(3, 1)].mean() for sample in samples]
    assert np.mean(pairs) == pytest.approx(population.mean_spearman(), abs=0.01)
    across = [
        scipy.stats.spearmanr(sample.scores[0], sample.rival + sample.scores[1] - sample.own) for sample in samples
    ]
    assert np.mean([found.statistic for found in across]) == pytest.approx(
        population.across_spearman("own", "rival"), abs=0.015
    )
