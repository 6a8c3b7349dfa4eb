"""Intervals about levels: means, shares, changes, responses, a bias, a grid, replicates, and classes of a study."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy
from figures import HIGH, OWN, RISE, Draw, Found, Group, Truth
from numpy.typing import NDArray
from populations import Array, Population

from mcdo.stats import (
    Estimate,
    FactorialAnalysis,
    factorial_analysis,
    group_differences,
    mean,
    mean_bias,
    mean_shares,
    median,
    ratio_of_means,
    reading_error,
    response_curve,
    share,
    trial_drift,
    wilcoxon_increase,
)
from mcdo.stats.crossed import crossed_contrast, crossed_mean
from mcdo.stats.mean_differences import mean_differences, t_mean
from mcdo.stats.sample import Sample
from mcdo.studies.subtasks.compare import differences, estimates, mean_gap, share_among, sums

SEVERITIES, RESPONSE = (0.0, 1.0, 2.0, 4.0), np.array([0.0, 0.3, 0.6, 1.2])
READ = 0.45
"""A score that amounts to severity 1.5."""
PASSES, DIMENSIONS, NOISE = (4, 8, 16, 32), 6, 0.5
FACTORS = {"loss": ("a", "b"), "tower": ("a", "b"), "site": ("a", "b")}
EFFECTS = np.array([[[0.0, 0.4], [0.3, 0.7]], [[0.5, 1.2], [0.8, 1.5]]])
"""Loss .5, tower .3, site .4, and .3 more of loss and site together."""
UNITS_DIFFER = 0.2
"""Standard deviation over units of what a site does to one."""
REPLICATES, KINDS_DIFFER, SEEDS_DIFFER = 5, 0.4, 0.05
"""Units of a kind, how far kinds are apart, and the standard deviation over units."""


def _apart(draw: Draw, values: Array, noise: dict[str, bool]) -> Found:
    """The first half of the images beside the second, of [N] or [K, N]."""
    half = values.shape[-1] // 2
    groups = {"first": values[..., :half], "second": values[..., half:]}
    held = draw.origins["origins"]
    origins = None if held is None else {"first": held[:half], "second": held[half:]}
    found = group_differences(groups, origins=origins, permutations=9, **noise, **draw.resampling)["first", "second"]
    return {"difference of groups": found.difference, "exceedance of groups": found.exceedance}


def _means(draw: Draw) -> Found:
    of = draw.sample
    return {
        "mean": mean(of.own, **draw.how),
        "mean, Student": t_mean(of.own, **draw.origins),
        "difference of means, Student": mean_differences({"one": of.target, "other": of.own}, "one", **draw.origins)[
            "other"
        ].estimate,
        "median": median(of.own, **draw.how),
        "ratio of means": ratio_of_means(np.abs(of.own), np.exp(of.norm / 2), **draw.how),
        **_apart(draw, of.own, {}),
    }


def _shared_levels(draw: Draw) -> Found:
    of, how = draw.sample, {**draw.how, **draw.noise}
    wider = of.scores * np.where(np.arange(len(of.own)) < len(of.own) // 2, 1, 2)
    return {
        "mean": mean(of.scores, **how),
        "median": median(of.scores, **how),
        "ratio of means": ratio_of_means(4 + of.scores, np.exp(of.norm / 2), **how),
        **_apart(draw, wider, {"shared_noise": True}),
        "drift over trials": trial_drift(4 + of.scores, **how),
    }


def _pairs(draw: Draw) -> Found:
    of = draw.sample
    after, before = np.exp((of.target + RISE) / 2), np.exp(of.norm / 2)
    increase = wilcoxon_increase(after, before, **draw.how)
    return {
        "share, 1 in 5": share(draw.high, **draw.origins),
        "share, 1 in 20": share(of.target > scipy.special.ndtri(0.95), **draw.origins),
        "Wilcoxon fraction": increase.fraction,
        "relative change": increase.relative_change,
        "drift over trials": trial_drift(before * np.exp(0.2 * of.scores), **draw.how),
    }


def _tests(draw: Draw) -> Found:
    """Four tests of each image, as four degradations are, passed where a trial's score is above a bar."""

    def passed(bar: float) -> Estimate:
        above = draw.sample.scores[:4] > bar / math.sqrt(draw.population.icc)
        p, low, high, n = mean_shares(above.mean(axis=0)[None], origins=draw.origins["origins"])
        return Estimate(float(p[0]), float(low[0]), float(high[0]), n, 0.95)

    return {"mean share, 1 in 2": passed(0.0), "mean share, 1 in 5": passed(HIGH)}


