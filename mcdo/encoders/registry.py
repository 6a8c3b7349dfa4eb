"""The encoders known by key: one entry each."""

from __future__ import annotations

from mcdo.encoders.spec import EncoderSpec

_SPECS = (
    EncoderSpec("clip_tiny", "clip", "open_clip", "clip_tiny", 32, 48, "softmax", embedded=True, default=True),
    EncoderSpec("clip_tiny_sigmoid", "clip", "open_clip", "clip_tiny_sigmoid", 32, 48, "sigmoid", embedded=True),
    EncoderSpec("siglip_tiny_softmax", "siglip", "open_clip", "siglip_tiny_softmax", 32, 48, "softmax", embedded=True),
    EncoderSpec("siglip_tiny", "siglip", "open_clip", "siglip_tiny", 32, 48, "sigmoid", embedded=True, default=True),
    EncoderSpec(
        key="clip_b32",
        family="clip",
        backend="open_clip",
        name="ViT-B-32-quickgelu",
        pretrained="openai",
        resolution=224,
        feature_dim=512,
        loss="softmax",
        hf_id="openai/clip-vit-base-patch32",
        quick_gelu=True,
    ),
    EncoderSpec(
        key="clip_l14",
        family="clip",
        backend="open_clip",
        name="ViT-L-14-quickgelu",
        pretrained="openai",
        resolution=224,
        feature_dim=768,
        loss="softmax",
        hf_id="openai/clip-vit-large-patch14",
        quick_gelu=True,
    ),
    EncoderSpec(
        key="siglip2_b16",
        family="siglip",
        backend="open_clip",
        name="ViT-B-16-SigLIP2",
        pretrained="webli",
        resolution=224,
        feature_dim=768,
        loss="sigmoid",
        hf_id="google/siglip2-base-patch16-224",
        quick_gelu=False,
    ),
    EncoderSpec(
        key="siglip2_so400m",
        family="siglip",
        backend="open_clip",
        name="ViT-SO400M-14-SigLIP2-378",
        pretrained="webli",
        resolution=378,
        feature_dim=1152,
        loss="sigmoid",
        hf_id="google/siglip2-so400m-patch14-384",
        quick_gelu=False,
    ),
    EncoderSpec(
        key="siglip2_g16",
        family="siglip",
        backend="open_clip",
        name="ViT-gopt-16-SigLIP2-384",
        pretrained="webli",
        resolution=384,
        feature_dim=1536,
        loss="sigmoid",
        hf_id="google/siglip2-giant-opt-patch16-384",
        quick_gelu=False,
    ),
)

REGISTRY: dict[str, EncoderSpec] = {spec.key: spec for spec in _SPECS}


def registered_keys() -> tuple[str, ...]:
    """All keys, the embedded encoders first."""
    return tuple(REGISTRY)
