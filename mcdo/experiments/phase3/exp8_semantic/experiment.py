"""Exp8: does the variance over passes lie where meaning lies, among the directions that prompts span?

The basis is the right singular vectors of centred unit text features. Of the covariance over passes one share lies in
it; a share says nothing by itself, because r of D directions hold r/D of any covariance on average. So it stands beside
chance, beside random subspaces of the same rank (how far chance strays when variance sits in a few directions), and
beside the share of the variance *between images*, which is what a semantic share looks like. All of it again after the
direction from texts to images, the modality gap, has been removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.encoders import find_spec
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.stats import (
    AmbiguityTargets,
    Estimate,
    Reliability,
    ambiguity_report,
    bootstrap,
    reliability,
    spearman,
)

Array = NDArray[np.float64]
FOLDER = "exp8_semantic_space"
PROMPTS = (
    "a dog", "a cat", "a person", "a car", "a truck", "a bicycle", "a motorcycle", "an airplane", "a boat", "a bird",
    "a tree", "a flower", "a building", "a street scene", "an indoor room", "a plate of food", "a laptop computer",
    "a phone", "a sports ball", "a backpack",
)  # fmt: skip
LEADING = 0.99
EMBEDDED_TEMPLATES = ("a photo of a {}", "a {}")
_RANK_TOLERANCE = 1e-5  # relative; features are float32, so a direction below it is rounding


@dataclass(frozen=True)
class Exp8Config(ExperimentConfig):
    """N images, K trials at one T; ``subspaces`` random ones for the null."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 200, "subspaces": 500}

    n: int = 500
    passes: int = 64
    trials: int = 3
    subspaces: int = 2000


def prompts(model: str, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """The 20 published prompts; for an embedded encoder, which knows 29 words, class names in two templates."""
    if not find_spec(model).embedded:
        return PROMPTS
    return tuple(template.format(name) for template in EMBEDDED_TEMPLATES for name in class_names)


def needs(config: Exp8Config, model: str) -> Need:
    """The same passes, measured for their trace and top1_ratio as well."""
    t = (config.passes,)
    return Need(model, config.n, MonteCarloConfig(config.dropout, t, config.trials, config.seed, geometry=t))


@dataclass(frozen=True, eq=False)
class Basis:
    """Orthonormal rows ``vectors`` [r, D], by falling singular value, in a space of ``dim`` directions."""

    vectors: Array
    singular_values: Array
    dim: int

    @property
    def chance(self) -> float:
        """Share of any covariance that lies in r random directions, on average: r over the dimension."""
        return len(self.vectors) / self.dim


def semantic_basis(text: NDArray[np.floating], gap: Array | None = None, variance: float = 1.0) -> Basis:
    """Right singular vectors of centred unit text features ``[n, D]``; those of rounding left out.

    With ``gap`` [D] that direction is taken from the texts first, and one dimension is gone. ``variance`` below 1 keeps
    as few directions as hold that share of the variance of the texts.

    Raises:
        McdoError: if the texts do not differ.

    """
    units = unit(text)
    centred = units - units.mean(0)
    dim = centred.shape[1]
    if gap is not None:
        direction = unit(gap)
        centred, dim = centred - np.outer(centred @ direction, direction), dim - 1
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    kept = values > max(_RANK_TOLERANCE * values[0], 1e-8)
    if not kept.any():
        raise McdoError("the prompts have one and the same text feature, so they span no direction")
    if variance < 1:
        held = np.cumsum(np.square(values)) / np.square(values).sum()
        kept[np.searchsorted(held, variance) + 1 :] = False
    return Basis(rows[kept], values[kept], dim)


def modality_gap(features: NDArray[np.floating], text: NDArray[np.floating]) -> Array:
    """Mean unit image feature minus mean unit text feature, ``[D]``."""
    return np.asarray(unit(features).mean(0) - unit(text).mean(0))


def unit(x: NDArray[np.floating]) -> Array:
    """``[..., D]`` as float64 of norm one."""
    held = np.asarray(x, dtype=np.float64)
    return np.asarray(held / np.linalg.norm(held, axis=-1, keepdims=True))


@dataclass(frozen=True)
class Share:
    """How much of the variance over passes lies in a basis.

    ``observed`` over images (mean over trials first); ``null`` is the central 95 % of random subspaces, ``p_value`` the
    share of them that hold at least as much (+1 rule); ``images`` is the share of the variance between images.
    """

    rank: int
    dim: int
    chance: float
    observed: Estimate
    null: tuple[float, float]
    p_value: float
    images: float
    by_rank: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "rank": self.rank,
            "dim": self.dim,
            "chance_share": self.chance,
            "parallel_share": self.observed.as_dict(),
            "random_subspaces_95": list(self.null),
            "p_value_random_subspaces": self.p_value,
            "share_of_variance_between_images": self.images,
            "cumulative_share_by_rank": list(self.by_rank),
        }


