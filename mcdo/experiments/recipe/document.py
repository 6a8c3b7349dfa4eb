"""recipe.json of a result: the choice, what it answers to damage on images that chose nothing, and its worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from mcdo.encoders import Encoder
from mcdo.estimators.provenance import encoder_provenance
from mcdo.experiments.prelim.damage import PASS_BAR
from mcdo.experiments.recipe.choice import CHOSEN_ON, OVER_ALL
from mcdo.experiments.recipe.halves import Half, share_raised
from mcdo.experiments.recipe.result import RecipeResult
from mcdo.images import ImageSet
from mcdo.images.degradations import FAMILIES, Degradation
from mcdo.perturbation import Perturbation, Role, kind_name
from mcdo.recipes import Recipe
from mcdo.recipes.file import (
    VERSION,
    Calibration,
    Confirmation,
    Difference,
    Dimensions,
    Domain,
    EncoderIdentity,
    Estimator,
    Gain,
    HeldOut,
    Interval,
    Level,
    Response,
    SiteWeight,
    intervals,
    quantile_grid,
)
from mcdo.stats import Agreement, mean, response_curve
from mcdo.stats import Difference as Tested

_ONE = np.ones((1, 1))
_OF_EVERY_KIND = ("kind", "p", "sites", "code")


def recipe_of(
    result: RecipeResult,
    encoder: Encoder,
    images: ImageSet,
    dropout: Perturbation,
    estimator: Estimator,
    size: tuple[int, int],
    *,
    dimensions: Dimensions | None,
    seed: int,
    resamples: int,
) -> Recipe:
    """The file's content; ``images`` are those of ``result.chosen``, and ``size`` is that of the pictures."""
    choice, reported = result.reported.choice, result.reported
    scores = result.chosen.scores(_ONE[0])[0]
    half = result.reporting
    sampling = {"origins": half.origins, "seed": seed, "resamples": resamples}
    return Recipe(
        version=VERSION,
        name=f"{encoder.key}: {choice.score} at {choice.name}",
        encoder=EncoderIdentity.of(encoder),
        kind=kind_name(type(dropout)),
        options={name: value for name, value in dropout.as_dict().items() if name not in _OF_EVERY_KIND},
        p=result.confirmation.p,
        sites=tuple(
            SiteWeight(
                name=name,
                role=Role(role),
                weight=result.weights.get(name, 0.0),
                block=block,
                linearity=Interval.of(result.linearity[name].ratio),
            )
            for name, role, block in zip(result.tower.names, result.tower.roles, result.tower.blocks, strict=True)
        ),
        estimator=estimator,
        score=choice.score,
        dimensions=dimensions,
        calibration=Calibration(
            images=images.name,
            fingerprint=images.fingerprint,
            n=len(images),
            origins=len(set(images.origins)),
            seed=images.seed,
            quantiles=quantile_grid(scores),
        ),
        responses=tuple(_responses(half, size, sampling)),
        verdict=HeldOut(
            reliable=result.reliability.decision(),
            valid=reported.shares["chosen", CHOSEN_ON].outcome(PASS_BAR),
            reliability=intervals({name: result.reliability.estimate(name) for name in ("spearman", "snr", "icc")}),
            raised=intervals({scope: e for (name, scope), e in reported.shares.items() if name == "chosen"}),
            chosen_on=result.chosen_on,
            gains=tuple(
                Gain(
                    over=f"{over}, {scope}",
                    difference=_difference(gain),
                    optimism=reported.optimism(over) if scope == CHOSEN_ON else None,
                )
                for (over, scope), gain in reported.gains.items()
            ),
            domain=_domain(result.confirmation.domain),
            confirmation=_confirmation(result),
            statement=result.statement,
        ),
        provenance={**encoder_provenance(encoder), "mcdo": version("mcdo"), "seed": seed, "judged_by": result.judge},
    )


def _difference(gain: Tested) -> Difference:
    p = None if np.isnan(gain.p_holm) else float(gain.p_holm)
    return Difference(estimate=Interval.of(gain.estimate), p_holm=p)


def _domain(found: Agreement | None) -> Domain | None:
    if found is None:
        return None
    return Domain(
        ranking=found.ranking,
        level=found.level,
        rank_correlation=Interval.of(found.corrected),
        ratio=Interval.of(found.ratio),
    )


def _confirmation(result: RecipeResult) -> Confirmation:
    found = result.confirmation
    return Confirmation(
        outcome=found.gains[CHOSEN_ON].estimate.outcome(0.0, ">"),
        passes=found.passes,
        trials=found.trials,
        raised=intervals({scope: e for (name, scope), e in found.shares.items() if name == "chosen"}),
        gains=tuple(Gain(over=f"{OVER_ALL}, {scope}", difference=_difference(d)) for scope, d in found.gains.items()),
    )


def _responses(half: Half, size: tuple[int, int], sampling: Mapping[str, Any]) -> Sequence[Response]:
    """The answer to each family, on images that chose nothing; log scores are those of the first trial."""
    found, clean = [], half.scores(_ONE[0])
    for family, of in FAMILIES.items():
        specs = sorted(
            (spec for spec in half.rise if Degradation.parse(spec).family == family),
            key=lambda spec: Degradation.parse(spec).severity(size),
        )
        if not specs:
            continue
        damaged = {spec: clean + half.rise[spec][..., 0] for spec in specs}
        severities = [0.0, *(Degradation.parse(spec).severity(size) for spec in specs)]
        logs = np.log(np.stack([clean[0], *(scores[0] for scores in damaged.values())]))
        curve = response_curve(severities, logs, logarithms=True, **sampling)
        levels = tuple(
            Level(
                degradation=spec,
                severity=severity,
                raised=Interval.of(share_raised(half.raised(_ONE, [spec])[0], half)),
                log_ratio=Interval.of(mean(np.log(damaged[spec] / clean), shared_noise=half.shared_noise, **sampling)),
            )
            for spec, severity in zip(specs, severities[1:], strict=True)
        )
        found.append(
            Response(
                family=family,
                unit=of.unit,
                severities=tuple(severities),
                log_score=tuple(map(Interval.of, curve.measured)),
                fitted=tuple(map(Interval.of, curve.fitted)),
                shape=curve.shape,
                reason=curve.reason,
                levels=levels,
            )
        )
    return found
