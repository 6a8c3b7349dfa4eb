"""The perturbed forward pass, as a context manager, and the deterministic one that it is compared with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation.intercept import Compute, Handler, LinearMaps
from mcdo.perturbation.kinds import Dropout
from mcdo.perturbation.masks import PASS_BLOCK, KeyedMasks, MaskedSite, zero_units_
from mcdo.perturbation.sites import Site, SiteTable, find_sites

_ACTIVE: WeakKeyDictionary[Encoder, PerturbedTower] = WeakKeyDictionary()


class PerturbedTower:
    """An image tower under dropout. Call it inside :func:`perturbed` only."""

    def __init__(self, encoder: Encoder, dropout: Dropout, seed: int) -> None:
        table = find_sites(encoder)
        self.encoder = encoder
        self.sites = live_sites(encoder, table, dropout)
        self._scale = dropout.scale
        self._local = threading.local()  # blocks of images may be measured by several threads
        self._index = {key: self.sites.index(site) for key, site in table.by_weight.items() if site in self.sites}
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

        Raises:
            McdoError: outside the context, for passes that are not in the block, for another number of keys than
                images, or for images of another size than the sites were found with.

        """
        if _ACTIVE.get(self.encoder) is not self:
            raise McdoError(f"{self.encoder.key}: the perturbed tower was called outside its context")
        if not 0 <= first < last <= PASS_BLOCK:
            raise McdoError(f"passes {first}:{last} are not in a block of {PASS_BLOCK}")
        if len(keys) != len(pixels):
            raise McdoError(f"{len(keys)} image keys for {len(pixels)} images")
        passes = last - first
        if self._masks is None:  # one pass serves them all: exactly the deterministic features, exactly no variance
            with LinearMaps():
                return self.encoder.forward_image(pixels)[:, None].expand(-1, passes, -1)
        rows = self._repeated(pixels, passes)
        with LinearMaps(self._handler(self._masks, keys, trial, block, first, last), rows, passes):
            features = self.encoder.forward_image(rows)
            return features.view(len(pixels), passes, -1)

    def _repeated(self, pixels: Tensor, passes: int) -> Tensor:
        """``passes`` rows of every image, kept for the next block of passes of the same images."""
        if pixels.is_inference():  # whether it was written to since cannot be known
            return pixels.repeat_interleave(passes, dim=0)
        held: tuple[Tensor, int, int, Tensor] | None = getattr(self._local, "rows", None)
        if held is None or held[0] is not pixels or held[1:3] != (passes, pixels._version):
            held = self._local.rows = (pixels, passes, pixels._version, pixels.repeat_interleave(passes, dim=0))
        return held[3]

    def _handler(self, masks: KeyedMasks, keys: Tensor, trial: int, block: int, first: int, last: int) -> Handler:
        on_cpu = self.encoder.device.type == "cpu"
        drawn = [] if on_cpu else masks.draw(trial, block, keys, first, last)
        rows = len(keys) * (last - first)

        def drop(weight: nn.Parameter, part: str, compute: Compute) -> Tensor:
            index = self._index.get((id(weight), part))
            if index is None:
                return compute(1.0)
            y = compute(self._scale)
            if y.numel() != rows * self.sites[index].units:
                raise McdoError(
                    f"{self.encoder.key}: {self.sites[index].name} has output {tuple(y.shape)} for {rows} rows, not "
                    f"{self.sites[index].units} units each; images must have {self.encoder.resolution} px"
                )
            return masks.zero_(y, index, trial, block, keys, first, last) if on_cpu else zero_units_(y, drawn[index])

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
            f"{encoder.key}: dead site {', '.join(dead)}: the tower declares it and never carries it out, so dropout "
            "there would do nothing. Leave it out by naming the others in sites="
        )
    return sites


@contextmanager
def perturbed(encoder: Encoder, dropout: Dropout, seed: int) -> Iterator[PerturbedTower]:
    """The encoder's image tower under dropout, to be called for as long as the context lasts.

    Only calls of the yielded tower are perturbed. The model's state and modules are never changed, so they are the same
    afterwards, also after an exception. Native dropout modules stay off.

    Raises:
        McdoError: if the encoder is perturbed already, a module of it is in training mode, or a wanted site is unknown
            or dead.

    """
    if encoder in _ACTIVE:
        raise McdoError(
            f"{encoder.key} is perturbed already: dropouts must not be stacked; leave the first context first"
        )
    training = [name or "the model" for name, module in encoder.model.named_modules() if module.training]
    if training:
        raise McdoError(
            f"{encoder.key}: {training[0]} is in training mode, so native dropout may be on; call model.eval()"
        )
    tower = PerturbedTower(encoder, dropout, seed)
    _ACTIVE[encoder] = tower
    try:
        yield tower
    finally:
        del _ACTIVE[encoder]


@torch.inference_mode()
def deterministic_features(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Features ``[B, D]`` before normalisation, along the very code path that a perturbed pass takes."""
    with LinearMaps():
        return encoder.forward_image(pixels)
