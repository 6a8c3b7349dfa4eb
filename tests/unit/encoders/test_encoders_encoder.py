from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mcdo.encoders import REGISTRY, Encoder, load_encoder
from mcdo.encoders.load import check_tokenizer
from mcdo.encoders.recipe import CLASS_NAMES
from mcdo.encoders.zero_shot import class_prompts
from mcdo.errors import McdoError

EMBEDDED = [key for key, spec in REGISTRY.items() if spec.embedded]
PROMPTS = [f"a photo of a {name}" for name in CLASS_NAMES]


@cache
def encoder_of(key: str) -> Encoder:
    return load_encoder(key)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def library_preprocess(model: nn.Module) -> Callable[[Image.Image], Tensor]:
    import open_clip

    settings: Any = model.visual.preprocess_cfg  # type: ignore[union-attr]
    cfg = open_clip.transform.PreprocessCfg(**settings)
    transform: Callable[[Image.Image], Tensor] = open_clip.transform.image_transform_v2(cfg, is_train=False)
    return transform


@pytest.mark.parametrize("key", EMBEDDED)
@pytest.mark.parametrize("size", [(32, 32), (47, 80), (300, 20), (8, 8)])
def test_own_preprocessing_equals_the_library_bit_for_bit(key: str, size: tuple[int, int]) -> None:
    encoder, image = encoder_of(key), picture(*size)
    pixels = encoder.to_uint8(image)
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, 32, 32))
    assert torch.equal(encoder.normalise(pixels[None])[0], library_preprocess(encoder.model)(image))


@pytest.mark.parametrize("key", [key for key, spec in REGISTRY.items() if spec.pretrained])
def test_full_size_preprocessing_equals_the_library_bit_for_bit(key: str) -> None:
    """The settings are the tag's, so this needs no model."""
    import open_clip

    from mcdo.encoders import open_clip_backend

    spec = REGISTRY[key]
    settings = open_clip.get_pretrained_cfg(spec.name, spec.pretrained)
    kept = {name: settings[name] for name in ("mean", "std", "interpolation", "resize_mode")}
    model: Any = SimpleNamespace(visual=SimpleNamespace(preprocess_cfg={"size": spec.resolution, **kept}))
    ours = open_clip_backend._preprocessing(key, model)
    assert ours.mean == settings["mean"]
    mean, std = (torch.tensor(values)[:, None, None] for values in (ours.mean, ours.std))
    for size in ((640, 480), (100, 333)):
        image = picture(*size)
        normalised = (ours.to_uint8(image).float() / 255 - mean) / std
        assert torch.equal(normalised, library_preprocess(model)(image))


@pytest.mark.parametrize("key", EMBEDDED)
def test_encoder_is_frozen_in_evaluation_mode_and_float32(key: str) -> None:
    encoder = encoder_of(key)
    assert not any(module.training for module in encoder.model.modules())
    assert not any(p.requires_grad or p.dtype != torch.float32 for p in encoder.model.parameters())
    roots = dict(encoder.model.named_modules())
    assert all(roots[name] is module for name, module in (*encoder.image_modules, *encoder.towers.text_modules))


@pytest.mark.parametrize("key", EMBEDDED)
def test_towers_are_of_the_stated_kinds(key: str) -> None:
    encoder = encoder_of(key)
    visual = dict(encoder.image_modules)["visual"]
    has_attention = any(isinstance(m, nn.MultiheadAttention) for m in visual.modules())
    has_fused_qkv = any(name.endswith("attn.qkv") for name, _ in visual.named_modules())
    has_pool = any(name.endswith("attn_pool") for name, _ in visual.named_modules())
    clip = encoder.spec.family == "clip"
    assert (has_attention, has_fused_qkv, has_pool) == ((True, False, False) if clip else (False, True, True))
    assert hasattr(visual, "class_embedding") == clip


@pytest.mark.parametrize("key", EMBEDDED)
def test_features_are_pre_norm_and_differentiable(key: str) -> None:
    encoder = encoder_of(key)
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    features = encoder.forward_image(pixels)
    assert features.shape == (4, encoder.feature_dim)
    assert float((features.detach().norm(dim=-1) - 1).abs().min()) > 1e-2
    torch.autograd.backward(encoder.zero_shot_logits(features, ["one", "two"], "a {}").sum())
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


@pytest.mark.parametrize("key", EMBEDDED)
def test_zero_shot_head_equals_the_logits_of_the_library(key: str) -> None:
    encoder = encoder_of(key)
    pixels = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = ["one", "two", "three"]
    with torch.no_grad():
        expected, _ = encoder.model.get_logits(pixels, encoder.tokenize([f"a {name}" for name in names]))  # type: ignore[operator]
        ours = encoder.zero_shot_logits(encoder.forward_image(pixels), names, "a {}")
    torch.testing.assert_close(ours, expected)
    assert (encoder.logit_bias != 0) == (encoder.loss == "sigmoid")
    stacked = encoder.zero_shot_logits(encoder.forward_image(pixels).expand(2, 5, -1), names, "a {}")
    assert stacked.shape == (2, 5, 3)


