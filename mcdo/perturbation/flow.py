"""What becomes of weights and activations in a forward pass, whichever way its author wrote it.

Watching calls (:mod:`~mcdo.perturbation.intercept`) shows the maps that can be disturbed. Whether one was missed is
seen a level below, where einsum, TorchScript, weight norm, views and tensordot have all become the same few operations:
each tensor has a :class:`Trail` there, and a product of an activation with what is made of weights alone, or with a
tensor from outside the pass, is a linear map, watched or not. So is a product element by element, as soon as it is
summed along an axis of the weight.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


def _ops(names: str) -> frozenset[str]:
    """Operations by their names in ATen, without overload and without the underscore of in-place forms."""
    return frozenset(names.split())


_PRODUCTS = _ops(
    "mm bmm addmm addmv addbmm baddbmm mv dot vdot addr outer matmul linear einsum tensordot inner bilinear _trilinear "
    "convolution _convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math "
    "_scaled_dot_product_attention_math_for_mps _scaled_dot_product_fused_attention_overrideable"
)
"""Linear in two operands or more, summed over what they share."""

_ADDEND_FIRST = _ops("addmm addmv addbmm baddbmm addr")
_BIAS_THIRD = _ops("linear convolution _convolution conv1d conv2d conv3d")
"""Products that also add an operand, which is no factor."""

_SCALINGS = _ops("mul div")
"""A weight scales here; it is a map as soon as the result is summed along an axis of the weight."""

_SUMS = _ops("sum mean nansum nanmean")

_TRANSFORMS = _ops("_fft_r2c _fft_c2c _fft_c2r")
"""Sums over all places of an axis, so that a scaling before one is a map: a convolution over the whole picture."""

_RESHAPED = _ops(
    "view _unsafe_view reshape _reshape_alias permute transpose t unsqueeze squeeze expand slice select split "
    "split_with_sizes unbind narrow alias detach flip roll"
)
"""Operations on the axes of one tensor."""

_ELEMENTWISE = _ops("mul div add sub neg clone _to_copy copy contiguous")

_RANDOM = _ops("rand randn randint randperm normal uniform bernoulli")

_LOOKUPS = _ops("embedding index index_select gather take take_along_dim grid_sampler_2d")

_HARMLESS = _LOOKUPS | _ops(
    "add sub rsub cat stack where masked_fill masked_scatter copy fill index_put index_copy index_add scatter "
    "scatter_add slice_scatter select_scatter native_layer_norm layer_norm native_group_norm group_norm "
    "native_batch_norm batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm _batch_norm_impl_index rms_norm _fused_rms_norm eq ne lt le gt ge logical_and logical_or "
    "maximum minimum clamp expand_as view_as type_as mul div addcmul addcdiv lerp prelu _prelu_kernel"
)
"""What adds, looks up, compares with, scales or normalises by a weight: no map, whatever the weight's shape."""

_ADDING = _ops("add addcmul addcdiv lerp index_add scatter_add")
"""What a residual branch ends in; differences are those by which a pass is looked at."""

_ZERO_STAYS = (
    _RESHAPED
    | _ELEMENTWISE
    | _SUMS
    | (_LOOKUPS - _ops("grid_sampler_2d"))
    | _ops(
        "cat stack where masked_fill constant_pad_nd pad fill index_put index_copy scatter slice_scatter "
        "select_scatter expand_as view_as as_strided unfold repeat repeat_interleave avg_pool2d adaptive_avg_pool2d "
        "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_bilinear2d_aa "
        "_upsample_bicubic2d_aa"
    )
)
"""Moves, scales and sums numbers, so that what is multiplied before is multiplied after it as well."""

_SOFTMAX = _ops("softmax _softmax _safe_softmax")

_BENDING = _ops(
    "gelu relu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu mish softplus clamp clamp_min erf exp "
    "pow prelu _prelu_kernel"
)
"""Nonlinearities of an MLP."""


class Trail(NamedTuple):
    """Where a tensor's numbers come from.

    Attributes:
        image: they depend on the input.
        raw: so they do, and on no weight but by scaling and adding.
        weights: names of the weights that they are made of, where no input went into them.
        nearest: the maps and attentions that put out what they were made from, with no other in between.
        bent: a nonlinearity lies in between.
        made: the pass made them of nothing (zeros, a range of numbers), by code alone.
        whole: the maps whose output they are, moved and scaled at most.
        behind: the maps of which a norm or a nonlinearity stands in between.
        under: all maps and attentions that they were made from, with whatever in between.

    """

    image: bool = False
    raw: bool = False
    weights: frozenset[str] = frozenset()
    nearest: frozenset[str] = frozenset()
    bent: bool = False
    made: bool = False
    whole: frozenset[str] = frozenset()
    behind: frozenset[str] = frozenset()
    under: frozenset[str] = frozenset()

    @property
    def active(self) -> bool:
        """They are an activation: of the input, or of a map (which may map positions or a pooling head's query)."""
        return self.image or bool(self.nearest)

    @property
    def bare(self) -> bool:
        """They are weights, or made of weights by no map."""
        return bool(self.weights) and not self.nearest


