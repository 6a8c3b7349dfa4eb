"""What becomes of weights and activations in a forward pass, whichever way its author wrote it.

Watching calls (:mod:`~mcdo.perturbation.intercept`) shows the maps that can be disturbed. Whether one was missed is
seen a level below, where einsum, TorchScript, weight norm, views and tensordot have all become the same few operations:
each tensor has a :class:`Trail` there, and a product of an activation with what is made of weights alone is a linear
map, watched or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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

_SCALINGS = _ops("mul div addcmul addcdiv lerp prelu _prelu_kernel")
"""A weight with one axis scales here; one with rows and columns is a map as soon as the result is summed."""

_LOOKUPS = _ops("embedding index index_select gather take take_along_dim grid_sampler_2d")

_HARMLESS = _LOOKUPS | _ops(
    "add sub rsub cat stack where masked_fill masked_scatter copy fill index_put index_copy index_add scatter "
    "scatter_add slice_scatter select_scatter native_layer_norm layer_norm native_group_norm group_norm "
    "native_batch_norm batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "miopen_batch_norm _batch_norm_impl_index rms_norm _fused_rms_norm eq ne lt le gt ge logical_and logical_or "
    "maximum minimum clamp expand_as view_as type_as"
)
"""What adds, looks up, compares with or normalises by a weight: no map, whatever the weight's shape."""

_SOFTMAX = _ops("softmax _softmax _safe_softmax")

_BENDING = _ops(
    "gelu relu silu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu mish softplus clamp clamp_min erf exp "
    "pow prelu _prelu_kernel"
)
"""Nonlinearities of an MLP."""


@dataclass(frozen=True)
class Trail:
    """Where a tensor's numbers come from.

    Attributes:
        image: they depend on the input.
        raw: so they do, and on no weight but by scaling and adding.
        weights: names of the weights that they are made of, where no input went into them.
        nearest: the maps and attentions that put out what they were made from, with no other in between.
        bent: a nonlinearity lies in between.

    """

    image: bool = False
    raw: bool = False
    weights: frozenset[str] = frozenset()
    nearest: frozenset[str] = frozenset()
    bent: bool = False

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
    )


class Flow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, follows tensors by their storage. For passes that record no gradient and are not in inference mode.

    Args:
        parameters: by name; one with two or more dimensions can be a map's.
        buffers: by name, likewise.

    Attributes:
        missed: parameters and buffers that took part in a product, unless watched, by the product's name in ATen.
        touched: those that took part in anything.
        feeding: maps whose output is an operand of an attention.
        by_hand: for each attention outside :meth:`attention`, what its query and key were made from.

    """

    def __init__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.missed: dict[str, str] = {}
        self.touched: set[str] = set()
        self.feeding: set[str] = set()
        self.by_hand: dict[str, frozenset[str]] = {}
        self._trails: dict[int, tuple[StorageWeakRef, Trail]] = {}
        self._watched: frozenset[str] = frozenset()
        self._attending = False
        self._attentions = 0
        self._logits: set[str] = set()  # attentions by hand that have not met their values yet
        self._doubtful: dict[str, tuple[str, frozenset[str]]] = {}
        self._wide = {name for name, value in (*parameters.items(), *buffers.items()) if value.dim() > 1}
        self._buffers = frozenset(buffers)
        for name, value in (*buffers.items(), *parameters.items()):
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
        weights = frozenset() if image else _union(map(self.of, sources)).weights
        self._set(tensor, Trail(image=image, weights=weights, nearest=frozenset({name})))

    def finish(self) -> None:
        """The pass is over: what was made of weights by a map, met an activation and never a softmax, was a weight."""
        for name, (op, weights) in self._doubtful.items():
            del self.by_hand[name]
            self._miss(op, weights)
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
        operands = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if operands:
            trail = self._after(func.overloadpacket.__name__.rstrip("_"), operands)
            for y in tree_leaves(out):
                if isinstance(y, Tensor):
                    self._set(y, trail)
        return out

    def _after(self, op: str, operands: list[Tensor]) -> Trail:
        """The trail of what ``op`` makes of its operands."""
        trails = [self.of(x) for x in operands]
        trail = _union(trails)
        self.touched.update(*(t.weights for t in trails))
        if op in _PRODUCTS:
            if self._attending:
                return trail
            if any(t.bare for t in trails):  # the way of the others may have been lost, through NumPy or a fused kernel
                lost = (t == _NOWHERE and x.dim() > 1 for x, t in zip(operands, trails, strict=True))
                trails = [_LOST if gone else t for gone, t in zip(lost, trails, strict=True)]
            return self._product(op, trails, _union(trails))
        if not trail.active:
            return trail
        if op in _SOFTMAX:
            for name in trail.nearest & self._doubtful.keys():
                del self._doubtful[name]
                self.feeding |= self.by_hand[name]
        if op in _LOOKUPS and any(t.weights for t in trails):
            return replace(trail, raw=False)
        if op not in _HARMLESS:
            for x, t in zip(operands, trails, strict=True):
                axes = sum(size > 1 for size in x.shape) if op in _SCALINGS else x.dim()
                if axes > 1 and t.bare:
                    self._miss(op, t.weights - self._buffers)
        gated = op == "mul" and sum(t.active for t in trails) > 1
        return replace(trail, bent=True) if op in _BENDING or gated else trail

    def _product(self, op: str, trails: list[Trail], trail: Trail) -> Trail:
        factors = trails[1:] if op in _ADDEND_FIRST else trails[:2] if op in _BIAS_THIRD else trails
        if not any(t.active for t in factors):  # a weight made of weights, or a table of positions
            return trail
        bare = frozenset().union(*(t.weights for t in factors if t.bare))
        if bare:
            self._miss(op, bare)
            return Trail(image=trail.image, nearest=bare)
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
        return Trail(image=image, nearest=frozenset({name}))

    def _miss(self, op: str, weights: frozenset[str]) -> None:
        for name in (weights - self._watched) & self._wide:
            self.missed.setdefault(name, op)