@dataclass(frozen=True)
class Exp8Result:
    """Shares, scores [K, N], and what they are worth.

    Shares in the whole basis ("raw"), in it after removing the gap ("gap_removed"), and in its leading directions
    alone, those that hold 99 % of the variance of the texts ("leading"): prompts that say the same in other words
    add directions which mean next to nothing.
    ``gap_share`` is the share of the variance along the modality gap itself (chance 1/D).
    """

    shares: dict[str, Share]
    gap_share: Estimate
    scores: dict[str, Array]
    reliability: dict[str, Reliability]
    prompt_reliability: list[Reliability]
    with_trace: dict[str, Estimate]
    ambiguity: dict[str, dict[str, Any]]


def compute(
    config: Exp8Config,
    run: MonteCarloRun,
    moments: Mapping[str, Array],
    text: NDArray[np.floating],
    targets: AmbiguityTargets,
) -> Exp8Result:
    """Everything of one model.

    Args:
        config: the protocol.
        run: the measurement that :func:`needs` names.
        moments: from :func:`mcdo.experiments.pass_moments.pass_moments`, of the same passes.
        text: pre-norm text features of the prompts, ``[n, D]``.
        targets: of the zero-shot prediction, for the same images.

    """
    K, T, seed = config.trials, config.passes, config.seed
    gap = modality_gap(run.features, text)
    raw, removed, leading = semantic_basis(text), semantic_basis(text, gap), semantic_basis(text, None, LEADING)
    total = moments["total"]
    along_gap = _along(moments, unit(gap)[None])[..., 0]
    parallel, parallel_removed = _along(moments, raw.vectors), _along(moments, removed.vectors)
    D = run.features.shape[1]
    scores = {
        "trace_pre": run.scores("trace_pre", T)[:K],
        "parallel": parallel.sum(-1) / D,
        "orthogonal": (total - parallel.sum(-1)) / D,
        "parallel_fraction": parallel.sum(-1) / total,
        "parallel_fraction_gap_removed": parallel_removed.sum(-1) / (total - along_gap),
        "similarity_variance": moments["similarity"].mean(-1),
        "anisotropy": run.scores("top1_ratio", T)[:K],
    }
    trace = scores["trace_pre"].mean(0)
    return Exp8Result(
        shares={
            "raw": _share(config, raw, parallel, total, moments["mean_covariance"], run.features, None),
            "gap_removed": _share(
                config, removed, parallel_removed, total - along_gap, moments["mean_covariance"], run.features, gap
            ),
            "leading": _share(
                config, leading, _along(moments, leading.vectors), total, moments["mean_covariance"], run.features, None
            ),
        },
        gap_share=bootstrap(np.mean, (along_gap / total).mean(0), seed=seed),
        scores=scores,
        reliability={name: reliability(score, seed=seed, resamples=500) for name, score in scores.items()},
        prompt_reliability=[
            reliability(moments["similarity"][..., k], seed=seed, resamples=100) for k in range(len(text))
        ],
        with_trace={
            name: spearman(trace, score.mean(0), seed=seed) for name, score in scores.items() if name != "trace_pre"
        },
        ambiguity={
            name: ambiguity_report(score.mean(0), targets, run.feature_norm, seed=seed, resamples=500)
            for name, score in scores.items()
        },
    )


def _along(moments: Mapping[str, Array], vectors: Array) -> Array:
    """Variance over passes along unit ``vectors`` [r, D], ``[K, N, r]``.

    All of them lie in the span of ``frame`` [q, D], whose covariance [K, N, q, q] was kept.
    """
    inside = vectors @ moments["frame"].T
    if not np.allclose(np.square(inside).sum(-1), 1, atol=1e-6):
        raise McdoError("a direction lies outside the span whose covariance was kept; measure it anew")
    return np.asarray(np.einsum("rp,knpq,rq->knr", inside, moments["covariance"], inside))


