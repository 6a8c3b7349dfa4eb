"""First-order estimator: the variance that Monte Carlo dropout measures, from gradients instead of passes.

For a small perturbation the covariance of the feature is p / (1 - p) · Σ over sites J Jᵀ (see
:mod:`~mcdo.estimators.jacobian`), so R vector-Jacobian products give an unbiased estimate of its trace with none of the
noise of the masks. It is linear in p / (1 - p) and a sum over sites: one run serves every p and every subset of sites.
Where perturbations are not small it is another number than Monte Carlo's: see
`docs/first_order.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo import arguments
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.alive import alive_sites
from mcdo.estimators.blocks import BlockLoop, check_inputs, prepared
from mcdo.estimators.first_order_run import FirstOrderConfig, FirstOrderRun
from mcdo.estimators.jacobian import SiteGraph
from mcdo.estimators.overflow import check_features
from mcdo.estimators.probes import noise_basis, stratified_probes
from mcdo.estimators.progress import Reporting, progress_of
from mcdo.estimators.provenance import identity, provenance
from mcdo.estimators.resumption import Keeper, check_columns, measured_once
from mcdo.estimators.rows import graph_images
from mcdo.estimators.scores import DimensionWeights
from mcdo.estimators.shown import Prepared, Shown
from mcdo.estimators.slope import check_slope
from mcdo.perturbation import Perturbation, Site
from mcdo.store import Arrays, Store, Unfinished, canonical_json, check_shapes


def first_order(
    encoder: Encoder,
    images: Shown,
    dropout: Perturbation,
    probes: int = 8,
    trials: int = 10,
    seed: int = 42,
    *,
    batch_size: int | None = None,
    store: Store | Path | str | None = None,
    pixels: Prepared | Callable[[], Prepared] | None = None,
    weights: DimensionWeights | None = None,
    score: str = "",
    progress: Reporting = True,
) -> FirstOrderRun:
    """First-order scores of every image in every trial, site by site.

    Args:
        encoder: from :func:`mcdo.load_encoder`, or its :class:`~mcdo.encoders.TextTower`; weights stay frozen.
        images: from :func:`mcdo.load_images`; for a text tower :class:`~mcdo.encoders.Prompts`.
        dropout: kind, probability and sites.
        probes: R, vector-Jacobian products a trial: one along the feature itself, which gives the first-order variance
            of its norm without noise and is shared by the trials, and R - 1 random ones across it. Between 2 and D + 1;
            with D + 1 the whole first-order trace has no noise.
        trials: K, independent repetitions with other random probes.
        seed: seed of the probes.
        batch_size: images whose graph is held at once; halved when memory runs out.
        store: where results are kept and looked up, as for :func:`mcdo.monte_carlo`; None measures anew.
        pixels: prepared pixels of ``images``, or how to get them, where the caller keeps them.
        weights: from a calibration set; the run is then of ``score`` alone, to first order with these weights.
        score: weighted_trace or topk_trace, where ``weights`` are given.
        progress: report progress.

    Raises:
        McdoError: for a dead site, features that do not follow their derivative, an impossible protocol, images that
            ``weights`` were fitted on, features that are not finite or zero, a store that cannot be written, or too
            little memory for one image.

    """
    check_inputs(encoder, images, dropout)
    probes, trials = arguments.whole("probes", probes), arguments.whole("trials", trials)
    seed = arguments.seed(seed)
    batch_size = None if batch_size is None else arguments.whole("batch_size", batch_size, least=1)
    config = FirstOrderConfig(dropout, probes, trials, seed)
    if not 2 <= probes <= encoder.feature_dim + 1:
        raise McdoError(f"probes = {probes}: give between 2 and D + 1 = {encoder.feature_dim + 1}")
    if weights is None and score:
        raise McdoError(f"score = {score!r}: only a run with weights of dimensions is of one score; give weights=")
    weighting = None if weights is None else _Weighting.of(weights, score, encoder, images)

    def measure(parts: Unfinished | None) -> FirstOrderRun:
        shown = prepared(encoder, images, pixels)
        sites = alive_sites(encoder, shown, dropout, store=store, progress=bool(progress))
        measurement = _Measurement(encoder, images, config, shown, sites, batch_size, weighting)
        check_slope(encoder, dropout, sites)
        basis = noise_basis(encoder, dropout, store=store, progress=bool(progress))
        return measurement.run(basis, parts, progress)

    def key() -> str:
        family = {"method": "first_order", "protocol": config.as_dict(), **identity(encoder, images)}
        if weighting is not None:
            family |= {"score": weighting.score, "dimension_weights": weighting.identity}
        return Store.key(family, {"images": images.fingerprint})

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        n, s = len(images), len(facts["sites"])
        check_shapes(arrays, {"features": (n, encoder.feature_dim), "along": (n, s), "across": (trials, n, s)})
        if canonical_json(facts["protocol"]) != canonical_json(config.as_dict()):
            raise ValueError("it is of another protocol")
        if facts["weighted"] != ("" if weighting is None else weighting.score):
            raise ValueError("it is of another score")

    def find(opened: Store, name: str) -> FirstOrderRun | None:
        found = opened.get(name, fits)
        return None if found is None else FirstOrderRun.from_store(*found, config, encoder.key, images)

    def packed(run: FirstOrderRun) -> tuple[Arrays, dict[str, Any]]:
        return run.arrays(), {"label": run.label(images), **run.facts()}

    return measured_once(store, key, find, measure, packed, progress=bool(progress), shared=True)


@dataclass(frozen=True, eq=False)
class _Weighting:
    """Roots [D] of a score's weights of dimensions, and what tells them from others."""

    score: str
    roots: NDArray[np.float64]
    identity: str

    @classmethod
    def of(cls, weights: DimensionWeights, score: str, encoder: Encoder, images: Shown) -> _Weighting:
        weights.check_unseen(images)
        held = weights.of(score)
        if held.shape != (encoder.feature_dim,) or not (held >= 0).all() or not np.isclose(held.sum(), 1):
            raise McdoError(
                f"{encoder.key} has {encoder.feature_dim} dimensions, whose weights are at least 0 and sum to 1; got "
                f"{held.size} weights with the sum {held.sum():.3g}"
            )
        return cls(score, np.sqrt(held), weights.identity)


