"""GO or NO-GO: the decision tree of S0 §6, and the sanity bars."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.experiments import convergence, verdict
from mcdo.experiments import exp0_first_order as first_order
from mcdo.experiments.bench import Bench
from mcdo.experiments.phase1.exp0_nested_mc import SPACES, NestedPasses
from mcdo.harness import Runner, Subject
from mcdo.stats import Reliability

pytestmark = [pytest.mark.phase1, pytest.mark.gate]


def _sweep(bench: Bench, model: str) -> dict[int, Reliability]:
    settings = bench.settings
    config = convergence.ConvergenceConfig.of(settings.protocol, settings.seed, settings.dropout)
    run = bench.run(convergence.needs(config, model))
    return bench.once(config, model, lambda: convergence.compute(config, run)).measured


def _first_order_rows(bench: Bench, models: list[str]) -> list[verdict.Row]:
    """Rows of first order, where it says what Monte Carlo says: elsewhere it is refused."""
    settings = bench.settings
    config = first_order.Exp0FirstOrderConfig.of(settings.protocol, settings.seed, settings.dropout)
    found = {model: first_order.measure(bench, config, model) for model in models}
    return [
        verdict.Row(model, SPACES[space], count, r, "first_order")
        for model, result in found.items()
        for count, spaces in result.reliability.items()
        for space, r in spaces.items()
        if result.domain[settings.dropout.p][space].holds == "met"
    ]


def test_go_or_no_go(bench: Bench, runner: Runner, record_property: Callable[[str, object], None]) -> None:
    settings = bench.settings
    config = NestedPasses.configured(settings)
    trusted = [m for m in settings.models if m not in settings.random_weights]
    if settings.estimator != "first_order":
        bench.plan([config.run(model) for model in trusted])

    rows = [
        verdict.Row(model, SPACES[space], t, r)
        for model in trusted
        if settings.estimator != "first_order"
        for t, spaces in runner.run(config, Subject(model, (model,))).result.reliability.items()
        for space, r in spaces.items()
    ]
    rows += _first_order_rows(bench, trusted) if settings.estimator != "mc" else []
    waiting = verdict.needs_convergence(rows)
    decision, reason = verdict.decide(rows, None if waiting is None else _sweep(bench, waiting.model))
    found = verdict.Verdict(
        decision=decision,
        reason=reason if trusted else "random weights decide nothing",
        models=tuple(trusted),
        images=settings.images,
        protocol=settings.protocol,
        dropout=settings.dropout.p,
        sites=settings.dropout.sites,
        seed=settings.seed,
        session=settings.session,
        estimator=settings.estimator,
    )
    verdict.write(found, settings.reports / "phase1")
    record_property("decision", decision)
    record_property("reason", found.reason)
    assert decision == "GO", f"{decision}: {found.reason}"
