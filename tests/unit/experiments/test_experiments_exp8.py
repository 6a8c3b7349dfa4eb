"""Exp8: shares against explicit covariances, and the chance that stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import Array, made_up_run

from mcdo.encoders.zero_shot import unit
from mcdo.errors import McdoError
from mcdo.estimators.pass_covariance import PassCovariance
from mcdo.experiments.phase3.exp8_semantic.experiment import PROMPTS, PromptCovariance, SemanticResult, SemanticSpace
from mcdo.experiments.phase3.exp8_semantic.subspace import (
    modality_gap,
    random_shares,
    semantic_basis,
    share_in,
    without,
)
from mcdo.harness import Inputs, Logits, Passes, Request, Subject, TextFeatures
from mcdo.stats import Estimate

K, N, T, D = 3, 40, 30, 24
EXPERIMENT = SemanticSpace(n=N, passes=T, trials=K, subspaces=200)
CLASSES = ("zero", "one", "two")


def test_basis_spans_the_differences_between_texts() -> None:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 8))
    basis = semantic_basis(text)
    assert basis.vectors.shape == (4, 8), "centring takes one direction"
    assert basis.chance == 0.5
    assert basis.vectors @ basis.vectors.T == pytest.approx(np.eye(4), abs=1e-12)
    units = text / np.linalg.norm(text, axis=1, keepdims=True)
    difference = units[0] - units[3]
    assert difference @ basis.vectors.T @ basis.vectors == pytest.approx(difference)


def test_removing_the_gap_leaves_a_basis_across_it_and_one_dimension_less() -> None:
    rng = np.random.default_rng(1)
    text, gap = rng.normal(size=(5, 8)), rng.normal(size=8)
    basis = semantic_basis(text, gap)
    assert np.abs(basis.vectors @ gap).max() < 1e-10
    assert basis.dim == 7
    features = rng.normal(size=(30, 8)) + 5
    assert modality_gap(features, text) == pytest.approx(unit(features).mean(0) - unit(text).mean(0))


def test_leading_directions_leave_out_what_only_wording_adds() -> None:
    rng = np.random.default_rng(2)
    meaning = rng.normal(size=(4, 16))
    text = np.concatenate([meaning, meaning + 1e-3 * rng.normal(size=(4, 16))])  # the same in other words
    assert len(semantic_basis(text).vectors) == 7
    assert len(semantic_basis(text, variance=0.99).vectors) == 3


def test_texts_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(McdoError, match="one and the same"):
        semantic_basis(np.ones((4, 8)))


def test_random_subspaces_hold_rank_over_dimension_of_any_covariance() -> None:
    dim, rank = 12, 3
    rotation = scipy.stats.ortho_group.rvs(dim, random_state=0)
    covariance = rotation @ np.diag(np.geomspace(1, 1e-4, dim)) @ rotation.T
    shares = random_shares(covariance, rank, np.eye(dim), 4000, seed=0)
    assert shares.mean() == pytest.approx(rank / dim, abs=4 * shares.std() / np.sqrt(4000))
    assert random_shares(np.eye(dim), rank, np.eye(dim), 10, 0) == pytest.approx(np.full(10, rank / dim))
    P = without(dim, np.eye(dim)[0])
    assert random_shares(P, rank, P, 10, 0) == pytest.approx(np.full(10, rank / (dim - 1)))


def test_isotropic_variance_has_the_share_of_chance() -> None:
    rng = np.random.default_rng(3)
    basis = semantic_basis(rng.normal(size=(6, D)))
    along = np.square(rng.normal(size=(1, 400, 60, D)) @ basis.vectors.T).mean(2)
    total, features = np.full((1, 400), float(D)), rng.normal(size=(50, D))
    share = share_in(basis, along, total, np.eye(D) / D, features, subspaces=200)
    assert share.observed.low < basis.chance < share.observed.high
    assert share.p_value > 0.05


def covariance_of(passes: Array, directions: Array) -> PassCovariance:
    """Of passes [K, N, T, D], by NumPy."""
    _, _, frame = np.linalg.svd(directions, full_matrices=False)
    full = np.stack([[np.cov(x.T) for x in trial] for trial in passes])
    total = np.trace(full, axis1=-2, axis2=-1)
    cosine = (unit(passes) @ unit(directions).T).var(axis=2, ddof=1)
    return PassCovariance(frame, frame @ full @ frame.T, total, cosine, (full / total[..., None, None]).mean((0, 1)))


def measured(spread: Callable[[Array], Array], copies: int = 1) -> tuple[Inputs, Array, Array]:
    """Inputs with passes [K, N, T, D] that are ``spread`` about features, the passes, and the text features."""
    rng, n = np.random.default_rng(5), N // copies
    text = rng.normal(size=(6, D)) + 2
    features = rng.normal(size=(n, D)) + np.eye(D)[0] * 4
    passes = features[:, None] + spread(np.exp(0.5 * rng.normal(size=(1, n, 1, 1))) * rng.normal(size=(K, n, T, D)))
    passes, features = np.repeat(passes, copies, axis=1), np.repeat(features, copies, axis=0)
    covariance = covariance_of(passes, np.vstack([unit(text), unit(features).mean(0)]))
    origins = tuple(f"photo{i:03d}" for i in range(n) for _ in range(copies))
    scores = {"trace_pre": covariance.total / D, "top1_ratio": np.repeat(rng.random((K, n)), copies, axis=1)}
    run = made_up_run(scores, passes=T, origins=origins)
    object.__setattr__(run, "features", features.astype(np.float32))
    logits = np.repeat(rng.normal(size=(2, n, 3)), copies, axis=1)

    def value(request: Request[Any]) -> Any:
        if isinstance(request, Passes):
            return run
        if isinstance(request, PromptCovariance):
            return covariance
        if isinstance(request, TextFeatures):
            assert len(request.prompts) == len(text)
            return {"features": text}
        assert isinstance(request, Logits)
        return {"logits": logits}

    images = SimpleNamespace(labels=None, origins=origins, class_names=CLASSES)
    return inputs_of(value, image_set=images), passes, text


@pytest.fixture(scope="module")
def isotropic() -> tuple[SemanticResult, Array, Array]:
    inputs, passes, text = measured(lambda noise: noise)
    return EXPERIMENT.compute(inputs), passes, text


def test_shares_are_those_of_explicit_projections(isotropic: tuple[SemanticResult, Array, Array]) -> None:
    result, passes, text = isotropic
    centred = passes - passes.mean(axis=2, keepdims=True)
    features = measured(lambda noise: noise)[0][EXPERIMENT.run("clip_tiny")].features
    gap = unit(modality_gap(features, text))
    for name, removed, score in (
        ("raw", np.zeros(D), "parallel_fraction"),
        ("gap_removed", gap, "parallel_fraction_gap_removed"),
    ):
        basis = semantic_basis(text, removed if removed.any() else None)
        across = centred - (centred @ removed)[..., None] * removed
        inside = np.square(across @ basis.vectors.T).sum((-1, -2)) / np.square(across).sum((-1, -2))
        share = result.shares[name]
        assert share.observed.value == pytest.approx(inside.mean(), rel=1e-6)
        assert share.by_rank[-1] == pytest.approx(share.observed.value)
        assert result.scores[score] == pytest.approx(inside, rel=1e-6)
        assert share.chance == len(basis.vectors) / (D if name == "raw" else D - 1)
    scores = result.scores
    assert scores["parallel"] + scores["orthogonal"] == pytest.approx(scores["trace_pre"], rel=1e-9)
    along_gap = np.square(centred @ gap).sum(-1) / np.square(centred).sum((-1, -2))
    assert result.gap_share.value == pytest.approx(along_gap.mean(), rel=1e-6)
    cosines = unit(passes) @ unit(text).T
    assert scores["similarity_variance"] == pytest.approx(cosines.var(axis=2, ddof=1).mean(-1), rel=1e-9)


def test_variance_among_texts_is_told_from_variance_anywhere(isotropic: tuple[SemanticResult, Array, Array]) -> None:
    text = isotropic[2]
    P = without(D, None)
    basis = semantic_basis(text).vectors
    inside, outside = (
        EXPERIMENT.compute(measured(lambda noise, Q=Q: noise @ Q)[0])  # type: ignore[misc]
        for Q in (0.1 * P + basis.T @ basis, P - 0.9 * basis.T @ basis)
    )
    outcomes = [outcomes_of(EXPERIMENT, r)["parallel_share/raw"] for r in (inside, isotropic[0], outside)]
    assert outcomes[0] == "met"
    assert outcomes[1] != "met"
    assert outcomes[2] == "not met"


def test_a_share_above_chance_is_undecided_below_what_random_subspaces_reach(
    isotropic: tuple[SemanticResult, Array, Array],
) -> None:
    share = replace(isotropic[0].shares["raw"], observed=Estimate(0.32, 0.3, 0.34, N), chance=0.25, null=(0.15, 0.35))
    (claim,) = (claim for claim in EXPERIMENT.claims() if claim.name == "parallel_share/raw")
    for high, outcome in ((0.35, "undecided"), (0.29, "met")):
        shares = {**isotropic[0].shares, "raw": replace(share, null=(0.15, high))}
        assert claim.judge(replace(isotropic[0], shares=shares)).outcome == outcome


def test_images_of_one_original_are_one_draw() -> None:
    result = EXPERIMENT.compute(measured(lambda noise: noise, copies=4)[0])
    n = {share.observed.n for share in result.shares.values()} | {result.gap_share.n}
    n |= {estimate.n for figures in result.figures.values() for estimate in figures.values()}
    n |= {r.n_origins for r in (*result.reliability.values(), *result.prompt_reliability)}
    assert n == {N // 4}


def test_prompts_are_the_published_ones_but_for_the_embedded_encoders() -> None:
    images = SimpleNamespace(class_names=("zero", "one"))
    real = inputs_of(lambda _: None, image_set=images, subject=Subject("clip_b32", ("clip_b32",)))
    assert EXPERIMENT.prompts(real) == PROMPTS
    assert len(set(PROMPTS)) == 20
    embedded = inputs_of(lambda _: None, image_set=images)
    assert EXPERIMENT.prompts(embedded) == ("a photo of a zero", "a photo of a one", "a zero", "a one")