_NOWHERE, _LOST = Trail(), Trail(image=True)


def _union(trails: Iterable[Trail]) -> Trail:
    every = list(trails)
    seeing = [trail for trail in every if trail.image]
    return Trail(
        image=bool(seeing),
        raw=bool(seeing) and all(trail.raw for trail in seeing),
        weights=frozenset() if seeing else frozenset().union(*(trail.weights for trail in every)),
        nearest=frozenset().union(*(trail.nearest for trail in every)),
        bent=any(trail.bent for trail in every),
        made=all(trail.made for trail in every),
        under=frozenset().union(*(trail.under for trail in every)),
    )


BATCH = 3
"""Inputs of a traced pass; the first two are the same, so that a batch that is turned round shows."""


def distances(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How far the numbers of the other and of the same input are from the first's, and what rounding makes of that."""
    first, again, other = x.detach().reshape(BATCH, -1).float()
    return _largest(other - first), _largest(again - first), 1e-6 * _largest(first)


def _largest(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, math.inf)  # type: ignore[no-any-return]


def sees(x: Tensor) -> bool:
    """Whether numbers say that they depend on the input: those of the first two agree, the other's do not."""
    if x.dim() == 0 or not x.numel() or len(x) % BATCH:
        return False
    apart, twins, rounding = distances(x)
    return bool((apart > rounding) & (twins <= torch.maximum(apart * 1e-2, rounding)))


Scaled = tuple[frozenset[str], Tensor]
"""Names of weights that a tensor was multiplied with, and for each of its elements the place in the weight."""


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows tensors by their storage. For passes that record no gradient and are not in inference mode.

    Args:
        parameters: by name.
        others: buffers and plain tensors of the model, by name.

    Attributes:
        missed: weights that took part in a product, unless watched, by the product's name in ATen.
        strange: names given to tensors from outside the pass that no module of the model holds.
        touched: those that took part in anything.
        feeding: maps whose output is an operand of an attention.
        by_hand: for each attention outside :meth:`attention`, what its query and key were made from.
        added: maps whose output was added to another activation, moved and scaled at most, that was not made from it.
        added_behind: maps of which that was added which a norm or a nonlinearity made of their output.

    """

    def __init__(self, parameters: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.missed: dict[str, str] = {}
        self.touched: set[str] = set()
        self.feeding: set[str] = set()
        self.by_hand: dict[str, frozenset[str]] = {}
        self.added: set[str] = set()
        self.added_behind: set[str] = set()
        self._trails: dict[int, tuple[StorageWeakRef, Trail]] = {}
        self._watched: frozenset[str] = frozenset()
        self._attending = self._aside = False
        self._attentions = 0
        self._logits: set[str] = set()  # attentions by hand that have not met their values yet
        self._doubtful: dict[str, tuple[str, frozenset[str]]] = {}
        self.strange: set[str] = set()
        self._scaled: dict[tuple[object, ...], tuple[Scaled, ...]] = {}
        self._others = frozenset(others)
        for name, value in (*others.items(), *parameters.items()):
            self._set(value, _union((self.of(value), Trail(weights=frozenset({name})))))

    def of(self, tensor: Tensor) -> Trail:
        """The trail of a tensor."""
        held = self._trails.get(tensor.untyped_storage()._cdata)
        return _NOWHERE if held is None else held[1]

    def enter(self, inputs: Tensor) -> None:
        """Take ``inputs`` for those of the pass."""
        self._set(inputs, Trail(image=True, raw=True))

    def put_out(self, tensor: Tensor, name: str, sources: Iterable[Tensor], image: bool) -> None:
        """Take ``tensor`` for the output of the map or attention ``name`` of these; it depends on the input or not."""
        made_of, own = _union(map(self.of, sources)), frozenset({name})
        weights = frozenset() if image else made_of.weights
        self._set(tensor, Trail(image=image, weights=weights, nearest=own, whole=own, under=own | made_of.under))

    def made_of(self, weight: Tensor) -> frozenset[str]:
        """Names of the weights that a factor of a product is made of, by no map; empty for an activation."""
        trail = self._known(weight)
        return trail.weights if trail.bare else frozenset()

    def attention_of(self, logits: Tensor) -> str | None:
        """The attention by hand of which these are the logits."""
        return min(self.of(logits).nearest & self._logits, default=None)

    def miss(self, op: str, weights: frozenset[str]) -> None:
        """Note that these take part in a product, by whose name they are missed, unless it is watched."""
        for name in weights - self._watched:
            self.missed.setdefault(name, op)

    def _look(self, tensor: Tensor) -> None:
        """A tensor that no operation put out comes from outside the pass, or its way was lost, as through NumPy."""
        if tensor.untyped_storage()._cdata not in self._trails:
            self._set(tensor, _LOST if sees(tensor) else _NOWHERE)

    def _known(self, factor: Tensor) -> Trail:
        """The trail of a factor of a product; what comes from outside the pass gets a name as a weight."""
        self._look(factor)
        trail = self.of(factor)
        if trail != _NOWHERE or factor.numel() == 1:
            return trail
        name = f"constant.{len(self.strange) + 1}"
        self.strange.add(name)
        self._set(factor, Trail(weights=frozenset({name})))
        return self.of(factor)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is reckoned here is not of the pass, and not followed."""
        self._aside = True
        try:
            yield
        finally:
            self._aside = False

    def finish(self) -> None:
        """The pass is over: what was made of weights by a map, met an activation and never a softmax, was a weight."""
        for name, (op, weights) in self._doubtful.items():
            del self.by_hand[name]
            self.miss(op, weights)
        self._doubtful.clear()

    @contextmanager
    def watching(self, weight: Tensor) -> Iterator[None]:
        """Products with this weight are a map that is watched."""
        outer, self._watched = self._watched, self.of(weight).weights
        try:
            yield
        finally:
            self._watched = outer

    @contextmanager
    def attention(self, *operands: Tensor) -> Iterator[str]:
        """Products are those of an attention of ``operands``, whose name for :meth:`put_out` is given."""
        self.feeding.update(*(self.of(operand).nearest for operand in operands))
        self._attending = True
        try:
            yield self._next_attention()
        finally:
            self._attending = False

    def _next_attention(self) -> str:
        self._attentions += 1
        return f"attention {self._attentions}"

    def _set(self, tensor: Tensor, trail: Trail) -> None:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]  # it keeps the address from reuse
        self._trails[storage._cdata] = (reference, trail)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if self._aside:
            return out
        op = func.overloadpacket.__name__.rstrip("_")
        operands = [*_tensors(args), *_tensors(kwargs)]
        for x in operands:
            self._look(x)
        results = _tensors(out)
        trail = self._after(op, operands) if operands else Trail(made=op not in _RANDOM)
        if trail.active:
            trail = self._toward_a_sum(op, operands, trail)
        scaled = self._scaling(op, func, args, kwargs or {}, operands, results) if trail.active else {}
        for y in results:
            self._set(y, trail)
            if self._scaled:
                self._scaled.pop(_place(y), None)
        self._scaled.update(scaled)
        return out

    def _after(self, op: str, operands: list[Tensor]) -> Trail:
        """The trail of what ``op`` makes of its operands."""
        trails = [self.of(x) for x in operands]
        trail = _union(trails)
        self.touched.update(*(t.weights for t in trails))
        if op in _PRODUCTS:
            if self._attending:
                return trail
            factors = operands[1:] if op in _ADDEND_FIRST else operands[: 2 if op in _BIAS_THIRD else 3]
            trails = [self.of(x) for x in factors]
            if any(t.bare for t in trails):  # beside a weight, what is not known is rather an activation
                trails = [_LOST if t == _NOWHERE and x.dim() > 1 else t for x, t in zip(factors, trails, strict=True)]
            elif any(t.active for t in trails):
                trails = [self._known(x) for x in factors]
            return self._product(op, trails, trail)
        if not trail.active:
            return trail
        if op in _SOFTMAX:
            for name in trail.nearest & self._doubtful.keys():
                del self._doubtful[name]
                self.feeding |= self.by_hand[name]
        if op in _LOOKUPS and any(t.weights for t in trails):
            return trail._replace(raw=False)
        if op not in _HARMLESS:
            for x, t in zip(operands, trails, strict=True):
                if x.dim() > 1 and t.bare:
                    self.miss(op, t.weights - self._others)
        gated = op == "mul" and sum(t.active for t in trails) > 1
        return trail._replace(bent=True) if op in _BENDING or gated else trail

    def _toward_a_sum(self, op: str, operands: list[Tensor], trail: Trail) -> Trail:
        """The trail with the maps whose output is on its way to a sum with other activations, which is noted."""
        trails = [self.of(x) for x in operands]
        whole = frozenset[str]().union(*(t.whole for t in trails))
        behind = frozenset[str]().union(*(t.behind for t in trails))
        if op in _PRODUCTS:
            return trail
        if op in _ADDING and self._sums_up(operands):
            for i, own in enumerate(trails):  # what the other was made from is the stream, and the other the branch
                others = frozenset[str]().union(*(t.under for t in (*trails[:i], *trails[i + 1 :])))
                self.added |= own.whole - others
                self.added_behind |= own.behind - others
            return trail
        if op in _ZERO_STAYS:
            return trail._replace(whole=whole, behind=behind)
        return trail._replace(behind=whole | behind)

    def _sums_up(self, operands: list[Tensor]) -> bool:
        """Whether two of them are activations, or tokens of weights as large: a class token, but no bias."""
        most = max(x.numel() for x in operands)
        trails = [(self.of(x), x.numel() == most > 1) for x in operands]
        return sum(t.active or (t.bare and whole) for t, whole in trails) > 1

    def _scaling(
        self, op: str, func: Any, args: Any, kwargs: Any, operands: list[Tensor], results: list[Tensor]
    ) -> dict[tuple[object, ...], tuple[Scaled, ...]]:
        """What the results were multiplied with, by their places; a sum along an axis of the weight is a map."""
        held = [self._scaled.get(_place(x), ()) for x in operands] if self._scaled else []
        found: list[Scaled] = []
        if op in _SCALINGS:
            for x in operands:
                trail = self.of(x)
                if trail.bare and x.numel() > 1:
                    places = torch.arange(x.numel(), dtype=torch.int32).view(x.shape)
                    found.append((trail.weights, places.expand(results[0].shape)))
        if not found and not any(held):
            return {}
        if op in _ELEMENTWISE:
            if sum(self.of(x).active for x in operands) == 1:  # a sum of branches is no longer what was scaled
                found += [(names, places.expand(results[0].shape)) for own in held for names, places in own]
            return {_place(results[0]): tuple(found)}
        if op in _SUMS:
            return {_place(results[0]): tuple(self._summed(func, args, kwargs, each) for own in held for each in own)}
        if op in _TRANSFORMS:
            left = [self._summed(func, (*args[:2], True), {}, each) for each in held[0]]
            return {_place(results[0]): tuple((names, places.expand(results[0].shape)) for names, places in left)}
        if op in _RESHAPED and held[0]:
            moved = [(names, _tensors(func(places.contiguous(), *args[1:], **kwargs))) for names, places in held[0]]
            return {_place(y): tuple((names, new[i]) for names, new in moved) for i, y in enumerate(results)}
        return {}

    def _summed(self, func: Any, args: Any, kwargs: Any, scaled: Scaled) -> Scaled:
        names, places = scaled
        axes = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], (list, tuple, int)) else None)
        keep = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        axes = list(range(places.dim())) if axes is None or axes == [] else axes
        least, most = places.amin(axes, keep), places.amax(axes, keep)
        if not torch.equal(least, most):
            self.miss(func.overloadpacket.__name__, names)
        return names, least

    def _product(self, op: str, factors: list[Trail], trail: Trail) -> Trail:
        trail = _union((trail, *factors))
        if not any(t.active for t in factors):  # a weight made of weights, or a table of positions
            return trail
        bare = frozenset().union(*(t.weights for t in factors if t.bare))
        if bare:
            self.miss(op, bare)
            return Trail(image=trail.image, nearest=bare, under=trail.under)
        return self._attention_by_hand(op, [t for t in factors if t.active], trail.image)

    def _attention_by_hand(self, op: str, operands: list[Trail], image: bool) -> Trail:
        """The logits of an attention or, where an operand was made from such logits, its output."""
        if len(operands) < 2:
            return _union(operands)
        nearest = frozenset().union(*(t.nearest for t in operands))
        logits = [t for t in operands if t.nearest & self._logits]
        if logits:
            name = min(logits[0].nearest & self._logits)
            self._logits.remove(name)
            self.feeding.update(*(t.nearest for t in operands if t not in logits))
        else:
            name = self._next_attention()
            self._logits.add(name)
            self.by_hand[name] = nearest
            made = frozenset().union(*(t.weights for t in operands))
            if made and image:  # the query of a pooling head, or a weight made by a map: a softmax will show
                self._doubtful[name] = (op, made)
            else:
                self.feeding |= nearest
        under = frozenset().union(*(t.under for t in operands))
        return Trail(image=image, nearest=frozenset({name}), under=under)


def _tensors(held: object) -> list[Tensor]:
    """Those among the arguments or results of an operation of ATen: alone, in lists, or by name."""
    if isinstance(held, Tensor):
        return [held]
    values = held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else ()
    return [x for each in values for x in _tensors(each)]


def _place(x: Tensor) -> tuple[object, ...]:
    """Where a tensor's numbers lie; two views of the same numbers in the same order are one."""
    return x.untyped_storage()._cdata, x.storage_offset(), tuple(x.shape), x.stride()
