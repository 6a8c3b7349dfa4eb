"""The bench: what a session has loaded and measured, each thing once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

from mcdo.encoders import Encoder, load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun, monte_carlo
from mcdo.experiments.base import ExperimentConfig, Need, ProtocolName, merge
from mcdo.images import ImageSet, Pixels, TooFewImagesError, load_images, prepare_pixels
from mcdo.perturbation import Dropout
from mcdo.store import Store

Result = TypeVar("Result")


@dataclass(frozen=True)
class Settings:
    """What the command line decides."""

    models: tuple[str, ...]
    images: str = "digits"
    device: str = "cpu"
    protocol: ProtocolName = "full"
    seed: int = 42
    dropout: Dropout = field(default_factory=Dropout)
    reports: Path = Path("reports")
    store: Path | None = None
    batch_size: int | None = None
    random_weights: frozenset[str] = frozenset()
    skip_unreadable: bool = False
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
        self._images: dict[int, ImageSet] = {}
        self._pixels: dict[tuple[str, int], Pixels] = {}
        self._plan: list[Need] = []
        self._runs: dict[Need, MonteCarloRun] = {}
        self._results: dict[tuple[object, str], object] = {}

    def plan(self, needs: Iterable[Need]) -> None:
        """Announce needs before the first is measured, so that one run serves as many as it can."""
        self._plan = merge([*self._plan, *needs])

    def encoder(self, model: str) -> Encoder:
        """The encoder, loaded on first use."""
        if model not in self._encoders:
            self.loads[model] += 1
            weights = "random" if model in self.settings.random_weights else "pretrained"
            self._encoders[model] = load_encoder(model, self.settings.device, weights=weights, seed=self.settings.seed)
        return self._encoders[model]

    def images(self, n: int) -> ImageSet:
        """``n`` images of the session's set, or all of them where there are fewer."""
        if n not in self._images:
            spec, seed, skip = self.settings.images, self.settings.seed, self.settings.skip_unreadable
            try:
                self._images[n] = load_images(spec, n, seed, skip_unreadable=skip)
            except TooFewImagesError:
                self._images[n] = load_images(spec, None, seed, skip_unreadable=skip)
        return self._images[n]

    def pixels(self, model: str, n: int) -> Pixels:
        """Pixels of :meth:`images` as the encoder wants them, on its device."""
        if (model, n) not in self._pixels:
            encoder, prepared = self.encoder(model), self.encoder(model).preprocessing
            images = self.images(n)
            self._pixels[model, n] = prepare_pixels(
                images, encoder.to_uint8, prepared.mean, prepared.std, encoder.device
            )
        return self._pixels[model, n]

    def run(self, need: Need) -> MonteCarloRun:
        """The planned run that serves ``need``: from this session, from the store, or measured now."""
        self.plan([need])
        planned = next(run for run in self._plan if run.joins(need))
        if planned not in self._runs:
            self._runs[planned] = self._measure(planned)
        return self._runs[planned]

    def once(self, config: ExperimentConfig, model: str, compute: Callable[[], Result]) -> Result:
        """An experiment's result on a model, computed on first use; gates and experiments share it."""
        if (config, model) not in self._results:
            self._results[config, model] = compute()
        return cast("Result", self._results[config, model])

    def _measure(self, need: Need) -> MonteCarloRun:
        config, images = need.config, self.images(need.n)
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
                pixels=lambda: self.pixels(need.model, need.n),
            )
