from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import made_up_run, noisy

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloRun
from mcdo.experiments import exp2_synthetic as exp2

CONFIG = exp2.Exp2Config()


def categories(levels: dict[str, float], n: int = 40) -> dict[str, MonteCarloRun]:
    rng = np.random.default_rng(0)
    runs = {}
    for name in (*exp2.SYNTHETIC, exp2.NATURAL):
        scores = noisy(levels.get(name, 1.0) * np.exp(0.2 * rng.normal(size=n)), 5, rng)
        runs[name] = made_up_run({"trace_pre": scores, "trace_post": scores}, norm=1 + 0.1 * rng.random(n))
    return runs


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ({"natural": 0.5}, "met"),
        ({"natural": 2.0}, "not met"),
        ({}, "undecided"),
        ({"natural": 0.5, "solid": 0.5}, "undecided"),
        ({"natural": 0.5, "solid": 0.2}, "not met"),
    ],
    ids=["lowest", "highest", "equal", "ties-with-one", "one-is-lower"],
)
def test_familiarity_needs_all_three_differences(levels: dict[str, float], verdict: str) -> None:
    assert exp2.compute(CONFIG, categories(levels)).familiarity("trace_pre") == verdict


def test_the_order_is_by_mean() -> None:
    found = exp2.compute(CONFIG, categories({"natural": 0.3, "gradient": 0.6, "noise": 1.2, "solid": 2.4}))
    assert found.order("trace_pre") == exp2.PREDICTED


def test_a_score_that_grows_with_the_norm_is_seen_through_by_its_control() -> None:
    """Natural images with large norms: highest trace, no higher relative trace."""
    rng = np.random.default_rng(1)
    runs = {}
    for name in (*exp2.SYNTHETIC, exp2.NATURAL):
        norm = (2.0 if name == exp2.NATURAL else 1.0) * np.exp(0.1 * rng.normal(size=40))
        scores = noisy(norm**2 * np.exp(0.2 * rng.normal(size=40)), 5, rng)
        runs[name] = made_up_run({"trace_pre": scores, "trace_post": scores}, norm=norm)
    found = exp2.compute(CONFIG, runs)
    assert found.order("trace_pre")[-1] == "natural"
    assert found.familiarity("trace_pre") == "not met"
    assert found.familiarity("trace_pre_relative") == "undecided"


def test_synthetic_images_have_the_encoder_s_input_size() -> None:
    """Noise of 224 px shown to an encoder of 32 px would be averaged to grey."""
    assert [need.images for need in exp2.needs(CONFIG, "clip_tiny")] == [
        "synthetic:solid:32", "synthetic:gradient:32", "synthetic:noise:32", None
    ]  # fmt: skip
    assert exp2.needs(CONFIG, "siglip2_so400m")[2].images == "synthetic:noise:378"


@pytest.mark.parametrize("config", [exp2.Exp2Config.of("full"), exp2.Exp2Config.of("quick")], ids=["full", "quick"])
def test_every_protocol_has_at_least_forty_images_of_each(config: exp2.Exp2Config) -> None:
    assert config.n >= 40


def test_too_few_images_are_refused() -> None:
    with pytest.raises(McdoError, match="too few images to compare means"):
        exp2.compute(CONFIG, categories({}, n=9))


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    runs = categories({"natural": 0.5})
    exp2.write(CONFIG, runs, exp2.compute(CONFIG, runs), tmp_path, "session")
    folder = tmp_path / exp2.FOLDER / "clip_tiny"
    summary = json.loads((folder / "exp2_summary.json").read_text())
    assert summary["ascending_uncertainty_order"][0] == "natural"
    assert summary["natural_is_lowest"] == "met"
    stats = summary["category_stats"]["solid"]
    assert stats["mean_ci"][0] < stats["mean"] < stats["mean_ci"][1]
    assert len(summary["pairs"]) == 6
    with np.load(folder / "exp2_uncertainty_by_category.npz", allow_pickle=False) as arrays:
        assert arrays["noise_trace_pre"].shape == (40,)
        assert arrays["noise_paths"].shape == (40,)
    assert (folder / f"{exp2.FOLDER}.png").stat().st_size > 10_000
