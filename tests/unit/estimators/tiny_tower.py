"""A tower of five maps, for tests of what is done with a tower, whichever it is: a tenth of the time of clip_tiny."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mcdo.encoders import Encoder

SHOWN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "size": 32, "interpolation": "bilinear"}


class TinyTower(nn.Module):
    """Four patches, attention, an MLP and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.qkv, self.out = nn.Conv2d(3, 12, 16, 16), nn.Linear(12, 36), nn.Linear(12, 12)
        self.mlp, self.proj = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12)), nn.Linear(12, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).mT
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v)[:, 0])
        features: Tensor = self.proj((x + self.mlp(x)).mean(1))
        return features


def tiny_encoder() -> Encoder:
    """Anew, with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Encoder.of(TinyTower(), SHOWN, name="tiny", random_weights=True)
