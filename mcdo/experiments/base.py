"""What experiments share: configurations with the published protocol as default, needs, and the files they write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import ArrayLike

from mcdo.estimators import FirstOrderRun, MonteCarloConfig, MonteCarloRun
from mcdo.perturbation import Dropout, Perturbation

ProtocolName = Literal["full", "quick"]
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


def write_json(path: Path, value: Any) -> Path:
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(path)
    return path


def write_npz(path: Path, **arrays: ArrayLike) -> Path:
    """Write arrays, whole or not at all, without pickles (text becomes fixed-width unicode)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{os.getpid()}.{path.name}")
    plain = {name: np.asarray(value) for name, value in arrays.items()}
    if any(array.dtype == object for array in plain.values()):
        raise TypeError(f"{path.name}: an object array would be pickled")
    np.savez_compressed(part, **plain)  # type: ignore[arg-type]
    part.replace(path)
    return path


def add_to_json(path: Path, session: str, section: str, key: str, value: Any) -> None:
    """Put ``value`` under ``section``/``key`` of a summary that several workers fill.

    What another session left there is dropped first, so a summary never mixes two runs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if held.get("session") != session:
            held = {"session": session}
        held.setdefault(section, {})[key] = value
        write_json(path, held)
