"""Same weights, another configuration: wherever the features differ, so do the keys under which they are stored."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_encoders_configuration import copied
from test_encoders_hf import make_checkpoint
from test_encoders_image import HF, make_tower
from torch import nn

from mcdo.encoders import Encoder, TextTower, load_encoder
from mcdo.encoders.architecture import coarse, fingerprint
from mcdo.encoders.encoder import PROBE_TEXTS
from mcdo.encoders.state import unsaved_buffers
from mcdo.estimators.provenance import encoder_identity
from mcdo.store import canonical_json

CONFIG = "open_clip_config.json"
TEXTS = (*PROBE_TEXTS, "a photo of a Three", "an image of the digit 7, please")
ABSENT: dict[str, tuple[Any, ...]] = {
    "act_kwargs": ({"approximate": "tanh"},),
    "norm_kwargs": ({"eps": 0.05}, {"eps": 1e-3, "elementwise_affine": True}),
    "tokenizer_kwargs": ({"strip_sep_token": True}, {"clean": "lower"}),
    "tokenizer_mode": ("clips",),
    "block_type": ("custom",),
    "ls_init_value": (0.5,),
    "timm_drop_path": (0.1,),
}
DECIDING = {
    *("act_kwargs", "block_type", "eos_id", "head_width", "heads", "hidden_act", "image_size", "layer_norm_eps"),
    *("no_causal_mask", "norm_kwargs", "num_attention_heads", "num_heads", "pool_type", "quick_gelu", "rms_norm_eps"),
    *("do_normalize", "do_resize", "image_mean", "image_std", "interpolation", "mean", "resample", "resize_mode"),
    *("size", "std"),
}
"""Fields with a value that loads the same weights and gives other features, of the models that are looked at."""
WORDS: dict[str, tuple[str, ...]] = {
    "pool_type": ("tok", "avg", "last", "argmax", "first", "none", "eos"),
    "interpolation": ("bilinear",),
    "resize_mode": ("shortest", "longest"),
    "pos_embed_type": ("sin_cos_2d",),
    "timm_pool": ("avg", "token", "abs_attn"),
    "timm_proj": ("linear", "mlp"),
    "hidden_act": ("gelu", "relu", "quick_gelu", "gelu_pytorch_tanh"),
    "attn_implementation": ("eager",),
    "padding_side": ("left",),
    "truncation_side": ("left",),
}


def others(name: str, value: Any) -> list[Any]:
    """Other values of a field."""
    if name in WORDS:
        return [each for each in WORDS[name] if each != value]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return sorted({value // 2, value + 1} - {value})
    if isinstance(value, float):
        return [value * 1.5 + 0.01]
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, float) for each in value):
        return [[value[0] / 2, *value[1:]]]
    if isinstance(value, dict) and value and all(isinstance(each, int) for each in value.values()):
        return [{key: each + 8 for key, each in value.items()}]
    return list(ABSENT.get(name, ())) if not value else []


def changed(contents: dict[str, Any], *path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``contents`` with one field under ``path`` changed, for every field and each of its other values."""
    held: dict[str, Any] = functools.reduce(dict.__getitem__, path, contents)
    for name, value in held.items():
        for other in others(name, value):
            each = copy.deepcopy(contents)
            functools.reduce(dict.__getitem__, path, each)[name] = other
            yield f"{'.'.join(path)}.{name} = {other!r}", each


def field_of(what: str) -> str:
    return what.partition(" =")[0]


def keys(encoder: Encoder) -> tuple[str, str]:
    """Of what is stored of images, and of texts."""
    texts = encoder_identity(encoder, text=encoder.has_text)
    return canonical_json({name: each for name, each in texts.items() if name != "text"}), canonical_json(texts)


@torch.no_grad()
def features(encoder: Encoder) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((40, 29), (33, 61))]
    shown = torch.stack([encoder.to_uint8(picture) for picture in pictures])
    texts = encoder.encode_text(TEXTS) if encoder.has_text else torch.empty(0)
    return encoder.forward_image(encoder.normalise(shown)), texts


def seen(key: str) -> tuple[tuple[str, str], tuple[torch.Tensor, torch.Tensor]] | None:
    """Keys and features of an encoder; None where it is refused."""
    try:
        encoder = load_encoder(key)
        return keys(encoder), features(encoder)
    except Exception:  # that each is a McdoError is tested where configurations are
        return None


def check(base: str, variants: Iterator[tuple[str, dict[str, Any]]], file: Path, every: bool = False) -> set[str]:
    """Every variant of a configuration is refused, has other keys, or the same features; returns those of others.

    Unless ``every`` is to be looked at: of the fields that decide features, up to the first value that gives others.
    """
    whole = file.read_text(encoding="utf-8")
    plain, again = seen(base), seen(base)
    assert plain is not None
    assert again is not None
    assert again[0] == plain[0], "the keys of one model differ"
    told: set[str] = set()
    for what, contents in variants:
        field = field_of(what)
        if not every and (field.rpartition(".")[2] not in DECIDING or field in map(field_of, told)):
            continue
        file.write_text(json.dumps(contents), encoding="utf-8")
        found = seen(base)
        if found is None:
            continue
        for kind in (0, 1):
            same = found[1][kind].shape == plain[1][kind].shape and torch.equal(found[1][kind], plain[1][kind])
            if not same:
                told.add(what)
                assert found[0][kind] != plain[0][kind], f"{what}: other features under the same key"
    file.write_text(whole, encoding="utf-8")
    return told


