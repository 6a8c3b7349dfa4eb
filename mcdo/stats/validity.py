"""Does the score mean what it should? Its published figures against the ambiguity of what the encoder sees."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mcdo.stats._checks import Array, flags, images, jsonable
from mcdo.stats.ambiguity import AmbiguityTargets
from mcdo.stats.association import RankFigures, among
from mcdo.stats.detection import Areas
from mcdo.stats.ranks import mid_ranks
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
    found = ambiguity_table(
        {"score": score}, targets, feature_norm,
        origins=origins, shared_noise=shared_noise, seed=seed, resamples=resamples, level=level,
    )  # fmt: skip
    return found["score"]


def ambiguity_table(
    scores: Mapping[str, ArrayLike],
    targets: AmbiguityTargets,
    feature_norm: ArrayLike | None = None,
    *,
    norms: Collection[str] = (),
    origins: Origins | None = None,
    shared_noise: bool = False,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> dict[str, dict[str, Estimate]]:
    """:func:`ambiguity_estimates` of each of the ``scores``, for all of which the targets are ranked once.

    Those named in ``norms`` are functions of the feature norm, and have no figures given it.
    """
    optional = {} if targets.prompt_sensitivity is None else {"prompt_sensitivity": targets.prompt_sensitivity}
    controls = {} if feature_norm is None else {"feature_norm": feature_norm}
    each = Scores.of(scores, shared_noise=shared_noise, least=3 + len(controls))
    rows = np.stack(
        images(3 + len(controls), score=each.means[0], negative_margin=targets.neg_margin, entropy=targets.entropy,
               **optional, **controls)[1:]
    )  # fmt: skip
    sample = Sample(rows.shape[1], origins, seed, resamples, level)
    positive = _positive(rows, targets)
    areas = Areas(sample, np.stack(list(positive.values())))
    ranked = [f"rho_uncertainty_vs_{name}" for name in ("negative_margin", "entropy", *optional)]
    names, S = list(scores), len(scores)
    figures = {(name, key): among(s, S + t) for s, name in enumerate(names) for t, key in enumerate(ranked)}
    found = dict(zip(((name, key) for name in names for key in positive), infer(areas, each), strict=True))
    held = [s for s, name in enumerate(names) if controls and name not in norms]
    if held:
        figures |= {(names[s], _given(key)): among(s, S + t, -1) for s in held for t, key in enumerate(ranked)}
        free = infer(areas, each.only(held).each(lambda values: _rank_residual(values, rows[-1])))
        found |= zip(((names[s], _given(key)) for s in held for key in positive), free, strict=True)
    found |= zip(figures, infer(RankFigures(sample, list(figures.values()), rows), each), strict=True)
    keys = {name: [*PUBLISHED, *(map(_given, PUBLISHED) if s in held else ())] for s, name in enumerate(names)}
    return {
        name: {key: found.get((name, key), sample.undefined()).estimate for key in wanted}
        for name, wanted in keys.items()
    }


def _given(key: str) -> str:
    return f"{key}_given_norm"


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
    y, z = (mid_ranks(row) - (len(row) + 1) / 2 for row in (values, covariate))
    slope = (y @ z) / (z @ z) if z.any() else 0.0
    # equal (score, norm) pairs must stay equal after rounding, and rank functions of the norm must vanish
    return np.asarray(np.round(y - slope * z, 9))
