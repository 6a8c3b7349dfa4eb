from __future__ import annotations

import json
import pickle
import random
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mcdo.encoders import REGISTRY, load_encoder
from mcdo.encoders.spec import MODELS_DIR
from mcdo.encoders.weights import refuse_pickles
from mcdo.errors import McdoError

WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's own folder: a copy of an embedded model under another name, outside the repository."""
    return Path(shutil.copytree(MODELS_DIR / "siglip_tiny", tmp_path / "mine"))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip's ViT-B-32 in all but its width, which takes seconds to draw and to write."""
    from open_clip import factory, get_model_config

    for name in ("ViT-B-32", "ViT-B-32-quickgelu"):
        config: Any = get_model_config(name)
        for part in ("vision_cfg", "text_cfg"):
            config[part]["width"] = 64
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Copies: what load_file returns is mapped to the file, and these tests overwrite it."""
    return {name: value.clone() for name, value in load_file(path).items()}


def cache_repo(cache: Path, repo: str, files: Path) -> None:
    """What ``hf download`` leaves behind."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    shutil.move(files, home / "snapshots" / "abc")
    (home / "refs" / "main").write_text("abc", encoding="utf-8")


OPEN_CLIP = [key for key, spec in REGISTRY.items() if spec.backend == "open_clip" and not spec.embedded]


def test_registry_has_the_published_and_the_embedded_keys() -> None:
    assert set(REGISTRY) == {
        *("clip_b32", "clip_l14", "clip_l14_336", "siglip2_b16", "siglip2_so400m", "siglip2_g16"),
        *("pe_core_b16", "pe_core_l14", "mobileclip2_s0", "dinov2_small", "dinov2_base"),
        *("clip_tiny", "clip_tiny_sigmoid", "siglip_tiny_softmax", "siglip_tiny"),
    }
    assert {key for key, spec in REGISTRY.items() if spec.default} == {"clip_tiny", "siglip_tiny"}


@pytest.mark.parametrize("key", OPEN_CLIP)
def test_entry_agrees_with_the_architecture_and_tag_of_open_clip(key: str) -> None:
    import open_clip

    spec = REGISTRY[key]
    cfg = open_clip.get_model_config(spec.name)
    tag = open_clip.get_pretrained_cfg(spec.name, spec.pretrained)
    assert (cfg["embed_dim"], cfg["vision_cfg"]["image_size"]) == (spec.feature_dim, spec.resolution)
    assert bool(cfg.get("quick_gelu")) == bool(tag.get("quick_gelu")) == spec.quick_gelu
    assert ("init_logit_bias" in cfg) == (spec.loss == "sigmoid")
    assert ("timm_model_name" in cfg["vision_cfg"]) == (spec.family != "clip")
    assert tag["hf_hub"].startswith("timm/")


