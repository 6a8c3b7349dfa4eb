"""Rivals: which score is worth its cost, dropout or something that takes one pass?

Every score is taken of the same images, and of the same images degraded, and of images of another kind. A row holds
its cost in forwards, its reliability, and what it is worth by each measure; validity is that of one trial, or, where
all images of a trial share their noise, of the mean over trials. It is set against the best of what costs nothing (the
norm of the feature, or the sharpness or entropy of the pixels, read whichever way is better; that best is chosen on the
same images, which is in its favour), and against dropout. p is corrected by Holm over the whole table. A measure that
the images do not allow (no labels) is left out; without a text tower, error and entropy are those of class prototypes,
each image read by the half it is not in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.encoders import find_spec
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.prelim.pixel_baselines import PixelBaselines
from mcdo.experiments.rivals.rating import MEASURES, Advantage, Scored, Truth, ahead_of_trivial, beside, rated
from mcdo.experiments.rivals.requests import (
    VOTES,
    CalibrationFeatures,
    ExpectedCosines,
    Head,
    OwnScores,
    Views,
    Votes,
    votes,
)
from mcdo.experiments.rivals.score_files import check_scores, read_scores, without_copies
from mcdo.harness import (
    Claim,
    Experiment,
    Features,
    Files,
    FirstOrder,
    Images,
    Inputs,
    Logits,
    Passes,
    Request,
    Settings,
    View,
)
from mcdo.harness.heads import read_head
from mcdo.harness.laplace_requests import LaplaceCalibration, LaplaceScores, calibration_images
from mcdo.images.load import look_at
from mcdo.names import words
from mcdo.perturbation.kinds import kind_name
from mcdo.recipes.file import Recipe, read_recipe
from mcdo.recipes.scoring import shipped
from mcdo.report.figures import Panel
from mcdo.report.panels import ranked_panel
from mcdo.rivals import TRIVIAL, Calibration, Seen, scorer_named
from mcdo.rivals.expected_cosine import EXPECTED
from mcdo.rivals.logits import entropy
from mcdo.rivals.scorer import held_by
from mcdo.rivals.table import built_in
from mcdo.stats import Difference, Estimate
from mcdo.stats.selective import retrieval_correct
from mcdo.stats.trials import LEAST_TRIALS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
FOREIGN = ("noise", "gradient", "solid")
"""Synthetic images that stand for another kind where ``--ood`` names none."""
DROPOUT = {"dropout_trace_pre": "trace_pre", "dropout_trace_post": "trace_post"}
FIRST_ORDER = {"first_order_trace_pre": "trace_pre", "first_order_trace_post": "trace_post"}
RECIPE = "recipe"
"""Dropout with the sites and weights that ship as chosen for an encoder, to first order. It was chosen for what rises
under blur and down-sampling, partly on the same digits: shares that rise are in its favour."""
ENSEMBLE = {
    "ensemble_mutual_information": "mutual_information",
    "ensemble_variation_ratio": "variation_ratio",
    "ensemble_entropy": "predictive_entropy",
}
"""Votes of several checkpoints in the place of passes (deep ensembles, Lakshminarayanan et al. 2017)."""
LAPLACE = {
    "laplace_head": "head_logit_variance",
    "laplace_projection": "projection_logit_variance",
    "laplace_projection_margin": "projection_margin_variance",
}
PIXELS = {"sharpness": "laplacian_variance", "grey_entropy": "grey_entropy"}
JUDGED = ("dropout_trace_pre", "dropout_trace_post", "first_order_trace_pre", "first_order_trace_post")
"""What is claimed to beat what costs nothing; of the others the same is reported."""
REFERENCE = "dropout_trace_post"
"""What every other score is set against, to say what beats dropout."""
FILE = "file:"


@dataclass(frozen=True)
class RivalsResult:
    """The table.

    Attributes:
        scores: by name, as they were taken.
        rows: by name and measure.
        ahead: by name and task, over the best of what costs nothing.
        over_dropout: by name and task, over :data:`REFERENCE`.
        left_out: what was not taken, and why.

    """

    scores: Mapping[str, Scored]
    rows: Mapping[str, Mapping[str, Estimate]]
    ahead: Mapping[tuple[str, str], Advantage]
    over_dropout: Mapping[tuple[str, str], Difference]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class RivalsTable(Experiment[RivalsResult]):
    """n images, T passes, K trials; ``fit`` images of other origins to fit on; ``foreign`` images of another kind."""

    key = "rivals"
    name = "rivals_table"
    judges_heads = True
    phase = "rivals"
    files = Files.of_each("rivals", "rivals")
    quick = {"n": 120, "passes": 8, "trials": 2, "foreign": 60, "views": 2, "fit": 200, "resamples": 100}
    sized = {**Experiment.sized, "foreign": "images_at_most"}

    n: int = 1000
    passes: int = 64
    trials: int = 5
    probes: int = 8
    fit: int = 1197
    foreign: int = 300
    views: int = 8
    degradations: tuple[str, ...] = ("blur:10%", "noise:0.2")
    resamples: int = 1000
    scorers: tuple[str, ...] = ()
    ensemble: tuple[str, ...] = ()
    foreign_images: str = ""

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        named = {name: settings.own_data.get(f"--{name}", "") for name in ("scorers", "ensemble")}
        lists = {name: words(given) for name, given in named.items()}
        return {**lists, "foreign_images": settings.own_data.get("--ood", "")}

    def obstacles(self, about: View) -> Iterable[str]:
        """Scorers, files, checkpoints and images that are not there, and scores of other images."""
        checks: list[Callable[[], object]] = [lambda: _check_own(self.scorers)]
        checks += [partial(find_spec, key) for key in self.ensemble]
        if self.foreign_images:
            checks.append(lambda: look_at(self.foreign_images, self.foreign, self.seed, 0.0))
        files = [Path(name.removeprefix(FILE)) for name in self.scorers if name.startswith(FILE)]
        checks += [lambda path=path: read_scores(path, about.images(self.shown).ids) for path in files if path.exists()]  # type: ignore[misc]
        for check in checks:
            try:
                check()
            except McdoError as error:
                yield str(error)

    # ---- which images

    @property
    def shown(self) -> Images:
        return Images(self.n)

    def degraded(self) -> dict[str, Images]:
        """The same, by degradation."""
        return {name: Images(self.n, degradation=name) for name in self.degradations}

    def foreign_sets(self, about: View) -> tuple[Images, ...]:
        if self.foreign_images:
            return (Images(self.foreign, self.foreign_images),)
        side, each = about.encoder().resolution, self.foreign // len(FOREIGN)
        return tuple(Images(each, f"synthetic:{kind}:{side}") for kind in FOREIGN)

    def every(self, about: View) -> tuple[Images, ...]:
        return (self.shown, *self.degraded().values(), *self.foreign_sets(about))

    # ---- what is measured

    def config(self, trials: int) -> MonteCarloConfig:
        return MonteCarloConfig(self.dropout, (self.passes,), trials, self.seed)

    def trials_of(self, shown: Images) -> int:
        """K on the images that are scored, one on the others."""
        return self.trials if shown == self.shown else 1

    def passes_of(self, model: str, shown: Images) -> Passes:
        return Passes(model, shown, self.config(self.trials_of(shown)))

    def votes_of(self, about: View, shown: Images) -> Votes:
        """What the head says of each pass."""
        return Votes(about.model, shown, self.classes(about), self.config(self.trials_of(shown)))

    def views_of(self, model: str, shown: Images) -> Views:
        """Test-time augmentation; digits are not mirrored."""
        return Views(model, shown, self.views, self.trials_of(shown), self.seed)

    def head_of(self, about: View, shown: Images) -> Head:
        return Head(about.model, shown, self.classes(about))

    def members(self, about: View) -> tuple[str, ...]:
        """The model and the checkpoints of ``--ensemble`` that have its architecture; () where there are none."""
        mine = about.encoder().architecture
        others = [key for key in self.ensemble if key != about.model and about.encoder(key).architecture == mine]
        return (about.model, *others) if others and self.has_head(about) else ()

    def first_order_of(self, about: View, shown: Images) -> FirstOrder:
        """First order, exact where that is affordable."""
        return FirstOrder.exact_or(self.probes, self.trials, about, shown, self.dropout, self.seed)

    def classes(self, about: View) -> tuple[str, ...]:
        return tuple(about.images(self.shown).class_names)

    def has_head(self, about: View) -> bool:
        """Whether there is a zero-shot head to speak of."""
        return len(self.classes(about)) > 1 and bool(getattr(about.encoder(), "has_text", True))

    def has_prototypes(self, about: View) -> bool:
        """Whether error and entropy are those of class prototypes, as there is no zero-shot head."""
        return not self.has_head(about) and not about.why_no_head(self.shown)

    def can_fit(self, about: View) -> str:
        """Why there are no images to fit on, or ""."""
        try:
            calibration_images(about.images, about.settings, self.shown, self.fit)
        except McdoError as error:
            return str(error)
        return ""

    def fitted(self, about: View) -> LaplaceScores:
        """Laplace posteriors, of the clean images alone: each set would take a fit of its own."""
        return LaplaceScores(about.model, self.shown, self.fit)

    def expected(self, about: View) -> ExpectedCosines:
        """A posterior over both projections; as :meth:`fitted`."""
        return ExpectedCosines(about.model, self.shown, self.fit)

    def calibration(self, about: View) -> LaplaceCalibration | CalibrationFeatures:
        """What neighbours and class means are fitted on, and posteriors where there is a head."""
        kind = LaplaceCalibration if self.has_head(about) else CalibrationFeatures
        return kind(about.model, self.shown, self.fit)

    def own(self, model: str, name: str, shown: Images) -> OwnScores:
        return OwnScores(model, shown, scorer_named(name), held_by(name), self.trials_of(shown), self.shown, self.fit)

    @property
    def own_scorers(self) -> tuple[str, ...]:
        """Scorers that are called; files of scores are read."""
        return tuple(name for name in self.scorers if not name.startswith(FILE))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        model = about.model
        yield PixelBaselines(model, self.shown)
        head, fits = self.has_head(about), not self.can_fit(about)
        for shown in self.every(about):
            yield Features(model, shown)
            yield self.passes_of(model, shown)
            yield self.first_order_of(about, shown)
            yield self.views_of(model, shown)
            if shown != self.shown:
                yield PixelBaselines(model, shown)
            if head:
                yield self.head_of(about, shown)
                yield self.votes_of(about, shown)
            yield from (Head(member, shown, self.classes(about)) for member in self.members(about))
            yield from (self.own(model, name, shown) for name in self.own_scorers)
        if self.has_prototypes(about):
            yield Logits(model, self.shown)
        if fits:
            yield self.calibration(about)
        if head and fits:
            yield self.fitted(about)
            yield self.expected(about)

    # ---- the table

    def compute(self, inputs: Inputs) -> RivalsResult:
        images = inputs.images(self.shown)
        scores, left_out = self._scores(inputs)
        truth = self._truth(inputs)
        how = {"seed": self.seed, "resamples": self.resamples}
        trivial = {name: scores[name] for name in TRIVIAL}
        others = {name: each for name, each in scores.items() if name not in TRIVIAL}
        rows = {name: rated(each, truth, **how) for name, each in scores.items()}
        ahead, over_dropout = ahead_of_trivial(others, trivial, truth, **how), beside(REFERENCE, scores, truth)
        for name, each in scores.items():
            if not each.can_be_judged:
                left_out[f"what {name} is worth"] = (
                    f"all images of a trial share its probes: that takes {LEAST_TRIALS} trials, or all D + 1 probes"
                )
        if truth.entropy is None:
            left_out["auroc_error, rho_entropy"] = "no head is better than always naming the largest class"
        if images.labels is None:
            left_out["auroc_error, auroc_misplaced"] = "the images have no labels"
        return RivalsResult(scores, rows, ahead, over_dropout, left_out)

    def _truth(self, inputs: Inputs) -> Truth:
        images, model = inputs.images(self.shown), inputs.model
        features = inputs[Features(model, self.shown)]["features"].astype(np.float64)
        logits = inputs[self.head_of(inputs, self.shown)]["logits"] if self.has_head(inputs) else None
        if self.has_prototypes(inputs):
            logits = inputs[Logits(model, self.shown)]["logits"][0]
        labels = images.labels
        if logits is not None and read_head({"logits": logits}, images, self.seed).head_reason:
            logits = None  # of which error and entropy would be those of chance
        foreign = [inputs.images(each) for each in self.foreign_sets(inputs)]
        return Truth(
            origins=np.array(images.origins),
            error=None if logits is None or labels is None else logits.argmax(axis=1) != labels,
            entropy=None if logits is None else entropy(logits),
            norm=np.linalg.norm(features, axis=1),
            misplaced=None if labels is None else ~retrieval_correct(features, labels, images.origins),
            foreign_origins=np.concatenate([np.array(each.origins) for each in foreign]),
        )

    def _scores(self, inputs: Inputs) -> tuple[dict[str, Scored], dict[str, str]]:
        left_out: dict[str, str] = {}
        taken = {shown: self._on(inputs, shown, left_out) for shown in self.every(inputs)}
        foreign, degraded = self.foreign_sets(inputs), self.degraded()
        costs = self._costs(inputs)
        scores = {}
        for name, values in taken[self.shown].items():
            shared = name in (*FIRST_ORDER, RECIPE) and len(values) > 1
            elsewhere = [
                taken[each][name] if shared else taken[each][name][0] for each in foreign if name in taken[each]
            ]
            scores[name] = Scored(
                values,
                costs.get(name, math.nan),
                np.concatenate(elsewhere, axis=-1) if len(elsewhere) == len(foreign) else None,
                {kind: taken[each][name][0] for kind, each in degraded.items() if name in taken[each]},
                shared,
            )
        for name in self.scorers:
            if name.startswith(FILE):
                path = Path(name.removeprefix(FILE))
                for score, values in read_scores(path, inputs.images(self.shown).ids).items():
                    scores[f"{path.stem}/{score}"] = Scored(without_copies(values), math.nan)
        return scores, left_out

    def _on(self, inputs: Inputs, shown: Images, left_out: dict[str, str]) -> dict[str, Array]:
        """Every score [K, N] of one set of images."""
        model, head = inputs.model, self.has_head(inputs)
        found: dict[str, Array] = {}
        seen = self._seen(inputs, shown)
        for rival in built_in():
            reason = rival.missing(seen)
            if reason:
                left_out[rival.name] = reason
            else:
                found[rival.name] = rival(seen)[None]
        pixels = inputs[PixelBaselines(model, shown)]
        found |= {name: -pixels[figure][None] for name, figure in PIXELS.items()}
        run, linear = inputs[self.passes_of(model, shown)], inputs[self.first_order_of(inputs, shown)]
        found |= {name: run.scores(score) for name, score in DROPOUT.items()}
        found |= {name: linear.scores(score) for name, score in FIRST_ORDER.items()}
        recipe = self._recipe(inputs)
        if isinstance(recipe, str):
            left_out[RECIPE] = recipe
        else:
            weights = {site.name: site.weight for site in recipe.sites}
            by_site = np.array([weights.get(name, 0.0) for name, _ in linear.sites])
            found[RECIPE] = linear.decomposition(recipe.score) @ by_site
        found["view_spread"] = inputs[self.views_of(model, shown)]["spread"]
        if head:
            found |= {name: inputs[self.votes_of(inputs, shown)][name] for name in VOTES}
        else:
            left_out |= dict.fromkeys(VOTES, "it needs class prompts and a text tower")
        if members := self.members(inputs):
            each = [inputs[Head(member, shown, self.classes(inputs))]["logits"] for member in members]
            said = votes(np.stack(each, axis=1), each[0].argmax(axis=1))
            found |= {name: said[vote][None] for name, vote in ENSEMBLE.items()}
        else:
            left_out |= dict.fromkeys(ENSEMBLE, "it needs other checkpoints of the architecture: --ensemble=KEY,KEY")
        request = self.fitted(inputs)
        if shown == self.shown and request in inputs.requests:
            found |= {name: inputs[request][score][None] for name, score in LAPLACE.items()}
            expected = inputs[self.expected(inputs)]
            found |= {name: expected[name][None] for name in EXPECTED if name in expected}
            if "left_out" in expected:
                left_out |= dict.fromkeys(EXPECTED, expected["left_out"].tobytes().decode())
        elif shown == self.shown:
            reason = self.can_fit(inputs) or "it needs class prompts and a text tower"
            left_out |= dict.fromkeys((*LAPLACE, *EXPECTED), reason)
        for name in self.own_scorers:
            found[scorer_named(name).name] = without_copies(inputs[self.own(model, name, shown)]["scores"])
        return found

    def _recipe(self, inputs: View) -> Recipe | str:
        """What ships as chosen for the encoder, where it is not dropout at all sites; or why there is no row."""
        try:
            recipe = read_recipe(shipped(inputs.model))
        except McdoError as error:
            return str(error)
        if recipe.encoder.weights != inputs.encoder().weights_hash:
            return "the recipe that ships is of other weights"
        if recipe.kind != kind_name(type(self.dropout)) or recipe.dimensions is not None:
            return "the recipe that ships is of another perturbation, or weights dimensions: mcdo score has it"
        if recipe.score in FIRST_ORDER.values() and len({site.weight for site in recipe.sites}) == 1:
            return f"nothing was chosen: what ships is {recipe.score} of dropout at all sites, which has a row"
        return recipe

    def _seen(self, inputs: Inputs, shown: Images) -> Seen:
        features = inputs[Features(inputs.model, shown)]["features"].astype(np.float64)
        head = inputs[self.head_of(inputs, shown)] if self.has_head(inputs) else None
        held, request = None, self.calibration(inputs)
        if request in inputs.requests:
            fitted = calibration_images(inputs.images, inputs.settings, self.shown, self.fit)
            held = Calibration(inputs[request]["features"], fitted.labels)
        return Seen(
            features,
            None if head is None else head["logits"],
            None if head is None else head["cosines"],
            "sigmoid" if head is not None and head["sigmoid"][0] else "softmax",
            held,
        )

    def _costs(self, inputs: Inputs) -> dict[str, float]:
        """Forwards of one image and trial; products of first order count as two, a forward and its way back."""
        probes = self.first_order_of(inputs, self.shown).probes
        return {
            **dict.fromkeys((rival.name for rival in built_in()), 1.0),
            **dict.fromkeys(PIXELS, 0.0),
            **dict.fromkeys((*DROPOUT, *VOTES), float(self.passes)),
            **dict.fromkeys((*FIRST_ORDER, RECIPE), 2.0 * probes),
            **dict.fromkeys((*LAPLACE, *EXPECTED), 1.0),
            "view_spread": float(self.views),
            **dict.fromkeys(ENSEMBLE, float(len(self.members(inputs)))),
            **{scorer_named(name).name: self._own_cost(inputs, name) for name in self.own_scorers},
        }

    def _own_cost(self, inputs: Inputs, name: str) -> float:
        """As counted; what a scorer says of itself where that is more, as for a network of its own."""
        counted = inputs[self.own(inputs.model, name, self.shown)]["forwards"]
        return max(float(counted[0]), float(scorer_named(name).cost))

    # ---- what is claimed and written

    def claims(self) -> Sequence[Claim[RivalsResult]]:
        return [_beats(score, task) for task in ("error", "foreign") for score in JUDGED]

    def summary(self, result: RivalsResult) -> Mapping[str, Any]:
        raised = [f"raised/{name}" for name in self.degradations]
        return {
            "rows": {
                name: {
                    "cost": None if math.isnan(result.scores[name].cost) else result.scores[name].cost,
                    "deterministic": len(result.scores[name].values) == 1,
                    "judged": "mean over trials" if result.scores[name].shared_noise else "one trial",
                    **row,
                }
                for name, row in result.rows.items()
            },
            "ahead_of_the_best_trivial": {
                f"{name} at {task}": {"baseline": each.baseline, **each.difference.as_dict()}
                for (name, task), each in result.ahead.items()
            },
            f"over_{REFERENCE}": {f"{name} at {task}": each for (name, task), each in result.over_dropout.items()},
            "trivial": list(TRIVIAL),
            "measures": {**MEASURES, **dict.fromkeys(raised, "share of images whose score rises")},
            "left_out": dict(result.left_out),
            "correction": "Holm over all differences of a model",
        }

    def arrays(self, inputs: Inputs, result: RivalsResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        images = inputs.images(self.shown)
        scores = {name.replace("/", "_"): each.values for name, each in result.scores.items()}
        return {"{}/rivals.npz": {"paths": np.array(images.ids), "origins": np.array(images.origins), **scores}}

    def title(self) -> str:
        return f"what is dropout worth beside its rivals? (N={self.n}, T={self.passes})"

    def panels(self, inputs: Inputs, result: RivalsResult) -> Sequence[Panel]:
        """One panel for each measure that most readers ask for first; scores from best to worst."""
        shown = {
            "auroc_error": (0.5, "errors of the prediction", "AUROC"),
            "auroc_foreign": (0.5, "images of another kind", "AUROC"),
            "rho_entropy_given_norm": (0.0, "entropy, given the feature norm", "Spearman's ρ"),
        }
        there = [measure for measure in shown if any(measure in row for row in result.rows.values())]

        def draw(axes: Axes, measure: str) -> None:
            estimates = {name: row[measure] for name, row in result.rows.items() if measure in row}
            bar, title, label = shown[measure]
            ranked_panel(axes, estimates, bar, f"{label} [95 %]")
            axes.set_title(title)

        return [lambda axes, m=measure: draw(axes, m) for measure in there]  # type: ignore[misc]


def _check_own(given: Sequence[str]) -> None:
    """Raise McdoError for a scorer or file that is not there, and for a name that stands for another row as well."""
    rows = (*DROPOUT, *FIRST_ORDER, RECIPE, *ENSEMBLE, *LAPLACE, *EXPECTED, *PIXELS, *VOTES, "view_spread")
    taken = {*rows, *(rival.name for rival in built_in())}
    for name in given:
        if name.startswith(FILE):
            path = Path(name.removeprefix(FILE))
            check_scores(path)
            row = path.stem
        else:
            row = scorer_named(name).name
        if row in taken:
            raise McdoError(f"--scorers={name}: the table has {row} already; give it another name")
        taken.add(row)


def _beats(score: str, task: str) -> Claim[RivalsResult]:
    def of(result: RivalsResult) -> Advantage | None:
        return result.ahead.get((score, task))

    def beside(result: RivalsResult) -> str:
        found = of(result)
        if found is None:
            return "the images have no labels, or there is no head" if task == "error" else "there are no such images"
        measure = {"error": "auroc_error", "foreign": "auroc_foreign"}[task]
        return f"over {found.baseline}; itself {result.rows[score][measure]}"

    return Claim(
        f"beats_trivial/{task}/{score}",
        lambda r: None if of(r) is None else of(r).difference.estimate,  # type: ignore[union-attr]
        above=0.0,
        beside=beside,
        p_holm=lambda r: math.nan if of(r) is None else of(r).difference.p_holm,  # type: ignore[union-attr]
    )
