"""What a pilot says of claims and of scores, from experiments whose measurements are made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.harness import Claim, Experiment, Images, Inputs, Passes, Request, Session, Settings, View
from mcdo.harness.pilot import Missing, Planned, forecasts, planned
from mcdo.perturbation import Dropout
from mcdo.stats import Estimate, Reliability, reliability
from mcdo.stats.planning import Size

N = 120
WIDE = Estimate(-0.15, -0.35, 0.05, 20)
"""An estimate below zero whose interval holds it, from 20 originals."""


def asked(trials: int = 5, passes: tuple[int, ...] = (8, 32), n: int = N) -> Passes:
    return Passes("clip_tiny", Images(n), MonteCarloConfig(Dropout(), passes, trials))


def measured(request: Passes, spread: float = 0.5, variants: int = 1) -> MonteCarloRun:
    """Scores of images that differ by ``spread`` (log-normal), as variances of so many passes estimate them."""
    config, n = request.config, N // variants
    rng = np.random.default_rng(config.trials)
    true = np.repeat(np.exp(spread * rng.normal(size=n)), variants)
    shape = (config.trials, n * variants)
    return MonteCarloRun(
        config=config,
        encoder="clip_tiny",
        ids=tuple(f"image{i}" for i in range(N)),
        origins=tuple(f"photo{i // variants}" for i in range(N)),
        features=np.ones((N, 4), dtype=np.float32),
        sites=(),
        provenance={},
        _values={
            (name, T): true * rng.chisquare(T - 1, shape) / (T - 1)
            for name in ("trace_pre", "trace_post")
            for T in config.passes
        },
    )


@dataclass(frozen=True)
class MadeUp(Experiment[None]):
    """Asks for the given runs, and claims what is given."""

    key = "made_up"
    name = "made_up"
    phase = "phase1"
    about_estimator = "mc"

    n: int = 500
    runs: tuple[Passes, ...] = (asked(),)
    found: tuple[Claim[None], ...] = ()

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return self.runs

    def compute(self, inputs: Inputs) -> None:
        pass

    def claims(self) -> Sequence[Claim[None]]:
        return self.found

    def summary(self, result: None) -> Mapping[str, Any]:
        return {}


@pytest.fixture
def plan_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Planned]]:
    """What is planned for experiments whose runs are made up."""

    def plan(*experiments: MadeUp, models: tuple[str, ...] = ("clip_tiny",), **run: Any) -> list[Planned]:
        _stand_in(monkeypatch, *experiments, **run)
        found = list(planned(Settings(models), ("phase1",)))
        assert not any(isinstance(each, Missing) for each in found)
        return [each for each in found if isinstance(each, Planned) and each.model == models[0]]

    return plan


def _stand_in(monkeypatch: pytest.MonkeyPatch, *experiments: MadeUp, **run: Any) -> None:
    def kind(experiment: MadeUp) -> type[MadeUp]:
        return type("Kind", (MadeUp,), {"configured": classmethod(lambda cls, settings: experiment)})

    monkeypatch.setattr("mcdo.harness.pilot.experiments_of", lambda phase: tuple(map(kind, experiments)))
    monkeypatch.setattr(Session, "measure", lambda self, request: measured(request, **run))


def test_a_claim_is_planned_from_the_originals_of_its_figure_and_the_largest_run(
    plan_of: Callable[..., list[Planned]],
) -> None:
    """Not from the images that the experiment asks for, and at the trials and the last T of the run of most passes."""
    sure, open_ = Estimate(0.5, 0.4, 0.6, 20), Estimate(0.15, -0.05, 0.35, 20)
    found = (Claim[None]("sure", lambda r: sure, above=0.0), Claim[None]("open", lambda r: open_, above=0.0))
    runs = (asked(3, (4, 8)), asked(5, (8, 32)))
    plans = {each.claim: each.need for each in plan_of(MadeUp(runs=runs, found=found))}
    assert (plans["sure"].state, plans["sure"].size) == ("decided", Size(20, 5, 32))
    # the bar is 1.47 of the pilot's errors away, so X ~ N(1.47, 1 + 1/r), and P(|X| > 1.96/√r) is .85 at r = 14.55
    size = plans["open"].size
    assert size is not None
    assert (size.trials, size.passes) == (5, 32)
    assert size.images / 20 == pytest.approx(14.55, rel=0.02)


def test_what_its_interval_decides_and_its_corrected_test_does_not_wants_more_images(
    plan_of: Callable[..., list[Planned]],
) -> None:
    sure = Estimate(0.5, 0.4, 0.6, 60)
    claim = Claim[None]("sure", lambda r: sure, above=0.0, p_holm=lambda r: 0.2)
    need = plan_of(MadeUp(found=(claim,)))[0].need
    assert (need.state, need.outcome, need.size) == ("out of reach", "undecided", None)
    assert "its corrected p is 0.2" in need.reason


def test_no_more_originals_are_planned_than_there_are(
    plan_of: Callable[..., list[Planned]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Variants of an original are no more of them."""
    near = Estimate(0.1, -0.1, 0.3, 60)
    claim = Claim[None]("open", lambda r: near, above=0.0)
    monkeypatch.setattr(Session, "image_set", lambda self, images: measured(asked(), variants=4))
    need = plan_of(MadeUp(found=(claim,)))[0].need
    assert (need.state, need.size) == ("out of reach", None)
    assert "not with 30 originals" in need.reason


