"""Every way of writing a linear map that is not watched is seen all the same, and what is no map is left in peace."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from native import assert_same_variance
from torch import Tensor, nn
from toy_towers import (
    KINDS,
    LinearTower,
    SharedMap,
    Toy,
    encoder_of,
    fresh,
    keys_for,
    pixels_for,
    seeded,
    tower,
    toy,
)

from mcdo.encoders import Encoder
from mcdo.errors import McdoError, SiteWarning
from mcdo.estimators.jacobian import SiteGraph
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    StochasticDepth,
    TiedDropout,
    check_alive,
    deterministic_features,
    find_sites,
    perturbed,
)

WIDTH = 12


class Extra(nn.Module):
    """A square map of features, with its weight as a Parameter ``w`` and its way of writing as ``way``."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor], shape: tuple[int, ...] = (WIDTH, WIDTH)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(shape))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return x + self.way(self, x)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return x @ w.t()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError


def with_extra(build: Callable[[], nn.Module]) -> Encoder:
    """The linear tower with a further module between its two linear maps."""
    encoder = toy(LinearTower)
    hidden: Any = encoder.model.get_submodule("visual.mlp")
    extra = seeded(build).eval()
    for parameter in extra.parameters():
        parameter.requires_grad_(False)
    encoder.model.get_submodule("visual").mlp = nn.Sequential()
    for name, module in (("c_fc", hidden.c_fc), ("extra", extra), ("c_proj", hidden.c_proj)):
        encoder.model.get_submodule("visual.mlp").add_module(name, module)
    encoder.model.eval()
    return encoder


def script() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: Any = torch.jit.script(nn.Linear(WIDTH, WIDTH))
        return nn.Sequential(scripted)


def cached_view() -> Any:
    module: Any = Extra(lambda m, x: x @ m.turned)
    module.turned = module.w.data.t()
    return module


def as_buffer() -> nn.Module:
    module = Extra(lambda m, x: F.linear(x, m.frozen))
    module.register_buffer("frozen", torch.randn(WIDTH, WIDTH))
    del module.w
    return module


def low_rank() -> nn.Module:
    module = Extra(lambda m, x: x @ (m.w @ m.v), (WIDTH, 2))
    module.v = nn.Parameter(torch.randn(2, WIDTH))
    return module


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))


def lone_multiplier() -> nn.Module:
    """A map to one number: scaled along the features, summed over them."""
    return Extra(lambda m, x: (x * m.w).sum(-1, keepdim=True), (WIDTH,))


def turned_multiplier() -> nn.Module:
    """The same through changes of shape, and with something added that depends on no image."""
    return Extra(
        lambda m, x: (x.mT * m.w[:, None] + 1).flatten(1).unflatten(1, (WIDTH, -1)).mean(1)[..., None], (WIDTH,)
    )


def filtered() -> nn.Module:
    """A global filter: each frequency times a weight of its own, which is a convolution over all tokens."""

    def forward(m: Any, x: Tensor) -> Tensor:
        out: Tensor = torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.view_as_complex(m.w), n=4, dim=1)
        return out

    return Extra(forward, (3, 1, 2))


def plain_multiplier() -> nn.Module:
    return without_parameter(Extra(lambda m, x: (x[..., None, :] * m.plain).sum(-1)))


