from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import pytest
import torch
from test_encoders_hf import ending
from torch import Tensor

from mcdo.encoders import Encoder, Prompts, TextTower, Tokens, load_encoder
from mcdo.encoders.encoder import Preprocessing, Towers
from mcdo.encoders.recipe import tokenizer
from mcdo.encoders.spec import EncoderSpec
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun, monte_carlo
from mcdo.images import Pixels
from mcdo.perturbation import Dropout, check_alive, count_by_role, find_sites, image_keys, matched_roles, perturbed

PROMPTS = Prompts(("a two", "a photo of a one", "something that might be a six", "a detailed photo of a nine"))
MATCHED = ("qkv", "attention_output", "fc1", "fc2", "final_projection")
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def plain_clip() -> Encoder:
    """open_clip's CLIP: its text tower is spread over the root, and its text projection a bare Parameter there."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    from mcdo.encoders.open_clip_backend import _tower_modules

    words = tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: Any = CLIP(
            12,
            CLIPVisionCfg(image_size=16, patch_size=8, width=32, layers=1, head_width=16),
            CLIPTextCfg(context_length=16, vocab_size=len(words), width=16, heads=2, layers=2),
        )

    def rows(texts: list[str]) -> Tensor:
        padded = words(texts, padding="max_length", max_length=16, return_tensors="pt")["input_ids"]
        # this tower reads its feature at the largest token, as CLIP's end of text is
        return torch.where(padded == words.eos_token_id, len(words) - 1, padded)

    spec = EncoderSpec("plain", "clip", "open_clip", "plain", 16, 12, "softmax")
    preprocessing = Preprocessing(lambda image: torch.zeros(3, 16, 16), 16, (0.5,) * 3, (0.5,) * 3, "none")
    towers = Towers(model.encode_image, model.encode_text, *_tower_modules(model))
    return Encoder(spec, model, towers, preprocessing, lambda: rows, random_weights=True, device=torch.device("cpu"))


def hf(kind: str) -> Encoder:
    from transformers import CLIPConfig, CLIPImageProcessor, SiglipConfig, SiglipImageProcessor

    words = ending(tokenizer()) if kind == "hf_clip" else tokenizer()
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": words.unk_token_id}
    text = {**TEXT, "vocab_size": len(words), "max_position_embeddings": 16, **ids}
    vision = {**TEXT, "image_size": 16, "patch_size": 8}
    config: Any
    with TemporaryDirectory() as folder:
        if kind == "hf_clip":
            config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
            CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(
                folder
            )
        else:
            config = SiglipConfig(text_config={**text, "projection_size": 16}, vision_config=vision)
            SiglipImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
        config.save_pretrained(folder)
        words.save_pretrained(folder)
        encoder = load_encoder(f"hf:{Path(folder)}", weights="random")
        encoder.tokenize(["a"])  # while its files are there
        return encoder


KINDS: dict[str, Callable[[], Encoder]] = {
    "plain": plain_clip,
    "clip_tiny": lambda: load_encoder("clip_tiny", device="cpu"),
    "siglip_tiny": lambda: load_encoder("siglip_tiny", device="cpu"),
    "hf_clip": lambda: hf("hf_clip"),
    "hf_siglip": lambda: hf("hf_siglip"),
}


@cache
def encoder_of(kind: str) -> Encoder:
    return KINDS[kind]()


@pytest.fixture(params=list(KINDS))
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(str(request.param))


def run_on(tower: TextTower, prompts: Prompts, passes: Sequence[int] = (8,), **kwargs: Any) -> MonteCarloRun:
    def pixels() -> Pixels:
        return cast("Pixels", Tokens.of(tower, prompts))

    shown: Any = prompts
    return monte_carlo(tower, shown, Dropout(0.05, MATCHED), passes, 2, pixels=pixels, progress=False, **kwargs)


def test_the_view_computes_the_encoders_text_features(encoder: Encoder) -> None:
    tower = TextTower(encoder)
    tokens = Tokens.of(tower, PROMPTS)
    assert tokens.data.dtype == torch.int64
    with torch.no_grad():
        seen = tower.forward_image(tokens.batch(slice(None)))
    assert torch.equal(seen, encoder.encode_text(PROMPTS.ids))
    assert torch.equal(tokens.batch([2, 0]), tokens.data[[2, 0]])
    assert torch.equal(tokens.batch(slice(1, 3)), tokens.data[1:3])
    assert len(tokens) == len(PROMPTS)


def test_the_view_shares_the_model_and_leaves_the_encoder_as_it_was(encoder: Encoder) -> None:
    before = encoder.key, encoder.towers, encoder.preprocessing
    tower = TextTower(encoder)
    assert tower.model is encoder.model
    assert (tower.key, tower.weights_hash) == (f"{encoder.key}:text", encoder.weights_hash)
    assert tower.preprocess_id != encoder.preprocess_id, "or a run on prompts could be taken for one on images"
    assert (encoder.key, encoder.towers, encoder.preprocessing) == before
    assert {site.name for site in find_sites(tower).sites}.isdisjoint(site.name for site in find_sites(encoder).sites)


def test_every_linear_map_of_the_text_tower_is_a_live_site_attention_included(encoder: Encoder) -> None:
    tower = TextTower(encoder)
    sites = check_alive(tower, tower.tokenize(["a photo of a one"]), Dropout())
    counts = count_by_role(sites)
    assert set(counts) == set(MATCHED)
    layers = 2
    assert counts["attention_output"] == counts["fc1"] == counts["fc2"] == layers
    assert counts["qkv"] == (3 * layers if encoder.key.startswith("hf:") else layers)
    assert counts["final_projection"] == 1
    assert len(find_sites(tower).attentions) == layers


def test_the_bare_projection_of_plain_clip_is_a_site_though_no_module_holds_it() -> None:
    tower = TextTower(encoder_of("plain"))
    assert "text_projection" not in [name for name, _ in tower.image_modules]
    (site,) = [site for site in find_sites(tower).sites if site.name == "text_projection"]
    assert (site.role.value, site.units, site.calls) == ("final_projection", 12, 1)


def test_all_text_towers_can_be_perturbed_at_the_same_roles() -> None:
    """The published run took one model's text transformer and the whole of the other, vision included."""
    towers = [TextTower(encoder_of(kind)) for kind in KINDS]
    assert matched_roles(*towers) == MATCHED
    assert not any(site.name.startswith("visual") for tower in towers for site in find_sites(tower).sites)


