from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from connector_cases import Case
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.studies.connector.arms import ARMS, derangement, noise_like, visual_for

images_of_items = st.lists(st.integers(0, 12), min_size=0, max_size=40)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(images=images_of_items, seed=st.integers(0, 10_000))
def test_a_derangement_gives_every_item_another_image_once_or_says_that_none_exists(
    images: list[int], seed: int
) -> None:
    possible = len(images) >= 2 and 2 * max(Counter(images).values()) <= len(images)
    if not possible:
        with pytest.raises(McdoError, match="too many share one"):
            derangement(images, seed)
        return
    other = derangement(images, seed)
    assert sorted(other) == list(range(len(images)))
    assert all(images[i] != images[int(j)] for i, j in enumerate(other))
    assert np.array_equal(other, derangement(images, seed))


def test_derangements_of_two_seeds_differ_and_different_images_form_one_cycle() -> None:
    one, two = derangement(range(50), 0), derangement(range(50), 1)
    assert not np.array_equal(one, two)
    at, length = int(one[0]), 1
    while at != 0:
        at, length = int(one[at]), length + 1
    assert length == 50


def test_noise_has_mean_and_spread_of_the_embeddings_and_belongs_to_the_item() -> None:
    visual = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (100, 16, 32))).float()
    noise = noise_like(visual, seed=5)
    n = visual.numel()
    assert float(noise.mean()) == pytest.approx(float(visual.mean()), abs=4 * 2 / n**0.5)
    assert float(noise.std()) == pytest.approx(float(visual.std()), rel=4 / (2 * n) ** 0.5)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise, noise_like(visual, seed=5))
    assert not torch.equal(noise, noise_like(visual, seed=6))


def test_each_arm_puts_its_own_thing_in_the_places_of_the_image(case: Case) -> None:
    with torch.no_grad():
        visual, black = case.model.visual(case.pixels), case.model.visual(case.blank)
    images = [item.image for item in case.items]
    shown: dict[str, Any] = {arm: visual_for(arm, case.model, visual, case.blank, images, seed=3) for arm in ARMS}
    assert shown["caption_only"] is None
    assert shown["correct"] is visual
    assert not shown["zeroed"].any()
    assert torch.equal(shown["shuffled"], visual[torch.from_numpy(derangement(images, 3))])
    assert torch.equal(shown["blank"], black.expand_as(visual))
    assert len({shown[arm].shape for arm in ARMS if arm != "caption_only"}) == 1
    with pytest.raises(McdoError, match="no arm 'zero'"):
        visual_for("zero", case.model, visual, case.blank, images, seed=3)
