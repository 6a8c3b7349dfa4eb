"""Angles 1 to 3: which metric, at which sample size, and what else does the score follow?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mcdo.claims import Judges
from mcdo.encoders import find_spec
from mcdo.experiments.bench import Bench
from mcdo.experiments.prelim import angles as angles
from mcdo.stats import Difference

pytestmark = [pytest.mark.prelim, pytest.mark.experiment(angles, angles.AnglesConfig)]


def _config(bench: Bench) -> angles.AnglesConfig:
    settings = bench.settings
    return angles.AnglesConfig.of(settings.protocol, settings.seed, settings.dropout)


def _result(bench: Bench, model: str) -> angles.AnglesResult:
    config = _config(bench)

    def compute() -> angles.AnglesResult:
        images, run = bench.images(config.n), bench.run(angles.needs(config, model))
        sizes = {1: config.angle1, 2: config.angle2, 3: config.angle3}
        columns = angles.members(images, {angle: bench.images(n) for angle, n in sizes.items()})
        logits = bench.logits(model, config.n)
        found = angles.compute(config, run, logits, images.labels, columns)
        angles.write(config, run, logits, found, bench.settings.reports / "prelim", bench.settings.session)
        return found

    return bench.once(config, model, compute)


def test_every_angle_has_its_images(model: str, bench: Bench) -> None:
    config, result = _config(bench), _result(bench, model)
    for angle, wanted in {1: config.angle1, 2: config.angle2, 3: config.angle3}.items():
        images, originals = result.sizes[angle]
        assert images == len(bench.images(wanted)), f"angle {angle} lost images"
        assert originals <= images


def test_every_metric_stands_beside_itself_given_the_norm(
    model: str, bench: Bench, record_property: Callable[[str, object], None]
) -> None:
    result = _result(bench, model)
    for angle, table in result.metrics.items():
        assert {score for score, _ in table} == {*angles.METRICS, *angles.CONTROLS}
        for (score, target), relation in table.items():
            record_property(f"angle {angle}: {score} ~ {target}", str(relation))
            assert np.isfinite(relation.rho.value)
            assert np.isnan(relation.given.value) == (score == "feature_norm")
            assert relation.p_holm >= relation.p_value


def test_trace_post_and_mean_cosine_dev_are_one_metric(model: str, bench: Bench) -> None:
    """Trap D13: their agreement is offered as evidence nowhere."""
    for table in _result(bench, model).metrics.values():
        for target in ("entropy", "negative_margin"):
            one, other = table["trace_post", target].rho.value, table["mean_cosine_dev", target].rho.value
            assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("angle", [1, 2], ids=["angle1", "angle2"])
def test_the_score_follows_entropy(angle: int, model: str, bench: Bench, judge: Judges) -> None:
    relation = _result(bench, model).metrics[angle]["trace_pre", "entropy"]
    beside = f"given the norm {relation.given}; Holm p {relation.p_holm:.2g}"
    judge("prelim_angles").above(f"follows_entropy/angle{angle}", relation.rho, 0.0, beside)


@pytest.mark.parametrize("angle", [1, 2], ids=["angle1", "angle2"])
def test_the_score_follows_entropy_beyond_the_norm(angle: int, model: str, bench: Bench, judge: Judges) -> None:
    relation = _result(bench, model).metrics[angle]["trace_pre", "entropy"]
    judge("prelim_angles").above(
        f"follows_entropy_given_norm/angle{angle}", relation.given, 0.0, f"not held fixed {relation.rho}"
    )


def test_trace_pre_is_the_strongest_metric(model: str, bench: Bench, judge: Judges) -> None:
    """S1 on CLIP. Not met where any other metric follows entropy reliably more closely (Holm over the five)."""
    found = _result(bench, model).strongest[2]
    beaten = [name for name, d in found.items() if d.estimate.value < 0 and d.p_holm < 0.05]
    ahead = all(d.estimate.value > 0 and d.p_holm < 0.05 for d in found.values())
    judge("prelim_angles").outcome(
        "trace_pre_strongest",
        "not met" if beaten else "met" if ahead else "undecided",
        "rho of trace_pre less |rho| of " + ", ".join(f"{name} {d}" for name, d in found.items()),
        f"stronger: {', '.join(beaten) or 'none'}",
    )


def test_the_score_follows_what_was_published_for_its_family(model: str, bench: Bench, judge: Judges) -> None:
    """S1: a CLIP's score follows ambiguity, a SigLIP's the distance from the centroid."""
    result = _result(bench, model)
    outlier = find_spec(model).family == "siglip"
    found: Difference = (result.outlier if outlier else result.ambiguity_first)["trace_pre"]
    entropy, centroid = (result.correlates["trace_pre", name].rho for name in ("entropy", "centroid_distance"))
    claim = "outlier_detector" if outlier else "ambiguity_detector"
    judge("prelim_angles").above(claim, found.estimate, 0.0, f"entropy {entropy}, centroid {centroid}")
