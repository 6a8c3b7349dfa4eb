"""GO or NO-GO: the decision tree of S0 §6, and the sanity bars."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mcdo.claims import Judges
from mcdo.experiments import convergence, verdict
from mcdo.experiments import exp0_first_order as first_order
from mcdo.experiments import exp0_nested_mc as exp0
from mcdo.experiments import exp5_subset_ambiguity as exp5
from mcdo.experiments.bench import Bench
from mcdo.stats import Estimate, Reliability, ambiguity_estimates, ambiguity_targets

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
        verdict.Row(model, exp0.SPACES[space], count, r, "first_order")
        for model, result in found.items()
        for count, spaces in result.reliability.items()
        for space, r in spaces.items()
        if result.domain[settings.dropout.p][space].holds == "met"
    ]


def test_go_or_no_go(bench: Bench, record_property: Callable[[str, object], None]) -> None:
    settings = bench.settings
    config = exp0.Exp0Config.of(settings.protocol, settings.seed, settings.dropout)
    trusted = [m for m in settings.models if m not in settings.random_weights]
    if settings.estimator != "first_order":
        bench.plan([exp0.needs(config, model) for model in trusted])

    def measured(model: str) -> exp0.Exp0Result:
        run = bench.run(exp0.needs(config, model))
        return bench.once(config, model, lambda: exp0.compute(config, run))

    rows = [
        verdict.Row(model, exp0.SPACES[space], t, r)
        for model in trusted
        if settings.estimator != "first_order"
        for t, spaces in measured(model).items()
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


@pytest.mark.experiment(exp5, exp5.Exp5SubsetConfig)
@pytest.mark.parametrize(
    "estimator", [pytest.param(name, marks=pytest.mark.estimator(name)) for name in ("mc", "first_order")]
)
@pytest.mark.parametrize("score", ["trace_pre", "trace_post"])
@pytest.mark.parametrize("bar", list(exp5.BARS))
def test_score_follows_ambiguity(
    model: str,
    score: str,
    bar: str,
    estimator: str,
    bench: Bench,
    judge: Judges,
) -> None:
    settings = bench.settings
    config = exp5.Exp5SubsetConfig.of(settings.protocol, settings.seed, settings.dropout)
    key, threshold = exp5.BARS[bar]
    claim = f"{bar}/{score}" + ("/first_order" if estimator == "first_order" else "")
    found = _ambiguity(bench, config, model, score, estimator)
    judge("exp5").above(claim, found[key], threshold, f"given the feature norm {found[f'{key}_given_norm']}")


def _ambiguity(
    bench: Bench, config: exp5.Exp5SubsetConfig, model: str, score: str, estimator: str
) -> dict[str, Estimate]:
    need, labels = exp5.needs(config, model), bench.images(config.n).labels
    logits = bench.logits(model, config.n)
    if estimator == "mc":
        run = bench.run(need)
        return bench.once(config, model, lambda: exp5.compute(config, run, logits, labels)).estimates[score]
    linear = bench.first_order(need)
    targets = ambiguity_targets(logits, labels, head="softmax")
    return ambiguity_estimates(linear.scores(score)[0], targets, linear.feature_norm, seed=config.seed)
