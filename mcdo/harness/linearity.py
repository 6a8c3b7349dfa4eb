"""Which sites break linearity: passes at one site alone beside the linear part of the same masks.

Shared by the experiments that say it, so that what one has measured is looked up by the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mcdo.estimators import FirstOrderRun, MonteCarloConfig, PairedRun
from mcdo.harness.experiment import Inputs
from mcdo.harness.requests import Images, Passes
from mcdo.perturbation import LinearPart, Perturbation
from mcdo.stats import LEVEL_BAND, Estimate, linearity


@dataclass(frozen=True)
class SiteLinearity:
    """How straight the tower is for what is done at one site.

    Attributes:
        role: of the site.
        ratio: mean over images of trace_pre of passes at this site alone, over that of their linear part.
        share: of the site in the first-order variance.

    """

    role: str
    ratio: Estimate
    share: float

    @property
    def breaks(self) -> bool:
        """Whether the ratio lies outside of what counts as the same level."""
        return self.ratio.high < LEVEL_BAND[0] or self.ratio.low > LEVEL_BAND[1]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"role": self.role, "ratio": self.ratio.as_dict(), "share": self.share, "breaks": self.breaks}


@dataclass(frozen=True)
class LinearityOfSites:
    """Of each site of a first-order run, on ``images`` images with T passes."""

    model: str
    dropout: Perturbation
    images: int
    passes: int
    seed: int

    def at(self, site: str) -> tuple[Passes, Passes]:
        """Passes at one site alone, and the linear part of the same."""
        alone = self.dropout.at(site)

        def of(kind: Perturbation) -> Passes:
            return Passes(self.model, Images(self.images), MonteCarloConfig(kind, (self.passes,), 1, self.seed))

        return of(alone), of(LinearPart(alone))

    def requests(self, sites: Iterable[str]) -> Iterable[Passes]:
        """Of all these sites."""
        return (request for site in sites for request in self.at(site))

    def of(self, inputs: Inputs, linear: FirstOrderRun) -> dict[str, SiteLinearity]:
        """By site, in forward order."""
        by_site = linear.decomposition("trace_pre").mean(axis=(0, 1))
        found = {}
        for (site, role), variance in zip(linear.sites, by_site, strict=True):
            passes, part = (inputs[request] for request in self.at(site))
            ratio = linearity(PairedRun(passes, part), seed=self.seed, resamples=500)
            found[site] = SiteLinearity(role, ratio, float(variance / by_site.sum()))
        return found


def breaking(sites: Mapping[str, SiteLinearity]) -> str:
    """The sites that break linearity in words, at most five by name; "" where none does."""
    worst = sorted((found.ratio.value, site) for site, found in sites.items() if found.breaks)
    named = ", ".join(f"{site} {ratio:.2f} of {sites[site].share:.0%}" for ratio, site in worst[:5])
    return f"sites that break linearity ({len(worst)} of {len(sites)}): {named}" if worst else ""
