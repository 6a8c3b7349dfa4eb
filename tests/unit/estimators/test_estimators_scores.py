"""Every score against its definition, written out in NumPy for one image at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import scipy
import torch
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.estimators import DimensionWeights, names_from, off_diagonal_floor
from mcdo.estimators.score_table import geometry_scores, moment_scores
from mcdo.estimators.scores import PassMoments, angular_variance, off_diagonal_mass
from mcdo.images import degraded, load_images

Array = NDArray[np.float64]


def unit(x: Array) -> Array:
    result: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return result


def off_diagonal(covariance: Array) -> tuple[float, float]:
    mask = ~np.eye(len(covariance), dtype=bool)
    l1 = np.abs(covariance[mask]).sum() / np.abs(covariance).sum()
    return float(l1), float(np.linalg.norm(covariance[mask]) / np.linalg.norm(covariance))


@cache
def by_chance(t: int) -> tuple[float, float]:
    """Means of |r| and r² of two independent normals in ``t`` passes, of which r² is Beta(1/2, (t − 2)/2)."""
    squared_r = scipy.stats.beta(0.5, t / 2 - 1)
    return (1.0, 1.0) if t == 2 else (float(squared_r.expect(np.sqrt)), float(squared_r.mean()))


def floor(passes: Array) -> tuple[float, float]:
    """From a table of expected |covariance| and its square."""
    t, d = passes.shape
    mean_r, squared_r = by_chance(t)
    sd, on = passes.std(0, ddof=1), np.eye(d, dtype=bool)
    sizes, squares = np.outer(sd, sd), np.outer(sd, sd) ** 2
    l1 = np.where(on, sizes, mean_r * sizes)
    frobenius = np.where(on, squares, squared_r * squares)
    return float(l1[~on].sum() / l1.sum()), float(np.sqrt(frobenius[~on].sum() / frobenius.sum()))


def reference(passes: Array, plain: Array) -> dict[str, float]:
    """All scores of one image: passes [T, D], deterministic feature [D]."""
    post = unit(passes)
    mean = unit(post.mean(0))
    cosines = post @ mean
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(passes.T)))[::-1].clip(0)
    share = eigenvalues / eigenvalues.sum()
    share = share[share > 1e-13]
    pre_mass, post_mass = off_diagonal(np.cov(passes.T)), off_diagonal(np.cov(post.T))
    pre_floor, post_floor = floor(passes), floor(post)
    return {
        "trace_pre": passes.var(0, ddof=1).mean(),
        "trace_post": post.var(0, ddof=1).mean(),
        "mean_cosine_dev": 1 - cosines.mean(),
        "max_dim_var": passes.var(0, ddof=1).max(),
        "norm_var": np.linalg.norm(passes, axis=1).var(ddof=1),
        "mean_shift": float(np.linalg.norm(passes.mean(0) - plain) / np.linalg.norm(plain)),
        "angular_var": np.arccos(cosines.clip(-1, 1)).var(ddof=1),
        "top_eigenvalue": eigenvalues[0],
        "effective_rank": eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
        "spectral_entropy": -(share * np.log(share)).sum(),
        "top1_ratio": eigenvalues[0] / eigenvalues.sum(),
        "offdiag_l1_pre": pre_mass[0],
        "offdiag_l1_post": post_mass[0],
        "offdiag_frobenius_pre": pre_mass[1],
        "offdiag_frobenius_post": post_mass[1],
        "offdiag_l1_pre_floor": pre_floor[0],
        "offdiag_l1_post_floor": post_floor[0],
        "offdiag_frobenius_pre_floor": pre_floor[1],
        "offdiag_frobenius_post_floor": post_floor[1],
    }


def noisy(images: int, passes: int, dim: int, spread: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Passes [B, T, D] around deterministic features [B, D], with dimensions that hang together."""
    rng = np.random.default_rng(seed)
    plain = rng.standard_normal((images, dim))
    mixing = rng.standard_normal((dim, dim)) / dim**0.5
    noise = spread * rng.standard_normal((images, passes, dim)) @ mixing
    return torch.from_numpy((plain[:, None] + noise).astype(np.float32)), torch.from_numpy(plain.astype(np.float32))


