from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import mcdo
from mcdo.errors import McdoError
from mcdo.estimators import FirstOrderRun, LevelWarning, MonteCarloRun, OutsideDomainWarning, PairedRun
from mcdo.perturbation import LinearPart
from mcdo.stats import linearity, with_domain

P = 0.01


@pytest.fixture(scope="module")
def runs() -> tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun]:
    encoder, images = mcdo.load_encoder("clip_tiny", device="cpu"), mcdo.load_images("digits", n=24, seed=42)
    probes = encoder.feature_dim + 1
    linear = mcdo.first_order(encoder, images, mcdo.Dropout(P), probes=probes, trials=1, progress=False)
    every, one = (
        mcdo.monte_carlo(encoder, images, mcdo.Dropout(P, sites), (32,), 3, geometry=(), progress=False)
        for sites in ("all", "fc1")
    )
    return linear, every, one


def test_a_run_that_was_compared_nowhere_is_silent(runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runs[0].scores("trace_post", p=0.2, sites=["fc1"])


def test_a_request_outside_the_measured_domain_warns_with_the_figure(
    runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun],
) -> None:
    linear, every, one = runs
    checked = with_domain(linear, every, one, resamples=100)
    found = checked.domain["trace_pre", P, frozenset(name for name, _ in one.sites)]
    assert found.level != "met", "fc1 alone: each drop is a large one, which first order takes for a small one"
    with pytest.warns(
        OutsideDomainWarning, match=r"trace_pre at p = 0.01 and \d+ sites is outside .* level (not met|undecided)"
    ):
        scores = checked.scores("trace_pre", sites=["fc1"])
    np.testing.assert_array_equal(scores, linear.scores("trace_pre", sites=["fc1"]))
    for asked in ({"p": 0.2}, {"sites": ["fc2"]}):
        with pytest.warns(OutsideDomainWarning, match="was not compared with Monte Carlo"):
            checked.scores("trace_pre", **asked)


def test_inside_the_domain_nothing_is_said(runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun]) -> None:
    linear, every, _ = runs
    same = replace(
        every, _values={("trace_pre", 32): np.repeat(linear.scores("trace_pre"), 3, axis=0) * [[1.0], [1.01], [0.99]],
                        ("trace_post", 32): linear.scores("trace_post").repeat(3, axis=0),
                        ("norm_var", 32): linear.scores("norm_var").repeat(3, axis=0)},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_domain(linear, same, resamples=100).scores("trace_pre")


def test_another_level_is_said_and_does_not_forbid_the_ranking(
    runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun],
) -> None:
    linear, every, _ = runs
    halved = {
        (name, 32): 0.5 * linear.scores(name).repeat(3, axis=0) * [[1.0], [1.01], [0.99]]
        for name in ("trace_pre", "trace_post", "norm_var")
    }
    checked = with_domain(linear, replace(every, _values=halved), resamples=100)
    found = checked.domain["trace_pre", P, frozenset(name for name, _ in every.sites)]
    assert (found.ranking, found.level) == ("met", "not met")
    with pytest.warns(LevelWarning, match=r"ranks images as Monte Carlo does, at another level \(ratio 0.5"):
        checked.scores("trace_pre")


def test_linearity_is_the_ratio_of_passes_to_the_linear_part_of_their_masks() -> None:
    encoder, images = mcdo.load_encoder("clip_tiny", device="cpu"), mcdo.load_images("digits", n=12, seed=42)

    def ratio(site: str) -> float:
        kind = mcdo.Dropout(0.05, site)
        runs = (mcdo.monte_carlo(encoder, images, of, 16, 1, geometry=(), progress=False)
                for of in (kind, LinearPart(kind)))  # fmt: skip
        return linearity(PairedRun(*runs), resamples=50).value

    assert ratio("visual.proj") == pytest.approx(1, abs=1e-3), "nothing comes after the last map"
    assert abs(ratio("fc1") - 1) > 0.02, "a nonlinearity comes after the first map of an MLP"


def test_one_trial_of_few_probes_cannot_be_compared(runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun]) -> None:
    linear, every, _ = runs
    D = linear.features.shape[1]
    for probes in (8, D):  # one along the feature, so D leave one direction to chance
        few = replace(linear, config=replace(linear.config, probes=probes))
        with pytest.raises(McdoError, match=r"'y': 1.*at least 5 are needed.*R = D \+ 1"):
            with_domain(few, every)


def test_runs_in_each_others_place_are_refused_by_name(
    runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun],
) -> None:
    linear, every, _ = runs
    with pytest.raises(McdoError, match=r"linear is <MonteCarloRun.*mcdo\.first_order"):
        with_domain(every, linear)  # type: ignore[arg-type]
    with pytest.raises(McdoError, match=r"run is <FirstOrderRun.*mcdo\.monte_carlo"):
        with_domain(linear, linear)  # type: ignore[arg-type]


def test_a_run_of_something_else_is_refused(runs: tuple[FirstOrderRun, MonteCarloRun, MonteCarloRun]) -> None:
    linear, every, _ = runs
    with pytest.raises(McdoError, match="with a run on 24 images that it does not have, such as x0"):
        with_domain(linear, replace(every, ids=tuple(f"x{i}" for i in range(24))))
    with pytest.raises(McdoError, match=r"with a run of siglip_tiny$"):
        with_domain(linear, replace(every, encoder="siglip_tiny"))
