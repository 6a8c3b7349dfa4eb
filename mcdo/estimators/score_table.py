"""The table of scores: what "uncertainty" may mean, by name, with definition, what it is computed from, and its cost.

A score is its function, here or in another package: its name is the function's, its meaning the docstring's first line.
Every run knows it by name, ``--scores`` adds it to every experiment that reports by score, and ``--help`` lists it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.errors import McdoError
from mcdo.estimators.scores import EIGENVALUES, Moments, PassCloud, Terms
from mcdo.registration import Table
from mcdo.store.own_code import is_outside, own_code

Input = Literal["moments", "weights", "passes", "terms", "features", "scores"]
INPUTS: Mapping[Input, str] = {
    "moments": "running moments of the passes: costs nothing beside them, taken at every T",
    "weights": "running moments, and DimensionWeights from a calibration set",
    "passes": "the passes themselves: holds T x D numbers an image, and grows with T^2 D; taken at the T of geometry=",
    "terms": "the terms of first order: vector-Jacobian products in place of passes",
    "features": "the deterministic features: one pass, the same in every trial",
    "scores": "other scores of the run, and its features: costs nothing",
}
"""What a score is computed from, and what that costs."""

Definition = Callable[[Any], Any]
AnyDefinition = TypeVar("AnyDefinition", bound=Definition)


class Score:
    """One score.

    Attributes:
        name: that of the function that defines it.
        meaning: the first line of that function's docstring.
        definitions: by what they take; several where Monte Carlo and first order estimate the same.

    """

    def __init__(self, input: Input, definition: Definition) -> None:
        if input not in get_args(Input):
            raise McdoError(f"input = {input!r}: a score is computed from one of {', '.join(INPUTS)}")
        self.name: str = definition.__name__
        self.meaning = (definition.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        if not self.meaning:
            raise McdoError(f"the score {self.name} has no docstring: its first line says what it means")
        self.definitions: dict[Input, Definition] = {input: definition}

    def __call__(self, of: Any) -> Any:
        """By its first definition."""
        return next(iter(self.definitions.values()))(of)

    def __repr__(self) -> str:
        return f"Score({self.name!r}, from {', '.join(self.definitions)}: {self.meaning})"

    def to_first_order(self, definition: AnyDefinition) -> AnyDefinition:
        """Decorates what the same score is to first order: Terms to ``[K, N, S]``, for p / (1 - p) = 1."""
        self.definitions["terms"] = definition
        return definition

    @property
    def while_measuring(self) -> Input | None:
        """What it takes of the passes while they are made; None where it follows afterwards."""
        return next((each for each in ("moments", "weights", "passes") if each in self.definitions), None)

    @property
    def code(self) -> str:
        """Fingerprint of its definitions, for the keys of runs that hold a score from outside of mcdo."""
        return own_code(*self.definitions.values())

    @property
    def outside(self) -> bool:
        """Whether another package defines it."""
        return any(is_outside(each) for each in self.definitions.values())


def _accepted(name: str, found: object) -> Score:
    if not isinstance(found, Score) or found.name != name:
        raise McdoError(f"the entry point {name!r} of mcdo.scores names {found!r}, and no score of that name")
    return found


SCORES: Table[Score] = Table("score", "mcdo.scores", _accepted)
"""All scores by name: those below in their order, then what was registered and what installed packages offer."""


def register_score(input: Input) -> Callable[[Definition], Score]:
    """Decorates a function that defines a score; its name and docstring are those of the score.

    Args:
        input: what the function takes: ``"moments"`` (:class:`~mcdo.estimators.scores.Moments`, gives ``[B]``),
            ``"passes"`` (:class:`~mcdo.estimators.scores.PassCloud`, gives ``[B]``), ``"terms"``
            (:class:`~mcdo.estimators.scores.Terms`, gives ``[K, N, S]``), ``"features"`` (float64 ``[N, D]``, gives
            ``[N]``) or ``"scores"`` (a view of the run with ``scores(name)``, ``features`` and ``feature_norm``, gives
            ``[K, N]``).

    Raises:
        McdoError: for a name that is taken, another input, or a function without a docstring.

    """

    def registered(definition: Definition) -> Score:
        score = Score(input, definition)
        SCORES.add(score.name, score)
        return score

    return registered


def names_from(input: Input) -> tuple[str, ...]:
    """Names of mcdo's own scores that have a definition from ``input``."""
    return tuple(name for name, score in BUILT_IN.items() if input in score.definitions)


def further(names: Iterable[str]) -> tuple[str, ...]:
    """Of ``names`` those from outside that are to be taken while a run is measured: they belong to its protocol.

    Raises:
        McdoError: for an unknown name.

    """
    found = {name: SCORES.find(name) for name in dict.fromkeys(names) if name not in BUILT_IN}
    return tuple(name for name, score in found.items() if score.while_measuring)


