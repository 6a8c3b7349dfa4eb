"""The recipe that nothing was chosen for: all sites, exact first order, as it ships with the embedded encoders.

``python -m mcdo.recipes.default`` makes those anew (``make recipes``). ``pytest -m recipe`` chooses instead, and says
what its choice gains.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mcdo.encoders import REGISTRY, Encoder, load_encoder
from mcdo.encoders.spec import MODELS_DIR
from mcdo.estimators.first_order import first_order
from mcdo.estimators.first_order_run import FirstOrderRun
from mcdo.estimators.provenance import encoder_provenance
from mcdo.images import ImageSet, load_images
from mcdo.images.degradations import FAMILIES, Degradation, degraded, graded
from mcdo.names import say
from mcdo.perturbation import Dropout, Role
from mcdo.recipes.file import (
    Calibration,
    EncoderIdentity,
    Estimator,
    Interval,
    Level,
    Recipe,
    Response,
    SiteWeight,
    Verdict,
    intervals,
    quantile_grid,
    write_recipe,
)
from mcdo.stats import Estimate, mean, reliability, response_curve, share
from mcdo.stats.paired import rise

EXACT_UP_TO = 64
"""Feature sizes D for which all D + 1 probes are taken, so that scores have no noise."""
PROBES, TRIALS = 8, 5
"""Elsewhere; so many trials say how reliable such scores are."""
DAMAGE = ("blur", "down", "noise")
VALID = ("blur", "down")
"""Families of which the share of images raised says whether the score is valid."""
PASS_BAR = 0.75
"""As the preliminary investigation has it."""


def default_recipe(
    encoder: Encoder,
    images: ImageSet,
    *,
    spec: str,
    score: str = "trace_post",
    p: float = 0.01,
    seed: int = 42,
    families: Sequence[str] = DAMAGE,
    store: Path | None = None,
) -> Recipe:
    """All sites of ``encoder`` under dropout, to first order, calibrated on ``images``.

    Args:
        encoder: the encoder.
        images: clean images that it was not trained on.
        spec: what :func:`mcdo.load_images` makes them of.
        score: one that first order has.
        p: drop probability.
        seed: of probes and intervals.
        families: of damage that responses are measured to.
        store: where the runs are kept.

    """
    exact = encoder.feature_dim <= EXACT_UP_TO
    probes, trials = (encoder.feature_dim + 1, 1) if exact else (PROBES, TRIALS)

    def measured(shown: ImageSet) -> FirstOrderRun:
        return first_order(encoder, shown, Dropout(p), probes, trials, seed, store=store)

    run = measured(images)
    clean = run.scores(score)
    sampling: dict[str, Any] = {"origins": images.origins, "seed": seed}
    size = images.image(0).size
    responses: list[Response] = []
    raised: dict[str, Estimate] = {}
    for family in families:
        specs = graded(family, min(size))
        scores = {spec: measured(degraded(images, spec)).scores(score) for spec in specs}
        raised |= {
            spec: share((rise(each, clean) > 0).mean(axis=0) > 0.5, origins=images.origins)
            for spec, each in scores.items()
        }
        responses.append(_response(family, clean[0], {spec: each[0] for spec, each in scores.items()}, size, sampling))
    judged = [spec for family in VALID if family in families for spec in graded(family, min(size))]
    repeated = reliability(np.repeat(clean, 3, axis=0) if exact else clean, shared_noise=not exact, **sampling)
    shares = [raised[spec].outcome(PASS_BAR) for spec in judged]
    return Recipe(
        version=1,
        name=f"{encoder.key}: {score} at all sites",
        encoder=EncoderIdentity.of(encoder),
        kind="dropout",
        p=p,
        sites=tuple(SiteWeight(name=name, role=Role(role), weight=1.0) for name, role in run.sites),
        estimator=Estimator(method="first_order", probes=probes, seed=seed),
        score=score,
        calibration=Calibration(
            images=spec,
            fingerprint=images.fingerprint,
            n=len(images),
            origins=len(set(images.origins)),
            seed=images.seed,
            quantiles=quantile_grid(clean[0]),
        ),
        responses=tuple(responses),
        verdict=Verdict(
            reliable=repeated.decision(),
            valid="met" if set(shares) == {"met"} else "not met" if set(shares) == {"not met"} else "undecided",
            reliability=intervals({name: repeated.estimate(name) for name in ("spearman", "snr", "icc")}),
            raised=intervals(raised),
            chosen_on=(),
            statement="nothing was chosen: all sites" + (", all probes, so no noise in a score" if exact else ""),
        ),
        provenance={**encoder_provenance(encoder), "mcdo": version("mcdo"), "seed": seed},
    )


def _response(
    family: str, clean: Any, damaged: dict[str, Any], size: tuple[int, int], sampling: dict[str, Any]
) -> Response:
    severities = [0.0, *(Degradation.parse(spec).severity(size) for spec in damaged)]
    curve = response_curve(severities, np.log(np.stack([clean, *damaged.values()])), **sampling)
    return Response(
        family=family,
        unit=FAMILIES[family].unit,
        severities=tuple(severities),
        log_score=tuple(map(Interval.of, curve.measured)),
        fitted=tuple(map(Interval.of, curve.fitted)),
        shape=curve.shape,
        reason=curve.reason,
        levels=tuple(
            Level(
                degradation=spec,
                severity=severity,
                raised=Interval.of(share(rise(each, clean) > 0, origins=sampling["origins"])),
                log_ratio=Interval.of(mean(np.log(each / clean), **sampling)),
            )
            for (spec, each), severity in zip(damaged.items(), severities[1:], strict=True)
        ),
    )


def main(keys: Sequence[str]) -> None:
    """Make the recipes of embedded encoders, of all where none is named."""
    for key in keys or [key for key, spec in REGISTRY.items() if spec.embedded]:
        encoder = load_encoder(key)
        recipe = default_recipe(encoder, load_images("digits", None, 42), spec="digits")
        say(str(write_recipe(recipe, MODELS_DIR / key / "recipe.json")))


if __name__ == "__main__":
    main(sys.argv[1:])
