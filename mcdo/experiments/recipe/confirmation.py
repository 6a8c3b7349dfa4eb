"""What passes say of a choice: the same gain, and whether first order ranks and levels as they do, at its own sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mcdo.experiments.recipe.choice import CHOSEN_ON, OVER_ALL, UNSEEN
from mcdo.experiments.recipe.halves import Array, Half, difference, share_raised
from mcdo.stats import Agreement, Difference, Estimate, Inferred, Reliability, agreement, reliability
from mcdo.stats.comparison import differences

_ONE = np.ones((1, 1))


@dataclass(frozen=True, eq=False)
class Confirmation:
    """Passes on the reporting half.

    Attributes:
        p: drop probability; a site with a smaller weight has a smaller one, of the same share of the odds.
        passes: T.
        trials: K.
        reliability: of the chosen sites and score, at T passes.
        shares: of images raised, by ("chosen" or "all sites", degradation or scope).
        gains: over all sites, by scope; Holm over the scopes.
        domain: first order beside passes at the chosen sites and score, on the clean images.

    """

    p: float
    passes: int
    trials: int
    reliability: Reliability
    shares: Mapping[tuple[str, str], Estimate]
    gains: Mapping[str, Difference]
    domain: Agreement | None

    def as_dict(self) -> dict[str, Any]:
        return {
            "p": self.p,
            "passes": self.passes,
            "trials": self.trials,
            "reliability": self.reliability.as_dict(),
            "raised": {f"{name}, {scope}": e.as_dict() for (name, scope), e in self.shares.items()},
            "gain_over_all_sites": {scope: d.as_dict() for scope, d in self.gains.items()},
            "first_order_beside_passes": None if self.domain is None else self.domain.as_dict(),
        }


def confirmed(
    chosen: Half,
    every: Half,
    linear: Array | None,
    chosen_on: Sequence[str],
    unseen: Mapping[str, str],
    *,
    p: float,
    passes: int,
    seed: int,
    resamples: int,
) -> Confirmation:
    """From passes at the chosen sites and at all, each a :class:`Half` of one site, images with masks of their own.

    Args:
        chosen: [K, n, 1].
        every: [K, n, 1].
        linear: first-order scores of the chosen sites at ``p`` on the same clean images, [K', n]; None: not compared.
        chosen_on: degradations that the choice saw.
        unseen: one degradation of each other family.
        p: for the record.
        passes: for the record.
        seed: of resamples.
        resamples: how many.

    """
    scopes = {CHOSEN_ON: tuple(chosen_on), **({UNSEEN: tuple(unseen.values())} if unseen else {})}
    shares: dict[tuple[str, str], Estimate] = {}
    tests: dict[str, Inferred] = {}
    for scope, specs in scopes.items():
        own, other = (half.raised(_ONE, specs)[0] for half in (chosen, every))
        shares |= {("chosen", scope): share_raised(own, chosen), (OVER_ALL, scope): share_raised(other, every)}
        shares |= {("chosen", spec): share_raised(chosen.raised(_ONE, [spec])[0], chosen) for spec in specs}
        tests[scope] = difference(own, other, chosen)
    how: dict[str, Any] = {"origins": chosen.origins, "seed": seed, "resamples": resamples}
    scores = chosen.scores(_ONE[0])
    return Confirmation(
        p=p,
        passes=passes,
        trials=len(scores),
        reliability=reliability(scores, shared_noise=False, **how),
        shares=shares,
        gains=differences(list(tests), list(tests.values())),
        domain=None if linear is None else agreement(scores, linear, shared_noise=len(linear) > 1, **how),
    )


def judging_p(domains: Mapping[float, Mapping[str, Agreement]]) -> float | None:
    """The largest p at which first order ranks every score as passes do; else one where nothing speaks against it.

    None where its ranking fails at every p: then first order judges nothing. The level plays no part.
    """
    for refused in ({"not met", "undecided"}, {"not met"}):
        for p in sorted(domains, reverse=True):
            if not refused & {found.ranking for found in domains[p].values()}:
                return p
    return None
