"""Exp10: does dropout in the text tower tell vague prompts from specific ones, at the same length?

A longer prompt has more tokens for dropout to disturb, and the published specificity grows with length by construction;
so their plain correlation says nothing about wording. Length is held fixed twice: by the partial rank correlation given
the number of tokens, and by ranks among prompts of exactly the same number of tokens.

Prompts are frames crossed with classes. What is sampled are the frames: specificity is a property of the wording, and
the classes are all those of the image set. So every interval is over frames, and says what other wordings of the same
classes would have given, not what other classes would.

The Monte Carlo score of a prompt is noisy, so the first-order variance stands beside it: the same quantity for small p,
without the noise of masks. Where Monte Carlo shows nothing, it tells noise from absence. It takes all D + 1 probes
where that is affordable; elsewhere prompts share the probes of a trial, which every interval about it holds.

Every text tower is perturbed at the same roles, attention included. The published run disturbed different sites in its
two models, and the vision tower of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.estimators import TRACES, MonteCarloRun
from mcdo.experiments.phase4.exp10_text_tower.fixed_length import (
    Array,
    crossed,
    generic_differences,
    level_ratio,
    same_length_ranks,
    style_means,
)
from mcdo.experiments.phase4.exp10_text_tower.prompt_bank import (
    Prompt,
    bank,
    read_prompts,
    sample,
    specificity,
    wording,
)
from mcdo.experiments.phase4.exp10_text_tower.result import TextResult
from mcdo.harness import (
    Claim,
    Experiment,
    Files,
    FirstOrder,
    Images,
    Inputs,
    Passes,
    Request,
    Settings,
    Texts,
    TokenCounts,
    View,
)
from mcdo.perturbation import Perturbation
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import THRESHOLDS, Relation, advantages, auroc, rank_relations, reliability

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROLES = ("qkv", "attention_output", "fc1", "fc2", "final_projection")
"""Roles that the text towers of open_clip and transformers have in common; a tower without one of them is refused."""
FIRST_ORDER = {"first_order_pre": "trace_pre", "first_order_post": "trace_post"}
"""Scores to first order, and what Monte Carlo calls them."""
JUDGED = ("trace_pre", "trace_post", *FIRST_ORDER)
UNSPECIFIC_SHARE = 0.2
OPTION = "--prompts"


@dataclass(frozen=True)
class TextTowerDropout(Experiment[TextResult]):
    """n prompts (all, where there are fewer), K trials at one T.

    First order: all probes, or ``probes`` in each of ``probe_trials`` trials. ``own``: a file of prompts in place of
    the bank.
    """

    key = "exp10"
    name = "exp10_text_encoder"
    phase = "phase4"
    files = Files.of_each("exp10", "exp10_text_encoder")
    quick = {"n": 120, "passes": 16, "probes": 8}
    sized = {"passes": "passes", "trials": "trials"}  # n counts prompts
    published = TRACES

    n: int = 1000
    passes: int = 64
    trials: int = 3
    probes: int = 16
    probe_trials: int = 5
    own: str = ""

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        return {"own": settings.own_data.get(OPTION, "")}

    @property
    def perturbation(self) -> Perturbation:
        """The session's, at the matched roles unless it names sites of its own."""
        return self.dropout.at(*ROLES) if self.dropout.sites == "all" else self.dropout

    def prompts(self, about: View) -> tuple[Prompt, ...]:
        """Those of the file, or of the bank filled with the image set's classes."""
        if self.own:
            return sample(read_prompts(Path(self.own), about.model), self.n, self.seed)
        return sample(bank(about.model, about.images(Images(10)).class_names), self.n, self.seed)

    def run(self, model: str, prompts: Sequence[Prompt]) -> Passes:
        """Monte Carlo, with frames as the origins of prompts."""
        return Passes(model, _texts(prompts), self.protocol((self.passes,), self.trials, self.perturbation))

    def first_order(self, about: View, prompts: Sequence[Prompt]) -> FirstOrder:
        """All probes in one trial where that is affordable, else enough trials for the spread between them."""
        return FirstOrder.exact_or(self.probes, self.probe_trials, about, _texts(prompts), self.perturbation, self.seed)

    def counts(self, model: str, prompts: Sequence[Prompt]) -> TokenCounts:
        return TokenCounts(model, _texts(prompts).prompts)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        prompts, model = self.prompts(about), about.model
        return (self.run(model, prompts), self.first_order(about, prompts), self.counts(model, prompts))

    def compute(self, inputs: Inputs) -> TextResult:
        prompts, model = self.prompts(inputs), inputs.model
        run, linear = inputs[self.run(model, prompts)], inputs[self.first_order(inputs, prompts)]
        tokens, texts = inputs[self.counts(model, prompts)]["tokens"], [prompt.text for prompt in prompts]
        target, frames, norm = specificity(texts, tokens), np.array(run.origins), run.feature_norm
        at_crossed = crossed(tokens, target)
        if at_crossed.sum() < 5:
            raise McdoError(
                f"{at_crossed.sum()} prompts share their number of tokens with one of another specificity: length "
                "cannot be held fixed; give prompts of several wordings at the same length"
            )
        trials, first_order = self._trials(run), {name: linear.scores(of) for name, of in FIRST_ORDER.items()}
        exact = linear.config.trials == 1
        scores = {
            **{name: values.mean(axis=0) for name, values in trials.items()},
            **{name: values[0] if exact else values for name, values in first_order.items()},
        }
        ranks = {name: same_length_ranks(values, tokens) for name, values in scores.items()}
        noise: dict[str, Any] = {"shared_noise": not exact}

        def related(
            of: Mapping[str, Array], other: ArrayLike, given: Any, among: Any = slice(None)
        ) -> dict[str, Relation]:
            found = rank_relations(of, {"": other}, given=given, origins=frames[among], seed=self.seed, **noise)
            return {score: relation for (score, _), relation in found.items()}

        unspecific = target <= np.quantile(target, UNSPECIFIC_SHARE)
        crossed_ranks = {name: values[..., at_crossed] for name, values in ranks.items()}
        return TextResult(
            prompts=prompts,
            tokens=tokens,
            specificity=target,
            wording=wording(texts),
            scores={name: np.atleast_2d(values).mean(axis=0) for name, values in scores.items()},
            feature_norm=norm,
            reliability={
                name: reliability(values, origins=frames, shared_noise=False, seed=self.seed)
                for name, values in trials.items()
            },
            ratio=level_ratio(trials["trace_pre"], first_order["first_order_pre"], frames, self.seed),
            specific=related(scores, target, tokens),
            same_length=related(crossed_ranks, same_length_ranks(target, tokens)[at_crossed], None, at_crossed),
            given_norm=related(scores, target, norm),
            length=related(scores, tokens, norm),
            detects={
                name: {
                    key: auroc(of[name], unspecific, origins=frames, shared_noise=of[name].ndim == 2)
                    for key, of in {"auroc": scores, "auroc_same_length": ranks}.items()
                }
                for name in scores
            },
            advantage=advantages(
                scores,
                {"tokens": tokens, "feature_norm": norm},
                follows={"unspecificity": -target},
                detects={"unspecific": unspecific},
                origins=frames,
                seed=self.seed,
                **noise,
            ),
            generic=generic_differences(ranks, prompts, self.seed),
            styles={name: style_means(values, prompts) for name, values in ranks.items()},
            crossed=int(at_crossed.sum()),
        )

    def claims(self) -> Sequence[Claim[TextResult]]:
        return [
            *(self._repeats(score) for score in dict.fromkeys(("trace_pre", "trace_post", *self.further))),
            *(self._specific(score) for score in self.judged),
            *(self._generic(score) for score in self.judged),
        ]

    @property
    def judged(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*JUDGED, *self.further)))

    def _trials(self, run: MonteCarloRun) -> dict[str, Array]:
        return {name: run.scores(name) for name in self.reported}

    def _repeats(self, score: str) -> Claim[TextResult]:
        return Claim(
            f"repeats/{score}",
            lambda r: r.reliability[score].estimate("spearman"),
            at_least=THRESHOLDS.usable_spearman,
            beside=lambda r: r.reliability[score].brief,
        )

    def _specific(self, score: str) -> Claim[TextResult]:
        """More specific prompts of the same length are less variable."""

        def beside(r: TextResult) -> str:
            same = r.same_length[score]
            among = f"among prompts of exactly one length {same.rho}, p_holm={same.p_holm:.2g}"
            return f"plain {r.specific[score].rho}; {among}"

        return Claim(
            f"specificity_given_length/{score}",
            lambda r: r.specific[score].given,
            below=0.0,
            beside=beside,
            p_holm=lambda r: r.specific[score].given_p_holm,
        )

    def _generic(self, score: str) -> Claim[TextResult]:
        """Frames that name no class are more variable than others of the same length."""

        def beside(r: TextResult) -> str:
            if score not in r.generic:
                return "fewer than two generic frames, or two others, among the prompts"
            few = "" if np.isfinite(r.generic[score].exceedance.low) else ", too few frames for an interval"
            return f"P(generic frame above another){few}; difference of mean rank {r.generic[score].difference}"

        return Claim(
            f"generic_at_same_length/{score}",
            lambda r: r.generic[score].exceedance if score in r.generic else None,
            above=0.5,
            beside=beside,
            p_holm=lambda r: r.generic[score].p_holm,
        )

    def summary(self, result: TextResult) -> Mapping[str, Any]:
        return result.as_dict()

    def arrays(self, inputs: Inputs, result: TextResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        trials = self._trials(inputs[self.run(inputs.model, result.prompts)])
        return {
            "{}/exp10_outputs.npz": {
                "prompts": np.array([prompt.text for prompt in result.prompts]),
                "styles": np.array([prompt.style for prompt in result.prompts]),
                "frames": np.array([prompt.frame for prompt in result.prompts]),
                "specificity": result.specificity,
                "wording": result.wording,
                "token_count": result.tokens,
                "feature_norm": result.feature_norm,
                **{name: result.scores[name] for name in FIRST_ORDER},
                **{f"{name}_trials": values for name, values in trials.items()},
            }
        }

    def documents(self, inputs: Inputs, result: TextResult) -> Mapping[str, Any]:
        manifest = [{"prompt": p.text, "style": p.style, "frame": p.frame} for p in result.prompts]
        return {"{}/exp10_prompt_manifest.json": manifest}

    def title(self) -> str:
        return f"text tower (n={self.n} prompts at most, T={self.passes}, K={self.trials}, p={self.dropout.p:g})"

    def panels(self, inputs: Inputs, result: TextResult) -> Sequence[Panel]:
        """The score against length by style, its relation to specificity three ways, and styles at the same length."""
        series = {
            "plain": {name: r.rho for name, r in result.specific.items()},
            "given the number of tokens": {name: r.given for name, r in result.specific.items()},
            "among prompts of one length": {name: r.rho for name, r in result.same_length.items()},
        }

        def length(axes: Axes) -> None:
            styles = np.array([prompt.style for prompt in result.prompts])
            offsets = np.random.default_rng(0).uniform(-0.25, 0.25, len(styles))
            trace = result.scores["trace_pre"]
            for style in np.unique(styles):
                of = styles == style
                axes.plot(result.tokens[of] + offsets[of], trace[of], ".", label=str(style), alpha=0.7)
            axes.set_xlabel("tokens of the prompt")
            axes.set_ylabel("trace_pre (squared feature units), mean over trials")
            axes.legend()

        def specific(axes: Axes) -> None:
            interval_panel(axes, series, 0.0, "Spearman's ρ with specificity [95 % over frames]")
            axes.set_title("vague prompts more variable: below 0")

        def styles(axes: Axes) -> None:
            by_score = {name: result.styles[name] for name in self.judged}
            interval_panel(axes, by_score, 0.5, "mean rank among prompts of one length (0 to 1) [95 %]", "style")
            axes.set_title("style, with length held fixed")

        return length, specific, styles


def _texts(prompts: Sequence[Prompt]) -> Texts:
    return Texts(tuple(prompt.text for prompt in prompts), tuple(prompt.frame for prompt in prompts))
