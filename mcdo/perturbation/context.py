"""The perturbed forward pass, as a context manager, and the deterministic one that it is compared with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.names import few_of
from mcdo.perturbation.graphs import CudaCapture, PassGraphs
from mcdo.perturbation.intercept import Compute, Handler, LinearMaps, MapKey, ProbabilityHandler, map_key, refused_in
from mcdo.perturbation.kinds import Perturbation
from mcdo.perturbation.linear import LinearPart
from mcdo.perturbation.masks import PASS_BLOCK, KeyedMasks, MaskedSite, zero_units_
from mcdo.perturbation.normals import KeyedNormals
from mcdo.perturbation.signs import KeyedSigns
from mcdo.perturbation.sites import Site, SiteTable, find_sites, forget_sites

Disturb = Callable[[Tensor, int], Tensor]

_ACTIVE: WeakKeyDictionary[Encoder, tuple[PerturbedTower, ...]] = WeakKeyDictionary()
_LOCK = threading.Lock()


class PerturbedTower:
    """A tower under a perturbation. Call it inside :func:`perturbed` only."""

    def __init__(self, encoder: Encoder, kind: Perturbation, seed: int, exact: bool = False) -> None:
        table = find_sites(encoder)
        self.encoder, self.kind = encoder, kind
        # rounding of reduced precision would drown small steps
        self._exact = exact or kind.rescaling != 1 or isinstance(kind, LinearPart)
        _check_above_rounding(encoder, kind, "float32" if self._exact else encoder.precision)
        self.sites = live_sites(encoder, table, kind)
        self._local = threading.local()  # blocks of images may be measured by several threads
        number = {site.name: i for i, site in enumerate(self.sites)}
        self._made = table.made
        self._index: dict[MapKey, int | None] = {(0, f"made {turn}"): None for turn in range(1, table.made + 1)}
        self._index |= {key: number.get(site.name) for key, site in table.by_key.items()}  # None: left alone
        self._attentions = [self.sites.index(site) if site in self.sites else None for site in table.probabilities]
        self._noise = _noise(kind, self.sites, seed, encoder.device) if kind.p else None
        self._kernels = self._noise.on_cuda if isinstance(self._noise, KeyedMasks) else None
        self.graphs = None if self._kernels is None else PassGraphs(CudaCapture(encoder.device))
        self.before_map: Callable[[], None] = _nothing
        """Called before every linear map: what it raises ends a pass that may take seconds."""

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
        if self not in _ACTIVE.get(self.encoder, ()):
            raise McdoError(f"{self.encoder.key}: the perturbed tower was called outside its context")
        if not 0 <= first < last <= PASS_BLOCK:
            raise McdoError(f"passes {first}:{last} are not in a block of {PASS_BLOCK}")
        if len(keys) != len(pixels):
            raise McdoError(f"{len(keys)} image keys for {len(pixels)} images")
        passes = last - first
        if self._noise is None:  # one pass serves them all: exactly the deterministic features, exactly no variance
            with LinearMaps():
                features = self.encoder.forward_image(pixels, exact=self._exact)
            return features[:, None].expand(-1, passes, -1)
        rows = self._repeated(pixels, passes)

        def carry_out(rows: Tensor, keys: Tensor, block_key: Tensor | None) -> Tensor:
            return self._features(rows, self.disturbance(keys, trial, block, first, last, block_key), passes)

        if self.graphs is None or self._kernels is None:
            features = carry_out(rows, keys, None)
        else:
            precision = self.encoder.precision, torch.get_float32_matmul_precision()
            key = self._kernels.block_key(trial, block)
            features = self.graphs(carry_out, (rows.shape, first, last, precision), rows, keys, key)
        features = features.view(len(pixels), passes, -1)
        if self.kind.rescaling == 1:
            return features
        with LinearMaps():
            plain = self.encoder.forward_image(pixels, exact=self._exact)[:, None]
        return plain + self.kind.rescaling * (features - plain)

    def _features(self, rows: Tensor, disturb: Disturb, passes: int) -> Tensor:
        """float32 ``[rows, D]``."""
        waiting = set(range(len(self.sites)))  # for their turn in this pass
        attention = self._probabilities(disturb, waiting) if self.kind.where == "probabilities" else None
        with LinearMaps(self._handler(disturb, waiting), rows, passes, attention) as maps:
            features = self.encoder.forward_image(rows, exact=self._exact)
        if maps.made != self._made:
            raise self._changed(f"{maps.made} products were carried out, and not {self._made}")
        if waiting:
            raise self._changed(f"{self.sites[min(waiting)].name} was not carried out")
        return features

    def passes(
        self, pixels: Tensor, keys: Tensor, trial: int, count: int, rows: int | None = None, done: int = 0
    ) -> Iterator[Tensor]:
        """The first ``count`` passes of a trial in their order, in pieces ``[B, P, D]``; arguments as for a call.

        A piece lies within one block of passes, and has at most ``rows`` rows (image × pass) where one pass leaves room
        for more; None for whole blocks. The first ``done`` passes, of whole pieces, are left out.
        """
        most = PASS_BLOCK if rows is None else max(1, rows // len(pixels))
        while done < count:
            block, first = divmod(done, PASS_BLOCK)
            last = min(PASS_BLOCK, first + most, first + count - done)
            yield self(pixels, keys, trial, block, first, last)
            done += last - first

    def _repeated(self, pixels: Tensor, passes: int) -> Tensor:
        """``passes`` rows of every image, kept for the next block of passes of the same images."""
        if pixels.is_inference():  # whether it was written to since cannot be known
            return pixels.repeat_interleave(passes, dim=0)
        held: tuple[Tensor, int, int, Tensor] | None = getattr(self._local, "rows", None)
        if held is None or held[0] is not pixels or held[1:3] != (passes, pixels._version):
            held = self._local.rows = (pixels, passes, pixels._version, pixels.repeat_interleave(passes, dim=0))
        return held[3]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of each site, how many numbers an image and pass has there."""
        return () if self._noise is None else tuple(site.size for site in self._noise.sites)

    def disturbance(
        self, keys: Tensor, trial: int, block: int, first: int, last: int, block_key: Tensor | None = None
    ) -> Disturb:
        """What is done in place to the numbers of site number ``index`` in these passes; arguments as for a call.

        On CUDA ``block_key`` int64 ``[1]`` can stand for ``trial`` and ``block``.
        """
        noise, kernels, rows = self._noise, self._kernels, len(keys) * (last - first)
        assert noise is not None
        if self.kind.shared_by_images:
            keys = torch.zeros_like(keys)
        drawn: list[Tensor] = []
        started: list[tuple[Tensor, Tensor]] = []

        def disturb(y: Tensor, index: int, left: float = 0.0) -> Tensor:
            site = noise.sites[index]
            if y.numel() != rows * site.size:
                pieces = len(y) < rows and y.numel() == len(y) * site.size
                way = (
                    "the tower takes its batch in pieces, of which one has no images to key masks by: let it take the "
                    "batch whole"
                    if pieces
                    else f"images must have {self.encoder.resolution} px"
                )
                raise McdoError(
                    f"{self.encoder.key}: {self.sites[index].name} has output {tuple(y.shape)} for {rows} rows, not "
                    f"{site.size} units each; {way}"
                )
            y = y.contiguous()  # an output may be stored channels last; units are counted in the order of its axes
            if not isinstance(noise, KeyedMasks):
                return noise.disturb_(y, index, trial, block, keys, first, last)
            # CUDA has kernels, the CPU's walks float32 arrays, and the rest takes the tensor's way; to the same masks
            if kernels is not None:
                if not started:
                    number = kernels.block_key(trial, block)
                    run = keys.new_full((1,), number) if block_key is None else block_key
                    started.append(kernels.start(run, keys))
                return kernels.zero_(y, index, started[0], keys, first, last)
            if walked(y):
                return noise.zero_(y, index, trial, block, keys, first, last, left)
            if not drawn:
                drawn.extend(noise.draw(trial, block, keys, first, last))
            zero_units_(y.view(rows, site.size), drawn[index], site.outer, site.inner)  # windows may stand in its rows
            return y

        def walked(y: Tensor) -> bool:
            return isinstance(noise, KeyedMasks) and y.device.type == "cpu" and y.dtype == torch.float32

        kind = self.kind
        if not isinstance(kind, LinearPart):
            return disturb
        whole, step, scale = kind.of.scale, kind.step, kind.scale

        def linear_part(y: Tensor, index: int) -> Tensor:
            if walked(y):
                return disturb(y, index, (1 - step) / scale)
            plain = y / scale
            return torch.lerp(plain, disturb(plain * whole, index).view_as(plain), step)

        return linear_part

    def _handler(self, disturb: Disturb, waiting: set[int]) -> Handler:
        scale, on_input = self.kind.scale, self.kind.where == "input"

        def handle(weight: Tensor, part: str, compute: Compute) -> Tensor:
            self.before_map()
            try:
                index = self._index[map_key(weight, part)]
                if index is None:
                    return compute()
                waiting.remove(index)
            except KeyError:
                raise self._changed(f"a map of shape {tuple(weight.shape)} was carried out anew") from None
            if on_input:
                return compute(before=lambda x: disturb(x * scale, index))
            return disturb(compute(scale), index)

        return handle

    def _probabilities(self, disturb: Disturb, waiting: set[int]) -> ProbabilityHandler:
        calls = iter(self._attentions)

        def handle(probabilities: Tensor) -> Tensor:
            try:
                index = next(calls)
            except StopIteration:
                raise self._changed("an attention was carried out anew") from None
            if index is None:
                return probabilities
            waiting.remove(index)
            return disturb(probabilities.mul_(self.kind.scale), index)

        return handle

    def _changed(self, what: str) -> McdoError:
        forget_sites(self.encoder)
        return McdoError(
            f"{self.encoder.key}: {what}, unlike when its sites were found: the tower has changed since (an adapter "
            "switched off, a layer replaced), or what it carries out depends on the image, which is not supported. "
            "Measure again to look at it anew"
        )


