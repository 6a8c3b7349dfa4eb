"""Cost of a pass in forward equivalents, and what reliability costs. ``pytest tests/perf --benchmark``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mcdo.encoders import Encoder
from mcdo.experiments.cost import estimator_cost as study
from mcdo.experiments.cost import pass_cost
from mcdo.harness import Session
from mcdo.harness.judge import Judges
from mcdo.perturbation import Dropout, TiedDropout
from mcdo.report.files import add_to_json
from mcdo.stats import Estimate
from mcdo.threads import one_thread

pytestmark = pytest.mark.perf

EMBEDDED_CEILING, LARGE_CPU_CEILING, CUDA_CEILING = 1.15, 1.03, 1.05
"""Forward equivalents of a Monte Carlo pass that are allowed, at p <= 0.05."""
FIRST_ORDER_CEILING = 10.0
"""Forward equivalents of a first-order score with eight probes."""


def _shape(encoder: Encoder) -> tuple[int, int]:
    """(images, passes) of one forward pass, as the pass loop would choose them."""
    return (64, 16) if encoder.resolution <= 64 else (1, 16) if encoder.device.type == "cpu" else (16, 16)


def _ceiling(encoder: Encoder) -> float:
    if encoder.device.type != "cpu":
        return CUDA_CEILING
    return EMBEDDED_CEILING if encoder.resolution <= 64 else LARGE_CPU_CEILING


def _about(model: str, session: Session) -> str:
    """Findings about cost were measured on a CPU."""
    device = session.encoder(model).device.type
    return model if device == "cpu" else f"{model} on {device}"


@pytest.fixture(scope="module")
def as_in_the_pass_loop() -> Iterator[None]:
    """The pass loop gives every operation one thread, so that is how a pass is timed."""
    with one_thread():
        yield


@pytest.fixture(scope="module")
def costs(as_in_the_pass_loop: None, session: Session) -> Callable[[str], dict[str, pass_cost.Cost]]:
    """Cost of every way on a model, timed once."""
    found: dict[str, dict[str, pass_cost.Cost]] = {}

    def of(model: str) -> dict[str, pass_cost.Cost]:
        if model not in found:
            found[model] = _time(session, model)
        return found[model]

    return of


def _time(session: Session, model: str) -> dict[str, pass_cost.Cost]:
    encoder, p = session.encoder(model), session.settings.dropout.p
    images, passes = _shape(encoder)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, encoder.resolution, encoder.resolution, generator=generator).to(encoder.device)
    few = pixels if encoder.resolution > 64 else pixels.repeat(4, 1, 1, 1)
    kind, tied, over = Dropout(p), TiedDropout(p), TiedDropout(p, over_images=True)
    methods = {
        pass_cost.DETERMINISTIC: pass_cost.deterministic(encoder, pixels, passes),
        study.NATIVE: pass_cost.native(encoder, pixels, passes, kind),
        study.SPARSE: pass_cost.monte_carlo(encoder, pixels, passes, kind),
        study.TIED: pass_cost.monte_carlo(encoder, pixels, passes, tied),
        study.TIED_OVER_IMAGES: pass_cost.monte_carlo(encoder, pixels, passes, over),
    }
    probes = (1, *study.EstimatorCostConfig().probes) if encoder.resolution <= 64 else (1, 2, 8)
    methods |= {f"{study.FIRST_ORDER} R={r}": pass_cost.first_order(encoder, few, r, kind) for r in probes}
    found = pass_cost.compare(methods, 15 if encoder.resolution <= 64 else 5, encoder.device)
    return {**found, study.COMMON: found[study.SPARSE]}


def test_a_monte_carlo_pass_costs_hardly_more_than_a_forward_pass(
    model: str,
    session: Session,
    costs: Callable[[str], dict[str, pass_cost.Cost]],
    machine: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    found, encoder, settings = costs(model), session.encoder(model), session.settings
    path = settings.reports / "perf" / "passes.json"
    add_to_json(path, settings.session, "costs", model, {way: cost.as_dict() for way, cost in found.items()})
    add_to_json(path, settings.session, "machine", model, machine)
    for way, cost in found.items():
        record_property(way, str(cost))
    print(f"\n{model}: {1 / found[pass_cost.DETERMINISTIC].seconds:,.0f} images/s deterministic, one thread")
    print("\n".join(f"  {way:28} {cost} forwards" for way, cost in found.items()))
    assert found[study.SPARSE].q25 <= _ceiling(encoder), f"{model}: a pass costs {found[study.SPARSE]} forwards"
    assert found[study.SPARSE].ratio < found[study.NATIVE].ratio, "keyed masks must be cheaper than native dropout"


def test_eight_products_of_first_order_cost_at_most_ten_forwards(
    model: str, session: Session, costs: Callable[[str], dict[str, pass_cost.Cost]], judge: Judges
) -> None:
    found = costs(model)
    eight, one = found[f"{study.FIRST_ORDER} R=8"], found[f"{study.FIRST_ORDER} R=1"]
    quartiles = Estimate(eight.ratio, eight.q25, eight.q75, eight.rounds, level=0.5)
    beside = f"quartiles over rounds; each further product {(eight.ratio - one.ratio) / 7:.2f}"
    if session.encoder(model).resolution > 64:
        pytest.skip(f"the ceiling is for the embedded encoders; {model}: {eight}, {beside}")
    judge("perf", _about(model, session)).below("first_order_cost", quartiles, FIRST_ORDER_CEILING, beside)


@pytest.mark.cuda
def test_peak_memory_of_the_pass_loop_is_recorded(
    model: str, session: Session, record_property: Callable[[str, object], None]
) -> None:
    encoder = session.encoder(model)
    images, passes = _shape(encoder)
    pixels = torch.randn(images, 3, encoder.resolution, encoder.resolution, device=encoder.device)
    torch.cuda.reset_peak_memory_stats()
    pass_cost.deterministic(encoder, pixels, passes)()
    plain = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    pass_cost.monte_carlo(encoder, pixels, passes, session.settings.dropout)()
    peak = torch.cuda.max_memory_allocated()
    record_property("peak memory", f"{peak / 2**20:.0f} MiB, {peak / plain:.2f} times the deterministic pass")
    assert peak < 3 * plain


@pytest.fixture(scope="module")
def curves(
    session: Session, costs: Callable[[str], dict[str, pass_cost.Cost]], machine: dict[str, Any]
) -> Callable[[str], dict[str, list[study.Point]]]:
    """Reliability against cost of every way on a model, measured once and written."""
    settings = session.settings
    config = study.EstimatorCostConfig.of(settings)

    measured: dict[str, dict[str, list[study.Point]]] = {}

    def of(model: str) -> dict[str, list[study.Point]]:
        if session.encoder(model).resolution > 64:
            pytest.skip("hours of passes on a large tower; the embedded encoders show the curve")

        if model not in measured:
            measured[model] = study.measure(session, config, model, costs(model))
            study.write(config, model, costs(model), measured[model], machine, settings.reports / "perf")
        return measured[model]

    return of


@pytest.mark.parametrize("p", list(study.GAIN_BARS))
@pytest.mark.parametrize("score", ["trace_pre", "trace_post"])
def test_first_order_is_cheaper_than_native_dropout_at_equal_reliability(
    model: str,
    score: str,
    p: float,
    session: Session,
    curves: Callable[[str], dict[str, list[study.Point]]],
    judge: Judges,
    record_property: Callable[[str, object], None],
) -> None:
    gains = study.gains(curves(model)[score], p, study.JUDGED_PROBES)
    for way, gain in gains.items():
        record_property(f"cost of {way} relative to first order", str(gain))
    others = ", ".join(f"{way} {gain}" for way, gain in gains.items() if way != study.NATIVE)
    print(f"\n{model} {score}, p = {p:g}: times the cost of first order: native {gains[study.NATIVE]}, {others}")
    judge("perf", _about(model, session)).at_least(
        f"first_order_gain/{score}/p={p:g}", gains[study.NATIVE], study.GAIN_BARS[p], others
    )
