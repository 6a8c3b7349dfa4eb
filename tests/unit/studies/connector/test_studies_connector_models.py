from __future__ import annotations

from pathlib import Path

import pytest
import torch
from connector_cases import Case, llava_model, tiny_case
from safetensors.torch import load_file, save_file
from torch import nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.studies.connector.items import Captioned
from mcdo.studies.connector.models import LlavaConnector, inject, load_llava
from mcdo.studies.connector.samples import collate
from mcdo.studies.connector.tiny import TinyConfig


def test_embeddings_lie_in_the_places_of_the_placeholders_and_text_elsewhere(case: Case) -> None:
    batch = collate(case.samples[:3], case.wording.pad_id)
    visual = torch.arange(3 * 16 * 32, dtype=torch.float32).reshape(3, 16, 32)
    embeds, text = inject(case.model, batch.input_ids, visual), case.model.embed(batch.input_ids)
    image = batch.input_ids == case.wording.image_token_id
    assert torch.equal(embeds[image].reshape(3, 16, 32), visual)
    assert torch.equal(embeds[~image], text[~image])


@pytest.mark.parametrize(
    ("config", "embeddings"),
    [(TinyConfig(width=32), 16), (TinyConfig("feature", "linear", width=32), 1), (TinyConfig("tokens", "linear"), 16)],
)
def test_small_connectors_of_all_kinds(
    encoder: Encoder, digits: Captioned, config: TinyConfig, embeddings: int
) -> None:
    case = tiny_case(encoder, digits, config=config)
    assert case.model.visual(case.pixels[:2]).shape == (2, embeddings, config.width)
    assert not any("encoder" in name for name, _ in case.model.named_parameters())


def test_the_same_seed_gives_the_same_weights_and_global_randomness_stays(encoder: Encoder, digits: Captioned) -> None:
    state = torch.get_rng_state()
    one, two, other = (tiny_case(encoder, digits, seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_of_another_layout_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(McdoError, match=r"Linear is no LLaVA-style model: it lacks model\.vision_tower"):
        LlavaConnector(nn.Linear(2, 2))


@pytest.fixture
def checkpoint(tiny: Case, tmp_path: Path) -> Path:
    from transformers import CLIPImageProcessor

    llava_model(len(tiny.wording.tokenizer), tiny.wording.image_token_id).save_pretrained(tmp_path)
    tiny.wording.tokenizer.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    return tmp_path


def test_a_checkpoint_is_loaded_whole(checkpoint: Path, llava: Case) -> None:
    model, tokenizer, _ = load_llava(checkpoint, "cpu")
    assert torch.equal(model.visual(llava.pixels[:2]), llava.model.visual(llava.pixels[:2]))
    assert tokenizer("seven", add_special_tokens=False)["input_ids"] == list(llava.wording.tokens("seven"))


def test_weights_that_do_not_fill_the_model_are_refused(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "projector.linear_2" not in name}
    save_file(kept, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(McdoError, match=r"the weights lack .*projector.linear_2"):
        load_llava(checkpoint, "cpu")


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"holds no config\.json"):
        load_llava(tmp_path, "cpu")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(McdoError, match="not a whole LLaVA checkpoint"):
        load_llava(tmp_path, "cpu")
