from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from toy_towers import seeded

from mcdo.perturbation.intercept import Compute, LinearMaps

BATCH, TARGET, SOURCE, WIDTH, HEADS = 3, 4, 5, 12, 2


class Seen:
    """A handler that notes which weights it was handed."""

    def __init__(self) -> None:
        self.maps: list[tuple[int, str]] = []
        self.computes: list[Compute] = []

    def __call__(self, weight: Tensor, part: str, compute: Compute) -> Tensor:
        self.maps.append((id(weight), part))
        self.computes.append(compute)
        return compute(1.0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(**options: Any) -> nn.MultiheadAttention:
    module: nn.MultiheadAttention = seeded(lambda: nn.MultiheadAttention(WIDTH, HEADS, **options)).eval()
    for bias in (module.in_proj_bias, module.out_proj.bias):
        if bias is not None:
            nn.init.uniform_(bias, generator=torch.Generator().manual_seed(1))
    return module


def inputs(kind: str, batch_first: bool, kdim: int = WIDTH, vdim: int = WIDTH) -> tuple[Tensor, Tensor, Tensor]:
    query = noise(BATCH, TARGET, WIDTH)
    if kind == "self":
        triple = (query, query, query)
    elif kind == "key is value":
        source = noise(BATCH, SOURCE, WIDTH, seed=1)
        triple = (query, source, source)
    else:
        triple = (query, noise(BATCH, SOURCE, kdim, seed=1), noise(BATCH, SOURCE, vdim, seed=2))
    if batch_first:
        return triple
    moved = {id(x): x.transpose(0, 1) for x in triple}
    return moved[id(triple[0])], moved[id(triple[1])], moved[id(triple[2])]


def masks(kind: str, source: int) -> dict[str, Any]:
    causal = torch.ones(TARGET, source, dtype=torch.bool).triu(1)
    padding = torch.zeros(BATCH, source, dtype=torch.bool)
    padding[1, -2:] = True
    options: dict[str, dict[str, Any]] = {
        "none": {},
        "bool": {"attn_mask": causal},
        "float": {"attn_mask": noise(TARGET, source, seed=3)},
        "by head": {"attn_mask": noise(BATCH * HEADS, TARGET, source, seed=3)},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": torch.zeros(BATCH, source).masked_fill(padding, -torch.inf)},
        "bool and padding": {"attn_mask": causal, "key_padding_mask": padding},
        "causal": {"attn_mask": causal, "is_causal": True},
    }
    return options[kind]


@pytest.mark.parametrize(
    "mask", ["none", "bool", "float", "by head", "padding", "float padding", "bool and padding", "causal"]
)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "sizes", "parts"),
    [
        ("self", {}, ["", ""]),
        ("key is value", {}, ["q", "kv", ""]),
        ("all different", {}, ["q", "k", "v", ""]),
        ("all different", {"kdim": 7, "vdim": 9}, ["", "", "", ""]),
    ],
    ids=["self", "cross", "three", "own_sizes"],
)
def test_attention_equals_torch_and_every_map_of_it_is_seen(
    kind: str, sizes: dict[str, int], parts: list[str], bias: bool, batch_first: bool, mask: str
) -> None:
    module = attention(bias=bias, batch_first=batch_first, **sizes)
    query, key, value = inputs(kind, batch_first, **sizes)
    options = masks(mask, TARGET if kind == "self" else SOURCE)
    seen = Seen()
    with torch.no_grad():
        expected, _ = module(query, key, value, need_weights=False, **options)
        with LinearMaps(seen):
            found, _ = module(query, key, value, need_weights=False, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert [part for _, part in seen.maps] == parts
    packed = [id(module.in_proj_weight)] * (len(parts) - 1)
    separate = [id(module.q_proj_weight), id(module.k_proj_weight), id(module.v_proj_weight)]
    assert [weight for weight, _ in seen.maps[:-1]] == (separate if sizes else packed)
    assert seen.maps[-1][0] == id(module.out_proj.weight)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_attention_is_seen_although_torch_has_fused_fast_paths(grad: Callable[[], Any]) -> None:
    layer = seeded(lambda: nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True)).eval().requires_grad_(False)
    x, seen = noise(BATCH, TARGET, WIDTH), Seen()
    with grad():
        expected = layer(x)
        with LinearMaps(seen):
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)
    weights = [layer.self_attn.in_proj_weight, layer.self_attn.out_proj.weight, layer.linear1.weight]
    assert [weight for weight, _ in seen.maps] == [id(w) for w in (*weights, layer.linear2.weight)]


