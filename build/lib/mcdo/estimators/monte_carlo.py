"""Monte Carlo dropout: T passes, K trials, scores at every T on the way; measured once, and looked up afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo import arguments
from mcdo.encoders import Encoder
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import check_inputs, prepared
from mcdo.estimators.measurement import Measurement, check_scores
from mcdo.estimators.progress import Reporting, progress_of
from mcdo.estimators.provenance import identity, image_tokens, origin_numbers, provenance
from mcdo.estimators.resumption import Keeper, measured_once
from mcdo.estimators.rows import pixel_rows
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun
from mcdo.estimators.score_table import SCORES
from mcdo.estimators.scores import DimensionWeights
from mcdo.estimators.shown import Prepared, Shown
from mcdo.perturbation import Perturbation
from mcdo.store import Arrays, Store, Unfinished, canonical_json, check_shapes


def monte_carlo(
    encoder: Encoder,
    images: Shown,
    dropout: Perturbation,
    passes: int | Sequence[int] = (4, 16, 64),
    trials: int = 10,
    seed: int = 42,
    *,
    geometry: int | Sequence[int] | None = None,
    batch_size: int | None = None,
    store: Store | Path | str | None = None,
    pixels: Prepared | Callable[[], Prepared] | None = None,
    weights: DimensionWeights | None = None,
    scores: Sequence[str] | None = None,
    progress: Reporting = True,
) -> MonteCarloRun:
    """Scores of every image in every trial, at every T of ``passes``.

    Args:
        encoder: from :func:`mcdo.load_encoder`.
        images: from :func:`mcdo.load_images`.
        dropout: probability and sites.
        passes: the T at which scores are taken, one or several; one run of ``max(passes)`` passes gives them all.
        trials: K, independent repetitions.
        seed: seed of the masks. A mask follows from (seed, trial, pass, image id, site), so neither ``batch_size`` nor
            the other images can change a score.
        geometry: the T at which angular variance, spectrum and off-diagonal mass are taken as well (default: all).
        batch_size: rows (images × passes) of one forward pass; halved when memory runs out.
        store: where results are kept and looked up; None measures anew. A stored run of more images, trials or T
            serves as well: its numbers are the same up to rounding. Finished blocks of images are kept as the
            measurement goes, so that one that was killed is resumed, to the same bits on a CPU. Several processes that
            want the same run share its blocks. Whether the store can be written is checked before any pass is spent; if
            it still fails afterwards, the run is returned with an UnsavedResultWarning.
        pixels: prepared pixels of ``images``, or how to get them, where the caller keeps them.
        weights: from a calibration set, for weighted_trace and topk_trace.
        scores: registered scores to be taken beside mcdo's own (default: all that are registered or installed).
        progress: report progress, and whom this process waits for; or what makes the report.

    Raises:
        McdoError: for a dead site, an impossible protocol, images that were used to fit ``weights``, other pixels than
            the images', features that are not finite, a store that cannot be written, or too little memory for one
            pass.

    """
    check_inputs(encoder, images, dropout)
    passes, trials, seed = arguments.wholes("passes", passes), arguments.whole("trials", trials), arguments.seed(seed)
    geometry = passes if geometry is None else arguments.wholes("geometry", geometry)
    rows = pixel_rows(encoder, batch_size)
    config = MonteCarloConfig(dropout, passes, trials, seed, geometry, tuple(SCORES if scores is None else scores))
    if weights is not None:
        weights.check_unseen(images)

    return measured_once(
        store,
        key=lambda: run_key(encoder, images, config, weights),
        find=lambda opened, key: _stored(opened, key, encoder, images, config),
        measure=lambda parts: _measure(
            encoder, images, config, prepared(encoder, images, pixels), weights, rows, progress, parts, store
        ),
        packed=lambda run: _packed(run, images),
        progress=bool(progress),
        shared=True,
    )


def _measure(
    encoder: Encoder,
    images: Shown,
    config: MonteCarloConfig,
    pixels: Prepared,
    weights: DimensionWeights | None,
    rows: int,
    progress: Reporting,
    parts: Unfinished | None,
    store: Store | Path | str | None,
) -> MonteCarloRun:
    sites = alive_sites(encoder, pixels, config.dropout, store=store, progress=bool(progress))
    measurement = Measurement(encoder, images, config, pixels, weights, rows)
    if parts is not None:
        measurement.restore(parts.parts(measurement.check_part))
    left = measurement.loop.left
    what = f"{encoder.key} on {images.name}" + ("" if left == len(images) else f" (resumed, {left} images left)")
    facts = {"label": _label(encoder.key, images, config)}
    with progress_of(progress, left * config.trials * config.passes[-1], what) as bar:
        bar.measured = measurement.so_far
        measurement.run(bar, Keeper(parts, measurement.arrays, facts, measurement.restore, measurement.check_part))
    return MonteCarloRun(
        config=config,
        encoder=encoder.key,
        ids=images.ids,
        origins=images.origins,
        features=measurement.features,
        sites=tuple((site.name, site.role.value) for site in sites),
        provenance=provenance(encoder, images),
        _values=measurement.values,
        _eigenvalues=measurement.eigenvalues,
    )


# ---- the store


def run_key(encoder: Encoder, images: Shown, config: MonteCarloConfig, weights: DimensionWeights | None = None) -> str:
    """The store's name of a run: a digest of all that decides its numbers.

    A run can be part of another one of its family, of which there are more images, trials, T or scores.
    """
    protocol = config.as_dict()
    member = {name: protocol.pop(name) for name in ("passes", "trials", "geometry", "scores")}
    family = {
        "method": "monte_carlo",
        "protocol": protocol,
        "dimension_weights": None if weights is None else weights.identity,
        **identity(encoder, images),
    }
    return Store.key(family, {**member, "images": images.fingerprint})


def _stored(opened: Store, key: str, encoder: Encoder, images: Shown, config: MonteCarloConfig) -> MonteCarloRun | None:
    """The run, or the part of a larger one that it is: masks are keyed, so the numbers are the same up to rounding."""
    tokens = image_tokens(images)

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        _check(arrays, facts, encoder.feature_dim)

    def is_it(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        fits(arrays, facts)
        asked = canonical_json(config.as_dict())
        if canonical_json(facts["protocol"]) != asked or not np.array_equal(arrays["images"], tokens):
            raise ValueError("it is of another protocol or other images")

    found = opened.get(key, is_it)
    if found is not None:
        return _seen(found, slice(None), encoder, images, config)
    for larger, facts in opened.family(key):
        if _holds(facts["protocol"], config):
            found = opened.get(larger, fits)
            columns = None if found is None else _columns(found[0]["images"], tokens)
            if found is not None and columns is not None:
                return _seen(found, columns, encoder, images, config)
    return None


def _holds(protocol: Mapping[str, Any], config: MonteCarloConfig) -> bool:
    return (
        set(protocol["passes"]) >= set(config.passes)
        and set(protocol["geometry"]) >= set(config.geometry)
        and protocol["trials"] >= config.trials
        and protocol["scores"].items() >= config.as_dict()["scores"].items()
    )


def _check(arrays: Arrays, facts: Mapping[str, Any], D: int) -> None:
    """Raise ValueError or KeyError unless the arrays are those that the protocol beside them asks for."""
    protocol, n = facts["protocol"], len(arrays["images"])
    passes, geometry = set(protocol["passes"]), set(protocol["geometry"])
    check_shapes(arrays, {"features": (n, D), "images": (n, 2)})
    check_scores(arrays, protocol["trials"], n, passes, geometry)


def _columns(held: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64] | None:
    """Where the wanted images stand among those held, or None if one is missing."""
    places = {tuple(token): i for i, token in enumerate(held.tolist())}
    found = [places.get(tuple(token)) for token in wanted.tolist()]
    return None if None in found else np.array(found, dtype=np.int64)


def _seen(
    found: tuple[Arrays, Mapping[str, Any]],
    columns: NDArray[np.int64] | slice,
    encoder: Encoder,
    images: Shown,
    config: MonteCarloConfig,
) -> MonteCarloRun:
    """A stored run as if no more than ``config`` asks for had been measured."""
    arrays, facts = found
    features, values, eigenvalues = MonteCarloRun.split_arrays(arrays)
    trials = slice(config.trials)
    return MonteCarloRun(
        config=config,
        encoder=encoder.key,
        ids=images.ids,
        origins=images.origins,
        features=features[columns],
        sites=tuple((name, role) for name, role in facts["sites"]),
        provenance=provenance(encoder, images),
        # in the order of a measurement: sums over other strides differ in the last bit
        _values={
            (name, t): np.ascontiguousarray(value[trials, columns])
            for (name, t), value in values.items()
            if t in config.taken_at(name)
        },
        _eigenvalues={
            t: np.ascontiguousarray(value[trials, columns]) for t, value in eigenvalues.items() if t in config.geometry
        },
    )


def _packed(run: MonteCarloRun, images: Shown) -> tuple[Arrays, dict[str, Any]]:
    facts = {
        "label": _label(run.encoder, images, run.config),
        "protocol": run.config.as_dict(),
        "sites": run.sites,
        "provenance": run.provenance,
    }
    return {**run.arrays(), "images": image_tokens(images), "origins": origin_numbers(images)}, facts


def _label(encoder: str, images: Shown, config: MonteCarloConfig) -> dict[str, str]:
    """What the run is, for people who list the store."""
    passes = ", ".join(map(str, config.passes))
    return {
        "encoder": encoder,
        "images": f"{images.name}, {len(images)}",
        "protocol": f"{config.dropout}, T = {passes}, {config.trials} trials, seed {config.seed}",
    }
