"""Gaussian posteriors over the weights of one linear map, from the curvature of a loss in its output.

N(θ, H⁻¹) with H the generalised Gauss–Newton matrix summed over calibration images plus a prior precision δ (MacKay
1992; Daxberger et al. 2021): dense, or by Kronecker factors. The curvature of a softmax or sigmoid does not depend on
labels, so none are needed. Everything is float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo.errors import McdoError, nearest

Array = NDArray[np.float64]
Likelihood = Literal["softmax", "sigmoid", "gaussian"]
FULL_UP_TO = 1024
"""Largest number of weights for which the dense posterior is formed; beyond it, Kronecker factors."""

_BLOCK = 2**23  # numbers held at once (64 MB)


class Posterior(Protocol):
    """A Gaussian over a weight matrix W [out, in], seen through y = W x."""

    @property
    def prior_precision(self) -> float:
        """δ."""
        ...

    def variance_along(self, x: Array, directions: Array) -> Array:
        """Var(a·W x), ``[N, K]``, for inputs ``x`` [N, in] and directions a: [K, out] for all, or [N, K, out]."""
        ...


@dataclass(frozen=True, eq=False)
class FullPosterior:
    """Covariance (H + δI)⁻¹ over vec(W), row by row; ``root`` is the lower Cholesky factor of the precision."""

    root: Array
    prior_precision: float

    def variance_along(self, x: Array, directions: Array) -> Array:
        """See :class:`Posterior`: |L⁻¹ (a ⊗ x)|²."""
        a = np.broadcast_to(directions, (len(x), *directions.shape[-2:]))
        weights = (a[..., :, None] * x[:, None, None, :]).reshape(-1, len(self.root))
        step = max(1, _BLOCK // len(self.root))
        parts = [
            np.square(scipy.linalg.solve_triangular(self.root, weights[i : i + step].T, lower=True)).sum(0)
            for i in range(0, len(weights), step)
        ]
        return np.concatenate(parts).reshape(a.shape[:2])


@dataclass(frozen=True, eq=False)
class KroneckerPosterior:
    """Covariance (N·A ⊗ B + δI)⁻¹ by the eigenvectors of A [in, in] and B [out, out], so δ is added exactly.

    A is the mean of x xᵀ and B the mean curvature at the output (KFAC: Martens & Grosse 2015; Ritter et al. 2018).
    """

    inputs: tuple[Array, Array]
    outputs: tuple[Array, Array]
    count: int
    prior_precision: float

    def variance_along(self, x: Array, directions: Array) -> Array:
        """See :class:`Posterior`: Σ_ij (u_i·x)² (v_j·a)² / (N α_i β_j + δ)."""
        (alpha, u), (beta, v) = self.inputs, self.outputs
        by_output = np.square(x @ u) @ (1 / (self.count * np.outer(alpha, beta) + self.prior_precision))
        squared = np.square(directions @ v)
        return np.asarray(np.einsum("nj,...kj->nk" if squared.ndim == 2 else "nj,nkj->nk", by_output, squared))


def output_curvature(logits: ArrayLike, likelihood: Likelihood) -> Array:
    """Second derivatives of the negative log-likelihood in the logits: [N, C] to [N, C, C].

    softmax: diag(p) − p pᵀ. sigmoid (one yes/no question per class): diag(p(1 − p)). gaussian (variance 1): I.
    """
    z = np.asarray(logits, dtype=np.float64)
    if likelihood == "softmax":
        p = scipy.special.softmax(z, axis=1)
        return np.asarray(p[:, :, None] * (np.eye(z.shape[1]) - p[:, None, :]))
    if likelihood == "sigmoid":
        return np.asarray((scipy.special.expit(z) * scipy.special.expit(-z))[:, :, None] * np.eye(z.shape[1]))
    if likelihood == "gaussian":
        return np.broadcast_to(np.eye(z.shape[1]), (*z.shape, z.shape[1]))
    raise McdoError(
        f"no likelihood {likelihood!r}; the nearest: {nearest(likelihood, ('softmax', 'sigmoid', 'gaussian'))}"
    )


def evidence_precision(eigenvalues: ArrayLike, squared_norm: float) -> float:
    """The prior precision δ of N(0, δ⁻¹I) that maximises the evidence: δ|θ|² = Σ λ/(λ + δ) (MacKay 1992).

    Args:
        eigenvalues: of the Gauss–Newton matrix, without the prior.
        squared_norm: |θ|² of the weights.

    Raises:
        McdoError: if there is no curvature, or no weight.

    """
    held = np.clip(np.asarray(eigenvalues, dtype=np.float64).ravel(), 0, None)
    if not (held.max(initial=0) > 0 and np.isfinite(held).all() and 0 < squared_norm < np.inf):
        raise McdoError(
            f"the evidence has no maximum: largest curvature {held.max(initial=0)}, squared norm {squared_norm}; state "
            "prior_precision"
        )

    def excess(log_delta: float) -> float:
        delta = np.exp(log_delta)
        return float(delta * squared_norm - (held / (held + delta)).sum())

    # the sum lies between 0 and the number of terms, so beyond this δ the left side is larger
    low, high = np.log(held.max()) - 100, np.log(len(held) / squared_norm) + 1
    while excess(low) > 0:
        low -= 100
    return float(np.exp(scipy.optimize.brentq(excess, low, max(high, low + 1), xtol=1e-12)))


def fit_posterior(
    inputs: ArrayLike,
    curvature: Callable[[slice], Array],
    outputs: int,
    squared_norm: float,
    *,
    structure: Literal["full", "kronecker", "auto"] = "auto",
    prior_precision: float | None = None,
) -> Posterior:
    """The posterior of a linear map W [out, in].

    Args:
        inputs: x ``[N, in]`` of the calibration images.
        curvature: of the loss in the map's output, ``[n, out, out]`` for a slice of the images.
        outputs: number of outputs.
        squared_norm: |W|², for the evidence.
        structure: dense, Kronecker factors, or dense where there are at most ``FULL_UP_TO`` weights.
        prior_precision: δ; None takes :func:`evidence_precision`.

    Raises:
        McdoError: if nothing is left to fit from, or a number is not finite.

    """
    x = np.asarray(inputs, dtype=np.float64)
    if x.ndim != 2 or len(x) < 1 or not np.isfinite(x).all():
        raise McdoError(f"calibration inputs have shape {list(x.shape)}: give [N, in], finite, with N >= 1")
    if prior_precision is not None and not 0 < prior_precision < np.inf:
        raise McdoError(f"prior_precision = {prior_precision}: it must be positive, or None for the evidence's maximum")
    full = structure == "full" or (structure == "auto" and outputs * x.shape[1] <= FULL_UP_TO)
    build = _full if full else _kronecker
    return build(x, curvature, outputs, squared_norm, prior_precision)


def slices(n: int, size: int) -> list[slice]:
    """Cut ``n`` images so that a piece with ``size`` numbers each stays within memory."""
    step = max(1, _BLOCK // size)
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def _full(
    x: Array, curvature: Callable[[slice], Array], outputs: int, squared_norm: float, precision: float | None
) -> FullPosterior:
    D = x.shape[1]
    hessian = np.zeros((outputs * outputs, D * D))
    for part in slices(len(x), outputs * outputs + D * D):
        pairs = (x[part, :, None] * x[part, None, :]).reshape(-1, D * D)
        hessian += curvature(part).reshape(-1, outputs * outputs).T @ pairs
    H = hessian.reshape(outputs, outputs, D, D).transpose(0, 2, 1, 3).reshape(outputs * D, outputs * D)
    delta = evidence_precision(np.linalg.eigvalsh(H), squared_norm) if precision is None else precision
    return FullPosterior(scipy.linalg.cholesky(H + delta * np.eye(len(H)), lower=True), delta)


def _kronecker(
    x: Array, curvature: Callable[[slice], Array], outputs: int, squared_norm: float, precision: float | None
) -> KroneckerPosterior:
    N, B = len(x), np.zeros((outputs, outputs))
    for part in slices(N, outputs * outputs):
        B += curvature(part).sum(0)
    (alpha, u), (beta, v) = np.linalg.eigh(x.T @ x / N), np.linalg.eigh(B / N)
    alpha, beta = alpha.clip(0), beta.clip(0)
    delta = evidence_precision(N * np.outer(alpha, beta), squared_norm) if precision is None else precision
    return KroneckerPosterior((alpha, u), (beta, v), N, delta)


def leverage(x: ArrayLike, fitted: ArrayLike, ridge: float = 1.0) -> Array:
    """xᵀ(XᵀX + λI)⁻¹x, ``[N]``: what ridge regression on ``fitted`` X [M, D] does not know about ``x`` [N, D].

    The published "projection Laplace" is a constant times this; its implementation kept only the diagonal of the
    inverse, which forgets that features are correlated.
    """
    X = np.asarray(fitted, dtype=np.float64)
    root = scipy.linalg.cholesky(X.T @ X + ridge * np.eye(X.shape[1]), lower=True)
    return np.asarray(
        np.square(scipy.linalg.solve_triangular(root, np.asarray(x, dtype=np.float64).T, lower=True)).sum(0)
    )