def stated(contents: dict[str, Any]) -> dict[str, Any]:
    """An open_clip configuration with every field that there is, at its default."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg
    from open_clip.transform import PreprocessCfg

    full = copy.deepcopy(contents)
    full["model_cfg"] = {"quick_gelu": False, "nonscalar_logit_scale": False, "output_dict": False} | full["model_cfg"]
    for part, kind in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        named = {each.name: each.default for each in dataclasses.fields(kind) if not each.name.startswith("hf_")}
        full["model_cfg"][part] = {**named, "tokenizer_kwargs": {}, **full["model_cfg"][part]}
    del full["model_cfg"]["vision_cfg"]["tokenizer_kwargs"]
    skipped = ("size", "mean", "std")
    defaults = {each.name: each.default for each in dataclasses.fields(PreprocessCfg) if each.name not in skipped}
    full["preprocess_cfg"] = {**defaults, **full["preprocess_cfg"]}
    return full


ALL: dict[str, Any] = {"marks": pytest.mark.slow}


@pytest.mark.parametrize(
    ("key", "every"),
    [("clip_tiny", False), pytest.param("clip_tiny", True, **ALL), pytest.param("siglip_tiny", True, **ALL)],
)
def test_every_field_of_an_open_clip_configuration(key: str, every: bool, tmp_path: Path) -> None:
    folder = copied(key, tmp_path)
    contents = stated(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    parts = (("model_cfg",), ("model_cfg", "vision_cfg"), ("model_cfg", "text_cfg"), ("preprocess_cfg",))
    (folder / CONFIG).write_text(json.dumps(contents), encoding="utf-8")
    variants = (each for part in parts for each in changed(contents, *part))
    told = check(f"local-dir:{folder}", variants, folder / CONFIG, every)
    fields = set(map(field_of, told))
    assert {"model_cfg.text_cfg.heads", "preprocess_cfg.mean", "preprocess_cfg.interpolation"} <= fields
    if key == "clip_tiny":
        assert {"model_cfg.quick_gelu", "model_cfg.vision_cfg.head_width", "model_cfg.text_cfg.norm_kwargs"} <= fields


@pytest.mark.parametrize(
    ("kind", "every"), [("clip", False), *(pytest.param(k, True, **ALL) for k in ("clip", "siglip", "siglip2"))]
)
def test_every_field_of_a_transformers_configuration(kind: str, every: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(kind, tmp_path)
    file = folder / "config.json"
    contents = json.loads(file.read_text(encoding="utf-8"))
    parts = ((), ("vision_config",), ("text_config",))
    variants = (each for part in parts for each in changed(contents, *part))
    told = check(f"hf:{folder}", variants, file, every)
    fields = set(map(field_of, told))
    assert {f"{part}.{name}" for part in ("vision_config", "text_config") for name in ("hidden_act",)} <= fields
    assert {"vision_config.layer_norm_eps", "vision_config.num_attention_heads"} <= fields


@pytest.mark.parametrize(("kind", "every"), [("aimv2", False), *(pytest.param(k, True, **ALL) for k in HF)])
def test_every_field_of_an_image_tower_of_transformers(kind: str, every: bool, tmp_path: Path) -> None:
    """And of its image processor."""
    make_tower(kind, tmp_path)
    for name, expected in (("config.json", {"hidden_act"}), ("preprocessor_config.json", {"image_mean", "resample"})):
        file = tmp_path / name
        variants = changed(json.loads(file.read_text(encoding="utf-8")))
        told = check(f"hf:{tmp_path}", variants, file, every)
        assert expected <= {field_of(what).removeprefix(".") for what in told}


@pytest.mark.parametrize(
    ("kind", "every"), [("clip", False), pytest.param("clip", True, **ALL), pytest.param("siglip", True, **ALL)]
)
def test_every_field_of_an_image_processor(kind: str, every: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(kind, tmp_path)
    file = next(folder / name for name in ("preprocessor_config.json", "processor_config.json")
                if (folder / name).exists())  # fmt: skip
    contents = json.loads(file.read_text(encoding="utf-8"))
    told = check(f"hf:{folder}", changed(contents), file, every)
    assert {".resample", ".image_mean", ".image_std"} <= set(map(field_of, told))


def test_every_field_of_a_tokenizer(tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        contents = json.loads((folder / name).read_text(encoding="utf-8"))
        check(f"local-dir:{folder}", changed(contents), folder / name, every=True)
    contents = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = contents["model"]["vocab"]
    first, second = [word for word in vocabulary if word.isalpha()][-2:]
    swapped = {**vocabulary, first: vocabulary[second], second: vocabulary[first]}
    variants = [
        ("two words trade places", {**contents, "model": {**contents["model"], "vocab": swapped}}),
        ("no normalizer", {**contents, "normalizer": None}),
        ("another splitting", {**contents, "pre_tokenizer": {"type": "WhitespaceSplit"}}),
    ]
    plain = seen(f"local-dir:{folder}")
    assert plain is not None
    for what, each in variants:
        if each == contents:
            continue
        (folder / "tokenizer.json").write_text(json.dumps(each), encoding="utf-8")
        found = seen(f"local-dir:{folder}")
        assert found is not None
        assert found[0][0] == plain[0][0], f"{what}: images do not depend on it"
        assert found[0][1] != plain[0][1], what


# ---- what is walked


class Own(nn.Module):
    """Of nobody's library."""

    def __init__(self, act: Any, scale: float = 1.0, **facts: Any) -> None:
        super().__init__()
        self.act, self.scale = act, scale
        vars(self).update(facts)


