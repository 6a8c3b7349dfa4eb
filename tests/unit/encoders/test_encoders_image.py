"""Image encoders without text by key: timm, torchvision and transformers, from weights on this disk alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from mcdo.encoders import find_spec, load_encoder
from mcdo.errors import McdoError

SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32}


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def made(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        return build().eval()


def saved(folder: Path, model: nn.Module, name: str = "model.safetensors") -> Path:
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / name)
    return folder / name


def timm_vit() -> Any:
    import timm

    return timm.create_model("test_vit", pretrained=False)


def test_timm_loads_weights_of_this_disk_and_reads_what_the_classifier_would(tmp_path: Path) -> None:
    from timm.data import create_transform, resolve_model_data_config

    model = made(timm_vit)
    file = saved(tmp_path, model)
    shown = create_transform(**resolve_model_data_config(model), is_training=False)(picture())
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(shown[None]), pre_logits=True)
    for key in (f"timm:test_vit@{file}", f"timm:test_vit@{tmp_path}"):
        encoder = load_encoder(key)
        found = encoder.forward_image(encoder.normalise(encoder.to_uint8(picture())[None]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert (encoder.key, encoder.has_text, encoder.random_weights) == (key, False, False)
    assert load_encoder("timm:test_vit", weights="random", seed=1).random_weights


def test_torchvision_loads_weights_of_this_disk_and_reads_what_the_classifier_would(tmp_path: Path) -> None:
    from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

    model = made(shufflenet_v2_x0_5)
    file, state = saved(tmp_path, model), model.state_dict()
    shown = ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()(picture())
    model.fc = nn.Identity()
    encoder = load_encoder(f"tv:shufflenet_v2_x0_5@{file}")
    with torch.no_grad():
        found = encoder.forward_image(encoder.normalise(encoder.to_uint8(picture())[None]))
        torch.testing.assert_close(found, model(shown[None]), rtol=1e-3, atol=1e-3 * float(found.std()))
    assert encoder.feature_dim == 1024
    both = tmp_path / "both.pth"
    torch.save({"model": state, "model_ema": {f"module.{name}": value for name, value in state.items()}}, both)
    with pytest.raises(McdoError, match=r"holds model and model_ema, two sets of weights"):
        load_encoder(f"tv:shufflenet_v2_x0_5@{both}")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("timm:test_vitt", "no model 'test_vitt'; the nearest: .*test_vit"),
        ("timm:hf_hub:someone/model", "no model 'hf_hub:someone/model'"),
        ("timm:test_vit@/nowhere", "there is no /nowhere"),
        ("timm:vit_small_patch14_dinov2.lvd142m", "hf download timm/vit_small_patch14_dinov2.lvd142m"),
        ("tv:resnet19", "no classification model 'resnet19'; the nearest: resnet1"),
        ("tv:resnet18@/nowhere", "there is no /nowhere"),
        ("tv:resnet18", r"curl --create-dirs -o \S+resnet18-f37072fd.pth https"),
    ],
)
def test_what_is_not_there_is_an_error_with_the_remedy(
    key: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(McdoError, match=said):
        load_encoder(key)


def test_weights_that_do_not_fit_are_refused_and_nothing_is_interpolated(tmp_path: Path) -> None:
    import timm

    other = saved(
        tmp_path, made(lambda: timm.create_model("test_vit", img_size=96, pretrained=False)), "other.safetensors"
    )
    with pytest.raises(McdoError, match="so it would have to be interpolated"):
        load_encoder(f"timm:test_vit@{other}")
    for key in ("timm:test_resnet", "tv:shufflenet_v2_x0_5"):
        with pytest.raises(McdoError, match="cannot be loaded into this model"):
            load_encoder(f"{key}@{other}")
    lacking = made(timm_vit).state_dict()
    del lacking["blocks.0.attn.qkv.weight"]
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(McdoError, match="cannot be loaded into this model"):
        load_encoder(f"timm:test_vit@{tmp_path / 'lacking.safetensors'}")
    with pytest.raises(McdoError, match="its classifier is no linear layer"):
        load_encoder("tv:squeezenet1_0", weights="random")


def test_image_keys_have_no_other_backend_and_are_known_without_loading() -> None:
    assert find_spec("timm:test_vit").key == "timm:test_vit"
    with pytest.raises(McdoError, match="has no other backend"):
        load_encoder("tv:resnet18", backend="hf")


CONVNEXT = {"hidden_sizes": [8, 16, 16, 32], "depths": [1, 1, 1, 1]}
HF: dict[str, tuple[str, str, dict[str, Any], Callable[[Any], Tensor]]] = {
    "dinov2": ("Dinov2", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "dinov2 of another size": ("Dinov2", "Model", {"patch_size": 8, "image_size": 64}, lambda out: out.pooler_output),
    "dinov2 registers": ("Dinov2WithRegisters", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "dinov2 classifier": ("Dinov2", "ForImageClassification", {"patch_size": 8}, lambda out: out.pooler_output),
    "dinov3": ("DINOv3ViT", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "vit": ("ViT", "Model", {"patch_size": 8}, lambda out: out.last_hidden_state[:, 0]),
    "vit classifier": ("ViT", "ForImageClassification", {"patch_size": 8}, lambda out: out.last_hidden_state[:, 0]),
    "clip": ("CLIPVision", "ModelWithProjection", {"patch_size": 8, "projection_dim": 12}, lambda o: o.image_embeds),
    "clip without projection": ("CLIPVision", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "siglip": ("SiglipVision", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "dinov3 convnext": ("DINOv3ConvNext", "Model", CONVNEXT, lambda out: out.pooler_output),
    "metaclip 2": ("MetaClip2Vision", "ModelWithProjection", {"patch_size": 8}, lambda out: out.image_embeds),
    "metaclip 2 without projection": ("MetaClip2Vision", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "aimv2": ("Aimv2Vision", "Model", {"patch_size": 8}, lambda out: out.pooler_output),
    "siglip2 naflex": ("Siglip2Vision", "Model", {"patch_size": 8, "num_patches": 16}, lambda o: o.pooler_output),
}  # fmt: skip


def make_tower(kind: str, folder: Path) -> tuple[Any, Any]:
    """Model and image processor of one of :data:`HF`, tiny and untrained, as they are saved in the folder."""
    import transformers

    name, end, options, _ = HF[kind]
    mlp = {"intermediate_size"}
    absent = {"Dinov2": mlp, "Dinov2WithRegisters": mlp, "Siglip2Vision": {"image_size"}, "DINOv3ConvNext": {*SHAPE}}
    shape = {key: value for key, value in SHAPE.items() if key not in absent.get(name, ())}
    config = getattr(transformers, f"{name}Config")(**{**shape, **options})
    model = made(lambda: getattr(transformers, f"{name}{end}")(config))
    processor: Any
    if kind == "siglip2 naflex":
        processor = transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
    else:
        size = {"height": 32, "width": 32}
        processor = transformers.ViTImageProcessor(size=size, image_mean=[0.4] * 3, image_std=[0.3] * 3)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


@pytest.mark.parametrize("kind", HF)
def test_image_towers_of_transformers_are_read_as_the_library_reads_them(kind: str, tmp_path: Path) -> None:
    _, end, _, features = HF[kind]
    model, processor = make_tower(kind, tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    tower = getattr(model, model.base_model_prefix) if end == "ForImageClassification" else model
    square = picture().resize((32, 32))
    batch = processor(images=square, return_tensors="pt")
    with torch.no_grad():
        pixels = encoder.normalise(encoder.to_uint8(square)[None])
        torch.testing.assert_close(encoder.forward_image(pixels), features(tower(**batch)), rtol=1e-3, atol=1e-4)
    assert not encoder.has_text
    assert encoder.resolution == 32
    assert load_encoder(f"hf:{tmp_path}", weights="random").random_weights


@pytest.mark.parametrize("both", [False, True], ids=["image tower", "both towers"])
def test_a_tower_of_transformers_without_a_pooling_head_is_refused(both: bool, tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipVisionConfig, SiglipVisionModel

    vision = {**SHAPE, "patch_size": 8, "vision_use_head": False}
    text = {key: value for key, value in SHAPE.items() if key != "image_size"} | {"vocab_size": 16}
    model = made(
        lambda: (
            SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
            if both
            else SiglipVisionModel(SiglipVisionConfig(**vision))
        )
    )
    model.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    known = hasattr(SiglipVisionConfig(), "vision_use_head")  # to the library
    said = "leaves out the pooling head" if known else "unknown key 'vision_use_head'"
    with pytest.raises(McdoError, match=said):
        load_encoder(f"hf:{tmp_path}").forward_image(torch.zeros(1, 3, 32, 32))
