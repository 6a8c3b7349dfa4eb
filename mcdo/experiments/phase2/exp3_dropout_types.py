"""Exp3: which kind of perturbation gives a score that repeats and means something, and do they rank images alike?

A attention probabilities, B hidden activation of the MLP (after the nonlinearity), C stochastic depth (per image),
D final projection, E every linear map; G Gaussian, S multiplicative, and W dropout with one mask over the tokens of an
image (a sample of the weights, the Bayesian reading). All inject the same relative variance p/(1 − p) where they act,
and every image has masks of its own. In the published run A did nothing, C drew one mask per batch, D was an early MLP
layer by a slip of sorting, and all were stacked trial after trial, so its table is not a comparison of types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import ArrayLike

from mcdo.encoders import find_spec
from mcdo.errors import McdoError
from mcdo.estimators import TRACES, MonteCarloRun
from mcdo.experiments.phase1.exp5_subset_ambiguity import RHO_ENTROPY_BAR
from mcdo.harness import (
    Claim,
    Experiment,
    Files,
    Images,
    Inputs,
    Logits,
    Passes,
    Request,
    View,
)
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
)
from mcdo.report.figures import LEAST_LETTERS, Panel
from mcdo.report.panels import correlation_panel, interval_panel
from mcdo.stats import (
    THRESHOLDS,
    Estimate,
    RankMatrix,
    Reliability,
    ambiguity_estimates,
    ambiguity_table,
    ambiguity_targets,
    mean,
    rank_matrix,
    reliability,
    spearman,
    trial_drift,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TYPES = {
    "A": "attention probabilities",
    "B": "MLP hidden activation",
    "C": "stochastic depth",
    "D": "final projection",
    "E": "every linear map",
    "G": "Gaussian",
    "S": "multiplicative",
    "W": "mask tied over tokens",
}
OWN = "E"
"""The type that is the perturbation of the session."""
FOLLOWS = "rho_uncertainty_vs_entropy"
ROUNDING = 1e-11
"""A relative trace that float32 rounding alone can leave: (2^-24)² is 4e-15, and errors add up over some layers."""
UNLIKELY = 1e-6
"""Chance of so many untouched images below which a type is dead."""


@dataclass(frozen=True)
class DropoutTypesResult:
    """By type, unless said otherwise.

    Attributes:
        roles: that were perturbed.
        least: trace_pre of the image that is disturbed least, as a share of its squared feature norm.
        means: mean trace_pre.
        drift: of the mean trace_pre over trials, per trial; simultaneous over all types.
        norm: rank correlation of trace_pre with the feature norm.
        reliability: by score, then by type.
        validity: by score, then by type: the published figures, plain and with the feature norm held fixed; without
            classes that are read, there are none.
        matrices: by score, rank correlations among all types.
        norm_validity: the published figures of the feature norm itself; as above.
        unread: why no classes are read, or "".

    """

    roles: Mapping[str, tuple[str, ...]]
    least: Mapping[str, float]
    means: Mapping[str, Estimate]
    drift: Mapping[str, Estimate]
    norm: Mapping[str, Estimate]
    reliability: Mapping[str, Mapping[str, Reliability]]
    validity: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    matrices: Mapping[str, RankMatrix]
    norm_validity: Mapping[str, Estimate]
    unread: str = ""


@dataclass(frozen=True)
class DropoutTypes(Experiment[DropoutTypesResult]):
    """N images, K trials at one T, for every type."""

    key = "exp3"
    name = "exp3_dropout_types"
    phase = "phase2"
    files = Files.of_each("exp3", "exp3_dropout_types")
    of_one_model = True
    quick = {"n": 50, "passes": 32, "trials": 3}
    published = TRACES
    judges_heads = True

    n: int = 1000
    passes: int = 64
    trials: int = 5

    @property
    def every_kind(self) -> dict[str, Perturbation]:
        p, sites = self.dropout.p, self.dropout.sites
        return {
            "A": AttentionDropout(p),
            "B": HiddenDropout(p),
            "C": StochasticDepth(p),
            "D": Dropout(p, "projection"),
            OWN: self.dropout,
            "G": Gaussian(p, sites),
            "S": Multiplicative(p, sites),
            "W": TiedDropout(p, sites),
        }

    def kinds(self, model: str) -> dict[str, Perturbation]:
        """Those that the model has sites for: a tower with a pooling head has no final projection, hence no D."""
        projects = find_spec(model).family == "clip"
        return {kind: of for kind, of in self.every_kind.items() if projects or kind != "D"}

    def at(self, model: str, kind: Perturbation) -> Passes:
        return Passes(model, Images(self.n), self.protocol((self.passes,), self.trials, kind))

    def logits(self, model: str) -> Logits:
        return Logits(model, Images(self.n))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        kinds = self.kinds(about.model)
        first = {OWN: kinds[OWN]}  # whose sites and provenance stand in the summary
        head = () if about.why_no_head(Images(self.n)) else (self.logits(about.model),)
        return (*(self.at(about.model, kind) for kind in {**first, **kinds}.values()), *head)

    def runs(self, inputs: Inputs) -> dict[str, MonteCarloRun]:
        return {name: inputs[self.at(inputs.model, kind)] for name, kind in self.kinds(inputs.model).items()}

    def compute(self, inputs: Inputs) -> DropoutTypesResult:
        images, runs = inputs.images(Images(self.n)), self.runs(inputs)
        least = {kind: least_disturbed(kind, run) for kind, run in runs.items()}
        unread = inputs.why_unread(self.logits(inputs.model))
        targets = None if unread else ambiguity_targets(inputs[self.logits(inputs.model)]["logits"], images.labels)
        scores = {name: {kind: run.scores(name) for kind, run in runs.items()} for name in self.reported}
        trace, norm = scores["trace_pre"], runs[OWN].feature_norm
        sampling: dict[str, Any] = {"origins": images.origins, "seed": self.seed}
        # all types at once: 99 % that no interval misses zero where nothing drifts
        simultaneous = {**sampling, "resamples": 4000, "level": 1 - 0.01 / len(trace)}
        return DropoutTypesResult(
            roles={kind: run.roles for kind, run in runs.items()},
            least=least,
            means={kind: mean(values, **sampling) for kind, values in trace.items()},
            drift={kind: trial_drift(values, **simultaneous) for kind, values in trace.items()},
            norm={kind: spearman(values, norm, **sampling) for kind, values in trace.items()},
            reliability={
                name: {kind: reliability(values, **sampling) for kind, values in by_kind.items()}
                for name, by_kind in scores.items()
            },
            validity={
                name: ambiguity_table(by_kind, targets, norm, **sampling) for name, by_kind in scores.items() if targets
            },
            matrices={name: rank_matrix(by_kind, **sampling, resamples=500) for name, by_kind in scores.items()},
            norm_validity=ambiguity_estimates(norm, targets, **sampling) if targets else {},
            unread=unread,
        )

    def claims(self) -> Sequence[Claim[DropoutTypesResult]]:
        return [of(kind) for of in (_repeats, _follows) for kind in TYPES]

    def summary(self, result: DropoutTypesResult) -> Mapping[str, Any]:
        kinds = self.every_kind
        return {
            "types": TYPES,
            "results_by_type": {kind: _entry(kind, result) for kind in result.means},
            "left_out": [kind for kind in TYPES if kind not in result.means],
            "cross_type": result.matrices,
            "validity_of_the_feature_norm": result.norm_validity,
            "no_classes_read": result.unread,
            "perturbations": {
                kind: {"kind": type(kinds[kind]).__name__, "roles": list(roles)} for kind, roles in result.roles.items()
            },
            "intervals": "over originals; n of an interval counts originals",
        }

    def arrays(self, inputs: Inputs, result: DropoutTypesResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        return {
            f"{{}}/exp3_type_{kind}_trials.npz": {
                "paths": np.array(run.ids),
                "origins": np.array(run.origins),
                **{name: run.scores(name) for name in self.reported},
            }
            for kind, run in self.runs(inputs).items()
        }

    def title(self) -> str:
        return f"kinds of perturbation (p={self.dropout.p:g}, N={self.n}, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: DropoutTypesResult) -> Sequence[Panel]:
        """Reliability and validity of every type, and the matrix over types."""
        traces = {
            name: {kind: r.estimate("spearman") for kind, r in by_kind.items()}
            for name, by_kind in result.reliability.items()
        }
        rho = {name: {kind: f[FOLLOWS] for kind, f in of.items()} for name, of in result.validity.items()}
        if rho:
            given = {kind: f[f"{FOLLOWS}_given_norm"] for kind, f in result.validity["trace_pre"].items()}
            rho["trace_pre given norm"] = given
        matrix = result.matrices["trace_pre"]
        named = [f"{kind} {TYPES[kind]}" for kind in result.means]

        def by_type(axes: Axes, series: Mapping[str, Mapping[str, Estimate]], bar: float, label: str) -> None:
            interval_panel(axes, series, bar, f"{label} [95 %]", f"type: {'; '.join(named)}")
            axes.xaxis.label.set_fontsize(LEAST_LETTERS)

        def follows_entropy(axes: Axes) -> None:
            by_type(axes, rho, RHO_ENTROPY_BAR, "ρ with the zero-shot entropy")

        return (
            lambda axes: by_type(axes, traces, THRESHOLDS.usable_spearman, "median ρ between trials"),
            *((follows_entropy,) if rho else ()),
            lambda axes: correlation_panel(
                axes, matrix.names, matrix.values("disattenuated"), "trace_pre, corrected for noise", "type"
            ),
        )


def least_disturbed(kind: str, run: MonteCarloRun) -> float:
    """The least trace_pre over images, as a share of the squared feature norm.

    Where a unit is a whole branch, as in stochastic depth, an image can get through few passes with nothing dropped.

    Raises:
        McdoError: if it is no more than float32 rounding in more images than one draw for each site and pass would
            leave alone: a dead type is a fault, never a low score.

    """
    share = run.scores("trace_pre").mean(axis=0) / np.square(run.feature_norm)
    least, untouched = int(share.argmin()), int((~(share > ROUNDING)).sum())
    chance = (1 - run.config.dropout.p) ** (len(run.sites) * max(run.config.passes) * run.config.trials)
    if scipy.stats.binom.sf(untouched - 1, len(share), chance) < UNLIKELY or untouched == len(share):
        raise McdoError(
            f"{run.encoder}: type {kind} ({TYPES[kind]}) does nothing to {untouched} of {len(share)} images, such as "
            f"{run.ids[least]}: its trace is {share[least]:.1e} of the squared norm; look at the census of its sites"
        )
    return float(share[least])


def _entry(kind: str, result: DropoutTypesResult) -> dict[str, Any]:
    return {
        "meaning": TYPES[kind],
        "mean_trace_pre": result.means[kind],
        "least_relative_trace": result.least[kind],
        "trial_drift": result.drift[kind],
        "spearman_with_feature_norm": result.norm[kind],
        "reliability": {name: by_kind[kind] for name, by_kind in result.reliability.items()},
        "validity": {name: by_kind[kind] for name, by_kind in result.validity.items()},
    }


def _absent(kind: str) -> str:
    return f"this tower has no site for type {kind} ({TYPES[kind]})"


def _repeats(kind: str) -> Claim[DropoutTypesResult]:
    def estimate(result: DropoutTypesResult) -> Estimate | None:
        return result.reliability["trace_pre"][kind].estimate("spearman") if kind in result.means else None

    def beside(result: DropoutTypesResult) -> str:
        if kind not in result.means:
            return _absent(kind)
        r, post = (result.reliability[score][kind] for score in ("trace_pre", "trace_post"))
        return f"{r.brief}; trace_post {post.estimate('spearman')}"

    return Claim(f"reliable/{kind}", estimate, above=THRESHOLDS.usable_spearman, beside=beside)


def _follows(kind: str) -> Claim[DropoutTypesResult]:
    def estimate(result: DropoutTypesResult) -> Estimate | None:
        return None if result.unread or kind not in result.means else result.validity["trace_pre"][kind][FOLLOWS]

    def beside(result: DropoutTypesResult) -> str:
        if kind not in result.means:
            return _absent(kind)
        if result.unread:
            return result.unread
        given = result.validity["trace_pre"][kind][f"{FOLLOWS}_given_norm"]
        return f"given the feature norm {given}; the norm alone {result.norm_validity[FOLLOWS]}"

    return Claim(f"rho_entropy/{kind}", estimate, above=RHO_ENTROPY_BAR, beside=beside)
