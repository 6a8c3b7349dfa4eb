"""The entries: sizes, what is read, random weights only by name, and what a missing download says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.studies.backbones import dinov2, registry
from mcdo.studies.backbones.registry import AFTER_PROJECTION, BACKBONES, BEFORE_PROJECTION, find_backbone, load_backbone


@pytest.fixture
def picture() -> Image.Image:
    return Image.effect_noise((90, 70), 80).convert("RGB")


def test_the_four_of_the_study_state_768_and_bioclip2_a_batch_of_32() -> None:
    of_study = [BACKBONES[key] for key in ("dinov2", "clip_b16", "bioclip", "bioclip2")]
    assert [spec.feature_size for spec in of_study] == [768] * 4
    assert [spec.batch_size for spec in of_study] == [64, 64, 64, 32]
    assert [spec.reads for spec in of_study[1:]] == [BEFORE_PROJECTION, BEFORE_PROJECTION, AFTER_PROJECTION]


@pytest.mark.parametrize(
    ("architecture", "width", "projected"), [("ViT-B-16-quickgelu", 768, 512), ("ViT-L-14", 1024, 768)]
)
def test_768_is_before_the_projection_of_a_base_and_after_that_of_a_large_tower(
    architecture: str, width: int, projected: int
) -> None:
    import open_clip

    config = open_clip.get_model_config(architecture)
    assert (config["vision_cfg"]["width"], config["embed_dim"]) == (width, projected)


@pytest.mark.parametrize("name", ["dinov2", "clip_b16", "bioclip", "bioclip2"])
def test_weights_that_are_not_here_are_an_error_with_the_command(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(McdoError, match=r"hf download \S+/\S+"):
        load_backbone(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bioclip3", "unknown backbone 'bioclip3'; the nearest: bioclip"),
        ("random:clip_tinny", "the nearest: clip_tiny"),
        ("random:mean_colour", "has no weights that could be random"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        load_backbone(name)


def test_an_embedded_encoder_is_a_backbone_and_gives_its_own_features(picture: Image.Image) -> None:
    backbone, encoder = load_backbone("clip_tiny"), load_encoder("clip_tiny")
    with torch.no_grad():
        expected = encoder.forward_image(encoder.normalise(encoder.to_uint8(picture)[None]))
    assert torch.equal(backbone.features([picture]), expected)
    assert backbone.weights == encoder.weights_hash
    assert not backbone.random_weights


def test_random_weights_are_another_backbone_by_name_and_hash() -> None:
    random, trained = load_backbone("random:clip_tiny"), load_backbone("clip_tiny")
    assert (random.name, random.random_weights) == ("random:clip_tiny", True)
    assert random.weights != trained.weights
    assert random.weights == load_backbone("random:clip_tiny").weights
    assert find_backbone("random:clip_tiny") == find_backbone("clip_tiny")


def test_building_leaves_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    load_backbone("random:clip_tiny")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_before_the_projection_times_the_projection_is_encode_image(
    monkeypatch: pytest.MonkeyPatch, picture: Image.Image
) -> None:
    """On a small tower of the same class; the projection is what the entry leaves out."""
    from mcdo.encoders import open_clip_backend
    from mcdo.encoders.registry import REGISTRY

    spec = REGISTRY["clip_tiny"]
    monkeypatch.setitem(registry._ARCHITECTURES, "small", spec)
    encoder, cut = load_encoder("clip_tiny"), load_encoder("clip_tiny")
    monkeypatch.setattr(open_clip_backend, "load", lambda spec, **_: cut)
    small = replace(BACKBONES["clip_b16"], key="small", feature_size=48)
    before = registry._open_clip(small, False, 0, "cpu")
    projected = before.features([picture]) @ encoder.model.get_parameter("visual.proj")
    assert torch.allclose(
        projected, encoder.forward_image(encoder.normalise(encoder.to_uint8(picture)[None])), atol=1e-5
    )
    assert before.weights == encoder.weights_hash


def test_a_dinov2_checkpoint_is_read_whole_or_refused(tmp_path: Path, picture: Image.Image) -> None:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=768, num_hidden_layers=1, image_size=518, patch_size=14)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        saved = Dinov2Model(config).eval()
    saved.save_pretrained(tmp_path)
    loaded = dinov2.from_folder(tmp_path).eval()
    pixels = dinov2.to_uint8(picture)[None]
    with torch.no_grad():
        assert torch.equal(dinov2.class_token(loaded, pixels), dinov2.class_token(saved, pixels))
    assert dinov2._hash(loaded) == dinov2._hash(saved)
    Dinov2Config(hidden_size=768, num_hidden_layers=2, image_size=518, patch_size=14).save_pretrained(tmp_path)
    with pytest.raises(McdoError, match="parameters unfilled, the first encoder"):
        dinov2.from_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["dinov2", "clip_b16", "bioclip"])
def test_base_architectures_give_768(key: str, picture: Image.Image) -> None:
    backbone = load_backbone(f"random:{key}")
    found = backbone.features([picture, picture.rotate(90)])
    assert found.shape == (2, 768)
    assert not torch.equal(found[0], found[1])


@pytest.mark.slow
def test_bioclip_through_encode_image_would_be_512_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "bioclip", replace(BACKBONES["bioclip"], reads=AFTER_PROJECTION))
    with pytest.raises(McdoError, match=r"gives features of \(512,\), but \(768,\) is stated"):
        load_backbone("random:bioclip")


@pytest.mark.slow
def test_bioclip2_gives_768_through_encode_image(picture: Image.Image) -> None:
    """1024 is the width before its projection, as the configuration above says."""
    assert load_backbone("random:bioclip2").features([picture]).shape == (1, 768)
