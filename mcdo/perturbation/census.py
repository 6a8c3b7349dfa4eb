"""Whether every requested site fires, and changes the output on its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation.context import deterministic_features, live_sites
from mcdo.perturbation.intercept import Compute, LinearMaps
from mcdo.perturbation.kinds import Perturbation
from mcdo.perturbation.sites import Site, SiteTable, find_sites

Look = Callable[[Sequence[Site], Callable[[Site], bool]], Collection[Site]]
"""Given sites, and what says of one whether silencing it changes the features: those of which this is so."""

_ALIVE: WeakKeyDictionary[Encoder, tuple[SiteTable, set[Site]]] = WeakKeyDictionary()
"""The sites of a table that are alive: a frozen tower's do not die, so each is looked at once."""


@dataclass(frozen=True)
class SiteRecord:
    """What one site does.

    Attributes:
        name: the site's name.
        role: its role.
        calls: how often one pass carries it out.
        units: its outputs per image and pass.
        variance: mean over images of trace_pre when this site alone is perturbed.

    """

    name: str
    role: str
    calls: int
    units: int
    variance: float


@torch.inference_mode()
def check_alive(
    encoder: Encoder, pixels: Tensor, dropout: Perturbation, look: Look = lambda sites, acts: list(filter(acts, sites))
) -> tuple[Site, ...]:
    """The requested sites, after checking that silencing each one alone changes the features.

    Args:
        encoder: the encoder.
        pixels: normalised pixels ``[B, 3, H, W]``; one image is enough.
        dropout: whose sites are checked.
        look: looks at those that this process has not found alive before; by default at each, one forward pass for it.

    Raises:
        McdoError: naming every site that is dead.

    """
    table = find_sites(encoder, verify=True)
    if encoder not in _ALIVE or _ALIVE[encoder][0] is not table:
        _ALIVE[encoder] = (table, set())
    sites, alive = live_sites(encoder, table, dropout), _ALIVE[encoder][1]

    @cache
    def plain() -> Tensor:
        return deterministic_features(encoder, pixels)

    def acts(site: Site) -> bool:
        return not torch.equal(plain(), _without(encoder, pixels, site))

    if new := [site for site in sites if site not in alive]:
        alive.update(look(new, acts))
    dead = [site.name for site in sites if site not in alive]
    if dead:
        raise McdoError(
            f"{encoder.key}: dead site {', '.join(dead)}: its output can be zeroed and the features stay the same, so "
            f"dropout there would do nothing. Leave it out by name: {table.leaving_out(dead)}"
        )
    return sites


def _without(encoder: Encoder, pixels: Tensor, silenced: Site) -> Tensor:
    table = find_sites(encoder)
    attentions = iter(table.probabilities)

    def silence(weight: Tensor, part: str, compute: Compute) -> Tensor:
        y = compute()
        return torch.zeros_like(y) if table.at(weight, part) == silenced else y

    def silence_attention(probabilities: Tensor) -> Tensor:
        return torch.zeros_like(probabilities) if next(attentions) == silenced else probabilities

    with LinearMaps(silence, probabilities=silence_attention if silenced in table.attentions else None):
        return encoder.forward_image(pixels)
