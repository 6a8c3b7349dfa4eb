"""The recipes that ship with the embedded encoders: chosen, where the choice held, or all sites and exact first order.

``make recipes`` lets ``pytest -m recipe`` choose, and ``python -m mcdo.recipes.default`` ships what gained over
all sites by its intervals, on images that chose nothing, to first order and by passes. Elsewhere nothing is chosen.
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
    HeldOut,
    Interval,
    Level,
    Recipe,
    Response,
    SiteWeight,
    intervals,
    quantile_grid,
    read_recipe,
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
GAIN = "all sites, chosen on"
"""The gain over all sites on the damage that was chosen on, as recipe.json names it."""
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
        verdict=HeldOut(
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
    curve = response_curve(severities, np.log(np.stack([clean, *damaged.values()])), logarithms=True, **sampling)
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


def why_not(chosen: Recipe) -> str:
    """Why a recipe that ``pytest -m recipe`` chose is not to ship in the place of all sites; "" where it is."""
    gain = next((each.difference.estimate for each in chosen.verdict.gains if each.over == GAIN), None)
    confirmed = chosen.verdict.confirmation
    if gain is None or gain.low is None or not gain.low > 0:
        return "it gains nothing over all sites by its interval, on images that chose nothing"
    if confirmed is None or confirmed.outcome != "met":
        return "passes do not confirm its gain"
    if chosen.dimensions is not None:
        return "its weights of dimensions were fitted on images that people will score"
    return ""


def main(chosen: Path, keys: Sequence[str] = ()) -> None:
    """Write the recipes of embedded encoders, of all where none is named; ``chosen`` has a folder for each."""
    for key in keys or [key for key, spec in REGISTRY.items() if spec.embedded]:
        encoder, path = load_encoder(key), chosen / key / "recipe.json"
        recipe = read_recipe(path)
        recipe.check(encoder)
        reason = why_not(recipe)
        if reason:
            recipe = default_recipe(encoder, load_images("digits", None, 42), spec="digits")
        written = write_recipe(recipe, MODELS_DIR / key / "recipe.json")
        say(f"{written}: {recipe.name}" + (f" ({path.name} was not taken: {reason})" if reason else ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
