from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from connector_cases import Case
from torch import nn

from mcdo.errors import McdoError
from mcdo.store import Store
from mcdo.studies.connector.ablation import Ablation, ablate, batch_losses, compare, item_losses
from mcdo.studies.connector.arms import ARMS
from mcdo.studies.connector.samples import collate, without_image


def losses(case: Case, arm: str = "correct", batch_size: int = 32) -> np.ndarray:
    with torch.no_grad():
        visual = case.model.visual(case.pixels) if arm == "correct" else None
    return item_losses(case.model, case.samples, visual, case.wording.pad_id, batch_size)


def test_every_arm_is_measured_on_every_item_and_random_weights_show_no_use_of_the_image(case: Case) -> None:
    found = ablate(case.model, case.wording, case.items, case.pixels, case.blank, seed=0)
    assert tuple(found.losses) == ARMS
    assert all(each.shape == (64,) and each.dtype == np.float64 for each in found.losses.values())
    assert found.ids == tuple(item.id for item in case.items)
    assert compare([found])[0]["shuffled"].difference.outcome(0.1, ">=") == "not met"


def test_the_loss_is_that_of_transformers_itself(llava: Case) -> None:
    ours = losses(llava)
    for i in range(8):
        batch = collate([llava.samples[i]], llava.wording.pad_id)
        with torch.no_grad():
            own = llava.model.model(
                input_ids=batch.input_ids, pixel_values=llava.pixels[i : i + 1], labels=batch.labels
            ).loss
        assert ours[i] == pytest.approx(float(own), rel=1e-5)


def test_the_loss_without_image_is_that_of_the_language_model_alone(tiny: Case) -> None:
    ours = losses(tiny, "caption_only")
    for i in range(8):
        batch = collate([without_image(tiny.samples[i], tiny.model.image_token_id)], tiny.wording.pad_id)
        with torch.no_grad():
            own = tiny.model.lm(input_ids=batch.input_ids, labels=batch.labels).loss
        assert ours[i] == pytest.approx(float(own), rel=1e-5)


def test_uniform_predictions_cost_the_logarithm_of_the_vocabulary(tiny: Case) -> None:
    with torch.no_grad():
        tiny.model.lm.get_input_embeddings().weight.zero_()  # tied to the head, so every logit is zero
    words = tiny.model.lm.config.vocab_size
    assert losses(tiny) == pytest.approx(np.full(64, np.log(words)), rel=1e-6)


@pytest.mark.parametrize("arm", ["correct", "caption_only"])
def test_losses_do_not_depend_on_the_batch(case: Case, arm: str) -> None:
    assert losses(case, arm, batch_size=64) == pytest.approx(losses(case, arm, batch_size=7), rel=1e-5)


def test_a_loss_that_is_not_finite_names_the_item(tiny: Case) -> None:
    visual = torch.zeros(64, 16, tiny.model.config.width)
    visual[5] = torch.nan
    with pytest.raises(McdoError, match=f"{tiny.items[5].id}: its loss is not finite"):
        item_losses(tiny.model, tiny.samples, visual, tiny.wording.pad_id)


@pytest.mark.parametrize("n", [2, 63])
def test_the_held_out_set_has_64_to_256_items(tiny: Case, n: int) -> None:
    with pytest.raises(McdoError, match="the ablation takes 64 to 256"):
        ablate(tiny.model, tiny.wording, tiny.items[:n], tiny.pixels[:n], tiny.blank, seed=0)


def test_ablating_changes_neither_weights_nor_global_randomness(case: Case) -> None:
    module: nn.Module = getattr(case.model, "model", case.model)
    hooks = len(case.model.projector._forward_hooks)
    before, state = {k: v.clone() for k, v in module.state_dict().items()}, torch.get_rng_state()
    ablate(case.model, case.wording, case.items, case.pixels, case.blank, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert len(case.model.projector._forward_hooks) == hooks


def made(origins: tuple[str, ...] | None = None, **losses_of: np.ndarray) -> Ablation:
    n = len(losses_of["correct"])
    ids = tuple(map(str, range(n)))
    return Ablation(ids, origins or ids, MappingProxyType(losses_of), np.full(n, 3))


def test_comparisons_are_paired_and_corrected_over_all_connectors() -> None:
    rng = np.random.default_rng(0)
    correct = rng.normal(1, 0.2, 100)
    one = made(correct=correct, shuffled=correct + rng.normal(0.1, 0.2, 100), zeroed=correct + rng.normal(0, 0.2, 100))
    two = made(correct=correct, shuffled=correct + rng.normal(0.05, 0.2, 100))
    found = compare([one, two])
    p = [
        scipy.stats.wilcoxon(each.losses[arm], correct, alternative="greater").pvalue
        for each, arm in ((one, "shuffled"), (one, "zeroed"), (two, "shuffled"))
    ]
    order = np.argsort(p)
    holm = np.maximum.accumulate(np.array(p)[order] * [3, 2, 1]).clip(max=1)
    assert [found[0]["shuffled"].p_holm, found[0]["zeroed"].p_holm, found[1]["shuffled"].p_holm] == pytest.approx(
        list(holm[np.argsort(order)])
    )
    assert found[0]["shuffled"].difference.value == pytest.approx((one.losses["shuffled"] - correct).mean())
    assert found[0]["shuffled"].worse.value == np.mean(one.losses["shuffled"] > correct)


def test_equal_losses_are_not_taken_for_use_of_the_image() -> None:
    same = np.ones(64)
    assert compare([made(correct=same, shuffled=same)])[0]["shuffled"].verdict == "not met"


def test_the_mean_over_tokens_weighs_items_by_their_label_tokens() -> None:
    ablation = replace(made(correct=np.array([1.0, 4.0])), label_tokens=np.array([3, 1]))
    assert ablation.token_mean("correct") == pytest.approx(1.75)


def test_items_of_one_picture_are_one_draw() -> None:
    rng = np.random.default_rng(0)
    correct, more = rng.normal(1, 0.2, 80), rng.normal(0.1, 0.2, 80)
    once = compare([made(correct=correct, shuffled=correct + more)])[0]["shuffled"]
    twice = compare(
        [made(tuple(map(str, range(80))) * 2, correct=np.tile(correct, 2), shuffled=np.tile(correct + more, 2))]
    )
    assert twice[0]["shuffled"].difference.n == twice[0]["shuffled"].loss.n == 80
    widths = [each.difference.high - each.difference.low for each in (once, twice[0]["shuffled"])]
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert twice[0]["shuffled"].p_value == pytest.approx(once.p_value, rel=0.2), "a copy of every item proves nothing"


def test_what_was_measured_before_a_process_was_ended_is_not_measured_again(
    tiny: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four batches an arm; the sixth is not let through."""
    calls, most = [0], [10**9]

    def counting(*arguments: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] > most[0]:
            raise KeyboardInterrupt
        return batch_losses(*arguments)

    def ablated(store: Path | None) -> Ablation:
        calls[0] = 0
        parts = None if store is None else Store(store).unfinished("ab" * 32)
        return ablate(tiny.model, tiny.wording, tiny.items, tiny.pixels, tiny.blank, seed=0, batch_size=16, parts=parts)

    monkeypatch.setattr("mcdo.studies.connector.ablation.batch_losses", counting)
    whole, most[0] = ablated(None), 5
    with pytest.raises(KeyboardInterrupt):
        ablated(tmp_path)
    most[0] = 10**9
    again = ablated(tmp_path)
    assert calls[0] == 4 * len(ARMS) - 5
    assert all(np.array_equal(again.losses[arm], whole.losses[arm]) for arm in ARMS)
