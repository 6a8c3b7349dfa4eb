"""What was chosen on one half of the origins, and what the other half and Monte Carlo say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.phase4.exp11_concrete_proxy.objective import Array, compare
from mcdo.experiments.phase4.exp11_concrete_proxy.search import UNIFORM, ReportingHalf, Search
from mcdo.stats import Difference, Estimate, Relation, ratio_of_means

JOINT = "joint"
"""The uniform p, measured at all sites together."""
Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class Searched:
    """One score: what was chosen, and what the reporting half says of it.

    Attributes:
        search: the choices.
        candidates: the objective of each random candidate on the reporting half, [candidates].
        held_out: that of each choice.
        differences: of the choices, pair by pair; Holm over both scores.
        relations: of each choice, and of each group alone, to entropy (plain and given the feature norm) and the norm.

    """

    search: Search
    candidates: Array
    held_out: dict[str, Estimate]
    differences: dict[str, Difference]
    relations: dict[tuple[str, str], Relation]

    def optimism(self, name: str) -> float:
        """How much larger the gain over the uniform p looks where it was chosen than on the other half."""
        choices = self.search.choices
        inside = choices[name].in_sample - choices[UNIFORM].in_sample
        return inside - (self.held_out[name].value - self.held_out[UNIFORM].value)

    def as_dict(self) -> dict[str, Any]:
        return {
            "choices": {
                name: {
                    "p": choice.p.tolist(),
                    "p_at_level": self.search.level[name].tolist(),
                    "objective_in_sample": choice.in_sample,
                    "objective_held_out": self.held_out[name],
                    "optimism_of_gain": self.optimism(name),
                }
                for name, choice in self.search.choices.items()
            },
            "differences_held_out": self.differences,
        }


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Monte Carlo on the reporting half, for trace_pre.

    A perturbation has one p for all its sites, so each group is measured alone and the traces are added: exact within a
    group, and to first order between groups. ``joint`` is the uniform p measured in one run, and ``additivity`` its
    mean trace over the sum's.
    """

    held_out: dict[str, Estimate]
    differences: dict[str, Difference]
    additivity: Estimate

    @classmethod
    def of(cls, measured: Mapping[str, Array], reporting: ReportingHalf, seed: int) -> Confirmation:
        """From trace_pre [K, n] on the reporting half, of ``joint`` and of the choices with their groups added.

        Masks are keyed by image, so images share no noise.
        """
        held_out, differences = compare(measured, reporting.targets, reporting.origins, seed=seed)
        ratio = ratio_of_means(measured[JOINT], measured[UNIFORM], origins=reporting.origins, seed=seed)
        return cls(held_out, differences, ratio)

    def as_dict(self) -> dict[str, Any]:
        return {
            "objective_held_out": self.held_out,
            "differences_held_out": self.differences,
            "joint_over_sum_of_groups": self.additivity,
            "assumed": "traces of groups add up, which is so to first order; within a group nothing is assumed",
        }


@dataclass(frozen=True, eq=False)
class ProxyResult:
    """Searches by score; ``reported`` are the places of the images of the reporting half, ``origins`` theirs."""

    groups: Groups
    searched: dict[str, Searched]
    confirmed: Confirmation
    reported: NDArray[np.intp]
    origins: tuple[str, ...]
