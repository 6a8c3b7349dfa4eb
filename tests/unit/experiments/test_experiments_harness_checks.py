from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_up_inputs import inputs_of

from mcdo.encoders import load_encoder
from mcdo.estimators import monte_carlo
from mcdo.experiments.phase1 import harness_checks
from mcdo.experiments.phase1.harness_checks import COLLAPSED, VARIED, ChecksResult, HarnessChecks, TowerChecks
from mcdo.harness import Request, TextFeatures
from mcdo.images import load_images
from mcdo.perturbation import Dropout
from mcdo.store import Store


def test_scores_of_each_way_of_batching_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a job which ends in the midst of them is no loss: they are a minute of passes of a large tower."""
    encoder, images, dropout = load_encoder("clip_tiny"), load_images("digits", n=8), Dropout(0.01)
    calls = list[int]()

    def ended_in_the_fourth(*given: Any, **named: Any) -> Any:
        calls.append(named["batch_size"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return monte_carlo(*given, **named)

    monkeypatch.setattr(harness_checks, "monte_carlo", ended_in_the_fourth)
    monkeypatch.setattr(harness_checks, "_batched", lambda _: (8, 2))
    with pytest.raises(KeyboardInterrupt):
        harness_checks._by_batch(encoder, images, dropout, Store(tmp_path).unfinished("a" * 64))
    found = harness_checks._by_batch(encoder, images, dropout, Store(tmp_path).unfinished("a" * 64))
    assert calls == [128, 1, 3, 8, 8, 128, 128]
    assert found == harness_checks._by_batch(encoder, images, dropout, None)
    assert all(0 <= each < 1e-4 for each in found)


def test_one_number_of_one_pass_is_enough_to_be_perturbed() -> None:
    plain = torch.rand(2, 5)
    passes = plain[:, None].repeat(1, 3, 1)
    passes[1, 2, 4] += 1e-6
    assert harness_checks._as_plain(passes, plain).tolist() == [True, False]


@pytest.mark.parametrize("left", ["nothing", "a weight", "a hook"])
def test_what_a_pass_leaves_behind_is_seen(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder: Any = SimpleNamespace(model=torch.nn.Sequential(torch.nn.Linear(2, 2)))

    def tower(*given: Any, **named: Any) -> None:
        if left == "a weight":
            encoder.model[0].weight.data += 1
        if left == "a hook":
            encoder.model[0].register_forward_hook(lambda *_: None)

    monkeypatch.setattr(harness_checks, "perturbed", lambda *_, **__: nullcontext(tower))
    found = harness_checks._restored(encoder, Dropout(0.1), torch.zeros(1), torch.zeros(1))
    assert found == [left == "nothing"] * 2


def result_of(classes: tuple[str, ...], alike: float, varied: float) -> ChecksResult:
    """Of a tower in which class prompts have the mean pairwise cosine ``alike``, prompts of other things ``varied``."""
    seen = {
        "sites": np.frombuffer(json.dumps({"requested": [], "alive": []}).encode(), np.uint8),
        "watched": np.zeros(2),
        "restored": np.ones(2, dtype=bool),
        **dict.fromkeys(("calls", "variance", "p_zero", "batches"), np.zeros(0)),
    }

    def value(request: Request[Any]) -> Any:
        if isinstance(request, TowerChecks):
            return seen
        assert isinstance(request, TextFeatures)
        cosine = varied if any(VARIED[0] in prompt for prompt in request.prompts) else alike
        n = len(request.prompts)  # units with a common part
        features = np.hstack([np.full((n, 1), cosine**0.5), (1 - cosine) ** 0.5 * np.eye(n)])
        return {"features": features.astype(np.float32)}

    tower = SimpleNamespace(has_text=True)
    images = SimpleNamespace(class_names=classes)
    return HarnessChecks().compute(inputs_of(value, image_set=images, encoders={"clip_tiny": tower}))


@pytest.mark.parametrize(
    ("alike", "varied", "looked_at", "collapsed"),
    [
        (0.762, 0.762, False, False),
        (0.95, 0.76, True, False),
        (0.976, 0.976, True, True),
        (0.85, 0.95, False, False),
        (0.901, 0.901, True, True),
        (1.0, 0.76, True, True),
        (math.nan, 0.76, True, True),
        (0.95, math.nan, True, True),
    ],
    ids=[
        "right",
        "classes that are much alike",
        "broken",
        "a tower that knows words of its classes alone",
        "barely",
        "classes that are one",
        "no vectors",
        "no vectors of other things",
    ],
)
def test_a_text_tower_is_collapsed_where_it_tells_nothing_apart(
    alike: float, varied: float, looked_at: bool, collapsed: bool
) -> None:
    found = result_of(("healthy leaf", "sick leaf"), alike, varied)
    assert found.cosine == pytest.approx(alike, abs=1e-6, nan_ok=True)
    assert found.varied == (pytest.approx(varied, abs=1e-6, nan_ok=True) if looked_at else None)
    assert found.collapsed is collapsed
    shown = HarnessChecks().summary(found)
    assert shown["mean_cosine_of_class_prompts"] is found.cosine
    assert shown["mean_cosine_of_varied_prompts"] is found.varied


def test_without_classes_no_text_tower_is_collapsed() -> None:
    found = result_of((), 1.0, 1.0)
    assert (found.cosine, found.varied, found.collapsed) == (None, None, False)


def test_varied_things_are_few_and_all_different() -> None:
    assert len(set(VARIED)) == len(VARIED) > 30
    assert 0.762 < COLLAPSED < 0.976
