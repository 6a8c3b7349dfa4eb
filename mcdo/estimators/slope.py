"""Whether the derivative that autograd gives is that of the features, before first order rests on it.

A tower may stop gradients or put others in their place: ``detach``, the straight-through estimators of rounding and
of vector quantisation, a ``torch.autograd.Function``. Its passes know nothing of it, and autograd says nothing. So what
all sites put out for one image is moved by a small step, and the features must follow as their derivative says at some
step: large ones bend, small ones drown in rounding, and where many kinks are met (ReLU, maxima) few are in between.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.blocks import is_out_of_memory, no_memory
from mcdo.estimators.jacobian import SiteGraph
from mcdo.names import few_of
from mcdo.perturbation import Perturbation, Site, find_sites
from mcdo.perturbation.sites import SiteTable

INPUTS, PROBES = 4, 8
"""A tower is refused that fails on each of so many inputs, its features seen along so many random directions."""
STEPS = (1e-3, 1e-4, 1e-2, 1e-5, 1e-1)
"""Of what a site puts out; in the order in which they are tried, the likeliest first."""
MOST_OFF, GROSSLY_OFF = 0.02, 0.5
"""By how much features may be off, of the derivative: where two steps agree on it, and where they do not.

Of 33 architectures of timm with random weights the best step was off by less than .01 in most, and by .03 at most where
many kinks are met, and steps did not agree.
"""
STEEP = 30.0
"""How often themselves features may move for a step of one: beyond, no step is both small and above rounding, so that
steps which do not agree say nothing. Most towers have 0.2 to 3; Visformer of random weights, whose attention is all or
nothing, has 1000.
"""
_SOUND: WeakKeyDictionary[Encoder, tuple[SiteTable, set[tuple[str, tuple[Site, ...]]]]] = WeakKeyDictionary()
"""Where this process found it to be so, of a tower as it was when its sites were found."""


def check_slope(encoder: Encoder, kind: Perturbation, sites: tuple[Site, ...]) -> None:
    """Raise McdoError where the features do not follow what ``sites`` put out as their derivative says.

    It takes 10 to 30 forward passes of one input, once for each encoder and choice of sites.
    """
    table, what = find_sites(encoder), (kind.where, sites)
    if encoder not in _SOUND or _SOUND[encoder][0] is not table:
        _SOUND[encoder] = (table, set())
    if what in _SOUND[encoder][1]:
        return
    said = ""
    for shown in torch.split(encoder.calibration_inputs(INPUTS), 1):
        try:
            said = _objection(encoder, shown, kind, sites)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise no_memory(encoder) from error
        if not said:
            _SOUND[encoder][1].add(what)
            return
    raise McdoError(
        f"{encoder.key}: {said}. The tower stops gradients or gives others (detach, rounding, quantisation, "
        "straight-through estimators, a torch.autograd.Function with another backward), so it has no first order: "
        "measure by passes, or perturb only sites that come after"
    )


def _objection(encoder: Encoder, shown: Tensor, kind: Perturbation, sites: tuple[Site, ...]) -> str:
    """What is wrong on one input, or ""."""
    still = torch.zeros(len(sites), device=encoder.device)
    graph = _Moved(encoder, shown, kind, sites, still.requires_grad_())
    signs = torch.randint(0, 2, (PROBES, encoder.feature_dim), generator=torch.Generator().manual_seed(0))
    probes = (2.0 * signs - 1).to(encoder.device)
    by_site = torch.stack([_or_zero(graph.gradient([still], probe)[0], still) for probe in probes]).double()  # [R, S]
    flat = (by_site == 0).all(0).tolist()
    if any(flat):
        names = [site.name for site, its in zip(sites, flat, strict=True) if its]
        return f"autograd's derivative is zero at {few_of(names)}, with which the features change"

    def along(features: Tensor) -> Tensor:  # [R]
        return probes.double() @ features.detach()[0].double()

    def follow(step: float) -> Tensor:
        ahead, behind = (
            _Moved(encoder, shown, kind, sites, torch.full_like(still, s, requires_grad=False)) for s in (step, -step)
        )
        return (along(ahead.features) - along(behind.features)) / (2 * step)

    slope = by_site.sum(1)
    size, found, off = float(slope.norm()), {}, []
    for step in STEPS:
        found[step] = follow(step)
        off.append(float((found[step] - slope).norm()) / size)
        if not off[-1] > MOST_OFF:
            return ""
    least = min(off)
    agreed = any(_agree(found[a], found[b], least * size) for a, b in ((1e-2, 1e-3), (1e-3, 1e-4)))
    steep = not size < STEEP * float(along(graph.features).norm())
    if not agreed and (steep or least < GROSSLY_OFF):
        return ""
    return (
        f"autograd's derivative is not how its features change: after a step of {min(STEPS):g} to {max(STEPS):g} of "
        f"what its sites put out they are {100 * least:.0f} % or more off"
    )


def _agree(one: Tensor, other: Tensor, off: float) -> bool:
    """Whether two steps say the same, beside what they are ``off``: where features jump, they grow as steps shrink."""
    return float((one - other).norm()) <= min(off, float(other.norm())) / 4


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


class _Moved(SiteGraph):
    """A pass in which every unit of a site is moved, up or down, by that site's share ``steps`` [S] of itself."""

    def __init__(
        self, encoder: Encoder, pixels: Tensor, kind: Perturbation, sites: tuple[Site, ...], steps: Tensor
    ) -> None:
        self._steps = dict(zip(sites, steps, strict=True))
        super().__init__(encoder, pixels, kind, sites)

    def _reach(self, site: Site, y: Tensor) -> Tensor:
        self._check_taken(site)
        self._reached[site] = y, y._version
        generator = torch.Generator().manual_seed(self._sites.index(site))
        signs = torch.randint(0, 2, y.shape, generator=generator, dtype=torch.int8)
        moved: Tensor = y * (1 + self._steps[site] * (2 * signs - 1).to(y.device, y.dtype))
        return moved