@pytest.mark.parametrize(("bar", "outcome"), [("below", "met"), ("above", "not met")])
def test_the_likely_end_of_a_claim_has_its_direction(
    bar: str, outcome: str, plan_of: Callable[..., list[Planned]]
) -> None:
    claim = Claim[None]("open", lambda r: WIDE, **{bar: 0.0})  # type: ignore[arg-type]
    need = plan_of(MadeUp(found=(claim,)))[0].need
    assert (need.state, need.outcome) == ("attainable", outcome)


def test_a_score_is_judged_by_the_largest_run_at_its_share_of_the_error(
    plan_of: Callable[..., list[Planned]],
) -> None:
    """Of two models with two scores each, and the sweep, a chain has a fifth."""
    small, large = asked(3, (8, 16)), asked(6, (8, 64))

    def of_large(spread: float = 0.5) -> Reliability:
        run = measured(large, spread)
        return reliability(run.scores("trace_pre", 64), origins=run.origins, seed=42)

    for runs in ((small, large), (large, small)):
        found = plan_of(MadeUp(runs=runs), models=("clip_tiny", "siglip_tiny"))
        assert [each.claim for each in found] == ["usable/trace_pre at T=64", "usable/trace_post at T=64"]
        assert found[0].estimate == of_large().estimate("spearman")
        assert found[0].need.state == "decided"
        assert found[0].need.size == Size(N, 6, 64)
    assert 0.01 < of_large(0.42).p_usable < 0.05
    found = plan_of(MadeUp(runs=(large,)), models=("clip_tiny", "siglip_tiny"), spread=0.42)
    assert found[0].need.state == "attainable"


def test_forecasts_are_those_of_the_largest_run_over_its_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, pair = asked(3, (8, 16)), asked(5, (8, 32)), asked(2, (8, 256))
    for runs in ((small, large, pair), (pair, large, small)):
        _stand_in(monkeypatch, MadeUp(runs=runs), variants=4)
        found = forecasts(Settings(("clip_tiny",)), "clip_tiny")
        assert [each.passes for each in found] == [32, 32], "two trials have no interval"
        assert [each.measured.n_origins for each in found] == [N // 4] * 2
    _stand_in(monkeypatch, MadeUp(runs=(pair,)))
    assert forecasts(Settings(("clip_tiny",)), "clip_tiny") == ()


@pytest.mark.parametrize("held", [("full", "quick"), ("quick",)])
def test_a_pilot_of_the_full_protocol_comes_before_one_of_the_quick(
    held: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_protocol = {"full": asked(5, (8, 32)), "quick": asked(5, (8, 64))}
    configured = classmethod(lambda cls, settings: MadeUp(runs=(by_protocol[settings.protocol],)))
    kind = type("Kind", (MadeUp,), {"configured": configured})

    def measure(session: Session, request: Passes) -> MonteCarloRun:
        if request not in [by_protocol[protocol] for protocol in held]:
            raise McdoError("the store does not hold it")
        return measured(request)

    monkeypatch.setattr("mcdo.harness.pilot.experiments_of", lambda phase: (kind,))
    monkeypatch.setattr(Session, "measure", measure)
    found = forecasts(Settings(("clip_tiny",), protocol="quick"), "clip_tiny")
    assert [each.passes for each in found] == [by_protocol[held[0]].config.passes[-1]] * 2
