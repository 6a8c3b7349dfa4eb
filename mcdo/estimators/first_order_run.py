"""What a first-order measurement yields: the injected variance of every image, site by site, for any p."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.arguments import real
from mcdo.errors import McdoError, nearest
from mcdo.estimators.run import EncoderRun, Scores
from mcdo.images import ImageSet
from mcdo.perturbation import Perturbation
from mcdo.store import Arrays

FIRST_ORDER_SCORES = ("trace_pre", "trace_post", "trace_pre_relative", "norm_var")


@dataclass(frozen=True)
class FirstOrderConfig:
    """The protocol of a measurement.

    Attributes:
        dropout: the perturbation.
        probes: R, vector-Jacobian products a trial, the one along the feature among them.
        trials: K.
        seed: seed of the probes.

    """

    dropout: Perturbation
    probes: int = 8
    trials: int = 10
    seed: int = 42

    def __post_init__(self) -> None:
        if self.trials < 1:
            raise McdoError(f"trials = {self.trials}: at least one is needed (two or more for reliability)")

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "dropout": self.dropout.as_dict()}


@dataclass(frozen=True, eq=False)
class FirstOrderRun(EncoderRun):
    """First-order scores of one encoder on one image set.

    Attributes:
        config: the protocol.
        along: float32 ``[N, S]``, variance along the feature for p / (1 - p) = 1, by site in their order; exact.
        across: float32 ``[K, N, S]``, likewise the estimated total variance across the feature.

    """

    config: FirstOrderConfig
    along: NDArray[np.float32] = field(repr=False)
    across: NDArray[np.float32] = field(repr=False)

    def scores(self, name: str, p: float | None = None, sites: Sequence[str] | None = None) -> Scores:
        """float64 ``[K, N]`` (trials × images), as if measured with ``p`` at ``sites`` alone.

        Args:
            name: ``trace_pre``, ``trace_post``, ``trace_pre_relative`` or ``norm_var``.
            p: another drop probability than the run's; the score is linear in p / (1 - p).
            sites: names or roles of some of the run's sites; all by default.

        Raises:
            McdoError: if the score or a site is unknown, or ``p`` is outside [0, 1).

        """
        parts = self.decomposition(name, p)
        if sites is None:
            return np.asarray(parts.sum(-1))
        known = {word for site in self.sites for word in site}
        unknown = [word for word in sites if word not in known]
        if unknown or not sites:
            word = unknown[0] if unknown else ""
            raise McdoError(f"unknown site {word!r} in this run; the nearest: {nearest(word, known)}")
        wanted = [name in sites or role in sites for name, role in self.sites]
        return np.asarray(parts[..., wanted].sum(-1))

    def decomposition(self, name: str, p: float | None = None) -> NDArray[np.float64]:
        """float64 ``[K, N, S]``: what each site contributes to a score; contributions add up."""
        p = self.config.dropout.p if p is None else real("p", p)
        if not 0 <= p < 1:
            raise McdoError(f"p = {p}: it must be in [0, 1)")
        along, across = self.along.astype(np.float64), self.across.astype(np.float64)
        squared_norm = np.square(self.feature_norm)[:, None]
        width = self.features.shape[1]
        if name not in FIRST_ORDER_SCORES:
            raise McdoError(f"no score {name!r} to first order; the nearest: {nearest(name, FIRST_ORDER_SCORES)}")
        value = {
            "trace_pre": (across + along) / width,
            "trace_post": across / (width * squared_norm),
            "trace_pre_relative": (across + along) / (width * squared_norm),
            "norm_var": np.broadcast_to(along, across.shape),
        }[name]
        return np.asarray(value * (p / (1 - p)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything measured, for the store."""
        return {"features": self.features, "along": self.along, "across": self.across}

    def facts(self) -> dict[str, Any]:
        """What stands beside the arrays in the store."""
        return {"protocol": self.config.as_dict(), "sites": self.sites, "provenance": self.provenance}

    def label(self, images: ImageSet) -> dict[str, str]:
        """What the run is, for people who list the store."""
        config = self.config
        protocol = f"{config.dropout}, first order, R = {config.probes}, {config.trials} trials, seed {config.seed}"
        return {"encoder": self.encoder, "images": f"{images.name}, {len(images)}", "protocol": protocol}

    @staticmethod
    def from_store(
        arrays: Arrays, facts: Mapping[str, Any], config: FirstOrderConfig, encoder: str, images: ImageSet
    ) -> FirstOrderRun:
        """The inverse of :meth:`arrays` and :meth:`facts`."""
        return FirstOrderRun(
            config=config,
            encoder=encoder,
            ids=images.ids,
            origins=images.origins,
            features=arrays["features"],
            sites=tuple((name, role) for name, role in facts["sites"]),
            provenance=facts["provenance"],
            along=arrays["along"],
            across=arrays["across"],
        )
