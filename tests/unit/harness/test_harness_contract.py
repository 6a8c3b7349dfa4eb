"""The contract is tested for every experiment, the studies included."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import mcdo.experiments
import mcdo.studies
from mcdo.experiments.phase1.verdict import Phase1Verdict
from mcdo.experiments.phase3.exp9_tracking.experiment import OwnTracking
from mcdo.harness import Experiment
from mcdo.harness.tests import differing

ELSEWHERE = {Phase1Verdict, OwnTracking}
"""The verdict, which tests/gates is about, and what needs a file of the user's."""


def below(kind: Any) -> Iterator[type[Experiment[Any]]]:
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


def test_every_experiment_has_a_test_of_its_contract_and_of_its_claims() -> None:
    for package in (mcdo.experiments, mcdo.studies):
        for module in walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    ours = {each for each in below(Experiment) if each.__module__.startswith("mcdo.") and not inspect.isabstract(each)}
    tests = Path(__file__).parents[2]
    text = "\n".join(path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
    lacking = {each.__name__ for each in ours - ELSEWHERE if f"contract_of({each.__name__})" not in text}
    assert not lacking
    claiming = {each for each in ours - ELSEWHERE if each.claims is not Experiment.claims}
    assert not {each.__name__ for each in claiming if f"claims_of({each.__name__})" not in text}
    assert len(ours) > 30


def test_summaries_may_differ_by_rounding_and_by_nothing_else() -> None:
    known: dict[str, Any] = {"a": [0.25, {"b": 3, "c": "met"}], "p": 1e-40, "n": None}
    assert differing({"a": [0.25 * (1 + 1e-14), {"b": 3, "c": "met"}], "p": 1e-41, "n": None}, known) == []
    for other, said in (
        ({**known, "a": [0.2501, known["a"][1]]}, "/a/0: 0.2501 and 0.25"),
        ({**known, "a": [0.25, {"b": 3, "c": "not met"}]}, "/a/1/c: not met and met"),
        ({**known, "n": math.nan}, "/n: nan and None"),
        ({"a": known["a"]}, ": "),
    ):
        (found,) = differing(other, known)
        assert said in found