def closed_over(way: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    weight = torch.randn(WIDTH, WIDTH)
    return without_parameter(Extra(lambda m, x: way(x, weight)))


def without_parameter(module: Any) -> nn.Module:
    """Its weight as a plain tensor."""
    module.plain = module.w.data
    del module.w
    return module  # type: ignore[no-any-return]


def into(out: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The product as it lies in ``out``, whatever was made of what is returned."""
    torch.matmul(x, weight, out=out)
    return out


EXTRA = "visual.mlp.extra"
HIDDEN: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "einsum": (lambda: Extra(lambda m, x: torch.einsum("btd,ed->bte", x, m.w)), {f"{EXTRA}.w"}),
    "tensordot": (lambda: Extra(lambda m, x: torch.tensordot(x, m.w, dims=1)), {f"{EXTRA}.w"}),
    "conv1d": (lambda: Extra(lambda m, x: F.conv1d(x.mT, m.w).mT, (WIDTH, WIDTH, 1)), {f"{EXTRA}.w"}),
    "conv3d": (
        lambda: Extra(lambda m, x: F.conv3d(x.mT[..., None, None], m.w)[..., 0, 0].mT, (WIDTH, WIDTH, 1, 1, 1)),
        {f"{EXTRA}.w"},
    ),
    "bmm": (lambda: Extra(lambda m, x: torch.bmm(x, m.w.expand(len(x), -1, -1))), {f"{EXTRA}.w"}),
    "from the left": (lambda: Extra(lambda m, x: m.w @ x, (4, 4)), {f"{EXTRA}.w"}),
    "multiplied and summed": (lambda: Extra(lambda m, x: (x[..., None, :] * m.w).sum(-1)), {f"{EXTRA}.w"}),
    "multiplied and summed along one axis": (lone_multiplier, {f"{EXTRA}.w"}),
    "multiplied, turned and averaged": (turned_multiplier, {f"{EXTRA}.w"}),
    "multiplied with a plain tensor and summed": (plain_multiplier, {f"{EXTRA}.plain"}),
    "multiplied among frequencies": (filtered, {f"{EXTRA}.w"}),
    "vector in einsum": (
        lambda: Extra(lambda m, x: torch.einsum("btd,d->bt", x, m.w)[..., None], (WIDTH,)),
        {f"{EXTRA}.w"},
    ),
    "plain tensor in einsum": (
        lambda: without_parameter(Extra(lambda m, x: torch.einsum("btd,ed->bte", x, m.plain))),
        {f"{EXTRA}.plain"},
    ),
    "tensor of a closure": (lambda: closed_over(F.linear), {"constant.1"}),
    "tensor of a closure in einsum": (
        lambda: closed_over(lambda x, w: torch.einsum("btd,ed->bte", x, w)),
        {"constant.1"},
    ),
    "array of NumPy": (
        lambda: Extra(lambda m, x: x @ torch.from_numpy(m.w.detach().numpy().copy())),
        {"constant.1"},
    ),
    "addmm of a residual": (
        lambda: Extra(lambda m, x: torch.addmm(x.reshape(-1, WIDTH), x.reshape(-1, WIDTH), m.w).view(x.shape)),
        {f"{EXTRA}.w"},
    ),
    "result written into a given tensor": (
        lambda: Extra(lambda m, x: into(torch.empty_like(x), x, m.w)),
        {f"{EXTRA}.w"},
    ),
    "bilinear": (lambda: nn.Sequential(Square()), {f"{EXTRA}.0.map"}),
    "product of two": (low_rank, {f"{EXTRA}.w", f"{EXTRA}.v"}),
    "TorchScript": (script, {f"{EXTRA}.0"}),
}


def turned(w: Tensor) -> Tensor:
    return w.t().contiguous()


MADE: dict[str, tuple[Callable[[], Any], str, Callable[[Any], Tensor]]] = {
    "view": (lambda: Extra(lambda m, x: x @ m.w.t()), "w", lambda m: m.w),
    "slice": (lambda: Extra(lambda m, x: F.linear(x, m.w[:WIDTH]), (2 * WIDTH, WIDTH)), "w", lambda m: m.w[:WIDTH]),
    "cached view": (cached_view, "w", lambda m: m.w),
    "detached": (lambda: Extra(lambda m, x: F.linear(x, m.w.detach())), "w", lambda m: m.w),
    "cast": (lambda: Extra(lambda m, x: F.linear(x.double(), m.w.double()).float()), "w", lambda m: m.w),
    "autograd function": (lambda: Extra(lambda m, x: Product.apply(x, m.w)), "w", lambda m: m.w),
    "buffer": (as_buffer, "frozen", lambda m: m.frozen),
    "plain tensor": (
        lambda: without_parameter(Extra(lambda m, x: F.linear(x, m.plain))), "plain", lambda m: m.plain,
    ),
    "list of tensors": (lambda: in_a_list(), "plain.0", lambda m: m.plain[0]),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)), "", lambda m: m.weight),
    "old weight norm": (old_weight_norm, "", lambda m: m.weight),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)), "", lambda m: m.weight),
}  # fmt: skip
"""(a module whose weight is no Parameter when it is carried out, the weight's name, the weight)."""


def in_a_list() -> nn.Module:
    module: Any = without_parameter(Extra(lambda m, x: F.linear(x, m.plain[0])))
    module.plain = [module.plain]
    return module  # type: ignore[no-any-return]


class Named(nn.Module):
    """The map written plainly, its Parameter under a dotted name."""

    def __init__(self, name: str, weight: Tensor, bias: Tensor | None, residual: bool) -> None:
        super().__init__()
        *parents, last = name.split(".")
        holder: nn.Module = self
        for parent in parents:
            holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        holder.register_parameter(last, nn.Parameter(weight))
        self.name, self.bias, self.residual = name, bias, residual

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.get_parameter(self.name), self.bias)
        return x + y if self.residual else y


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize("way", MADE)
def test_a_weight_that_is_no_parameter_is_measured_as_if_it_were_one(way: str) -> None:
    """Same site, same masks, so the very same passes as of a tower with the Parameter itself."""
    build, name, weight = MADE[way]
    encoder = with_extra(build)
    extra: Any = encoder.model.get_submodule(EXTRA)
    written = (name or "weight", weight(extra).detach().clone(), getattr(extra, "bias", None), bool(name))
    plain = with_extra(lambda: Named(*written))
    for dropout in (Dropout(0.2), TiedDropout(0.2)):
        passes = []
        for each in (encoder, plain):
            assert [site.name for site in check_alive(each, pixels_for(each, 1), dropout)][1:] == [
                ".".join(filter(None, (EXTRA, name))), "visual.mlp.c_proj",
            ]  # fmt: skip
            with perturbed(each, dropout, seed=3) as drop:
                passes.append(drop(pixels_for(each), keys_for(), 0, 0))
        torch.testing.assert_close(passes[0], passes[1], rtol=1e-4, atol=1e-5)
        assert passes[0].std(1).min() > 0


class Standardised(nn.Module):
    """A convolution whose weight is standardised in each pass, as in timm's resnetv2 and nfnet."""

    def __init__(self) -> None:
        from timm.layers import ScaledStdConv2d, StdConv2d

        super().__init__()
        self.conv1, self.proj = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 6)
        self.a, self.b = StdConv2d(8, 8, 3, padding=1, bias=True), ScaledStdConv2d(8, 8, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.proj(self.b(self.a(self.conv1(pixels)).relu()).relu().mean((2, 3)))
        return out


def test_standardised_convolutions_are_measured() -> None:
    encoder = encoder_of(seeded(lambda: Toy(Standardised())), 6)
    assert [s.name for s in find_sites(encoder).select("convolution")] == ["visual.a", "visual.b"]
    assert_same_variance(encoder, pixels_for(encoder), p=0.1, passes=48)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_first_order_terms_of_made_weights_and_repeated_maps_are_those_of_passes() -> None:
    for encoder in (with_extra(MADE["weight norm"][0]), toy(SharedMap)):
        pixels, kind = pixels_for(encoder), Dropout(0.01)
        graph = SiteGraph(encoder, pixels, kind, find_sites(encoder).select("all"))
        exact = torch.stack([graph.terms(axis).sum(-1) for axis in torch.eye(6)]).sum(0) * kind.variance
        with perturbed(encoder, kind, seed=2) as drop:
            passes = torch.cat([drop(pixels, keys_for(), 0, block) for block in range(300)], dim=1)
        torch.testing.assert_close(passes.var(1).sum(-1), exact, rtol=0.2, atol=0)


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_a_product_that_was_not_there_when_the_sites_were_found_is_refused() -> None:
    encoder = with_extra(MADE["view"][0])
    extra: Any = encoder.model.get_submodule(EXTRA)
    with perturbed(encoder, Dropout(0.1), 0) as drop:
        way = extra.way
        extra.way = lambda m, x: way(m, x) + 0 * (x @ x.mT)[..., :1]
        with pytest.raises(McdoError, match="the tower has changed since"):
            drop(pixels_for(encoder), keys_for(), 0, 0)


class Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Bilinear(WIDTH, WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.map(x, x)
        return out


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.parametrize("way", HIDDEN)
def test_a_map_that_is_not_watched_is_named_and_refused_until_it_is_excluded_by_name(way: str) -> None:
    build, names = HIDDEN[way]
    encoder = with_extra(build)
    pixels = pixels_for(encoder, 1)
    for sites in ("all", "mlp"):
        with pytest.raises(McdoError) as refused:
            check_alive(encoder, pixels, Dropout(0.1, sites))
        assert all(name in str(refused.value) for name in names)
        assert "not watched" in str(refused.value) or "held by no module" in str(refused.value)
    excluded = check_alive(encoder, pixels, Dropout(0.1, ("all", *(f"-{name}" for name in names))))
    assert [site.name for site in excluded] == ["visual.mlp.c_fc", "visual.mlp.c_proj"]
    named = check_alive(encoder, pixels, Dropout(0.1, ("visual.mlp.c_proj",)))  # asked for by name: nothing is missing
    assert [site.name for site in named] == ["visual.mlp.c_proj"]
    with pytest.raises(McdoError, match=r"not watched|held by no module"):
        check_alive(encoder, pixels, Dropout(0.1, (min(names),)))


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
@pytest.mark.filterwarnings("ignore:Casting complex values:UserWarning")
@pytest.mark.parametrize("kind", [Dropout, Gaussian])
def test_a_map_of_complex_output_is_refused_until_it_is_left_out(kind: Any) -> None:
    """Noise there ended in a traceback, and first order took the modulus of a product where its real part moves."""
    encoder = with_extra(lambda: Extra(lambda m, x: (x.to(torch.complex64) @ torch.complex(m.w, m.w)).real))
    with pytest.raises(McdoError, match=rf"{EXTRA}\.w: its output is complex"):
        check_alive(encoder, pixels_for(encoder, 1), kind(0.1))
    assert len(check_alive(encoder, pixels_for(encoder, 1), kind(0.1, ("all", f"-{EXTRA}.w")))) == 2


@pytest.mark.filterwarnings("ignore:.*role is not known:mcdo.errors.SiteWarning")
def test_a_filter_held_as_a_buffer_is_a_site_and_is_said_to_be_one() -> None:
    """A blur nobody learned was disturbed under "all" without a word."""
    encoder = with_extra(as_buffer)
    with pytest.warns(SiteWarning, match=rf"no Parameters.*: {EXTRA}\.frozen\. To leave .*-{EXTRA}\.frozen"):
        assert f"{EXTRA}.frozen" in [site.name for site in find_sites(encoder).select("all")]


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


def test_a_tower_without_attention_is_told_at_which_branches_stochastic_depth_acts() -> None:
    encoder = with_extra(Branch)
    pixels = pixels_for(encoder, 1)
    with pytest.raises(
        McdoError, match=r"StochasticDepth of .* at the branches .*: StochasticDepth\(0\.1\)\.at\('fc2'\)"
    ):
        check_alive(encoder, pixels, StochasticDepth(0.1))
    acting = check_alive(encoder, pixels, StochasticDepth(0.1).at("fc2"))
    assert [site.name for site in acting] == [f"{EXTRA}.fc2"]


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_a_weight_that_is_used_in_both_ways_is_refused() -> None:
    encoder = with_extra(lambda: Extra(lambda m, x: F.linear(x, m.w) + torch.einsum("btd,ed->bte", x, m.w)))
    with pytest.raises(McdoError, match=rf"{EXTRA}\.w: its weight takes part"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))


class Harmless(nn.Module):
    """Weights that are no map's: added, looked up, concatenated, scaling numbers or one axis and summed over others."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 4, WIDTH))
        self.table = nn.Parameter(torch.randn(7, WIDTH))
        self.token = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.scale = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.each = nn.Parameter(torch.randn(5, WIDTH))
        self.norm = nn.LayerNorm([5, WIDTH])
        self.register_buffer("angles", torch.randn(5, WIDTH))
        self.lookup = nn.Embedding(3, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position + self.table[torch.tensor([0, 3, 3, 1])]
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) * self.scale
        x = self.norm(x) * torch.cos(self.angles) * self.each  # type: ignore[arg-type]
        x = x + self.scale[0, 0] * F.gelu(x).mean(1, keepdim=True) + torch.ones(5, 5) @ x
        x = (x - x.mean(-1, keepdim=True)) + (x * self.scale).mean(1, keepdim=True)
        x = x + torch.fft.ifft(torch.fft.fft(x, dim=1) * self.scale, dim=1).real
        which = (x[:, 0, 0] > 0).long()
        out: Tensor = torch.where(x > 3, self.token, x)[:, 1:] + self.lookup(which)[:, None]
        return out


def test_positions_tokens_scales_and_tables_are_no_maps() -> None:
    encoder = with_extra(Harmless)
    assert [site.name for site in find_sites(encoder).sites if site.obstacle] == []
    assert len(check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_no_tower_of_the_libraries_hides_a_map(kind: str) -> None:
    table = find_sites(tower(kind))
    assert [site.name for site in table.sites if site.obstacle] == []
    assert not table.by_hand


def test_a_parameter_with_rows_and_columns_that_takes_part_in_nothing_is_dead() -> None:
    encoder = with_extra(lambda: Extra(lambda m, x: x))
    with pytest.raises(McdoError, match=rf"dead site {EXTRA}\.w: the tower declares it and never carries it out"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))


def test_what_is_left_out_must_exist_and_something_must_be_left() -> None:
    table = find_sites(tower("clip_tiny"))
    with pytest.raises(McdoError, match=r"unknown site 'visual\.prj': did you mean.*visual\.proj"):
        table.select(("all", "-visual.prj"))
    with pytest.raises(McdoError, match="only leave out"):
        table.select("-visual.proj")
    block = "visual.transformer.resblocks.1"
    assert [s.name for s in table.select(("attention", f"-{block}.*"))] == [
        f"visual.transformer.resblocks.{i}.attn.{name}" for i in (0, 2) for name in ("in_proj", "out_proj")
    ]
    assert table.select(("all", "-mlp", "-projection")) == table.select("attention")


class ByHand(nn.Module):
    """Attention without the functions that form its probabilities."""

    def __init__(self, einsum: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.einsum = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), einsum

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        logits = torch.einsum("btd,bsd->bts", q, k) if self.einsum else q @ k.mT
        return x + self.out(logits.softmax(-1) @ v)  # type: ignore[no-any-return]


class Scripted(ByHand):
    """Its softmax is out of reach."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return x + self.out(torch._C._nn.gelu(torch.special.softmax(q @ k.mT, -1)) @ v)  # type: ignore[no-any-return]


@pytest.mark.parametrize("einsum", [False, True, None])
def test_attention_by_hand_is_reached_at_its_softmax_or_refused_for_dropout_of_probabilities(
    einsum: bool | None,
) -> None:
    encoder = with_extra(lambda: Scripted(False) if einsum is None else ByHand(einsum))
    pixels, table = pixels_for(encoder, 1), find_sites(encoder)
    if einsum is None:
        with pytest.raises(McdoError, match=rf"misses 1 of 1 attentions, those after {EXTRA}\.qkv"):
            check_alive(encoder, pixels, AttentionDropout(0.1))
    else:
        assert [s.name for s in check_alive(encoder, pixels, AttentionDropout(0.1))] == [f"{EXTRA}.probabilities"]
    assert {s.name: s.role.value for s in table.sites if "extra" in s.name} == {
        f"{EXTRA}.qkv": "qkv",
        f"{EXTRA}.out": "attention_output",
    }
    assert len(check_alive(encoder, pixels, Dropout(0.1))) == 4
    assert len(check_alive(encoder, pixels, HiddenDropout(0.1))) == 1


@pytest.mark.parametrize("kind", ["hf_clip", "hf_siglip"])
def test_eager_attention_is_disturbed_as_fused_attention_is(kind: str) -> None:
    """Its pooling head alone used to be reached, through nn.MultiheadAttention."""
    encoder, fused = fresh(kind), tower(kind)
    for module in encoder.model.modules():
        config: Any = getattr(module, "config", None)
        if config is not None:
            config._attn_implementation = "eager"
    pixels, passes = pixels_for(encoder), []
    assert [s.name for s in find_sites(encoder).sites] == [s.name for s in find_sites(fused).sites]
    for each in (encoder, fused):
        assert len(check_alive(each, pixels[:1], AttentionDropout(0.3))) == (2 if kind == "hf_clip" else 3)
        with perturbed(each, AttentionDropout(0.3), seed=4) as drop:
            passes.append(drop(pixels, keys_for(), 0, 0))
    torch.testing.assert_close(passes[0], passes[1], rtol=1e-3, atol=1e-5)
    assert passes[0].std(1).min() > 0


class Gated(nn.Module):
    """A softmax that is no attention's, between two that are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.second = ByHand(False), nn.Linear(WIDTH, WIDTH), ByHand(True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out: Tensor = self.second(x * self.gate(x).softmax(-1))
        return out


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_a_softmax_that_is_no_attention_s_is_left_alone() -> None:
    encoder = with_extra(Gated)
    names = [f"{EXTRA}.{each}.probabilities" for each in ("first", "second")]
    assert [s.name for s in check_alive(encoder, pixels_for(encoder, 1), AttentionDropout(0.1))] == names
    seen: list[Tensor] = []
    encoder.model.get_submodule(f"{EXTRA}.second.qkv").register_forward_hook(lambda m, i, y: seen.append(y))
    with perturbed(encoder, AttentionDropout(0.5).at(names[1]), 0) as drop:
        drop(pixels_for(encoder, 1), keys_for(1), 0, 0)
    assert torch.equal(seen[0], seen[0][:1].expand_as(seen[0]))  # nothing before the second was disturbed


class Grouped(ByHand):
    """One key and value for two queries."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (6, 6)).transpose(1, 2).split((4, 1, 1), dim=1)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.out(y[:, :2].transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_grouped_query_attention_is_measured_and_only_its_probabilities_are_refused() -> None:
    encoder = with_extra(lambda: Grouped(False))
    assert len(check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))) == 4
    with pytest.raises(McdoError, match="misses 1 of 1 attentions"):
        check_alive(encoder, pixels_for(encoder, 1), AttentionDropout(0.1))