def test_unknown_key_names_the_nearest_first() -> None:
    with pytest.raises(McdoError, match="'siglip_tinny'; the nearest: siglip_tiny,"):
        load_encoder("siglip_tinny")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"weights": "none"}, "'pretrained' or 'random'"),
        ({"weights": "Random"}, "'pretrained' or 'random'"),
        ({"backend": "jax"}, "'open_clip' or 'hf'"),
        ({"backend": "hf"}, "no HuggingFace checkpoint"),
        *(({"device": device}, f"unknown device '{device}'") for device in ("gpu0", "meta", "xpu:1")),
    ],
)
def test_wrong_argument_says_what_is_allowed(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        load_encoder("clip_tiny", **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_absent_accelerator_is_an_error() -> None:
    with pytest.raises(McdoError, match="cuda is not available"):
        load_encoder("clip_tiny", device="cuda")


@pytest.mark.parametrize("key", [key for key, spec in REGISTRY.items() if not spec.embedded])
def test_missing_weights_are_a_quick_error_with_the_command(key: str, empty_cache: Path) -> None:
    import open_clip

    tag = open_clip.get_pretrained_cfg(REGISTRY[key].name, REGISTRY[key].pretrained or "")
    repo = tag["hf_hub"].rstrip("/") if tag else REGISTRY[key].name
    started = time.perf_counter()
    with pytest.raises(McdoError, match=rf"hf download {repo}\n.*(weights='random'|for the weights alone)"):
        load_encoder(key)
    assert time.perf_counter() - started < 5


def test_missing_hub_repository_is_an_error_with_the_command(empty_cache: Path) -> None:
    with pytest.raises(McdoError, match="hf download someone/something"):
        load_encoder("hf-hub:someone/something")
    with pytest.raises(McdoError, match="hf download someone/something"):
        load_encoder("hf:someone/something")
    with pytest.raises(McdoError, match="OWNER/NAME"):
        load_encoder("hf-hub:a/b/c")


def test_hub_repository_on_disk_loads_offline(own: Path, empty_cache: Path) -> None:
    config = json.loads((own / "open_clip_config.json").read_text(encoding="utf-8"))
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "someone/something"
    (own / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    cache_repo(empty_cache, "someone/something", own)
    encoder = load_encoder("hf-hub:someone/something")
    shipped = load_encoder("siglip_tiny")
    assert encoder.weights_hash == shipped.weights_hash
    assert torch.equal(encoder.tokenize(["a photo of a two"]), shipped.tokenize(["a photo of a two"]))


@pytest.mark.usefixtures("narrow")
def test_registered_weights_on_disk_load_offline(empty_cache: Path, tmp_path: Path) -> None:
    from mcdo.encoders import open_clip_backend

    model = open_clip_backend.build("ViT-B-32-quickgelu", seed=7)
    (tmp_path / "files").mkdir()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "files" / WEIGHTS)
    cache_repo(empty_cache, "timm/vit_base_patch32_clip_224.openai", tmp_path / "files")
    encoder = load_encoder("clip_b32")
    assert not encoder.random_weights
    assert all(torch.equal(value, encoder.model.state_dict()[name]) for name, value in model.state_dict().items())
    assert encoder.preprocess_id.startswith("open_clip shortest 224 px, bicubic")
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert torch.equal(encoder.forward_image(pixels), model.eval().requires_grad_(False).encode_image(pixels))
    assert encoder.forward_image(pixels).shape == (1, encoder.feature_dim) == (1, 512)
    assert encoder.tokenize(["a dog"]).shape == (1, 77)
    assert [name for name, _ in encoder.towers.text_modules] == ["transformer", "token_embedding", "ln_final"]


def test_own_folder_is_loaded_as_the_embedded_ones_are(own: Path) -> None:
    mine, shipped = load_encoder(f"local-dir:{own}"), load_encoder("siglip_tiny")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine.forward_image(pixels), shipped.forward_image(pixels))
    assert mine.weights_hash == shipped.weights_hash
    for field in ("family", "loss", "resolution", "feature_dim"):
        assert getattr(mine.spec, field) == getattr(shipped.spec, field)


@pytest.mark.parametrize("key", [key for key, spec in REGISTRY.items() if spec.embedded])
def test_family_and_loss_are_inferred_for_own_encoders(key: str) -> None:
    from mcdo.encoders import open_clip_backend

    inferred = open_clip_backend.own_spec(f"local-dir:{MODELS_DIR / key}")
    assert (inferred.family, inferred.loss) == (REGISTRY[key].family, REGISTRY[key].loss)


def test_folder_without_checkpoint_is_refused_and_not_random(own: Path) -> None:
    (own / WEIGHTS).unlink()
    with pytest.raises(McdoError, match=rf"holds no checkpoint; expected {WEIGHTS}.*weights='random'"):
        load_encoder(f"local-dir:{own}")
    assert load_encoder(f"local-dir:{own}", weights="random").random_weights


def test_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"open_clip_config.json is missing; a local directory holds"):
        load_encoder(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}}', encoding="utf-8")
    with pytest.raises(McdoError, match=r"model_cfg lacks the key embed_dim"):
        load_encoder(f"local-dir:{tmp_path}")


def test_missing_embedded_folder_says_where_the_models_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.encoders.spec.MODELS_DIR", tmp_path / "data" / "models")
    with pytest.raises(McdoError, match=r"come with mcdo: install it anew.*make models"):
        load_encoder("clip_tiny")


def test_open_clip_reads_the_embedded_folder_by_itself() -> None:
    import open_clip

    folder = MODELS_DIR / "siglip_tiny"
    model = open_clip.create_model(f"local-dir:{folder}", require_pretrained=True)
    assert torch.equal(model.logit_bias, load_encoder("siglip_tiny").model.get_parameter("logit_bias"))


