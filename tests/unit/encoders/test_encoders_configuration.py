"""Configurations of one's own that are wrong: each is an error with the file, the key and the remedy, and at once."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mcdo.encoders import REGISTRY, load_encoder
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import MODELS_DIR, square_side
from mcdo.errors import McdoError

Change = Callable[[dict[str, Any]], object]
HUB = "https://huggingface.co"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever asks the network fails the test, even where there is one; the cache is empty."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("something was looked up on the network")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def copied(key: str, tmp_path: Path, change: Change | None = None) -> Path:
    from mcdo.encoders.configuration import CONFIG

    folder = tmp_path / "model"
    shutil.copytree(MODELS_DIR / key, folder)
    contents = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if change is not None:
        change(contents)
    (folder / CONFIG).write_text(json.dumps(contents), encoding="utf-8")
    return folder


def model(**settings: Any) -> Change:
    return lambda c: c["model_cfg"].update(settings)


def vision(**settings: Any) -> Change:
    return lambda c: c["model_cfg"]["vision_cfg"].update(settings)


def text(**settings: Any) -> Change:
    return lambda c: c["model_cfg"]["text_cfg"].update(settings)


def shown(**settings: Any) -> Change:
    return lambda c: c["preprocess_cfg"].update(settings)


WRONG: dict[str, tuple[Change, str]] = {
    "no preprocessing": (lambda c: c.pop("preprocess_cfg"), "does not state mean and std"),
    "empty preprocessing": (lambda c: c.update(preprocess_cfg={}), "does not state mean and std"),
    "null preprocessing": (lambda c: c.update(preprocess_cfg=None), "does not state mean and std"),
    "preprocessing by another name": (
        lambda c: c.update(preprocess_cgf=c.pop("preprocess_cfg")),
        "unknown key 'preprocess_cgf'; the nearest: preprocess_cfg",
    ),
    "no mean": (lambda c: c["preprocess_cfg"].pop("mean"), "does not state mean,"),
    "null std": (shown(std=None), "does not state std,"),
    "mistyped resize mode": (
        lambda c: c["preprocess_cfg"].update(resize_mod=c["preprocess_cfg"].pop("resize_mode")),
        "preprocess_cfg has the unknown key 'resize_mod'; the nearest: resize_mode",
    ),
    "interpolation": (
        shown(interpolation="cubic"),
        "preprocess_cfg.interpolation is 'cubic': say 'bicubic', 'bilinear'",
    ),
    "resize mode": (shown(resize_mode="stretch"), "preprocess_cfg.resize_mode is 'stretch': say "),
    "two means": (shown(mean=[0.5, 0.5]), r"preprocess_cfg.mean is \[0.5, 0.5\]: Expected array of length >= 3"),
    "text for a mean": (shown(mean=["0.5"] * 3), r"preprocess_cfg.mean\[0\] is '0.5': Expected float"),
    "std of zero": (shown(std=[0.5, 0, 0.5]), r"preprocess_cfg.std\[1\] is 0: Expected float > 0.0"),
    "other size": (shown(size=64), "size = 64, but the image tower takes 32 px"),
    "size of an array": (shown(size=[3, 64, 64]), "the image tower takes 32 px"),
    "unknown vision key": (vision(imagesize=64), "vision_cfg has the unknown key 'imagesize'; the nearest: image_size"),
    "unknown text key": (
        text(context_len=8),
        "text_cfg has the unknown key 'context_len'; the nearest: context_length",
    ),
    "unknown model key": (model(quickgelu=True), "model_cfg has the unknown key 'quickgelu'; the nearest: quick_gelu"),
    "unknown timm name": (
        vision(timm_model_name="vit_base_patch16_siglip_24"),
        "'vit_base_patch16_siglip_24' is no architecture of timm .*nearest: vit_base_patch16_siglip_",
    ),
    "timm name on the hub": (vision(timm_model_name="hf-hub:timm/vit_tiny"), "is no architecture of timm"),
    "text tower on the hub": (text(hf_model_name="roberta-base"), "hf download roberta-base"),
    "a pooler that fails": (
        text(hf_model_name="roberta-base", hf_pooler_type="max_pooler"),
        "text_cfg.hf_pooler_type is 'max_pooler': say 'cls_last_hidden_state_pooler', 'cls_pooler', 'mean_pooler'",
    ),
    "no tokenizer": (
        lambda c: c["model_cfg"]["text_cfg"].pop("hf_tokenizer_name"),
        "a vocabulary of 33 and names no tokenizer",
    ),
    "not square": (vision(image_size=[32, 64]), r"image_size = \(32, 64\): only square images"),
    "no size at all": (vision(image_size="big"), "model_cfg.vision_cfg.image_size is 'big': Expected int | array"),
    "width in words": (model(embed_dim="wide"), "model_cfg.embed_dim is 'wide': Expected int"),
    "impossible heads": (text(heads=7), "open_clip cannot build the model of .*"),
    "unknown pool": (vision(timm_pool="mop"), "model_cfg.vision_cfg.timm_pool is 'mop': say '', 'abs_attn', 'avg'"),
    "vision of another kind": (model(vision_cfg=[]), r"model_cfg.vision_cfg is \[\]: Expected object, got array"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_an_error_with_file_and_remedy(name: str, tmp_path: Path) -> None:
    change, said = WRONG[name]
    folder = copied("siglip_tiny", tmp_path, change)
    with pytest.raises(McdoError, match=said) as told:
        load_encoder(f"local-dir:{folder}")
    assert str(folder) in str(told.value)


@pytest.mark.parametrize("key", [key for key, spec in REGISTRY.items() if spec.embedded])
def test_the_embedded_configurations_are_right(key: str) -> None:
    from mcdo.encoders.configuration import CONFIG, read_configuration

    _, preprocess = read_configuration(MODELS_DIR / key / CONFIG)
    assert set(preprocess) >= {"mean", "std", "interpolation", "resize_mode"}
    assert "not stated" not in load_encoder(key).preprocess_id


def test_an_equivalent_way_to_write_it_changes_nothing(tmp_path: Path) -> None:
    def change(c: dict[str, Any]) -> None:
        vision(image_size=[32, 32])(c)
        shown(size=[32, 32], mode="RGB")(c)

    mine, shipped = load_encoder(f"local-dir:{copied('clip_tiny', tmp_path, change)}"), load_encoder("clip_tiny")
    assert mine.preprocess_id == shipped.preprocess_id
    assert mine.resolution == shipped.resolution == 32
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine.forward_image(pixels), shipped.forward_image(pixels))


def test_what_open_clip_puts_in_is_recorded(tmp_path: Path) -> None:
    folder = copied(
        "clip_tiny", tmp_path, lambda c: [c["preprocess_cfg"].pop(k) for k in ("interpolation", "resize_mode")]
    )
    encoder = load_encoder(f"local-dir:{folder}")
    assert encoder.preprocess_id.startswith("open_clip shortest 32 px, bicubic")
    assert encoder.preprocess_id.endswith("(not stated: interpolation, resize_mode)")


def test_random_weights_were_trained_with_nothing_and_say_what_is_put_in(tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path, lambda c: c.pop("preprocess_cfg"))
    encoder = load_encoder(f"local-dir:{folder}", weights="random")
    assert encoder.preprocess_id.endswith("(not stated: mean, std, interpolation, resize_mode)")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (vision(image_size=64), r"17 positions of the image tower .*asks for 65.*Correct image_size"),
        (text(context_length=32), r"16 positions of the text tower .*asks for 32.*Correct context_length"),
    ],
    ids=["resolution", "context-length"],
)
def test_weights_of_another_size_are_not_interpolated_unasked(change: Change, said: str, tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path, change)
    with pytest.raises(McdoError, match=said):
        load_encoder(f"local-dir:{folder}")
    assert load_encoder(f"local-dir:{folder}", weights="random").random_weights


def test_a_tower_of_timm_takes_the_size_that_its_name_says(tmp_path: Path) -> None:
    folder = copied("siglip_tiny", tmp_path, vision(image_size=64))
    with pytest.raises(McdoError, match="says image_size 64, but mcdo_vit_tiny_patch8_siglip_32 takes 32 px"):
        load_encoder(f"local-dir:{folder}")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.bin", "pytorch_lora_weights.safetensors"])
def test_an_adapter_beside_the_weights_is_not_passed_over(name: str, tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path)
    (folder / name).write_text("{}", encoding="utf-8")
    with pytest.raises(McdoError, match=rf"holds an adapter \({name}\), which is not applied here. Merge it"):
        load_encoder(f"local-dir:{folder}")


@pytest.mark.parametrize("pooling", ["cascade", "parallel"])
def test_an_image_tower_that_cannot_be_carried_out_is_refused_when_it_is_loaded(pooling: str, tmp_path: Path) -> None:
    def change(contents: dict[str, Any]) -> None:
        model(embed_dim=32)(contents)  # not the width of the tower, for which open_clip takes it
        vision(attentional_pool=pooling, attn_pooler_queries=4, attn_pooler_heads=2)(contents)

    folder = copied("clip_tiny", tmp_path, change)
    with pytest.raises(McdoError, match=r"image tower that its configuration describes fails on a picture: RuntimeErr"):
        load_encoder(f"local-dir:{folder}", weights="random")


def test_a_text_tower_that_cannot_be_carried_out_is_refused_when_text_is_wanted(tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path, text(block_type="custom", scaled_cosine_attn=True))
    encoder = load_encoder(f"local-dir:{folder}", weights="random")
    with pytest.raises(McdoError, match="its text tower fails on prompts: RuntimeError"):
        encoder.encode_text(["a"])


def test_absent_tokenizer_files_are_an_error_when_text_is_wanted(tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path)
    for file in folder.glob("token*"):
        file.unlink()
    encoder = load_encoder(f"local-dir:{folder}")
    assert encoder.forward_image(torch.zeros(1, 3, 32, 32)).shape == (1, 48)
    with pytest.raises(McdoError, match=r"the tokenizer of .* cannot be read .put tokenizer.json"):
        encoder.tokenize(["a"])


def test_no_library_reaches_the_network_while_a_model_loads() -> None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    before = constants.HF_HUB_OFFLINE
    with quiet_libraries(), pytest.raises(OfflineModeIsEnabled):
        HfApi(endpoint=HUB).model_info("roberta-base")
    assert before == constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(("size", "side"), [(32, 32), ([32, 32], 32), ((32.0, 32), 32)])
def test_square_sizes(size: Any, side: int) -> None:
    assert square_side("here", size) == side


@pytest.mark.parametrize("size", [[32, 64], [], 0, "32", None, [0, 0]])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(McdoError, match="here: image_size"):
        square_side("here", size)


def test_every_configuration_that_open_clip_ships_is_let_through() -> None:
    import open_clip

    from mcdo.encoders.configuration import Model
    from mcdo.schema import checked

    names = open_clip.list_models()
    assert len(names) > 100
    for name in names:
        assert isinstance(checked(open_clip.get_model_config(name), Model, name), Model)
