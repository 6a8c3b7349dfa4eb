"""Exp11: does a drop probability of its own for each depth make a better score than the same one everywhere?

To first order the score is Σ_g p_g/(1 − p_g) · (contribution of group g), so one first-order run serves every vector p,
and the objective has a gradient. Random search (the published way) and gradient search get the same number of
evaluations. Both see one half of the originals only; what is reported comes from the other half, which no search can
be given. The best of several candidates looks better where it was chosen than it is: the published run chose and
reported on the same images.

The objective does not change when all odds are multiplied by one number, so the level of p is free: it is set to give
the mean score of the uniform p, which keeps p small where first order holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.estimators import FirstOrderRun, MonteCarloConfig
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, write_json, write_npz
from mcdo.experiments.depth_search import (
    GRADIENT,
    ICC_WEIGHT,
    RANDOM,
    UNIFORM,
    WEIGHTS,
    Array,
    Budget,
    Choice,
    ChoosingHalf,
    ReportingHalf,
    Targets,
    chosen_originals,
    compare,
    depth_groups,
    published_targets,
    split,
)
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.report.panels import interval_panel
from mcdo.stats import AmbiguityTargets, Difference, Estimate, Relation, bootstrap, corrected, rank_relations

FOLDER = "exp11_concrete_proxy"
SCORES = ("trace_pre", "trace_post")


@dataclass(frozen=True)
class Exp11Config(ExperimentConfig):
    """N images, K trials, G depth groups, p in [low, high]; ``candidates`` evaluations for either search."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 300, "passes": 16, "probes": 6}

    n: int = 2000
    passes: int = 32
    trials: int = 2
    groups: int = 4
    candidates: int = 24
    low: float = 0.001
    high: float = 0.1
    probes: int = 16

    @property
    def budget(self) -> Budget:
        """What the searches may do."""
        return Budget(self.dropout.p, self.candidates, self.low, self.high, self.seed)

    def protocol(self, sites: Sequence[str] | None = None, p: float | None = None) -> MonteCarloConfig:
        """Monte Carlo with the session's perturbation, or with another p at ``sites`` alone."""
        kind = self.dropout if sites is None or p is None else self.dropout.at(*sites).with_p(p)
        return MonteCarloConfig(kind, (self.passes,), self.trials, self.seed)


def first_order_need(config: Exp11Config, model: str) -> Need:
    """What the first-order run is asked for."""
    return Need(model, config.n, config.protocol())


def needs(config: Exp11Config, model: str) -> list[Need]:
    """No passes over all images: the chosen p are confirmed on the half that is reported."""
    return []


def contributions(run: FirstOrderRun, score: str, groups: Sequence[Sequence[str]]) -> Array:
    """What each group adds to a score at odds p/(1 − p) = 1, ``[K, N, G]``."""
    parts, names = run.decomposition(score, p=0.5), [name for name, _ in run.sites]
    return np.stack([parts[..., [names.index(name) for name in group]].sum(-1) for group in groups], axis=-1)


@dataclass(frozen=True, eq=False)
class Searched:
    """One score: the choices by name, all random candidates in sample and held out, and the held-out comparison."""

    choices: dict[str, Choice]
    level: dict[str, Array]
    candidates: tuple[Array, Array, Array]
    held_out: dict[str, Estimate]
    differences: dict[str, Difference]

    def optimism(self, name: str) -> float:
        """How much larger the gain over the uniform p looks where it was chosen than on the other half."""
        inside = self.choices[name].in_sample - self.choices[UNIFORM].in_sample
        return inside - (self.held_out[name].value - self.held_out[UNIFORM].value)


@dataclass(frozen=True, eq=False)
class Exp11Result:
    """By score the search, and on the reporting half the relation of each choice, and of each group alone, to entropy
    (plain and given the feature norm) and to that norm; ``reported`` are the places of the images of that half.
    """

    groups: tuple[tuple[str, ...], ...]
    searched: dict[str, Searched]
    relations: dict[str, dict[tuple[str, str], Relation]]
    reported: NDArray[np.intp]
    targets: Targets
    originals: tuple[str, ...]