def test_several_unnamed_checkpoints_are_refused(own: Path) -> None:
    (own / WEIGHTS).rename(own / "a.safetensors")
    assert load_encoder(f"local-dir:{own}").feature_dim == 48
    shutil.copy(own / "a.safetensors", own / "b.safetensors")
    with pytest.raises(McdoError, match=r"several checkpoints \(a.safetensors, b.safetensors\)"):
        load_encoder(f"local-dir:{own}")


def test_tensors_in_a_bin_file_are_read(own: Path) -> None:
    torch.save(tensors(own / WEIGHTS), own / "open_clip_pytorch_model.bin")
    (own / WEIGHTS).unlink()
    assert load_encoder(f"local-dir:{own}").weights_hash == load_encoder("siglip_tiny").weights_hash


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (Path("unpickled"),)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "evil.pt"])
def test_malicious_pickle_is_refused_and_never_run(name: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    (own / WEIGHTS).unlink()
    torch.save({"logit_scale": _Evil()}, own / name)
    with pytest.raises(McdoError, match=r"not unpickled|is not read"):
        load_encoder(f"local-dir:{own}")
    assert not (own / "unpickled").exists()
    with pytest.raises(pickle.UnpicklingError):  # what is refused is the content: a plain reader stumbles over it too
        torch.load(own / name, weights_only=True)


def test_torchscript_archive_and_npz_are_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    np.savez(tmp_path / "model.npz", a=np.zeros(1))
    for name in ("model.pt", "model.npz"):
        with pytest.raises(McdoError, match=name):
            refuse_pickles(tmp_path / name)


def test_damaged_and_mismatched_checkpoints_are_named(own: Path) -> None:
    state = tensors(own / WEIGHTS)
    (own / WEIGHTS).write_bytes(b"not a checkpoint at all")
    with pytest.raises(McdoError, match=rf"{WEIGHTS} cannot be loaded.*damaged"):
        load_encoder(f"local-dir:{own}")
    for name, said in (("visual.trunk.norm.weight", "Missing key.*"), ("logit_bias", "has no ")):
        save_file({key: value for key, value in state.items() if key != name}, own / WEIGHTS)
        with pytest.raises(McdoError, match=said + name):
            load_encoder(f"local-dir:{own}")


@pytest.mark.usefixtures("narrow")
def test_openai_weights_without_quick_gelu_are_refused() -> None:
    """Trap 4: the plain configuration of ViT-B-32 runs OpenAI's weights with another activation."""
    from mcdo.encoders import open_clip_backend

    spec = REGISTRY["clip_b32"]
    with pytest.raises(McdoError, match="trained with QuickGELU, but 24 activations of the built model are GELU"):
        open_clip_backend.check_activation(spec, open_clip_backend.build("ViT-B-32", 0))


@pytest.mark.parametrize(
    ("repo", "said"),
    [
        ("timm/vit_base_patch32_clip_224.openai", r"trained with QuickGELU, but \d+ activations .* are GELU"),
        ("apple/DFN5B-CLIP-ViT-H-14", "trained with QuickGELU"),
        ("timm/ViT-B-16-SigLIP2", ""),
        ("someone/something", ""),
    ],
)
def test_weights_of_the_hub_are_held_against_open_clip_s_own_list(
    repo: str, said: str, own: Path, empty_cache: Path
) -> None:
    cache_repo(empty_cache, repo, own)
    if not said:
        assert load_encoder(f"hf-hub:{repo}").feature_dim == load_encoder("siglip_tiny").feature_dim
        return
    with pytest.raises(McdoError, match=said):
        load_encoder(f"hf-hub:{repo}")


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_loading_leaves_global_random_state_alone(key: str, weights: str) -> None:
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    load_encoder(key, weights=weights, seed=3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert before[2] == str(np.random.get_state())  # noqa: NPY002


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_random_weights_follow_the_seed_and_not_the_global_state(key: str) -> None:
    first = load_encoder(key, weights="random", seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        again = load_encoder(key, weights="random", seed=1)
    other = load_encoder(key, weights="random", seed=2)
    assert first.random_weights
    assert first.weights_hash == again.weights_hash
    assert len({first.weights_hash, other.weights_hash, load_encoder(key).weights_hash}) == 3


def test_loading_leaves_the_root_logger_alone(own: Path) -> None:
    import logging

    before = list(logging.getLogger().handlers), list(logging.getLogger().filters)
    load_encoder(f"local-dir:{own}").tokenize(["a two"])
    assert before == (list(logging.getLogger().handlers), list(logging.getLogger().filters))
