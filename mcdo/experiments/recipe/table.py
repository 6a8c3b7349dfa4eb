"""The map: what every site and every group of sites is worth by itself, from the same first-order runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.experiments.recipe.choice import CHOSEN_ON, Candidates
from mcdo.experiments.recipe.halves import Array, Half, shares_raised
from mcdo.experiments.recipe.sites import Mask, Tower
from mcdo.harness.linearity import SiteLinearity
from mcdo.stats import Estimate, Reliability, rank_relations, reliability
from mcdo.stats.means import ratio_of_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class Entry:
    """One set of sites under one score, on all images.

    Attributes:
        sites: how many.
        reliability: of the score, at the probes of the run.
        raised: share of images that a degradation raises, by degradation, and by scope over several.
        entropy: ρ with the entropy of the head, the feature norm held fixed; None where none reads the classes.
        share: of the mean score of all sites.
        cost: of an image, as for :class:`~mcdo.experiments.recipe.choice.Choice`.

    """

    sites: int
    reliability: Reliability
    raised: Mapping[str, Estimate]
    entropy: Estimate | None
    share: Estimate
    cost: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "sites": self.sites,
            "spearman": self.reliability.estimate("spearman").as_dict(),
            "snr": self.reliability.estimate("snr").as_dict(),
            "icc": self.reliability.estimate("icc").as_dict(),
            "status": self.reliability.status,
            "raised": {spec: estimate.as_dict() for spec, estimate in self.raised.items()},
            "rho_entropy_given_norm": None if self.entropy is None else self.entropy.as_dict(),
            "share_of_variance": self.share.as_dict(),
            "cost": self.cost,
        }


Map = Mapping[str, Entry]


def drawn_map(
    half: Half,
    tower: Tower,
    candidates: Candidates,
    scopes: Mapping[str, Sequence[str]],
    levels: Sequence[str],
    entropy: Array | None,
    norm: Array,
    *,
    seed: int,
    resamples: int,
) -> dict[str, Entry]:
    """Every group, then every single site, of one score.

    Args:
        half: all images.
        tower: their sites.
        candidates: whose cost is meant.
        scopes: degradations that are averaged, by name.
        levels: degradations that stand alone.
        entropy: of the head, [N], or None.
        norm: of the features, [N].
        seed: of resamples.
        resamples: how many.

    """
    masks = named_masks(tower)
    scores = {name: half.scores(mask.astype(np.float64)) for name, mask in masks.items()}
    how: dict[str, Any] = {"origins": half.origins, "seed": seed, "resamples": resamples}
    relations = (
        {}
        if entropy is None
        else rank_relations(scores, {"entropy": entropy}, given=norm, shared_noise=half.shared_noise, **how)
    )
    weights = np.stack(list(masks.values())).astype(np.float64)
    by_spec = {spec: half.raised(weights, [spec]) for spec in levels}
    by_scope = {scope: np.mean([by_spec[spec] for spec in specs], axis=0) for scope, specs in scopes.items()}
    shares = {what: shares_raised(raised, half) for what, raised in {**by_scope, **by_spec}.items()}
    whole = scores[next(iter(masks))]
    return {
        name: Entry(
            sites=int(mask.sum()),
            reliability=reliability(scores[name], shared_noise=half.shared_noise, **how),
            raised={what: of[i] for what, of in shares.items()},
            entropy=relations[name, "entropy"].given if relations else None,
            share=ratio_of_means(scores[name], whole, shared_noise=half.shared_noise, **how),
            cost=candidates.cost(weights[i]),
        )
        for i, (name, mask) in enumerate(masks.items())
    }


def named_masks(tower: Tower) -> dict[str, Mask]:
    """Groups, then sites, by name; "all" first."""
    single = {name: np.arange(len(tower.names)) == i for i, name in enumerate(tower.names)}
    return {**tower.groups(), **single}


def map_arrays(found: Mapping[str, Map]) -> dict[str, ArrayLike]:
    """Of all scores, for npz: names, and (value, low, high) [scores, names, ...]."""
    first = next(iter(found.values()))
    specs = list(next(iter(first.values())).raised)

    def ends(e: Estimate | None) -> list[float]:
        return [math.nan] * 3 if e is None else [e.value, e.low, e.high]

    def all_of(of: Any) -> Array:
        return np.array([[of(entry) for entry in entries.values()] for entries in found.values()], dtype=np.float64)

    return {
        "scores": np.array(list(found)),
        "names": np.array(list(first)),
        "degradations": np.array(specs),
        "raised": all_of(lambda e: [ends(e.raised[spec]) for spec in specs]),
        "spearman": all_of(lambda e: ends(e.reliability.estimate("spearman"))),
        "rho_entropy_given_norm": all_of(lambda e: ends(e.entropy)),
        "share_of_variance": all_of(lambda e: ends(e.share)),
        "cost": all_of(lambda e: e.cost),
    }


def raised_map(axes: Axes, found: Map, tower: Tower, score: str) -> None:
    """Share of images raised at each site alone; of several sites of one role in a block, the largest."""
    values = {name: found[name].raised[CHOSEN_ON].value for name in tower.names}
    label = "share, mean over the degradations chosen on"
    _heat_map(axes, values, tower, 0.5, f"share of images raised, {score}", label, lambda value: value)


def linearity_map(axes: Axes, found: Mapping[str, SiteLinearity], tower: Tower) -> None:
    """Passes over their linear part at each site alone; of several sites of one role, the farthest from one."""
    values = {name: found[name].ratio.value for name in tower.names}
    label = "variance of passes / of their linear part"
    _heat_map(axes, values, tower, 1.0, "linearity of the sites", label, lambda value: abs(value - 1))


def _heat_map(
    axes: Axes,
    of_sites: Mapping[str, float],
    tower: Tower,
    middle: float,
    title: str,
    label: str,
    order: Callable[[float], float],
) -> None:
    """Depth × role, colours from 0 to twice the ``middle``: a row for each block, one for what is outside of blocks."""
    roles = tuple(dict.fromkeys(tower.roles))
    rows = [*range(tower.depth), *([None] if None in tower.blocks else [])]
    values = np.full((len(rows), len(roles)), np.nan)
    for name, role, block in zip(tower.names, tower.roles, tower.blocks, strict=True):
        at, value = (rows.index(block), roles.index(role)), of_sites[name]
        values[at] = value if np.isnan(values[at]) else max(values[at], value, key=order)
    image = axes.imshow(values, cmap="RdBu_r", vmin=0, vmax=2 * middle, aspect="auto")
    if len(rows) <= 16:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = abs(value - middle) > 0.7 * middle
                axes.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if dark else "black")
    axes.set_xticks(range(len(roles)), [role.replace("_", " ") for role in roles], rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), ["outside" if row is None else str(row) for row in rows])
    axes.set(title=title, xlabel="role of the linear map", ylabel="block, in the order of execution")
    figure = axes.get_figure()
    if figure is not None:
        figure.colorbar(image, ax=axes, shrink=0.8, label=label)
