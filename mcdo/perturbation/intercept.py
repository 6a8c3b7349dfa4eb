"""Sees every linear map of a forward pass, whichever way the model's author wrote it.

Wrapping ``nn.Linear`` misses the maps that matter: ``nn.MultiheadAttention`` reads the weight of its output projection
and keeps its input projection as a bare Parameter, and CLIP's last projection is ``x @ self.proj``. So nothing is
wrapped. A ``TorchFunctionMode`` watches the calls that carry out a linear map (``F.linear``, ``@``, ``addmm``,
``conv2d`` and ``F.multi_head_attention_forward``) and hands them to a handler. The model itself is never touched, so
there is nothing to restore.

A map is known by its Parameter, and by its turn where one Parameter is used again. A weight that is no Parameter
(normalised, standardised, cast, a view, a plain tensor) may be a new tensor in each pass, so it is known by its turn
among all such calls; products of two activations are among them, and the handler lets these pass.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mcdo.errors import McdoError
from mcdo.threads import check_stop

Change = Callable[[Tensor], Tensor]


class Compute(Protocol):
    """``compute(scale)`` carries the map out and returns ``scale * (x W + b)``; the scale costs nothing inside a GEMM.

    ``before`` changes the input x first.
    """

    def __call__(self, scale: float = 1.0, before: Change | None = None) -> Tensor:  # noqa: D102
        ...


Handler = Callable[[Tensor, str, Compute], Tensor]
"""``handler(weight, part, compute)`` returns the output.

``part`` names the slice of a packed weight, or is empty; the second call of a Parameter adds ``#2``. Of a weight that
is no Parameter it is the number of the call: ``made 1``, ``made 2``, ...
"""

ProbabilityHandler = Callable[[Tensor], Tensor]
"""Takes and returns what a softmax gave: probabilities ``[B, heads, L, S]`` of an attention, or those of anything else.

