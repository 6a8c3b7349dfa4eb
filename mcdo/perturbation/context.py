"""The perturbed forward pass, as a context manager, and the deterministic one that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation.intercept import Compute, Handler, LinearMaps
from mcdo.perturbation.kinds import Dropout
from mcdo.perturbation.masks import PASS_BLOCK, KeyedMasks, MaskedSite, zero_units_
from mcdo.perturbation.sites import Site, SiteTable, find_sites

_ACTIVE: WeakSet[Encoder] = WeakSet()


class PerturbedTower:
    """An image tower under dropout. Call it inside :func:`perturbed` only."""

    def __init__(self, encoder: Encoder, dropout: Dropout, seed: int) -> None:
        table = find_sites(encoder)
        self.encoder = encoder
        self.sites = live_sites(encoder, table, dropout)
        self._scale = dropout.scale
        self._by_weight = {key: site for key, site in table.by_weight.items() if site in self.sites}
        masked = [MaskedSite(site.name, site.units, dropout.p) for site in self.sites] if dropout.p else []
        self._masks = KeyedMasks(masked, seed, encoder.device) if masked else None

    @torch.inference_mode()
    def __call__(
        self, pixels: Tensor, keys: Tensor, trial: int, block: int, first: int = 0, last: int = PASS_BLOCK
    ) -> Tensor:
        """Features of passes ``first:last`` of one block of passes.

        Args:
            pixels: normalised pixels ``[B, 3, H, W]`` on the encoder's device.
            keys: int64 ``[B]`` from :func:`~mcdo.perturbation.masks.image_keys`.
            trial: trial number.
            block: number of the block of ``PASS_BLOCK`` passes.
            first: first pass wanted, counted within the block.
            last: one past the last pass wanted.

        Returns:
            float32 ``[B, last - first, D]``, before normalisation.
        """
        if self.encoder not in _ACTIVE:
            raise McdoError(f"{self.encoder.key}: the perturbed tower was called outside its context")
        passes = last - first
        if self._masks is None:  # one pass serves them all: exactly the deterministic features, exactly no variance
            with LinearMaps():
                return self.encoder.forward_image(pixels)[:, None].expand(-1, passes, -1)
        rows = pixels.repeat_interleave(passes, dim=0)
        with LinearMaps(self._handler(self._masks, keys, trial, block, first, last)):
            return self.encoder.forward_image(rows).unflatten(0, (len(pixels), passes))

    def _handler(self, masks: KeyedMasks, keys: Tensor, trial: int, block: int, first: int, last: int) -> Handler:
        drawn = masks.draw(trial, block, keys, first, last)
        dropped = {site.name: positions for site, positions in zip(self.sites, drawn, strict=True)}

        def drop(weight: nn.Parameter, part: str, compute: Compute) -> Tensor:
            site = self._by_weight.get((id(weight), part))
            if site is None:
                return compute(1.0)
            return zero_units_(compute(self._scale), dropped[site.name])

        return drop


def live_sites(encoder: Encoder, table: SiteTable, dropout: Dropout) -> tuple[Site, ...]:
    """The sites that ``dropout`` asks for.

    Raises:
        McdoError: if one of them is never carried out: dropout there would do nothing.
    """
    sites = table.select(dropout.sites)
    dead = [site.name for site in sites if not site.calls]
    if dead:
        raise McdoError(
            f"{encoder.key}: dead site {', '.join(dead)}: the tower declares it and never carries it out, so dropout there "
            "would do nothing. Leave it out by naming the others in sites="
        )
    return sites


@contextmanager
def perturbed(encoder: Encoder, dropout: Dropout, seed: int) -> Iterator[PerturbedTower]:
    """Dropout in the encoder's image tower, for as long as the context lasts.

    The model's state and modules are never changed, so they are the same afterwards, also after an exception. Native
    dropout modules stay off.

    Raises:
        McdoError: if the encoder is perturbed already, a module of it is in training mode, or a wanted site is unknown or
            dead.
    """
    if encoder in _ACTIVE:
        raise McdoError(f"{encoder.key} is perturbed already: dropouts must not be stacked; leave the first context first")
    training = [name or "the model" for name, module in encoder.model.named_modules() if module.training]
    if training:
        raise McdoError(f"{encoder.key}: {training[0]} is in training mode, so native dropout may be on; call model.eval()")
    tower = PerturbedTower(encoder, dropout, seed)
    _ACTIVE.add(encoder)
    try:
        yield tower
    finally:
        _ACTIVE.discard(encoder)


@torch.inference_mode()
def deterministic_features(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Features ``[B, D]`` before normalisation, along the very code path that a perturbed pass takes."""
    with LinearMaps():
        return encoder.forward_image(pixels)
