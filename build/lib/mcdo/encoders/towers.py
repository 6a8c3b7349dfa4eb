"""The image tower of the embedded SigLIP-style encoders, under a name that timm knows.

open_clip's configuration names a timm architecture but cannot change its size, so a size that timm does not ship has
to be registered; an encoder of one's own may do the same, as long as its module is imported first.
"""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer

from mcdo.encoders.recipe import HEADS, LAYERS, MLP_RATIO, PATCH, RESOLUTION, WIDTH


# timm warns when a name is registered twice from one module; a re-import (importlib.reload) does not matter here.
@register_model  # type: ignore[untyped-decorator]
def mcdo_vit_tiny_patch8_siglip_32(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Fused qkv, attention pooling, no class token: timm's SigLIP tower at 32 px, width 48, 3 layers."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
    size = {
        "img_size": RESOLUTION,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": LAYERS,
        "num_heads": HEADS,
        "mlp_ratio": MLP_RATIO,
        "class_token": False,
        "global_pool": "map",
        "weight_init": "jax",  # Xavier, as SigLIP itself; timm's default of 0.02 is far too small at this width
    }
    return VisionTransformer(**{**size, **kwargs})