Called once for each fused attention and for each softmax that is carried out by name, in order.
"""

MapKey = tuple[int, str]
"""What a map is known by: (id of its Parameter, part), or (0, part) where its weight is no Parameter."""


def map_key(weight: Tensor, part: str) -> MapKey:
    """The key of what a handler is called with."""
    return (id(weight) if isinstance(weight, nn.Parameter) else 0), part


@contextmanager
def refused_in(key: str) -> Iterator[None]:
    """An attention of a kind that is not handled, as a McdoError about the encoder ``key``."""
    try:
        yield
    except NotImplementedError as error:
        raise McdoError(f"{key}: this tower has {error}, which is not handled") from error


def carry_out(weight: Tensor, part: str, compute: Compute) -> Tensor:
    """The handler that changes nothing."""
    return compute(1.0)


def _scaled_linear(x: Tensor, weight: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    if scale == 1.0 or weight.dim() == 1:
        y = F.linear(x, weight, bias)
        return y if scale == 1.0 else y * scale
    rows = x.reshape(-1, x.shape[-1])
    # The bias is scaled beforehand: with a beta other than 1 or 0, CUDA writes it over the whole output first.
    start, beta = (x.new_zeros(()), 0) if bias is None else (bias * scale, 1)
    return torch.addmm(start, rows, weight.t(), beta=beta, alpha=scale).view(*x.shape[:-1], len(weight))


class LinearMaps(TorchFunctionMode):
    """While active, sends every linear map through ``handler``. Enter it anew for each pass.

    Attention of ``nn.MultiheadAttention`` is carried out batch-first with ``scaled_dot_product_attention``; no
    attention weights are returned.

    Args:
        handler: what is done with each map.
        repeated: pixels ``[B * repeats, 3, H, W]`` in which each image stands ``repeats`` times in a row. A
            convolution of this very tensor is carried out once per image.
        repeats: how often.
        probabilities: what is done with attention probabilities. Without it they are never formed.

    """

    def __init__(
        self,
        handler: Handler = carry_out,
        repeated: Tensor | None = None,
        repeats: int = 1,
        probabilities: ProbabilityHandler | None = None,
    ) -> None:
        super().__init__()
        self.handler, self._repeated, self._repeats = handler, repeated, repeats
        self._probabilities = probabilities
        self._turns: Counter[MapKey] = Counter()
        self._watched = _MAPS if probabilities is None else _MAPS | _PROBABILITIES

    @property
    def made(self) -> int:
        """How many maps had a weight that is no Parameter, products of activations among them."""
        return self._turns[0, ""]

    def __enter__(self) -> Any:
        self._turns.clear()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        watched = self._watched.get(func)
        if watched is None or (kwargs and kwargs.get("out") is not None):  # what lies there is not what is returned
            return func(*args, **(kwargs or {}))
        name, first = watched
        return getattr(self, name)(*first, *args, **(kwargs or {}))

    def _map(self, weight: Tensor, part: str, compute: Compute) -> Tensor:
        check_stop()
        key = map_key(weight, part if isinstance(weight, nn.Parameter) else "")
        self._turns[key] += 1
        turn = self._turns[key]
        if not isinstance(weight, nn.Parameter):
            return self.handler(weight, f"made {turn}", compute)
        return self.handler(weight, part if turn == 1 else f"{part}#{turn}", compute)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        def compute(scale: float = 1.0, before: Change | None = None) -> Tensor:
            return _scaled_linear(input if before is None else before(input), weight, bias, scale)

        return self._map(weight, "", compute)

    def _conv2d(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        def compute(scale: float = 1.0, before: Change | None = None) -> Tensor:
            if before is not None:
                y = F.conv2d(before(input), weight, *args, **kwargs)
            elif input is self._repeated:
                y = F.conv2d(input[:: self._repeats], weight, *args, **kwargs).repeat_interleave(self._repeats, dim=0)
            else:
                y = F.conv2d(input, weight, *args, **kwargs)
            return y if scale == 1.0 else y.mul_(scale)

        return self._map(weight, "", compute)

    def _matmul(self, input: Tensor, other: Tensor, **kwargs: Any) -> Tensor:
        def compute(scale: float = 1.0, before: Change | None = None) -> Tensor:
            y = torch.matmul(input if before is None else before(input), other, **kwargs)
            return y if scale == 1.0 else y * scale

        return self._map(other, "", compute)

    def _mm(self, input: Tensor, mat2: Tensor, **kwargs: Any) -> Tensor:
        return self._matmul(input, mat2, **kwargs)

    def _addmm(self, input: Tensor, mat1: Tensor, mat2: Tensor, **kwargs: Any) -> Tensor:
        def compute(scale: float = 1.0, before: Change | None = None) -> Tensor:
            y = torch.addmm(input, mat1 if before is None else before(mat1), mat2, **kwargs)
            return y if scale == 1.0 else y * scale

        return self._map(mat2, "", compute)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim_to_check: int,
        num_heads: int,
        in_proj_weight: Tensor | None,
        in_proj_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_proj_weight: Tensor,
        out_proj_bias: Tensor | None,
        *,
        training: bool = True,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        use_separate_proj_weight: bool = False,
        q_proj_weight: Tensor | None = None,
        k_proj_weight: Tensor | None = None,
        v_proj_weight: Tensor | None = None,
        static_k: Tensor | None = None,
        static_v: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """``nn.MultiheadAttention`` at its functional level: inputs ``[L, B, E]``, output ``[L, B, E]``."""
        if bias_k is not None or add_zero_attn or static_k is not None or query.dim() != 3:
            raise NotImplementedError("attention with bias_k, add_zero_attn, static keys or without a batch")
        q, k, v = (x.transpose(0, 1) for x in (query, key, value))  # batch first, as the caller had them
        width = embed_dim_to_check
        if use_separate_proj_weight:
            assert q_proj_weight is not None
            assert k_proj_weight is not None
            assert v_proj_weight is not None
            biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
            q, k, v = (
                self._linear(x, w, b)
                for x, w, b in zip((q, k, v), (q_proj_weight, k_proj_weight, v_proj_weight), biases, strict=True)
            )
        else:
            assert in_proj_weight is not None
            if query is key and key is value:
                q, k, v = self._linear(q, in_proj_weight, in_proj_bias).chunk(3, dim=-1)
            elif key is value:
                q = self._packed("q", q, in_proj_weight, in_proj_bias, slice(0, width))
                k, v = self._packed("kv", k, in_proj_weight, in_proj_bias, slice(width, 3 * width)).chunk(2, dim=-1)
            else:
                q, k, v = (
                    self._packed(part, x, in_proj_weight, in_proj_bias, slice(i * width, (i + 1) * width))
                    for i, (part, x) in enumerate(zip("qkv", (q, k, v), strict=True))
                )
        q, k, v = (x.view(*x.shape[:2], num_heads, -1).transpose(1, 2) for x in (q, k, v))
        mask = _merged_mask(attn_mask, key_padding_mask, q, num_heads)
        attend = self._attend if self._probabilities is None else self._scaled_dot_product
        out = attend(q, k, v, mask, dropout_p if training else 0.0, is_causal=is_causal and mask is None)
        out = self._linear(out.transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
        return out.transpose(0, 1), None

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, *args, **kwargs)

    def _packed(self, part: str, x: Tensor, weight: Tensor, bias: Tensor | None, rows: slice) -> Tensor:
        piece, offset = weight[rows], None if bias is None else bias[rows]

        def compute(scale: float = 1.0, before: Change | None = None) -> Tensor:
            return _scaled_linear(x if before is None else before(x), piece, offset, scale)

        return self._map(weight, part, compute)

    def _softmax(self, softmax: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        assert self._probabilities is not None
        return self._probabilities(softmax(*args, **kwargs))

    def _scaled_dot_product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention with its probabilities formed, so that they can be handled."""
        assert self._probabilities is not None
        if enable_gqa or dropout_p:
            raise NotImplementedError("probabilities of grouped-query attention, or with native dropout")
        logits = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            logits = logits.masked_fill(attn_mask.logical_not(), -torch.inf)
        elif attn_mask is not None:
            logits = logits + attn_mask
        return self._probabilities(logits.softmax(-1)) @ value


