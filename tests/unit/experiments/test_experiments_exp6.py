"""Exp6: its comparisons on made-up scores, and its calibration images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcdo.errors import McdoError
from mcdo.experiments import exp6_laplace as exp6
from mcdo.experiments.bench import Bench, Settings
from mcdo.experiments.laplace_scores import calibration_images, laplace_scores

N, C = 300, 5
CONFIG = exp6.Exp6Config(n=40, passes=4, fit=60, probes=2, resamples=200)


def made_up() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Scores, feature norms, logits and labels: mc_dropout follows ambiguity, laplace_head follows nothing."""
    rng = np.random.default_rng(0)
    sharpness = rng.uniform(0.2, 6, N)
    logits = rng.normal(size=(N, C)) * sharpness[:, None]
    labels = np.where(rng.random(N) < 0.8, logits.argmax(1), rng.integers(0, C, N))
    scores = {
        "mc_dropout": 1 / sharpness + 0.05 * rng.normal(size=N),
        "laplace_head": rng.normal(size=N),
        "laplace_projection": 2 / sharpness,
        "inverse_norm": rng.normal(size=N),
        "zero_shot_entropy": rng.normal(size=N),
        "zero_shot_margin": rng.normal(size=N),
    }
    stack = np.stack([logits, logits + 0.1 * rng.normal(size=logits.shape)])
    return scores, rng.uniform(1, 2, N), stack, labels


def test_differences_are_to_mc_dropout_with_the_target_itself_left_out() -> None:
    result = exp6.compute(CONFIG, *made_up())
    assert set(result.differences) == {"entropy", "neg_margin", "error"}
    assert "zero_shot_entropy" not in result.differences["entropy"]
    assert "zero_shot_margin" not in result.differences["neg_margin"]
    assert "zero_shot_entropy" in result.differences["error"]
    worse = result.differences["entropy"]["laplace_head"]
    rho = {name: result.estimates[name]["rho_uncertainty_vs_entropy"].value for name in ("laplace_head", "mc_dropout")}
    assert worse.estimate.value == pytest.approx(rho["laplace_head"] - rho["mc_dropout"])
    assert worse.estimate.high < 0
    assert worse.p_holm < 0.05
    assert worse.p_holm >= worse.p_value


def test_holm_counts_every_comparison_of_the_model() -> None:
    result = exp6.compute(CONFIG, *made_up())
    every = [d for family in result.differences.values() for d in family.values()]
    smallest = min(every, key=lambda d: d.p_value)
    assert smallest.p_holm == pytest.approx(min(1, smallest.p_value * len(every)))


def test_without_labels_there_is_no_comparison_on_errors() -> None:
    scores, norm, logits, _ = made_up()
    result = exp6.compute(CONFIG, scores, norm, logits, None)
    assert set(result.differences) == {"entropy", "neg_margin"}
    assert result.accuracy is None


def test_cost_is_in_plain_passes() -> None:
    assert exp6.cost(np.array([0.5, 20.0, 0.6, 0.75])) == {
        "plain": 1.0, "mc_dropout": 40.0, "laplace_head": 1.2, "laplace_projection": 1.5,
    }  # fmt: skip


def test_defaults_are_the_published_protocol() -> None:
    config = exp6.Exp6Config()
    assert (config.n, config.passes, config.trials, config.dropout.p) == (10_000, 64, 1, 0.01)


def test_calibration_images_of_the_digits_are_the_training_split() -> None:
    bench = Bench(Settings(("clip_tiny",)))
    fitted = calibration_images(bench, 40, 60)
    assert len(fitted) == 60
    assert all(image_id.startswith("digits/train/") for image_id in fitted.ids)


def folder_of(root: Path, per_class: int) -> str:
    for name in ("red", "green", "blue"):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            colour = np.random.default_rng((i, len(name))).integers(0, 256, 3)
            Image.new("RGB", (8, 8), tuple(int(c) for c in colour)).save(root / name / f"{i}.png")
    return f"folder:{root}"


def test_calibration_images_of_a_folder_are_others_than_those_scored(tmp_path: Path) -> None:
    bench = Bench(Settings(("clip_tiny",), images=folder_of(tmp_path, 12)))
    scored, fitted = bench.images(15), calibration_images(bench, 15, 20)
    assert len(fitted) >= 20
    assert not set(scored.ids) & set(fitted.ids)
    with pytest.raises(McdoError, match="none is left to fit"):
        calibration_images(bench, 36, 20)


def test_no_copy_of_a_scored_file_is_fitted_on(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, 12)
    for path in sorted((tmp_path / "red").glob("*.png")):
        (tmp_path / "green" / f"copy{path.name}").write_bytes(path.read_bytes())
    bench = Bench(Settings(("clip_tiny",), images=spec))
    scored, fitted, pool = bench.images(15), calibration_images(bench, 15, 33), bench.images(48)
    copies = {i for i, o in zip(pool.ids, pool.origins, strict=True) if o in scored.origins} - set(scored.ids)
    assert copies, "the pool holds copies of what is scored"
    assert set(fitted.ids) == set(pool.ids) - copies - set(scored.ids)


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_laplace_scores_are_kept_and_files_are_written(key: str, tmp_path: Path) -> None:
    bench = Bench(Settings((key,), store=tmp_path / "store"))
    run = bench.run(exp6.needs(CONFIG, key))
    laplace = laplace_scores(bench, key, CONFIG.n, CONFIG.fit)
    logits, first = bench.logits(key, CONFIG.n), {name: run.scores(name, 4) for name in ("trace_pre", "trace_post")}
    scores = exp6.gathered(run, CONFIG.passes, laplace, first, logits)
    result = exp6.compute(CONFIG, scores, run.feature_norm, logits, bench.images(CONFIG.n).labels)
    exp6.write(CONFIG, run, result, laplace, np.array([1.0, 4, 1, 1]), tmp_path, "s")
    folder = tmp_path / exp6.FOLDER / key
    held = json.loads((folder / "exp6_summary.json").read_text())
    assert held["passes_per_image"]["mc_dropout"] == 4
    assert held["difference_to_mc_dropout"]["entropy"]["laplace_head"]["n"] == CONFIG.n
    with np.load(folder / "exp6_outputs.npz") as arrays:
        assert arrays["laplace_uncertainty"] == pytest.approx(laplace["head_logit_variance"])
    assert (folder / f"{exp6.FOLDER}.png").stat().st_size > 0

    again = Bench(Settings((key,), store=tmp_path / "store", from_store=True))
    kept = laplace_scores(again, key, CONFIG.n, CONFIG.fit)
    assert again.loads[key] == 0
    assert all(np.array_equal(kept[name], value) for name, value in laplace.items())