def _check_above_rounding(encoder: Encoder, kind: Perturbation, precision: str) -> None:
    """Refuse noise on every number that rounding outdoes; a unit that is zeroed is moved by more than that."""
    inside, rounding = kind.variance / kind.rescaling**2, torch.finfo(getattr(torch, precision)).eps ** 2
    if kind.noise != "bernoulli" and 0 < inside < rounding:
        raise McdoError(
            f"{encoder.key}: noise of variance {inside:.2g} relative to the signal lies below the rounding of "
            f"{precision}, {rounding:.2g}, so that scores would be of rounding. Take p above "
            f"{rounding * kind.rescaling**2:.2g}{'' if precision == 'float32' else ', or precision=float32'}"
        )


def _nothing() -> None:
    return


def _noise(
    kind: Perturbation, sites: tuple[Site, ...], seed: int, device: torch.device
) -> KeyedMasks | KeyedNormals | KeyedSigns:
    # Dropout of outputs keys by the site's name alone; every other kind has streams of its own.
    suffix = "" if kind.mask_name == "output element bernoulli" else f" {kind.mask_name}"
    masked = []
    for site in sites:
        outer, units, inner = site.layout(kind)
        masked.append(MaskedSite(f"{site.name}{suffix}", units, kind.p, outer, inner))
    if kind.noise == "bernoulli":
        return KeyedMasks(masked, seed, device)
    if kind.noise == "signs":
        return KeyedSigns(masked, seed, kind.variance**0.5 / kind.rescaling)
    return KeyedNormals(masked, seed, additive=kind.noise == "additive")


