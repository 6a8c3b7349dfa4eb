"""Per-image scores of a set of passes: what "uncertainty" may mean. Definitions as in the README's table of scores.

All take tensors of one batch of images and return one number per image; variances are sample variances (ddof 1). Where
all passes are equal, variances are exactly zero and shares of them are NaN.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.arguments import whole
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.moments import RunningMoments, accumulator_dtype
from mcdo.estimators.shown import Shown

MOMENT_SCORES = ("trace_pre", "trace_post", "mean_cosine_dev", "max_dim_var", "norm_var", "mean_shift")
"""Scores that follow from running moments: they cost next to nothing and are taken at every T."""

WEIGHTED_SCORES = ("weighted_trace", "topk_trace")
"""Scores that need :class:`DimensionWeights` from a calibration set."""

GEOMETRY_SCORES = (
    "angular_var",
    "top_eigenvalue",
    "effective_rank",
    "spectral_entropy",
    "top1_ratio",
    "offdiag_l1_pre",
    "offdiag_l1_post",
    "offdiag_frobenius_pre",
    "offdiag_frobenius_post",
    "offdiag_l1_pre_floor",
    "offdiag_l1_post_floor",
    "offdiag_frobenius_pre_floor",
    "offdiag_frobenius_post_floor",
)
"""Scores that need the passes themselves."""

_TINY = 1e-12
"""Norm below which a feature has no direction: torch's own bound in ``normalize``."""

EIGENVALUES = 10
"""Leading eigenvalues of the covariance that are kept for each image."""


@dataclass(frozen=True, eq=False)
class DimensionWeights:
    """Weights of feature dimensions, from a calibration set, for weighted_trace and topk_trace.

    Attributes:
        weights: float64 ``[D]``, variance of each dimension over the calibration images, summing to one.
        top: indices of the ``k`` dimensions with the largest weights.
        origins: of the calibration images; no image of one of them may be scored with these weights.

    """

    weights: NDArray[np.float64]
    top: NDArray[np.int64]
    origins: frozenset[str]

    @classmethod
    def fit(cls, features: NDArray[np.floating], origins: Sequence[str], k: int = 64) -> DimensionWeights:
        """Weights from deterministic pre-norm features ``[N, D]`` of calibration images, and their ``origins``."""
        if len(features) != len(origins) or len(features) < 2:
            raise McdoError(
                f"dimension weights need features of two images or more; got {len(features)} for {len(origins)} origins"
            )
        spread = np.asarray(features, dtype=np.float64).var(axis=0, ddof=1)
        if not spread.sum() > 0:
            raise McdoError("dimension weights: the calibration features do not vary")
        top = np.argsort(-spread, kind="stable")[:k]
        return cls(spread / spread.sum(), top, frozenset(origins))

    def check_unseen(self, images: Shown) -> None:
        """Raise McdoError if an image of the same origin as a scored one took part in the calibration."""
        seen = self.origins.intersection((*images.ids, *images.origins))
        if seen:
            raise McdoError(
                f"{len(seen)} of the scored originals were calibrated on, such as {min(seen)}: use other images"
            )

    @property
    def identity(self) -> str:
        """Digest of all that decides a score, for store keys."""
        return hashlib.sha256(self.weights.tobytes() + b"|" + self.top.tobytes()).hexdigest()


@dataclass
class PassMoments:
    """Running moments of the features before and after normalisation, and of the norm."""

    pre: RunningMoments
    post: RunningMoments
    norm: RunningMoments

    @classmethod
    def empty(cls) -> PassMoments:
        """Of no passes yet."""
        return cls(RunningMoments(), RunningMoments(), RunningMoments())

    def update(self, passes: Tensor) -> None:
        """Add pre-norm features ``[B, P, D]``."""
        passes = passes.to(accumulator_dtype(passes.device))
        norm = passes.norm(dim=-1, keepdim=True)
        self.pre.update(passes)
        self.post.update(passes / norm.clamp_min(_TINY))
        self.norm.update(norm.squeeze(-1))

    def scores(self, plain: Tensor, weights: DimensionWeights | None = None) -> dict[str, Tensor]:
        """Moment scores ``[B]`` each; ``plain`` holds the deterministic features ``[B, D]``."""
        variance = self.pre.variance
        trace_post = self.post.variance.mean(-1)
        count = self.post.count
        # 1 − m² is the population trace of the unit features, so 1 − m follows without cancellation.
        spread = trace_post * plain.shape[-1] * (count - 1) / count
        plain = plain.to(variance.dtype)
        scores = {
            "trace_pre": variance.mean(-1),
            "trace_post": trace_post,
            "mean_cosine_dev": spread / (1 + (1 - spread).clamp(min=0).sqrt()),
            "max_dim_var": variance.amax(-1),
            "norm_var": self.norm.variance,
            "mean_shift": (self.pre.mean - plain).norm(dim=-1) / plain.norm(dim=-1),
        }
        if weights is not None:
            w = torch.as_tensor(weights.weights, dtype=variance.dtype, device=variance.device)
            scores["weighted_trace"] = variance @ w
            scores["topk_trace"] = variance[:, torch.as_tensor(weights.top, device=variance.device)].mean(-1)
        return scores


