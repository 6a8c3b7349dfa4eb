"""Tower families at small size: each is measured as torch's own dropout behind every linear map measures it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from native import BATCHES, keyed_variance
from torch import Tensor, nn
from toy_towers import seeded

from mcdo.encoders import REGISTRY, Encoder, load_encoder
from mcdo.perturbation import (
    Dropout,
    Role,
    check_alive,
    count_by_role,
    deterministic_features,
    find_sites,
    image_keys,
    perturbed,
)
from mcdo.threads import one_thread

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")]

PASSES = 32


def clip(**vision: Any) -> nn.Module:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    size: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = CLIPTextCfg(context_length=4, vocab_size=8, width=16, heads=1, layers=1)
    visual: nn.Module = CLIP(12, CLIPVisionCfg(**{**size, "mlp_ratio": 2.0, **vision}), text).visual
    return visual


def coca() -> nn.Module:
    from open_clip.coca_model import CoCa, MultimodalCfg
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    vision: dict[str, Any] = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    size: dict[str, Any] = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
    text = CLIPTextCfg(context_length=4, vocab_size=8, width=32, heads=1, layers=1, embed_cls=True, output_tokens=True)
    multimodal = MultimodalCfg(context_length=4, vocab_size=8, width=16, heads=1, layers=1)
    visual: nn.Module = CoCa(32, multimodal, text, CLIPVisionCfg(**size, **vision)).visual
    return visual


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    made: nn.Module = timm.create_model(name, pretrained=False, **{"num_classes": 8, **options})
    return made


def hf(name: str, **options: Any) -> nn.Module:
    import transformers

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(**{**shape, "image_size": 32, "patch_size": 8, **options})
    end = "ModelWithProjection" if name in ("CLIPVision", "MetaClip2Vision") else "Model"
    without = {"add_pooling_layer": False} if name == "ViT" else {}
    made: nn.Module = getattr(transformers, f"{name}{end}")(config, **without)
    return made


class NaFlexSiglip2(nn.Module):
    """SigLIP2's tower of variable shape, shown squares."""

    def __init__(self) -> None:
        super().__init__()
        self.model = hf("Siglip2Vision", num_patches=16)

    def forward(self, pixels: Tensor) -> Tensor:
        rows = pixels.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(len(pixels), 16, -1)
        shapes = torch.tensor([[4, 4]]).expand(len(pixels), -1)
        visible = torch.ones(rows.shape[:2], dtype=torch.int32)
        out: Tensor = self.model(pixel_values=rows, pixel_attention_mask=visible, spatial_shapes=shapes).pooler_output
        return out


def normed(kind: Callable[..., Any]) -> nn.Module:
    """Every layer behind weight norm."""
    tower = timm_model("test_vit", img_size=32, patch_size=8)
    for module in list(tower.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            kind(module)
    return tower


def lora() -> nn.Module:
    peft = pytest.importorskip("peft", reason='pip install "mcdo[peers]" brings peft')
    config = peft.LoraConfig(r=2, target_modules=["qkv", "proj", "fc1", "fc2"], init_lora_weights=False)
    wrapped: nn.Module = peft.get_peft_model(timm_model("test_vit", img_size=32), config)
    return wrapped


def tv(name: str, *args: Any, **options: Any) -> nn.Module:
    from torchvision import models

    made: nn.Module = getattr(models, name)(*args, num_classes=8, **options)
    return made


def tv_swin_v2() -> nn.Module:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    shape: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4]}
    how = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return tv("SwinTransformer", patch_size=[4, 4], **shape, **how)


def tv_convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig

    return tv("ConvNeXt", [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 1)])


def regnet() -> Any:
    from timm.models.regnet import RegNet, RegNetCfg

    return RegNet(RegNetCfg(depth=6, w0=16, wa=16.0, wm=2.0, group_size=8, se_ratio=0.25), num_classes=8)


def swin_v2() -> Any:
    import transformers

    shape: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
    return transformers.Swinv2Model(transformers.Swinv2Config(image_size=64, **shape))


