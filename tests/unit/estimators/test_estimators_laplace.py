"""Laplace against dense Hessians by automatic differentiation, scikit-learn, sampling, and laplace-torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.func import hessian, jacrev

from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators.laplace import Laplace, ZeroShot, projection_inputs
from mcdo.estimators.posterior import (
    FullPosterior,
    KroneckerPosterior,
    Likelihood,
    evidence_precision,
    fit_posterior,
    leverage,
    output_curvature,
)
from mcdo.images import load_images, prepare_pixels
from mcdo.images.degradations import degraded

Array = NDArray[np.float64]
N, M, D, C, DELTA = 7, 4, 5, 3, 0.7
LIKELIHOODS: tuple[Likelihood, ...] = ("softmax", "sigmoid", "gaussian")


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def head(rng: np.random.Generator, likelihood: Likelihood) -> ZeroShot:
    return ZeroShot(4.0 * unit(rng.normal(size=(C, D))), -0.5, likelihood)


def loss(likelihood: Likelihood, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood summed over images; ``targets`` [N] are classes."""
    hot = torch.nn.functional.one_hot(targets, C).double()
    if likelihood == "softmax":
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    if likelihood == "sigmoid":
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, hot, reduction="sum")
    return 0.5 * (logits - hot).square().sum()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_last_layer_is_the_inverse_hessian_of_the_loss(rng: np.random.Generator, likelihood: Likelihood) -> None:
    zero_shot, fitted, new = head(rng, likelihood), rng.normal(size=(N, D)), rng.normal(size=(4, D))
    targets = torch.from_numpy(rng.integers(0, C, N))  # any labels: the curvature must not depend on them

    def of(weights: torch.Tensor) -> torch.Tensor:
        return loss(likelihood, torch.from_numpy(unit(fitted)) @ weights.view(C, D).T + zero_shot.bias, targets)

    H = hessian(of)(torch.from_numpy(zero_shot.weights).flatten()).numpy()
    covariance = np.linalg.inv(H + DELTA * np.eye(C * D))
    laplace = Laplace.last_layer(zero_shot, fitted, [f"fit{i}" for i in range(N)], prior_precision=DELTA)
    found = laplace.scores([f"new{i}" for i in range(4)], new)
    for i, x in enumerate(unit(new)):
        J = np.kron(np.eye(C), x)
        of_logits = J @ covariance @ J.T
        low, high = np.argsort(zero_shot.weights @ x)[-2:]
        margin = of_logits[high, high] + of_logits[low, low] - 2 * of_logits[high, low]
        assert found["logit_variance"][i] == pytest.approx(np.trace(of_logits) / C, rel=1e-9)
        assert found["margin_variance"][i] == pytest.approx(margin, rel=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_projection_is_the_inverse_gauss_newton_matrix(rng: np.random.Generator, likelihood: Likelihood) -> None:
    zero_shot, W, offset = head(rng, likelihood), rng.normal(size=(D, M)), rng.normal(size=(N, D))
    inputs = rng.normal(size=(N, M))
    features = offset + inputs @ W.T

    def logits(weights: torch.Tensor) -> torch.Tensor:
        f = torch.from_numpy(offset) + torch.from_numpy(inputs) @ weights.view(D, M).T
        hat = f / f.norm(dim=1, keepdim=True)
        found: torch.Tensor = hat @ torch.from_numpy(zero_shot.weights).T + zero_shot.bias
        return found

    J = jacrev(logits)(torch.from_numpy(W).flatten()).numpy()
    curvature = output_curvature(zero_shot.logits(features), likelihood)
    H = np.einsum("ncp,ncd,ndq->pq", J, curvature, J)
    covariance = np.linalg.inv(H + DELTA * np.eye(D * M))
    of_logits = np.einsum("ncp,pq,ndq->ncd", J, covariance, J)
    ids = [f"fit{i}" for i in range(N)]
    laplace = Laplace.projection(zero_shot, inputs, features, ids, 1.0, prior_precision=DELTA, structure="full")
    found = laplace.scores([f"new{i}" for i in range(N)], features, inputs)
    assert found["logit_variance"] == pytest.approx(np.einsum("ncc->n", of_logits) / C, rel=1e-9)
    to_feature = np.stack([np.kron(np.eye(D), h) for h in inputs])
    expected = np.einsum("ndp,pq,ndq->n", to_feature, covariance, to_feature) / D
    assert found["feature_variance"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("likelihood", ["softmax", "sigmoid"])
def test_output_curvature_is_the_hessian_in_the_logits(rng: np.random.Generator, likelihood: Likelihood) -> None:
    z, target = torch.from_numpy(rng.normal(size=C)), torch.tensor([1])
    H = hessian(lambda z: loss(likelihood, z[None], target))(z).numpy()
    assert output_curvature(z.numpy()[None], likelihood)[0] == pytest.approx(H, abs=1e-12)


def constant(curvature: Array) -> Callable[[slice], Array]:
    return lambda part: np.broadcast_to(curvature, (part.stop - part.start, *curvature.shape))


def test_kronecker_factors_are_exact_where_curvature_is_the_same_for_all_images(rng: np.random.Generator) -> None:
    x, new, a = rng.normal(size=(N, M)), rng.normal(size=(6, M)), rng.normal(size=(6, 2, C))
    root = rng.normal(size=(C, C))
    curvature = constant(root @ root.T)
    full = fit_posterior(x, curvature, C, 1.0, structure="full", prior_precision=DELTA)
    factors = fit_posterior(x, curvature, C, 1.0, structure="kronecker", prior_precision=DELTA)
    assert isinstance(full, FullPosterior)
    assert isinstance(factors, KroneckerPosterior)
    assert factors.variance_along(new, a) == pytest.approx(full.variance_along(new, a), rel=1e-9)
    assert factors.variance_along(new, a[0]) == pytest.approx(full.variance_along(new, a[0]), rel=1e-9)
    both = [fit_posterior(x, curvature, C, 2.0, structure=s) for s in ("full", "kronecker")]
    assert both[0].variance_along(new, a) == pytest.approx(both[1].variance_along(new, a), rel=1e-6)


def test_the_prior_precision_maximises_the_evidence(rng: np.random.Generator) -> None:
    eigenvalues, norm = rng.lognormal(0, 3, 40), 12.0

    def evidence(delta: float) -> float:
        return float((np.log(delta / (eigenvalues + delta)).sum() - delta * norm) / 2)

    found = evidence_precision(eigenvalues, norm)
    grid = np.exp(np.linspace(-12, 12, 4801))
    best = grid[np.argmax([evidence(delta) for delta in grid])]
    assert found == pytest.approx(best, rel=0.01)
    assert evidence(found) >= max(map(evidence, grid)) - 1e-9
    assert evidence_precision([4.0], 1.0) == pytest.approx((np.sqrt(32) - 4) / 2)  # δ = 4/(4 + δ)


def dense_leverage(leverage_of: Callable[..., Array]) -> None:
    """The law that trap 6 breaks, against scikit-learn's posterior of ridge regression."""
    from sklearn.linear_model import BayesianRidge

    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(D, D))
    X, new = rng.normal(size=(30, D)) @ mixing, rng.normal(size=(9, D)) @ mixing  # correlated, as features are
    model = BayesianRidge(fit_intercept=False).fit(X, rng.normal(size=30))
    _, std = model.predict(new, return_std=True)
    found = leverage_of(new, X, model.lambda_ / model.alpha_)
    assert found == pytest.approx((std**2 - 1 / model.alpha_) * model.alpha_, rel=1e-6)


def test_leverage_is_that_of_ridge_regression() -> None:
    dense_leverage(leverage)


def test_trap_the_diagonal_of_the_inverse_is_not_the_leverage() -> None:
    def diagonal(x: Array, X: Array, ridge: float) -> Array:
        return np.asarray((x**2) @ np.diag(np.linalg.inv(X.T @ X + ridge * np.eye(X.shape[1]))))

    with pytest.raises(AssertionError):
        dense_leverage(diagonal)


def test_the_published_score_is_the_head_with_gaussian_likelihood(rng: np.random.Generator) -> None:
    zero_shot, fitted, new = head(rng, "gaussian"), rng.normal(size=(N, D)), rng.normal(size=(4, D))
    laplace = Laplace.last_layer(zero_shot, fitted, [f"fit{i}" for i in range(N)], prior_precision=2.0)
    found = laplace.scores(list("abcd"), new)["logit_variance"]
    assert found == pytest.approx(leverage(unit(new), unit(fitted), 2.0), rel=1e-9)


def test_images_that_were_fitted_on_cannot_be_scored(rng: np.random.Generator) -> None:
    train, heldout = load_images("digits:train", 20), load_images("digits", 20)
    features = rng.normal(size=(20, D))
    laplace = Laplace.last_layer(head(rng, "softmax"), features, train.origins)
    assert len(laplace.scores(heldout, features)["logit_variance"]) == 20
    variants = load_images("digits:train", 1400)
    variants = variants.select([i for i, each in enumerate(variants.ids) if "affine" in each])
    variants = variants.select([i for i, origin in enumerate(variants.origins) if origin in set(train.origins)])
    assert len(variants)
    for seen in (train, degraded(train, "blur:4%"), train.with_common_masks(), variants, degraded(variants, "blur:4%")):
        with pytest.raises(McdoError, match="of the scored originals were fitted on, such as digits/train/"):
            laplace.scores(seen, features[: len(seen)])


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    zero_shot, features = head(rng, "softmax"), rng.normal(size=(4, D))
    with pytest.raises(McdoError, match="for 3 images"):
        Laplace.last_layer(zero_shot, features, list("abc"))
    with pytest.raises(McdoError, match="prior_precision = 0"):
        Laplace.last_layer(zero_shot, features, list("abcd"), prior_precision=0)
    with pytest.raises(McdoError, match="finite"):
        Laplace.last_layer(zero_shot, np.full((4, D), np.nan), list("abcd"))
    with pytest.raises(McdoError, match="inputs of the projection"):
        Laplace.projection(zero_shot, features, features, list("abcd"), 1.0).scores(["e"], features[:1])
    with pytest.raises(McdoError, match="softmax"):
        output_curvature(np.zeros((2, 2)), "softmaks")  # type: ignore[arg-type]
    with pytest.raises(McdoError, match="no maximum"):
        evidence_precision([0.0], 1.0)


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_a_change_of_the_projection_moves_the_feature_by_its_input(key: str) -> None:
    encoder = load_encoder(key, "cpu")
    images, prepared = load_images("digits", 6), encoder.preprocessing
    pixels = prepare_pixels(images, encoder.to_uint8, prepared.mean, prepared.std).batch(slice(None))
    inputs, features, norm = projection_inputs(encoder, pixels)
    weight = encoder.model.get_parameter(
        "visual.proj" if key == "clip_tiny" else "visual.trunk.attn_pool.mlp.fc2.weight"
    )
    assert norm == pytest.approx(float(weight.double().square().sum()))
    change = 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    weight.data += change
    moved, _ = encoder.forward_image(pixels).detach() - features, None
    assert torch.allclose(moved, inputs @ (change if key == "clip_tiny" else change.T), atol=1e-4)


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_the_head_is_the_encoders(key: str) -> None:
    encoder, names = load_encoder(key, "cpu"), ("zero", "one", "two")
    features = np.random.default_rng(0).normal(size=(5, encoder.feature_dim))
    mine = ZeroShot.of(encoder, encoder.encode_text([f"a {name}" for name in names]))
    its = encoder.zero_shot_logits(torch.from_numpy(features).float(), names, "a {}").detach().numpy()
    assert mine.logits(features) == pytest.approx(its, abs=1e-4)
    assert mine.likelihood == encoder.loss


def test_laplace_torch_agrees(rng: np.random.Generator) -> None:
    library = pytest.importorskip("laplace")
    zero_shot, fitted, new = head(rng, "softmax"), unit(rng.normal(size=(40, D))), unit(rng.normal(size=(6, D)))
    model = torch.nn.Linear(D, C, bias=False)
    model.weight.data = torch.from_numpy(zero_shot.weights).float()
    data = torch.utils.data.TensorDataset(torch.from_numpy(fitted).float(), torch.from_numpy(rng.integers(0, C, 40)))
    loader = torch.utils.data.DataLoader(data, batch_size=40)
    for structure, ours in (("full", "full"), ("kron", "kronecker")):
        theirs = library.Laplace(
            model, "classification", subset_of_weights="all", hessian_structure=structure, prior_precision=DELTA
        )
        theirs.fit(loader)
        _, covariance = theirs._glm_predictive_distribution(torch.from_numpy(new).float())

        def curvature(part: slice) -> Array:
            return output_curvature(fitted[part] @ zero_shot.weights.T, "softmax")

        posterior = fit_posterior(
            fitted,
            curvature,
            C,
            1.0,
            structure="full" if ours == "full" else "kronecker",
            prior_precision=DELTA,
        )
        expected = covariance.diagonal(dim1=1, dim2=2).detach().double().numpy()
        assert posterior.variance_along(new, np.eye(C)) == pytest.approx(expected, rel=1e-3), structure