def compute(config: Exp11Config, run: FirstOrderRun, targets: AmbiguityTargets) -> Exp11Result:
    """Both searches and their comparison for each score; the halves are the same for all.

    Args:
        config: the protocol.
        run: first-order scores of all images; those of one origin stay together.
        targets: of all images, with prompt sensitivity.

    """
    originals = run.origins
    groups = depth_groups([name for name, _ in run.sites], config.groups)
    searched = {}
    for score in SCORES:
        halves = split(contributions(run, score, groups)[: config.trials], targets, originals, config.seed)
        searched[score] = search(config, *halves)
    family = corrected({score: found.differences for score, found in searched.items()})
    first = chosen_originals(originals, config.seed)
    reported = np.flatnonzero([name not in first for name in originals])
    return Exp11Result(
        groups=groups,
        searched={
            score: Searched(found.choices, found.level, found.candidates, found.held_out, family[score])
            for score, found in searched.items()
        },
        relations={
            score: _relations(config, run, score, groups, found, targets.entropy, reported, originals)
            for score, found in searched.items()
        },
        reported=reported,
        targets={name: values[reported] for name, values in published_targets(targets).items()},
        originals=tuple(name for name in originals if name not in first),
    )


def _relations(
    config: Exp11Config,
    run: FirstOrderRun,
    score: str,
    groups: Sequence[Sequence[str]],
    found: Searched,
    entropy: Array,
    reported: NDArray[np.intp],
    originals: Sequence[str],
) -> dict[tuple[str, str], Relation]:
    parts, norm = contributions(run, score, groups)[: config.trials, reported].mean(0), run.feature_norm[reported]
    choices = {name: parts @ choice.odds for name, choice in found.choices.items()}
    alone = {f"group_{i}": parts[:, i] for i in range(len(groups))}
    others, origins = {"entropy": entropy[reported], "feature_norm": norm}, [originals[int(i)] for i in reported]
    return rank_relations({**choices, **alone}, others, given=norm, origins=origins, seed=config.seed)