def _replicates(draw: Draw) -> Found:
    """Units of two kinds, five of each, shown the same images; what a unit does differs, and so do kinds by image."""
    of, rng = draw.sample, draw.rng
    kinds = np.repeat([0, 1], REPLICATES)
    sample = Sample(len(of.own), draw.origins["origins"], **draw.resampling)
    seen = of.own + kinds[:, None] * of.target + 0.6 * rng.normal(size=(kinds.size, len(of.own)))
    values = seen + SEEDS_DIFFER * rng.normal(size=(kinds.size, 1)) + KINDS_DIFFER * kinds[:, None]
    whole, draws = sample.both(lambda weights: weights @ values.T / weights.sum(axis=1, keepdims=True))
    apart = (2 * kinds - 1) / REPLICATES
    first = slice(REPLICATES)
    return {
        "mean over units": crossed_mean(whole[first], draws[:, first], sample.n).estimate,
        "contrast of kinds of units": crossed_contrast(whole, draws, apart, [*map(str, kinds)], sample.n).estimate,
    }


def _responses(draw: Draw) -> Found:
    """Images under damage of four severities, with noise of their own in each."""
    scores = draw.sample.scores[: len(SEVERITIES)] + RESPONSE[:, None]
    curve = response_curve(SEVERITIES, scores, **draw.how)
    return {
        "response": curve.measured[1],
        "response, fitted": curve.fitted[1],
        "rise": curve.rise,
        "severity read off": curve.equivalent(READ),
        "reading error": reading_error(SEVERITIES, scores, **draw.how),
    }


def _bias(draw: Draw) -> Found:
    """Means of nested passes: a bias that grows with one trait, noise that grows with another."""
    of, K = draw.sample, 3
    offset, noise = 0.3 * np.exp(of.target / 4), NOISE * np.exp(of.norm / 4)
    rng, total, done, shift = draw.rng, np.zeros((K, len(of.own), DIMENSIONS)), 0, []
    for passes in PASSES:
        total += math.sqrt(passes - done) * rng.normal(size=total.shape)
        done = passes
        moved = noise[:, None] * total / passes
        moved[..., 0] += offset
        shift.append(np.sqrt(np.square(moved).sum(axis=2)))
    found = mean_bias(np.stack(shift), PASSES, **draw.how)
    return {
        "bias": found.bias, "bias squared": found.bias_squared, "noise of a pass": found.noise,
        "bare slope": found.slope, "root mean square shift": found.rms[PASSES[-1]],
    }  # fmt: skip


def _factorial(draw: Draw) -> Found:
    """Eight cells of the same images: with given effects, and with four units that differ in what a site does."""
    of, rng = draw.sample, draw.rng
    sample = Sample(len(of.own), draw.origins["origins"], **draw.resampling)
    sites = np.arange(EFFECTS.size)[:, None] % 2  # what a site does differs between images
    noise = of.own + sites * of.target + 0.6 * rng.normal(size=(EFFECTS.size, len(of.own)))
    drawn = UNITS_DIFFER * rng.normal(size=(*EFFECTS.shape[:2], 1)) * np.array([-0.5, 0.5])

    def analysed(effects: Array) -> FactorialAnalysis:
        cells = noise + effects.reshape(-1, 1)
        whole, draws = sample.both(lambda weights: weights @ cells.T / weights.sum(axis=1, keepdims=True))
        shape = EFFECTS.shape
        return factorial_analysis(
            FACTORS, whole.reshape(shape), draws.reshape(-1, *shape), sample.n, units=("loss", "tower")
        )

    fixed, units = analysed(EFFECTS), analysed(EFFECTS[:, :1, :1] + np.array([0.0, 0.4]) + drawn)
    return {
        "contrast between units": fixed.between["loss", "a", "b"],
        "contrast within units": units.within["site", "a", "b"].estimate,
        "share of a factor": fixed.shares["loss"],
        "share of an interaction": fixed.shares["loss x site"],
        "share of nothing": fixed.shares["tower x site"],
        "difference of shares": fixed.share_differences["loss", "tower"],
    }


@lru_cache
def _shares() -> dict[str, float]:
    """Of the grid's effects, by hand: half a contrast squared; in all .35² + .15² + .275² + .075²."""
    parts = {"loss": 0.325**2, "tower": 0.15**2, "site": 0.275**2, "loss x site": 0.075**2}
    return {name: part / sum(parts.values()) for name, part in parts.items()}


def _classes(draw: Draw) -> Found:
    """Two seeds' decisions on the same images: right where the target is not low, accepted where the score is high."""
    of = draw.sample
    accepted = (of.scores[:2] > 0.3).ravel()
    right, rare = (np.tile(of.target > bar, 2) for bar in (-0.5, 2.0))
    groups = np.tile(_numbers(draw), 2)
    return {
        "gap of two classes": mean_gap(right, accepted, groups, **draw.resampling),
        "share in a class": share_among(right, accepted, groups),
        "rare share in a class": share_among(rare, accepted, groups),
    }


