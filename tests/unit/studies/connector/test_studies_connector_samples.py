from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from connector_cases import Case

from mcdo.studies.connector.faults import PlaceholderError
from mcdo.studies.connector.items import Item
from mcdo.studies.connector.samples import IGNORED, Sample, Wording, collate, without_image
from mcdo.studies.connector.words import BEGIN, END, IMAGE, SPECIAL, word_tokenizer


@pytest.fixture
def wording() -> Wording:
    tokenizer = word_tokenizer(["look : a b", "b c"])
    return Wording(tokenizer, int(tokenizer.convert_tokens_to_ids(IMAGE)), 3)


ITEM = Item("x", "x.png", "<image>\nlook :", "a b")


def spelt(wording: Wording, ids: tuple[int, ...]) -> list[str]:
    return list(wording.tokenizer.convert_ids_to_tokens(list(ids)))


def test_words_are_ordered_by_alphabet_after_the_special_ones_and_the_rare_are_left_out() -> None:
    tokenizer = word_tokenizer(["b b a", "A C"], size=2)
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == [*SPECIAL, "a", "b"]
    assert tokenizer("c", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_a_sample_is_begin_image_prompt_answer_end_with_labels_on_the_answer(wording: Wording) -> None:
    sample = wording.sample(ITEM)
    assert spelt(wording, sample.input_ids) == [BEGIN, *[IMAGE] * 3, "look", ":", "a", "b", END]
    assert sample.labels == (*[IGNORED] * 6, *sample.input_ids[6:])
    assert (sample.truncated, sample.label_tokens) == (False, 3)


def test_the_image_may_stand_after_the_question(wording: Wording) -> None:
    sample = wording.sample(replace(ITEM, prompt="look :\n<image>"))
    assert spelt(wording, sample.input_ids)[:6] == [BEGIN, "look", ":", *[IMAGE] * 3]


@pytest.mark.parametrize("prompt", ["look :", "<image> <image>"])
def test_a_prompt_holds_exactly_one_image(wording: Wording, prompt: str) -> None:
    with pytest.raises(PlaceholderError, match="x: its prompt holds"):
        wording.sample(replace(ITEM, prompt=prompt))


@pytest.mark.parametrize(("length", "labels"), [(9, 3), (8, 2), (7, 1), (6, 0), (2, 0)])
def test_truncation_takes_the_tail(wording: Wording, length: int, labels: int) -> None:
    sample = replace(wording, max_seq_len=length).sample(ITEM)
    assert sample.input_ids == wording.sample(ITEM).input_ids[:length]
    assert sample.label_tokens == labels
    assert sample.truncated == (length < 9)


def test_a_batch_is_padded_on_the_right_and_masked() -> None:
    batch = collate([Sample("a", (5, 6, 7), (IGNORED, 6, 7), False), Sample("b", (8,), (8,), False)], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch.input_ids.dtype == torch.int64


def test_without_image_the_text_stays(case: Case) -> None:
    sample = case.samples[0]
    bare = without_image(sample, case.wording.image_token_id)
    assert case.wording.image_token_id not in bare.input_ids
    assert len(sample.input_ids) - len(bare.input_ids) == case.wording.tokens_per_image
    assert [label for label in bare.labels if label != IGNORED] == [x for x in sample.labels if x != IGNORED]