class Detour(nn.Module):
    """Activations that leave torch for NumPy on their way from one map to the next."""

    def __init__(self, hidden: bool) -> None:
        super().__init__()
        self.map, self.hidden = nn.Linear(WIDTH, WIDTH), hidden

    def forward(self, x: Tensor) -> Tensor:
        lost = torch.from_numpy(x.numpy().copy())
        y = torch.einsum("btd,ed->bte", lost, self.map.weight) if self.hidden else self.map(lost)
        return x + torch.from_numpy(y.numpy().copy())


@pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")
def test_activations_are_known_by_their_numbers_where_their_way_is_lost() -> None:
    table = find_sites(with_extra(lambda: Detour(False)))
    assert [(s.name, s.obstacle) for s in table.sites][2] == (f"{EXTRA}.map", "")
    encoder = with_extra(lambda: Detour(True))
    with pytest.raises(McdoError, match=rf"dead site {EXTRA}\.map: its weight takes part"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))


class BiasedKeys(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2, add_bias_kv=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x, x, x, need_weights=False)[0]
        return x + out


def test_attention_of_a_kind_that_is_not_handled_is_refused_in_words() -> None:
    encoder = with_extra(BiasedKeys)
    with pytest.raises(McdoError, match=r"toy: this tower has attention with bias_k.*, which is not handled"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))
    with pytest.raises(McdoError, match="toy: this tower has attention with bias_k"):
        deterministic_features(encoder, pixels_for(encoder))


