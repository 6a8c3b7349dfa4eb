from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mcdo.encoders import REGISTRY, load_encoder
from mcdo.encoders.card import held_out
from mcdo.encoders.recipe import EMBEDDED, Recipe, model_config, tokenizer, write_untrained
from mcdo.encoders.spec import MODELS_DIR
from mcdo.images.digits import training_split

SHORT = replace(Recipe(), steps=12, warmup=3, groups=4)


def card(key: str) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((MODELS_DIR / key / "card.json").read_text(encoding="utf-8"))
    return contents


def config(key: str) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads((MODELS_DIR / key / "open_clip_config.json").read_text(encoding="utf-8"))
    return contents


@pytest.mark.parametrize("key", EMBEDDED)
def test_shipped_accuracy_is_the_one_on_the_card(key: str) -> None:
    claimed, encoder = card(key)["held_out"], load_encoder(key)
    measured = held_out(encoder)
    # One image may fall on the other side of a tie on another platform.
    assert abs(measured["correct"] - claimed["correct"]) <= 1
    assert measured["n"] == claimed["n"] == 600
    assert claimed["accuracy"] >= 0.95
    low, high = claimed["wilson_95"]
    assert low < claimed["accuracy"] < high
    assert encoder.weights_hash == card(key)["weights_sha256"]


@pytest.mark.parametrize("key", EMBEDDED)
def test_shipped_encoder_is_neither_certain_nor_unsure_of_everything(key: str) -> None:
    test = card(key)["held_out"]
    assert test["entropy_quantiles_nats"]["90"] > 10 * test["entropy_quantiles_nats"]["25"]
    assert abs(test["mean_confidence"] - test["accuracy"]) < 0.03


@pytest.mark.parametrize("key", EMBEDDED)
def test_shipped_files_are_small_complete_and_made_by_the_recipe(key: str, tmp_path: Path) -> None:
    folder = MODELS_DIR / key
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_000_000
    assert {path.name for path in folder.iterdir()} == {
        *("open_clip_config.json", "open_clip_model.safetensors", "card.json", "README.md"),
        *("tokenizer.json", "tokenizer_config.json", "recipe.json"),
    }
    write_untrained(REGISTRY[key], tmp_path)
    assert json.loads((tmp_path / "open_clip_config.json").read_text(encoding="utf-8")) == config(key)
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert words == tokenizer().get_vocab()
    recipe = {k: v for k, v in card(key)["recipe"].items() if k not in ("optimizer", "batch")}
    assert recipe == Recipe().as_dict()
    assert "not_for" in card(key)
    assert "Not for." in (folder / "README.md").read_text(encoding="utf-8")


def test_the_four_differ_only_in_tower_and_loss() -> None:
    def without(key: str, *names: str) -> dict[str, Any]:
        return {k: v for k, v in config(key)["model_cfg"].items() if k not in names}

    loss, tower = ("init_logit_scale", "init_logit_bias"), ("vision_cfg",)
    assert without("clip_tiny", *loss) == without("clip_tiny_sigmoid", *loss)
    assert without("siglip_tiny", *loss) == without("siglip_tiny_softmax", *loss)
    assert without("clip_tiny", *tower) == without("siglip_tiny_softmax", *tower)
    assert without("clip_tiny_sigmoid", *tower) == without("siglip_tiny", *tower)
    assert len({json.dumps([card(key)["recipe"], card(key)["data"], card(key)["templates"]]) for key in EMBEDDED}) == 1
    assert {json.dumps(config(key)["preprocess_cfg"]) for key in EMBEDDED} == {
        json.dumps(model_config(REGISTRY["clip_tiny"], 10)["preprocess_cfg"])
    }