@pytest.mark.parametrize(("passes", "dim"), [(2, 5), (4, 48), (16, 16), (17, 16), (64, 12)])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_every_score_follows_its_definition(passes: int, dim: int, spread: float) -> None:
    drawn, plain = noisy(4, passes, dim, spread)
    running = PassMoments.empty()
    for part in drawn.split(5, dim=1):  # type: ignore[no-untyped-call]
        running.update(part)
    geometry, leading = geometry_scores(drawn)
    found = moment_scores(running.at(plain)) | geometry
    assert tuple(found) == names_from("moments") + names_from("passes")
    for i in range(4):
        expected = reference(drawn[i].double().numpy(), plain[i].double().numpy())
        got = {name: float(values[i]) for name, values in found.items()}
        # 1 − cos and arccos lose digits that ours keep
        loose = {"angular_var": 1e-6, "mean_cosine_dev": 1e-9}
        for name, value in expected.items():
            assert got[name] == pytest.approx(value, rel=loose.get(name, 1e-9), abs=1e-12), name
        spectrum = np.zeros(10)
        values = np.sort(np.linalg.eigvalsh(np.cov(drawn[i].double().numpy().T)))[::-1].clip(0)
        spectrum[: min(len(values), 10, passes)] = values[: min(10, passes)]
        np.testing.assert_allclose(leading[i], spectrum, rtol=1e-9, atol=1e-12)


def test_mean_cosine_dev_and_trace_post_say_the_same() -> None:
    drawn, plain = noisy(30, 20, 8, 0.5)
    running = PassMoments.empty()
    running.update(drawn)
    scores = moment_scores(running.at(plain))
    m = 1 - scores["mean_cosine_dev"]
    np.testing.assert_allclose(8 * scores["trace_post"] * 19 / 20, 1 - m**2, rtol=1e-12)


def test_angular_variance_of_known_angles() -> None:
    angles = np.array([-0.3, -0.1, 0.0, 0.1, 0.3])
    post = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=-1))[None]
    # the mean direction is the first axis, and an angle has no sign
    assert float(angular_variance(post)) == pytest.approx(np.abs(angles).var(ddof=1), rel=1e-12)
    opposite = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]], dtype=torch.float64)
    assert float(angular_variance(opposite)) == pytest.approx(np.var([0, 0, math.pi], ddof=1), rel=1e-9)


def test_angles_far_below_the_reach_of_arccos_are_told_apart() -> None:
    angles = 1e-9 * np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    post = torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=-1))[None]
    assert float(angular_variance(post)) == pytest.approx(np.abs(angles).var(ddof=1), rel=1e-6)
    assert np.arccos((post[0] @ post[0, 2]).clip(-1, 1)).var() == 0


def test_equal_passes_have_no_variance_and_no_shares_of_it() -> None:
    plain = noisy(3, 1, 6, 0.1)[1]
    drawn = plain[:, None].expand(-1, 7, -1)
    running = PassMoments.empty()
    running.update(drawn[:, :3])
    running.update(drawn[:, 3:])
    for name, values in moment_scores(running.at(plain)).items():
        assert torch.count_nonzero(values) == 0, name
    geometry, leading = geometry_scores(drawn)
    assert all(torch.count_nonzero(geometry[name]) == 0 for name in ("angular_var", "top_eigenvalue"))
    assert all(v.isnan().all() for name, v in geometry.items() if name not in ("angular_var", "top_eigenvalue"))
    assert torch.count_nonzero(leading) == 0