ONE = Own(torch.nn.functional.gelu)
DIFFERENT = {
    "a function": Own(torch.nn.functional.relu),
    "a partial's argument": Own(functools.partial(torch.nn.functional.gelu, approximate="tanh")),
    "a number": Own(torch.nn.functional.gelu, 2.0),
    "a list of numbers": Own(torch.nn.functional.gelu, heads=[1, 2]),
    "a path of modules": nn.Sequential(Own(torch.nn.functional.gelu)),
}


def test_whatever_decides_a_pass_is_seen() -> None:
    prints = {name: fingerprint(each) for name, each in DIFFERENT.items()} | {"none": fingerprint(ONE)}
    assert len(set(prints.values())) == len(prints)
    assert fingerprint(Own(torch.nn.functional.gelu)) == prints["none"]
    left_behind = Own(torch.nn.functional.gelu, held=[torch.ones(1)])
    assert fingerprint(left_behind) == prints["none"], "what a pass leaves behind decides nothing"
    hooked = Own(torch.nn.functional.gelu)
    hooked.register_forward_hook(lambda *_: None)
    assert fingerprint(hooked) != prints["none"]


def test_functions_differ_by_their_code_and_by_what_they_hold() -> None:
    def scaled(by: float) -> Any:
        return lambda x: x * by

    def shifted(by: float) -> Any:
        return lambda x: x + by

    assert fingerprint(scaled(2.0)) == fingerprint(scaled(2.0))
    assert len({fingerprint(each) for each in (scaled(2.0), scaled(3.0), shifted(2.0))}) == 3


def test_objects_that_hold_each_other_are_walked_once() -> None:
    one, other = Own(None), Own(None)
    one.__dict__["other"], other.__dict__["other"] = other, one
    assert fingerprint(one) == fingerprint(one)


@pytest.mark.slow
def test_the_keys_are_those_of_another_process_and_folder(tmp_path: Path) -> None:
    folder = copied("clip_tiny", tmp_path)
    code = (
        "import sys; from mcdo.encoders import load_encoder as load;"
        "from mcdo.estimators.provenance import encoder_identity as key; from mcdo.store import canonical_json as text;"
        "print(text(key(load(sys.argv[1]), text=True)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", code, f"local-dir:{folder}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()
    assert said == keys(load_encoder("clip_tiny"))[1]


def test_features_are_told_apart_beyond_rounding_and_not_within() -> None:
    features = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    assert coarse(features) == coarse(features * (1 + 1e-7))
    assert coarse(features) != coarse(features * 1.1)
    assert coarse(features) != coarse(features + 0.1)
    assert coarse(torch.full((1, 4), torch.nan)) == coarse(torch.full((1, 4), torch.nan))


def test_a_patched_library_gives_another_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder("clip_tiny", weights="random")
    before, architecture = encoder.probe, encoder.architecture
    monkeypatch.setattr(torch.nn.GELU, "forward", lambda self, x: torch.relu(x))
    again = load_encoder("clip_tiny", weights="random")
    assert again.architecture == architecture
    assert again.probe != before


def test_an_identity_is_of_the_encoder_as_it_is_now() -> None:
    encoder = load_encoder("clip_tiny", weights="random")
    seen = []
    for _ in range(2):
        whole = encoder_identity(encoder, text=True)
        assert (whole["probe"], whole["text"]) == (encoder.probe, encoder.text_identity)
        assert (whole["weights"], whole["architecture"]) == (encoder.weights_hash, encoder.architecture)
        assert encoder_identity(TextTower(encoder))["probe"] == encoder.probe
        seen.append((whole["probe"], whole["text"]))
        with torch.no_grad():
            for parameter in encoder.model.parameters():
                parameter.mul_(1.5)
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] != seen[1][1]


def test_a_buffer_that_no_state_dict_holds_is_part_of_the_architecture() -> None:
    encoder = load_encoder("clip_tiny", weights="random")
    before = encoder.architecture, encoder.weights_hash
    name = next(iter(unsaved_buffers(encoder.model)))
    encoder.model.get_buffer(name).add_(1)
    assert encoder.weights_hash == before[1]
    assert encoder.architecture != before[0]
