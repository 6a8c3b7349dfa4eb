"""Exp1: does the ranking of images survive a change of the drop probability p, and where does first order end?

To first order the variance is p/(1 − p) times a sum over sites that does not depend on p, so every p would rank the
images alike. The sweep shows from which p on that fails: the mean score against its prediction, and the Spearman matrix
over p, raw and corrected for each p's own noise. A raw correlation alone cannot tell another ranking from a noisy one.

Trials at one p are exchangeable. The published sweep stacked its dropouts call after call, which made the mean trace
grow with the trial; the drift over trials is therefore measured and stands in the summary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.harness import Claim, Experiment, Files, FirstOrder, Images, Inputs, Passes, Request, View
from mcdo.report.figures import Panel
from mcdo.report.panels import correlation_panel, interval_panel
from mcdo.stats import (
    THRESHOLDS,
    Agreement,
    Estimate,
    RankMatrix,
    Reliability,
    agreement,
    mean,
    rank_matrix,
    ratio_of_means,
    reliability,
    spearman,
    trial_drift,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STABLE = 0.8
P = "drop probability p"
"""Two p rank alike when their correlation lies above this."""
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class StabilityResult:
    """By p, unless said otherwise.

    Attributes:
        means: mean trace_pre.
        predicted: its first-order prediction.
        ratio: one over the other.
        reliability: of trace_pre.
        drift: of the mean over trials, per trial; simultaneous over all p.
        norm: rank correlation with the feature norm.
        matrices: by score, rank correlations among all p.
        first_order: at the reference p, Monte Carlo beside first order.

    """

    means: Mapping[float, Estimate]
    predicted: Mapping[float, float]
    ratio: Mapping[float, Estimate]
    reliability: Mapping[float, Reliability]
    drift: Mapping[float, Estimate]
    norm: Mapping[float, Estimate]
    matrices: Mapping[str, RankMatrix]
    first_order: Agreement

    def stable(self, kind: str = "disattenuated") -> dict[tuple[float, float], str]:
        """For every pair of p whether its correlation lies above :data:`STABLE`: met, not met or undecided."""
        matrix = self.matrices["trace_pre"]
        pairs = itertools.combinations(self.means, 2)
        return {(a, b): matrix.pair(kind, f"{a:g}", f"{b:g}").outcome(STABLE, ">") for a, b in pairs}


@dataclass(frozen=True)
class RankStability(Experiment[StabilityResult]):
    """N images, K trials at one T, for every p; first order with all probes, or ``probes`` in each of some trials."""

    key = "exp1"
    name = "exp1_rank_stability"
    phase = "phase2"
    files = Files.of_each("exp1", "exp1_rank_stability")
    quick = {"n": 60, "passes": 32, "p": (0.001, 0.01, 0.1), "probes": 4}
    published = ("trace_pre", "trace_pre_relative")

    n: int = 1000
    passes: int = 64
    trials: int = 3
    p: tuple[float, ...] = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
    reference: float = 0.01
    probes: int = 16
    probe_trials: int = 5

    def at(self, model: str, p: float) -> Passes:
        return Passes(model, Images(self.n), self.protocol((self.passes,), self.trials, self.dropout.with_p(p)))

    def first_order(self, about: View) -> FirstOrder:
        """One run of the prediction serves every p."""
        kind = self.dropout.with_p(self.reference)
        return FirstOrder.exact_or(self.probes, self.probe_trials, about, Images(self.n), kind, self.seed)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (*(self.at(about.model, p) for p in self.p), self.first_order(about))

    def compute(self, inputs: Inputs) -> StabilityResult:
        seed, linear = self.seed, inputs[self.first_order(inputs)]
        runs = {p: inputs[self.at(inputs.model, p)] for p in self.p}
        scores = {name: {p: run.scores(name) for p, run in runs.items()} for name in self.reported}
        predicted = {p: linear.scores("trace_pre", p=p) for p in self.p}
        trace, norm, origins = scores["trace_pre"], linear.feature_norm, linear.origins
        shared = (
            len(predicted[self.reference]) > 1
        )  # images of a trial share its probes; those of a Monte Carlo trial no masks
        # all p at once: 99 % that no interval misses zero where nothing drifts
        simultaneous: dict[str, Any] = {"seed": seed, "resamples": 4000, "level": 1 - 0.01 / len(trace)}
        return StabilityResult(
            means={p: mean(values, origins=origins, seed=seed) for p, values in trace.items()},
            predicted={p: float(values.mean()) for p, values in predicted.items()},
            ratio={
                p: ratio_of_means(values.mean(axis=0), predicted[p], shared_noise=shared, origins=origins, seed=seed)
                for p, values in trace.items()
            },
            # masks are each image's own, and three trials are too few to judge that from the data
            reliability={
                p: reliability(values, origins=origins, shared_noise=False, seed=seed) for p, values in trace.items()
            },
            drift={p: trial_drift(values, origins=origins, **simultaneous) for p, values in trace.items()},
            norm={p: spearman(values.mean(axis=0), norm, origins=origins, seed=seed) for p, values in trace.items()},
            matrices={
                name: rank_matrix(
                    {f"{p:g}": values for p, values in by_p.items()}, origins=origins, seed=seed, resamples=500
                )
                for name, by_p in scores.items()
            },
            first_order=agreement(
                trace[self.reference],
                predicted[self.reference],
                origins=origins,
                shared_noise=shared,
                seed=seed,
            ),
        )

    def claims(self) -> Sequence[Claim[StabilityResult]]:
        return (
            Claim(
                "first_order_mean/smallest_p",
                lambda r: r.ratio[min(self.p)],
                within=(0.9, 1.1),  # the delta method is exact as p tends to 0
                beside=lambda r: "measured / predicted mean",
            ),
            *(self._stable(p) for p in self.p if p != self.reference),
            Claim(
                "first_order_rank",
                lambda r: r.first_order.corrected,
                above=STABLE,
                beside=lambda r: f"raw {r.first_order.spearman}",
            ),
        )

    def _stable(self, p: float) -> Claim[StabilityResult]:
        pair = (f"{p:g}", f"{self.reference:g}")

        def beside(r: StabilityResult) -> str:
            relative = r.matrices["trace_pre_relative"].pair("disattenuated", *pair)
            return f"raw {r.matrices['trace_pre'].pair('raw', *pair)}; over the squared norm {relative}"

        return Claim(
            f"stable/p={p:g}",
            lambda r: r.matrices["trace_pre"].pair("disattenuated", *pair),
            above=STABLE,
            beside=beside,
        )

    def summary(self, result: StabilityResult) -> Mapping[str, Any]:
        return {
            "reliability_by_p": {f"{p:g}": r for p, r in result.reliability.items()},
            "mean_by_p": {f"{p:g}": e for p, e in result.means.items()},
            "first_order_mean_by_p": {f"{p:g}": value for p, value in result.predicted.items()},
            "ratio_to_first_order_by_p": {f"{p:g}": e for p, e in result.ratio.items()},
            "trial_drift_by_p": {f"{p:g}": e for p, e in result.drift.items()},
            "spearman_with_feature_norm_by_p": {f"{p:g}": e for p, e in result.norm.items()},
            "spearman_matrix": result.matrices,
            "stable_pairs": {
                kind: {f"{a:g}~{b:g}": outcome for (a, b), outcome in result.stable(kind).items()}
                for kind in ("raw", "disattenuated")
            },
            "first_order_at_reference": result.first_order,
            "stable_bar": STABLE,
        }

    def arrays(self, inputs: Inputs, result: StabilityResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        runs = {p: inputs[self.at(inputs.model, p)] for p in self.p}
        first = runs[self.p[0]]
        return {
            "{}/exp1_rank_p_trials.npz": {
                "paths": np.array(first.ids),
                "p_values": np.array(self.p),
                "mean_uncertainty": np.stack([run.scores("trace_pre").mean(axis=0) for run in runs.values()]),
                "spearman_matrix": result.matrices["trace_pre"].values("raw"),
                "spearman_matrix_disattenuated": result.matrices["trace_pre"].values("disattenuated"),
                "feature_norm": first.feature_norm,
                **{f"trials_p_{p:g}": run.scores("trace_pre") for p, run in runs.items()},
            }
        }

    def title(self) -> str:
        return f"rank stability over p (N={self.n}, T={self.passes}, K={self.trials})"

    def panels(self, inputs: Inputs, result: StabilityResult) -> Sequence[Panel]:
        matrix, reference = result.matrices["trace_pre"], f"{self.reference:g}"
        series = {
            "between trials of one p": {f"{p:g}": r.estimate("spearman") for p, r in result.reliability.items()},
            f"with p = {reference}, corrected": {
                f"{p:g}": matrix.pair("disattenuated", f"{p:g}", reference) for p in self.p if p != self.reference
            },
        }

        def levels(axes: Axes) -> None:
            p = list(result.means)
            axes.loglog(p, [e.value for e in result.means.values()], "o-", label="Monte Carlo")
            axes.loglog(p, [result.predicted[x] for x in p], "k--", label="first order, p/(1 − p)")
            axes.set_xlabel(P)
            axes.set_ylabel("mean trace_pre (squared feature units)")
            axes.legend()

        def matrices(axes: Axes) -> None:
            correlation_panel(axes, matrix.names, matrix.values("disattenuated"), "trace_pre, corrected for noise", P)

        def between_p(axes: Axes) -> None:
            interval_panel(axes, series, THRESHOLDS.usable_spearman, "Spearman's ρ [95 %]", P)

        return levels, matrices, between_p