@pytest.mark.parametrize("role", MATCHED)
@pytest.mark.parametrize("kind", ["plain", "siglip_tiny", "hf_clip"])
def test_dropout_at_each_role_alone_moves_the_feature_and_its_mean_stays(kind: str, role: str) -> None:
    encoder = encoder_of(kind)
    tower = TextTower(encoder)
    tokens, keys = Tokens.of(tower, PROMPTS).data, image_keys(PROMPTS.mask_ids, tower.device)
    with perturbed(tower, Dropout(0.02, role), seed=0) as passes:
        seen = torch.cat([passes(tokens, keys, 0, block) for block in range(8)], dim=1).double()
    plain = encoder.encode_text(PROMPTS.ids).double()
    spread = seen.var(dim=1).sum(-1)
    assert (spread > 0).all()
    error = (spread / seen.shape[1]).sqrt()
    assert ((seen.mean(1) - plain).norm(dim=-1) < 5 * error + 0.05 * plain.norm(dim=-1)).all()


def test_a_score_does_not_depend_on_the_other_prompts_or_on_batches() -> None:
    tower = TextTower(encoder_of("clip_tiny"))
    whole, part = run_on(tower, PROMPTS), run_on(tower, PROMPTS.select([3, 1]), batch_size=5)
    assert part.ids == (PROMPTS.ids[3], PROMPTS.ids[1])
    np.testing.assert_allclose(part.scores("trace_pre"), whole.scores("trace_pre")[:, [3, 1]], rtol=1e-4)


def test_a_run_on_prompts_is_kept_and_found_again(tmp_path: Path) -> None:
    tower = TextTower(encoder_of("clip_tiny"))
    first = run_on(tower, PROMPTS, store=tmp_path)

    def never() -> Pixels:
        raise AssertionError("measured again")

    shown: Any = PROMPTS
    again = monte_carlo(tower, shown, Dropout(0.05, MATCHED), (8,), 2, pixels=never, progress=False, store=tmp_path)
    np.testing.assert_array_equal(again.scores("trace_pre"), first.scores("trace_pre"))
    with pytest.raises(AssertionError, match="measured again"):
        monte_carlo(
            tower, cast("Any", Prompts(("a three", *PROMPTS.ids))), Dropout(0.05, MATCHED), (8,), 2,
            pixels=never, progress=False, store=tmp_path,
        )  # fmt: skip


@pytest.mark.parametrize(("kind", "extra"), [("clip_tiny", 1), ("hf_clip", 1), ("plain", 1)])
def test_tokens_are_counted_before_the_padding(kind: str, extra: int) -> None:
    """A word each, and the end of text."""
    tower = TextTower(encoder_of(kind))
    prompts = ["a", "a two", "a photo of a one", "a close-up photo of a one"]
    assert tower.token_counts(prompts).tolist() == [1 + extra, 2 + extra, 5 + extra, 8 + extra]


def test_a_full_row_and_clips_own_tokenizer_are_counted_too() -> None:
    import open_clip

    tower = copy.copy(TextTower(encoder_of("clip_tiny")))
    assert tower.token_counts([" ".join(["a"] * 40)]).tolist() == [16]
    vars(tower)["_tokenizer"] = open_clip.SimpleTokenizer(context_length=77)  # pads with 0, starts and ends each text
    vars(tower)["_vocabulary"] = 49408  # which this tower has not
    assert tower.token_counts(["a dog", "a dog!", "a photo of a dog"]).tolist() == [4, 5, 7]


def test_prompts_must_be_there_and_distinct() -> None:
    with pytest.raises(McdoError, match="no prompt twice"):
        Prompts(("a one", "a one"))
    with pytest.raises(McdoError, match="at least one prompt"):
        Prompts(())
    with pytest.raises(McdoError, match="2 prompts but 1 origins"):
        Prompts(("a one", "a two"), origins=("one",))


def test_prompts_about_one_thing_share_an_origin_which_changes_no_key() -> None:
    about = Prompts(PROMPTS.ids, origins=("two", "one", "six", "one"))
    assert PROMPTS.origins == PROMPTS.ids
    assert about.select([1, 3]).origins == ("one", "one")
    assert about.fingerprint == PROMPTS.fingerprint


def test_prompts_are_told_apart_by_text_and_order() -> None:
    turned = PROMPTS.select([1, 0, 2, 3])
    assert turned.ids == (PROMPTS.ids[1], PROMPTS.ids[0], *PROMPTS.ids[2:])
    assert turned.fingerprint != PROMPTS.fingerprint
    assert Prompts(PROMPTS.ids).fingerprint == PROMPTS.fingerprint
    assert turned.content_hashes[0] == PROMPTS.content_hashes[1]
    assert len(set(PROMPTS.content_hashes)) == len(PROMPTS)
    assert PROMPTS.select(slice(1, 3)).ids == PROMPTS.ids[1:3]
    assert math.isclose(len(PROMPTS.mask_ids), 4)
