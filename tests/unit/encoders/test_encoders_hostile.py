"""Model folders that want more than to be measured: their code never runs, nothing is fetched or asked."""

from __future__ import annotations

import builtins
import json
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mcdo.encoders import load_encoder
from mcdo.encoders.quiet import quiet_libraries
from mcdo.encoders.spec import MODELS_DIR
from mcdo.errors import McdoError

CODE = """
from pathlib import Path
Path(r"{ran}").touch()
from transformers import CLIPConfig, PreTrainedTokenizerFast
class Hostile(PreTrainedTokenizerFast): pass
class HostileConfig(CLIPConfig): pass
"""
AUTO = {"AutoTokenizer": ["hostile.Hostile", "hostile.Hostile"], "AutoConfig": "hostile.HostileConfig"}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the network or the terminal was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(builtins, "input", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good model, with code beside it that would leave a file behind."""
    shutil.copytree(MODELS_DIR / "clip_tiny", tmp_path / "model")
    (tmp_path / "model" / "hostile.py").write_text(CODE.format(ran=tmp_path / "ran"), encoding="utf-8")
    return tmp_path / "model"


def changed(path: Path, change: Change) -> None:
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    change(held)
    path.write_text(json.dumps(held), encoding="utf-8")


def text(**settings: Any) -> Change:
    return lambda c: c["model_cfg"]["text_cfg"].update(settings)


def vision(**settings: Any) -> Change:
    return lambda c: c["model_cfg"]["vision_cfg"].update(settings)


MODEL, TOKENIZER = "open_clip_config.json", "tokenizer_config.json"
HOSTILE: dict[str, tuple[str, Change, str]] = {
    "code by keyword": (MODEL, text(tokenizer_kwargs={"trust_remote_code": True}), "unknown key 'trust_remote_code'"),
    "any other keyword": (MODEL, text(tokenizer_kwargs={"cache_dir": "/"}), "unknown key 'cache_dir'"),
    "code of the tokenizer": (TOKENIZER, lambda c: c.update(auto_map=AUTO), "auto_map: it names code"),
    "code of a configuration": ("config.json", lambda c: c.update(auto_map=AUTO), "auto_map: it names code"),
    "a class of its own": (TOKENIZER, lambda c: c.update(tokenizer_class="Hostile"), "tokenizer_class = 'Hostile'"),
    "a file elsewhere": (TOKENIZER, lambda c: c.update(vocab_file="../../etc/passwd"), "vocab_file is '../../etc"),
    "an unknown setting": (TOKENIZER, lambda c: c.update(hook="hostile"), "the key 'hook'"),
    "a tokenizer's address": (MODEL, text(hf_tokenizer_name="https://host/x"), "hf_tokenizer_name is 'https"),
    "a tower's address": (MODEL, text(hf_model_name="hf-hub:owner/name"), "hf_model_name is 'hf-hub:owner/name'"),
    "a tower by path": (MODEL, text(hf_model_name="/elsewhere"), "hf_model_name is '/elsewhere'"),
    "a tower of the hub": (MODEL, text(hf_model_name="owner/name"), "hf download owner/name"),
    "a tower of timm's hub": (MODEL, vision(timm_model_name="hf-hub:owner/name"), "no architecture of timm"),
    "a tower of timm's folder": (MODEL, vision(timm_model_name="local-dir:/tmp"), "no architecture of timm"),
    "a million layers": (MODEL, vision(layers=10**6), "vision_cfg.layers is 1000000: Expected int <= 512"),
    "towers for no machine": (MODEL, vision(layers=512, width=2**16), "parameters, but its weights have 4"),
    "a huge vocabulary": (MODEL, text(vocab_size=10**12), "text_cfg.vocab_size is 1000000000000"),
    "a huge picture": (MODEL, vision(image_size=10**6), "vision_cfg.image_size is 1000000"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_setting_is_refused_by_name_and_nothing_runs(name: str, folder: Path, tmp_path: Path) -> None:
    file, change, said = HOSTILE[name]
    changed(folder / file, change)
    with pytest.raises(McdoError) as told:
        load_encoder(f"local-dir:{folder}").tokenize(["one"])
    assert said in str(told.value)
    assert file.partition(".")[0] in str(told.value) or "hf download" in str(told.value)
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_that_makes_a_text_of_gigabytes_is_refused(folder: Path) -> None:
    step = {"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 10}
    changed(folder / "tokenizer.json", lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [step] * 9}))
    with pytest.raises(McdoError, match=r"tokenizer\.json: its normalizer makes 1000000000 letters of one"):
        load_encoder(f"local-dir:{folder}").tokenize(["one"])
    changed(folder / "tokenizer.json", lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [step]}))
    assert load_encoder(f"local-dir:{folder}").tokenize(["one"]) is not None


def test_a_token_that_the_text_tower_has_no_row_for_is_refused(folder: Path) -> None:
    changed(folder / "tokenizer.json", lambda c: c["model"]["vocab"].update(one=10**9))
    with pytest.raises(McdoError, match="its tokenizer gives the token 1000000000, but its text tower knows"):
        load_encoder(f"local-dir:{folder}").tokenize(["a photo of the digit one"])


def test_code_of_a_model_is_locked_out_even_where_no_check_sees_it(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    changed(folder / TOKENIZER, lambda c: (c.update(auto_map=AUTO), c.pop("tokenizer_class")))
    with quiet_libraries(), pytest.raises(McdoError, match="never run here"):
        AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert not (tmp_path / "ran").exists()


def test_the_lock_is_needed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    changed(folder / TOKENIZER, lambda c: (c.update(auto_map=AUTO), c.pop("tokenizer_class")))
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()


def test_a_packed_archive_of_weights_is_refused(folder: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"visual.proj": torch.zeros(10**6)}, folder / "plain.bin")
    packed = folder / "open_clip_pytorch_model.bin"
    with zipfile.ZipFile(folder / "plain.bin") as plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    (folder / "plain.bin").unlink()
    with pytest.raises(McdoError, match=r"open_clip_pytorch_model.bin is a packed archive \(400\d+ bytes unpacked\)"):
        load_encoder(f"local-dir:{folder}")


def test_weights_of_eight_gigabytes_of_nothing_are_refused_unread(folder: Path) -> None:
    with (folder / "open_clip_model.safetensors").open("r+b") as file:
        file.truncate(2**33)
    with pytest.raises(McdoError, match="has 8589934592 bytes, but its model of"):
        load_encoder(f"local-dir:{folder}")
