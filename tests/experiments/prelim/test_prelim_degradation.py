"""Is an image more uncertain once it has been damaged, and can the score be read as a severity?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo import monte_carlo
from mcdo.claims import Judges
from mcdo.experiments.prelim import degradation as degradation
from mcdo.experiments.bench import Bench
from mcdo.images import degraded
from mcdo.images.degradations import FAMILIES, graded

pytestmark = [pytest.mark.prelim, pytest.mark.experiment(degradation, degradation.DegradationConfig)]


def _config(bench: Bench) -> degradation.DegradationConfig:
    settings = bench.settings
    return degradation.DegradationConfig.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> degradation.DegradationResult:
    config = _config(bench)

    def compute() -> degradation.DegradationResult:
        images, run = bench.images(config.n), bench.run(degradation.needs(config, model))
        size, logits = degradation.native_size(images), bench.logits(model, config.n)
        clean, other = (degradation.seen(config, run, logits, images.labels, k) for k in (0, config.trials))
        damaged = {
            spec: degradation.seen(
                config, bench.run(need), bench.logits(model, config.n, degradation=spec), images.labels
            )
            for spec, need in degradation.degraded_needs(config, model, size).items()
        }
        found = degradation.compute(config, clean, other, damaged, size, bench.encoder(model).resolution)
        reports, session = bench.settings.reports / "prelim", bench.settings.session
        degradation.write(config, run, clean, other, damaged, found, reports, session)
        return found

    return bench.once(config, model, compute)


def test_clean_and_degraded_are_seen_under_the_same_masks(model: str, bench: Bench) -> None:
    """A radius too small to change a pixel changes no score to the last bit; other ids would have given other masks."""
    if bench.settings.from_store:
        pytest.skip("needs the loaded model, to measure anew")
    clean = bench.images(3)
    same = degraded(clean, "blur:0.000001")
    assert all(a.tobytes() == b.tobytes() for a, b in zip(clean, same, strict=True))
    assert same.ids != clean.ids
    one, two = (
        monte_carlo(bench.encoder(model), images, bench.settings.dropout, (4,), 1, geometry=(), progress=False)
        for images in (clean, same)
    )
    assert (one.scores("trace_pre") == two.scores("trace_pre")).all()


def test_every_degradation_is_reported_with_both_kinds_of_masks(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    result = _result(bench, model)
    for spec, damage in result.damage.items():
        common, independent = damage.increase["trace_pre"], damage.independent["trace_pre"]
        record_property(f"{spec}: common masks", f"{common.fraction}, change {common.relative_change}")
        record_property(f"{spec}: independent masks", str(independent.fraction))
        record_property(f"{spec}: accuracy", str(damage.accuracy))
        assert common.n == independent.n == len(bench.images(_config(bench).n))
        assert damage.at_input <= damage.native or damage.at_input == pytest.approx(damage.native)
        assert all(damage.p_holm[name] >= damage.increase[name].p_value for name in degradation.SCORES)
    assert len(result.damage) == len(set(result.damage)) >= sum(len(graded(f, min(result.size))) for f in FAMILIES)


def test_damage_grows_with_severity(model: str, bench: Bench) -> None:
    """The degraded features leave the clean ones further behind at every level of every family."""
    result = _result(bench, model)
    for family in FAMILIES:
        damage = [result.damage[spec] for spec in graded(family, min(result.size))]
        assert [d.native for d in damage] == sorted(d.native for d in damage)
        assert damage[-1].cosine.high < damage[0].cosine.low, family
        cosines = np.array([1.0, *(d.cosine.value for d in damage)])
        assert (np.diff(cosines) < 0.02).all(), f"{family}: {cosines}"


@pytest.mark.parametrize("which", range(4), ids=["blur_r5", "blur_r15", "downsample_4x", "downsample_8x"])
def test_damaged_images_are_more_uncertain(which: int, model: str, bench: Bench, judge: Judges) -> None:
    """Ids are the published names; small pictures get their counterparts (see ``published`` in images/degradations)."""
    result = _result(bench, model)
    spec = result.published[which]
    damage = result.damage[spec]
    found = damage.increase["trace_pre"]
    others = ", ".join(f"{name} {damage.increase[name].fraction}" for name in damage.increase if name != "trace_pre")
    beside = (
        f"{degradation.grade(found.fraction)}, Holm p {damage.p_holm['trace_pre']:.2g}, "
        f"change {found.relative_change}; "
        f"independent masks {damage.independent['trace_pre'].fraction}; {others}; accuracy {damage.accuracy}"
    )
    judge("prelim_degradation").at_least(f"increases/{spec}/trace_pre", found.fraction, degradation.PASS_BAR, beside)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_score_rises_with_known_severity(family: str, model: str, bench: Bench, judge: Judges) -> None:
    result = _result(bench, model)
    response = result.curves[family, "trace_pre"].response
    others = {
        name: result.curves[family, name].response.shape for name in ("trace_post", "trace_pre_relative", "entropy")
    }
    verdicts = {"rising": "met", "not monotone": "not met"}
    judge("prelim_degradation").outcome(
        f"rises/{family}/trace_pre",
        verdicts.get(response.shape, "undecided"),  # type: ignore[arg-type]
        f"{response.shape}, rise {response.rise.value / response.measured[0].value:+.0%} n={response.rise.n}",
        f"{response.reason} {others}",
    )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_reading_the_severity_from_the_score_beats_a_constant(
    family: str, model: str, bench: Bench, judge: Judges
) -> None:
    curve = _result(bench, model).curves[family, "trace_pre"]
    if curve.response.shape != "rising":
        pytest.skip(f"refused: the response is {curve.response.shape}: {curve.response.reason}")
    error = curve.held_out_error
    judge("prelim_degradation").outcome(
        f"reads/{family}/trace_pre",
        error.verdict(0, "<"),
        f"error above that of a constant {error}",
        FAMILIES[family].unit,
    )