def live_sites(encoder: Encoder, table: SiteTable, dropout: Perturbation) -> tuple[Site, ...]:
    """The sites that ``dropout`` asks for.

    Raises:
        McdoError: if one of them, or of those that may belong to them, cannot be disturbed; with the reason.

    """
    kind, sites = type(dropout).__name__, table.select_for(dropout)
    if dropout.where == "probabilities" and dropout.sites == "all" and table.by_hand:
        raise McdoError(
            f"{encoder.key}: {kind} misses {len(table.by_hand)} of {len(table.by_hand) + len(sites)} attentions, those "
            f"after {'; '.join(table.by_hand)}: their probabilities are formed by neither scaled_dot_product_attention "
            "nor nn.MultiheadAttention. Build the tower with these (attn_implementation='sdpa' in transformers, "
            "timm.layers.set_fused_attn(True) in timm), or name the attentions that are meant with .at(...)"
        )
    if not sites:
        raise McdoError(f"{encoder.key}: {kind} finds nothing to disturb in this tower")
    hindered = table.hindered(dropout)
    if hindered:
        reasons: dict[str, list[str]] = {}
        for site in hindered:
            reasons.setdefault(site.obstacle, []).append(site.name if site.calls else f"dead site {site.name}")
        said = "; ".join(f"{few_of(names, 10)}: {reason}" for reason, names in reasons.items())
        raise McdoError(
            f"{encoder.key}: {said}. Leave out by name what is not to be disturbed (* stands for anything): "
            f"{table.leaving_out([site.name for site in hindered])}"
        )
    if dropout.where == "input" and not all(site.input_shape for site in sites):
        names = ", ".join(site.name for site in sites if not site.input_shape)
        raise McdoError(f"{encoder.key}: the input of {names} has no images in its first axis: masks cannot be keyed")
    behind = [site.name for site in sites if dropout.residual and site.name in table.added_behind]
    if behind:
        raise McdoError(
            f"{encoder.key}: {kind} drops residual branches where their last map puts them out, but of "
            f"{few_of(behind)} a norm or a nonlinearity stands before the sum, so that something would be added all "
            "the same. Take another kind, or name the branches that end in a map with .at(...)"
        )
    parts = [site.name for site in sites if site.name in table.wrapped]
    if parts and (dropout.where == "input" or dropout.together == "branch"):
        raise McdoError(
            f"{encoder.key}: {kind} disturbs what {', '.join(parts)} share as one, but these are parts of one layer, "
            "such as an adapter's, and would be disturbed apart. Merge the adapter (merge_and_unload in peft)"
        )
    return sites