@pytest.mark.parametrize("options", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attention_that_is_not_handled_is_refused(options: dict[str, bool]) -> None:
    x = noise(BATCH, TARGET, WIDTH)
    with LinearMaps(), pytest.raises(NotImplementedError, match="bias_k"):
        attention(**options)(x, x, x)
    with LinearMaps(), pytest.raises(NotImplementedError, match="without a batch"):
        attention()(x[0], x[0], x[0])


WEIGHT = nn.Parameter(noise(WIDTH, 6, seed=5), requires_grad=False)
ROWS = nn.Parameter(noise(6, WIDTH, seed=6), requires_grad=False)
KERNEL = nn.Parameter(noise(6, 3, 2, 2, seed=7), requires_grad=False)
LONE = nn.Parameter(noise(WIDTH, seed=9), requires_grad=False)
BIAS = noise(6, seed=8)
MAPS: dict[str, tuple[Callable[[Tensor], Tensor], nn.Parameter, tuple[int, ...]]] = {
    "x @ W": (lambda x: x @ WEIGHT, WEIGHT, (BATCH, TARGET, WIDTH)),
    "x.matmul(W)": (lambda x: x.matmul(WEIGHT), WEIGHT, (BATCH, TARGET, WIDTH)),
    "torch.matmul": (lambda x: torch.matmul(x, WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "torch.mm": (lambda x: torch.mm(x, WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "torch.mm by keyword": (lambda x: torch.mm(x, mat2=WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "x.mm(W)": (lambda x: x.mm(WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "x.mm by keyword": (lambda x: x.mm(mat2=WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "b.addmm": (lambda x: BIAS.addmm(x, WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "torch.addmm": (lambda x: torch.addmm(BIAS, x, WEIGHT), WEIGHT, (BATCH, WIDTH)),
    "torch.addmm with factors": (lambda x: torch.addmm(BIAS, x, WEIGHT, beta=0.5, alpha=2), WEIGHT, (BATCH, WIDTH)),
    "linear": (lambda x: F.linear(x, ROWS, BIAS), ROWS, (BATCH, TARGET, WIDTH)),
    "linear by keyword": (lambda x: F.linear(input=x, weight=ROWS, bias=BIAS), ROWS, (BATCH, TARGET, WIDTH)),
    "linear without bias": (lambda x: F.linear(x, ROWS), ROWS, (BATCH, TARGET, WIDTH)),
    "linear to one number": (lambda x: F.linear(x, LONE), LONE, (BATCH, TARGET, WIDTH)),
    "linear of a vector": (lambda x: F.linear(x, ROWS, BIAS), ROWS, (WIDTH,)),
    "linear of a transpose": (lambda x: F.linear(x.transpose(0, 1), ROWS, BIAS), ROWS, (BATCH, TARGET, WIDTH)),
    "conv2d": (lambda x: F.conv2d(x, KERNEL, BIAS, stride=2), KERNEL, (BATCH, 3, 4, 4)),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("scale", [1.0, 1 / 0.99, 10.0])
def test_every_way_of_writing_a_map_is_seen_once_and_scaled_exactly(name: str, scale: float) -> None:
    carry_out, weight, shape = MAPS[name]
    x, maps = noise(*shape), []

    def handler(seen: Tensor, part: str, compute: Compute) -> Tensor:
        maps.append((id(seen), part))
        return compute(scale)

    with LinearMaps(handler):
        found = carry_out(x)
    torch.testing.assert_close(found, carry_out(x) * scale, rtol=1e-6, atol=1e-5)
    assert maps == [(id(weight), "")]
    if scale == 1.0:
        assert torch.equal(found, carry_out(x))


def test_products_without_a_parameter_are_counted_and_maps_are_told_apart_by_their_turn() -> None:
    x, seen = noise(BATCH, TARGET, WIDTH), Seen()
    for _ in range(2):  # each pass begins anew
        with LinearMaps(seen) as maps:
            for product in (x @ x.mT, F.linear(x, ROWS), torch.bmm(x, x.mT), F.linear(x, noise(6, WIDTH)), x @ WEIGHT):
                assert product.isfinite().all()
            F.linear(x, ROWS)
        assert maps.made == 2
    assert [part for _, part in seen.maps] == ["made 1", "", "made 2", "", "#2"] * 2


def test_a_convolution_of_repeated_images_is_carried_out_once_per_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(BATCH, 3, 4, 4)
    rows = images.repeat_interleave(5, dim=0)
    sizes: list[int] = []
    plain = F.conv2d

    def counted(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        sizes.append(len(x))
        return plain(x, *args, **kwargs)

    with LinearMaps(repeated=rows, repeats=5):
        once, other = F.conv2d(rows, KERNEL, stride=2), F.conv2d(rows.clone(), KERNEL, stride=2)
    torch.testing.assert_close(once, other, rtol=0, atol=1e-6)
    mode = LinearMaps(repeated=rows, repeats=5)
    monkeypatch.setattr(F, "conv2d", counted)
    mode._conv2d(rows, KERNEL)
    mode._conv2d(rows.clone(), KERNEL)
    assert sizes == [BATCH, 5 * BATCH]


def test_nothing_is_seen_outside_the_mode_also_after_an_exception() -> None:
    seen = Seen()

    def fail(weight: Tensor, part: str, compute: Compute) -> Tensor:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"), LinearMaps(fail):
        F.linear(noise(2, WIDTH), ROWS)
    with LinearMaps(seen):
        pass
    F.linear(noise(2, WIDTH), ROWS)
    assert seen.maps == []
