"""HuggingFace checkpoints made here, tiny and untrained: the towers and their handling are what is tested."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mcdo.encoders import load_encoder
from mcdo.encoders.recipe import tokenizer
from mcdo.errors import McdoError

_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def _text(words: Any) -> dict[str, Any]:
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": words.unk_token_id}
    return {**_TOWER, "vocab_size": len(words), "max_position_embeddings": 16, **ids}


def ending(words: Any) -> Any:
    """A tokenizer whose end of text is its largest token, as CLIP's is; SigLIP's kinds have theirs anywhere."""
    held = json.loads(words.backend_tokenizer.to_str())
    names = sorted(held["model"]["vocab"], key=lambda name: (name == "<eos>", held["model"]["vocab"][name]))
    held["model"]["vocab"] = {name: i for i, name in enumerate(names)}
    for token in held["added_tokens"]:
        token["id"] = held["model"]["vocab"][token["content"]]
    held["post_processor"]["special_tokens"]["<eos>"]["ids"] = [held["model"]["vocab"]["<eos>"]]

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>", "model_max_length": 16}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(held)), **special)


def make_checkpoint(kind: str, folder: Path, **saved: Any) -> Path:
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        MetaClip2Config,
        MetaClip2Model,
        Siglip2Config,
        Siglip2ImageProcessor,
        Siglip2Model,
        SiglipConfig,
        SiglipImageProcessor,
        SiglipModel,
    )

    words = ending(tokenizer()) if kind in ("clip", "metaclip_2") else tokenizer()
    vision = {**_TOWER, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        if kind in ("clip", "metaclip_2"):
            configuration, model = (CLIPConfig, CLIPModel) if kind == "clip" else (MetaClip2Config, MetaClip2Model)
            clip = configuration(text_config=_text(words), vision_config=vision, projection_dim=12)
            model(clip).save_pretrained(folder, **saved)
            CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
                folder
            )
        elif kind == "siglip":
            text = {**_text(words), "projection_size": 16}
            SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
            SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
        else:
            text = {**_text(words), "projection_size": 16}
            shape = {**_TOWER, "num_patches": 4, "patch_size": 8}
            Siglip2Model(Siglip2Config(text_config=text, vision_config=shape)).save_pretrained(folder)
            Siglip2ImageProcessor(patch_size=8, max_num_patches=4).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "metaclip_2", "siglip", "siglip2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    kind = str(request.param)
    return kind, make_checkpoint(kind, tmp_path_factory.mktemp(kind))


def _picture(size: tuple[int, int] = (40, 29)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_checkpoint_loads_with_its_family_loss_and_size(checkpoint: tuple[str, Path]) -> None:
    kind, folder = checkpoint
    encoder = load_encoder(f"hf:{folder}")
    clip = kind in ("clip", "metaclip_2")
    assert (encoder.spec.family, encoder.loss) == (("clip", "softmax") if clip else ("siglip", "sigmoid"))
    assert (encoder.resolution, encoder.feature_dim) == (16, 12 if clip else 16)
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert encoder.forward_image(torch.zeros(3, 3, 16, 16)).shape == (3, encoder.feature_dim)
    names = [name for name, _ in encoder.image_modules]
    assert names == (["vision_model", "visual_projection"] if clip else ["vision_model"])


def test_features_equal_those_of_the_library(checkpoint: tuple[str, Path]) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    kind, folder = checkpoint
    encoder = load_encoder(f"hf:{folder}")
    # The variable-shape processor keeps the aspect ratio, which this harness does not, so it is shown a square.
    picture = _picture((40, 40)) if kind == "siglip2" else _picture()
    pixels = encoder.normalise(encoder.to_uint8(picture)[None])
    library: Any = AutoModel.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    shown = processor(images=picture, return_tensors="pt")
    words = AutoTokenizer.from_pretrained(folder)(
        ["a photo of a two"], padding="max_length", padding_side="right", max_length=16, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        image, text = library.get_image_features(**shown), library.get_text_features(input_ids=words)
        ours_image, ours_text = encoder.forward_image(pixels), encoder.encode_text(["a photo of a two"])
    for ours, theirs in ((ours_image, image), (ours_text, text)):
        torch.testing.assert_close(ours, theirs if isinstance(theirs, torch.Tensor) else theirs.pooler_output)


def test_zero_shot_head_uses_scale_and_bias(checkpoint: tuple[str, Path]) -> None:
    kind, folder = checkpoint
    encoder = load_encoder(f"hf:{folder}")
    features = torch.randn(4, encoder.feature_dim, generator=torch.Generator().manual_seed(1))
    names = ["a", "two"]  # to SigLIP2's kind of tokenizer, most words of this vocabulary are one unknown word
    logits = encoder.zero_shot_logits(features, names, "{}")
    units = torch.nn.functional.normalize(encoder.encode_text(names), dim=-1)
    cosines = torch.nn.functional.normalize(features, dim=-1) @ units.T
    torch.testing.assert_close(logits, encoder.logit_scale * cosines + encoder.logit_bias)
    assert encoder.logit_scale > 0
    assert kind in ("siglip", "siglip2") or encoder.logit_bias == 0


def test_autograd_reaches_the_pixels(checkpoint: tuple[str, Path]) -> None:
    encoder = load_encoder(f"hf:{checkpoint[1]}")
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    torch.autograd.backward(encoder.forward_image(pixels).square().sum())
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_random_weights_of_a_checkpoint_follow_the_seed(checkpoint: tuple[str, Path]) -> None:
    key = f"hf:{checkpoint[1]}"
    first, again = (load_encoder(key, weights="random", seed=5) for _ in range(2))
    other = load_encoder(key, weights="random", seed=6)
    assert first.random_weights
    assert first.weights_hash == again.weights_hash != other.weights_hash


def test_parameter_missing_from_the_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("siglip", tmp_path)
    state = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}  # not mapped to the file
    del state["vision_model.post_layernorm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(McdoError, match=r"vision_model.post_layernorm.weight.*leave random"):
        load_encoder(f"hf:{folder}")


def test_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("clip", tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(McdoError, match=r"the weights are not in .*weights='random'"):
        load_encoder(f"hf:{folder}")


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("never"),)  # type: ignore[return-value]


def test_pickle_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_checkpoint("clip", tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Evil(), protocol=2))
    with pytest.raises(McdoError, match="not unpickled"):
        load_encoder(f"hf:{folder}")
    assert not (tmp_path / "never").exists()


def test_other_model_type_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), encoding="utf-8")
    with pytest.raises(McdoError, match=r"'bert'.*not handled"):
        load_encoder(f"hf:{tmp_path}")


def test_registered_fallback_not_on_disk_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(McdoError, match="hf download google/siglip2-base-patch16-224") as told:
        load_encoder("siglip2_b16", backend="hf", weights="random")
    assert "weights='random'" not in str(told.value), "no advice to who did so"


@pytest.mark.parametrize(("act", "fits"), [("quick_gelu", True), ("gelu", False)])
def test_registered_fallback_on_disk_loads_with_quick_gelu_only(
    act: str, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--openai--clip-vit-base-patch32"
    folder = make_checkpoint("clip", home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc", encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["vision_config"]["hidden_act"] = act
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if not fits:
        with pytest.raises(McdoError, match=r"trained with QuickGELU.*hidden_act='gelu'"):
            load_encoder("clip_b32", backend="hf")
        return
    encoder = load_encoder("clip_b32", backend="hf")
    assert (encoder.key, encoder.spec.backend, encoder.feature_dim) == ("clip_b32", "hf", 12)
    assert encoder.tokenize(["a two"]).shape == (1, 16)


def _edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    contents = json.loads(path.read_text(encoding="utf-8"))
    change(contents)
    path.write_text(json.dumps(contents), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("preprocessor_config.json", lambda c: c.pop("image_mean"), "does not state image_mean"),
        ("preprocessor_config.json", lambda c: (c.pop("resample"), c.pop("size")), "does not state resample, size"),
        (
            "preprocessor_config.json",
            lambda c: c.update(image_st=c.pop("image_std")),
            "'image_st'; the nearest: image_std",
        ),
        ("preprocessor_config.json", lambda c: c.update(do_resise=False), "'do_resise'; the nearest: do_resize"),
        (
            "preprocessor_config.json",
            lambda c: c.update(size="large"),
            "size is 'large': Expected int",
        ),
        ("config.json", lambda c: c["vision_config"].update(image_size=[16, 32]), "only square images"),
        ("config.json", lambda c: c["vision_config"].update(num_attention_heads=3), "cannot be loaded|reads|build"),
        ("config.json", lambda c: c["text_config"].update(hidden_act="gellu"), "cannot be loaded|reads|build"),
        ("config.json", lambda c: c["vision_config"].update(pruned_heads={"0": [1]}), "pruned towers are not loaded"),
        ("tokenizer_config.json", lambda c: c.update(tokenizer_class=3), "tokenizer_class is 3: Expected str"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_its_file(
    file: str, change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path
) -> None:
    folder = make_checkpoint("siglip", tmp_path / "model")
    _edited(folder / file, change)
    with pytest.raises(McdoError, match=said) as told:
        load_encoder(f"hf:{folder}").tokenize(["one"])
    assert str(folder) in str(told.value)


@pytest.mark.parametrize("kind", ["clip", "siglip2"])
def test_a_checkpoint_that_answers_in_tuples_has_the_same_features(kind: str, tmp_path: Path) -> None:
    folder, pixels = make_checkpoint(kind, tmp_path / "model"), torch.rand(2, 3, 16, 16)
    expected = load_encoder(f"hf:{folder}").forward_image(pixels)
    bare = {"return_dict": False}
    _edited(folder / "config.json", lambda c: c.update(bare, vision_config={**c["vision_config"], **bare}))
    torch.testing.assert_close(load_encoder(f"hf:{folder}").forward_image(pixels), expected)


def test_a_checkpoint_in_a_folder_of_any_bytes_is_read(tmp_path: Path) -> None:
    folder = make_checkpoint("clip", tmp_path / "model")
    expected = load_encoder(f"hf:{folder}").weights_hash
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    folder.rename(latin)
    assert load_encoder(f"hf:{latin}").weights_hash == expected


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"resample": 0}, "other pixels of a square of 97 px than resizing with resample = 0"),
        ({"do_resize": False}, "image processor of .* RuntimeError"),
        ({"resample": 4}, "image processor of .* NotImplementedError"),
    ],
)
def test_naflex_squares_are_those_of_its_processor_or_refused(
    setting: dict[str, Any], said: str, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    from mcdo.encoders.hf_preprocessing import patches

    folder = make_checkpoint("siglip2", tmp_path / "model")
    encoder, picture = load_encoder(f"hf:{folder}"), _picture((43, 43))
    theirs = AutoImageProcessor.from_pretrained(folder)(images=picture, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(patches(encoder.normalise(encoder.to_uint8(picture)[None]), 8)[0], theirs)
    _edited(folder / "preprocessor_config.json", lambda c: c.update(setting))
    with pytest.raises(McdoError, match=said):
        load_encoder(f"hf:{folder}")


@pytest.mark.parametrize("file", ["preprocessor_config.json", "config.json", "tokenizer.json"])
def test_a_torn_file_is_an_error_that_names_its_folder(file: str, tmp_path: Path) -> None:
    folder = make_checkpoint("clip", tmp_path / "model")
    (folder / file).write_text('{"a": ', encoding="utf-8")
    with pytest.raises(McdoError, match=re.escape(str(folder))):
        load_encoder(f"hf:{folder}").tokenize(["one"])


def test_an_adapter_beside_the_weights_is_not_passed_over(tmp_path: Path) -> None:
    folder = make_checkpoint("clip", tmp_path / "model")
    (folder / "my-lora.safetensors").write_text("{}", encoding="utf-8")
    with pytest.raises(McdoError, match=r"holds an adapter \(my-lora\.safetensors\).*Merge it"):
        load_encoder(f"hf:{folder}")


def test_tensors_that_the_model_has_no_place_for_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("clip", tmp_path / "model")
    state = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
    state["vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 16)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(McdoError, match=r"1 tensors that its model has no place for \(.*lora_A"):
        load_encoder(f"hf:{folder}")
