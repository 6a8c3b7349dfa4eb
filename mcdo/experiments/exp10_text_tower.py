"""Exp10: does dropout in the text tower tell vague prompts from specific ones, at the same length?

A longer prompt has more tokens for dropout to disturb, and the published specificity grows with length by construction;
so their plain correlation says nothing about wording. Length is held fixed twice: by the partial rank correlation given
the number of tokens, and by ranks among prompts of exactly the same number of tokens. Prompts of one frame (all classes
in one wording) are no independent draws, so intervals are over frames.

The Monte Carlo score of a prompt is noisy, so the first-order variance stands beside it: the same quantity for small p,
without sampling noise. Where Monte Carlo shows nothing, it tells noise from absence.

Every text tower is perturbed at the same roles, attention included. The published run disturbed different sites in its
two models, and the vision tower of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.estimators.jacobian import SiteGraph
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.experiments.prompt_bank import Prompt, specificity, wording
from mcdo.names import file_name
from mcdo.perturbation import Perturbation, find_sites
from mcdo.report.figures import save_figure
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    Difference,
    Estimate,
    GroupDifference,
    Relation,
    Reliability,
    advantages,
    auroc,
    bootstrap,
    group_differences,
    holm,
    rank_relations,
    reliability,
)

FOLDER = "exp10_text_encoder"
ROLES = ("qkv", "attention_output", "fc1", "fc2", "final_projection")
"""Roles that the text towers of open_clip and transformers have in common; a tower without one of them is refused."""
SCORES = ("trace_pre", "trace_post", "trace_pre_relative")
FIRST_ORDER = ("first_order_pre", "first_order_post")
EXACT_UP_TO = 64
"""Feature sizes up to which the first-order trace is summed over all axes; above, over as many random probes."""
UNSPECIFIC_SHARE = 0.2
GENERIC_STYLE = "generic"
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Exp10Config(ExperimentConfig):
    """n prompts (all, where the bank holds fewer), K trials at one T."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 200, "passes": 32}

    n: int = 1000
    passes: int = 64
    trials: int = 3

    @property
    def perturbation(self) -> Perturbation:
        """The session's, at the matched roles unless it names sites of its own."""
        return self.dropout.at(*ROLES) if self.dropout.sites == "all" else self.dropout

    @property
    def protocol(self) -> MonteCarloConfig:
        """What the prompts are measured with."""
        return MonteCarloConfig(self.perturbation, (self.passes,), self.trials, self.seed)


@dataclass(frozen=True, eq=False)
class Exp10Result:
    """By score, those of FIRST_ORDER among them, unless said otherwise.

    Attributes:
        tokens, specificity, wording, feature_norm: of each prompt.
        scores: means over trials.
        reliability: of the Monte Carlo scores.
        ratio: mean Monte Carlo trace_pre over that of first order.
        specific: relation to specificity, plain and given the number of tokens.
        same_length: the same of ranks among prompts of one length, at lengths that several specificities have.
        given_norm: the same, plain and given the feature norm.
        length: relation to the number of tokens, plain and given the feature norm.
        detects: AUROC for the least specific fifth, of the score and of its rank among prompts of one length.
        advantage: over token count and feature norm, by (score, baseline, target).
        generic: frames that name no class against the others, by mean rank at one length; p_holm is over scores.
        styles: by style too, mean rank (0 to 1) among prompts of one length.
        frames, crossed: how many frames, and how many prompts at lengths that several specificities have.

    """

    tokens: NDArray[np.int64]
    specificity: Array
    wording: Array
    scores: dict[str, Array]
    feature_norm: Array
    reliability: dict[str, Reliability]
    ratio: Estimate
    specific: dict[str, Relation]
    same_length: dict[str, Relation]
    given_norm: dict[str, Relation]
    length: dict[str, Relation]
    detects: dict[str, dict[str, Estimate]]
    advantage: dict[tuple[str, str, str], Difference]
    generic: dict[str, GroupDifference]
    styles: dict[str, dict[str, Estimate]]
    frames: int
    crossed: int