def angular_variance(post: Tensor) -> Tensor:
    """Variance over passes of the angle to the mean direction: ``[B, T, D]`` unit features to ``[B]``.

    The angle is taken from the chord, 2·arcsin(|x − μ|/2), which equals arccos(x·μ) and keeps its digits near zero.
    """
    mean = torch.nn.functional.normalize(post.mean(1, keepdim=True), dim=-1)
    chord = (post - mean).norm(dim=-1)
    return (2 * torch.asin((chord / 2).clamp(max=1))).var(dim=1)


def _centred(passes: Tensor) -> Tensor:
    """Deviations from the mean over passes. Shifted first, so that equal passes give exact zeros."""
    shifted = passes - passes[:, :1]
    return shifted.sub_(shifted.mean(1, keepdim=True))


def covariance_spectrum(passes: Tensor) -> Tensor:
    """Eigenvalues of the sample covariance over passes, descending: ``[B, T, D]`` to ``[B, min(T, D)]``.

    Taken from the smaller of the T × T Gram matrix and the D × D covariance, which share their non-zero eigenvalues.
    """
    centred = _centred(passes)
    t, d = centred.shape[1:]
    gram = centred @ centred.mT if t <= d else centred.mT @ centred
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram / (t - 1))
    return eigenvalues.flip(-1).clamp(min=0)


def off_diagonal_mass(passes: Tensor) -> tuple[Tensor, Tensor]:
    """Share of the covariance that lies off its diagonal, ``[B]`` each: (by absolute value, by Frobenius norm).

    Both are near one for *independent* dimensions when T is small beside D: compare :func:`off_diagonal_floor`.
    """
    l1, frobenius = [], []
    d = passes.shape[-1]
    for part in torch.split(passes, max(1, 2**24 // d**2)):
        centred = _centred(part)
        covariance = centred.mT @ centred
        diagonal = covariance.diagonal(dim1=-2, dim2=-1)
        l1.append(1 - diagonal.abs().sum(-1) / covariance.abs().sum((-2, -1)))
        total = covariance.square().sum((-2, -1))
        frobenius.append((1 - diagonal.square().sum(-1) / total).clamp(min=0).sqrt())
    return torch.cat(l1), torch.cat(frobenius)


def off_diagonal_floor(variances: Tensor, passes: int) -> tuple[Tensor, Tensor]:
    """:func:`off_diagonal_mass` of *independent* dimensions with given sample variances ``[..., D]``: ``[...]`` each.

    The correlation r of two independent dimensions over T passes does not depend on their sample variances, and has
    E r² = 1/(T − 1) whatever their distributions (permute one's passes) and, where one is normal,
    E|r| = Γ((T − 1)/2) / (√π Γ(T/2)) (r² is Beta(1/2, (T − 2)/2): Fisher 1915). The shares are those of the expected
    off-diagonal sums. Unequal variances lower both, so a floor for equal ones is too high.
    """
    if passes < 2:
        raise McdoError(f"passes = {passes}: a covariance needs at least 2")
    mean_r = math.exp(math.lgamma((passes - 1) / 2) - math.lgamma(passes / 2)) / math.sqrt(math.pi)
    total, squares = variances.sum(-1), variances.square().sum(-1)
    off_l1 = mean_r * (variances.sqrt().sum(-1).square() - total)
    off_squares = (total.square() - squares) / (passes - 1)
    return off_l1 / (off_l1 + total), (off_squares / (off_squares + squares)).sqrt()


def geometry_scores(passes: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Scores that need the passes ``[B, T, D]`` (pre-norm): those of GEOMETRY_SCORES, and the leading eigenvalues.

    Computed in float64 on the CPU: MPS has neither float64 nor ``eigvalsh``, and this is outside the pass loop.
    """
    pre = passes.cpu().double()
    post = torch.nn.functional.normalize(pre, dim=-1, eps=_TINY)
    spectrum = covariance_spectrum(pre)
    total = spectrum.sum(-1)
    q = spectrum / total[:, None]
    l1_pre, frobenius_pre = off_diagonal_mass(pre)
    l1_post, frobenius_post = off_diagonal_mass(post)
    floor_pre, floor_post = (off_diagonal_floor(_centred(each).var(1), each.shape[1]) for each in (pre, post))
    scores = {
        "angular_var": angular_variance(post),
        "top_eigenvalue": spectrum[:, 0],
        "effective_rank": total.square() / spectrum.square().sum(-1),
        "spectral_entropy": torch.special.entr(q).sum(-1),
        "top1_ratio": q[:, 0],
        "offdiag_l1_pre": l1_pre,
        "offdiag_l1_post": l1_post,
        "offdiag_frobenius_pre": frobenius_pre,
        "offdiag_frobenius_post": frobenius_post,
        "offdiag_l1_pre_floor": floor_pre[0],
        "offdiag_l1_post_floor": floor_post[0],
        "offdiag_frobenius_pre_floor": floor_pre[1],
        "offdiag_frobenius_post_floor": floor_post[1],
    }
    leading = torch.zeros(len(pre), EIGENVALUES, dtype=torch.float64)
    leading[:, : spectrum.shape[1]] = spectrum[:, :EIGENVALUES]
    return scores, leading


def pixel_rows(encoder: Encoder, rows: int | None) -> int:
    """Rows (image × pass) of one forward pass: as asked for, or by the size of the tower's input."""
    if rows is not None:
        return whole("batch_size", rows, least=1)
    return 1024 if encoder.resolution <= 64 else 64 if encoder.device.type == "cpu" else 256
