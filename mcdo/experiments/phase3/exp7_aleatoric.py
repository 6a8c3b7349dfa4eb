"""Exp7: is the spread over dropout masks another thing than the spread over views of the image?

Epistemic: trace over passes, mean of K trials. Aleatoric: variance of the deterministic feature over the clean image
and its degraded versions, family by family (the published 13 variants held the clean image three times, and mixed
families whose effects differ by orders of magnitude). Do they rank images alike, once the noise of the trials is
allowed for and the feature norm is held fixed? And do both together find ambiguity and errors better than one?
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS, follows
from mcdo.harness import Claim, Experiment, Features, Files, Images, Inputs, Logits, Passes, Request, View
from mcdo.images.degradations import graded
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import (
    AmbiguityTargets,
    Difference,
    Estimate,
    Origins,
    Reliability,
    ambiguity_table,
    ambiguity_targets,
    auroc_differences,
    corrected_families,
    disattenuated_spearman,
    partial_spearman,
    reliability,
    report_of,
    spearman,
    spearman_differences,
)
from mcdo.stats.ranks import mid_ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
REFERENCE = "epistemic"
NORM = "inverse_norm"
ENTROPY = "zero_shot_entropy"
DETERMINISTIC = ("jpeg", "blur", "down")
"""Families whose variants involve no draw, so that their spread is known without error."""
JUDGED = ("aleatoric_rank", "combined_rank")
SAME = 0.8
"""Rank correlation from which the pipeline calls two rankings the same."""


@dataclass(frozen=True)
class EpistemicRelation:
    """Epistemic against one aleatoric score.

    Attributes:
        rho: rank correlation.
        given_norm: the same given the feature norm.
        disattenuated: ρ as it would be at infinite T and K; None for families with random variants, whose reliability
            is not known.

    """

    rho: Estimate
    given_norm: Estimate
    disattenuated: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form; ``disattenuated`` is a number, ``disattenuated_estimate`` the same with its interval."""
        found = None if self.disattenuated is None else self.disattenuated.as_dict()
        number = None if found is None else found["value"]
        plain = {"rho": self.rho.as_dict(), "given_norm": self.given_norm.as_dict()}
        return {**plain, "disattenuated": number, "disattenuated_estimate": found}


@dataclass(frozen=True)
class AleatoricResult:
    """What the two kinds of spread say, and what both together do.

    Attributes:
        scores: [N] by name, larger meaning more uncertain.
        targets: of the zero-shot prediction.
        relations: epistemic against each aleatoric score.
        epistemic_reliability: of one trial.
        figures: against the targets, by score.
        differences: a score's figure less that of epistemic alone, by target and score.

    """

    scores: Mapping[str, Array]
    targets: AmbiguityTargets
    relations: Mapping[str, EpistemicRelation]
    epistemic_reliability: Reliability
    figures: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Difference]]


