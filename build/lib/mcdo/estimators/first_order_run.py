"""What a first-order measurement yields: the injected variance of every image, site by site, for any p."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mcdo.arguments import real
from mcdo.errors import McdoError, McdoWarning, nearest
from mcdo.estimators.run import EncoderRun, Scores, frame_of
from mcdo.estimators.score_table import SCORES, WEIGHTED
from mcdo.estimators.scores import Terms
from mcdo.estimators.shown import Shown
from mcdo.perturbation import Perturbation
from mcdo.store import Arrays


class OutsideDomainWarning(McdoWarning):
    """First order does not say here what Monte Carlo says, or nobody has looked."""


class LevelWarning(McdoWarning):
    """First order ranks images here as Monte Carlo does, at another level."""


class DomainFigure(Protocol):
    """How first order compares with Monte Carlo at one p and choice of sites; its text holds the figures."""

    @property
    def ranking(self) -> str:
        """Whether it ranks images alike: "met", "not met" or "undecided"."""

    @property
    def level(self) -> str:
        """Whether it has the same level, in the same words."""


Domain = Mapping[tuple[str, float, frozenset[str]], DomainFigure]
"""By score, p and names of sites; see :func:`mcdo.stats.with_domain`."""


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
        domain: where it was compared with Monte Carlo; empty: nowhere, and scores come without a warning.
        weighted: the score with weights of dimensions that the run is of; "" for all scores without them.

    """

    config: FirstOrderConfig
    along: NDArray[np.float32] = field(repr=False)
    across: NDArray[np.float32] = field(repr=False)
    domain: Domain = field(default_factory=dict, repr=False)
    weighted: str = ""

    def __repr__(self) -> str:
        return self._said(f"K = {self.config.trials}, R = {self.config.probes} probes, {self.config.dropout}")

    def to_frame(self) -> Any:
        """A pandas DataFrame with one row for each image, score and trial.

        Raises:
            McdoError: without pandas.

        """
        return frame_of(self, {name: self.scores(name) for name in self.score_names})

    def scores(self, name: str, p: float | None = None, sites: str | Sequence[str] | None = None) -> Scores:
        """float64 ``[K, N]`` (trials × images), as if measured with ``p`` at ``sites`` alone.

        With a :attr:`domain`, a score that does not rank images as Monte Carlo does, or was not compared, comes with an
        OutsideDomainWarning that holds the figures; one that does so at another level, with a LevelWarning.

        Args:
            name: of a score with a definition to first order, or from features or other scores.
            p: another drop probability than the run's; the score is linear in p / (1 - p).
            sites: a name or role, or several, of some of the run's sites; all by default.

        Raises:
            McdoError: if the score or a site is unknown, or ``p`` is outside [0, 1).

        """
        score = SCORES.find(name) if name in SCORES else None
        if score is not None and "terms" not in score.definitions and name in self.score_names:
            return self._derived(score, lambda other: self.scores(other, p, sites), self.config.trials)
        parts = self.decomposition(name, p)
        if sites is None:
            self._check_domain(name, p, frozenset(site for site, _ in self.sites))
            return np.asarray(parts.sum(-1))
        sites = (sites,) if isinstance(sites, str) else sites
        known = {word for site in self.sites for word in site}
        unknown = [word for word in sites if word not in known]
        if unknown or not sites:
            word = unknown[0] if unknown else ""
            raise McdoError(f"unknown site {word!r} in this run; the nearest: {nearest(word, known)}")
        wanted = [name in sites or role in sites for name, role in self.sites]
        chosen = [site for (site, _), take in zip(self.sites, wanted, strict=True) if take]
        self._check_domain(name, p, frozenset(chosen))
        return np.asarray(parts[..., wanted].sum(-1))

    def _check_domain(self, name: str, p: float | None, sites: frozenset[str]) -> None:
        if not self.domain or name not in {score for score, _, _ in self.domain}:
            return
        asked = self.config.dropout.p if p is None else p
        what = f"{self.encoder}: first-order {name} at p = {asked:g} and {len(sites)} sites"
        found = self.domain.get((name, asked, sites))
        if found is None:
            warnings.warn(f"{what} was not compared with Monte Carlo", OutsideDomainWarning, stacklevel=3)
        elif found.ranking != "met":
            said = f"ranking {found.ranking}, level {found.level}: {found}"
            warnings.warn(f"{what} is outside its domain ({said})", OutsideDomainWarning, stacklevel=3)
        elif found.level != "met":
            said = f"ranks images as Monte Carlo does, at another level ({found})"
            warnings.warn(f"{what} {said}; mcdo.multi_fidelity has the level of passes", LevelWarning, stacklevel=3)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names that :meth:`scores` knows."""
        inputs = {"terms", "features", "scores"}
        known = (name for name, score in SCORES.registered.items() if inputs & set(score.definitions))
        if self.weighted:
            return (self.weighted,)
        return tuple(name for name in known if name not in WEIGHTED)

    def decomposition(self, name: str, p: float | None = None) -> NDArray[np.float64]:
        """float64 ``[K, N, S]``: what each site contributes to a score; contributions add up."""
        p = self.config.dropout.p if p is None else real("p", p)
        if not 0 <= p < 1:
            raise McdoError(f"p = {p}: it must be in [0, 1)")
        definition = SCORES.find(name).definitions.get("terms") if name in SCORES else None
        if definition is None:
            raise McdoError(f"no score {name!r} to first order; the nearest: {nearest(name, self.score_names)}")
        if name != self.weighted and (self.weighted or name in WEIGHTED):
            held = f"is of {self.weighted} alone" if self.weighted else "was given no weights of dimensions"
            raise McdoError(f"no {name} in this run, which {held}: measure it with first_order(..., weights=, score=)")
        terms = (self.along.astype(np.float64), self.across.astype(np.float64), self.features.astype(np.float64))
        value = definition(Terms(*terms))
        return np.asarray(value * (p / (1 - p)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything measured, for the store."""
        return {"features": self.features, "along": self.along, "across": self.across}

    def facts(self) -> dict[str, Any]:
        """What stands beside the arrays in the store."""
        facts = {"protocol": self.config.as_dict(), "sites": self.sites, "provenance": self.provenance}
        return {**facts, "weighted": self.weighted}

    def label(self, images: Shown) -> dict[str, str]:
        """What the run is, for people who list the store."""
        config = self.config
        protocol = f"{config.dropout}, first order, R = {config.probes}, {config.trials} trials, seed {config.seed}"
        protocol += f", {self.weighted}" if self.weighted else ""
        return {"encoder": self.encoder, "images": f"{images.name}, {len(images)}", "protocol": protocol}

    @staticmethod
    def from_store(
        arrays: Arrays, facts: Mapping[str, Any], config: FirstOrderConfig, encoder: str, images: Shown
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
            weighted=facts["weighted"],
        )
