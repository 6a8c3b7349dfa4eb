"""Does the language model use its visual tokens, and does max_seq_len leave it something to learn from? (S4)"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from connector_subjects import Sources, Written

from mcdo.harness import Session
from mcdo.store import Store
from mcdo.studies.connector import ARMS, ConnectorConfig, Data, ablate, check_coverage, compare, derangement
from mcdo.studies.connector.study import black, encoder_pixels, trained_connector

pytestmark = pytest.mark.connector


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm != "correct"])
def test_the_correct_image_has_the_lower_loss(
    study: Written, arm: str, record_property: Callable[[str, object], None]
) -> None:
    seeds = study.result.seeds
    found = {seed: by_arm[arm] for seed, by_arm in zip(seeds, study.compared, strict=True)}
    facts = [
        f"seed {seed}: loss({arm}) - loss(correct) = {c.difference} nats, {c.worse.value:.0%} of items, p(Holm) "
        f"{c.p_holm:.2g}: {c.verdict}"
        for seed, c in found.items()
    ]
    record_property(f"difference {arm}", "; ".join(facts))
    verdicts = {c.verdict for c in found.values()}
    assert "not met" not in verdicts, (
        f"{facts}: the connector is not used; look for placeholders that are not replaced, labels that are masked "
        "wrongly, and image tokens that are not put in"
    )
    if "undecided" in verdicts:
        pytest.skip(f"undecided: {facts}")


@pytest.mark.filterwarnings("always::mcdo.studies.connector.TruncationWarning")
def test_few_samples_are_truncated_and_none_is_without_labels(
    study: Written, record_property: Callable[[str, object], None]
) -> None:
    result = study.result
    record_property("coverage", str(result.coverage))
    check_coverage(result.coverage)
    for history in result.histories:
        for progress in history:
            check_coverage(progress.coverage)
            assert progress.coverage == result.coverage, "every epoch shows every item once"


def test_pictures_dealt_to_the_wrong_items_are_not_passed(
    subject: str,
    sources: Sources,
    config: ConnectorConfig,
    session: Session,
    checkpoints: Store,
    request: pytest.FixtureRequest,
) -> None:
    """The claim must fail where it is false: with pictures of other items as "correct", shuffling loses nothing."""
    if sources.model is not None:
        pytest.skip("a control of the study's own connectors; --connector-model names another one")
    data: Data = request.getfixturevalue("data")
    encoder = session.encoder(subject)
    model, wording, _ = trained_connector(encoder, data.train, config, config.seed, checkpoints)
    items, pixels = data.held_out.items, encoder_pixels(encoder, data.held_out)
    wrong = derangement([item.image for item in items], config.seed + 1)
    arms = ("correct", "shuffled")
    ablation = ablate(model, wording, items, pixels[wrong], black(encoder), seed=config.seed, arms=arms)
    shuffled = compare([ablation], config.seed)[0]["shuffled"]
    assert shuffled.verdict != "met", f"pictures of other items pass for correct ones: {shuffled.difference}"


def test_the_result_is_written_with_table_figure_and_coverage(study: Written) -> None:
    held = json.loads(study.files["json"].read_text(encoding="utf-8"))
    assert [each["seed"] for each in held["connectors"]] == list(study.result.seeds)
    for each, by_arm in zip(held["connectors"], study.compared, strict=True):
        assert {arm: c.as_dict() for arm, c in by_arm.items()} == each["arms"]
    coverage = json.loads(study.files["coverage"].read_text(encoding="utf-8"))
    assert coverage["mean_label_tokens"] == study.result.coverage.mean_label_tokens
    with np.load(study.files["losses"]) as losses:
        assert all(losses[arm].shape == (len(study.result.seeds), held["items"]) for arm in ARMS)
    assert all(f"| {arm} |" in study.files["table"].read_text(encoding="utf-8") for arm in ARMS)
    assert study.files["figure"].read_bytes().startswith(b"\x89PNG")
