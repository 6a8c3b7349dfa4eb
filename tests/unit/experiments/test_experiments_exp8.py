"""Exp8: shares against explicit covariances, the chance that stands beside them, and the passes they are taken from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ortho_group

from mcdo.errors import McdoError
from mcdo.experiments import exp8_semantic as exp8
from mcdo.experiments.bench import Bench, Settings
from mcdo.experiments.pass_moments import pass_moments
from mcdo.perturbation import image_keys, perturbed
from mcdo.stats import ambiguity_targets

CONFIG = exp8.Exp8Config(n=12, passes=20, trials=2, subspaces=200)
KEY = "clip_tiny"


def test_basis_spans_the_differences_between_texts() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 8))
    basis = exp8.semantic_basis(text)
    assert basis.vectors.shape == (4, 8), "centring takes one direction"
    assert basis.chance == 0.5
    assert basis.vectors @ basis.vectors.T == pytest.approx(np.eye(4), abs=1e-12)
    units = text / np.linalg.norm(text, axis=1, keepdims=True)
    difference = units[0] - units[3]
    assert difference @ basis.vectors.T @ basis.vectors == pytest.approx(difference)


def test_removing_the_gap_leaves_a_basis_across_it_and_one_dimension_less() -> None:
    rng = np.random.default_rng(1)
    text, gap = rng.normal(size=(5, 8)), rng.normal(size=8)
    basis = exp8.semantic_basis(text, gap)
    assert np.abs(basis.vectors @ gap).max() < 1e-10
    assert basis.dim == 7
    features = rng.normal(size=(30, 8)) + 5
    assert exp8.modality_gap(features, text) == pytest.approx(exp8.unit(features).mean(0) - exp8.unit(text).mean(0))


def test_leading_directions_leave_out_what_only_wording_adds() -> None:
    rng = np.random.default_rng(2)
    meaning = rng.normal(size=(4, 16))
    text = np.concatenate([meaning, meaning + 1e-3 * rng.normal(size=(4, 16))])  # the same in other words
    assert len(exp8.semantic_basis(text).vectors) == 7
    assert len(exp8.semantic_basis(text, variance=0.99).vectors) == 3


def test_texts_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(McdoError, match="one and the same"):
        exp8.semantic_basis(np.ones((4, 8)))


def test_random_subspaces_hold_rank_over_dimension_of_any_covariance() -> None:
    D, rank = 12, 3
    rotation = ortho_group.rvs(D, random_state=0)
    covariance = rotation @ np.diag(np.geomspace(1, 1e-4, D)) @ rotation.T
    shares = exp8._random_shares(covariance, rank, np.eye(D), 4000, seed=0)
    assert shares.mean() == pytest.approx(rank / D, abs=4 * shares.std() / np.sqrt(4000))
    assert exp8._random_shares(np.eye(D), rank, np.eye(D), 10, 0) == pytest.approx(np.full(10, rank / D))
    gap = np.eye(D)[0]
    P = exp8._without(D, gap)
    assert exp8._random_shares(P, rank, P, 10, 0) == pytest.approx(np.full(10, rank / (D - 1)))


def test_prompts_are_the_published_ones_but_for_the_embedded_encoders() -> None:
    assert exp8.prompts("clip_b32", ("tench",)) == exp8.PROMPTS
    assert len(set(exp8.PROMPTS)) == 20
    assert exp8.prompts("clip_tiny", ("zero", "one")) == ("a photo of a zero", "a photo of a one", "a zero", "a one")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Settings((KEY,)))


@pytest.fixture(scope="module")
def passes(bench: Bench) -> np.ndarray:
    """The passes themselves, [K, N, T, D]."""
    encoder, images, pixels = bench.encoder(KEY), bench.images(CONFIG.n), bench.pixels(KEY, CONFIG.n)
    keys = image_keys(images.mask_ids)
    with perturbed(encoder, CONFIG.dropout, CONFIG.seed) as tower:
        x = pixels.batch(slice(None))
        found = [
            np.concatenate([tower(x, keys, k, 0).numpy(), tower(x, keys, k, 1, 0, 4).numpy()], axis=1)
            for k in range(CONFIG.trials)
        ]
    return np.stack(found).astype(np.float64)


def test_moments_are_those_of_the_passes_and_of_the_run(bench: Bench, passes: np.ndarray) -> None:
    need = exp8.needs(CONFIG, KEY)
    text = bench.text_features(KEY, exp8.prompts(KEY, bench.images(CONFIG.n).class_names))
    moments = pass_moments(bench, need, text)
    D = passes.shape[-1]
    covariance = np.stack([[np.cov(x.T) for x in trial] for trial in passes])
    total = np.trace(covariance, axis1=-2, axis2=-1)
    assert moments["total"] == pytest.approx(total, rel=1e-9)
    assert moments["total"] / D == pytest.approx(bench.run(need).scores("trace_pre", 20), rel=1e-6)
    frame = moments["frame"]
    assert moments["covariance"] == pytest.approx(frame @ covariance @ frame.T, rel=1e-6, abs=1e-12)
    share = (covariance / total[..., None, None]).mean((0, 1))
    assert moments["mean_covariance"] == pytest.approx(share, abs=1e-12)
    cosines = exp8.unit(passes) @ exp8.unit(text).T
    assert moments["similarity"] == pytest.approx(cosines.var(axis=2, ddof=1), rel=1e-6)


def test_shares_are_those_of_explicit_projections(bench: Bench, passes: np.ndarray, tmp_path: Path) -> None:
    need, images = exp8.needs(CONFIG, KEY), bench.images(CONFIG.n)
    named = exp8.prompts(KEY, images.class_names)
    text, run = bench.text_features(KEY, named), bench.run(need)
    targets = ambiguity_targets(bench.logits(KEY, CONFIG.n), images.labels)
    result = exp8.compute(CONFIG, run, pass_moments(bench, need, text), text, targets)
    centred = passes - passes.mean(axis=2, keepdims=True)
    gap = exp8.unit(exp8.modality_gap(run.features, text))
    for name, removed in (("raw", np.zeros_like(gap)), ("gap_removed", gap)):
        basis = exp8.semantic_basis(text, removed if removed.any() else None)
        across = centred - (centred @ removed)[..., None] * removed
        inside = np.square(across @ basis.vectors.T).sum((-1, -2)) / np.square(across).sum((-1, -2))
        share = result.shares[name]
        assert share.observed.value == pytest.approx(inside.mean(), rel=1e-6)
        assert share.by_rank[-1] == pytest.approx(share.observed.value)
        assert share.chance == len(basis.vectors) / (48 if name == "raw" else 47)
    scores = result.scores
    assert scores["parallel"] + scores["orthogonal"] == pytest.approx(scores["trace_pre"], rel=1e-6)
    exp8.write(CONFIG, run, named, result, tmp_path, "s")
    folder = tmp_path / exp8.FOLDER / KEY
    held = json.loads((folder / "exp8_summary.json").read_text())
    assert held["shares"]["raw"]["rank"] == 19
    assert len(held["similarity_variance_by_prompt"]) == 20
    with np.load(folder / "exp8_outputs.npz") as saved:
        assert saved["parallel_fraction"].shape == (CONFIG.trials, CONFIG.n)
    assert (folder / f"{exp8.FOLDER}.png").stat().st_size > 0


def test_isotropic_variance_has_the_share_of_chance() -> None:
    rng = np.random.default_rng(3)
    text, D = rng.normal(size=(6, 24)), 24
    basis = exp8.semantic_basis(text)
    K, N = 1, 400
    parallel = np.square(rng.normal(size=(K, N, 60, D)) @ basis.vectors.T).mean(2)
    total = np.full((K, N), float(D))
    share = exp8._share(CONFIG, basis, parallel, total, np.eye(D) / D, rng.normal(size=(50, D)), None)
    assert share.observed.low < basis.chance < share.observed.high
    assert share.p_value > 0.05
