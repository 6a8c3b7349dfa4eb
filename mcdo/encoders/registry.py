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
        key="clip_l14_336",
        family="clip",
        backend="open_clip",
        name="ViT-L-14-336-quickgelu",
        pretrained="openai",
        resolution=336,
        feature_dim=768,
        loss="softmax",
        hf_id="openai/clip-vit-large-patch14-336",
        quick_gelu=True,
    ),
    EncoderSpec(
        "pe_core_l14", "pe_core", "open_clip", "PE-Core-L-14-336", 336, 1024, "softmax", "meta", quick_gelu=False
    ),
    EncoderSpec(
        "mobileclip2_s0", "mobileclip", "open_clip", "MobileCLIP2-S0", 256, 512, "softmax", "dfndr2b", quick_gelu=False
    ),
    EncoderSpec(
        key="pe_core_b16",
        family="pe_core",
        backend="open_clip",
        name="PE-Core-B-16",
        pretrained="meta",
        resolution=224,
        feature_dim=1024,
        loss="softmax",
        quick_gelu=False,
    ),
    EncoderSpec(
        key="pe_core_l14",
        family="pe_core",
        backend="open_clip",
        name="PE-Core-L-14-336",
        pretrained="meta",
        resolution=336,
        feature_dim=1024,
        loss="softmax",
        quick_gelu=False,
    ),
    EncoderSpec(
        key="mobileclip2_s0",
        family="mobileclip",
        backend="open_clip",
        name="MobileCLIP2-S0",
        pretrained="dfndr2b",
        resolution=256,
        feature_dim=512,
        loss="softmax",
        quick_gelu=False,
    ),
    EncoderSpec("dinov2_small", "dinov2", "hf", "facebook/dinov2-small", 224, 384, "softmax"),
    EncoderSpec("dinov2_base", "dinov2", "hf", "facebook/dinov2-base", 224, 768, "softmax"),
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