def _merged_mask(mask: Tensor | None, padding: Tensor | None, q: Tensor, heads: int) -> Tensor | None:
    """One additive (or boolean, True = attend) mask that broadcasts to ``[B, heads, L, S]``."""
    if mask is not None:
        if mask.dim() == 3:
            mask = mask.view(-1, heads, *mask.shape[1:])
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -torch.inf)
    if padding is not None:
        if padding.dtype == torch.bool:
            padding = torch.zeros_like(padding, dtype=q.dtype).masked_fill_(padding, -torch.inf)
        padding = padding[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


# Names of methods and not bound ones: a mode that held itself would hold a pass's tensors until garbage is collected.
_MAPS: dict[Any, tuple[str, tuple[Any, ...]]] = {
    F.linear: ("_linear", ()),
    F.conv2d: ("_conv2d", ()),
    F.multi_head_attention_forward: ("_attention", ()),
    torch.matmul: ("_matmul", ()),
    torch.mm: ("_mm", ()),
    torch.Tensor.mm: ("_mm", ()),
    torch.Tensor.matmul: ("_matmul", ()),
    torch.Tensor.__matmul__: ("_matmul", ()),
    torch.addmm: ("_addmm", ()),
    torch.Tensor.addmm: ("_addmm", ()),
}
_PROBABILITIES: dict[Any, tuple[str, tuple[Any, ...]]] = {
    F.scaled_dot_product_attention: ("_scaled_dot_product", ()),
    **{softmax: ("_softmax", (softmax,)) for softmax in (F.softmax, torch.softmax, torch.Tensor.softmax)},
}
