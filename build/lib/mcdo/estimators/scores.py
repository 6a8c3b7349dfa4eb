"""What scores are computed from: moments of the passes, the passes themselves, the terms of first order.

Tensors are of one batch of images; variances are sample variances (ddof 1). Where all passes are equal, variances are
exactly zero and shares of them are NaN. The scores themselves stand in :mod:`mcdo.estimators.score_table`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.errors import McdoError
from mcdo.estimators.moments import RunningMoments, accumulator_dtype
from mcdo.estimators.shown import Shown

_TINY = 1e-12
"""Norm below which a feature has no direction: torch's own bound in ``normalize``."""

EIGENVALUES = 10
"""Leading eigenvalues of the covariance that are kept for each image."""


@dataclass(frozen=True, eq=False)
class DimensionWeights:
    """Weights of feature dimensions, from a calibration set, for weighted_trace and topk_trace.

    Attributes:
        weights: float64 ``[D]``, at least 0, summing to one; by :meth:`fit` they follow the variance of each dimension
            over the calibration images.
        top: indices of the ``k`` dimensions with the largest weights.
        origins: of the calibration images; no image of one of them may be scored with these weights.

    """

    weights: NDArray[np.float64]
    top: NDArray[np.int64]
    origins: frozenset[str]
    _held: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """``weights`` and ``top`` on a device, copied once."""
        if device not in self._held:
            weights = torch.tensor(self.weights, dtype=accumulator_dtype(device), device=device)
            self._held[device] = (weights, torch.tensor(self.top, device=device))
        return self._held[device]

    def of(self, score: str) -> NDArray[np.float64]:
        """What ``score`` multiplies each dimension's variance by, float64 ``[D]``; they sum to one.

        Raises:
            McdoError: for a score without weights of dimensions.

        """
        if score == "weighted_trace":
            return self.weights
        if score != "topk_trace":
            raise McdoError(f"the score {score!r} has no weights of dimensions: weighted_trace and topk_trace have")
        equal = np.zeros_like(self.weights)
        equal[self.top] = 1 / len(self.top)
        return equal

    @classmethod
    def fit(cls, features: NDArray[np.floating], origins: Sequence[str], k: int | None = None) -> DimensionWeights:
        """Weights from deterministic pre-norm features ``[N, D]`` of calibration images, and their ``origins``.

        They are the variances of the dimensions over the images, shrunk towards the median of them as far as the
        variances are uncertain (the distribution-free intensity of Opgen-Rhein & Strimmer 2007, with originals in the
        place of images).

        Args:
            features: of the calibration images.
            origins: of the same images.
            k: dimensions that topk_trace takes; None for an eighth of them.

        Raises:
            McdoError: for fewer than two originals, features that do not vary, or a ``k`` outside 1 to D.

        """
        x = np.asarray(features, dtype=np.float64)
        names, members = np.unique(np.asarray(origins, dtype=object).astype(str), return_inverse=True)
        if len(x) != len(origins) or len(names) < 2:
            raise McdoError(
                f"dimension weights need features of two originals or more; got {len(x)} features and {len(names)} "
                f"originals of {len(origins)} images"
            )
        spread, D = x.var(axis=0, ddof=1), x.shape[1]
        k = max(1, D // 8) if k is None else k
        if not 1 <= k <= D:
            raise McdoError(f"k = {k}: give between 1 and D = {D} dimensions")
        if not spread.sum() > 0:
            raise McdoError("dimension weights: the calibration features do not vary")
        shrunk = _shrunk(x, spread, members)
        return cls(shrunk / shrunk.sum(), np.argsort(-spread, kind="stable")[:k], frozenset(origins))

    def check_unseen(self, images: Shown) -> None:
        """Raise McdoError if an image of the same origin as a scored one took part in the calibration."""
        seen = self.origins.intersection((*images.ids, *images.origins))
        if seen:
            first = next(each for each, of in zip(images.ids, images.origins, strict=True) if seen & {each, of})
            raise McdoError(
                f"{len(seen)} of the scored originals were calibrated on, such as {first}: use other images"
            )

    @property
    def identity(self) -> str:
        """Digest of all that decides a score, for store keys."""
        return hashlib.sha256(self.weights.tobytes() + b"|" + self.top.tobytes()).hexdigest()


def _shrunk(x: NDArray[np.float64], spread: NDArray[np.float64], members: NDArray[np.intp]) -> NDArray[np.float64]:
    """``spread`` [D], the variances of ``x`` [N, D], towards their median; ``members`` [N] numbers the originals."""
    n, G = len(x), members.max() + 1
    squares = np.square(x - x.mean(axis=0))
    sums = np.zeros((G, x.shape[1]))
    np.add.at(sums, members, squares - squares.mean(axis=0))
    uncertain = G / (G - 1) / (n - 1) ** 2 * np.square(sums).sum()  # summed over dimensions
    centre = np.median(spread)
    apart = np.square(spread - centre).sum()
    intensity = min(1.0, uncertain / apart) if apart > 0 else 1.0
    return np.asarray(intensity * centre + (1 - intensity) * spread)


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

    def state(self) -> dict[str, Tensor]:
        """All there is to know, by flat names, for :meth:`of`."""
        each = {"pre": self.pre, "post": self.post, "norm": self.norm}
        return {f"{kind}/{name}": value for kind, moments in each.items() for name, value in moments.state().items()}

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> PassMoments:
        """Moments that go on, to the same bits, where :meth:`state` was taken."""
        kinds: dict[str, dict[str, Tensor]] = {"pre": {}, "post": {}, "norm": {}}
        for name, value in state.items():
            kind, _, rest = name.partition("/")
            kinds[kind][rest] = value
        return cls(*(RunningMoments.of(each) for each in kinds.values()))

    def update(self, passes: Tensor) -> None:
        """Add pre-norm features ``[B, P, D]``."""
        passes = passes.to(accumulator_dtype(passes.device))
        norm = passes.norm(dim=-1, keepdim=True)
        self.pre.update(passes)
        self.post.update(passes / norm.clamp_min(_TINY))
        self.norm.update(norm.squeeze(-1))

    def at(self, plain: Tensor, calibration: DimensionWeights | None = None) -> Moments:
        """What scores are computed from after the passes so far; ``plain``: deterministic features ``[B, D]``."""
        variance = self.pre.variance
        return Moments(
            count=self.pre.count,
            mean=self.pre.mean,
            variance=variance,
            post_variance=self.post.variance,
            norm_variance=self.norm.variance,
            plain=plain.to(variance.dtype),
            calibration=calibration,
        )


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of ``count`` passes of one batch.

    Attributes:
        count: T.
        mean, variance: ``[B, D]``, of features before normalisation.
        post_variance: ``[B, D]``, of L2-normalised features.
        norm_variance: ``[B]``, of the norm.
        plain: ``[B, D]``, deterministic features before normalisation.
        calibration: weights of dimensions, where they were given.

    """

    count: int
    mean: Tensor
    variance: Tensor
    post_variance: Tensor
    norm_variance: Tensor
    plain: Tensor
    calibration: DimensionWeights | None = None

    @property
    def weights(self) -> DimensionWeights:
        """The calibration's.

        Raises:
            McdoError: where none was given.

        """
        if self.calibration is None:
            raise McdoError("this score needs DimensionWeights from a calibration set: give weights=")
        return self.calibration


class PassCloud:
    """All passes of one batch, and what several scores need of them, each computed when it is first wanted.

    Attributes:
        pre: float64 ``[B, T, D]``, before normalisation.

    """

    def __init__(self, pre: Tensor) -> None:
        self.pre = pre

    @cached_property
    def post(self) -> Tensor:
        """``[B, T, D]``, L2-normalised."""
        return torch.nn.functional.normalize(self.pre, dim=-1, eps=_TINY)

    @cached_property
    def angular_variance(self) -> Tensor:
        """``[B]``, see :func:`angular_variance`."""
        return angular_variance(self.post)

    @cached_property
    def spectrum(self) -> Tensor:
        """``[B, min(T, D)]``, eigenvalues of the covariance over passes, descending."""
        return covariance_spectrum(self.pre)

    @cached_property
    def total(self) -> Tensor:
        """``[B]``, sum of the eigenvalues."""
        return self.spectrum.sum(-1)

    @cached_property
    def shares(self) -> Tensor:
        """``[B, min(T, D)]``, of the eigenvalues in their sum."""
        return self.spectrum / self.total[:, None]

    @cached_property
    def off_diagonal_pre(self) -> tuple[Tensor, Tensor]:
        """``[B]`` each, see :func:`off_diagonal_mass`."""
        return off_diagonal_mass(self.pre)

    @cached_property
    def off_diagonal_post(self) -> tuple[Tensor, Tensor]:
        """The same of L2-normalised features."""
        return off_diagonal_mass(self.post)

    @cached_property
    def floor_pre(self) -> tuple[Tensor, Tensor]:
        """``[B]`` each, see :func:`off_diagonal_floor`."""
        return off_diagonal_floor(_centred(self.pre).var(1), self.pre.shape[1])

    @cached_property
    def floor_post(self) -> tuple[Tensor, Tensor]:
        """The same of L2-normalised features."""
        return off_diagonal_floor(_centred(self.post).var(1), self.post.shape[1])


@dataclass(frozen=True, eq=False)
class Terms:
    """What a first-order score is computed from, for p / (1 - p) = 1.

    Of a run with weights of dimensions, variances are those of the feature with each dimension times the root of its
    weight.

    Attributes:
        along: float64 ``[N, S]``, variance along the feature, by site.
        across: float64 ``[K, N, S]``, total variance across it, by site.
        features: float64 ``[N, D]``, deterministic.

    """

    along: NDArray[np.float64]
    across: NDArray[np.float64]
    features: NDArray[np.float64]

    @property
    def width(self) -> int:
        """D."""
        return int(self.features.shape[1])

    @property
    def squared_norm(self) -> NDArray[np.float64]:
        """``[N, 1]``, of the features."""
        return np.asarray(np.square(np.linalg.norm(self.features, axis=1))[:, None])


def angular_variance(post: Tensor) -> Tensor:
    """Variance over passes of the angle to the mean direction: ``[B, T, D]`` unit features to ``[B]``.

    The angle is 2·arctan(|x − μ| / |x + μ|), which equals arccos(x·μ) and keeps its digits near zero (Kahan 2006); a
    pass without a direction is at a right angle to every one.
    """
    mean = torch.nn.functional.normalize(post.mean(1, keepdim=True), dim=-1)
    return (2 * torch.atan2((post - mean).norm(dim=-1), (post + mean).norm(dim=-1))).var(dim=1)


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
    # on the CPU: MPS has no eigvalsh, and CUDA's took 2.3 times as long for 640 matrices of 64 (H100, docs/devices.md)
    eigenvalues: Tensor = torch.linalg.eigvalsh((gram / (t - 1)).cpu()).to(passes.device)
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
