"""Small towers for tests, of every library that the harness reads, and toys with one defect each."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mcdo.encoders import Encoder, load_encoder
from mcdo.encoders.encoder import Preprocessing, Towers
from mcdo.encoders.spec import EncoderSpec
from mcdo.perturbation import image_keys

SIZE = 16
_SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def seeded(build: Callable[[], Any], seed: int = 0) -> Any:
    """Build a model from a seed, and leave the global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def encoder_of(model: Any, width: int, size: int = SIZE, key: str = "toy") -> Encoder:
    """An encoder of ``model``, whose ``visual`` is the image tower."""
    spec = EncoderSpec(key, "clip", "open_clip", key, size, width, "softmax")
    preprocessing = Preprocessing(_no_pixels, size, (0.5,) * 3, (0.5,) * 3, "none")
    towers = Towers(lambda x: model.visual(x), _no_text, (("visual", model.visual),), ())
    return Encoder(spec, model, towers, preprocessing, _no_tokenizer, random_weights=True, device=torch.device("cpu"))


def _no_pixels(image: Image.Image) -> Tensor:
    raise NotImplementedError


def _no_text(tokens: Tensor) -> Tensor:
    raise NotImplementedError


def _no_tokenizer() -> Any:
    raise NotImplementedError


class Toy(nn.Module):
    """Holds a tower as ``visual``."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual


class LinearTower(nn.Module):
    """Linear from end to end, and of any input size: patches, fc1, fc2, mean over patches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 8, 8)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(8, 12))
        self.mlp.add_module("c_proj", nn.Linear(12, 6, bias=False))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.mlp(self.conv1(pixels).flatten(2).transpose(1, 2))
        return tokens.mean(1)


class UnusedMap(LinearTower):
    """Declares a map that no pass carries out."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(8, 8)


class SharedMap(LinearTower):
    """Carries one map out twice."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Linear(8, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.conv1(pixels).flatten(2).transpose(1, 2)
        out: Tensor = self.mlp(self.shared(self.shared(tokens)))
        return out.mean(1)


class TokensFirst(LinearTower):
    """Holds tokens in the first axis and images in the second."""

    def forward(self, pixels: Tensor) -> Tensor:
        tokens: Tensor = self.mlp(self.conv1(pixels).flatten(2).permute(2, 0, 1))
        return tokens.mean(0)


class BareProjection(LinearTower):
    """Ends in ``x @ self.proj``, as CLIP does."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(6, 5))

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels) @ self.proj


def toy(tower: type[nn.Module], width: int = 6) -> Encoder:
    return encoder_of(seeded(lambda: Toy(tower())), width)


def _open_clip(**vision: Any) -> Any:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    cfg = CLIPVisionCfg(image_size=SIZE, patch_size=8, width=32, layers=2, head_width=16, mlp_ratio=2.0, **vision)
    return CLIP(12, cfg, CLIPTextCfg(context_length=4, vocab_size=8, width=16, heads=1, layers=1))


def _hf(kind: str) -> Encoder:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        Siglip2Config,
        Siglip2ImageProcessor,
        SiglipConfig,
        SiglipImageProcessor,
    )

    text = {**_SHAPE, "vocab_size": 16, "max_position_embeddings": 4}
    vision = {**_SHAPE, "image_size": SIZE, "patch_size": 8}
    processor: Any
    config: Any
    if kind == "hf_clip":
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        processor = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    elif kind == "hf_siglip":
        config = SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
        processor = SiglipImageProcessor(size={"height": SIZE, "width": SIZE})
    else:
        shape = {**_SHAPE, "num_patches": 4, "patch_size": 8}
        config = Siglip2Config(text_config={**text, "projection_size": 16}, vision_config=shape)
        processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=4)
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        return load_encoder(f"hf:{Path(folder)}", weights="random")


def fresh(kind: str) -> Encoder:
    """A tower of its own, to be changed by the test. Random weights, always the same."""
    if kind == "open_clip":
        return encoder_of(seeded(_open_clip), 12, key=kind)
    if kind == "open_clip_in_house":
        return encoder_of(seeded(lambda: _open_clip(block_type="custom", qk_norm=True)), 12, key=kind)
    if kind == "open_clip_pooled":
        return encoder_of(
            seeded(lambda: _open_clip(attentional_pool=True, attn_pooler_queries=3, attn_pooler_heads=2)), 12, key=kind
        )
    return _hf(kind) if kind.startswith("hf_") else load_encoder(kind, weights="random")


@cache
def tower(kind: str) -> Encoder:
    """The same, shared by tests that leave it as it is."""
    return fresh(kind)


EMBEDDED = ("clip_tiny", "siglip_tiny")
KINDS = ("open_clip", "open_clip_in_house", "open_clip_pooled", "hf_clip", "hf_siglip", "hf_siglip2", *EMBEDDED)


def pixels_for(encoder: Encoder, images: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 3, encoder.resolution, encoder.resolution, generator=generator)


def keys_for(images: int = 3) -> Tensor:
    return image_keys([f"image {i}" for i in range(images)])
