"""Until every experiment is on the contract: a session with the older ways to ask for a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mcdo.encoders import Prompts
from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun
from mcdo.experiments.base import ExperimentConfig, Need
from mcdo.harness.requests import Features, FirstOrder, Images, Logits, Passes, Request, TextFeatures, Texts
from mcdo.harness.session import Session
from mcdo.harness.settings import Settings
from mcdo.images import ImageSet, Pixels

Result = TypeVar("Result")


def request(need: Need) -> Passes:
    """The request that a need is."""
    return Passes(need.model, Images(need.n, need.images, need.degradation), need.config)


class Bench(Session):
    """See :class:`~mcdo.harness.session.Session`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._results: dict[tuple[object, str], object] = {}

    def plan(self, requests: Iterable[Request[Any] | Need]) -> None:
        """Announce needs or requests."""
        super().plan(request(each) if isinstance(each, Need) else each for each in requests)

    def images(self, n: int, images: str | None = None, degradation: str | None = None) -> ImageSet:
        """``n`` images of the session's set (or of ``images``), degraded if asked for."""
        return self.image_set(Images(n, images, degradation))

    def pixels(  # type: ignore[override]
        self, model: str, n: int | Images, images: str | None = None, degradation: str | None = None
    ) -> Pixels:
        """Pixels of :meth:`images`."""
        return super().pixels(model, n if isinstance(n, Images) else Images(n, images, degradation))

    def run(self, need: Need) -> MonteCarloRun:
        """The planned run that serves ``need``, whole."""
        self.plan([need])
        planned = next(each for each in self._plan if each.union(request(need)) == each)
        self.measure(planned)
        return cast("MonteCarloRun", self._values[planned])

    def first_order(self, need: Need, probes: int = 8) -> FirstOrderRun:
        """First-order scores for the same images, perturbation, trials and seed."""
        asked, config = request(need), need.config
        return self.measure(FirstOrder(asked.model, asked.shown, config.dropout, probes, config.trials, config.seed))

    def run_on(self, model: str, shown: ImageSet | Prompts, config: MonteCarloConfig) -> MonteCarloRun:
        """A run on prompts, or on chosen images."""
        if isinstance(shown, Prompts):
            return self.measure(Passes(model, Texts(shown.ids, shown.origins), config))
        from mcdo.estimators import monte_carlo

        with self.unmuted():
            return monte_carlo(
                self.encoder(model), shown, config.dropout, config.passes, config.trials, config.seed,
                geometry=config.geometry, batch_size=self.settings.batch_size, store=self.store,
            )  # fmt: skip

    def once(self, config: ExperimentConfig, model: str, compute: Callable[[], Result]) -> Result:
        """An experiment's result on a model, computed on first use."""
        if (config, model) not in self._results:
            self._results[config, model] = compute()
        return cast("Result", self._results[config, model])

    def features(
        self, model: str, n: int, images: str | None = None, degradation: str | None = None
    ) -> NDArray[np.float32]:
        """Deterministic features before normalisation, ``[N, D]``."""
        return self.measure(Features(model, Images(n, images, degradation)))["features"]

    def text_features(self, model: str, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Text features before normalisation, ``[n, D]``."""
        return self.measure(TextFeatures(model, tuple(prompts)))["features"]

    def logits(
        self, model: str, n: int, images: str | None = None, degradation: str | None = None
    ) -> NDArray[np.float64]:
        """Zero-shot logits under every template, ``[templates, N, C]``."""
        return self.measure(Logits(model, Images(n, images, degradation)))["logits"]

    def kept(
        self, what: str, model: str, identity: Mapping[str, Any], compute: Callable[[], dict[str, NDArray[Any]]]
    ) -> dict[str, NDArray[Any]]:
        """Arrays from this session, from the store, or computed now and stored."""
        return self.stored(what, model, identity, compute)


__all__ = ["Bench", "Settings"]