class _Measurement:
    """One run: its inputs, and the arrays that it fills."""

    def __init__(
        self,
        encoder: Encoder,
        images: Shown,
        config: FirstOrderConfig,
        pixels: Prepared,
        sites: tuple[Site, ...],
        batch_size: int | None,
        weighting: _Weighting | None,
    ) -> None:
        self.encoder, self.images, self.config, self.pixels, self.sites = encoder, images, config, pixels, sites
        self.weighted = "" if weighting is None else weighting.score
        roots = np.ones(encoder.feature_dim) if weighting is None else weighting.roots
        self._roots = torch.from_numpy(roots.astype(np.float32)).to(encoder.device)
        rows = batch_size or graph_images(encoder, config.dropout, sites)
        self.loop = BlockLoop(encoder, len(images), rows, rows_per_image=1)
        n, s = len(images), len(sites)
        self.features = np.zeros((n, encoder.feature_dim), dtype=np.float32)
        self.along = np.zeros((n, s), dtype=np.float32)
        self.across = np.zeros((config.trials, n, s), dtype=np.float32)

    def run(self, basis: NDArray[np.float64], parts: Unfinished | None, progress: Reporting) -> FirstOrderRun:
        self._restore(parts.parts(self._check_part) if parts else ())
        draws = [
            stratified_probes(basis, self.config.probes - 1, self.config.seed, trial)
            for trial in range(self.config.trials)
        ]
        self._probes = torch.stack(draws).to(self.encoder.device)
        label = {"encoder": self.encoder.key, "images": self.images.name}
        keeper = Keeper(parts, self._part, {"label": label}, self._restore, self._check_part)
        what = f"{self.encoder.key} on {self.images.name}, first order"
        with progress_of(progress, self.loop.left * self._products, what, "products") as bar:
            self.loop.run(self._images, keeper, bar, self._products)
        return FirstOrderRun(
            config=self.config,
            encoder=self.encoder.key,
            ids=self.images.ids,
            origins=self.images.origins,
            features=self.features,
            sites=tuple((site.name, site.role.value) for site in self.sites),
            provenance=provenance(self.encoder, self.images),
            along=self.along,
            across=self.across,
            weighted=self.weighted,
        )

    @property
    def _products(self) -> int:
        return 1 + self.config.trials * (self.config.probes - 1)

    def _part(self, columns: NDArray[np.int64]) -> Arrays:
        across = self.across[:, columns]
        return {"features": self.features[columns], "along": self.along[columns], "across": across}

    def _check_part(self, part: Arrays, facts: Mapping[str, Any]) -> None:
        n, s = check_columns(part["columns"], len(self.images)), len(self.sites)
        shapes = {"features": (n, self.encoder.feature_dim), "along": (n, s), "across": (self.config.trials, n, s)}
        check_shapes(part, shapes)

    def _restore(self, parts: Iterable[Arrays]) -> None:
        for part in parts:
            columns: NDArray[Any] = part["columns"]
            self.features[columns], self.along[columns] = part["features"], part["along"]
            self.across[:, columns] = part["across"]
            self.loop.restored[columns] = True

    def _images(self, start: int, stop: int) -> None:
        """All probes of images ``start:stop``; nothing comes to the host before the last of them is done."""
        graph = SiteGraph(self.encoder, self.pixels.batch(slice(start, stop)), self.config.dropout, self.sites)
        features, roots = graph.features.detach(), self._roots
        weighted = features * roots  # the feature whose trace is taken: itself, where no weights were given
        unit = weighted / weighted.norm(dim=-1, keepdim=True)
        begun = self.loop.begun(start, stop)
        done = 0 if begun is None else int(begun["products"].item())
        self.loop.tick(done * (stop - start))  # by an earlier process
        if begun is None:
            along, done = graph.terms(roots * unit), 1
            across = torch.zeros(self.config.trials, *along.shape, device=along.device)
            self.loop.tick(stop - start)
        else:
            along, across = (torch.from_numpy(begun[name]).to(unit.device) for name in ("along", "across"))

        def state() -> Arrays:
            return {"products": np.array(done), "along": along.cpu().numpy(), "across": across.cpu().numpy()}

        for product, (trial, r) in enumerate(np.ndindex(*self._probes.shape[:2]), start=1):
            if product >= done:
                probe = self._probes[trial, r]
                last = product == self._products - 1
                across[trial] += graph.terms(roots * (probe - (unit @ probe)[:, None] * unit), last)
                done = product + 1
                self.loop.tick(stop - start, state)
        self.features[start:stop] = features.float().cpu().numpy()
        check_features(self.encoder, np.isfinite(unit.cpu().numpy()).all(axis=1), self.images.ids[start:stop])
        terms = torch.cat((along[None], across)).cpu().numpy()
        bad = ~np.isfinite(terms).all(axis=(0, 2))
        if bad.any():
            raise McdoError(
                f"{self.encoder.key}: the derivative of the features of {self.images.ids[start + int(bad.argmax())]} "
                "is not finite, unlike the features: somewhere the tower divides by zero or takes the root of it"
            )
        self.along[start:stop], self.across[:, start:stop] = terms[0], terms[1:]