def _arms(draw: Draw) -> Found:
    """Two arms of two seeds each: probabilities of two classes, the second arm's with more noise."""
    of, groups = draw.sample, _numbers(draw)
    labels = (of.target > 0).astype(int)
    first, second = (
        sums(_probabilities(0.8 * of.target + noise * of.scores[at : at + 2]), labels, groups)
        for noise, at in ((0.4, 0), (0.8, 2))
    )
    found, gap = estimates(first, **draw.resampling), differences(second, first, **draw.resampling)
    return {
        "accuracy of an arm": found["accuracy"],
        "NLL of an arm": found["nll"],
        "Brier score of an arm": found["brier"],
        "ECE of an arm": found["ece"],
        "difference of accuracy": gap["accuracy"],
        "difference of NLL": gap["nll"],
        "difference of Brier scores": gap["brier"],
        "difference of ECE": gap["ece"],
    }


def _numbers(draw: Draw) -> NDArray[np.intp]:
    held: NDArray[np.intp] | None = draw.origins["origins"]
    return np.arange(len(draw.sample.own)) if held is None else held


def _probabilities(logits: Array) -> Array:
    p = scipy.special.expit(2 * logits)
    return np.stack([1 - p, p], axis=2)


def _zero(population: Population, K: int) -> float:
    return 0.0


def _half(population: Population, K: int) -> float:
    return 0.5


def _mean_of_own(population: Population, K: int) -> float:
    return math.exp(population.skew**2 / 2) if population.images == "log_normal" else 0.0


def _ratio(population: Population, K: int) -> float:
    """E|own| / E exp(norm/2); of t with three degrees of freedom, 2√3/π, scaled to variance one."""
    size = {"normal": math.sqrt(2 / math.pi), "t3": 2 / math.pi, "log_normal": _mean_of_own(population, K)}
    return size[population.images] / math.exp(1 / 8)


NO_DIFFERENCE: Truth = {"difference of groups": _zero, "exceedance of groups": _half}
GROUPS = (
    Group("means", _means, (*OWN, "clustered"), truth={
        "mean": _mean_of_own, "mean, Student": _mean_of_own, "difference of means, Student": _mean_of_own,
        "median": lambda population, K: 1.0 if population.images == "log_normal" else 0.0,
        "ratio of means": _ratio, **NO_DIFFERENCE,
    }, complete=True),
    Group("means, noise shared by trials", _shared_levels, ("shared_noise", "shared_level"), (3, 5, 10), truth={
        "mean": _zero, "median": _zero, "ratio of means": lambda population, K: 4 / math.exp(1 / 8),
        **NO_DIFFERENCE, "drift over trials": _zero,
    }, complete=True),
    Group("shares and changes", _pairs, ("normal", "clustered"), truth={
        "share, 1 in 5": lambda population, K: 0.2,
        "share, 1 in 20": lambda population, K: 0.05,
        "Wilcoxon fraction": lambda population, K: float(scipy.special.ndtr(RISE / math.sqrt(2 * (1 - 0.3)))),
        "relative change": lambda population, K: math.exp(RISE / 2) - 1,
        "drift over trials": _zero,
    }, complete=True),
    Group("means of four tests", _tests, ("normal", "clustered"), truth={
        "mean share, 1 in 2": lambda population, K: 0.5, "mean share, 1 in 5": lambda population, K: 0.2,
    }, complete=True),
    Group("responses to damage", _responses, ("normal", "heavy_images", "clustered"), truth={
        "response": lambda population, K: float(RESPONSE[1]),
        "response, fitted": lambda population, K: float(RESPONSE[1]),
        "rise": lambda population, K: float(RESPONSE[-1]), "severity read off": lambda population, K: 1.5,
    }),
    Group("bias of the mean over passes", _bias, ("normal", "clustered"), truth={
        "bias": lambda population, K: 0.3 * math.exp(1 / 16),
        "bias squared": lambda population, K: 0.09 * math.exp(1 / 8),
        "noise of a pass": lambda population, K: DIMENSIONS * NOISE**2 * math.exp(1 / 8),
        "root mean square shift": lambda population, K: (
            math.sqrt((0.09 + DIMENSIONS * NOISE**2 / PASSES[-1]) * math.exp(1 / 8))
        ),
    }),
    Group("factorial grid", _factorial, ("normal", "heavy_images", "clustered"), truth={
        "contrast between units": lambda population, K: 0.65, "contrast within units": lambda population, K: 0.4,
        "share of a factor": lambda population, K: _shares()["loss"],
        "share of an interaction": lambda population, K: _shares()["loss x site"],
        "share of nothing": _zero,
        "difference of shares": lambda population, K: _shares()["tower"] - _shares()["loss"],
    }, complete=True),
    Group("replicates of encoders", _replicates, (*OWN, "clustered"), truth={
        "mean over units": _mean_of_own, "contrast of kinds of units": lambda population, K: KINDS_DIFFER,
    }, complete=True),
    Group("classes of the study of subtasks", _classes, ("normal", "clustered")),
    Group("arms of the study of subtasks", _arms, ("normal", "clustered")),
)  # fmt: skip