def _share(
    config: Exp8Config,
    basis: Basis,
    parallel: Array,
    total: Array,
    mean_covariance: Array,
    features: NDArray[np.floating],
    gap: Array | None,
) -> Share:
    fractions = (parallel / total[..., None]).mean(0)
    P = _without(features.shape[1], gap)
    passes, between = P @ mean_covariance @ P, P @ np.cov(np.asarray(features, dtype=np.float64).T) @ P
    null = _random_shares(passes, len(basis.vectors), P, config.subspaces, config.seed)
    inside = float(np.trace(basis.vectors @ passes @ basis.vectors.T) / np.trace(passes))
    return Share(
        rank=len(basis.vectors),
        dim=basis.dim,
        chance=basis.chance,
        observed=bootstrap(np.mean, fractions.sum(-1), seed=config.seed),
        null=(float(np.quantile(null, 0.025)), float(np.quantile(null, 0.975))),
        p_value=float((1 + np.sum(null >= inside)) / (1 + len(null))),
        images=float(np.trace(basis.vectors @ between @ basis.vectors.T) / np.trace(between)),
        by_rank=tuple(float(share) for share in np.cumsum(fractions.mean(0))),
    )


def _without(D: int, gap: Array | None) -> Array:
    """The projection onto what is orthogonal to ``gap``, ``[D, D]``."""
    direction = np.zeros(D) if gap is None else unit(gap)
    return np.asarray(np.eye(D) - np.outer(direction, direction))


def _random_shares(covariance: Array, rank: int, P: Array, draws: int, seed: int) -> Array:
    """Share of ``covariance`` in random subspaces of ``rank`` within the range of ``P``, ``[draws]``."""
    rng = np.random.default_rng((seed, 8))
    shares = []
    for _ in range(draws):
        rows, _ = np.linalg.qr(P @ rng.normal(size=(len(P), rank)))
        shares.append(np.trace(rows.T @ covariance @ rows) / np.trace(covariance))
    return np.array(shares)


def write(
    config: Exp8Config, run: MonteCarloRun, named: tuple[str, ...], result: Exp8Result, reports: Path, session: str
) -> Path:
    """Per model a summary, the arrays and the figure; ``exp8_overall_summary.json`` for all."""
    folder = reports / FOLDER / file_name(run.encoder)
    write_npz(folder / "exp8_outputs.npz", paths=np.array(run.ids), prompts=np.array(named), **result.scores)
    most = np.argsort(-result.scores["trace_pre"].mean(0), kind="stable")[:20]
    summary: dict[str, Any] = {
        "model": run.encoder,
        "prompts": named,
        "shares": {name: share.as_dict() for name, share in result.shares.items()},
        "gap_share": {**result.gap_share.as_dict(), "chance": 1 / run.features.shape[1]},
        "reliability": {name: found.as_dict() for name, found in result.reliability.items()},
        "similarity_variance_by_prompt": {
            prompt: found.as_dict() for prompt, found in zip(named, result.prompt_reliability, strict=True)
        },
        "rho_trace_vs": {name: rho.as_dict() for name, rho in result.with_trace.items()},
        "ambiguity": result.ambiguity,
        "most_uncertain": [run.ids[i] for i in most],
        **origin(config, run),
    }
    write_json(folder / "exp8_summary.json", summary)
    save_figure(figure(run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp8_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, summary)
    return overall


def figure(model: str, result: Exp8Result) -> Figure:
    """The share inside the basis as directions are added, against chance, random subspaces and images."""
    fig = Figure(figsize=(12, 4.2))
    for axes, (name, share) in zip(fig.subplots(1, 3, sharey=True), result.shares.items(), strict=True):
        ranks = np.arange(1, share.rank + 1)
        axes.plot(ranks, share.by_rank, "o-", label="variance over passes")
        axes.plot(ranks, ranks / share.dim, "--", color="grey", label="chance, rank / dimension")
        axes.fill_between([share.rank - 0.3, share.rank + 0.3], *share.null, color="grey", alpha=0.4,
                          label="95 % of random subspaces")  # fmt: skip
        axes.axhline(share.images, color="tab:green", label="variance between images")
        axes.set_title({"raw": "all directions", "gap_removed": "gap removed", "leading": "99 % of the texts"}[name])
        axes.set_xlabel("directions of the text basis [count]")
    fig.axes[0].set_ylabel("share of variance [1]")
    fig.axes[0].legend(fontsize=8)
    fig.suptitle(f"{model}: is the variance semantic?")
    return fig