def search(config: Exp11Config, choosing: ChoosingHalf, reporting: ReportingHalf) -> Searched:
    """Choose on one half, report on the other."""
    uniform = choosing.choice(UNIFORM, np.full(choosing.contributions.shape[-1], config.dropout.p))
    best, tried = choosing.random(config.budget)
    choices = [uniform, best, choosing.gradient(config.budget)]
    held_out, differences = reporting.compare(choices, config.seed)
    mean = choosing.contributions.mean((0, 1))
    level = {c.name: c.odds * (uniform.odds @ mean) / (c.odds @ mean) for c in choices}
    return Searched(
        choices={choice.name: choice for choice in choices},
        level={name: np.asarray(odds / (1 + odds)) for name, odds in level.items()},
        candidates=(
            np.stack([choice.p for choice in tried]),
            np.array([choice.in_sample for choice in tried]),
            np.array([reporting.objective(choice.odds) for choice in tried]),
        ),
        held_out=held_out,
        differences=differences,
    )


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Monte Carlo on the reporting half, for trace_pre.

    A perturbation has one p for all its sites, so each group is measured alone and the traces are added: exact within a
    group, and to first order between groups. ``joint`` is the uniform p measured in one run, and ``additivity`` its
    mean trace over the sum's.
    """

    held_out: dict[str, Estimate]
    differences: dict[str, Difference]
    additivity: Estimate


def confirmation_protocols(config: Exp11Config, result: Exp11Result) -> dict[str, list[MonteCarloConfig]]:
    """By choice, one protocol per group at the p of equal level; and the joint run of the uniform p."""
    level = result.searched["trace_pre"].level
    each = {
        name: [config.protocol(sites, float(p)) for sites, p in zip(result.groups, level[name], strict=True)]
        for name in (UNIFORM, GRADIENT)
    }
    names = tuple(itertools.chain(*result.groups))
    return {"joint": [config.protocol(names, config.dropout.p)], **each}


def confirm(config: Exp11Config, result: Exp11Result, measured: Mapping[str, Array]) -> Confirmation:
    """From trace_pre [K, n] on the reporting half by the names of :func:`confirmation_protocols`, groups added."""
    _, original = np.unique(np.asarray(result.originals), return_inverse=True)
    joint, summed = (np.bincount(original, measured[name].mean(0)) for name in ("joint", UNIFORM))
    shown = {name: measured[name] for name in ("joint", UNIFORM, GRADIENT)}
    held_out, differences = compare(shown, result.targets, result.originals, config.seed)
    ratio = bootstrap(_mean_ratio, joint, summed, seed=config.seed)
    return Confirmation(held_out, differences, ratio)


def _mean_ratio(a: Array, b: Array) -> float:
    return float(a.mean() / b.mean())


def summary(config: Exp11Config, result: Exp11Result, confirmed: Confirmation) -> dict[str, Any]:
    """What stands in ``exp11_summary.json``, apart from the origin."""
    return {
        "scores": {score: _searched(found) for score, found in result.searched.items()},
        "relations_held_out": {
            score: {f"{name} ~ {other}": r.as_dict() for (name, other), r in found.items()}
            for score, found in result.relations.items()
        },
        "monte_carlo": {
            "objective_held_out": {name: e.as_dict() for name, e in confirmed.held_out.items()},
            "differences_held_out": {name: d.as_dict() for name, d in confirmed.differences.items()},
            "joint_over_sum_of_groups": confirmed.additivity.as_dict(),
            "assumed": "traces of groups add up, which is so to first order; within a group nothing is assumed",
        },
        "halves": "originals at random, variants together; chosen on one, reported on the other",
        "images_reported": len(result.reported),
        "intervals": "bootstrap over originals of the reporting half (n counts them), paired",
        "tests": "p_holm over scores and pairs; of monte_carlo over its pairs",
        "objective_weights": {**WEIGHTS, "icc": ICC_WEIGHT},
        "level": "to first order the objective leaves the level of p free; p_at_level has the uniform p's mean score",
    }


def _searched(found: Searched) -> dict[str, Any]:
    return {
        "choices": {
            name: {
                "p": choice.p.tolist(),
                "p_at_level": found.level[name].tolist(),
                "objective_in_sample": choice.in_sample,
                "objective_held_out": found.held_out[name].as_dict(),
                "optimism_of_gain": found.optimism(name),
            }
            for name, choice in found.choices.items()
        },
        "differences_held_out": {name: d.as_dict() for name, d in found.differences.items()},
    }


def write(
    config: Exp11Config,
    run: FirstOrderRun,
    result: Exp11Result,
    confirmed: Confirmation,
    reports: Path,
    session: str,
) -> Path:
    """Per model summary, groups, arrays and figure; ``exp11_overall_summary.json`` for all."""
    folder = reports / FOLDER / file_name(run.encoder)
    arrays: dict[str, NDArray[Any]] = {}
    for score, found in result.searched.items():
        p, inside, outside = found.candidates
        arrays |= {
            f"{score}_candidates_p": p,
            f"{score}_candidate_objectives": inside,
            f"{score}_candidate_objectives_held_out": outside,
            f"{score}_contributions": contributions(run, score, result.groups).astype(np.float32),
        }
    write_npz(folder / "exp11_outputs.npz", paths=np.array(run.ids), reported=result.reported, **arrays)
    write_json(folder / "exp11_groups.json", {f"group_{i}": list(group) for i, group in enumerate(result.groups)})
    found_ = {
        "model": run.encoder,
        **summary(config, result, confirmed),
        "config": config.as_dict(),
        "num_images": len(run.ids),
        "provenance": dict(run.provenance),
    }
    write_json(folder / "exp11_summary.json", found_)
    save_figure(figure(config, run.encoder, result, confirmed), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "exp11_overall_summary.json"
    add_to_json(overall, session, "results", run.encoder, found_)
    return overall


def figure(config: Exp11Config, model: str, result: Exp11Result, confirmed: Confirmation) -> Figure:
    """Candidates in sample against held out, the held-out objectives, and the chosen p by depth."""
    drawn = Figure(figsize=(17, 5), layout="constrained")
    left, middle, right = drawn.subplots(1, 3)
    drawn.suptitle(f"{model}: p by depth (N={config.n}, half to choose on; {config.candidates} evaluations each)")
    for score, found in result.searched.items():
        left.plot(found.candidates[1], found.candidates[2], ".", label=f"{score}, random candidates")
        for name, marker in ((UNIFORM, "s"), (RANDOM, "^"), (GRADIENT, "D")):
            inside, outside = found.choices[name].in_sample, found.held_out[name].value
            left.plot(inside, outside, marker, markersize=9, fillstyle="none", label=f"{score}, {name}")
        right.plot(range(1, config.groups + 1), found.level[GRADIENT], "D-", label=f"{score}, gradient")
        right.plot(range(1, config.groups + 1), found.level[RANDOM], "^--", label=f"{score}, random")
    left.axline((0, 0), slope=1, color="black", linewidth=1, label="as good held out as in sample")
    left.set_xlabel("objective on the choosing half")
    left.set_ylabel("objective on the reporting half")
    left.legend(fontsize="small")
    series = {f"{score}, first order": found.held_out for score, found in result.searched.items()}
    series["trace_pre, Monte Carlo"] = confirmed.held_out
    interval_panel(middle, series, None, "objective on the reporting half [95 %]")
    right.axhline(config.dropout.p, color="black", linestyle=":", label="uniform")
    right.set_yscale("log")
    right.set_xticks(range(1, config.groups + 1))
    right.set_xlabel("depth group (1 is nearest to the pixels)")
    right.set_ylabel("drop probability at equal mean score")
    right.legend(fontsize="small")
    return drawn