def test_template_without_a_place_for_the_name_is_refused() -> None:
    with pytest.raises(McdoError, match=r"no \{\} for the class name"):
        encoder_of("clip_tiny").zero_shot_logits(torch.zeros(1, 48), ["one"], "a digit")


def test_text_features_do_not_depend_on_the_batch_size() -> None:
    encoder = encoder_of("clip_tiny")
    torch.testing.assert_close(encoder.encode_text(PROMPTS, batch_size=3), encoder.encode_text(PROMPTS))
    with pytest.raises(McdoError, match="no prompts"):
        encoder.encode_text([])


@pytest.mark.parametrize("key", EMBEDDED)
def test_text_of_the_digits_is_not_collapsed(key: str) -> None:
    assert encoder_of(key).text_collapse(PROMPTS) < 0.9


def test_text_collapse_is_the_mean_cosine_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("clip_tiny")
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    monkeypatch.setattr(encoder, "encode_text", lambda prompts: vectors)
    assert encoder.text_collapse(["a", "b", "c"]) == pytest.approx((0 + 2 * 0.5**0.5) / 3)
    monkeypatch.setattr(encoder, "encode_text", lambda prompts: torch.ones(4, 2))
    assert encoder.text_collapse(["a"] * 4) == pytest.approx(1)
    with pytest.raises(McdoError, match="at least two"):
        encoder.text_collapse(["a"])


def test_hashes_see_tensors_that_no_state_dict_holds() -> None:
    first, second = load_encoder("clip_tiny"), load_encoder("clip_tiny")
    for encoder, value in ((first, 1.0), (second, 1.0)):
        head: Any = encoder.model.visual
        head.held = {"scale": [torch.full((3,), value)]}
        head.register_buffer("unsaved", torch.full((3,), value), persistent=False)
    first, second = (_made_anew(encoder) for encoder in (first, second))
    hashes = first.weights_hash, first.architecture
    assert hashes == (second.weights_hash, second.architecture)
    assert hashes[0] != load_encoder("clip_tiny").weights_hash
    heads: list[Any] = [encoder.model.visual for encoder in (first, second)]
    heads[0].held["scale"][0][1] = 2.0
    heads[1].unsaved[1] = 2.0
    assert (first.weights_hash != hashes[0], first.architecture != hashes[1]) == (True, False)
    assert (second.weights_hash != hashes[0], second.architecture != hashes[1]) == (False, True)
    heads[1].cache = torch.zeros(3)  # left behind by a pass
    assert second.weights_hash == hashes[0]


def _made_anew(encoder: Encoder) -> Encoder:
    return Encoder(
        encoder.spec,
        encoder.model,
        encoder.towers,
        encoder.preprocessing,
        encoder._load_tokenizer,
        random_weights=True,
        device=encoder.device,
    )


def test_siglip2_text_needs_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(McdoError, match="hf download timm/ViT-B-16-SigLIP2"):
        check_tokenizer("siglip2_b16")


LONG = " ".join(["one"] * 100)


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
@pytest.mark.parametrize(
    ("one", "other"),
    [("Seven", "seven"), ("two  three", "two three"), (f"{LONG} two", f"{LONG} three"), ("unheard", "unseen")],
    ids=["case", "spaces", "beyond-the-context", "unknown-words"],
)
def test_classes_whose_prompts_are_the_same_tokens_are_refused_by_name(key: str, one: str, other: str) -> None:
    encoder, names = encoder_of(key), [one, "nine", other]
    classes = SimpleNamespace(name="mine", class_names=names)
    for refused in (
        lambda: encoder.zero_shot_logits(torch.zeros(1, 48), names, "a {}"),
        lambda: class_prompts(encoder, classes),  # type: ignore[arg-type]
    ):
        with pytest.raises(McdoError, match=f"{key}: .*{one[-5:]}' and .*{other[-5:]}' are the same") as told:
            refused()
        assert len(str(told.value)) < 400
    encoder.check_distinct(["a seven", "a nine"])


def test_a_class_name_with_braces_is_a_name() -> None:
    logits = encoder_of("clip_tiny").zero_shot_logits(torch.zeros(1, 48), ["{x}", "nine"], "a {}")
    assert logits.shape == (1, 2)


def test_a_bare_text_is_not_taken_for_its_letters() -> None:
    encoder = encoder_of("clip_tiny")
    for call in (encoder.tokenize, encoder.encode_text, encoder.text_collapse, encoder.check_distinct):
        with pytest.raises(McdoError, match=r"'a seven' is one \w+ and not a list of them"):
            call("a seven")
    with pytest.raises(McdoError, match="'seven' is one name and not a list of them"):
        encoder.zero_shot_logits(torch.zeros(1, 48), "seven", "a {}")


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16])
def test_a_coarse_default_type_of_torch_is_refused(default: torch.dtype) -> None:
    """Weights had been rounded to it as they were loaded, and sums over probes as they were taken."""
    loaded = encoder_of("clip_tiny")
    torch.set_default_dtype(default)
    try:
        with pytest.raises(McdoError, match="get_default_dtype"):
            load_encoder("clip_tiny")
        with pytest.raises(McdoError, match="get_default_dtype"):
            loaded.check_as_loaded()
    finally:
        torch.set_default_dtype(torch.float32)
