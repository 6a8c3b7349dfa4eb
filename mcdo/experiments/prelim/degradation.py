"""Preliminary investigation, the validity test: is an image more uncertain once it has been damaged?

Each image is its own control. Clean and degraded versions are seen under the *same* masks (common random numbers),
which takes the noise of the masks out of the difference; the same comparison with independent masks stands beside it,
because the published headline moved by up to 17 points between the two. Families of damage come in graded severities,
stated in native pixels and at the model's input. From them follows a calibration curve, the score as a function of
known severity, and its inverse: "this image is as uncertain as a blur of r". The inverse is judged on images that the
curve has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need, add_to_json, origin, write_json, write_npz
from mcdo.images import ImageSet
from mcdo.images.degradations import FAMILIES, Degradation, graded, published
from mcdo.names import file_name
from mcdo.report.figures import save_figure
from mcdo.stats import (
    Estimate,
    PairedIncrease,
    ResponseCurve,
    bootstrap,
    entropy,
    holm,
    proportion,
    response_curve,
    wilcoxon_increase,
)

FOLDER = "prelim_degradation"
SCORES = ("trace_pre", "trace_post", "trace_pre_relative")
FREE = ("entropy", "feature_norm")
"""Deterministic, and free: what the score has to be better than."""
PASS_BAR = 0.75
WEAK_BAR = 0.60
Array = NDArray[np.float64]


@dataclass(frozen=True)
class DegradationConfig(ExperimentConfig):
    """N images, one trial at one T for every degradation; one more of the clean images is the independent control."""

    QUICK: ClassVar[Mapping[str, Any]] = {"n": 80, "passes": 12, "resamples": 100}

    n: int = 500
    passes: int = 64
    trials: int = 1
    families: tuple[str, ...] = tuple(FAMILIES)
    resamples: int = 1000


@dataclass(frozen=True)
class Seen:
    """What one version of the images gave: ``scores`` by name, each [N], unit ``features`` [N, D], and ``correct``."""

    scores: dict[str, Array]
    unit: Array
    correct: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Damage:
    """One degradation.

    Attributes:
        native: severity in native units; at_input: the same at the model's input resolution.
        increase: by score, clean and degraded under common random numbers.
        independent: by score, the clean images under other masks.
        p_holm: by score, one-sided Wilcoxon p of ``increase`` after Holm over all degradations and scores.
        cosine: mean cosine between clean and degraded features.
        accuracy: share of degraded images classified correctly.

    """

    native: float
    at_input: float
    increase: dict[str, PairedIncrease]
    independent: dict[str, PairedIncrease]
    p_holm: dict[str, float]
    cosine: Estimate
    accuracy: Estimate | None


@dataclass(frozen=True)
class Curve:
    """Response of one score to one family, and what its inverse is worth on images it has not seen.

    Attributes:
        response: fitted to all images.
        held_out_error: |severity read from the score − true severity| less that of always saying the median severity,
            mean over held-out images and severities, in units of severity; below 0 the reading helps. NaN: refused

    """

    response: ResponseCurve
    held_out_error: Estimate


@dataclass(frozen=True)
class DegradationResult:
    """By degradation; curves by (family, score); accuracy on clean images."""

    damage: dict[str, Damage]
    curves: dict[tuple[str, str], Curve]
    clean_accuracy: Estimate | None
    size: tuple[int, int]
    published: tuple[str, ...] = field(default=())


def degradations(config: DegradationConfig, size: tuple[int, int]) -> tuple[str, ...]:
    """The published four, then every level of every family; or the counterparts for small pictures."""
    side = min(size)
    every = [*published(side), *(spec for family in config.families for spec in graded(family, side))]
    return tuple(dict.fromkeys(every))


def needs(config: DegradationConfig, model: str) -> Need:
    """The clean images, with one trial more than the degraded ones, whose degradations follow from their size."""
    trials = config.trials + 1
    return Need(model, config.n, MonteCarloConfig(config.dropout, (config.passes,), trials, config.seed))


def degraded_needs(config: DegradationConfig, model: str, size: tuple[int, int]) -> dict[str, Need]:
    """The degraded images, by degradation."""
    measured = MonteCarloConfig(config.dropout, (config.passes,), config.trials, config.seed)
    return {spec: Need(model, config.n, measured, degradation=spec) for spec in degradations(config, size)}


def native_size(images: ImageSet) -> tuple[int, int]:
    """(width, height) of the picture with the median shorter side among the first hundred."""
    sizes = sorted((images.image(i).size for i in range(min(100, len(images)))), key=min)
    return sizes[len(sizes) // 2]


def seen(
    config: DegradationConfig, run: MonteCarloRun, logits: Array, labels: NDArray[np.int64] | None, trial: int = 0
) -> Seen:
    """What a run of clean or degraded images gave in one trial."""
    scores = {name: run.scores(name, config.passes)[trial] for name in SCORES}
    scores |= {"entropy": entropy(logits[0]), "feature_norm": run.feature_norm}
    unit = run.features.astype(np.float64) / run.feature_norm[:, None]
    return Seen(scores, unit, None if labels is None else logits[0].argmax(axis=1) == labels)


def compute(
    config: DegradationConfig,
    clean: Seen,
    other_masks: Seen,
    damaged: Mapping[str, Seen],
    size: tuple[int, int],
    resolution: int,
) -> DegradationResult:
    """Everything of one model.

    Args:
        config: the protocol.
        clean: the clean images, under the masks of the degraded ones.
        other_masks: the clean images under independent masks.
        damaged: by degradation.
        size: of the pictures, (width, height).
        resolution: of the model's input.

    """
    names: list[str] = [*SCORES, *FREE]
    resampling: dict[str, Any] = {"seed": config.seed, "resamples": config.resamples}
    pairs = {
        spec: {name: wilcoxon_increase(after.scores[name], clean.scores[name], **resampling) for name in names}
        for spec, after in damaged.items()
    }
    flat = [(spec, name) for spec in pairs for name in SCORES]
    adjusted = dict(zip(flat, holm([pairs[spec][name].p_value for spec, name in flat]).tolist(), strict=True))
    return DegradationResult(
        damage={
            spec: Damage(
                native=Degradation.parse(spec).severity(size),
                at_input=Degradation.parse(spec).severity_at_input(size, resolution),
                increase=pairs[spec],
                independent={
                    name: wilcoxon_increase(after.scores[name], other_masks.scores[name], **resampling)
                    for name in SCORES
                },
                p_holm={name: adjusted[spec, name] for name in SCORES},
                cosine=bootstrap(np.mean, (clean.unit * after.unit).sum(axis=1), **resampling),
                accuracy=_accuracy(after),
            )
            for spec, after in damaged.items()
        },
        curves={
            (family, name): _curve(config, clean, damaged, graded(family, min(size)), name, size)
            for family in config.families
            for name in (*SCORES, "entropy")
        },
        clean_accuracy=_accuracy(clean),
        size=size,
        published=published(min(size)),
    )


def _accuracy(version: Seen) -> Estimate | None:
    return None if version.correct is None else proportion(int(version.correct.sum()), len(version.correct))


def _curve(
    config: DegradationConfig,
    clean: Seen,
    damaged: Mapping[str, Seen],
    specs: Sequence[str],
    name: str,
    size: tuple[int, int],
) -> Curve:
    severities = [0.0, *(Degradation.parse(spec).severity(size) for spec in specs)]
    scores = np.stack([clean.scores[name], *(damaged[spec].scores[name] for spec in specs)])
    response = response_curve(severities, scores, seed=config.seed, resamples=config.resamples)
    if response.shape != "rising":
        return Curve(response, Estimate(math.nan, math.nan, math.nan, scores.shape[1] // 2))
    return Curve(response, _held_out_error(config, severities, scores))


def _held_out_error(config: DegradationConfig, severities: Sequence[float], scores: Array) -> Estimate:
    """Curve from every second image, read backwards on the others."""
    learnt = response_curve(severities, scores[:, ::2], seed=config.seed, resamples=config.resamples)
    unseen, truth = scores[:, 1::2], np.array(severities)
    if learnt.shape != "rising":
        return Estimate(math.nan, math.nan, math.nan, unseen.shape[1])
    read = learnt.inverse(unseen).clip(max=truth[-1])
    error = np.abs(read - truth[:, None]).mean(axis=0)
    constant = float(np.abs(np.median(truth) - truth).mean())
    return bootstrap(np.mean, error - constant, seed=config.seed, resamples=config.resamples)


def grade(fraction: Estimate) -> str:
    """The published words: pass from 75 %, weak from 60 %, by the whole interval; otherwise fail or undecided."""
    if fraction.verdict(PASS_BAR) == "met":
        return "pass"
    if fraction.verdict(WEAK_BAR) == "not met":
        return "fail"
    return "weak" if fraction.verdict(WEAK_BAR) == "met" and fraction.verdict(PASS_BAR) == "not met" else "undecided"


def summary(config: DegradationConfig, result: DegradationResult) -> dict[str, Any]:
    """What stands in ``prelim_degradation_summary.json``, apart from the origin."""
    return {
        "comparisons": {spec: _entry(spec, damage) for spec, damage in result.damage.items()},
        "published_four": result.published,
        "clean_accuracy": None if result.clean_accuracy is None else result.clean_accuracy.as_dict(),
        "native_size": list(result.size),
        "curves": {
            f"{family}/{name}": {
                **curve.response.as_dict(),
                "unit": FAMILIES[family].unit,
                "held_out_error_below_constant": curve.held_out_error.as_dict(),
                "equivalents": _equivalents(curve.response),
            }
            for (family, name), curve in result.curves.items()
        },
        "bars": {"pass": PASS_BAR, "weak": WEAK_BAR},
        "correction": "Holm over all degradations and the three scores, common random numbers",
    }


def _entry(spec: str, damage: Damage) -> dict[str, Any]:
    return {
        "family": Degradation.parse(spec).family,
        "severity_native": damage.native,
        "severity_at_input": damage.at_input,
        "cosine_clean_degraded": damage.cosine.as_dict(),
        "accuracy": None if damage.accuracy is None else damage.accuracy.as_dict(),
        "common_random_numbers": {
            name: {
                **found.as_dict(),
                **({"p_holm": damage.p_holm[name]} if name in damage.p_holm else {}),
                "grade": grade(found.fraction),
            }
            for name, found in damage.increase.items()
        },
        "independent_masks": {
            name: {**found.as_dict(), "grade": grade(found.fraction)} for name, found in damage.independent.items()
        },
    }


def _equivalents(response: ResponseCurve) -> dict[str, Any]:
    """What scores a tenth, a quarter and a half above the clean mean amount to; maybe beyond all that was measured."""
    if response.shape != "rising":
        return {"refused": f"{response.shape}: {response.reason}"}
    clean, strongest = response.measured[0].value, response.severities[-1]
    found = {f"+{share:.0%}": response.equivalent((1 + share) * clean) for share in (0.1, 0.25, 0.5)}
    return {
        name: estimate.as_dict() if math.isfinite(estimate.value) else {"beyond": strongest}
        for name, estimate in found.items()
    }


def write(
    config: DegradationConfig,
    run: MonteCarloRun,
    clean: Seen,
    other_masks: Seen,
    damaged: Mapping[str, Seen],
    result: DegradationResult,
    reports: Path,
    session: str,
) -> Path:
    """Per model summary, arrays and figure, all named ``prelim_degradation``; ``prelim_ablation.json`` for all."""
    folder, specs = reports / FOLDER / file_name(run.encoder), list(damaged)
    write_npz(
        folder / f"{FOLDER}.npz",
        paths=np.array(run.ids),
        degradations=np.array(specs),
        **{f"clean_{name}": values for name, values in clean.scores.items()},
        **{f"clean_other_masks_{name}": other_masks.scores[name] for name in SCORES},
        **{name: np.stack([damaged[spec].scores[name] for spec in specs]) for name in (*SCORES, *FREE)},
    )
    found = {"model": run.encoder, **summary(config, result), **origin(config, run)}
    write_json(folder / f"{FOLDER}_summary.json", found)
    save_figure(figure(config, run.encoder, result), folder / f"{FOLDER}.png")
    overall = reports / FOLDER / "prelim_ablation.json"
    add_to_json(overall, session, "results", run.encoder, found)
    return overall


def figure(config: DegradationConfig, model: str, result: DegradationResult) -> Figure:
    """Above: share of images whose score increased, by severity. Below: the calibration curves."""
    families = config.families
    drawn = Figure(figsize=(4.8 * len(families), 9))
    drawn.suptitle(f"{model}: degradation (N={config.n}, T={config.passes}, p={config.dropout.p:g})", y=0.95)
    panels = np.asarray(drawn.subplots(2, len(families), squeeze=False, gridspec_kw={"wspace": 0.3}))
    for column, family in enumerate(families):
        specs = graded(family, min(result.size))
        levels = [result.damage[spec].native for spec in specs]
        top, bottom = panels[0, column], panels[1, column]
        for name in (*SCORES, "entropy"):
            _bars(top, levels, [result.damage[spec].increase[name].fraction for spec in specs], name, "o-")
        independent = [result.damage[spec].independent["trace_pre"].fraction for spec in specs]
        _bars(top, levels, independent, "trace_pre, independent masks", "s:")
        for bar in (PASS_BAR, WEAK_BAR):
            top.axhline(bar, color="black", linestyle="--", linewidth=1)
        top.set_ylim(-0.02, 1.02)
        top.set_ylabel("share of images more uncertain [95 %]")
        top.set_title(f"{family} (bars: {PASS_BAR:.0%} pass, {WEAK_BAR:.0%} weak)")
        for name in SCORES:
            response = result.curves[family, name].response
            clean = response.measured[0].value
            changes = [result.damage[spec].increase[name].relative_change for spec in specs]
            _bars(bottom, levels, [_times(change) for change in changes], f"{name}: {response.shape}", "o")
            fitted = [e.value / clean for e in response.fitted]
            bottom.plot(response.severities, fitted, color=bottom.lines[-1].get_color())
        bottom.set_ylabel("mean score / mean clean score [95 %, paired]")
        for axes in (top, bottom):
            axes.set_xlabel(f"severity: {FAMILIES[family].unit}" + (" − 1" if family == "down" else ""))
            axes.legend(fontsize=7)
    return drawn


def _times(change: Estimate) -> Estimate:
    return Estimate(1 + change.value, 1 + change.low, 1 + change.high, change.n, change.level)


def _bars(axes: Any, x: Sequence[float], estimates: Sequence[Estimate], label: str, style: str) -> None:
    middle = [e.value for e in estimates]
    arms = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T.clip(0)
    axes.errorbar(x, middle, yerr=arms, fmt=style, capsize=2, markersize=4, label=label)