def test_a_pass_without_a_direction_counts_as_none_and_spoils_no_score() -> None:
    drawn, plain = noisy(1, 6, 4, 0.1)
    drawn[0, 2] = 0
    running = PassMoments.empty()
    running.update(drawn)
    scores, geometry = moment_scores(running.at(plain)), geometry_scores(drawn)[0]
    post = np.asarray(drawn[0]).copy()
    with_direction = np.arange(6) != 2
    post[with_direction] /= np.linalg.norm(post[with_direction], axis=1, keepdims=True)
    mean = post.mean(axis=0)
    angles = np.arccos(post @ mean / np.linalg.norm(mean))  # a right angle where there is no direction
    assert float(scores["trace_post"][0]) == pytest.approx(post.var(axis=0, ddof=1).mean(), rel=1e-6)
    assert float(geometry["angular_var"][0]) == pytest.approx(angles.var(ddof=1), rel=1e-4)
    assert all(value.isfinite().all() for value in (scores | geometry).values())


MARGINALS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "equal": lambda rng, d: np.ones(d),
    "unequal": lambda rng, d: np.exp(rng.normal(0, 1, d)),
    "one large": lambda rng, d: np.r_[30.0, np.ones(d - 1)],
}
NOISE: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "masks": lambda rng, shape: rng.binomial(20, 0.1, shape) / np.sqrt(1.8),
    "heavy-tailed": lambda rng, shape: rng.standard_t(5, shape) / np.sqrt(5 / 3),
}


@pytest.mark.parametrize("noise", sorted(NOISE))
@pytest.mark.parametrize("marginals", sorted(MARGINALS))
@pytest.mark.parametrize(("passes", "dim"), [(16, 48), (64, 256)])
def test_the_floor_is_the_mass_of_independent_noise_with_the_same_marginals(
    passes: int, dim: int, marginals: str, noise: str
) -> None:
    rng = np.random.default_rng(0)
    scale = MARGINALS[marginals](rng, dim)
    drawn = torch.from_numpy(np.asarray(scale * NOISE[noise](rng, (60, passes, dim))))
    for mass, floor in zip(off_diagonal_mass(drawn), off_diagonal_floor(drawn.var(1), passes), strict=True):
        error = float((mass - floor).std()) / 60**0.5
        assert abs(float((mass - floor).mean())) < 0.003 + 4 * error
        assert error < 0.006


def test_unequal_variances_lower_the_floor() -> None:
    """What a floor for equal variances overstates, at the T and D of the embedded encoders."""
    rng = np.random.default_rng(1)
    equal = off_diagonal_floor(torch.ones(48), 64)
    unequal = off_diagonal_floor(torch.from_numpy(np.exp(rng.normal(0, 1, 48))), 64)
    assert float(equal[0]) == pytest.approx(0.825, abs=0.002)
    assert float(unequal[0]) < 0.8
    assert float(unequal[1]) < float(equal[1]) - 0.05


def test_the_floor_by_hand_and_at_its_edges() -> None:
    l1, frobenius = off_diagonal_floor(torch.ones(512, dtype=torch.float64), 64)
    assert float(l1) == pytest.approx(0.9807, abs=0.001)  # S0 reports 0.99 for features at this T and D
    assert float(frobenius) == pytest.approx(0.941, abs=0.006)
    # two passes: every |r| is one, so with sd 1 and 2 the L1 share is 2 · 2 / (2 · 2 + 1 + 4)
    by_hand = off_diagonal_floor(torch.tensor([1.0, 4.0]), 2)
    assert [float(x) for x in by_hand] == pytest.approx([4 / 9, (8 / 25) ** 0.5])
    assert [float(x) for x in off_diagonal_floor(torch.tensor([3.0, 0.0]), 8)] == [0, 0]
    assert all(x.isnan() for x in off_diagonal_floor(torch.zeros(4), 8))
    assert off_diagonal_floor(torch.rand(2, 3, 5), 8)[0].shape == (2, 3)
    with pytest.raises(McdoError, match="at least 2"):
        off_diagonal_floor(torch.ones(4), 1)


def test_off_diagonal_mass_of_known_covariances() -> None:
    independent = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]]], dtype=torch.float64)
    tied = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]]], dtype=torch.float64)
    assert [float(x) for x in off_diagonal_mass(independent)] == [0.0, 0.0]
    assert [float(x) for x in off_diagonal_mass(tied)] == pytest.approx([0.5, 0.5**0.5])


