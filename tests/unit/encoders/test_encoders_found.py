"""Checkpoints as they are found: other ways to write settings, to save weights and to shape pictures.

Each is right, which is what the library itself makes of it, or refused by name.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_encoders_hf import ending, make_checkpoint
from test_encoders_image import made, picture, saved
from torch import Tensor, nn

from mcdo.encoders import Encoder, load_encoder
from mcdo.encoders.load import check_tokenizer
from mcdo.encoders.recipe import tokenizer
from mcdo.encoders.spec import MODELS_DIR
from mcdo.errors import McdoError

MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
NUMBERS = {"do_normalize": True, "do_resize": True, "image_mean": MEAN, "image_std": STD, "resample": 3}
RESCALED = {"do_rescale": True, "rescale_factor": 0.00392156862745098}
SQUARE = {"height": 16, "width": 16}
VIT = {**NUMBERS, "size": SQUARE, "image_processor_type": "ViTImageProcessor"}
SHAPES = ((50, 70), (70, 50), (1, 1), (1, 40), (40, 1), (3, 17), (3, 3), (4, 900))


def image(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def shown(encoder: Encoder, picture: Image.Image) -> Tensor:
    return encoder.normalise(encoder.to_uint8(picture)[None])[0]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("clip", tmp_path_factory.mktemp("clip"))


def rewritten(clip: Path, folder: Path, **files: Any) -> Path:
    """The checkpoint with other files of settings: None leaves one out."""
    folder.mkdir()
    for file in clip.iterdir():
        (folder / file.name).symlink_to(file)  # as in the hub's cache
    for stem, held in files.items():
        (folder / f"{stem}.json").unlink(missing_ok=True)
        if held is not None:
            (folder / f"{stem}.json").write_text(json.dumps(held), encoding="utf-8")
    return folder


# ---- image processors of transformers

PROCESSORS: dict[str, tuple[dict[str, Any], str]] = {
    "2021": (
        {
            **NUMBERS, "size": 16, "crop_size": 16, "do_center_crop": True,
            "feature_extractor_type": "CLIPFeatureExtractor",
        },
        "CLIPImageProcessor",
    ),
    "2022": (
        {**NUMBERS, **RESCALED, "size": SQUARE, "image_processor_type": "ViTFeatureExtractor"},
        "ViTImageProcessor",
    ),
    "both names": (
        {
            **NUMBERS, **RESCALED, "size": {"shortest_edge": 16}, "crop_size": SQUARE, "do_center_crop": True,
            "do_convert_rgb": True, "feature_extractor_type": "CLIPFeatureExtractor",
            "image_processor_type": "CLIPFeatureExtractor",
        },
        "CLIPImageProcessor",
    ),
    "fast": ({**VIT, **RESCALED, "image_processor_type": "ViTImageProcessorFast"}, "ViTImageProcessor"),
    "larger, then cropped": (
        {**NUMBERS, "size": {"shortest_edge": 24}, "crop_size": SQUARE, "image_processor_type": "BitImageProcessor"},
        "BitImageProcessor",
    ),
    "no type": ({**NUMBERS, "size": {"shortest_edge": 16}, "crop_size": SQUARE}, "CLIPImageProcessor"),
    "nearest": ({**VIT, "resample": 0}, "ViTImageProcessor"),
    "lanczos": ({**VIT, "resample": 1}, "ViTImageProcessor"),
    "no mean": ({**VIT, "do_normalize": False}, "ViTImageProcessor"),
    "floats": (
        {
            **NUMBERS, **RESCALED, "resample": 2, "size": SQUARE, "image_processor_type": "DINOv3ViTImageProcessorFast",
            "crop_size": None, "data_format": "channels_first", "default_to_square": True, "device": None,
            "disable_grouping": None, "do_center_crop": None, "do_convert_rgb": None, "input_data_format": None,
            "return_tensors": None,
        },
        "DINOv3ViTImageProcessor",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_pictures_of_any_shape_are_shown_as_the_library_s_own_processor_shows_them(
    name: str, clip: Path, tmp_path: Path
) -> None:
    import transformers

    stated, kind = PROCESSORS[name]
    encoder = load_encoder(f"hf:{rewritten(clip, tmp_path / 'model', preprocessor_config=stated)}")
    processor = getattr(transformers, kind)(**{key: value for key, value in stated.items() if "_type" not in key})
    most = 0.5 / 255 / min(STD) if name == "floats" else 0  # it resizes floats; here pixels are whole levels
    for shape in SHAPES:
        expected = processor(images=image(*shape), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(shown(encoder, image(*shape)), expected, rtol=0, atol=most + 1e-5)


def test_settings_of_images_within_those_of_the_processor_count(clip: Path, tmp_path: Path) -> None:
    nested = {"image_processor": dict(VIT)}
    encoder = load_encoder(f"hf:{rewritten(clip, tmp_path / 'nested', processor_config=nested)}")
    assert encoder.preprocessing.mean == tuple(MEAN)
    plain = rewritten(clip, tmp_path / "plain", processor_config={"processor_class": "CLIPProcessor"})
    assert load_encoder(f"hf:{plain}").preprocess_id == load_encoder(f"hf:{clip}").preprocess_id
    nested["image_processor"].pop("image_mean")
    with pytest.raises(McdoError, match=r"processor_config\.json does not state image_mean"):
        load_encoder(f"hf:{rewritten(clip, tmp_path / 'wrong', processor_config=nested)}")


def test_a_processor_of_images_and_texts_is_taken_for_its_pictures(clip: Path) -> None:
    from transformers import AutoImageProcessor, CLIPProcessor

    images = AutoImageProcessor.from_pretrained(clip)
    tower = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten())
    both = Encoder.of(tower, CLIPProcessor(images, ending(tokenizer())))
    assert both.preprocess_id == Encoder.of(tower, images).preprocess_id


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "not rescaled": ({**NUMBERS, "size": SQUARE, "do_rescale": False}, "does not scale pixels by 1/255"),
    "to -1 to 1": ({**NUMBERS, "size": SQUARE, "rescale_factor": 1 / 127.5}, "does not scale pixels by 1/255"),
    "oblong": ({**NUMBERS, "size": {"shortest_edge": 16}, "do_center_crop": False}, "only squares"),
    "longest": (
        {**NUMBERS, "size": {"longest_edge": 16}, "do_center_crop": False},
        "only squares|cannot be read|fails on",
    ),
    "other size": ({**NUMBERS, "size": 32, "crop_size": 32}, "gives squares of 32 px, and the tower takes 16 px"),
    "not resized": ({**NUMBERS, "size": 16, "do_resize": False, "do_center_crop": False}, "only squares"),
    "never heard of": (
        {**NUMBERS, "size": 16, "image_processor_type": "LensFeatureExtractor"},
        "transformers has no LensImageProcessor",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_processor_that_cannot_be_followed_is_refused(name: str, clip: Path, tmp_path: Path) -> None:
    stated, said = UNFIT[name]
    with pytest.raises(McdoError, match=said):
        load_encoder(f"hf:{rewritten(clip, tmp_path / 'model', preprocessor_config=stated)}")


def test_naflex_shows_a_square_picture_as_the_library_does_and_checks_the_patches(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    folder = make_checkpoint("siglip2", tmp_path / "model")
    encoder, processor = load_encoder(f"hf:{folder}"), AutoImageProcessor.from_pretrained(folder)
    patches = processor(images=image(40, 40), return_tensors="pt")["pixel_values"][0]
    expected = patches.reshape(2, 2, 8, 8, 3).permute(4, 0, 2, 1, 3).reshape(3, 16, 16)
    torch.testing.assert_close(shown(encoder, image(40, 40)), expected, rtol=0, atol=1e-5)
    held = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    held["max_num_patches"] = 16
    (folder / "preprocessor_config.json").write_text(json.dumps(held), encoding="utf-8")
    with pytest.raises(McdoError, match="gives squares of 32 px, and the tower has positions for 16 px"):
        load_encoder(f"hf:{folder}")


# ---- configurations of transformers

OLD = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "bad_words_ids": None,
    "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None, "diversity_penalty": 0.0, "do_sample": False,
    "early_stopping": False, "finetuning_task": None, "id2label": {"0": "LABEL_0"}, "is_decoder": False,
    "is_encoder_decoder": False, "label2id": {"LABEL_0": 0}, "length_penalty": 1.0, "max_length": 20, "num_beams": 1,
    "output_attentions": False, "output_hidden_states": False, "prefix": None, "problem_type": None,
    "pruned_heads": {}, "return_dict": True, "task_specific_params": None, "tie_word_embeddings": True, "top_k": 50,
    "tokenizer_class": None, "torch_dtype": None, "torchscript": False, "transformers_version": "4.16.0.dev0",
    "use_bfloat16": False, "quantization_config": None,
}  # fmt: skip


def test_what_old_configurations_state_of_every_model_changes_nothing(clip: Path, tmp_path: Path) -> None:
    held = json.loads((clip / "config.json").read_text(encoding="utf-8"))
    towers = {f"{tower}_config": {**OLD, **held[f"{tower}_config"], **{"dropout": 0.0}} for tower in ("text", "vision")}
    towers["text_config"]["eos_token_id"] = 2  # whatever the tokenizer: the largest token is read
    old = {**held, **towers, "text_config_dict": None, "vision_config_dict": None, "torch_dtype": "float32"}
    words = json.loads((clip / "tokenizer_config.json").read_text(encoding="utf-8"))
    words |= {
        "special_tokens_map_file": "/home/someone/.cache/map.json",
        "model_max_length": 10**30,
        "name_or_path": "./",
    }
    folder = rewritten(clip, tmp_path / "old", config=old, tokenizer_config=words)
    found, plain = load_encoder(f"hf:{folder}"), load_encoder(f"hf:{clip}")
    pixels = shown(plain, picture())[None]
    assert torch.equal(found.forward_image(pixels), plain.forward_image(pixels))
    assert torch.equal(found.encode_text(["a photo of a two"]), plain.encode_text(["a photo of a two"]))


@pytest.mark.parametrize("kind", ["clip", "metaclip_2"])
@pytest.mark.parametrize("end", [0, 2])
def test_a_tokenizer_that_does_not_end_texts_where_the_tower_reads_is_refused(
    kind: str, end: int, tmp_path: Path
) -> None:
    folder = make_checkpoint(kind, tmp_path / "model")
    held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    held["text_config"]["eos_token_id"] = end
    other = rewritten(folder, tmp_path / "other", config=held)
    if (kind, end) == ("clip", 2):
        assert load_encoder(f"hf:{other}").tokenize(["a two"]).shape == (1, 16)
        return
    for look in (check_tokenizer, lambda key: load_encoder(key).tokenize(["a two", "a seven"])):
        with pytest.raises(McdoError, match=f"does not go with eos_token_id = {end} in config.json"):
            look(f"hf:{other}")


# ---- weights of transformers

SAVED: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "shards": ({"max_shard_size": "8KB"}, torch.float32),
    "float16": ({}, torch.float16),
    "bfloat16": ({}, torch.bfloat16),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("float16", kind) for kind in ("CLIPVision", "DINOv3ViT", "Aimv2Vision", "SiglipVision")),
        ("bfloat16", "DINOv3ViT"),
        ("shards", "CLIPVision"),
    ],
)
def test_weights_are_read_as_the_library_reads_them_in_float32(name: str, kind: str, tmp_path: Path) -> None:
    import transformers

    options, dtype = SAVED[name]
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{kind}Config")(**shape, image_size=32, patch_size=8)
    model = made(lambda: getattr(transformers, f"{kind}Model")(config)).to(dtype)
    model.save_pretrained(tmp_path, **options)
    assert (name == "shards") == (tmp_path / "model.safetensors.index.json").exists()
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}")
    exact = getattr(transformers, f"{kind}Model")(config).eval()  # what is computed when it is built is in float32
    exact.load_state_dict(model.state_dict())
    pixels = shown(encoder, picture())[None]
    with torch.no_grad():
        expected = exact(pixel_values=pixels).pooler_output
    torch.testing.assert_close(encoder.forward_image(pixels), expected, rtol=1e-5, atol=1e-5)


def test_weights_are_not_rounded_to_the_type_that_the_configuration_names(clip: Path, tmp_path: Path) -> None:
    held = json.loads((clip / "config.json").read_text(encoding="utf-8"))
    half = rewritten(clip, tmp_path / "half", config={**held, "dtype": "float16", "torch_dtype": "float16"})
    assert load_encoder(f"hf:{half}").weights_hash == load_encoder(f"hf:{clip}").weights_hash


# ---- weights of timm and torchvision


def vit(classes: int = 1000, **built: Any) -> Any:
    import timm

    return timm.create_model("test_vit", num_classes=classes, pretrained=False, **built)


def shufflenet(classes: int = 1000) -> Any:
    """The smallest that ends in a classifier of one layer: a tenth of resnet18."""
    from torchvision.models import shufflenet_v2_x0_5

    return shufflenet_v2_x0_5(num_classes=classes)


def half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


WRAPPED: dict[str, Callable[[dict[str, Tensor]], dict[str, Any]]] = {
    "plain": lambda state: state,
    "of a trainer": lambda state: {
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "epoch": 3,
    },
    "of torchvision's references": lambda state: {"model": state, "epoch": 3},
    "without classifier": lambda state: {k: v for k, v in state.items() if not k.startswith(("head.", "fc."))},
}


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(("key", "build"), [("timm:test_vit", vit), ("tv:shufflenet_v2_x0_5", shufflenet)])
def test_weights_with_any_classifier_and_in_any_wrapping_are_read(
    key: str, build: Callable[[int], Any], wrapped: str, tmp_path: Path
) -> None:
    model = made(lambda: build(7))
    torch.save(WRAPPED[wrapped](half(model.state_dict())), tmp_path / "mine.pth")
    encoder = load_encoder(f"{key}@{tmp_path / 'mine.pth'}")
    model, pixels = model.half().float(), torch.rand(1, 3, *2 * [160 if key.startswith("timm") else 64])
    with torch.no_grad():
        if key.startswith("timm"):
            model.reset_classifier(0)
        else:
            model.fc = nn.Identity()
        torch.testing.assert_close(encoder.forward_image(pixels), model.eval()(pixels), rtol=1e-4, atol=1e-7)


STATED = {
    "input_size": [3, 96, 96], "interpolation": "bilinear", "mean": MEAN, "std": STD, "crop_pct": 0.8,
    "crop_mode": "squash",
}  # fmt: skip


def written(folder: Path, shown: dict[str, Any] = STATED, **changes: Any) -> Path:
    """A folder as timm writes it, of a model of another size and with other classes."""
    config = {
        "architecture": "test_vit", "num_classes": 7, "num_features": 64, "global_pool": "token", "label_names": ["a"],
        "model_args": {"num_classes": 7, "img_size": 96}, "pretrained_cfg": {**shown, "tag": "mine", "url": ""},
    }  # fmt: skip
    saved(folder, made(lambda: vit(7, img_size=96)))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
    return folder


def test_weights_are_shown_pictures_as_the_configuration_beside_them_says(tmp_path: Path) -> None:
    from timm.data import create_transform

    encoder = load_encoder(f"timm:test_vit@{written(tmp_path)}")
    expected = create_transform(**STATED, is_training=False)(picture())
    torch.testing.assert_close(shown(encoder, picture()), expected, rtol=0, atol=1e-5)
    model = made(lambda: vit(7, img_size=96))
    model.reset_classifier(0)
    with torch.no_grad():
        torch.testing.assert_close(encoder.forward_image(expected[None]), model(expected[None]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architecture": "test_vit2"}, "is of the architecture 'test_vit2'; name that one"),
        ({"model_args": {"patch_size": 8}}, "model_args has the unknown key 'patch_size'"),
        ({"global_pool": "avg"}, "pools features by 'avg', and the model by 'token'"),
        ({"shown": {"input_size": [3, 96, 96]}}, "pretrained_cfg lacks the key interpolation"),
        ({"shown": {**STATED, "input_size": [1, 96, 96]}}, r"pretrained_cfg.input_size\[0\]: Invalid enum"),
    ],
)
def test_a_configuration_of_timm_that_is_not_followed_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(McdoError, match=said):
        load_encoder(f"timm:test_vit@{written(tmp_path, **changes)}")


def test_weights_that_could_be_shown_pictures_in_several_ways_need_a_tag(tmp_path: Path) -> None:
    from torchvision.models import RegNet_Y_400MF_Weights, get_model

    model = saved(tmp_path, made(lambda: get_model("regnet_y_400mf", weights=None)))
    key = "tv:regnet_y_400mf"
    with pytest.raises(McdoError, match=rf"in several ways; .*{key}.TAG@PATH \(IMAGENET1K_V1, IMAGENET1K_V2"):
        load_encoder(f"{key}@{model}")
    encoder = load_encoder(f"{key}.IMAGENET1K_V1@{model}")
    expected = RegNet_Y_400MF_Weights.IMAGENET1K_V1.transforms()(picture())
    torch.testing.assert_close(shown(encoder, picture()), expected, rtol=0, atol=1e-5)
    with pytest.raises(
        McdoError, match="has no weights 'V3' of regnet_y_400mf; there are: IMAGENET1K_V1, IMAGENET1K_V2"
    ):
        load_encoder(f"{key}.V3@{model}")
    with pytest.raises(McdoError, match=r"there are weights of resnet18 that are shown .*\(resnet18.a1_in1k, "):
        load_encoder(f"timm:resnet18@{model}")
    with pytest.raises(McdoError, match="cannot be loaded into this model"):
        load_encoder(f"timm:resnet18.a1_in1k@{model}")


def test_weights_of_timm_that_were_trained_with_quick_gelu_are_refused_under_the_name_with_gelu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    from mcdo.encoders import timm_backend

    file, name = tmp_path / "model.safetensors", "vit_base_patch32_clip_224"
    file.write_bytes(b"")
    small = vit()
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: small)
    with pytest.raises(McdoError, match="with QuickGELU; name vit_base_patch32_clip_quickgelu_224 in its place"):
        load_encoder(f"timm:{name}.openai@{file}")
    with pytest.raises(McdoError, match=r"ways, or activated; .*vit_gigantic_patch14_clip_224.metaclip_2pt5b"):
        load_encoder(f"timm:vit_gigantic_patch14_clip_224@{file}")
    beside = {"architecture": name, "pretrained_cfg": {**STATED, "tag": "openai"}}
    (tmp_path / "config.json").write_text(json.dumps(beside), encoding="utf-8")
    with pytest.raises(McdoError, match="is of the architecture 'vit_base_patch32_clip_quickgelu_224'; name that one"):
        load_encoder(f"timm:{name}@{file}")
    with pytest.raises(McdoError, match="cannot be loaded into this model"):  # the right name: the empty file is next
        load_encoder(f"timm:vit_base_patch32_clip_quickgelu_224@{file}")
    native = [each for each in timm.list_pretrained("*clip*") if timm.get_pretrained_cfg(each).notes]
    assert all(timm.is_model(timm_backend._trained_as(each)) for each in native)
    assert sum("quickgelu" not in each for each in native) > 10


def test_patches_of_another_size_are_not_interpolated(tmp_path: Path) -> None:
    import timm

    other = saved(tmp_path, made(lambda: timm.create_model("test_vit", img_size=80, patch_size=8)))
    with pytest.raises(McdoError, match=r"of shape \(64, 3, 8, 8\) for another size .* would have to be interpolated"):
        load_encoder(f"timm:test_vit@{other}")


def test_weights_of_the_size_are_read_where_timm_resizes_whatever_the_size(tmp_path: Path) -> None:
    import timm

    model = made(lambda: timm.create_model("tiny_vit_5m_224"))
    encoder = load_encoder(f"timm:tiny_vit_5m_224@{saved(tmp_path, model)}")
    pixels = encoder.calibration_inputs(1)
    with torch.no_grad():
        expected = model.forward_head(model.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(encoder.forward_image(pixels), expected)


def test_positions_of_another_size_are_not_interpolated_by_hand_either(tmp_path: Path) -> None:
    import timm

    other = saved(tmp_path, made(lambda: timm.create_model("mvitv2_tiny", img_size=256)))
    with pytest.raises(McdoError, match="for another size of picture, window or patch than the model's"):
        load_encoder(f"timm:mvitv2_tiny@{other}")


@pytest.mark.parametrize("name", ["googlenet", "densenet121"])
def test_torchvision_s_own_weights_are_read_as_it_reads_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """googlenet's have the model shift colours first; in densenet's file tensors have names of once."""
    from torchvision import models

    densenet = models.densenet._densenet
    of_few = (8, (1, 1, 1, 1), 16)
    monkeypatch.setattr(
        models.densenet, "_densenet", lambda *given, **options: densenet(*of_few, *given[3:], **options)
    )
    entry = models.get_model_weights(name).DEFAULT
    options = {"init_weights": False} if name == "googlenet" else {}
    state = made(lambda: models.get_model(name, weights=None, **options)).state_dict()
    file = tmp_path / "hub" / "checkpoints" / Path(entry.url).name
    file.parent.mkdir(parents=True)
    renamed = {re.sub(r"(denselayer\d+\.\w+)([12])\.", r"\1.\2.", key): value for key, value in state.items()}
    torch.save({key: value for key, value in renamed.items() if "num_batches" not in key}, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    model = models.get_model(name, weights=entry).eval()
    setattr(model, "fc" if name == "googlenet" else "classifier", nn.Identity())
    pixels = torch.rand(1, 3, 64, 64)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-9)  # untrained, features are tiny
    with torch.no_grad():
        expected = model(pixels)
        close(load_encoder(f"tv:{name}").forward_image(pixels), expected)
    if name == "densenet121":
        return
    other = file.rename(tmp_path / "mine.pth")
    with pytest.raises(McdoError, match=r"transform_input\); name those .*tv:googlenet.TAG@PATH \(IMAGENET1K_V1\)"):
        load_encoder(f"tv:{name}@{other}")
    with torch.no_grad():
        found = load_encoder(f"tv:{name}.IMAGENET1K_V1@{other}").forward_image(pixels)
        close(found, expected)


# ---- pictures


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny", "timm:test_vit", "tv:shufflenet_v2_x0_5"])
def test_odd_pictures_are_shown_as_by_the_library_and_too_long_ones_refused(key: str) -> None:
    import open_clip
    import timm
    from torchvision.models import ShuffleNet_V2_X0_5_Weights

    from mcdo.encoders.spec import MODELS_DIR

    weights = "random" if ":" in key else "pretrained"
    encoder = load_encoder(key, weights=weights)
    if key.startswith("timm"):
        whole = timm.data.create_transform(**timm.data.resolve_model_data_config(vit()), is_training=False)
    elif key.startswith("tv"):
        whole = ShuffleNet_V2_X0_5_Weights.DEFAULT.transforms()
    else:
        whole = open_clip.create_model_and_transforms(f"local-dir:{MODELS_DIR / key}")[2]
    for shape in SHAPES:
        torch.testing.assert_close(shown(encoder, image(*shape)), whole(image(*shape)), rtol=0, atol=1e-5)
    with pytest.raises(McdoError, match=r"1 x \d+ pixels are too long for"):
        encoder.to_uint8(Image.new("RGB", (1, 90_000_000 // encoder.resolution**2)))


def _of_clip(tmp_path: Path) -> tuple[str, Path]:
    folder = tmp_path / "model"
    shutil.copytree(MODELS_DIR / "clip_tiny", folder)
    return f"local-dir:{folder}", folder / "open_clip_model.safetensors"


def _of_transformers(tmp_path: Path) -> tuple[str, Path]:
    folder = make_checkpoint("clip", tmp_path / "model")
    return f"hf:{folder}", folder / "model.safetensors"


def _of_timm(tmp_path: Path) -> tuple[str, Path]:
    import timm

    file = saved(tmp_path, made(lambda: timm.create_model("test_vit.r160_in1k")))
    return f"timm:test_vit.r160_in1k@{file}", file


def _of_torchvision(tmp_path: Path) -> tuple[str, Path]:
    from torchvision.models import mobilenet_v3_small

    file = saved(tmp_path, made(mobilenet_v3_small))
    return f"tv:mobilenet_v3_small@{file}", file


@pytest.mark.parametrize("checkpoint", [_of_clip, _of_transformers, _of_timm, _of_torchvision])
def test_numbers_of_another_kind_than_the_model_s_are_not_cast(
    checkpoint: Callable[[Path], tuple[str, Path]], tmp_path: Path
) -> None:
    """Such as quantised weights whose scales were left behind: torch makes another encoder of them without a word."""
    key, file = checkpoint(tmp_path)
    state = load_file(file)
    name = next(name for name, value in state.items() if value.dim() == 2 and "logit" not in name)
    held = state[name]
    for dtype in (torch.int8, torch.bool, torch.complex64):
        save_file({**state, name: (100 * held).to(dtype)}, file, metadata={"format": "pt"})
        with pytest.raises(McdoError, match=re.escape(f"{file} holds {name} as ")):
            load_encoder(key)
        save_file({"of another": torch.zeros(2, dtype=dtype)}, file.with_name(f"model_{dtype}.safetensors"))
    save_file({**state, name: held.to(torch.bfloat16)}, file, metadata={"format": "pt"})
    load_encoder(key)


@pytest.mark.parametrize("checkpoint", [_of_clip, _of_transformers, _of_timm, _of_torchvision])
def test_weights_that_are_no_numbers_are_refused_when_they_are_loaded(
    checkpoint: Callable[[Path], tuple[str, Path]], tmp_path: Path
) -> None:
    key, file = checkpoint(tmp_path)
    state = load_file(file)
    name = next(name for name, value in state.items() if name.endswith("weight") and value.dim() == 2)
    for number in (torch.nan, -torch.inf):
        state[name][0, 1] = number
        save_file(state, file, metadata={"format": "pt"})
        said = rf"{name} holds 1 of {state[name].numel()} numbers that are NaN or infinite"
        with pytest.raises(McdoError, match=said):
            load_encoder(key)


@pytest.mark.parametrize("position_ids", [True, False])
def test_numbers_of_another_kind_in_files_of_torch_are_not_cast_either(tmp_path: Path, position_ids: bool) -> None:
    key, file = _of_transformers(tmp_path)
    state, name = load_file(file), "vision_model.encoder.layers.0.mlp.fc1.weight"
    file.unlink()
    if position_ids:  # which files of that time hold, and which are whole numbers
        state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    else:
        state[name] = (100 * state[name]).to(torch.uint8)
    torch.save(state, file.with_name("pytorch_model.bin"))
    if position_ids:
        load_encoder(key)
    else:
        with pytest.raises(McdoError, match=re.escape(f"pytorch_model.bin holds {name} as uint8")):
            load_encoder(key)