@dataclass(frozen=True)
class AleatoricEpistemic(Experiment[AleatoricResult]):
    """N images, K trials at one T. Each family comes in its graded levels; the clean image is one variant of each."""

    key = "exp7"
    name = "exp7_aleatoric_epistemic"
    phase = "phase3"
    files = Files.of_each("exp7", "exp7_aleatoric_epistemic")
    quick = {"n": 120, "passes": 32}

    n: int = 500
    passes: int = 64
    trials: int = 3
    families: tuple[str, ...] = ("jpeg", "blur", "down", "noise", "occlusion")

    def run(self, model: str) -> Passes:
        """The epistemic side; the aleatoric one needs deterministic features only."""
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, (self.passes,), self.trials, self.seed))

    def variants(self, side: int) -> dict[str, tuple[str, ...]]:
        """The degradations of every family for pictures with this shorter side, none of them twice."""
        return {family: graded(family, side) for family in self.families}

    def features(self, about: View) -> dict[str, list[Features]]:
        side = min(about.images(Images(self.n)).image(0).size)
        return {
            family: [Features(about.model, Images(self.n, degradation=level)) for level in levels]
            for family, levels in self.variants(side).items()
        }

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        degraded = [request for family in self.features(about).values() for request in family]
        return (self.run(about.model), self.logits(about.model), *degraded)

    def compute(self, inputs: Inputs) -> AleatoricResult:
        run, images = inputs[self.run(inputs.model)], inputs.images(Images(self.n))
        trials, norm = run.scores("trace_pre"), run.feature_norm
        targets = ambiguity_targets(inputs[self.logits(inputs.model)]["logits"], images.labels)
        spreads = {
            family: aleatoric(run.features, np.stack([inputs[request]["features"] for request in of_family]))
            for family, of_family in self.features(inputs).items()
        }
        scores = {
            **combined(trials.mean(axis=0), spreads),
            "epistemic_post": run.scores("trace_post").mean(axis=0),
            NORM: 1 / norm,
            ENTROPY: targets.entropy,
        }
        how: dict[str, Any] = {"origins": run.origins, "seed": self.seed}

        def relation(name: str, known: bool) -> EpistemicRelation:
            return EpistemicRelation(
                spearman(scores[REFERENCE], scores[name], **how),
                partial_spearman(scores[REFERENCE], scores[name], norm, **how),
                disattenuated_spearman(trials, scores[name], **how) if known else None,
            )

        return AleatoricResult(
            scores=scores,
            targets=targets,
            relations={
                **{
                    f"aleatoric_{family}": relation(f"aleatoric_{family}", family in DETERMINISTIC)
                    for family in spreads
                },
                "aleatoric_rank": relation("aleatoric_rank", known=False),
            },
            epistemic_reliability=reliability(trials, **how),
            figures=ambiguity_table(scores, targets, norm, norms={NORM}, **how),
            differences=_differences(scores, targets, **how),
        )

    def claims(self) -> Sequence[Claim[AleatoricResult]]:
        return [
            Claim("distinct", lambda r: r.relations["aleatoric_rank"].rho, below=SAME),
            *(follows(bar, name, lambda r, name=name: r.figures[name]) for bar in BARS for name in JUDGED),  # type: ignore[misc]
            *(self._better(target) for target in ("entropy", "error")),
        ]

    def _better(self, target: str) -> Claim[AleatoricResult]:
        """Both together find more than epistemic alone."""
        return Claim(
            f"combined_better/{target}",
            lambda r: r.differences[target]["combined_rank"].estimate if target in r.differences else None,
            above=0.0,
            beside=lambda r: (
                f"combined_rank - {REFERENCE}" if target in r.differences else "errors are not known: no labels"
            ),
            p_holm=lambda r: r.differences[target]["combined_rank"].p_holm,
        )

    def summary(self, result: AleatoricResult) -> Mapping[str, Any]:
        return {
            "corr": {f"epistemic_vs_{name}": relation for name, relation in result.relations.items()},
            "methods": {name: report_of(figures, result.targets) for name, figures in result.figures.items()},
            "difference_to_epistemic": result.differences,
            "correction": "Holm over all differences of the model",
            "epistemic_reliability": result.epistemic_reliability,
        }

    def arrays(self, inputs: Inputs, result: AleatoricResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        named = {"paths": np.array(run.ids), "origins": np.array(run.origins), "feature_norm": run.feature_norm}
        return {"{}/exp7_outputs.npz": {**named, **result.scores}}

    def title(self) -> str:
        return f"aleatoric and epistemic (N={self.n}, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: AleatoricResult) -> Sequence[Panel]:
        relations = {
            "ρ": {name: relation.rho for name, relation in result.relations.items()},
            "ρ given the feature norm": {name: relation.given_norm for name, relation in result.relations.items()},
        }
        worth = {
            label: {name: figures[key] for name, figures in result.figures.items() if name != ENTROPY}
            for label, key in {"ρ(entropy)": "rho_uncertainty_vs_entropy", "AUROC(error)": "auroc_error"}.items()
        }

        def alike(axes: Axes) -> None:
            interval_panel(axes, relations, SAME, "Spearman's ρ with the epistemic score [95 %]")

        def validity(axes: Axes) -> None:
            interval_panel(axes, worth, None, "validity [95 %]")
            axes.axhline(0.5, color="C1", linestyle=":", label="chance of AUROC")
            axes.axhline(0.0, color="C0", linestyle=":", label="chance of ρ")
            axes.legend(fontsize=8)

        return alike, validity


def aleatoric(clean: NDArray[np.floating], degraded: NDArray[np.floating]) -> Array:
    """Mean over dimensions of the sample variance over ``clean`` [N, D] and ``degraded`` [L, N, D]: ``[N]``."""
    every = np.concatenate([clean[None], degraded]).astype(np.float64)
    return np.asarray((every - every[:1]).var(axis=0, ddof=1).mean(axis=-1))


def z_score(values: Array) -> Array:
    """(x − mean)/sd, ``[N]``; a constant gives zeros."""
    sd = values.std(ddof=1)
    return np.zeros(len(values)) if sd == 0 else np.asarray((values - values.mean()) / sd)


def rank_score(values: Array) -> Array:
    """Mid-rank over N, ``[N]``."""
    return np.asarray(mid_ranks(values) / len(values))


def combined(epistemic: Array, spreads: Mapping[str, Array]) -> dict[str, Array]:
    """Both kinds of score [N], and their sums.

    ``aleatoric_z`` and ``aleatoric_rank`` average the families, each scaled first; ``combined_z`` and ``combined_rank``
    add the epistemic score on the same scale. The published product of z-scores is left out: two very low scores give
    a high one.
    """
    by_z = np.mean([z_score(spread) for spread in spreads.values()], axis=0)
    by_rank = np.mean([rank_score(spread) for spread in spreads.values()], axis=0)
    return {
        REFERENCE: epistemic,
        **{f"aleatoric_{family}": spread for family, spread in spreads.items()},
        "aleatoric_z": by_z,
        "aleatoric_rank": by_rank,
        "combined_z": z_score(epistemic) + z_score(by_z),
        "combined_rank": rank_score(epistemic) + rank_score(by_rank),
    }


def _differences(
    scores: Mapping[str, Array], targets: AmbiguityTargets, origins: Origins, seed: int
) -> dict[str, dict[str, Difference]]:
    """Every score's figure less that of epistemic alone, by target; Holm over all of them."""
    fair = {name: score for name, score in scores.items() if name != ENTROPY}  # it *is* the first target
    families = {
        target: spearman_differences(fair, REFERENCE, getattr(targets, target), origins=origins, seed=seed)
        for target in ("entropy", "neg_margin")
    }
    if targets.correct is not None:
        families["error"] = auroc_differences(scores, REFERENCE, ~targets.correct, origins=origins)
    return corrected_families(families)
