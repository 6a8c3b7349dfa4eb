"""Does the score mean what it should? Its published figures against the ambiguity of what the encoder sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.ambiguity import AmbiguityTargets
from mcdo.stats.association import RankFigures, among
from mcdo.stats.detection import Areas
from mcdo.stats.resampling import Estimate, Origins
from mcdo.stats.sample import Sample
from mcdo.stats.trials import Scores, infer

PUBLISHED = (
    "rho_uncertainty_vs_negative_margin",
    "rho_uncertainty_vs_entropy",
    "rho_uncertainty_vs_prompt_sensitivity",
    "auroc_low_margin",
    "auroc_high_entropy",
    "auroc_error",
)


def ambiguity_estimates(
    score: ArrayLike,
    targets: AmbiguityTargets,
    feature_norm: ArrayLike | None = None,
    *,
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, Estimate]:
    """The six published figures of ``score`` against ``targets``, and each again with the feature norm held fixed.

    ``rho_uncertainty_vs_{negative_margin,entropy,prompt_sensitivity}`` by :func:`~mcdo.stats.spearman`;
    ``auroc_{low_margin,high_entropy,error}`` by :func:`~mcdo.stats.auroc` for the lowest tenth of margins, the highest
    tenth of entropies, and wrong predictions. With ``feature_norm`` [N] also ``<key>_given_norm``: the partial rank
    correlation, or the AUROC of the residual of rank(score) on rank(norm). A target that is None gives NaN. ``score``
    is [N] or [K, N].
    """
    optional = {} if targets.prompt_sensitivity is None else {"prompt_sensitivity": targets.prompt_sensitivity}
    controls = {} if feature_norm is None else {"feature_norm": feature_norm}
    scores = Scores.of({"score": score}, shared_noise=shared_noise, least=3 + len(controls))
    rows = np.stack(
        images(3 + len(controls), score=scores.means[0], negative_margin=targets.neg_margin, entropy=targets.entropy,
               **optional, **controls)[1:]
    )  # fmt: skip
    sample = Sample(rows.shape[1], origins, seed, resamples, level)
    ranked = [f"rho_uncertainty_vs_{name}" for name in ("negative_margin", "entropy", *optional)]
    figures = [among(0, place) for place in range(1, 1 + len(ranked))]
    positive = _positive(rows, targets)
    areas = Areas(sample, np.stack(list(positive.values())))
    found = dict(zip(positive, infer(areas, scores), strict=True))
    if controls:
        figures += [among(0, place, -1) for place in range(1, 1 + len(ranked))]
        free = infer(areas, scores.each(lambda values: _rank_residual(values, rows[-1])))
        found |= {f"{key}_given_norm": one for key, one in zip(positive, free, strict=True)}
        ranked += [f"{key}_given_norm" for key in ranked]
    found |= zip(ranked, infer(RankFigures(sample, figures, rows), scores), strict=True)
    endings = ("", "_given_norm") if controls else ("",)
    keys = [key + ending for ending in endings for key in PUBLISHED]
    return {key: found.get(key, sample.undefined()).estimate for key in keys}


def report_of(figures: Mapping[str, Estimate], targets: AmbiguityTargets) -> dict[str, Any]:
    """The published keys for a result file: ``key``, ``key_ci`` = [low, high], ``n``, ``level``, ``n_errors``.

    Undefined figures are None and listed under ``undefined``. ``n`` counts origins, ``n_errors`` images.
    """
    report: dict[str, Any] = {}
    for key, estimate in figures.items():
        report[key] = jsonable(estimate.value)
        report[f"{key}_ci"] = [jsonable(estimate.low), jsonable(estimate.high)]
    first = next(iter(figures.values()))
    errors = None if targets.correct is None else int(np.sum(~targets.correct))
    undefined = [key for key, estimate in figures.items() if math.isnan(estimate.value)]
    return {**report, "n": first.n, "n_errors": errors, "level": first.level, "undefined": undefined}


def _positive(rows: Array, targets: AmbiguityTargets) -> dict[str, NDArray[np.bool_]]:
    neg_margin, entropy = rows[:2]
    positive = {
        "auroc_low_margin": neg_margin >= np.quantile(neg_margin, 0.9),
        "auroc_high_entropy": entropy >= np.quantile(entropy, 0.9),
    }
    if targets.correct is not None:
        positive["auroc_error"] = ~flags("correct", images(1, entropy=entropy, correct=targets.correct)[1])
    return positive


def _rank_residual(values: Array, covariate: Array) -> Array:
    y, z = (scipy.stats.rankdata(row) - (len(row) + 1) / 2 for row in (values, covariate))
    slope = (y @ z) / (z @ z) if z.any() else 0.0
    # equal (score, norm) pairs must stay equal after rounding, and rank functions of the norm must vanish
    return np.asarray(np.round(y - slope * z, 9))
