from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from connector_cases import Case, tiny_case

from mcdo.encoders import Encoder
from mcdo.store import Store
from mcdo.studies.connector.coverage import Coverage
from mcdo.studies.connector.faults import PlaceholderError, TruncationError
from mcdo.studies.connector.items import Captioned
from mcdo.studies.connector.samples import IGNORED
from mcdo.studies.connector.tiny import TinyConfig
from mcdo.studies.connector.training import Epoch, Stage, TrainingConfig, said_in_words, train_stage

CONFIG = TrainingConfig(language_epochs=3, connector_epochs=3, warmup=2)


class KilledError(Exception):
    """Stands for a kill: raised after an epoch was kept."""


def train(
    case: Case, stage: Stage, store: Store | None = None, kill_after: int | None = None, shown: list[int] | None = None
) -> list[Epoch]:
    def after(progress: Epoch) -> None:
        if shown is not None:
            shown.append(progress.epoch)
        if progress.epoch == kill_after:
            raise KilledError

    def tokens() -> torch.Tensor:
        found: torch.Tensor = case.model.tower(case.pixels)
        return found

    return train_stage(stage, case.model, case.samples, tokens, case.wording, CONFIG, 7, store=store, after_epoch=after)


def weights(case: Case) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in case.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", params=["language", "connector"])
def undisturbed(request: pytest.FixtureRequest, encoder: Encoder, digits: Captioned) -> tuple[Stage, Case, list[Epoch]]:
    """A stage, what it was trained to, and how that went."""
    case, stage = tiny_case(encoder, digits), request.param
    return stage, case, train(case, stage)


@pytest.mark.parametrize("kill_after", [0, 2], ids=["after-the-first", "after-the-last"])
def test_killed_and_resumed_equals_undisturbed(
    undisturbed: tuple[Stage, Case, list[Epoch]], encoder: Encoder, digits: Captioned, tmp_path: Path, kill_after: int
) -> None:
    stage, whole, history = undisturbed
    store = Store(tmp_path)
    with pytest.raises(KilledError):
        train(tiny_case(encoder, digits), stage, store, kill_after)
    resumed, shown = tiny_case(encoder, digits), list[int]()
    assert train(resumed, stage, store, shown=shown) == history
    assert shown == list(range(kill_after + 1, 3)), "finished epochs are not trained again"
    assert same(weights(whole), weights(resumed))


def test_a_finished_stage_is_not_trained_again_and_needs_no_image(
    encoder: Encoder, digits: Captioned, tmp_path: Path
) -> None:
    store, one, two = Store(tmp_path), tiny_case(encoder, digits), tiny_case(encoder, digits)
    train(one, "connector", store)

    def never() -> torch.Tensor:
        raise AssertionError("the images were asked for")

    train_stage("connector", two.model, two.samples, never, two.wording, CONFIG, 7, store=store)
    assert same(weights(one), weights(two))


def test_another_identity_is_another_training(encoder: Encoder, digits: Captioned, tmp_path: Path) -> None:
    case, ran = tiny_case(encoder, digits), []
    tokens = case.model.tower(case.pixels)
    for data in ("a", "b", "a"):
        train_stage(
            "connector", case.model, case.samples, lambda: tokens, case.wording, CONFIG, 7, store=Store(tmp_path),
            identity={"data": data}, after_epoch=lambda progress: ran.append(progress.epoch),
        )  # fmt: skip
    assert ran == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("stage", ["language", "connector"])
def test_a_stage_trains_its_own_part_only_and_lowers_its_loss(tiny: Case, encoder: Encoder, stage: Stage) -> None:
    tower, before, state = encoder.weights_hash, weights(tiny), torch.get_rng_state()
    history = train(tiny, stage)
    assert encoder.weights_hash == tower  # of the weights as they are now
    changed = {name.split(".")[0] for name, value in weights(tiny).items() if not torch.equal(value, before[name])}
    assert changed == {"lm" if stage == "language" else "_projector"}
    assert history[-1].loss < history[0].loss
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())


def test_every_epoch_shows_every_item_once_and_counts_it(tiny: Case) -> None:
    expected = Coverage.of(tiny.samples, 512)
    assert [p.coverage for p in train(tiny, "connector")] == [expected] * 3
    assert expected.n == 64


def test_too_much_truncation_is_refused_before_the_first_step(tiny: Case) -> None:
    before = weights(tiny)
    length = len(tiny.wording.prompt(tiny.items[0]))
    short = replace(tiny, wording=replace(tiny.wording, max_seq_len=length))
    with pytest.raises(TruncationError, match="64 of 64 samples"):
        train(short, "connector")
    with pytest.raises(TruncationError, match="cut 12 of 16 image tokens"):
        train(replace(tiny, wording=replace(tiny.wording, max_seq_len=5)), "connector")
    samples = [replace(tiny.wording, tokens_per_image=1).sample(item) for item in tiny.items]
    with pytest.raises(PlaceholderError, match="1 image placeholders for 16"):
        train_stage("connector", tiny.model, samples, lambda: torch.empty(0), tiny.wording, CONFIG, 7)
    assert same(before, weights(tiny))


def test_the_language_stage_is_shown_words_of_the_answer(encoder: Encoder, digits: Captioned) -> None:
    case = tiny_case(encoder, digits, config=TinyConfig(width=32))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        said = said_in_words(case.model, case.samples[:5], 0.0, generator)
        table = case.model.lm.get_input_embeddings().weight
    for sample, rows in zip(case.samples[:5], said, strict=True):
        words = {label for label in sample.labels if label != IGNORED} - {case.wording.tokenizer.eos_token_id}
        nearest = torch.cdist(rows, table).argmin(1).tolist()
        assert set(nearest) <= words
        assert len(set(nearest)) > 1


def test_words_are_blurred_by_the_noise_asked_for(tiny: Case) -> None:
    def said(noise: float) -> Any:
        with torch.no_grad():
            return said_in_words(tiny.model, tiny.samples, noise, torch.Generator().manual_seed(3)).numpy()

    moved = said(0.5) - said(0.0)
    assert np.std(moved) == pytest.approx(0.5 * np.std(said(0.0)), rel=0.05)
