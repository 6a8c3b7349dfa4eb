"""Exp8: does the variance over passes lie where meaning lies, among the directions that prompts span?

The basis is the right singular vectors of centred unit text features. Of the covariance over passes one share lies in
it; a share says nothing by itself, because r of D directions hold r/D of any covariance on average. So it stands beside
chance, beside random subspaces of the same rank (how far chance strays when variance sits in a few directions), and
beside the share of the variance *between images*, which is what a semantic share looks like. All of it again after the
direction from texts to images, the modality gap, has been removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders import find_spec
from mcdo.encoders.zero_shot import unit
from mcdo.estimators import MonteCarloConfig
from mcdo.estimators.pass_covariance import PassCovariance, pass_covariance
from mcdo.experiments.phase3.exp8_semantic.subspace import Share, modality_gap, semantic_basis, share_in
from mcdo.harness import (
    Claim,
    Experiment,
    Features,
    Files,
    Images,
    Inputs,
    Logits,
    Outcome,
    Passes,
    Request,
    Session,
    TextFeatures,
    View,
)
from mcdo.report.figures import Panel
from mcdo.stats import (
    AmbiguityTargets,
    Estimate,
    Reliability,
    ambiguity_table,
    ambiguity_targets,
    mean,
    reliability,
    report_of,
    spearman,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
PROMPTS = (
    "a dog", "a cat", "a person", "a car", "a truck", "a bicycle", "a motorcycle", "an airplane", "a boat", "a bird",
    "a tree", "a flower", "a building", "a street scene", "an indoor room", "a plate of food", "a laptop computer",
    "a phone", "a sports ball", "a backpack",
)  # fmt: skip
LEADING = 0.99
"""Share of the variance of the texts that the basis "leading" holds."""
BASES = {"raw": "all directions", "gap_removed": "gap removed", "leading": "99 % of the texts"}
"""Bases, and how the figure calls them."""
EMBEDDED_TEMPLATES = ("a photo of a {}", "a {}")
MOST = 20
"""Images that the summary names as the most uncertain."""


@dataclass(frozen=True)
class PromptCovariance(Request[PassCovariance]):
    """Covariance over passes along the text features of ``prompts``, and last along the mean unit image feature."""

    shown: Images
    config: MonteCarloConfig
    prompts: tuple[str, ...]

    def expected_passes(self, session: Session) -> int:
        return session.count(self.shown) * self.config.trials * self.config.passes[-1]

    def measure(self, session: Session) -> PassCovariance:
        """Looked up, or measured and kept as the passes themselves are."""
        encoder, images, pixels = session.tower(self.model, self.shown)
        text = session.measure(TextFeatures(self.model, self.prompts))["features"]
        seen = session.measure(Features(self.model, self.shown))["features"]
        config = self.config
        with session.unmuted():
            return pass_covariance(
                encoder,
                images,
                config.dropout,
                np.vstack([unit(text), unit(seen).mean(axis=0)]),
                config.passes[-1],
                config.trials,
                config.seed,
                batch_size=session.settings.batch_size,
                store=session.store,
                pixels=pixels,
                progress=session.progress(self),
            )


@dataclass(frozen=True)
class SemanticResult:
    """Shares of the variance over passes, scores, and what they are worth.

    Attributes:
        prompts: that span the bases.
        shares: in the whole basis ("raw"), in it after removing the gap ("gap_removed"), and in its leading directions
            alone, those that hold 99 % of the variance of the texts ("leading"): prompts that say the same in other
            words add directions which mean next to nothing.
        gap_share: of the variance along the modality gap itself; chance is 1/``dim``.
        dim: D.
        scores: [K, N] by name.
        reliability: by score.
        prompt_reliability: of the variance of the cosine with each prompt.
        with_trace: rank correlation of each score with the trace.
        targets: of the zero-shot prediction.
        figures: against the targets, by score.
        most_uncertain: ids of the images with the largest traces.

    """

    prompts: tuple[str, ...]
    shares: Mapping[str, Share]
    gap_share: Estimate
    dim: int
    scores: Mapping[str, Array]
    reliability: Mapping[str, Reliability]
    prompt_reliability: tuple[Reliability, ...]
    with_trace: Mapping[str, Estimate]
    targets: AmbiguityTargets
    figures: Mapping[str, Mapping[str, Estimate]]
    most_uncertain: tuple[str, ...]


@dataclass(frozen=True)
class SemanticSpace(Experiment[SemanticResult]):
    """N images, K trials at one T; ``subspaces`` random ones for the null."""

    key = "exp8"
    name = "exp8_semantic_space"
    phase = "phase3"
    files = Files.of_each("exp8", "exp8_semantic_space")
    quick = {"n": 120, "passes": 16, "subspaces": 200}

    n: int = 500
    passes: int = 64
    trials: int = 3
    subspaces: int = 2000

    def prompts(self, about: View) -> tuple[str, ...]:
        """The 20 published prompts; for an embedded encoder, which knows 29 words, class names in two templates."""
        if not find_spec(about.model).embedded:
            return PROMPTS
        names = about.images(Images(self.n)).class_names
        return tuple(template.format(name) for template in EMBEDDED_TEMPLATES for name in names)

    def run(self, model: str) -> Passes:
        """The same passes, measured for their trace and top1_ratio as well."""
        t = (self.passes,)
        return Passes(model, Images(self.n), MonteCarloConfig(self.dropout, t, self.trials, self.seed, geometry=t))

    def covariance(self, about: View) -> PromptCovariance:
        """What the moments of a run leave out."""
        config = MonteCarloConfig(self.dropout, (self.passes,), self.trials, self.seed)
        return PromptCovariance(about.model, Images(self.n), config, self.prompts(about))

    def text(self, about: View) -> TextFeatures:
        return TextFeatures(about.model, self.prompts(about))

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (self.run(about.model), self.covariance(about), self.text(about), self.logits(about.model))

    def compute(self, inputs: Inputs) -> SemanticResult:
        run, covariance = inputs[self.run(inputs.model)], inputs[self.covariance(inputs)]
        text, images = inputs[self.text(inputs)]["features"], inputs.images(Images(self.n))
        targets = ambiguity_targets(inputs[self.logits(inputs.model)]["logits"], images.labels)
        how: dict[str, Any] = {"origins": run.origins, "seed": self.seed}
        gap = modality_gap(run.features, text)
        bases = {
            "raw": (semantic_basis(text), None),
            "gap_removed": (semantic_basis(text, gap), gap),
            "leading": (semantic_basis(text, None, LEADING), None),
        }
        total, along_gap = covariance.total, covariance.along(unit(gap)[None])[..., 0]
        along = {name: covariance.along(basis.vectors) for name, (basis, _) in bases.items()}
        left = {name: total if without is None else total - along_gap for name, (_, without) in bases.items()}
        similarity = covariance.cosine[..., :-1]
        D = run.features.shape[1]
        inside = along["raw"].sum(-1)
        scores = {
            "trace_pre": run.scores("trace_pre"),
            "parallel": inside / D,
            "orthogonal": (total - inside) / D,
            "parallel_fraction": inside / total,
            "parallel_fraction_gap_removed": along["gap_removed"].sum(-1) / left["gap_removed"],
            "similarity_variance": similarity.mean(-1),
            "anisotropy": run.scores("top1_ratio"),
        }
        trace = scores["trace_pre"].mean(axis=0)
        most = np.argsort(-trace, kind="stable")[:MOST]
        return SemanticResult(
            prompts=self.prompts(inputs),
            shares={
                name: share_in(
                    basis,
                    along[name],
                    left[name],
                    covariance.mean,
                    run.features,
                    without,
                    subspaces=self.subspaces,
                    **how,
                )
                for name, (basis, without) in bases.items()
            },
            gap_share=mean(along_gap / total, **how),
            dim=D,
            scores=scores,
            reliability={name: reliability(score, shared_noise=False, **how) for name, score in scores.items()},
            prompt_reliability=tuple(
                reliability(similarity[..., place], shared_noise=False, **how) for place in range(len(text))
            ),
            with_trace={
                name: spearman(trace, score.mean(axis=0), **how)
                for name, score in scores.items()
                if name != "trace_pre"
            },
            targets=targets,
            figures=ambiguity_table(
                {name: score.mean(axis=0) for name, score in scores.items()}, targets, run.feature_norm, **how
            ),
            most_uncertain=tuple(run.ids[i] for i in most),
        )

    def claims(self) -> Sequence[Claim[SemanticResult]]:
        return [self._more_than_chance(basis) for basis in BASES]

    def _more_than_chance(self, basis: str) -> Claim[SemanticResult]:
        """Met above what random subspaces reach; not met at chance or below; undecided between the two."""

        def outcome(result: SemanticResult) -> Outcome:
            share = result.shares[basis]
            if share.observed.outcome(share.null[1], ">") == "met":
                return "met"
            return "not met" if share.observed.outcome(share.chance, "<=") == "met" else "undecided"

        return Claim(
            f"parallel_share/{basis}",
            lambda r: r.shares[basis].observed,
            rule=("> 97.5 % of random subspaces", outcome),
            beside=lambda r: (
                f"chance {r.shares[basis].chance:.3f}, random subspaces up to {r.shares[basis].null[1]:.3f}"
            ),
        )

    def summary(self, result: SemanticResult) -> Mapping[str, Any]:
        return {
            "prompts": result.prompts,
            "shares": result.shares,
            "gap_share": {**result.gap_share.as_dict(), "chance": 1 / result.dim},
            "reliability": result.reliability,
            "similarity_variance_by_prompt": dict(zip(result.prompts, result.prompt_reliability, strict=True)),
            "rho_trace_vs": result.with_trace,
            "ambiguity": {name: report_of(figures, result.targets) for name, figures in result.figures.items()},
            "most_uncertain": result.most_uncertain,
        }

    def arrays(self, inputs: Inputs, result: SemanticResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        run = inputs[self.run(inputs.model)]
        named = {"paths": np.array(run.ids), "origins": np.array(run.origins), "prompts": np.array(result.prompts)}
        return {"{}/exp8_outputs.npz": {**named, **result.scores}}

    def title(self) -> str:
        return f"is the variance semantic? (N={self.n}, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: SemanticResult) -> Sequence[Panel]:
        def panel(axes: Axes, name: str, share: Share) -> None:
            ranks = np.arange(1, share.rank + 1)
            axes.plot(ranks, share.by_rank, "o-", label="variance over passes")
            axes.plot(ranks, ranks / share.dim, "--", color="grey", label="chance, rank / dimension")
            ends, label = [share.rank - 0.3, share.rank + 0.3], "95 % of random subspaces"
            axes.fill_between(ends, *share.null, color="grey", alpha=0.4, label=label)
            axes.axhline(share.images, color="C1", label="variance between images")
            axes.set_title(BASES[name])
            axes.set_xlabel("directions of the text basis [count]")
            axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
            axes.set_ylabel("share of variance [1]")
            axes.legend(fontsize=8)

        return [lambda axes, name=name, share=share: panel(axes, name, share) for name, share in result.shares.items()]  # type: ignore[misc]
