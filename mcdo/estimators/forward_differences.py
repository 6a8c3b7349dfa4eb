"""First order without a gradient: forward differences along signs, in passes that begin where their noise does.

To first order the trace is a sum over sites, so that of each stage of the tower (its blocks, then its head) is
estimated by passes of its own (:mod:`mcdo.perturbation.stages`): those of a late stage are short, so there can be more,
and noise of one stage stands in the way of no other's. Signs are shared by all images of a trial, for what they do to
all images alike cancels where these are ranked. The noise of a last map whose output is the feature needs no pass.

The expectation is that of :func:`mcdo.first_order`, for the same p and sites.

Some signs rank images better than others, and better on other images too: with images to calibrate on, passes are
chosen (:mod:`mcdo.estimators.chosen_passes`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo import arguments
from mcdo.encoders import Encoder
from mcdo.errors import McdoError, nearest
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import check_inputs, prepared
from mcdo.estimators.by_image import of_every_image
from mcdo.estimators.chosen_passes import CANDIDATES, ChosenPasses, chosen_passes
from mcdo.estimators.overflow import check_features
from mcdo.estimators.progress import Reporting
from mcdo.estimators.provenance import identity, provenance
from mcdo.estimators.resumption import measured_once
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.run import EncoderRun, Scores
from mcdo.estimators.score_table import SCORES, WEIGHTED, names_from
from mcdo.estimators.scores import Terms
from mcdo.estimators.shown import Prepared, Shown
from mcdo.perturbation import Rademacher
from mcdo.perturbation.stages import StagedTower
from mcdo.store import Arrays, Store, Unfinished, check_shapes

LEAST_TO_CHOOSE = 16


@dataclass(frozen=True, eq=False)
class ForwardDifferencesRun(EncoderRun):
    """First-order scores of one encoder on one image set, from differences of passes.

    Attributes:
        dropout: kind, p and sites.
        forwards: what an image and trial may cost, in forward passes.
        passes: of each stage.
        stages: modules that the stages begin with.
        along: float32 ``[K, N, G]``, estimated variance along the feature by stage, for p / (1 - p) = 1; last, where
            there is one, that of a last map which needs no pass.
        across: float32 ``[K, N, G]``, likewise the total variance across it.
        calibrated: name of the images that passes were chosen on, if there are any.

    """

    dropout: Rademacher
    forwards: float
    passes: tuple[int, ...]
    stages: tuple[str, ...]
    along: NDArray[np.float32] = field(repr=False)
    across: NDArray[np.float32] = field(repr=False)
    calibrated: str = ""

    def __repr__(self) -> str:
        return self._said(f"K = {len(self.across)}, T = {self.passes} by stage, {self.dropout}")

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names that :meth:`scores` knows."""
        return tuple(name for name in names_from("terms") if name not in WEIGHTED)

    def scores(self, name: str, p: float | None = None) -> Scores:
        """float64 ``[K, N]`` (trials × images), at another ``p`` than the run's if one is given.

        The images of a trial share its signs: intervals need ``shared_noise=True`` and K ≥ 5.

        Raises:
            McdoError: for a score that has no definition to first order, or a p outside [0, 1).

        """
        if name not in self.score_names:
            raise McdoError(f"no score {name!r} to first order; the nearest: {nearest(name, self.score_names)}")
        variance = (self.dropout if p is None else self.dropout.with_p(p)).variance
        definition = SCORES.find(name).definitions["terms"]
        features = self.features.astype(np.float64)
        by_trial = [
            definition(Terms(along.astype(np.float64), across[None].astype(np.float64), features))
            for along, across in zip(self.along, self.across, strict=True)
        ]
        found = np.concatenate([np.broadcast_to(value, (1, *self.across.shape[1:])) for value in by_trial])
        return np.asarray(found.sum(-1) * variance)


