"""What a tower does besides linear maps, made ready for many products with one graph.

Every product walks the same graph, so what does not depend on its direction is taken once: the slope of a GELU, with
its exponential and error function; the probabilities of an attention among few tokens, which PyTorch's fused attention
forms anew each time, for it is made for many; and the input of a norm in the order in which it is read, which after a
convolution is not the one it lies in. And gradients of queries, keys and values that are views of one output (as timm
has them) are laid side by side at once, where autograd stacks them and copies that in strides. Values are those of the
tower, bit for bit, and derivatives those of PyTorch to rounding, but for what it gets wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from mcdo.perturbation.intercept import LinearMaps

FEW_TOKENS = 64
"""Up to so many tokens: with kept probabilities products take .6 to .9 of the time then, and over 1 from 150 on."""


class DifferentiatedMaps(LinearMaps):
    """:class:`~mcdo.perturbation.intercept.LinearMaps` of a pass that many gradients are taken of."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = {F.gelu: ("_gelu", ()), F.layer_norm: ("_normalise", ()), F.scaled_dot_product_attention: ("_attend", ())}
        in_order = {norm: ("_in_order", (norm,)) for norm in (F.batch_norm, F.instance_norm)}
        self._watched = {**own, **in_order, **self._watched}  # which may form the probabilities itself

    def _gelu(self, input: Tensor, approximate: str = "none") -> Tensor:
        return _Gelu.apply(input, approximate)  # type: ignore[no-any-return]

    def _normalise(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return F.layer_norm(input.contiguous(), *args, **kwargs)

    def _in_order(self, norm: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Numbers and gradient in one order: where these differ, PyTorch 2.15 mixes up the channels of one image."""
        y = norm(input.contiguous(), *args, **kwargs)
        if y.requires_grad:
            y.register_hook(Tensor.contiguous)  # type: ignore[no-untyped-call]
        return y

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        query, key, value = _unpacked(query, key, value)
        few = query.device.type == "cpu" and max(query.shape[-2], key.shape[-2]) <= FEW_TOKENS
        if not few or attn_mask is not None or dropout_p or is_causal or kwargs.get("enable_gqa"):
            return super()._attend(query, key, value, attn_mask, dropout_p, is_causal, **kwargs)
        return _Attention.apply(query, key, value, kwargs.get("scale"))  # type: ignore[no-any-return]


def _unpacked(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same; as one step to autograd where they are views ``[B, heads, L, d]`` of one ``[B, L, 3 * heads * d]``."""
    packed, given = query._base, (query, key, value)
    if packed is None or not packed.requires_grad or query.dim() != 4 or not packed.is_contiguous():
        return given
    batch, heads, length, width = query.shape
    if packed.shape != (batch, length, 3 * heads * width):
        return given
    places = ((x._base is packed, x.shape, x.stride(), x.storage_offset()) for x in given)
    expected = ((True, x.shape, x.stride(), x.storage_offset()) for x in _views(packed, heads))
    return _Unpack.apply(packed, heads) if list(places) == list(expected) else given


def _views(packed: Tensor, heads: int) -> tuple[Tensor, ...]:
    return packed.view(*packed.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, heads: int) -> tuple[Tensor, ...]:
        return _views(packed, heads)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return torch.cat([gradient.transpose(1, 2).flatten(2) for gradient in gradients], dim=-1), None


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, approximate: str) -> Tensor:
        ctx.save_for_backward(torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate=approximate))
        return F.gelu(x, approximate=approximate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient * ctx.saved_tensors[0], None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        by = query.shape[-1] ** -0.5 if scale is None else scale
        ctx.save_for_backward(query * by, key * by, value, (query @ key.mT * by).softmax(-1))
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        query, key, value, probabilities = ctx.saved_tensors
        logits = torch.ops.aten._softmax_backward_data(gradient @ value.mT, probabilities, -1, probabilities.dtype)
        return logits @ key, logits.mT @ query, probabilities.mT @ gradient, None
