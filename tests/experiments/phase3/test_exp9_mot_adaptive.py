"""Exp9: does an uncertainty help to associate detections with tracks?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.experiments import exp9_tracking as exp9
from mcdo.experiments.bench import Bench
from mcdo.experiments.laplace_scores import laplace_scores
from mcdo.experiments.tracking_frames import read_sequence
from mcdo.stats import ambiguity_targets

pytestmark = pytest.mark.phase3

Record = Callable[[str, object], None]


def config_of(bench: Bench) -> exp9.Exp9Config:
    settings = bench.settings
    return exp9.Exp9Config.of(settings.protocol, settings.seed, settings.dropout)


def synthetic(bench: Bench) -> exp9.Exp9Result:
    config = config_of(bench)
    return bench.once(config, "synthetic", lambda: exp9.compute(config, exp9.synthetic_sequences(config)))


def measured(bench: Bench, model: str) -> exp9.Exp9Result:
    """Images under graded degradation, seen by the model; β of each mode from calibration sequences."""
    config = config_of(bench)

    def compute() -> exp9.Exp9Result:
        runs = [bench.run(need) for need in exp9.needs(config, model)]
        logits = [bench.logits(model, config.n, degradation=level) for level in config.degradations]
        laplace = [laplace_scores(bench, model, config.n, config.fit, level) for level in config.degradations]
        scores = {
            "adaptive": np.stack([run.scores("trace_pre").mean(0) for run in runs]),
            "adaptive_post": np.stack([run.scores("trace_post").mean(0) for run in runs]),
            "adaptive_relative": np.stack([run.scores("trace_pre_relative").mean(0) for run in runs]),
            "laplace": np.stack([found["projection_logit_variance"] for found in laplace]),
            "inverse_norm": np.stack([1 / run.feature_norm for run in runs]),
            # an entropy may underflow to zero, and an uncertainty must be positive
            "entropy": np.stack([ambiguity_targets(found).entropy for found in logits]) + np.finfo(np.float32).eps,
        }
        clean, degraded = bench.features(model, config.n), np.stack([run.features for run in runs])
        chosen, reported = (
            exp9.image_sequences(config, clean, degraded, scores, calibration=calibration)
            for calibration in (True, False)
        )
        return exp9.compute(config, reported, exp9.chosen_betas(config, chosen))

    return bench.once(config, model, compute)


def record(result: exp9.Exp9Result, record_property: Record) -> None:
    for mode, gain in result.gains.items():
        record_property(
            mode,
            f"accuracy {gain.accuracy.value:.4f}, gain {gain.difference.value:+.4f} [{gain.difference.low:+.4f}, "
            f"{gain.difference.high:+.4f}] n={gain.difference.n} p_holm={gain.p_holm:.2g}, beta {result.betas[mode]}, "
            f"{result.total(mode, 'id_switches')} switches, {result.total(mode, 'fragmentation')} fragments",
        )


def in_full(gain: exp9.Gain) -> str:
    found = gain.difference
    return f"gain {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}] over {found.n} sequences"


def test_synthetic_sequences_are_reported(bench: Bench, record_property: Record) -> None:
    result, settings = synthetic(bench), bench.settings
    exp9.write(config_of(bench), "synthetic", result, settings.reports / "phase3", settings.session)
    record(result, record_property)
    assert set(result.gains) == {"baseline", "adaptive", "oracle", "shuffled"}
    assert 0 < result.total("baseline", "correct") < result.total("baseline", "labelled"), "nothing to gain or lose"


@pytest.mark.parametrize("mode", ["oracle", "adaptive"])
def test_a_known_noise_level_helps_on_synthetic_sequences(mode: str, bench: Bench, judge: Judges) -> None:
    gain = synthetic(bench).gains[mode]
    judge("exp9", "synthetic").above(f"gain/{mode}", gain.difference, 0.0, in_full(gain), gain.p_holm)


def test_an_uninformative_uncertainty_does_not_help(bench: Bench) -> None:
    gain = synthetic(bench).gains["shuffled"].difference
    assert gain.high < 0, f"shuffled: {gain}"


def test_sequences_of_ones_own_are_reported(bench: Bench, pytestconfig: pytest.Config, record_property: Record) -> None:
    """At the published β; there are no other sequences to choose it on."""
    files = pytestconfig.getoption("--tracking", default=None)
    if not files:
        pytest.skip("no --tracking=FILE.json,…, each a list of frames with tracks, detections and costs")
    config, settings = config_of(bench), bench.settings
    result = exp9.compute(config, [read_sequence(path) for path in files.split(",")])
    exp9.write(config, "own", result, settings.reports / "phase3", settings.session)
    for mode in result.metrics:
        counts = {count: result.total(mode, count) for count in ("correct", "labelled", "id_switches", "fragmentation")}
        record_property(mode, ", ".join(f"{count} {n}" for count, n in counts.items()))
    record(result, record_property)
    assert result.total(exp9.BASELINE, "labelled") > 0, f"{files}: no detection has a gt_id, so nothing can be right"


MODES = ("adaptive", "adaptive_post", "adaptive_relative", "laplace")
CONTROLS = ("inverse_norm", "entropy")
"""What costs nothing: reported beside the modes, without a claim."""


@pytest.mark.experiment(exp9, exp9.Exp9Config)
def test_sequences_of_images_are_reported(model: str, bench: Bench, record_property: Record) -> None:
    result, settings = measured(bench, model), bench.settings
    exp9.write(config_of(bench), model, result, settings.reports / "phase3", settings.session)
    record(result, record_property)
    assert set(result.gains) == {"baseline", "oracle", "shuffled", *MODES, *CONTROLS}
    assert max(result.betas.values()) < max(config_of(bench).betas), "the grid of beta ends too early"


@pytest.mark.experiment(exp9, exp9.Exp9Config)
@pytest.mark.parametrize("mode", ["oracle", *MODES])
def test_the_encoders_uncertainty_helps_to_associate_degraded_images(
    model: str,
    mode: str,
    bench: Bench,
    judge: Judges,
) -> None:
    gain = measured(bench, model).gains[mode]
    judge("exp9").above(f"gain/{mode}", gain.difference, 0.0, in_full(gain), gain.p_holm)