def check_reportable(names: Iterable[str]) -> None:
    """Raise McdoError for a name that is no score, or one that passes alone do not give."""
    for name in names:
        score = SCORES.find(name)
        if set(score.definitions) <= {"terms", "weights"}:
            needed = " and ".join(INPUTS[of] for of in score.definitions)
            raise McdoError(f"the score {name!r} is computed from {needed}; no experiment has that for it")


def needs_passes(name: str) -> bool:
    """Whether a score is taken from the passes themselves, at the T of ``geometry``."""
    return SCORES.find(name).while_measuring == "passes"


# ---- from running moments


@register_score("moments")
def trace_pre(m: Moments) -> Tensor:
    """Mean over dimensions of the sample variance over passes (ddof 1)."""
    return m.variance.mean(-1)


@trace_pre.to_first_order
def _trace_pre(t: Terms) -> NDArray[np.float64]:
    return (t.across + t.along) / t.width


@register_score("moments")
def trace_post(m: Moments) -> Tensor:
    """trace_pre of the L2-normalised features."""
    return m.post_variance.mean(-1)


@trace_post.to_first_order
def _trace_post(t: Terms) -> NDArray[np.float64]:
    return t.across / (t.width * t.squared_norm)


@register_score("moments")
def mean_cosine_dev(m: Moments) -> Tensor:
    """1 − mean cosine to the mean direction; a monotone map of trace_post."""
    # 1 − m² is the population trace of the unit features, so 1 − m follows without cancellation.
    spread: Tensor = m.post_variance.mean(-1) * m.plain.shape[-1] * (m.count - 1) / m.count
    return spread / (1 + (1 - spread).clamp(min=0).sqrt())


@register_score("moments")
def max_dim_var(m: Moments) -> Tensor:
    """Largest variance of a dimension."""
    return m.variance.amax(-1)


@register_score("moments")
def norm_var(m: Moments) -> Tensor:
    """Variance of the norm of the feature."""
    return m.norm_variance


@norm_var.to_first_order
def _norm_var(t: Terms) -> NDArray[np.float64]:
    return np.broadcast_to(t.along, t.across.shape)


@register_score("moments")
def mean_shift(m: Moments) -> Tensor:
    """‖mean_t x_t − x_det‖ / ‖x_det‖."""
    shift: Tensor = (m.mean - m.plain).norm(dim=-1)
    relative: Tensor = shift / m.plain.norm(dim=-1)
    return relative


@register_score("weights")
def weighted_trace(m: Moments) -> Tensor:
    """Mean variance with weights per dimension from a calibration set, never from the scored images."""
    return m.variance @ m.weights.on(m.variance.device)[0]


@weighted_trace.to_first_order
def _weighted_trace(t: Terms) -> NDArray[np.float64]:
    return t.across + t.along


@register_score("weights")
def topk_trace(m: Moments) -> Tensor:
    """Mean variance of the dimensions with the largest weights."""
    return m.variance[:, m.weights.on(m.variance.device)[1]].mean(-1)


@topk_trace.to_first_order
def _topk_trace(t: Terms) -> NDArray[np.float64]:
    return t.across + t.along


# ---- from the passes themselves


@register_score("passes")
def angular_var(c: PassCloud) -> Tensor:
    """Sample variance of the angle to the mean direction."""
    return c.angular_variance


@register_score("passes")
def top_eigenvalue(c: PassCloud) -> Tensor:
    """Largest eigenvalue of the covariance over passes."""
    return c.spectrum[:, 0]


@register_score("passes")
def effective_rank(c: PassCloud) -> Tensor:
    """Participation ratio of the covariance's eigenvalues: (Σλ)² / Σλ²."""
    return c.total.square() / c.spectrum.square().sum(-1)


@register_score("passes")
def spectral_entropy(c: PassCloud) -> Tensor:
    """Entropy of the covariance's normalised eigenvalues, in nats."""
    entropy: Tensor = torch.special.entr(c.shares).sum(-1)
    return entropy


@register_score("passes")
def top1_ratio(c: PassCloud) -> Tensor:
    """Share of the largest eigenvalue in their sum."""
    return c.shares[:, 0]


@register_score("passes")
def offdiag_l1_pre(c: PassCloud) -> Tensor:
    """Share of the covariance off its diagonal, by absolute value."""
    return c.off_diagonal_pre[0]


@register_score("passes")
def offdiag_l1_post(c: PassCloud) -> Tensor:
    """The same of the L2-normalised features."""
    return c.off_diagonal_post[0]


@register_score("passes")
def offdiag_frobenius_pre(c: PassCloud) -> Tensor:
    """Share of the covariance off its diagonal, by Frobenius norm."""
    return c.off_diagonal_pre[1]