def test_towers_are_equal_in_width_depth_and_heads() -> None:
    clip, siglip = (load_encoder(key).model.visual for key in ("clip_tiny", "siglip_tiny"))
    assert len(clip.transformer.resblocks) == len(siglip.trunk.blocks) == 3  # type: ignore[union-attr,arg-type]
    for block, other in zip(clip.transformer.resblocks, siglip.trunk.blocks, strict=True):  # type: ignore[union-attr,arg-type]
        assert block.attn.num_heads == other.attn.num_heads == 1
        assert block.attn.in_proj_weight.shape == other.attn.qkv.weight.shape == (144, 48)
        assert block.mlp.c_fc.weight.shape == other.mlp.fc1.weight.shape == (96, 48)


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_recipe_runs_learns_and_repeats_itself(key: str, tmp_path: Path) -> None:
    from mcdo.encoders.train import train

    before = torch.get_rng_state(), torch.get_num_threads()
    first = train(key, tmp_path / "a", SHORT)
    again = train(key, tmp_path / "b", SHORT)
    assert first == again
    assert sum(first[-4:]) < 0.97 * sum(first[:4])
    a, b = (load_encoder(f"local-dir:{tmp_path / name}") for name in "ab")
    assert a.weights_hash == b.weights_hash
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in (tmp_path / "b").iterdir()}
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == torch.get_num_threads()


def test_what_can_be_shared_starts_equal(tmp_path: Path) -> None:
    from mcdo.encoders.train import fit

    images, labels = training_split()
    states = {}
    for key in EMBEDDED:
        write_untrained(REGISTRY[key], tmp_path / key)
        model, _ = fit(REGISTRY[key], tmp_path / key, images, labels, replace(SHORT, steps=0))
        states[key] = model.state_dict()
    for key in EMBEDDED:
        twin = "clip_tiny" if REGISTRY[key].family == "clip" else "siglip_tiny"
        assert all(torch.equal(v, states["clip_tiny"][k]) for k, v in states[key].items() if k.startswith("text."))
        assert all(torch.equal(v, states[twin][k]) for k, v in states[key].items() if k.startswith("visual."))


def test_each_group_holds_every_digit_once() -> None:
    from mcdo.encoders.train import _groups

    _, labels = training_split()
    members = [torch.from_numpy((labels == c).nonzero()[0]) for c in range(10)]
    rows, classes = _groups(members, 5, torch.Generator().manual_seed(0))
    assert torch.equal(torch.from_numpy(labels)[rows], classes)
    assert torch.equal(classes.view(5, 10).sort(dim=1).values, torch.arange(10).expand(5, 10))
    assert len({tuple(group) for group in classes.view(5, 10).tolist()}) > 1


def test_distortion_without_strength_is_only_normalisation() -> None:
    from mcdo.encoders.train import distort

    views = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    still = replace(Recipe(), noise=0.0, blur=0.0, occlusion=0)
    shown = distort(views, still, torch.Generator().manual_seed(1))
    torch.testing.assert_close(shown, (views.expand(-1, 3, -1, -1) - 0.5) / 0.5)
    strong = distort(views, Recipe(), torch.Generator().manual_seed(1))
    assert float((strong - shown).abs().mean()) > 0.05
    assert strong.shape == (3, 3, 32, 32)
    assert float(strong.abs().max()) <= 1


@pytest.mark.parametrize(("key", "kind"), [("clip_tiny", "ClipLoss"), ("siglip_tiny", "SigLipLoss")])
def test_a_step_s_loss_is_the_mean_of_the_library_s_own_over_groups_of_ten(key: str, kind: str) -> None:
    import open_clip.loss

    from mcdo.encoders.train import _captions, _loss

    model: Any = load_encoder(key).model
    captions = _captions()
    shown = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    said = torch.arange(10).repeat(3) + torch.tensor([0, 10, 20]).repeat_interleave(10)
    library = getattr(open_clip.loss, kind)()
    with torch.no_grad():
        image, text = model.encode_image(shown, normalize=True), model.encode_text(captions, normalize=True)[said]
        groups = zip(image.split(10), text.split(10), strict=True)
        each = [library(i, t, model.logit_scale.exp(), model.logit_bias) for i, t in groups]
        found = _loss(REGISTRY[key], model, shown, captions, said)
    assert max(each) > 1.05 * min(each)  # so that the groups are not one
    torch.testing.assert_close(found, torch.stack(each).mean())