def forward_differences(
    encoder: Encoder,
    images: Shown,
    dropout: Rademacher,
    forwards: float = 12.0,
    trials: int = 5,
    seed: int = 42,
    *,
    calibration: Shown | None = None,
    batch_size: int | None = None,
    store: Store | Path | str | None = None,
    pixels: Prepared | Callable[[], Prepared] | None = None,
    progress: Reporting = True,
) -> ForwardDifferencesRun:
    """First-order scores of every image in every trial, without a gradient.

    Args:
        encoder: from :func:`mcdo.load_encoder`; its weights need take no gradient.
        images: from :func:`mcdo.load_images`.
        dropout: :class:`mcdo.Rademacher` with p and sites; its ``step`` has no part here.
        forwards: what a trial of an image may cost, in forward passes, the deterministic one among them; counted by the
            products of the linear maps.
        trials: K, independent repetitions with other signs.
        seed: of the signs.
        calibration: images of other originals, at least ``LEAST_TO_CHOOSE``, by which the passes of each stage are
            chosen among ``CANDIDATES`` times as many, and their level set to that of all, at ``CANDIDATES`` times the
            cost of scoring them: once, for the store keeps the choice. The expectation is then as these images have it.
        batch_size: rows (images × passes) of one forward pass at its end; halved when memory runs out.
        store: as for :func:`mcdo.monte_carlo`.
        pixels: prepared pixels of ``images``, or how to get them, where the caller keeps them.
        progress: report progress.

    Raises:
        McdoError: for a dead site, fewer forwards than one pass of every stage takes, few images to calibrate on or
            such as are scored, features that are zero or not finite, or a store that cannot be written.

    """
    check_inputs(encoder, images, dropout)
    arguments.instance("dropout", dropout, Rademacher, "give mcdo.Rademacher(0.01): differences are taken along signs")
    trials, seed, forwards = (
        arguments.whole("trials", trials),
        arguments.seed(seed),
        arguments.real("forwards", forwards),
    )
    protocol = {"kind": dropout.as_dict(), "forwards": forwards, "trials": trials, "seed": seed}
    if calibration is not None:
        check_inputs(encoder, calibration, dropout)
        _check_apart(images, calibration)
        protocol |= {"calibration": calibration.fingerprint}

    def measure(parts: Unfinished | None) -> ForwardDifferencesRun:
        shown = prepared(encoder, images, pixels)
        sites = alive_sites(encoder, shown, dropout, store=store, progress=bool(progress))
        tower = StagedTower(encoder, dropout, sites, seed)
        passes = tower.allotted(forwards)
        at_once = max(1, int(pixel_rows(encoder, batch_size) / forwards))  # rows of late stages are short
        chosen = [ChosenPasses.first(passes)] * trials
        if calibration is not None:
            how: dict[str, Any] = {"batch_size": max(1, at_once // CANDIDATES), "store": store}
            chosen = [
                chosen_passes(tower, calibration, passes, trial, **how, progress=bool(progress))
                for trial in range(trials)
            ]

        def look(rows: Tensor) -> list[Tensor]:
            seen = [_terms(tower, rows, each, trial) for trial, each in enumerate(chosen)]
            return [seen[0][0], torch.stack([each[1] for each in seen], 1), torch.stack([each[2] for each in seen], 1)]

        features, along, across = of_every_image(encoder, shown, look, at_once, progress, parts)
        check_features(encoder, np.isfinite(across).all(axis=(1, 2)) & np.isfinite(features).all(axis=1), images.ids)
        facts = {
            "sites": [(site.name, site.role.value) for site in sites],
            "stages": [stage.start or "pixels" for stage in tower.stages],
            "passes": passes,
            "provenance": provenance(encoder, images),
        }
        return run_of({"features": features, "along": along.swapaxes(0, 1), "across": across.swapaxes(0, 1)}, facts)

    def key() -> str:
        family = {"method": "forward differences", "protocol": protocol, **identity(encoder, images)}
        return Store.key(family, {"images": images.fingerprint})

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        n, groups = len(images), arrays["across"].shape[-1]
        terms = (trials, n, groups)
        check_shapes(arrays, {"features": (n, encoder.feature_dim), "along": terms, "across": terms})

    def find(opened: Store, name: str) -> ForwardDifferencesRun | None:
        held = opened.get(name, fits)
        return None if held is None else run_of(*held)

    def run_of(arrays: Arrays, facts: Mapping[str, Any]) -> ForwardDifferencesRun:
        return ForwardDifferencesRun(
            encoder=encoder.key,
            ids=images.ids,
            origins=images.origins,
            features=arrays["features"],
            sites=tuple((site, role) for site, role in facts["sites"]),
            provenance=facts["provenance"],
            dropout=dropout,
            forwards=forwards,
            passes=tuple(facts["passes"]),
            stages=tuple(facts["stages"]),
            along=arrays["along"],
            across=arrays["across"],
            calibrated="" if calibration is None else calibration.name,
        )

    def packed(run: ForwardDifferencesRun) -> tuple[Arrays, Mapping[str, Any]]:
        said = f"{dropout}, forward differences, {forwards:g} forwards, {trials} trials, seed {seed}"
        said += f", passes chosen on {run.calibrated}" if run.calibrated else ""
        label = {"encoder": encoder.key, "images": f"{images.name}, {len(images)}", "protocol": said}
        facts = {"sites": run.sites, "stages": run.stages, "passes": run.passes, "provenance": run.provenance}
        arrays = {"features": run.features, "along": run.along, "across": run.across}
        return arrays, {"label": label, "protocol": protocol, **facts}

    return measured_once(store, key, find, measure, packed, progress=bool(progress))


def _check_apart(images: Shown, calibration: Shown) -> None:
    if len(calibration) < LEAST_TO_CHOOSE:
        raise McdoError(f"{len(calibration)} images to calibrate on: give at least {LEAST_TO_CHOOSE}")
    both = set(calibration.origins) & {*images.ids, *images.origins}
    if both:
        raise McdoError(f"{len(both)} of the scored originals would be calibrated on, such as {min(both)}: use others")


def _terms(tower: StagedTower, pixels: Tensor, passes: ChosenPasses, trial: int) -> tuple[Tensor, Tensor, Tensor]:
    """As :meth:`ChosenPasses.terms`, with what the noise of a last map does that needs no pass."""
    features, along, across = passes.terms(tower, pixels, trial)
    if tower.closed is not None:  # each unit of the feature moves by itself
        unit = features / features.norm(dim=-1, keepdim=True)
        own = (unit * features).square().sum(-1, keepdim=True)
        along = torch.cat((along, own), -1)
        across = torch.cat((across, features.square().sum(-1, keepdim=True) - own), -1)
    return features, along, across