@register_score("passes")
def offdiag_frobenius_post(c: PassCloud) -> Tensor:
    """The same of the L2-normalised features."""
    return c.off_diagonal_post[1]


@register_score("passes")
def offdiag_l1_pre_floor(c: PassCloud) -> Tensor:
    """offdiag_l1_pre of independent dimensions with the same variances."""
    return c.floor_pre[0]


@register_score("passes")
def offdiag_l1_post_floor(c: PassCloud) -> Tensor:
    """offdiag_l1_post of independent dimensions with the same variances."""
    return c.floor_post[0]


@register_score("passes")
def offdiag_frobenius_pre_floor(c: PassCloud) -> Tensor:
    """offdiag_frobenius_pre of independent dimensions with the same variances."""
    return c.floor_pre[1]


@register_score("passes")
def offdiag_frobenius_post_floor(c: PassCloud) -> Tensor:
    """offdiag_frobenius_post of independent dimensions with the same variances."""
    return c.floor_post[1]


# ---- from what is there already


@register_score("scores")
def trace_pre_relative(run: Any) -> NDArray[np.float64]:
    """trace_pre / ‖x_det‖², the norm-free control."""
    return np.asarray(run.scores("trace_pre") / np.square(run.feature_norm))


@trace_pre_relative.to_first_order
def _trace_pre_relative(t: Terms) -> NDArray[np.float64]:
    return (t.across + t.along) / (t.width * t.squared_norm)


@register_score("features")
def feature_norm(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """‖x_det‖, what costs nothing; the control beside every trace_pre."""
    return np.asarray(np.linalg.norm(features, axis=1))


BUILT_IN: Mapping[str, Score] = dict(SCORES.registered)
"""mcdo's own."""
WEIGHTED = names_from("weights")
"""With weights of dimensions, of a calibration set: runs have them that are given such weights."""
TRACES = ("trace_pre", "trace_pre_relative", "trace_post")
"""What experiments report by score: the published one, norm-free, and of the normalised features."""


# ---- while a run is measured


def moment_scores(moments: Moments, names: Iterable[str] = ()) -> dict[str, Tensor]:
    """Scores ``[B]`` from running moments: mcdo's own, those with weights where there are some, ``names``.

    Raises:
        McdoError: for a score of another shape, naming it.

    """
    wanted = {**BUILT_IN, **{name: SCORES.find(name) for name in names}}
    inputs: tuple[Input, ...] = ("moments",) if moments.calibration is None else ("moments", "weights")
    return {
        name: _per_image(score, of, moments, len(moments.plain))
        for of in inputs
        for name, score in wanted.items()
        if of in score.definitions
    }


def geometry_scores(passes: Tensor, names: Iterable[str] = ()) -> tuple[dict[str, Tensor], Tensor]:
    """Scores ``[B]`` from the passes ``[B, T, D]`` (pre-norm): mcdo's own and ``names``; and leading eigenvalues.

    Computed in float64 where the passes are; on the CPU for MPS, which has no float64.
    """
    cloud = PassCloud((passes.cpu() if passes.device.type == "mps" else passes).double())
    wanted = {**BUILT_IN, **{name: SCORES.find(name) for name in names}}
    scores = {
        name: _per_image(score, "passes", cloud, len(passes))
        for name, score in wanted.items()
        if "passes" in score.definitions
    }
    leading = torch.zeros(len(passes), EIGENVALUES, dtype=torch.float64)
    leading[:, : cloud.spectrum.shape[1]] = cloud.spectrum[:, :EIGENVALUES].cpu()
    return scores, leading


def _per_image(score: Score, input: Input, of: object, n: int) -> Tensor:
    given = _sums(of) if score.outside else {}
    value = score.definitions[input](of)
    if given:
        now = _sums(of)
        written = next((name for name, total in given.items() if not _same(total, now[name])), None)
        if written is not None:
            raise McdoError(
                f"the score {score.name} writes into what it is given ({written}), which other scores are computed "
                "from: let it work on a copy (no operations in place, whose names end in _, no out=)"
            )
    if not isinstance(value, Tensor) or value.shape != (n,):
        shape = list(value.shape) if hasattr(value, "shape") else type(value).__name__
        raise McdoError(f"the score {score.name} gave {shape} for {n} images; it must give a tensor [{n}]")
    return value


def _sums(of: object) -> dict[str, float]:
    """Of the tensors that a score is given, by name: they tell whether it wrote into one."""
    held = {name: value if isinstance(value, tuple) else (value,) for name, value in vars(of).items()}
    return {
        f"{name}.{i}" if len(values) > 1 else name: float(value.sum())
        for name, values in held.items()
        for i, value in enumerate(values)
        if isinstance(value, Tensor)
    }


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
