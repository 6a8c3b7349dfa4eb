"""Faults of the public implementation, put back, and shown to be caught."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from toy_towers import fresh, keys_for, pixels_for, tower

from mcdo.encoders import Encoder
from mcdo.perturbation import Dropout, check_alive, deterministic_features, find_sites, perturbed


class Wrapped(nn.Module):
    """Dropout after ``nn.Linear`` by replacing the module, as published; ``weight`` and ``bias`` stay readable."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.silent, self.p = linear, False, 0.0

    @property
    def weight(self) -> Tensor:
        return self.linear.weight

    @property
    def bias(self) -> Tensor:
        return self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return torch.zeros_like(y) if self.silent else nn.functional.dropout(y, self.p)


def wrap(module: nn.Module) -> dict[str, Wrapped]:
    """Replace every linear module by a wrapped one."""
    linear = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    wrapped = {name: Wrapped(m) for name, m in linear}
    for name, each in wrapped.items():
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, each)
    return wrapped


def acting(encoder: Encoder, wrapped: dict[str, Wrapped], pixels: Tensor) -> set[str]:
    """The wrapped modules whose silence changes the features."""
    changed = set()
    with torch.no_grad():
        plain = encoder.forward_image(pixels)
        for name, module in wrapped.items():
            module.silent = True
            if not torch.equal(encoder.forward_image(pixels), plain):
                changed.add(name)
            module.silent = False
    return changed


def test_wrapping_modules_leaves_attention_undisturbed_and_linear_maps_do_not() -> None:
    encoder = fresh("open_clip")
    pixels = pixels_for(encoder)
    alive = {site.name.removeprefix("visual.") for site in check_alive(encoder, pixels, Dropout(0.1))}
    wrapped = wrap(encoder.model.visual)  # type: ignore[arg-type]
    attention = {name for name in alive if ".attn." in name}
    assert len(wrapped) == 6
    assert acting(encoder, wrapped, pixels) == {name for name in wrapped if ".mlp." in name}  # 4 of 6, as 24 of 36
    assert acting(encoder, wrapped, pixels).isdisjoint(attention)
    assert alive == attention | {name for name in wrapped if ".mlp." in name} | {"proj"}
    assert len(attention) == 4


def test_wrapping_modules_disturbs_the_timm_tower_in_full_so_that_the_two_were_not_comparable() -> None:
    encoder = fresh("siglip_tiny")
    wrapped = wrap(encoder.model.visual)  # type: ignore[arg-type]
    assert acting(encoder, wrapped, pixels_for(encoder)) == set(wrapped)
    assert len(wrapped) == len(find_sites(tower("siglip_tiny")).select("all"))


def test_repeated_runs_do_not_stack_dropouts_and_wrapping_again_does() -> None:
    encoder = fresh("open_clip")
    pixels, keys, traces = pixels_for(encoder), keys_for(), []
    for _ in range(4):
        with perturbed(encoder, Dropout(0.05), seed=1) as drop:
            traces.append(float(drop(pixels, keys, 0, 0).var(1).mean()))
    assert traces == traces[:1] * 4
    plain = deterministic_features(encoder, pixels)
    stacked, growing = [], encoder.model.visual
    assert isinstance(growing, nn.Module)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        for _ in range(3):
            for module in wrap(growing).values():
                module.p = 0.05
            stacked.append(torch.stack([encoder.forward_image(pixels) for _ in range(150)]).var(0).mean())
    assert stacked[1] > 1.3 * stacked[0]
    assert stacked[2] > 1.8 * stacked[0]
    assert not torch.equal(encoder.forward_image(pixels), plain)
