"""What is prepared for many gradients changes no value and no derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from mcdo.estimators.backward import FEW_TOKENS, DifferentiatedMaps
from mcdo.perturbation.intercept import LinearMaps

B, HEADS, WIDTH = 3, 2, 5


def attended(tokens: int, keys: int, scale: float | None = None, masked: str = "") -> Callable[[Tensor], Tensor]:
    """Attention of what is cut out of one row of numbers for each image, with ``masked`` logits or causal."""

    def tower(x: Tensor) -> Tensor:
        flat = x.view(B, -1)
        sizes = [HEADS * length * WIDTH for length in (tokens, keys, keys)]
        q, k, v = (part.view(B, HEADS, -1, WIDTH) for part in torch.split(flat[:, : sum(sizes)], sizes, dim=1))
        mask = torch.linspace(-2, 2, tokens * keys).view(tokens, keys) if masked == "mask" else None
        return F.scaled_dot_product_attention(q, k, v, mask, 0.0, masked == "causal", scale=scale)

    return tower


def packed(tokens: int, order: tuple[int, ...] = (0, 1, 2)) -> Callable[[Tensor], Tensor]:
    """Attention of views of one linear map's output, as timm has it; in another ``order`` they are not taken for it."""

    def tower(x: Tensor) -> Tensor:
        weight = torch.linspace(-1, 1, 90).sin().view(30, 3)
        qkv = F.linear(x[:, : 3 * tokens].view(B, tokens, 3), weight).view(B, tokens, 3, HEADS, WIDTH)
        views = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k, v = (views[i] for i in order)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, tokens, -1)

    return tower


def multi_head(x: Tensor) -> Tensor:
    """As ``nn.MultiheadAttention`` has it, which the maps carry out themselves."""
    attention = nn.MultiheadAttention(10, HEADS, batch_first=True)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).sin().view_as(parameter))
    rows = x[:, : 4 * 10].view(B, 4, 10)
    found: Tensor = attention(rows, rows, rows)[0]
    return found


def normalised(x: Tensor) -> Tensor:
    """A norm over channels of what lies channel by channel, as a convolution puts it out."""
    return F.layer_norm(x[:, : 4 * 10].view(B, 10, 4).transpose(1, 2), (10,), torch.linspace(1, 2, 10))


TOWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu by tanh": nn.GELU(approximate="tanh"),
    "gelu by name": lambda x: F.gelu(input=x, approximate="tanh"),
    "few tokens": attended(4, 4),
    "one query": attended(1, FEW_TOKENS),
    "scale": attended(4, 7, scale=0.3),
    "mask": attended(4, 7, masked="mask"),
    "causal": attended(4, 4, masked="causal"),
    "many tokens": attended(2, FEW_TOKENS + 1),
    "multi-head attention": multi_head,
    "norm": normalised,
    "norm by name": lambda x: F.layer_norm(input=x[:, :10], normalized_shape=(10,)),
    "packed": packed(4),
    "packed, many tokens": packed(FEW_TOKENS + 1),
    "packed in another order": packed(4, (1, 2, 0)),
}


def values_and_gradients(tower: Callable[[Tensor], Tensor], maps: LinearMaps) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(B, 2 * HEADS * (FEW_TOKENS + 2) * WIDTH, generator=generator).requires_grad_()
    with maps:
        y = tower(x)
    directions = [torch.randn(y.shape, generator=generator) for _ in range(2)]
    return y.detach(), [torch.autograd.grad(y, x, d, retain_graph=True)[0] for d in directions]


@pytest.mark.parametrize("tower", TOWERS.values(), ids=list(TOWERS))
def test_values_are_bit_for_bit_and_gradients_to_rounding_those_of_pytorch(tower: Callable[[Tensor], Tensor]) -> None:
    value, gradients = values_and_gradients(tower, DifferentiatedMaps())
    expected, references = values_and_gradients(tower, LinearMaps())
    assert torch.equal(value, expected)
    for gradient, reference in zip(gradients, references, strict=True):
        assert reference.abs().max() > 0
        assert torch.allclose(gradient, reference, rtol=1e-5, atol=1e-6 * float(reference.abs().max()))


OWN = {
    "gelu": {"_Gelu"},
    "gelu by tanh": {"_Gelu"},
    "gelu by name": {"_Gelu"},
    "few tokens": {"_Attention"},
    "one query": {"_Attention"},
    "scale": {"_Attention"},
    "mask": set[str](),
    "causal": set[str](),
    "many tokens": set[str](),
    "multi-head attention": {"_Unpack", "_Attention"},
    "norm": set[str](),
    "norm by name": set[str](),
    "packed": {"_Unpack", "_Attention"},
    "packed, many tokens": {"_Unpack"},
    "packed in another order": {"_Attention"},
}


@pytest.mark.parametrize("tower", TOWERS)
def test_what_is_prepared_and_what_is_left_to_pytorch(tower: str) -> None:
    assert own_steps(TOWERS[tower], DifferentiatedMaps()) == OWN[tower]
    assert not own_steps(TOWERS[tower], LinearMaps())


def own_steps(tower: Callable[[Tensor], Tensor], maps: LinearMaps) -> set[str]:
    """Steps of our own in the graph."""
    x = torch.ones(B, 2 * HEADS * (FEW_TOKENS + 2) * WIDTH).requires_grad_()
    with maps:
        y = tower(x)
    nodes, seen = [y.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
    names = {node.name().removesuffix("Backward") for node in seen}
    return names & {"_Gelu", "_Attention", "_Unpack"}


@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_a_norm_of_one_image_has_the_same_derivative_in_whatever_order_numbers_lie(
    norm: Callable[[int], nn.Module], by_channel: bool
) -> None:
    """Tokens of channels give the gradient in another order than a convolution its output."""
    generator = torch.Generator().manual_seed(0)
    x, direction = (torch.randn(1, 4, 9, generator=generator) for _ in range(2))
    x = (x if by_channel else x.mT.contiguous().mT).view(1, 4, 3, 3).requires_grad_()
    with DifferentiatedMaps():
        y = norm(4).eval()(x)
    (moved,) = torch.autograd.grad(y.flatten(2).mT, x, direction.mT.contiguous(), retain_graph=True)
    same_order = torch.empty_like(y).copy_(direction.view(1, 4, 3, 3))
    (expected,) = torch.autograd.grad(y, x, same_order)
    assert torch.allclose(moved, expected, atol=1e-6)


@pytest.mark.parametrize(("maps", "in_order"), [(DifferentiatedMaps, True), (LinearMaps, False)])
def test_what_a_norm_reads_is_brought_into_its_order_once_for_all_products(
    maps: type[LinearMaps], in_order: bool
) -> None:
    x = torch.ones(B, 4 * 10).requires_grad_()
    with maps():
        node = normalised(x).grad_fn
    assert getattr(node, "_saved_input").is_contiguous() is in_order  # noqa: B009  # an attribute that stubs leave out
