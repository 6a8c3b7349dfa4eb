"""Every fault that the study must catch, injected, and the error that names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from connector_cases import Case
from torch import Tensor, nn

from mcdo.studies.connector.ablation import ablate
from mcdo.studies.connector.faults import (
    InjectionError,
    LabelError,
    PlaceholderError,
    ProjectorError,
    TruncationError,
)
from mcdo.studies.connector.items import Item
from mcdo.studies.connector.models import inject
from mcdo.studies.connector.preflight import check_model, check_samples
from mcdo.studies.connector.samples import IGNORED, Sample


class Altered:
    """A model with some of its methods replaced."""

    def __init__(self, model: Any, **methods: Any) -> None:
        self._model = model
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def run(case: Case, make_sample: Callable[[Item], Sample] | None = None) -> None:
    ablate(case.model, case.wording, case.items, case.pixels, case.blank, seed=0, make_sample=make_sample)


def test_sound_samples_and_models_pass(case: Case) -> None:
    check_samples(case.items, case.samples, case.wording)
    check_model(case.model, case.samples, case.pixels, case.wording.pad_id)


# image tokens not replaced


def test_a_model_that_does_not_replace_image_tokens_is_caught(case: Case) -> None:
    def blind(input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        logits: Tensor = case.model.logits(case.model.embed(input_ids), attention_mask)
        return logits

    with pytest.raises(InjectionError, match="image tokens are not replaced"):
        run(case.with_model(Altered(case.model, own_logits=blind)))


def test_transformers_own_merging_switched_off_is_caught(llava: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        return torch.zeros_like(inputs_embeds[..., :1], dtype=torch.bool)

    monkeypatch.setattr(llava.model.model.model, "get_placeholder_mask", nowhere)
    with pytest.raises(InjectionError, match="image tokens are not replaced"):
        run(llava)


def test_embeddings_put_in_in_another_order_are_caught(case: Case) -> None:
    def reversed_order(input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        logits: Tensor = case.model.logits(
            inject(case.model, input_ids, case.model.visual(pixels).flip(1)), attention_mask
        )
        return logits

    with pytest.raises(InjectionError, match="its predictions differ by up to"):
        run(case.with_model(Altered(case.model, own_logits=reversed_order)))


# placeholder count


@pytest.mark.parametrize("change", [-1, 1])
def test_another_number_of_placeholders_than_embeddings_is_caught(case: Case, change: int) -> None:
    wrong = replace(case.wording, tokens_per_image=16 + change)
    with pytest.raises(PlaceholderError, match=rf"{case.items[0].id}: {16 + change} image placeholders for 16"):
        run(case, wrong.sample)
    with pytest.raises(PlaceholderError, match=rf"row 0 holds {16 + change} image placeholders .* for 16"):
        run(replace(case, wording=wrong))


# projector


def last_linear(case: Case) -> nn.Linear:
    return [module for module in case.model.projector.modules() if isinstance(module, nn.Linear)][-1]


def test_a_projector_with_constant_output_is_caught(tiny: Case) -> None:
    with torch.no_grad():
        last_linear(tiny).weight.zero_()
    with pytest.raises(ProjectorError, match="the same for different images"):
        run(tiny)


def test_a_projector_that_gives_nan_is_caught(tiny: Case) -> None:
    with torch.no_grad():
        last_linear(tiny).weight.fill_(torch.nan)
    with pytest.raises(ProjectorError, match="not finite"):
        run(tiny)


def test_a_projector_that_is_passed_by_is_caught(tiny: Case) -> None:
    width = tiny.model.config.width
    bypassed = Altered(tiny.model, visual=lambda pixels: tiny.model.tower(pixels)[..., :width])
    with pytest.raises(ProjectorError, match="do not come from the projector"):
        run(tiny.with_model(bypassed))


def test_visual_tokens_that_are_masked_away_are_caught(case: Case) -> None:
    def masked(inputs_embeds: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.clone()
        mask[:, 1:17] = 0  # the begin of the text, then the image
        logits: Tensor = case.model.logits(inputs_embeds, mask)
        return logits

    def own(input_ids: Tensor, attention_mask: Tensor, pixels: Tensor) -> Tensor:
        return masked(inject(case.model, input_ids, case.model.visual(pixels)), attention_mask)

    with pytest.raises(ProjectorError, match="change no prediction"):
        run(case.with_model(Altered(case.model, logits=masked, own_logits=own)))


# labels


def with_labels(case: Case, of: Callable[[Sample], Sequence[int]]) -> Callable[[Item], Sample]:
    def make(item: Item) -> Sample:
        sample = case.wording.sample(item)
        return replace(sample, labels=tuple(of(sample)))

    return make


def shifted(sample: Sample) -> list[int]:
    return [*sample.labels[1:], IGNORED]


def prompt_too(sample: Sample) -> list[int]:
    return [IGNORED] * 17 + list(sample.input_ids[17:])


def every_other(sample: Sample) -> list[int]:
    return [label if i % 2 else IGNORED for i, label in enumerate(sample.labels)]


def without_end(sample: Sample) -> list[int]:
    return [*sample.labels[:-1], IGNORED]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        pytest.param(lambda s: s.input_ids, "image tokens are in the loss", id="all"),
        pytest.param(prompt_too, "tokens of the prompt", id="prompt"),
        pytest.param(shifted, "not the token at its own place", id="shifted"),
        pytest.param(every_other, "tokens are in the loss", id="gaps"),
        pytest.param(without_end, "are not the answer's", id="end"),
        pytest.param(lambda s: [IGNORED] * len(s.labels), "no token is labelled", id="none"),
        pytest.param(lambda s: s.labels[:-1], "labels for", id="short"),
    ],
)
def test_labels_on_other_tokens_than_the_answer_are_caught(
    tiny: Case, labels: Callable[[Sample], Sequence[int]], message: str
) -> None:
    with pytest.raises(LabelError, match=message) as error:
        run(tiny, with_labels(tiny, labels))
    assert str(error.value).startswith(tiny.items[0].id)


def test_labels_of_another_item_are_caught(tiny: Case) -> None:
    one = tiny.items[0]
    length = len(tiny.wording.answer(one))
    others = [i for i in tiny.items if i.answer != one.answer and len(tiny.wording.answer(i)) == length]
    with pytest.raises(LabelError, match="the labelled tokens"):
        check_samples([one], [tiny.wording.sample(others[0])], tiny.wording)


# truncation


@pytest.mark.parametrize(("length", "cut"), [(17, None), (16, 1), (5, 12)])
def test_truncation_that_eats_image_tokens_is_caught(case: Case, length: int, cut: int | None) -> None:
    message = f"max_seq_len {length} cut {cut} of 16 image tokens" if cut else f"max_seq_len {length} cut all labels"
    with pytest.raises(TruncationError, match=message):
        run(replace(case, wording=replace(case.wording, max_seq_len=length)))


def test_truncation_that_eats_all_labels_is_caught_and_one_label_left_is_not(case: Case) -> None:
    prompt = len(case.wording.prompt(case.items[0]))
    with pytest.raises(TruncationError, match="cut all labels; increase max_seq_len or shorten the prompt"):
        run(replace(case, wording=replace(case.wording, max_seq_len=prompt)))
    short = replace(case.wording, max_seq_len=prompt + 1)
    check_samples(case.items, [short.sample(item) for item in case.items], short)
