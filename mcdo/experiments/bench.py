"""The bench: what a session has loaded and measured, each thing once."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from mcdo.encoders import Encoder, Prompts, TextTower, Tokens, load_encoder
from mcdo.encoders.spec import Precision
from mcdo.encoders.text_tower import IDENTITY
from mcdo.errors import McdoError
from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun, first_order, monte_carlo, prepared
from mcdo.estimators.scores import pixel_rows
from mcdo.experiments.base import ExperimentConfig, Need, ProtocolName, merge
from mcdo.experiments.exp5_subset_ambiguity import TEMPLATES, zero_shot_logits
from mcdo.experiments.remembered import Remembered
from mcdo.images import ImageSet, Pixels, TooFewImagesError, load_images
from mcdo.perturbation import Dropout, Perturbation, deterministic_features
from mcdo.store import Store, UnsavedResultWarning

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What the command line decides."""

    models: tuple[str, ...]
    images: str = "digits"
    device: str = "cpu"
    protocol: ProtocolName = "full"
    seed: int = 42
    dropout: Perturbation = field(default_factory=Dropout)
    reports: Path = Path("reports")
    store: Path | None = None
    batch_size: int | None = None
    random_weights: frozenset[str] = frozenset()
    skip_unreadable: bool = False
    from_store: bool = False
    precision: Precision = "float32"
    estimator: str = "mc"
    session: str = ""


