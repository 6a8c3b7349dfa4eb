"""The table of scores: what is registered is taken, keyed and listed like mcdo's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from looked_at import looked_at
from torch import Tensor

import mcdo
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, first_order, monte_carlo, score_table
from mcdo.estimators.score_table import SCORES, WEIGHTED, further, names_from, register_score
from mcdo.estimators.scores import Moments, PassCloud, Terms
from mcdo.store import Store

DROPOUT = mcdo.Dropout(0.05)
PASSES, TRIALS, N = (4, 8), 2, 5


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SCORES, "_entries", dict(SCORES.registered))


@pytest.fixture(scope="module")
def encoder() -> mcdo.Encoder:
    return looked_at("clip_tiny")


@pytest.fixture(scope="module")
def images() -> mcdo.ImageSet:
    return mcdo.load_images("digits", n=N)


def run(encoder: mcdo.Encoder, images: mcdo.ImageSet, **keywords: Any) -> mcdo.MonteCarloRun:
    return monte_carlo(encoder, images, DROPOUT, PASSES, TRIALS, progress=False, **keywords)


def register_all() -> None:
    @register_score("moments")
    def own_moments(m: Moments) -> Tensor:
        """Smallest variance of a dimension."""
        return m.variance.amin(-1)

    @register_score("passes")
    def own_passes(c: PassCloud) -> Tensor:
        """Largest step between neighbouring passes."""
        steps: Tensor = c.pre.diff(dim=1)
        longest: Tensor = steps.norm(dim=-1).amax(-1)
        return longest

    @register_score("scores")
    def own_ratio(view: Any) -> Any:
        """Of two scores."""
        return view.scores("own_moments") / view.scores("trace_pre")

    @register_score("features")
    def own_features(features: Any) -> Any:
        """Largest of the features."""
        return features.max(axis=1)

    @register_score("terms")
    def own_terms(t: Terms) -> Any:
        """Variance across alone."""
        return t.across


def test_registered_scores_are_taken_with_mcdo_s_own(encoder: mcdo.Encoder, images: mcdo.ImageSet) -> None:
    plain = run(encoder, images)
    names = plain.score_names
    register_all()
    found = run(encoder, images)
    for t in PASSES:
        for name in names:
            np.testing.assert_array_equal(found.scores(name, t), plain.scores(name, t))
        for name in ("own_moments", "own_passes", "own_ratio", "own_features"):
            assert found.scores(name, t).shape == (TRIALS, N)
        smallest, largest = (found.scores(name, t) for name in ("own_moments", "max_dim_var"))
        assert ((smallest > 0) & (smallest < found.scores("trace_pre", t)) & (smallest < largest)).all()
        np.testing.assert_array_equal(found.scores("own_ratio", t), smallest / found.scores("trace_pre", t))
    np.testing.assert_array_equal(found.scores("own_features"), np.tile(found.features.max(1), (TRIALS, 1)))
    assert {"own_moments", "own_passes", "own_ratio", "own_features"} < set(found.score_names)


def test_a_score_to_first_order_adds_up_over_sites(encoder: mcdo.Encoder, images: mcdo.ImageSet) -> None:
    register_all()
    linear = first_order(encoder, images, DROPOUT, probes=3, trials=2, progress=False)
    expected = linear.scores("trace_post") * encoder.feature_dim * np.square(linear.feature_norm)
    np.testing.assert_allclose(linear.scores("own_terms"), expected, rtol=1e-9)
    np.testing.assert_array_equal(linear.scores("feature_norm"), np.tile(linear.feature_norm, (2, 1)))
    with pytest.raises(McdoError, match="no score 'own_moments' to first order"):
        linear.scores("own_moments")


def test_a_run_without_the_score_does_not_serve_one_with_it(
    encoder: mcdo.Encoder, images: mcdo.ImageSet, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    run(encoder, images, store=store)
    register_all()
    more = run(encoder, images, store=store)
    assert more.scores("own_moments").shape == (TRIALS, N)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    fewer = run(encoder, images, store=store, scores=("own_passes",))  # part of the larger run
    np.testing.assert_array_equal(fewer.scores("own_passes"), more.scores("own_passes"))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    with pytest.raises(McdoError, match=r"no score 'own_moments' in this run .it is computed from running moments"):
        fewer.scores("own_moments")


def test_the_key_holds_the_code_of_a_score_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    register_all()
    config = MonteCarloConfig(DROPOUT, (4,), scores=("own_moments", "trace_pre", "own_ratio"))
    assert config.scores == ("own_moments",), "what follows from others is no part of the protocol"
    before = config.as_dict()["scores"]
    monkeypatch.setattr(score_table, "own_code", lambda *things: "other code")
    assert config.as_dict()["scores"] == {"own_moments": "other code"} != before


def test_names_are_unique_and_unknown_ones_list_what_there_is() -> None:
    with pytest.raises(McdoError, match="the score 'trace_pre' is there already"):

        @register_score("moments")
        def trace_pre(m: Moments) -> Tensor:
            """Another one."""
            return m.variance[:, 0]

    with pytest.raises(McdoError, match=r"unknown score 'trace_prae'; the nearest: trace_pre.* There are: trace_pre"):
        further(["trace_prae"])
    with pytest.raises(McdoError, match="has no docstring"):

        @register_score("moments")
        def silent(m: Moments) -> Tensor:
            return m.variance[:, 0]

    with pytest.raises(McdoError, match="computed from one of moments, weights, passes, terms, features, scores"):
        register_score("pixels")(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [torch.zeros(3), torch.zeros(N, 2), 1.0], ids=["n", "axes", "number"])
def test_a_score_of_another_shape_is_refused_by_name(given: Any, encoder: mcdo.Encoder, images: mcdo.ImageSet) -> None:
    @register_score("moments")
    def misshapen(m: Moments) -> Tensor:
        """Not one number for each image."""
        return given  # type: ignore[no-any-return]

    with pytest.raises(McdoError, match=rf"the score misshapen gave .* for {N} images; it must give a tensor \[{N}\]"):
        run(encoder, images)


def _in_place(input: str, given: str, method: str) -> None:
    def own(of: Any) -> Tensor:
        """Writes."""
        held = getattr(of, given)
        getattr(held, method)()
        found: Tensor = held.flatten(1).sum(1)
        return found

    register_score(input)(own)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("input", "given", "method"),
    [("moments", "variance", "sqrt_"), ("moments", "mean", "zero_"), ("passes", "pre", "square_"),
     ("passes", "spectrum", "log1p_")],
)  # fmt: skip
def test_a_score_that_writes_into_what_others_are_computed_from_is_refused(
    input: str, given: str, method: str, encoder: mcdo.Encoder, images: mcdo.ImageSet
) -> None:
    _in_place(input, given, method)
    with pytest.raises(McdoError, match=rf"the score own writes into what it is given \({given}\)"):
        run(encoder, images)


def test_what_is_done_with_the_scores_of_a_run_changes_no_later_ones(
    encoder: mcdo.Encoder, images: mcdo.ImageSet
) -> None:
    found = run(encoder, images, geometry=PASSES)
    first, spectrum = found.scores("trace_pre"), found.eigenvalues(8)
    kept = first.copy(), spectrum.copy()
    first *= -1
    spectrum *= -1
    np.testing.assert_array_equal(found.scores("trace_pre"), kept[0])
    np.testing.assert_array_equal(found.eigenvalues(8), kept[1])
    with pytest.raises(ValueError, match="read-only"):
        found.features[:] /= 2


def test_every_score_says_what_it_means_and_what_it_takes() -> None:
    assert names_from("terms") == ("trace_pre", "trace_post", "norm_var", *WEIGHTED, "trace_pre_relative")
    assert WEIGHTED == ("weighted_trace", "topk_trace")
    for name in SCORES:
        score = SCORES.find(name)
        assert score.name == name
        assert len(score.meaning) > 5
        assert name in repr(score)