def needs(config: Exp10Config, model: str) -> list[Need]:
    """No images; the prompts are measured when they are known."""
    return []


def first_order_traces(tower: Encoder, tokens: Tensor, kind: Perturbation, seed: int = 42) -> dict[str, Array]:
    """trace_pre and trace_post to first order of each row of tokens, ``[N]`` each, by the names of FIRST_ORDER."""
    width, sites = tower.feature_dim, find_sites(tower).select_for(kind)
    axes = torch.eye(width, device=tower.device)
    if width > EXACT_UP_TO:
        signs = np.random.default_rng(seed).choice((-1.0, 1.0), (EXACT_UP_TO, width)) / math.sqrt(EXACT_UP_TO)
        axes = torch.from_numpy(signs.astype(np.float32)).to(tower.device)
    pre, post = [], []
    for start in range(0, len(tokens), 128):
        graph = SiteGraph(tower, tokens[start : start + 128], kind, sites)
        norm = graph.features.detach().norm(dim=-1, keepdim=True)
        total = sum((graph.terms(axis).double().sum(-1) for axis in axes), torch.zeros(()))
        along = graph.terms(graph.features.detach() / norm, last=True).double().sum(-1)
        pre.append(total.cpu())
        post.append(((total - along) / norm[:, 0].square()).cpu())
    scale = kind.variance / width
    found = zip(FIRST_ORDER, (pre, post), strict=True)
    return {name: torch.cat(parts).numpy() * scale for name, parts in found}


def same_length_ranks(values: ArrayLike, tokens: ArrayLike) -> Array:
    """Mid-rank of each value among those with as many tokens, from 0 to 1 without its ends, ``[N]``; .5 where alone."""
    held, lengths = np.asarray(values, dtype=np.float64), np.asarray(tokens)
    ranks = np.empty(len(held))
    for length in np.unique(lengths):
        members = lengths == length
        ranks[members] = (stats.rankdata(held[members]) - 0.5) / members.sum()
    return ranks


def crossed(tokens: ArrayLike, specific: ArrayLike) -> NDArray[np.bool_]:
    """Prompts ``[N]`` whose length more than one specificity has: only they say anything at a fixed length."""
    lengths, values = np.asarray(tokens), np.asarray(specific)
    varied = [length for length in np.unique(lengths) if np.ptp(values[lengths == length]) > 1e-12]
    return np.isin(lengths, varied)


def compute(
    config: Exp10Config,
    prompts: Sequence[Prompt],
    tokens: NDArray[np.int64],
    run: MonteCarloRun,
    linear: Mapping[str, Array],
) -> Exp10Result:
    """Everything of one model.

    Args:
        config: the protocol.
        prompts: in the order of the run's columns.
        tokens: number of tokens of each, before the padding.
        run: of the text tower on the prompts.
        linear: from :func:`first_order_traces`.

    Raises:
        McdoError: if the run is of other prompts, or no two prompts of one length differ in specificity.

    """
    texts = [prompt.text for prompt in prompts]
    if list(run.ids) != texts or len(tokens) != len(texts):
        raise McdoError(f"{run.encoder}: the run is of {len(run.ids)} other prompts than the {len(texts)} given")
    trials = {name: run.scores(name, config.passes)[: config.trials] for name in SCORES}
    scores = {**{name: values.mean(0) for name, values in trials.items()}, **linear}
    norm, seed = run.feature_norm, config.seed
    frames, target = [prompt.frame for prompt in prompts], specificity(texts, tokens)
    held = crossed(tokens, target)
    if held.sum() < 5:
        raise McdoError(
            f"{held.sum()} prompts share their number of tokens with one of another specificity: length cannot be held "
            "fixed; give prompts of several wordings at the same length"
        )
    among = [frame for frame, take in zip(frames, held, strict=True) if take]
    ranks = {name: same_length_ranks(values, tokens) for name, values in scores.items()}
    unspecific = target <= np.quantile(target, UNSPECIFIC_SHARE)

    def related(of: Mapping[str, Array], other: ArrayLike, by: Sequence[str], given: Any = None) -> dict[str, Relation]:
        found = rank_relations(of, {"": other}, given=given, origins=by, seed=seed)
        return {score: relation for (score, _), relation in found.items()}

    return Exp10Result(
        tokens=tokens,
        specificity=target,
        wording=wording(texts),
        scores=scores,
        feature_norm=norm,
        reliability={name: reliability(values, seed=seed) for name, values in trials.items()},
        ratio=bootstrap(_mean_ratio, scores["trace_pre"], linear["first_order_pre"], seed=seed),
        specific=related(scores, target, frames, tokens),
        same_length=related(
            {name: values[held] for name, values in ranks.items()}, same_length_ranks(target, tokens)[held], among
        ),
        given_norm=related(scores, target, frames, norm),
        length=related(scores, tokens, frames, norm),
        detects={
            name: {
                "auroc": auroc(values, unspecific, origins=frames),
                "auroc_same_length": auroc(ranks[name], unspecific, origins=frames),
            }
            for name, values in scores.items()
        },
        advantage=advantages(
            scores,
            {"tokens": tokens, "feature_norm": norm},
            follows={"unspecificity": -target},
            detects={"unspecific": unspecific},
            origins=frames,
            seed=seed,
        ),
        generic=_generic(ranks, prompts, seed),
        styles={name: _styles(values, prompts, seed) for name, values in ranks.items()},
        frames=len(set(frames)),
        crossed=int(held.sum()),
    )


