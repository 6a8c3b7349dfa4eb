"""What the tests of mcdo.cluster measure, and what their processes do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mcdo.estimators.resumption
import mcdo.harness.session
from mcdo.cli.measure import measure_share
from mcdo.cluster.shares import Share
from mcdo.cluster.work import Work
from mcdo.encoders import load_encoder
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import (
    Experiment,
    Features,
    FirstOrder,
    Images,
    Inputs,
    Passes,
    Request,
    Runner,
    Session,
    Settings,
    Subject,
    View,
)  # fmt: skip
from mcdo.perturbation import Dropout
from mcdo.store.files import canonical_json, checksum, read


@dataclass(frozen=True)
class Toy(Experiment[dict[str, float]]):
    """Passes, first order and features, and passes that follow from what first order gave."""

    key = "toy"
    name = "toy"
    phase = "phase1"

    n: int = 40

    def passes(self, model: str, n: int, p: float) -> Passes:
        return Passes(model, Images(n), MonteCarloConfig(Dropout(p), (4, 8), 2, self.seed, (8,)))

    def linear(self, model: str) -> FirstOrder:
        return FirstOrder(model, Images(self.n), Dropout(0.05), 3, 2, self.seed)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        model = about.model
        return (self.passes(model, self.n, 0.05), self.linear(model), Features(model, Images(self.n)))

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        most = int(inputs[self.linear(inputs.model)].scores("trace_pre").mean(0).argmax())
        return (self.passes(inputs.model, 20 + most, 0.1),)

    def compute(self, inputs: Inputs) -> dict[str, float]:
        return {repr(each): float(_numbers(inputs[each]).sum()) for each in inputs.requests}

    def summary(self, result: dict[str, float]) -> Mapping[str, Any]:
        return result


def _numbers(value: Any) -> Any:
    return value["features"] if isinstance(value, dict) else value.scores("trace_pre")


MODELS = ("clip_tiny",)


def settings(store: Path, **other: Any) -> Settings:
    """A batch size that cuts the images into blocks of 4."""
    return Settings(models=MODELS, store=store, batch_size=64, session="s", reports=store.parent / "r", **other)


def work(store: Path, **other: Any) -> Work:
    """All that the toy needs."""
    runner = Runner(Session(settings(store, **other)))
    return Work(runner, [(Toy(), Subject(model, (model,))) for model in MODELS])


def alone(store: Path) -> Work:
    """Measured in one process."""
    found = work(store)
    found.first()
    found.measure()
    found.later()
    found.measure()
    return found


def bits(store: Path) -> dict[str, str]:
    """What is in the store, by key: checksums of arrays and facts.

    But for which sites are alive: a process that has looked already does not look again to keep it in another store.
    """
    found = {}
    for path in store.glob("*/*.safetensors"):
        arrays, facts = read(path, path.stem)
        if set(arrays) != {"alive"}:
            found[path.stem] = checksum(path.stem, arrays, canonical_json(facts))
    return found


def toy_share(store: Path, number: int, of: int) -> int:
    """What a job of an array does."""
    return measure_share(work(store), Share(number, of), "plan.json")


def shares(store: Path, numbers: list[int], of: int, log: Path) -> None:
    """Measure some shares, one after the other; what has begun is told to ``log``."""
    mcdo.estimators.resumption.SAVE_EVERY_S = 0.0
    mcdo.harness.session.load_encoder = cache(load_encoder)  # type: ignore[attr-defined]
    for number in numbers:
        with log.open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        measure_share(work(store), Share(number, of), f"plan-{of}.json")