class Bench:
    """Encoders, image sets, pixels and runs of one session; nothing is loaded or measured twice.

    Args:
        settings: what the command line decides.
        unmuted: a context in which progress reaches the terminal (pytest captures output otherwise).

    """

    def __init__(self, settings: Settings, unmuted: Callable[[], AbstractContextManager[object]] = nullcontext) -> None:
        self.settings = settings
        self.loads: Counter[str] = Counter()
        self._unmuted = unmuted
        self._store = None if settings.store is None else Store(settings.store)
        self._encoders: dict[str, Encoder] = {}
        self._images: dict[tuple[int, str, str | None], ImageSet] = {}
        self._pixels: dict[tuple[str, str], Pixels] = {}
        self._kept: dict[str, dict[str, NDArray[Any]]] = {}
        self._plan: list[Need] = []
        self._runs: dict[Need, MonteCarloRun] = {}
        self._first_order: dict[tuple[object, ...], FirstOrderRun] = {}
        self._results: dict[tuple[object, str], object] = {}

    def plan(self, needs: Iterable[Need]) -> None:
        """Announce needs before the first is measured, so that one run serves as many as it can."""
        self._plan = merge([*self._plan, *needs])

    def encoder(self, model: str) -> Encoder:
        """The encoder, loaded on first use."""
        if model not in self._encoders:
            if self.settings.from_store:
                self._encoders[model] = cast("Encoder", Remembered.read(self._card(model)))
            else:
                self.loads[model] += 1
                weights = "random" if model in self.settings.random_weights else "pretrained"
                encoder = load_encoder(
                    model,
                    self.settings.device,
                    weights=weights,
                    seed=self.settings.seed,
                    precision=self.settings.precision,
                )
                self._encoders[model] = encoder
                self._remember(model, encoder)
        return self._encoders[model]

    def _card(self, model: str) -> Path:
        if self._store is None:
            raise McdoError("--from-store needs a store: leave out --store=none")
        weights = f"random {self.settings.seed}" if model in self.settings.random_weights else "pretrained"
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{model} {weights} {self.settings.device} {self.settings.precision}")
        return self._store.root / "encoders" / f"{name}.json"

    def _remember(self, model: str, encoder: Encoder) -> None:
        if self._store is not None:
            with suppress(OSError):  # a store that cannot be written is reported where a measurement is to be kept
                Remembered.of(encoder).write(self._card(model))

    def images(self, n: int, images: str | None = None, degradation: str | None = None) -> ImageSet:
        """``n`` images of the session's set (or of ``images``), degraded if asked for; all where there are fewer."""
        chosen = (n, images or self.settings.images, degradation)
        if chosen not in self._images:
            if degradation is None:
                self._images[chosen] = self._load(n, chosen[1])
            else:
                from mcdo.images.degradations import degraded

                self._images[chosen] = degraded(self.images(n, images), degradation)
        return self._images[chosen]

    def _load(self, n: int, spec: str) -> ImageSet:
        seed, skip = self.settings.seed, self.settings.skip_unreadable
        try:
            return load_images(spec, n, seed, skip_unreadable=skip)
        except TooFewImagesError:
            return load_images(spec, None, seed, skip_unreadable=skip)

    def pixels(self, model: str, n: int, images: str | None = None, degradation: str | None = None) -> Pixels:
        """Pixels of :meth:`images` as the encoder wants them, on its device."""
        chosen = self.images(n, images, degradation)
        key = (model, chosen.fingerprint)
        if key not in self._pixels:
            self._pixels[key] = prepared(self.encoder(model), chosen)
        return self._pixels[key]

    def run(self, need: Need) -> MonteCarloRun:
        """The planned run that serves ``need``: from this session, from the store, or measured now."""
        self.plan([need])
        planned = next(run for run in self._plan if run.joins(need))
        if planned not in self._runs:
            self._runs[planned] = self._measure(planned)
        return self._runs[planned]

    def first_order(self, need: Need, probes: int = 8) -> FirstOrderRun:
        """First-order scores for the same images, perturbation, trials and seed; ``need``'s passes do not matter."""
        config = need.config
        key = (need.model, need.n, need.images, need.degradation, config.dropout, config.trials, config.seed, probes)
        if key not in self._first_order:
            with self._unmuted():
                self._first_order[key] = first_order(
                    self.encoder(need.model),
                    self.images(need.n, need.images, need.degradation),
                    config.dropout,
                    probes,
                    config.trials,
                    config.seed,
                    store=self._store,
                    pixels=lambda: self.pixels(need.model, need.n, need.images, need.degradation),
                )
        return self._first_order[key]

    def run_on(self, model: str, shown: ImageSet | Prompts, config: MonteCarloConfig) -> MonteCarloRun:
        """A run outside the plan: on prompts, which the text tower is shown, or on chosen images."""
        encoder, pixels = self.encoder(model), None
        if isinstance(shown, Prompts):
            named = {"key": f"{encoder.key}:text", "preprocess_id": IDENTITY}
            tower = replace(cast("Any", encoder), **named) if self.settings.from_store else TextTower(encoder)
            encoder, pixels = tower, lambda: cast("Pixels", Tokens.of(tower, shown))
        with self._unmuted():
            return monte_carlo(
                encoder,
                cast("ImageSet", shown),
                config.dropout,
                config.passes,
                config.trials,
                config.seed,
                geometry=config.geometry,
                batch_size=self.settings.batch_size,
                store=self._store,
                pixels=pixels,
            )

    def once(self, config: ExperimentConfig, model: str, compute: Callable[[], Result]) -> Result:
        """An experiment's result on a model, computed on first use; gates and experiments share it."""
        if (config, model) not in self._results:
            self._results[config, model] = compute()
        return cast("Result", self._results[config, model])

    def features(
        self, model: str, n: int, images: str | None = None, degradation: str | None = None
    ) -> NDArray[np.float32]:
        """Deterministic features before normalisation, ``[N, D]``."""
        chosen = self.images(n, images, degradation)

        def compute() -> dict[str, NDArray[Any]]:
            encoder, pixels = self.encoder(model), self.pixels(model, n, images, degradation)
            rows = pixel_rows(encoder, self.settings.batch_size)
            parts = [
                deterministic_features(encoder, pixels.batch(slice(start, start + rows))).cpu()
                for start in range(0, len(pixels), rows)
            ]
            return {"features": torch.cat(parts).numpy()}

        return self.kept("features 1", model, {"images": chosen.fingerprint}, compute)["features"]

    def text_features(self, model: str, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Text features before normalisation, ``[n, D]``."""

        def compute() -> dict[str, NDArray[Any]]:
            return {"features": self.encoder(model).encode_text(prompts).cpu().numpy()}

        return self.kept("text features 1", model, {"prompts": list(prompts)}, compute)["features"]

    def logits(
        self, model: str, n: int, images: str | None = None, degradation: str | None = None
    ) -> NDArray[np.float64]:
        """Zero-shot logits under every template of exp5, ``[templates, N, C]``."""
        chosen = self.images(n, images, degradation)
        features = self.features(model, n, images, degradation)

        def compute() -> dict[str, NDArray[Any]]:
            return {"logits": zero_shot_logits(self.encoder(model), features, chosen)}

        identity = {"images": chosen.fingerprint, "classes": list(chosen.class_names), "templates": list(TEMPLATES)}
        return self.kept("zero-shot logits 1", model, identity, compute)["logits"]

    def kept(
        self,
        what: str,
        model: str,
        identity: Mapping[str, Any],
        compute: Callable[[], dict[str, NDArray[Any]]],
    ) -> dict[str, NDArray[Any]]:
        """Arrays from this session, from the store, or computed now and kept.

        Args:
            what: what is computed, with a revision to be counted up when a change of code changes its numbers.
            model: the encoder; its weights and preprocessing are part of the key.
            identity: everything else that decides the arrays; JSON-able.
            compute: makes them; the only place that may need the loaded model.

        """
        encoder = self.encoder(model)
        facts = {
            "kind": what,
            "weights": encoder.weights_hash,
            "preprocessing": encoder.preprocess_id,
            "device": encoder.device.type,
            "dtype": encoder.dtype,
            "torch": torch.__version__,
            **identity,
        }
        key = Store.key(facts)
        if key not in self._kept:
            found = None if self._store is None else self._store.get(key)
            self._kept[key] = found[0] if found else self._computed(key, facts, compute)
        return self._kept[key]

    def _computed(
        self, key: str, facts: Mapping[str, Any], compute: Callable[[], dict[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        arrays = compute()
        if self._store is not None:
            try:
                self._store.put(key, arrays, facts)
            except McdoError as error:
                warnings.warn(f"{facts['kind']} is not kept: {error}", UnsavedResultWarning, stacklevel=2)
        return arrays

    def _measure(self, need: Need) -> MonteCarloRun:
        config, images = need.config, self.images(need.n, need.images, need.degradation)
        if len(images) < 3:
            raise McdoError(f"{images.name}: {len(images)} images are too few for any statistic")
        with self._unmuted():
            return monte_carlo(
                self.encoder(need.model),
                images,
                config.dropout,
                config.passes,
                config.trials,
                config.seed,
                geometry=config.geometry,
                batch_size=self.settings.batch_size,
                store=self._store,
                pixels=lambda: self.pixels(need.model, need.n, need.images, need.degradation),
            )
