"""Does the mean over passes converge on the deterministic feature?"""

from __future__ import annotations

from collections.abc import Callable

from mcdo.experiments.prelim.mean_convergence import MeanConvergence, MeanConvergenceResult
from mcdo.harness.tests import claims_of, contract_of, of_experiment

pytestmark = of_experiment(MeanConvergence)

test_claims = claims_of(MeanConvergence)
test_contract = contract_of(MeanConvergence)


def test_the_noise_of_the_fit_is_the_trace(
    result: MeanConvergenceResult, record_property: Callable[[str, object], None]
) -> None:
    """c = D · trace_pre / ‖x‖² exactly: the fit of a wrong law would not know."""
    fitted, known = result.fit.noise, result.predicted_noise
    record_property("noise", f"{fitted}, from the trace {known}")
    assert fitted.low <= known.high, f"fitted c {fitted}, from the trace {known}"
    assert known.low <= fitted.high, f"fitted c {fitted}, from the trace {known}"


def test_the_bias_of_the_fit_is_that_without_a_fit(
    result: MeanConvergenceResult, record_property: Callable[[str, object], None]
) -> None:
    fitted, direct = result.fit.bias_squared, result.direct_bias_squared
    record_property("bias squared", f"{fitted.value:.6f}, without a fit {direct.value:.6f}")
    assert fitted.low <= direct.high
    assert direct.low <= fitted.high
