"""What experiments share: configurations with the published protocol as default, needs, and the files they write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, TypeVar

from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun
from mcdo.harness.settings import ProtocolName
from mcdo.perturbation import Dropout, Perturbation
from mcdo.report.files import add_to_json, write_json, write_npz

Config = TypeVar("Config", bound="ExperimentConfig")


@dataclass(frozen=True)
class ExperimentConfig:
    """Configuration of an experiment. Defaults are the published protocol; ``QUICK`` replaces the sizes."""

    QUICK: ClassVar[Mapping[str, Any]] = {}

    seed: int = 42
    dropout: Perturbation = field(default_factory=Dropout)

    @classmethod
    def of(cls: type[Config], protocol: ProtocolName, seed: int = 42, dropout: Perturbation | None = None) -> Config:
        """The configuration under a protocol, with the run's seed and perturbation."""
        sizes = cls.QUICK if protocol == "quick" else {}
        return cls(**sizes, seed=seed, dropout=Dropout() if dropout is None else dropout)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "dropout": self.dropout.as_dict()}


@dataclass(frozen=True)
class Need:
    """A measurement that an experiment needs: ``n`` images under a protocol.

    ``images`` is a specification for :func:`mcdo.load_images`, or None for the session's image set; ``degradation`` is
    what is done to them first, such as ``"blur:5"``.
    """

    model: str
    n: int
    config: MonteCarloConfig
    images: str | None = None
    degradation: str | None = None

    def joins(self, other: Need) -> bool:
        """Whether one run can serve both."""
        mine, its = self.config, other.config
        same = (self.model, self.n, self.images, self.degradation, mine.dropout, mine.seed)
        return same == (other.model, other.n, other.images, other.degradation, its.dropout, its.seed)

    def union(self, other: Need) -> Need:
        """The run that serves both: masks are keyed, so more trials or more passes change nothing in fewer."""
        mine, its = self.config, other.config
        config = replace(
            mine,
            passes=tuple(sorted({*mine.passes, *its.passes})),
            trials=max(mine.trials, its.trials),
            geometry=tuple(sorted({*mine.geometry, *its.geometry})),
        )
        return replace(self, config=config)


def merge(needs: Iterable[Need]) -> list[Need]:
    """As few runs as serve all needs."""
    runs: list[Need] = []
    for need in needs:
        for i, run in enumerate(runs):
            if run.joins(need):
                runs[i] = run.union(need)
                break
        else:
            runs.append(need)
    return runs


def origin(config: ExperimentConfig, run: MonteCarloRun | FirstOrderRun) -> dict[str, Any]:
    """What stands in every summary: configuration, sites, seed, device and versions."""
    return {
        "config": config.as_dict(),
        "num_images": len(run.ids),
        "num_origins": len(set(run.origins)),
        "sites": {"requested": config.dropout.sites, "live": [name for name, _ in run.sites], "roles": list(run.roles)},
        "provenance": dict(run.provenance),
    }


__all__ = [
    "Config",
    "ExperimentConfig",
    "Need",
    "ProtocolName",
    "add_to_json",
    "merge",
    "origin",
    "write_json",
    "write_npz",
]
