from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import mcdo
from mcdo.cli import main
from mcdo.errors import McdoError
from mcdo.estimators.progress import Progress
from mcdo.perturbation import Role
from mcdo.recipes import Recipe, load_recipe, scoring
from mcdo.recipes.default import GAIN, default_recipe, why_not
from mcdo.recipes.file import (
    Calibration,
    Confirmation,
    Difference,
    Dimensions,
    EncoderIdentity,
    Estimator,
    Gain,
    Interval,
    Response,
    SiteWeight,
    write_recipe,
)
from mcdo.recipes.scoring import (
    AppliedRecipe,
    Equivalents,
    OutsideCalibrationWarning,
    chance_outside,
    chunk_size,
    equivalents,
    quantile_within,
    threshold_of,
)
from mcdo.store.store import MARKER


def changed(held: Any, **fields: Any) -> Any:
    """A record with other fields."""
    return msgspec.structs.replace(held, **fields)


@pytest.fixture(scope="module", autouse=True)
def of_few_passes() -> Iterator[None]:
    """A basis from an eighth of the passes, which serves where it does not matter how good it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcdo.estimators.probes.CALIBRATION_PASSES", 8)
        yield


@pytest.fixture(scope="module")
def encoder() -> mcdo.Encoder:
    return mcdo.load_encoder("clip_tiny", device="cpu")


@pytest.fixture(scope="module")
def applied(encoder: mcdo.Encoder) -> AppliedRecipe:
    """All sites and all probes."""
    digits = mcdo.load_images("digits", 20)
    return AppliedRecipe(default_recipe(encoder, digits, spec="digits", families=("blur", "noise")))


@pytest.fixture(scope="module")
def cheap(applied: AppliedRecipe) -> AppliedRecipe:
    """Few probes, so that scores have an error."""
    return AppliedRecipe(changed(applied.recipe, estimator=Estimator(method="first_order", probes=3, seed=42)))


def calibrated(recipe: Recipe, scores: list[float]) -> Recipe:
    held = recipe.calibration
    own = Calibration(held.images, held.fingerprint, len(scores), len(scores), held.seed, tuple(sorted(scores)))
    found: Recipe = changed(recipe, calibration=own)
    return found


def response(fitted: list[tuple[float, float, float]], shape: str = "rising") -> Response:
    bands = tuple(Interval(value, low, high, 50) for low, value, high in fitted)
    severities = tuple(float(i) for i in range(len(fitted)))
    level = load_recipe("default:clip_tiny").recipe.responses[0].levels[0]
    return Response("blur", "px", severities, bands, bands, shape, (level,) * (len(fitted) - 1), "it falls")  # type: ignore[arg-type]


# ---- what a score amounts to, by hand


def test_a_quantile_is_the_share_of_the_calibration_set_that_scores_lower() -> None:
    held = np.array([1.0, 2.0, 2.0, 2.0, 5.0])  # at levels 0, .25, .5, .75, 1
    assert quantile_within(np.array([0.0, 1.0, 1.5, 2.0, 3.5, 5.0, 9.0]), held) == pytest.approx(
        [0, 0, 0.125, 0.5, 0.875, 1, 1]
    )


def test_a_threshold_is_a_score_of_the_calibration_set(applied: AppliedRecipe) -> None:
    nineteen = calibrated(applied.recipe, [float(i) for i in range(1, 20)])
    assert threshold_of(nineteen, 0.05) == 19  # the ceil(20 · .95) = 19th
    assert threshold_of(nineteen, 0.5) == 10
    with pytest.raises(McdoError, match=r"19 originals, which can show no rate below 0\.05"):
        threshold_of(nineteen, 0.049)
    with pytest.raises(McdoError, match="strictly between"):
        threshold_of(nineteen, 0.0)


def test_four_images_of_one_original_say_no_more_of_a_rate_than_one(applied: AppliedRecipe) -> None:
    once = calibrated(applied.recipe, [float(i) for i in range(1, 20)])
    held = changed(once.calibration, n=4 * 19, quantiles=tuple(np.repeat(once.calibration.quantiles, 4).tolist()))
    four = changed(once, calibration=held)
    assert [threshold_of(four, rate) for rate in (0.05, 0.5)] == [19, 10]
    with pytest.raises(McdoError, match="19 originals"):
        threshold_of(four, 0.03)


def test_no_more_are_flagged_than_stated(applied: AppliedRecipe) -> None:
    """Over calibration sets of 39 and new images of the same distribution, here one that is skewed."""
    rng, rates = np.random.default_rng(0), []
    for _ in range(400):
        recipe = calibrated(applied.recipe, rng.lognormal(size=39).tolist())
        rates.append(np.mean(rng.lognormal(size=200) > threshold_of(recipe, 0.1)))
    assert np.mean(rates) == pytest.approx(0.1, abs=4 * np.std(rates) / 20)


def test_a_severity_is_read_from_the_curve_and_its_band() -> None:
    curve = response([(0.0, 0.1, 0.2), (0.9, 1.0, 1.1), (1.9, 2.0, 2.1)])
    found = equivalents(curve, np.exp([-1.0, 0.05, 0.55, 1.5, 2.05, 3.0]), np.zeros(6), 0)
    assert found.value == pytest.approx([0, 0, 0.5, 1.5, math.inf, math.inf])
    # at log score .55 the upper band reaches it at (.55 − .2)/.9, the lower one at .55/.9
    assert (found.low[2], found.high[2]) == pytest.approx((0.35 / 0.9, 0.55 / 0.9))
    assert found.low[4] == pytest.approx(1.95)  # the upper band still reaches 2.05
    assert [found.said(i) for i in range(6)] == ["at most clean"] * 2 + [""] * 2 + ["beyond the measured range"] * 2
    assert found.text(3) == "1.5 [1.4, 1.6] px"
    assert found.text(4) == "beyond the measured range (to 2)"


def test_the_error_of_a_score_widens_what_it_amounts_to() -> None:
    curve = response([(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)])
    score, error = np.exp([1.0]), np.array([0.1])
    found = equivalents(curve, score, error, 2)
    ends = math.e - 0.4302653, math.e + 0.4302653  # Student's t of three trials
    assert (found.low[0], found.high[0]) == pytest.approx(tuple(map(math.log, ends)))
    larger = equivalents(curve, score, np.array([10.0]), 2)
    assert (larger.low[0], larger.high[0]) == (0.0, math.inf)


@pytest.mark.parametrize("trials", [2, 3, 5])
@pytest.mark.parametrize("own", [1, 2])
def test_the_interval_holds_the_severity_as_often_as_it_says(own: int, trials: int) -> None:
    """Of 4000 images of known severity along a known curve; two standard errors below .95 are granted.

    Taken as if the error were known, three trials of which one is the score's gave .88, and two .75.
    """
    rng = np.random.default_rng(0)
    curve = response([(float(i), float(i), float(i)) for i in range(9)])
    noisy = np.exp(4.0) * (1 + 0.1 * rng.standard_normal((trials, 4000)))
    error = noisy.std(axis=0, ddof=1) / math.sqrt(own)
    found = equivalents(curve, noisy[:own].mean(axis=0), error, trials - 1)
    assert np.mean((found.low <= 4) & (found.high >= 4)) >= 0.943


def test_nothing_is_read_from_a_response_that_is_no_rise() -> None:
    found = equivalents(response([(0.0, 0.1, 0.2)] * 3, "not monotone"), np.ones(2), np.zeros(2), 0)
    assert np.isnan(found.value).all()
    assert found.reason == "it falls"
    assert found.said(0) == "not defined"


# ---- scores


def test_images_of_the_calibration_set_have_their_own_quantiles(applied: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    held = applied.recipe.calibration
    images = mcdo.load_images(held.images, held.n, held.seed)
    assert images.fingerprint == held.fingerprint
    found = applied.score(images.select(slice(0, None, 2)), encoder=encoder, progress=False)
    levels = np.linspace(0, 1, held.n)
    nearest = np.abs(np.array(held.quantiles)[:, None] - found.score).argmin(axis=0)
    assert found.score == pytest.approx(np.array(held.quantiles)[nearest], rel=1e-4)
    assert found.quantile == pytest.approx(levels[nearest], abs=0.005)
    assert (found.error == 0).all()  # with every probe nothing is left to chance
    assert found.flagged.tolist() == (found.score > found.threshold).tolist()


def test_sites_have_their_weights(applied: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    images, recipe = mcdo.load_images("digits", 6, 1), calibrated(applied.recipe, [0.0, *[1.0] * 99])
    weighted = tuple(
        SiteWeight(site.name, site.role, (0.0, 0.5, 2.0)[i % 3], site.block) for i, site in enumerate(recipe.sites)
    )
    # listed in another order than that of execution, in which the run has them
    found = AppliedRecipe(changed(recipe, sites=weighted[::-1])).score(images, encoder=encoder, progress=False)
    whole = mcdo.first_order(encoder, images, mcdo.Dropout(recipe.p), 49, 1, progress=False)
    parts, names = whole.decomposition(recipe.score)[0], [name for name, _ in whole.sites]
    by_hand = sum(site.weight * parts[:, names.index(site.name)] for site in weighted)
    assert found.score == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("method", ["first_order", "monte_carlo"])
@pytest.mark.parametrize("name", ["visual.*", "fc1", "all"])
def test_sites_are_named_one_by_one(name: str, method: Any, applied: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    """A role or a pattern stands for several, of which each would have to have a weight."""
    sites = (SiteWeight(name, applied.recipe.sites[0].role, 1.0), applied.recipe.sites[-1])
    how = {"probes": 2} if method == "first_order" else {"passes": 2}
    recipe = changed(applied.recipe, sites=sites, estimator=Estimator(method=method, **how))
    with pytest.raises(McdoError, match=r"name each site of clip_tiny once, in full: .* is there or here"):
        AppliedRecipe(recipe).score(mcdo.load_images("digits", 2, 1), encoder=encoder, trials=1, progress=False)


def test_passes_score_as_monte_carlo_does(applied: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    images, recipe = mcdo.load_images("digits", 6, 1), calibrated(applied.recipe, [0.0, *[1.0] * 99])
    halved = tuple(SiteWeight(site.name, site.role, 0.5, site.block) for site in recipe.sites)
    how = Estimator(method="monte_carlo", passes=8, seed=7)
    curve = response([(log, log, log) for log in (-20.0, 0.0, 20.0)])
    given = AppliedRecipe(changed(recipe, sites=halved, estimator=how, responses=(curve,)))
    found = given.score(images, encoder=encoder, trials=4, families=[curve.family], progress=False)
    names = tuple(site.name for site in recipe.sites)
    run = mcdo.monte_carlo(encoder, images, mcdo.Dropout(recipe.p, sites=names), 8, 4, 7, progress=False)
    scores = run.scores(recipe.score, 8)
    assert found.score == pytest.approx(scores[0] / 2)  # the recipe's one trial; the others are for the error
    assert found.error == pytest.approx(scores.std(axis=0, ddof=1) / 2)
    ends = [equivalents(curve, found.score, found.error, freedom) for freedom in (3, 4)]
    assert found.equivalents[curve.family].low.tolist() == ends[0].low.tolist() != ends[1].low.tolist()
    assert found.equivalents[curve.family].high.tolist() == ends[0].high.tolist()


@pytest.mark.parametrize(
    ("score", "how"),
    [
        ("topk_trace", {"method": "first_order", "probes": 8}),
        ("weighted_trace", {"method": "monte_carlo", "passes": 8}),
    ],
    ids=["first_order", "monte_carlo"],
)
def test_weights_of_dimensions_are_applied_and_refuse_their_own_images(
    score: str, how: dict[str, Any], applied: AppliedRecipe, encoder: mcdo.Encoder
) -> None:
    images, others = mcdo.load_images("digits", 6, 1), mcdo.load_images("digits:train", 20)
    features = mcdo.monte_carlo(encoder, others, mcdo.Dropout(0.0), 2, 1, progress=False).features
    weights = mcdo.DimensionWeights.fit(features, others.origins)
    held = Dimensions(
        tuple(map(float, weights.weights)), "features", tuple(map(int, weights.top)), tuple(sorted(weights.origins))
    )
    recipe = AppliedRecipe(changed(applied.recipe, estimator=Estimator(**how), score=score, dimensions=held))
    asked: dict[str, Any] = {
        "images": images,
        "dropout": mcdo.Dropout(applied.recipe.p),
        "trials": 3,
        "seed": 42,
        "progress": False,
    }
    if "probes" in how:
        run: Any = mcdo.first_order(encoder, probes=8, weights=weights, score=score, **asked)
    else:
        run = mcdo.monte_carlo(encoder, passes=8, weights=weights, **asked)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideCalibrationWarning)  # calibrated for another score
        found = recipe.score(images, encoder=encoder, progress=False)
    assert found.score == pytest.approx(run.scores(score)[0], rel=1e-5)
    assert (found.error > 0).all()
    with pytest.raises(McdoError, match="20 of the scored originals were calibrated on"):
        recipe.score(others, encoder=encoder, progress=False)


def test_the_error_is_that_of_other_probes(cheap: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    images = mcdo.load_images("digits", 12, 1)
    found = cheap.score(images, encoder=encoder, trials=5, progress=False)
    run = mcdo.first_order(encoder, images, mcdo.Dropout(0.01), 3, 5, 42, progress=False)
    assert found.error == pytest.approx(run.scores("trace_post").std(axis=0, ddof=1), rel=1e-3)
    alone = cheap.score(images, encoder=encoder, trials=1, progress=False)
    assert np.isnan(alone.error).all()
    assert alone.score == pytest.approx(found.score, rel=1e-5)


def test_chunks_change_nothing(cheap: AppliedRecipe, encoder: mcdo.Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    images = mcdo.load_images("digits", 10, 1)
    whole = cheap.score(images, encoder=encoder, trials=1, progress=False)
    monkeypatch.setattr(scoring, "_CHUNK", 7)
    assert cheap.score(images, encoder=encoder, trials=1, progress=False).score == pytest.approx(whole.score, rel=1e-5)


def test_a_chunk_holds_no_more_pixels_than_it_may() -> None:
    assert chunk_size(32) == 1024
    assert chunk_size(224) == 48 * 2**20 // (3 * 224**2)
    assert chunk_size(100_000) == 1


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(
    cheap: AppliedRecipe, encoder: mcdo.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, counted = mcdo.load_images("digits", 16, 1), [0]
    monkeypatch.setattr(scoring, "_CHUNK", 8)
    undisturbed = cheap.score(images, encoder=encoder, store=tmp_path / "other", progress=False)

    def update(limit: float) -> Callable[[Any, int], None]:
        def count(self: Any, passes: int) -> None:
            counted[0] += passes
            if counted[0] > limit:
                raise KeyboardInterrupt

        return count

    cost = 1 + 3 * 2
    monkeypatch.setattr(scoring._Part, "update", update(10 * cost))
    with pytest.raises(KeyboardInterrupt):
        cheap.score(images, encoder=encoder, store=tmp_path / "store", progress=False)
    counted[0] = 0
    monkeypatch.setattr(scoring._Part, "update", update(math.inf))
    resumed = cheap.score(images, encoder=encoder, store=tmp_path / "store", progress=False)
    assert counted[0] <= 8 * cost  # the first chunk was kept
    assert resumed.score.tobytes() == undisturbed.score.tobytes()
    assert resumed.error.tobytes() == undisturbed.error.tobytes()


def test_progress_counts_every_image_once(
    cheap: AppliedRecipe, encoder: mcdo.Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Progress] = []

    class Seen(Progress):
        def __init__(self, *asked: Any) -> None:
            super().__init__(*asked)
            bars.append(self)

    monkeypatch.setattr(scoring, "_CHUNK", 8)
    monkeypatch.setattr(scoring, "Progress", Seen)
    images = mcdo.load_images("digits", 12, 1)
    for _ in range(2):  # measured, and found
        cheap.score(images, encoder=encoder, trials=1, store=tmp_path)
        assert (bars[-1]._done, bars[-1]._total) == (12 * 3, 12 * 3)


# ---- what is refused, and what is warned of


def test_another_encoder_is_refused_with_both_named(applied: AppliedRecipe) -> None:
    other = mcdo.load_encoder("siglip_tiny", device="cpu")
    with pytest.raises(McdoError, match=r"made for clip_tiny, and siglip_tiny is another encoder: weights"):
        applied.score(mcdo.load_images("digits", 4, 1), encoder=other, progress=False)


def test_the_chance_that_images_lie_outside_counts_that_the_range_is_a_samples() -> None:
    rng = np.random.default_rng(5)
    drawn, calibrated, n = rng.random((20_000, 40)), 40, 60
    outside = np.array([rng.binomial(n, low + 1 - high) for low, high in zip(drawn.min(1), drawn.max(1), strict=True)])
    for k in (1, 5, 10, 14):  # of 20 000 the share is known to .01
        assert chance_outside(k, n, calibrated) == pytest.approx(np.mean(outside >= k), abs=0.01)
    assert chance_outside(0, n, calibrated) == chance_outside(n, n, 1) == 1
    assert chance_outside(1, 1, 3) == pytest.approx(2 / 4)  # a fourth of four is as likely as any to be at an end


def test_images_of_another_kind_are_warned_of(applied: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    few = calibrated(applied.recipe, [1.0 + i / 1000 for i in range(100)])  # far from any score
    images = mcdo.load_images("digits", 12, 1)
    images = replace(images, origins=tuple(images.ids[i // 3] for i in range(12)))
    with pytest.warns(OutsideCalibrationWarning, match=r"12 of 12 images of digits score outside the range"):
        found = AppliedRecipe(few).score(images, encoder=encoder, progress=False)
    assert (found.outside.value, found.outside.n) == (1, 4)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"families": ("blurr",)}, "no response to 'blurr'; the nearest: blur"),
        ({"false_alarm": 1e-4}, "can show no rate below"),
        ({"trials": 0}, "at least one"),
    ],
)
def test_what_is_wrong_costs_no_pass(applied: AppliedRecipe, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        applied.score(mcdo.load_images("digits", 4, 1), **arguments)


def test_every_embedded_encoder_has_a_recipe() -> None:
    from mcdo.encoders import REGISTRY

    for key, spec in REGISTRY.items():
        if spec.embedded:
            loaded = load_recipe(f"default:{key}")
            loaded.recipe.check(mcdo.load_encoder(key, device="cpu"))
    with pytest.raises(McdoError, match=r"no recipe ships for 'clip_b32'; there are clip_tiny.*make one with"):
        load_recipe("default:clip_b32")


def interval(low: float) -> Interval:
    return Interval(low + 0.1, low, low + 0.2, 50)


@pytest.mark.parametrize(
    ("gain", "outcome", "weighted", "said"),
    [
        (0.01, "met", False, ""),
        (-0.01, "met", False, "gains nothing over all sites"),
        (0.01, "undecided", False, "passes do not confirm"),
        (0.01, "met", True, "weights of dimensions were fitted"),
    ],
)
def test_a_choice_ships_where_its_gain_holds(
    gain: float, outcome: str, weighted: bool, said: str, applied: AppliedRecipe
) -> None:
    recipe, held = applied.recipe, Dimensions((0.5, 0.5), "two images", (0,))
    gains = (Gain(GAIN, Difference(interval(gain))), Gain("all sites, noise", Difference(interval(-0.5))))
    verdict = changed(recipe.verdict, gains=gains, confirmation=Confirmation(outcome, 64, 3, {}))  # type: ignore[arg-type]
    chosen = changed(recipe, verdict=verdict, **({"score": "topk_trace", "dimensions": held} if weighted else {}))
    assert said in why_not(chosen)
    assert bool(said) == bool(why_not(chosen))
    assert "gains nothing" in why_not(recipe), "nothing was chosen for it"


# ---- the table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures in one folder, one with the name of a formula."""
    place, images = tmp_path / "pictures", mcdo.load_images("digits", 5, 3)
    place.mkdir()
    for name, image in zip(("=1+1.png", "a.png", "b.png", "c,d.png", "é.png"), images, strict=True):
        image.save(place / name)
    return place


