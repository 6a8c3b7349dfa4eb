"""Exp7: spreads by hand, combinations that are monotone, and relations against SciPy."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from mcdo.experiments import exp7_aleatoric as exp7
from mcdo.experiments.bench import Bench, Settings
from mcdo.images.degradations import Degradation

CONFIG = exp7.Exp7Config(n=40, passes=4, trials=3, families=("jpeg", "noise"))


def test_aleatoric_is_the_mean_sample_variance_over_clean_and_degraded() -> None:
    rng = np.random.default_rng(0)
    clean, degraded = rng.normal(size=(5, 3)), rng.normal(size=(4, 5, 3))
    expected = [np.var([clean[i], *degraded[:, i]], axis=0, ddof=1).mean() for i in range(5)]
    assert exp7.aleatoric(clean, degraded) == pytest.approx(expected)
    assert exp7.aleatoric(np.array([[1.0, 2]]), np.array([[[3.0, 2]]])) == pytest.approx([1.0])  # var (1, 3) is 2


def test_equal_variants_have_exactly_no_spread() -> None:
    clean = np.full((2, 3), 0.1, dtype=np.float32)
    assert (exp7.aleatoric(clean, np.stack([clean] * 4)) == 0).all()


def test_a_repeated_clean_copy_would_change_the_spread() -> None:
    """Why the clean image stands once: the published set held it three times."""
    rng = np.random.default_rng(1)
    clean, degraded = rng.normal(size=(6, 3)), rng.normal(size=(4, 6, 3)) + 3
    thrice = np.concatenate([degraded, clean[None], clean[None]])
    assert (np.abs(exp7.aleatoric(clean, thrice) / exp7.aleatoric(clean, degraded) - 1) > 0.05).all()
    for side in (32, 375):
        for levels in exp7.variants(exp7.Exp7Config(), side).values():
            parsed = [Degradation.parse(level) for level in levels]  # severity 0, the clean image, is refused here
            assert len(set(parsed)) == len(levels) >= 3


@settings(deadline=None, derandomize=True)
@given(arrays(np.float64, (2, 12), elements=st.floats(-10, 10), unique=True), st.integers(0, 11), st.floats(0.1, 30))
def test_a_sum_of_ranks_grows_with_either_part(parts: np.ndarray, image: int, more: float) -> None:
    before = exp7.rank_score(parts[0]) + exp7.rank_score(parts[1])
    raised = parts.copy()
    raised[0, image] += more
    after = exp7.rank_score(raised[0]) + exp7.rank_score(raised[1])
    assert after[image] >= before[image]
    assert exp7.z_score(raised[0])[image] >= exp7.z_score(parts[0])[image] - 1e-9


def test_z_scores_have_mean_zero_and_sd_one_and_a_constant_gives_zeros() -> None:
    z = exp7.z_score(np.array([1.0, 2.0, 6.0]))
    assert (z.mean(), z.std(ddof=1)) == pytest.approx((0, 1))
    assert (exp7.z_score(np.full(4, 3.0)) == 0).all()
    assert exp7.rank_score(np.array([5.0, 5.0, 1.0])) == pytest.approx([2.5 / 3, 2.5 / 3, 1 / 3])


def test_reliability_of_a_mean_follows_spearman_brown() -> None:
    assert exp7.of_mean(0.5, 3) == pytest.approx(0.75)
    assert exp7.of_mean(0.8, 1) == 0.8


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, exp7.Exp7Result]:
    bench = Bench(Settings(("clip_tiny",)))
    levels = exp7.variants(CONFIG, 32)
    degraded = {
        family: np.stack([bench.features("clip_tiny", CONFIG.n, degradation=level) for level in of_family])
        for family, of_family in levels.items()
    }
    run, logits = bench.run(exp7.needs(CONFIG, "clip_tiny")), bench.logits("clip_tiny", CONFIG.n)
    return bench, exp7.compute(CONFIG, run, degraded, logits, bench.images(CONFIG.n).labels)


def test_relations_are_spearman_and_disattenuated_where_reliability_is_known(
    measured: tuple[Bench, exp7.Exp7Result],
) -> None:
    result = measured[1]
    for name, relation in result.relations.items():
        rho = spearmanr(result.scores["epistemic"], result.scores[name]).statistic
        assert relation.rho.value == pytest.approx(rho)
        known = name == "aleatoric_jpeg"
        assert math.isnan(relation.disattenuated) != known
        if known:
            of_mean = exp7.of_mean(result.epistemic_reliability.spearman, 3)
            assert relation.disattenuated == pytest.approx(rho / math.sqrt(of_mean))
            assert json.loads(json.dumps(relation.as_dict()))["disattenuated"] == relation.disattenuated


def test_entropy_is_not_compared_with_itself(measured: tuple[Bench, exp7.Exp7Result]) -> None:
    differences = measured[1].differences
    assert "zero_shot_entropy" not in differences["entropy"]
    assert {"combined_rank", "combined_z", "inverse_norm", "aleatoric_noise"} <= set(differences["entropy"])
    assert "epistemic" not in differences["entropy"]


def test_files_hold_the_result(measured: tuple[Bench, exp7.Exp7Result], tmp_path: Path) -> None:
    bench, result = measured
    exp7.write(CONFIG, bench.run(exp7.needs(CONFIG, "clip_tiny")), result, tmp_path, "s")
    folder = tmp_path / exp7.FOLDER / "clip_tiny"
    held = json.loads((folder / "exp7_summary.json").read_text())
    assert held["corr"]["epistemic_vs_aleatoric_noise"]["disattenuated"] is None
    with np.load(folder / "exp7_outputs.npz") as saved:
        assert saved["combined_rank"] == pytest.approx(result.scores["combined_rank"])
    assert (folder / f"{exp7.FOLDER}.png").stat().st_size > 0