def align() -> Any:
    import transformers

    shape: dict[str, Any] = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 64}
    return transformers.AlignVisionModel(
        transformers.AlignVisionConfig(image_size=64, initializer_range=0.2, **shape)  # .02 leaves nothing of the image
    )


def mixer() -> Any:
    from timm.models.mlp_mixer import MlpMixer

    return MlpMixer(num_classes=8, img_size=64, num_blocks=2, embed_dim=32)


def dinov3_convnext() -> Any:
    import transformers

    shape: dict[str, Any] = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
    return transformers.DINOv3ConvNextModel(transformers.DINOv3ConvNextConfig(image_size=64, **shape))


class Radio(nn.Module):
    """Returns a summary of the class token and the mean token, and all tokens, as agglomerative models do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm_model("vit_small_patch16_224", **{**VIT, "num_classes": 0})
        self.adaptor = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.model.forward_features(pixels)  # type: ignore[operator]
        summary = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=-1)
        return self.adaptor(summary), tokens[:, 1:]


def eager(name: str, **options: Any) -> nn.Module:
    return hf(name, attn_implementation="eager", **options)


SWIN: dict[str, Any] = {"embed_dim": 16, "depths": (1, 2), "num_heads": (1, 2), "img_size": 64}
VIT: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
FASTVIT: dict[str, Any] = {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32)}
POOL: dict[str, Any] = {"attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 2}
NET: dict[str, Any] = {"img_size": 64, "embed_dim": (32,) * 4, "depths": (1,) * 4}
PYRAMID: dict[str, Any] = {"embed_dims": (8, 16, 32, 32), "num_heads": (1, 2, 2, 2)}
TV_VIT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2, "mlp_dim": 48}
RESNET: dict[str, Any] = {"layers": (1, 1, 1, 1), "width": 8, "patch_size": None, "image_size": 64, "head_width": 32}
NAFLEX: dict[str, Any] = {"embed_dim": 32, "depth": 2, "num_heads": 2}
CONVNEXT: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (8, 16, 16, 32)}
SO400M: dict[str, Any] = {"hidden_size": 36, "intermediate_size": 70, "image_size": 28, "patch_size": 14}
ODD: dict[str, Any] = {"embed_dim": 36, "img_size": 56}
INTERN: dict[str, Any] = {"image_size": [32, 32], "patch_size": [8, 8], "use_qk_norm": True}
TOWERS: dict[str, tuple[Callable[[], Any], int, Any]] = {
    "clip class token": (clip, 32, None),
    "clip gap": (lambda: clip(pool_type="avg"), 32, None),
    "clip attention pooling": (lambda: clip(**POOL), 32, None),
    "clip layer scale": (lambda: clip(ls_init_value=0.2), 32, None),
    "clip in house": (lambda: clip(block_type="custom", qk_norm=True), 32, None),
    "clip resnet": (lambda: clip(**RESNET), 64, None),
    "coca": (coca, 32, 0),
    "pe core": (lambda: timm_model("vit_pe_core_base_patch16_224", **VIT), 64, None),
    "eva02": (lambda: timm_model("eva02_tiny_patch14_224", embed_dim=32, depth=2, num_heads=2, img_size=56), 56, None),
    "naflexvit gap": (lambda: timm_model("naflexvit_base_patch16_gap", embed_dim=32, depth=2, num_heads=2), 64, None),
    "naflexvit map": (lambda: timm_model("naflexvit_base_patch16_map", embed_dim=32, depth=2, num_heads=2), 64, None),
    "fastvit of mobileclip": (lambda: timm_model("fastvit_mci0", **FASTVIT), 64, None),
    "convnext": (lambda: timm_model("test_convnext"), 64, None),
    "resnet": (lambda: timm_model("test_resnet"), 64, None),
    "standardised resnet": (lambda: timm_model("resnetv2_50", layers=(1, 1), channels=(16, 32), stem_chs=8), 64, None),
    "swin": (lambda: timm_model("swin_tiny_patch4_window7_224", **SWIN), 64, None),
    "hiera": (lambda: timm_model("hiera_tiny_224", embed_dim=16, stages=(1, 1, 1, 1), img_size=(64, 64)), 64, None),
    "dinov2": (lambda: hf("Dinov2", mlp_ratio=2), 32, "pooler_output"),
    "dinov2 swiglu": (lambda: hf("Dinov2", mlp_ratio=2, use_swiglu_ffn=True), 32, "pooler_output"),
    "dinov2 registers": (lambda: hf("Dinov2WithRegisters", mlp_ratio=2), 32, "pooler_output"),
    "dinov2 eager": (lambda: eager("Dinov2", mlp_ratio=2), 32, "pooler_output"),
    "dinov3": (lambda: hf("DINOv3ViT"), 32, "pooler_output"),
    "vit": (lambda: hf("ViT"), 32, lambda out: out.last_hidden_state[:, 0]),
    "clip of transformers": (lambda: hf("CLIPVision", projection_dim=8), 32, "image_embeds"),
    "siglip of transformers": (lambda: hf("SiglipVision"), 32, "pooler_output"),
    "siglip2 naflex": (NaFlexSiglip2, 32, None),
    "vit with registers": (lambda: timm_model("vit_small_patch14_reg4_dinov2", **{**VIT, "img_size": 56}), 56, None),
    "dinov3 of timm": (lambda: timm_model("vit_small_patch16_dinov3", **VIT), 64, None),
    "siglip2 of timm": (lambda: timm_model("vit_base_patch16_siglip_224", **VIT), 64, None),
    "vit with rotary positions": (lambda: timm_model("vit_medium_patch16_rope_reg1_gap_256", **VIT), 64, None),
    "beit": (lambda: timm_model("beit_base_patch16_224", **VIT), 64, None),
    "beit of transformers": (lambda: hf("Beit", use_relative_position_bias=True), 32, "pooler_output"),
    "deit distilled": (lambda: timm_model("deit_tiny_distilled_patch16_224", **VIT), 64, None),
    "cait": (lambda: timm_model("cait_xxs24_224", **VIT), 64, None),
    "xcit": (lambda: timm_model("xcit_nano_12_p16_224", embed_dim=32, depth=2, num_heads=2), 64, None),
    "maxvit": (lambda: timm_model("maxvit_rmlp_pico_rw_256", **NET), 64, None),
    "coatnet": (lambda: timm_model("coatnet_rmlp_nano_rw_224", **NET), 64, None),
    "pvt": (lambda: timm_model("pvt_v2_b0", **PYRAMID), 64, None),
    "mixer": (mixer, 64, None),
    "efficientnet": (lambda: timm_model("test_efficientnet"), 64, None),
    "mobilenet": (lambda: timm_model("mobilenetv3_small_050"), 64, None),
    "regnet": (regnet, 64, None),
    "vit of torchvision": (lambda: tv("VisionTransformer", hidden_dim=32, **TV_VIT), 32, None),
    "swin v2 of torchvision": (tv_swin_v2, 64, None),
    "convnext of torchvision": (tv_convnext, 64, None),
    "swin v2 of transformers": (swin_v2, 64, "pooler_output"),
    "blip of transformers": (lambda: hf("BlipVision"), 32, "pooler_output"),
    "altclip of transformers": (lambda: hf("AltCLIPVision"), 32, "pooler_output"),
    "chinese clip of transformers": (lambda: hf("ChineseCLIPVision"), 32, "pooler_output"),
    "deit of transformers": (lambda: hf("DeiT"), 32, "pooler_output"),
    "align of transformers": (align, 64, "pooler_output"),
    "so400m of transformers": (lambda: hf("SiglipVision", **SO400M), 28, "pooler_output"),
    "so400m of timm": (lambda: timm_model("vit_so400m_patch14_siglip_224", **{**VIT, **ODD}), 56, None),
    "naflexvit of siglip2": (lambda: timm_model("naflexvit_base_patch16_siglip", **NAFLEX), 64, None),
    "dinov3 convnext": (dinov3_convnext, 64, "pooler_output"),
    "dinov3 convnext of timm": (lambda: timm_model("convnext_tiny.dinov3_lvd1689m", **CONVNEXT), 64, None),
    "metaclip 2": (lambda: hf("MetaClip2Vision", projection_dim=8), 32, "image_embeds"),
    "eva clip": (lambda: timm_model("eva02_base_patch16_clip_224", **VIT), 64, None),
    "eva giant clip": (lambda: timm_model("eva_giant_patch14_clip_224", **{**VIT, "img_size": 56}), 56, None),
    "pe spatial": (lambda: timm_model("vit_pe_spatial_tiny_patch16_512", **VIT), 64, None),
    "aimv2": (lambda: hf("Aimv2Vision"), 32, "pooler_output"),
    "aimv2 of timm": (lambda: timm_model("aimv2_large_patch14_224", **{**VIT, "img_size": 56}), 56, None),
    "internvit with norms of q and k": (lambda: hf("InternVLVision", **INTERN), 32, lambda out: out[0].mean(dim=1)),
    "internvit of timm": (lambda: timm_model("vit_intern300m_patch14_448", **{**VIT, "img_size": 56}), 56, None),
    "radio": (Radio, 64, 0),
    "davit": (lambda: timm_model("davit_tiny", depths=(1, 1, 1, 1), **PYRAMID), 64, None),
    "mambaout": (lambda: timm_model("mambaout_femto", **CONVNEXT), 64, None),
    "tiny vit": (lambda: timm_model("tiny_vit_5m_224", depths=(1, 1, 1, 1), **PYRAMID), 64, None),
    "lora": (lora, 32, None),
    "weight norm": (lambda: normed(nn.utils.parametrizations.weight_norm), 32, None),
    "old weight norm": (lambda: normed(nn.utils.weight_norm), 32, None),
    "compiled": (lambda: torch.compile(timm_model("test_vit", img_size=32, patch_size=8)), 32, None),
    "float16 weights": (lambda: clip().half(), 32, None),
    "bfloat16 weights": (lambda: timm_model("test_vit", img_size=32, patch_size=8).bfloat16(), 32, None),
}  # fmt: skip


def built(which: str) -> Encoder:
    build, side, features = TOWERS[which]

    def trained() -> Any:
        module = build().eval().requires_grad_(False)
        for parameter in module.parameters():  # what is made constant or tiny would leave branches dead, or norms equal
            if parameter.numel() > 1 and (parameter.float().std() == 0 or parameter.abs().max() < 1e-3):
                parameter.add_(0.3 * torch.randn_like(parameter))
        return module

    numbers = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": side, "interpolation": "bicubic"}
    return Encoder.of(seeded(trained), numbers, name=which, features=features, random_weights=True)


@contextmanager
def dropped(p: float, kept: set[int]) -> Iterator[None]:
    """Torch's own dropout behind every layer, where torch carries it out; ``kept`` are ids of weights without."""

    def behind(carry_out: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def carried_out(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            y = carry_out(x, weight, *args, **kwargs)
            sees_pixels = carry_out is F.conv2d and weight.shape[1] == 3
            return y if sees_pixels or id(weight) in kept else F.dropout(y, p)

        return carried_out

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with patch.object(F, "linear", behind(F.linear)), patch.object(F, "conv2d", behind(F.conv2d)):
        yield
    torch.backends.mha.set_fastpath_enabled(fast)


def reference(encoder: Encoder, pixels: Tensor, p: float) -> np.ndarray[Any, Any]:
    """Trace of passes with torch's own dropout behind every layer, but for the patch embedding: ``[BATCHES, B]``."""
    table = find_sites(encoder)
    names = {site.name for site in table.sites if site.role in (Role.PATCH_EMBEDDING, Role.CONSTANT)}
    kept = {id(weight) for name, weight in encoder.model.named_parameters() if name.removesuffix(".weight") in names}
    bare = any(site.name == "proj" for site in table.sites)  # x @ self.proj, the last of CLIP's maps
    rows = pixels.repeat_interleave(PASSES, dim=0)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), dropped(p, kept):
        torch.default_generator.manual_seed(5)
        batches = [encoder.forward_image(rows) for _ in range(BATCHES)]
        batches = [F.dropout(batch, p) if bare else batch for batch in batches]
    return torch.stack([y.view(len(pixels), PASSES, -1).var(1).mean(-1) for y in batches]).double().numpy()


@pytest.mark.parametrize("which", TOWERS)
def test_every_tower_is_measured_as_by_torch_s_own_dropout_behind_each_layer(which: str) -> None:
    p = 0.1
    with one_thread():
        encoder = built(which)
        pixels = encoder.calibration_inputs(2)
        identity = encoder.weights_hash, encoder.architecture
        alive = check_alive(encoder, pixels[:1], Dropout(p))
        assert len(alive) >= 4
        with perturbed(encoder, Dropout(0.0), 0) as drop:
            plain = deterministic_features(encoder, pixels)
            assert torch.equal(drop(pixels, image_keys(["a", "b"]), 0, 0, 0, 1)[:, 0], plain)
        ours = keyed_variance(encoder, pixels, Dropout(p), PASSES)
        theirs = reference(encoder, pixels, p)
    spread = [np.square(each.std(0, ddof=1) / each.mean(0)) / BATCHES for each in (ours, theirs)]
    error = np.sqrt(sum(spread))
    z = np.log(ours.mean(0) / theirs.mean(0)) / error
    assert np.abs(z).max() < 4, (z, error)
    assert error.max() < 0.2, "too few passes to tell anything"
    assert (encoder.weights_hash, encoder.architecture) == identity, "a pass left something behind in the identity"


def blocks(n: int, qkv: int = 1) -> dict[str, int]:
    return {"qkv": qkv * n, "attention_output": n, "fc1": n, "fc2": n}


REGISTERED: dict[str, dict[str, int]] = {
    "mobileclip2_s0": {**blocks(20), "qkv": 2, "attention_output": 2, "final_projection": 1, "convolution": 77},
    "pe_core_b16": {**blocks(12), "pooling_head": 5, "final_projection": 1},
    "dinov2_small": blocks(12, 3),
    "dinov2_base": blocks(12, 3),
    "clip_l14_336": {**blocks(24), "final_projection": 1},
    "pe_core_l14": {**blocks(24), "pooling_head": 5, "final_projection": 1},
}
"""Sites under "all", by role."""


def registered(key: str, folder: Path) -> Encoder:
    """The architecture of a key with random weights; transformers reads its own from a configuration."""
    spec = REGISTRY[key]
    if spec.backend == "open_clip":
        return load_encoder(key, weights="random")
    from transformers import BitImageProcessor, Dinov2Config

    size: dict[str, Any] = {"hidden_size": spec.feature_dim, "num_attention_heads": spec.feature_dim // 64}
    Dinov2Config(**size, image_size=518, patch_size=14).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}).save_pretrained(folder)
    encoder = load_encoder(f"hf:{folder}", weights="random")
    for norm in encoder.model.modules():  # as it is made, its last one gives all features one norm
        if isinstance(norm, nn.LayerNorm):
            nn.init.normal_(norm.weight, 1.0, 0.3)
    return encoder


@pytest.mark.parametrize("key", REGISTERED)
def test_registered_towers_have_every_site_and_are_alive_at_both_ends(key: str, tmp_path: Path) -> None:
    encoder = registered(key, tmp_path)
    assert (encoder.resolution, encoder.feature_dim) == (REGISTRY[key].resolution, REGISTRY[key].feature_dim)
    table = find_sites(encoder)
    assert count_by_role(table.select("all")) == REGISTERED[key]
    assert not [site.name for site in table.sites if site.obstacle]
    sites = table.select("all")
    ends = tuple(site.name for site in (*sites[:4], *sites[-6:]))
    assert len(check_alive(encoder, encoder.calibration_inputs(1), Dropout(0.1, ends))) == 10