def score(*arguments: object) -> int:
    return main(["score", "--device=cpu", "--store=none", *map(str, arguments)])


def test_a_table_has_a_row_for_each_image(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.csv"
    assert score("--recipe=default:siglip_tiny", f"--images=folder:{folder}", f"--out={out}", "--as=noise") == 0
    said = capsys.readouterr().out
    assert "5 images;" in said
    assert "siglip_tiny: trace_post at all sites" in said
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["'=1+1.png", "a.png", "b.png", "c,d.png", "é.png"]
    assert list(rows[0])[:5] == ["id", "score", "error", "quantile", "flag"]
    loaded = load_recipe("default:siglip_tiny")
    found = loaded.score(mcdo.load_images(f"folder:{folder}"), families=("noise",), progress=False)
    assert [float(row["score"]) for row in rows] == found.score.tolist()
    assert [row["as_noise_note"] for row in rows] == [found.equivalents["noise"].said(i) for i in range(5)]


@pytest.mark.parametrize("copies", [1, 2])
def test_a_single_photo_is_scored(copies: int, folder: Path, tmp_path: Path) -> None:
    photo = (folder / "a.png").read_bytes()
    place, out = tmp_path / "photo", tmp_path / "scores.csv"
    place.mkdir()
    for i in range(copies):
        (place / f"{i}.png").write_bytes(photo)
    assert score("--recipe=default:siglip_tiny", f"--images=folder:{place}", f"--out={out}") == 0
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1 + copies
    found = load_recipe("default:siglip_tiny").score(mcdo.load_images(f"folder:{place}"), progress=False)
    assert found.outside.n == 1
    assert not found.outside.has_interval


@pytest.mark.parametrize("classes", [False, True])
def test_a_store_among_the_images_is_no_class(
    classes: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given in their folder, the same command goes on: what it kept there is not in its way."""
    place = tmp_path if classes else folder
    monkeypatch.chdir(place)
    command = ["score", "--device=cpu", "--recipe=default:siglip_tiny", "--images=folder:.", "--out=scores.csv"]
    written = []
    for _ in range(2):
        assert main(command) == 0, capsys.readouterr().err
        written.append((place / "scores.csv").read_bytes())
    assert (place / "store" / MARKER).is_file()
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == 6


def test_parquet_holds_numbers(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "scores.parquet"
    assert score("--recipe=default:clip_tiny", f"--images=folder:{folder}", f"--out={out}") == 0
    table = parquet.read_table(out).to_pydict()
    assert table["id"][0] == "=1+1.png"  # no spreadsheet runs it
    assert all(isinstance(value, float) for value in table["score"])


def test_an_unreadable_image_is_named_or_left_out(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    out = tmp_path / "scores.csv"
    asked = ("--recipe=default:clip_tiny", f"--images=folder:{folder}", f"--out={out}")
    assert score(*asked) == 2
    assert "torn.png" in capsys.readouterr().err
    assert score(*asked, "--skip-unreadable") == 0
    assert "left out: torn.png" in capsys.readouterr().out
    assert len(out.read_text(encoding="utf-8").splitlines()) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "pytest -m recipe"),
        (("--recipe=default:clip_tiny",), "--images=folder:PATH"),
        (("--recipe=none.json", "--images=digits"), "pytest -m recipe"),
        (("--recipe=default:clip_tiny", "--images=digits", "--out=scores.txt"), "ends in .csv or .parquet"),
        (("--recipe=default:clip_tiny", "--images=digits", "--false-alarm=2"), "strictly between 0 and 1"),
        (("--recipe=default:clip_tiny", "--images=digits", "--encoder=siglip_tiny"), "is another encoder: weights"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(*arguments) == 2
    assert said in capsys.readouterr().err


# ---- at the sizes of the issue


@pytest.mark.slow
def test_two_thousand_digits(tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    assert score("--recipe=default:clip_tiny", "--images=digits", "--num-images=2000", f"--out={out}") == 0
    rows = np.genfromtxt(out, delimiter=",", names=True, usecols=(1, 3))
    assert len(rows) == 2000
    assert np.isfinite(rows["score"]).all()
    assert 0.3 < np.median(rows["quantile"]) < 0.7  # variants of the digits that it was calibrated on


PEAK = """
import resource, sys
from mcdo.cli import main
assert main(sys.argv[1:]) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.slow
def test_fifty_thousand_images_take_a_few_kilobytes_each(applied: AppliedRecipe, tmp_path: Path) -> None:
    """Chunks are let go of: 48 000 images more, of 3 kB of pixels each, cost less than two of them each."""
    recipe, peaks = tmp_path / "recipe.json", []
    write_recipe(changed(applied.recipe, estimator=Estimator(method="monte_carlo", passes=2, seed=42)), recipe)
    rng = np.random.default_rng(0)
    for i in range(1000):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((32, 32), Image.Resampling.BILINEAR).save(tmp_path / f"{i}.png")
    for n in (2_000, 50_000):
        folder, out = tmp_path / str(n), tmp_path / f"{n}.csv"
        folder.mkdir()
        for i in range(n):
            (folder / f"{i:05}.png").hardlink_to(tmp_path / f"{i % 1000}.png")
        command = [sys.executable, "-c", PEAK, "score", f"--recipe={recipe}", f"--images=folder:{folder}"]
        options = ["--device=cpu", "--store=none", "--trials=1", f"--out={out}"]
        said = subprocess.run([*command, *options], check=True, capture_output=True, text=True).stdout
        peaks.append(int(said.split()[-1]))
        assert len(out.read_text(encoding="utf-8").splitlines()) == n + 1
    assert (peaks[1] - peaks[0]) / 48_000 < 6_000


@pytest.mark.slow
def test_photographs_under_a_large_encoder_go_on_after_a_kill(tmp_path: Path) -> None:
    """60 JPEGs and ViT-B/32 with random weights: killed once, resumed to the bits of a run that was not."""
    folder, recipe = tmp_path / "photographs", tmp_path / "recipe.json"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize((400, 300), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg", quality=90)
    _write_large(recipe, folder)
    command = [
        *(sys.executable, "-m", "mcdo", "score", f"--recipe={recipe}", f"--images=folder:{folder}"),
        *("--device=cpu", "--seed=0", "--trials=2"),
    ]
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    subprocess.run([*command, f"--store={tmp_path / 'a'}", f"--out={whole}"], check=True)
    killed = subprocess.Popen([*command, f"--store={tmp_path / 'b'}", f"--out={resumed}"])
    limit = time.monotonic() + 600
    while not any((tmp_path / "b").rglob("*.parts/*.safetensors")):
        assert killed.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not resumed.exists()
    subprocess.run([*command, f"--store={tmp_path / 'b'}", f"--out={resumed}"], check=True)
    assert resumed.read_bytes() == whole.read_bytes()
    assert len(whole.read_text().splitlines()) == 61


def _write_large(path: Path, folder: Path) -> None:
    """Four passes at all sites, calibrated on the first twenty."""
    encoder = mcdo.load_encoder("clip_b32", device="cpu", weights="random", seed=0)
    images = mcdo.load_images(f"folder:{folder}", 20, 1)
    run = mcdo.monte_carlo(encoder, images, mcdo.Dropout(0.01), 4, 1, 42, geometry=(), progress=False)
    recipe = calibrated(load_recipe("default:clip_tiny").recipe, run.scores("trace_post")[0].tolist())
    made = changed(
        recipe,
        score="trace_post",
        name="clip_b32: four passes",
        encoder=EncoderIdentity.of(encoder),
        sites=tuple(SiteWeight(name, Role(role), 1.0) for name, role in run.sites),
        estimator=Estimator(method="monte_carlo", passes=4, seed=42),
        responses=(),
    )
    write_recipe(made, path)


def test_equivalents_are_what_the_table_shows(cheap: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    found = cheap.score(mcdo.load_images("digits", 4, 1), encoder=encoder, families=("noise", "blur"), progress=False)
    assert isinstance(found.equivalents["noise"], Equivalents)
    ends = ("", "_low", "_high", "_note")
    assert found.columns[5:] == tuple(f"as_{family}{end}" for family in ("noise", "blur") for end in ends)
    assert [tuple(row) for row in found.rows()] == [found.columns] * 4
    assert all(row["as_blur"] is None for row in found.rows())  # no rise in this encoder


def test_probes_are_those_of_all_listed_sites(cheap: AppliedRecipe, encoder: mcdo.Encoder) -> None:
    """Quantiles of a choice of sites come from a run of all sites: with other probes every score would be shifted."""
    images = mcdo.load_images("digits", 30, 1)
    run = mcdo.first_order(encoder, images, mcdo.Dropout(0.01), 3, 1, 42, progress=False)
    chosen = tuple(
        SiteWeight(site.name, site.role, float(i == 3), site.block) for i, site in enumerate(cheap.recipe.sites)
    )
    scores = run.scores("trace_post", sites=cheap.recipe.sites[3].name)[0]
    recipe = calibrated(changed(cheap.recipe, sites=chosen), scores.tolist())
    found = AppliedRecipe(recipe).score(images, encoder=encoder, trials=1, progress=False)
    assert np.sort(found.score) == pytest.approx(np.array(recipe.calibration.quantiles), rel=1e-6)
