"""Exp5 (full): does the score follow ambiguity, and more than the feature norm does?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp5_full_ambiguity as exp5
from mcdo.experiments import exp5_retrieval
from mcdo.experiments.bench import Bench
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS
from mcdo.images.retrieval import read_items

pytestmark = [pytest.mark.phase2, pytest.mark.experiment(exp5, exp5.Exp5FullConfig)]


def _config(bench: Bench) -> exp5.Exp5FullConfig:
    settings = bench.settings
    return exp5.Exp5FullConfig.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> exp5.Exp5FullResult:
    config = _config(bench)
    images, run = bench.images(config.n), bench.run(exp5.needs(config, model))

    def compute() -> exp5.Exp5FullResult:
        found = exp5.compute(config, run, bench.logits(model, config.n), images.labels)
        exp5.write(config, run, images, found, bench.settings.reports / "phase2", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def test_every_figure_is_over_originals(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    """Ten thousand digits are variants of 600 originals: intervals over images would be far too narrow."""
    config, result = _config(bench), _result(bench, model)
    record_property("images", len(result.scores["trace_pre"]))
    record_property("originals", result.originals)
    record_property("accuracy", result.accuracy)
    record_property("mean entropy (nats)", str(exp5.mean_entropy(result, config.seed)))
    assert len(set(bench.images(config.n).origins)) == result.originals
    for name, figures in result.figures.items():
        for key, estimate in figures.items():
            record_property(f"{name} {key}", str(estimate))
            assert estimate.n == result.originals
    assert set(result.gain) == set(exp5.SCORES)
    assert all(np.isfinite(score).all() for score in result.scores.values())


@pytest.mark.parametrize("score", ["trace_pre", "trace_post"])
@pytest.mark.parametrize("bar", list(BARS))
def test_score_follows_ambiguity(bar: str, score: str, model: str, bench: Bench, judge: Judges) -> None:
    key, threshold = BARS[bar]
    figures = _result(bench, model).figures[f"{score}/softmax"]
    judge("exp5_full").above(
        f"{bar}/{score}", figures[key], threshold, f"given the feature norm {figures[f'{key}_given_norm']}"
    )


@pytest.mark.parametrize("score", ["trace_pre", "trace_post"])
def test_score_follows_ambiguity_better_than_the_feature_norm(
    score: str, model: str, bench: Bench, judge: Judges
) -> None:
    """T passes must buy something that one deterministic pass does not have."""
    result = _result(bench, model)
    norm = result.figures[f"{exp5.BASELINE}/softmax"]["rho_uncertainty_vs_entropy"]
    beside = f"p_holm {result.gain[score].p_holm:.2g}; minus the norm alone {norm}"
    judge("exp5_full").above(f"beats_norm/{score}", result.gain[score].estimate, 0.0, beside)


def test_score_says_which_captions_are_mistaken(
    model: str, bench: Bench, pytestconfig: pytest.Config, record_property: Callable[[str, object], None]
) -> None:
    path = pytestconfig.getoption("--retrieval", default=None)
    if not path:
        pytest.skip("no --retrieval=FILE.json, a list of {image_path, captions, correct_index}")
    config, items = _config(bench), read_items(path)
    run = bench.run(exp5_retrieval.retrieval_need(config, model, path))
    texts = bench.text_features(model, exp5_retrieval.prompts(items))
    found = exp5_retrieval.compute_retrieval(config, run, items, texts)
    settings = bench.settings
    exp5_retrieval.write_retrieval(config, run, path, found, settings.reports / "phase2", settings.session)
    record_property("recall at 1", str(found.recall))
    for name, figures in found.figures.items():
        for key, estimate in figures.items():
            record_property(f"{name} {key}", str(estimate))
    assert len(found.rank) == len(items)
    assert found.rank.min() >= 1
