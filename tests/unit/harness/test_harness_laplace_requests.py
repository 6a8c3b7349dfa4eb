"""Laplace requests: calibration images of other origins than the scored ones, and scores that are looked up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcdo.errors import NotApplicableError
from mcdo.estimators.posterior import leverage
from mcdo.harness import Features, Images, Session, Settings
from mcdo.harness.laplace_requests import LaplaceCalibration, LaplaceScores, calibration_images
from mcdo.images import ImageSet


def folder_of(root: Path, per_class: int) -> str:
    for name in ("red", "green", "blue"):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            colour = np.random.default_rng((i, len(name))).integers(0, 256, 3)
            Image.new("RGB", (8, 8), tuple(int(c) for c in colour)).save(root / name / f"{i}.png")
    return f"folder:{root}"


def calibration(images: str, scored: Images, fit: int) -> tuple[ImageSet, ImageSet]:
    """The scored images, and those that are fitted on."""
    session = Session(Settings(("clip_tiny",), images=images))
    return session.image_set(scored), calibration_images(session.image_set, session.settings, scored, fit)


def test_those_of_the_digits_are_the_training_split() -> None:
    for scored in (Images(40), Images(40, degradation="blur:4%")):
        fitted = calibration("digits", scored, 60)[1]
        assert len(fitted) == 60
        assert all(image_id.startswith("digits/train/") for image_id in fitted.ids)


def test_those_of_a_folder_are_others_than_the_scored_ones(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, 12)
    scored, fitted = calibration(spec, Images(15), 20)
    assert len(fitted) >= 20
    assert not set(scored.ids) & set(fitted.ids)
    for everything in (Images(36), Images(None)):
        with pytest.raises(NotApplicableError, match="none is left to fit"):
            calibration(spec, everything, 20)


def test_no_copy_of_a_scored_file_is_fitted_on(tmp_path: Path) -> None:
    spec = folder_of(tmp_path, 12)
    for path in sorted((tmp_path / "red").glob("*.png")):
        (tmp_path / "green" / f"copy{path.name}").write_bytes(path.read_bytes())
    scored, fitted = calibration(spec, Images(15), 33)
    pool = Session(Settings(("clip_tiny",), images=spec)).image_set(Images(48))
    copies = {i for i, o in zip(pool.ids, pool.origins, strict=True) if o in scored.origins} - set(scored.ids)
    assert copies, "the pool holds copies of what is scored"
    assert set(fitted.ids) == set(pool.ids) - copies - set(scored.ids)


def test_no_variant_of_a_scored_digit_is_fitted_on() -> None:
    """Beyond the 1197 training digits come variants of the first ones, which are scored."""
    scored, fitted = calibration("digits:train", Images(1190), 400)
    assert set(fitted.origins) & set(scored.origins) == set()
    assert len(fitted) == 7, "what is left of the digits, and none of 393 variants"


@pytest.mark.parametrize("key", ["clip_tiny", "siglip_tiny"])
def test_scores_are_looked_up_without_the_model(key: str, tmp_path: Path) -> None:
    settings = Settings((key,), store=tmp_path / "store")
    session, request = Session(settings), LaplaceScores(key, Images(40, degradation="blur:4%"), 60)
    scores = session.measure(request)
    per_image = {name: score for name, score in scores.items() if not name.startswith(("prior", "weight"))}
    assert {"head_logit_variance", "projection_logit_variance", "projection_feature_variance"} < set(per_image)
    assert all(score.shape == (40,) and (score > 0).all() for score in per_image.values())
    features = session.measure(Features(key, Images(40, degradation="blur:4%")))["features"]
    fitted = session.measure(LaplaceCalibration(key, Images(40), 60))["features"]
    units = [x / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (features, fitted)]
    assert scores["leverage"] == pytest.approx(leverage(*units), rel=1e-4)

    again = Session(replace(settings, from_store=True))
    found = again.measure(request)
    assert again.loads[key] == 0
    assert all(np.array_equal(found[name], value) for name, value in scores.items())