def _mean_ratio(measured: Array, predicted: Array) -> float:
    return float(measured.mean() / predicted.mean())


def _frame_means(values: Array, prompts: Sequence[Prompt]) -> dict[str, Array]:
    """By style, the mean of each frame: frames count once, however many classes they were filled with."""
    by_frame: dict[str, dict[str, list[float]]] = {}
    for value, prompt in zip(values, prompts, strict=True):
        by_frame.setdefault(prompt.style, {}).setdefault(prompt.frame, []).append(float(value))
    return {
        style: np.array([np.mean(held) for _, held in sorted(frames.items())])
        for style, frames in sorted(by_frame.items())
    }


def _styles(values: Array, prompts: Sequence[Prompt], seed: int) -> dict[str, Estimate]:
    """Mean over the frames of each style, with an interval over frames."""
    return {
        style: bootstrap(np.mean, means, seed=seed)
        if len(means) > 1
        else Estimate(float(means[0]), math.nan, math.nan, 1)
        for style, means in _frame_means(values, prompts).items()
    }


def _generic(ranks: Mapping[str, Array], prompts: Sequence[Prompt], seed: int) -> dict[str, GroupDifference]:
    """Generic frames against all others; nothing where the prompts have fewer than two of either."""
    found = {}
    for name, values in ranks.items():
        means = _frame_means(values, prompts)
        groups = {"named": np.concatenate([[], *(m for s, m in means.items() if s != GENERIC_STYLE)])}
        groups[GENERIC_STYLE] = means.get(GENERIC_STYLE, np.array([]))
        if min(map(len, groups.values())) < 2:
            return {}
        (found[name],) = group_differences(groups, seed=seed).values()
    adjusted = holm([difference.p_value for difference in found.values()])
    return {
        name: replace(difference, p_holm=float(p))
        for (name, difference), p in zip(found.items(), adjusted, strict=True)
    }


