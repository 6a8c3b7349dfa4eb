"""Does the mean over passes converge on the deterministic feature?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments.bench import Bench
from mcdo.experiments.prelim import mean_convergence as convergence

pytestmark = [pytest.mark.prelim, pytest.mark.experiment(convergence, convergence.MeanConvergenceConfig)]


def _config(bench: Bench) -> convergence.MeanConvergenceConfig:
    settings = bench.settings
    return convergence.MeanConvergenceConfig.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> convergence.MeanConvergenceResult:
    config = _config(bench)

    def compute() -> convergence.MeanConvergenceResult:
        run = bench.run(convergence.needs(config, model))
        found = convergence.compute(config, run)
        convergence.write(config, run, found, bench.settings.reports / "prelim", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def test_the_distance_falls_with_every_pass_and_never_below_the_bias(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    fit = _result(bench, model).fit
    record_property("bias", str(fit.bias))
    record_property("noise", str(fit.noise))
    rms = [e.value for e in fit.rms.values()]
    assert rms == sorted(rms, reverse=True)
    assert min(rms) > fit.bias.value


def test_the_noise_of_the_fit_is_the_trace(model: str, bench: Bench) -> None:
    """c = D · trace_pre / ‖x‖² exactly: the fit of a wrong law would not know."""
    result = _result(bench, model)
    fitted, known = result.fit.noise, result.predicted_noise
    assert fitted.low <= known.high, f"fitted c {fitted}, from the trace {known}"
    assert known.low <= fitted.high, f"fitted c {fitted}, from the trace {known}"


def test_the_bias_of_the_fit_is_that_without_a_fit(model: str, bench: Bench) -> None:
    result = _result(bench, model)
    fitted, direct = result.fit.bias_squared, result.direct_bias_squared
    assert fitted.low <= direct.high
    assert direct.low <= fitted.high
    assert np.isfinite([fitted.value, direct.value]).all()


def test_the_mean_of_passes_is_biased(model: str, bench: Bench, judge: Judges) -> None:
    fit = _result(bench, model).fit
    judge("prelim_mean_convergence").outcome(
        "bias",
        fit.bias_squared.verdict(0, ">"),
        f"b = {fit.bias.value:.4f} [{fit.bias.low:.4f}, {fit.bias.high:.4f}] n={fit.bias.n}, b² above 0",
        f"at the largest T {fit.noise_share(_config(bench).passes[-1]):.0%} of r² is noise that more passes remove",
    )


def test_the_bare_slope_is_that_of_a_mean_that_converges(model: str, bench: Bench, judge: Judges) -> None:
    fit = _result(bench, model).fit
    low, high = convergence.SLOPE - convergence.SLOPE_TOLERANCE, convergence.SLOPE + convergence.SLOPE_TOLERANCE
    judge("prelim_mean_convergence").within("slope", fit.slope, low, high, f"bias {fit.bias.value:.4f}")
