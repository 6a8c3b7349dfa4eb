"""The posterior over both projections against a dense Gauss–Newton matrix, and expected cosines against samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
import torch
from torch.func import jacrev

from mcdo.encoders import load_encoder
from mcdo.encoders.text_tower import TextTower
from mcdo.errors import McdoError
from mcdo.estimators.laplace import ZeroShot, projection_inputs
from mcdo.rivals.expected_cosine import EXPECTED, Uncertain, expected_cosines, expected_scores, text_posterior

N, M, D, DELTA, SCALE = 9, 3, 5, 0.7, 4.0


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_of_one_class_it_is_the_inverse_gauss_newton_matrix(rng: np.random.Generator) -> None:
    W, x, features = rng.normal(size=(D, M)), rng.normal(size=(1, M)), rng.normal(size=(N, D))
    texts = x @ W.T
    head = ZeroShot(SCALE * unit(texts), -0.5, "sigmoid")
    hats = torch.from_numpy(unit(features))

    def logits(weights: torch.Tensor) -> torch.Tensor:
        said = torch.from_numpy(x) @ weights.view(D, M).T
        found: torch.Tensor = (SCALE * hats @ (said / said.norm(dim=1, keepdim=True)).T - 0.5)[:, 0]
        return found

    start = torch.from_numpy(W).flatten()
    J, p = jacrev(logits)(start).numpy(), scipy.special.expit(logits(start).numpy())
    covariance = np.linalg.inv(J.T @ ((p * (1 - p))[:, None] * J) + DELTA * np.eye(D * M))
    to_text = np.kron(np.eye(D), x[0])
    posterior = text_posterior(head, features, texts, x, 1.0, prior_precision=DELTA)
    assert posterior.variance_along(x, np.eye(D))[0] == pytest.approx(np.diag(to_text @ covariance @ to_text.T))


def test_several_classes_add_up_as_kronecker_factors_do(rng: np.random.Generator) -> None:
    """All prompts alike: the mean of x xᵀ is exact, and the curvature is C times that of one class on its own."""
    x, said, features = np.ones((3, M)), np.tile(rng.normal(size=D), (3, 1)), rng.normal(size=(N, D))
    three = text_posterior(ZeroShot(SCALE * unit(said), 0.0, "sigmoid"), features, said, x, 1.0, prior_precision=DELTA)
    one = text_posterior(
        ZeroShot(SCALE * unit(said[:1]), 0.0, "sigmoid"), features, said[:1], x[:1], 1.0, prior_precision=DELTA / 3
    )
    assert 3 * three.variance_along(x[:1], np.eye(D)) == pytest.approx(one.variance_along(x[:1], np.eye(D)))


def test_expected_cosines_are_those_of_samples(rng: np.random.Generator) -> None:
    dims, draws = 64, 20_000
    images = Uncertain(rng.normal(size=(3, dims)), rng.uniform(0, 0.5, size=(3, dims)))
    texts = Uncertain(images.mean[:2] + rng.normal(size=(2, dims)), rng.uniform(0, 0.2, size=(2, dims)))
    mean, variance = expected_cosines(images, texts)
    one, other = (
        each.mean + np.sqrt(each.variance) * rng.normal(size=(draws, *each.mean.shape)) for each in (images, texts)
    )
    cosines = np.einsum("snd,scd->snc", unit(one), unit(other))
    assert mean == pytest.approx(cosines.mean(axis=0), abs=0.01)
    # norms are taken at their mean, so the variance is that of the inner product: the cosine's is less, as norms follow
    inner = np.einsum("snd,scd->snc", one, other).var(axis=0)
    norms = (one**2).sum(axis=2).mean(axis=0)[:, None] * (other**2).sum(axis=2).mean(axis=0)
    assert variance == pytest.approx(inner / norms, rel=0.05)
    assert (variance > 0.95 * cosines.var(axis=0)).all()


def test_without_variance_they_are_the_head_s_own(rng: np.random.Generator) -> None:
    features, said = rng.normal(size=(6, D)), rng.normal(size=(4, D))
    images, texts = Uncertain(features, np.zeros_like(features)), Uncertain(said, np.zeros_like(said))
    mean, variance = expected_cosines(images, texts)
    assert mean == pytest.approx(unit(features) @ unit(said).T)
    assert not variance.any()
    found = expected_scores(mean, variance, SCALE, 0.3)
    p = scipy.special.softmax(SCALE * mean, axis=1)
    assert set(found) == set(EXPECTED)
    assert found["expected_msp"] == pytest.approx(-p.max(axis=1))
    assert found["expected_entropy"] == pytest.approx(scipy.stats.entropy(p, axis=1))
    assert not found["cosine_variance"].any()


def test_by_hand() -> None:
    """Mean (3, 4), variance 11 in the first dimension alone: |f|² is 36 on average, and the cosine with (1, 0) 3/6."""
    images = Uncertain(np.array([[3.0, 4.0]]), np.array([[11.0, 0.0]]))
    texts = Uncertain(np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros((2, 2)))
    mean, variance = expected_cosines(images, texts)
    assert mean == pytest.approx(np.array([[0.5, 4 / 6]]))
    assert variance == pytest.approx(np.array([[11 / 36, 0.0]]))
    shrunk = expected_scores(mean, np.array([[8 / np.pi * 3, 0.0]]), 1.0, 0.0)
    assert shrunk["expected_msp"] == pytest.approx(-scipy.special.softmax([0.25, 4 / 6]).max())
    assert shrunk["cosine_variance"] == pytest.approx([0.0])


def test_texts_that_do_not_fit_the_head_are_refused(rng: np.random.Generator) -> None:
    head = ZeroShot(rng.normal(size=(3, D)), 0.0, "softmax")
    with pytest.raises(McdoError, match="one row for each class"):
        text_posterior(head, rng.normal(size=(N, D)), rng.normal(size=(2, D)), rng.normal(size=(2, M)), 1.0)


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_a_change_of_the_text_projection_moves_the_text_by_its_input(key: str) -> None:
    encoder = load_encoder(key, "cpu")
    tower, prompts = TextTower(encoder), ["a photo of a zero", "a one"]
    inputs, said, norm = projection_inputs(tower, tower.tokenize(prompts))
    weight = encoder.model.get_parameter("text.text_projection")
    assert norm == pytest.approx(float(weight.double().square().sum()))
    change = 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data += change
    moved = encoder.encode_text(prompts).detach() - said
    assert torch.allclose(moved, inputs @ change, atol=1e-4)