@contextmanager
def perturbed(
    encoder: Encoder, dropout: Perturbation, seed: int, *, exact: bool = False, beside: bool = False
) -> Iterator[PerturbedTower]:
    """The encoder's image tower under dropout, to be called for as long as the context lasts.

    Only calls of the yielded tower are perturbed. The model's state and modules are never changed, so they are the same
    afterwards, also after an exception. Native dropout modules stay off. ``exact`` carries linear maps out in float32
    whatever the encoder's precision. ``beside`` says that threads have a tower each, none of which a call of another
    is perturbed by.

    Raises:
        McdoError: if the encoder is perturbed already or no longer as it was loaded, or a wanted site is unknown or
            dead.

    """
    if encoder in _ACTIVE and not beside:
        raise McdoError(
            f"{encoder.key} is perturbed already: dropouts must not be stacked; leave the first context first"
        )
    encoder.check_as_loaded()
    tower = PerturbedTower(encoder, dropout, seed, exact)
    try:
        with active(tower):
            yield tower
    finally:
        if tower.graphs is not None:
            tower.graphs.release()


@contextmanager
def active(tower: PerturbedTower) -> Iterator[None]:
    """While it lasts, ``tower`` can be called: :func:`perturbed` without its looking at the model."""
    encoder = tower.encoder
    with _LOCK:
        _ACTIVE[encoder] = (*_ACTIVE.get(encoder, ()), tower)
    try:
        yield
    finally:
        with _LOCK:
            _ACTIVE[encoder] = tuple(each for each in _ACTIVE[encoder] if each is not tower)
            if not _ACTIVE[encoder]:
                del _ACTIVE[encoder]


@torch.inference_mode()
def deterministic_features(encoder: Encoder, pixels: Tensor) -> Tensor:
    """Features ``[B, D]`` before normalisation, along the very code path that a perturbed pass takes.

    Raises:
        McdoError: for an attention of a kind that is not handled.

    """
    with refused_in(encoder.key), LinearMaps():
        return encoder.forward_image(pixels)