def test_off_diagonal_mass_does_not_depend_on_the_chunks_it_is_taken_in() -> None:
    drawn = torch.randn(14, 4, 1100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = off_diagonal_mass(drawn)  # in chunks of 13 images
    one_by_one = [off_diagonal_mass(image[None]) for image in drawn]
    for i in range(2):
        np.testing.assert_allclose(together[i], torch.cat([each[i] for each in one_by_one]), rtol=1e-12)


# ---- weights of dimensions


def test_weighted_scores_follow_their_definition() -> None:
    rng = np.random.default_rng(0)
    calibration = rng.standard_normal((30, 12)) * np.arange(1, 13)
    weights = DimensionWeights.fit(calibration, [f"c{i}" for i in range(30)], k=3)
    drawn, plain = noisy(4, 10, 12, 0.2)
    running = PassMoments.empty()
    running.update(drawn)
    scores = moment_scores(running.at(plain, weights))
    variance = drawn.double().numpy().var(1, ddof=1)
    spread = calibration.var(0, ddof=1)
    np.testing.assert_allclose(scores["weighted_trace"], (variance * weights.weights).sum(1), rtol=1e-12)
    top = sorted(range(12), key=lambda d: -spread[d])[:3]
    np.testing.assert_allclose(scores["topk_trace"], variance[:, top].mean(1), rtol=1e-12)
    assert weights.weights.sum() == pytest.approx(1)


def intensity(x: Array) -> float:
    """How far variances go to their median (Opgen-Rhein & Strimmer 2007, equation 10), dimension by dimension."""
    n, spread = len(x), x.var(0, ddof=1)
    uncertain = 0.0
    for column in x.T:
        w = (column - column.mean()) ** 2
        uncertain += n / (n - 1) ** 3 * float(((w - w.mean()) ** 2).sum())
    return min(1.0, uncertain / float(((spread - np.median(spread)) ** 2).sum()))


def test_weights_are_variances_shrunk_as_far_as_they_are_uncertain() -> None:
    x = np.random.default_rng(1).standard_normal((40, 12)) * np.linspace(1, 2, 12)
    names, spread, moved = [f"c{i}" for i in range(40)], x.var(0, ddof=1), intensity(x)
    assert 0.05 < moved < 0.9
    shrunk = moved * np.median(spread) + (1 - moved) * spread
    np.testing.assert_allclose(DimensionWeights.fit(x, names).weights, shrunk / shrunk.sum(), rtol=1e-12)
    twice = DimensionWeights.fit(np.repeat(x, 2, axis=0), np.repeat(names, 2).tolist()).weights
    np.testing.assert_allclose(twice, shrunk / shrunk.sum(), rtol=0.01)  # two images of an original are one draw
    assert len(DimensionWeights.fit(x, names).top) == 1, "an eighth of the dimensions"
    with pytest.raises(McdoError, match="between 1 and D = 12"):
        DimensionWeights.fit(x, names, k=13)


def test_weights_refuse_the_images_they_were_fitted_on() -> None:
    images = load_images("digits", n=4)
    weights = DimensionWeights.fit(np.random.default_rng(0).random((3, 5)), ["a", "b", images.ids[2]])
    with pytest.raises(McdoError, match=f"1 of the scored originals were calibrated on, such as {images.ids[2]}"):
        weights.check_unseen(images)
    with pytest.raises(McdoError, match="1 of the scored originals"):
        weights.check_unseen(degraded(images, "blur:2"))
    with pytest.raises(McdoError, match="1 of the scored originals"):
        weights.check_unseen(replace(images, ids=tuple("wxyz")))
    weights.check_unseen(images.select([0, 1, 3]))


@pytest.mark.parametrize(
    ("features", "n", "message"),
    [
        (np.zeros((1, 4)), 1, "two originals or more"),
        (np.zeros((3, 4)), 2, "got 3 features and 2 originals of 2 images"),
        (np.ones((3, 4)), 3, "do not vary"),
        (np.full((3, 4), np.nan), 3, "do not vary"),
    ],
)
def test_weights_need_features_that_vary(features: Array, n: int, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        DimensionWeights.fit(features, [str(i) for i in range(n)])
