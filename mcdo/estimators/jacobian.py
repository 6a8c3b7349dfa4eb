"""First-order terms: how far a direction of the feature moves per unit of variance injected at each site.

For a small perturbation the feature moves along J δ, with J the Jacobian with respect to what is disturbed. So the
variance along a direction v is, to first order, p / (1 - p) times a sum over the disturbed units of a squared
vector-Jacobian product (the delta method): (y ⊙ Jᵀv)² for a mask or a factor, r² (Jᵀv)² for noise added on the scale r.
What is disturbed together is summed before squaring.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from mcdo.compiled import compiled
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators.backward import DifferentiatedMaps
from mcdo.perturbation import Perturbation, Site, find_sites
from mcdo.perturbation.intercept import Compute
from mcdo.perturbation.sites import forget_sites
from mcdo.threads import check_stop


class SiteGraph:
    """A forward pass of ``pixels`` with a graph from what is disturbed at each site to the feature.

    ``features`` is ``[B, D]`` before normalisation. Weights are frozen and take no gradient. Whatever the encoder's
    precision, the derivative is taken in float32: small gradients would vanish in float16.
    """

    def __init__(self, encoder: Encoder, pixels: Tensor, kind: Perturbation, sites: tuple[Site, ...]) -> None:
        self._encoder, self._kind, self._sites = encoder.key, kind, sites
        self._table = find_sites(encoder)
        self._images = len(pixels)
        self._terms: dict[Site, Tensor] = {}
        self.features = self._passed(encoder, pixels)
        written = {site.name for site, (y, version) in self._reached.items() if y._version != version}
        if not written <= self._table.written:  # what is disturbed there is what was put out, so that is copied
            self._table.written.update(written)  # for every graph to come
            self.features = self._passed(encoder, pixels)
        self._reached.clear()

    def _passed(self, encoder: Encoder, pixels: Tensor) -> Tensor:
        """The features of a pass, with a graph from every site."""
        self._reached: dict[Site, tuple[Tensor, int]] = {}
        self._begins: list[Tensor] = []
        self._attentions = iter(self._table.probabilities)
        attention = self._attention if self._kind.where == "probabilities" else None
        try:
            with torch.enable_grad(), DifferentiatedMaps(self._handle, probabilities=attention) as maps:
                features = encoder.forward_image(pixels, exact=True)
        except RuntimeError as error:
            if "Inference tensors" not in str(error):
                raise
            raise McdoError(
                f"{encoder.key}: weights or pixels were made in inference_mode, so that there is no derivative of what "
                "they take part in. Make them outside of it"
            ) from error
        if len(self._reached) < len(self._sites) or maps.made != self._table.made:
            missing = next((site.name for site in self._sites if site not in self._reached), "a product")
            forget_sites(encoder)
            raise McdoError(
                f"{encoder.key}: {missing} was not carried out, unlike when its sites were found: the tower has "
                "changed since. Measure again to look at it anew"
            )
        return features

    def _handle(self, weight: Tensor, part: str, compute: Compute) -> Tensor:
        site = self._table.at(weight, part)
        if site not in self._sites or site is None:
            return compute()
        if self._kind.where == "input":
            return compute(before=lambda x: self._reach(site, x))
        return self._reach(site, compute())

    def _attention(self, probabilities: Tensor) -> Tensor:
        site = next(self._attentions, None)
        return probabilities if site is None or site not in self._sites else self._reach(site, probabilities)

    def _reach(self, site: Site, y: Tensor) -> Tensor:
        self._check_taken(site)
        if not y.requires_grad:  # nothing before it has a gradient: the graph begins here
            own = y.detach().requires_grad_()
            self._begins.append(own)
            y = own.clone()  # which the tower may write into, as it may not into what a graph begins with
        elif self._kind.where == "input":  # the way into this map alone: others may read the same numbers
            y = y.view_as(y)
        self._reached[site] = y, y._version
        images, terms = self._images, self._terms
        put_out = y.detach().clone() if site.name in self._table.written else y.detach()
        moved = _moved(site, self._kind, put_out.reshape(images, -1))

        def add(gradient: Tensor) -> Tensor:
            check_stop()
            gradient = gradient.contiguous()  # once, and not here and in what comes before
            terms[site] = moved(gradient.view(images, -1))  # windows: rows of an image
            return gradient

        y.register_hook(add)  # type: ignore[no-untyped-call]
        return y

    def _check_taken(self, site: Site) -> None:
        if not torch.is_grad_enabled():
            raise McdoError(
                f"{self._encoder}: its forward pass takes gradients off before {site.name} (no_grad, inference_mode or "
                "checkpointing with use_reentrant=True), so it has none. Take that out, or measure by passes"
            )

    def terms(self, directions: Tensor, last: bool = False) -> Tensor:
        """Variance along directions of the feature, per unit of p / (1 - p), site by site.

        Args:
            directions: ``[B, D]``, or ``[D]`` for all images.
            last: no other call follows, so the graph may be freed.

        Returns:
            ``[B, S]``.

        Raises:
            McdoError: where the features follow from a site in a way that has no derivative.

        """
        # each site's gradient is used where it comes up, still in the cache, and let go: see the hooks
        self._terms.clear()
        self.gradient(self._begins, directions, last)
        missing = next((site.name for site in self._sites if site not in self._terms), None)
        if missing is not None:
            raise McdoError(f"{self._encoder}: the features have no derivative with respect to {missing}")
        return torch.stack([self._terms[site] for site in self._sites], dim=-1)

    def gradient(self, begins: Sequence[Tensor], directions: Tensor, last: bool = False) -> tuple[Tensor | None, ...]:
        """Of ``directions`` · features, with respect to what the graph ``begins`` with; see :meth:`terms`."""
        along = directions.expand_as(self.features)
        try:
            return torch.autograd.grad(self.features, begins, along, retain_graph=not last, allow_unused=True)
        except CheckpointError as error:
            raise McdoError(
                f"{self._encoder}: for a gradient the tower carries parts of its pass out again (checkpointing), "
                "where they are not seen. Switch that off: set_grad_checkpointing(False) in timm and open_clip"
            ) from error
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise McdoError(
                f"{self._encoder}: the tower writes into numbers that its derivative needs, so it has none: {error}. "
                "Take that operation out of place, or measure by passes"
            ) from error


def _moved(site: Site, kind: Perturbation, y: Tensor) -> Callable[[Tensor], Tensor]:
    """From the gradient at a site to the variance of images, ``[B, n]`` to ``[B]``; ``y`` is what the site puts out."""
    outer, units, inner = site.layout(kind)
    if kind.noise == "additive":
        squares = y.square().mean(1)
        return lambda gradient: squares * gradient.square().sum(1)
    if outer * inner > 1:
        return lambda gradient: (y * gradient).view(-1, outer, units, inner).sum(dim=(1, 3)).square_().sum(1)
    if y.device.type != "cpu" or y.dtype != torch.float32:
        # fewer walks through memory than squares and a sum
        return lambda gradient: torch.linalg.vector_norm(y * gradient, dim=1).square()
    held = y.numpy()

    def on_cpu(gradient: Tensor) -> Tensor:
        total = np.empty(len(held), dtype=np.float32)
        _add_squares(held, gradient.numpy(), total)
        return torch.from_numpy(total)

    return on_cpu


# One walk through memory, where tensor operations take three; the order of a sum is free, so it is vectorised.
@compiled(fastmath={"reassoc", "contract"})
def _add_squares(y: NDArray[np.float32], gradient: NDArray[np.float32], total: NDArray[np.float32]) -> None:
    for image in range(len(y)):
        summed = 0.0
        for i in range(y.shape[1]):
            moved = np.float64(y[image, i] * gradient[image, i])
            summed += moved * moved
        total[image] = summed