def summary(result: Exp10Result) -> dict[str, Any]:
    """What stands in ``exp10_summary.json``, apart from the origin."""
    return {
        "prompts": len(result.tokens),
        "frames": result.frames,
        "prompts_at_crossed_lengths": result.crossed,
        "intervals": "bootstrap over frames (n counts them); of auroc over prompts",
        "tests": "p_holm: over the scores of a relation, plain and partial together; of advantages over all of them",
        "monte_carlo_over_first_order": result.ratio.as_dict(),
        "reliability": {name: r.as_dict() for name, r in result.reliability.items()},
        "specificity_given_tokens": {name: r.as_dict() for name, r in result.specific.items()},
        "specificity_same_length": {name: r.as_dict() for name, r in result.same_length.items()},
        "specificity_given_feature_norm": {name: r.as_dict() for name, r in result.given_norm.items()},
        "token_count": {name: r.as_dict() for name, r in result.length.items()},
        "unspecific": {name: {k: e.as_dict() for k, e in held.items()} for name, held in result.detects.items()},
        "advantage_over_baselines": {"/".join(key): d.as_dict() for key, d in result.advantage.items()},
        "generic_frames_against_named_same_length": {name: d.as_dict() for name, d in result.generic.items()},
        "style_mean_rank_same_length": {
            name: {style: e.as_dict() for style, e in held.items()} for name, held in result.styles.items()
        },
    }


def write(
    config: Exp10Config,
    prompts: Sequence[Prompt],
    run: MonteCarloRun,
    result: Exp10Result,
    reports: Path,
    session: str,
) -> Path:
    """Per model summary, arrays, manifest of the prompts and figure; ``exp10_overall_summary.json`` for all."""
    model = run.encoder.removesuffix(":text")
    folder = reports / FOLDER / file_name(model)
    write_npz(
        folder / "exp10_outputs.npz",
        prompts=np.array(run.ids),
        styles=np.array([prompt.style for prompt in prompts]),
        frames=np.array([prompt.frame for prompt in prompts]),
        specificity=result.specificity,
        wording=result.wording,
        token_count=result.tokens,
        feature_norm=result.feature_norm,
        **{name: result.scores[name] for name in FIRST_ORDER},
        **{f"{name}_trials": run.scores(name, config.passes)[: config.trials] for name in SCORES},
    )
    manifest = [{"prompt": p.text, "style": p.style, "frame": p.frame} for p in prompts]
    write_json(folder / "exp10_prompt_manifest.json", manifest)
    found = {"model": model, **summary(result), **origin(config, run)}
    found["num_prompts"] = found.pop("num_images")
    found["sites"]["requested"] = config.perturbation.sites
    write_json(folder / "exp10_summary.json", found)
    save_figure(figure(config, model, prompts, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp10_overall_summary.json"
    add_to_json(overall, session, "results", model, found)
    return overall


def figure(config: Exp10Config, model: str, prompts: Sequence[Prompt], result: Exp10Result) -> Figure:
    """The score against length by style, its relation to specificity three ways, and styles at the same length."""
    drawn = Figure(figsize=(17, 5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    n = len(prompts)
    drawn.suptitle(
        f"{model}, text tower: n={n} prompts of {result.frames} frames, T={config.passes}, K={config.trials}, "
        f"p={config.dropout.p:g}"
    )
    _scatter(left, prompts, result)
    series = {
        "plain": {name: r.rho for name, r in result.specific.items()},
        "given the number of tokens": {name: r.given for name, r in result.specific.items()},
        "among prompts of one length": {name: r.rho for name, r in result.same_length.items()},
    }
    interval_panel(middle, series, 0.0, "Spearman's ρ with specificity [95 % over frames]")
    middle.set_title("vague prompts more variable: below 0")
    shown = ("trace_pre", "trace_post", *FIRST_ORDER)
    interval_panel(
        right, {name: result.styles[name] for name in shown}, 0.5, "mean rank among prompts of one length (0 to 1)"
    )
    right.set_title("style, with length held fixed")
    return drawn


def _scatter(axes: Axes, prompts: Sequence[Prompt], result: Exp10Result) -> None:
    styles = np.array([prompt.style for prompt in prompts])
    offsets = np.random.default_rng(0).uniform(-0.25, 0.25, len(styles))
    for style in np.unique(styles):
        of = styles == style
        axes.plot(result.tokens[of] + offsets[of], result.scores["trace_pre"][of], ".", label=str(style), alpha=0.7)
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("trace_pre (squared feature units), mean over trials")
    axes.legend()