class Weighted(nn.Module):
    """Attention whose weights go into the features."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        super().__init__()
        self.attn, self.read = nn.MultiheadAttention(WIDTH, 2, batch_first=True), read

    def forward(self, x: Tensor) -> Any:
        out, weights = self.attn(x, x, x)
        return out * self.read(weights)


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda w: w.amax(1)[..., None], "AttributeError 'NoneType' .*'amax', where the tower's maps are watched"),
        (lambda w: 1.0 if w is None else w.amax(1)[..., None], "its features are others where the tower's maps are wa"),
    ],
    ids=["fails", "goes_on"],
)
def test_a_tower_that_reads_weights_of_an_attention_is_refused_in_words(read: Callable[[Any], Any], said: str) -> None:
    """One used to end in a traceback, and one was measured without the weights that it reads."""
    encoder = with_extra(lambda: Weighted(read))
    with pytest.raises(McdoError, match=rf"toy: {said}.*need_weights=False"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))


class Autocasting(nn.Module):
    """In bfloat16 of its own accord."""

    def __init__(self) -> None:
        import timm

        super().__init__()
        self.tower = timm.create_model("test_vit", img_size=32, patch_size=8, num_classes=8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out: Tensor = self.tower(x)
        return out


def test_a_tower_that_rounds_of_its_own_accord_is_measured() -> None:
    encoder = encoder_of(seeded(lambda: Toy(Autocasting())), 8, 32)
    assert len(find_sites(encoder).select("all")) == 25


def test_a_quantised_layer_is_refused_by_name() -> None:
    encoder = toy(LinearTower)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantise: Any = torch.ao.quantization.quantize_dynamic
        quantise(encoder.model, {nn.Linear}, inplace=True)
    encoder.model.eval()
    with pytest.raises(McdoError, match=r"visual\.mlp\.c_fc\.\S+ is no tensor but packed"):
        check_alive(encoder, pixels_for(encoder, 1), Dropout(0.1))
