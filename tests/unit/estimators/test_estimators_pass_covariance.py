"""Covariance over passes: against the passes themselves, and through memory that runs out and processes that end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tower import tiny_encoder

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import monte_carlo
from mcdo.estimators.pass_covariance import PassCovariance, _Measurement, pass_covariance
from mcdo.images import ImageSet, load_images, prepare_pixels
from mcdo.perturbation import Dropout, image_keys, perturbed
from mcdo.store import Store

N, T, K = 12, 20, 2


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny_encoder()


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_images("digits", N)


@pytest.fixture(scope="module")
def directions(encoder: Encoder) -> np.ndarray:
    return 3 * np.random.default_rng(0).normal(size=(5, encoder.feature_dim))


@pytest.fixture(scope="module")
def passes(encoder: Encoder, images: ImageSet) -> np.ndarray:
    """The passes themselves, [K, N, T, D]."""
    preprocessing = encoder.preprocessing
    pixels = prepare_pixels(images, encoder.to_uint8, preprocessing.mean, preprocessing.std)
    with perturbed(encoder, Dropout(), 42) as tower:
        x, keys = pixels.batch(slice(None)), image_keys(images.mask_ids)
        trials = [np.concatenate([p.numpy() for p in tower.passes(x, keys, k, T)], axis=1) for k in range(K)]
    return np.stack(trials).astype(np.float64)


def measured(encoder: Encoder, images: ImageSet, directions: np.ndarray, **options: Any) -> PassCovariance:
    return pass_covariance(encoder, images, Dropout(), directions, T, K, 42, progress=False, **options)


def same(a: PassCovariance, b: PassCovariance) -> None:
    for name, value in vars(a).items():
        single = 1e-6 * np.abs(value).max()  # single precision of the passes; covariances near zero have lost it
        assert getattr(b, name) == pytest.approx(value, rel=1e-6, abs=single), name


def test_it_is_that_of_the_passes_and_its_trace_that_of_the_run(
    encoder: Encoder, images: ImageSet, directions: np.ndarray, passes: np.ndarray
) -> None:
    found = measured(encoder, images, directions)
    covariance = np.stack([[np.cov(x.T) for x in trial] for trial in passes])
    total = np.trace(covariance, axis1=-2, axis2=-1)
    assert found.total == pytest.approx(total, rel=1e-9)
    run = monte_carlo(encoder, images, Dropout(), (T,), K, 42, progress=False)
    assert found.total / encoder.feature_dim == pytest.approx(run.scores("trace_pre"), rel=1e-6)
    frame, units = found.frame, directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert frame @ frame.T == pytest.approx(np.eye(5), abs=1e-12)
    assert found.within == pytest.approx(frame @ covariance @ frame.T, rel=1e-6, abs=1e-12)
    along = np.einsum("rp,knpq,rq->knr", units, covariance, units)
    assert found.along(units) == pytest.approx(along, rel=1e-6)
    assert found.mean == pytest.approx((covariance / total[..., None, None]).mean((0, 1)), abs=1e-12)
    cosines = passes / np.linalg.norm(passes, axis=-1, keepdims=True) @ units.T
    assert found.cosine == pytest.approx(cosines.var(axis=2, ddof=1), rel=1e-6)


def test_a_direction_outside_the_span_is_refused(encoder: Encoder, images: ImageSet, directions: np.ndarray) -> None:
    found = measured(encoder, images, directions)
    with pytest.raises(McdoError, match="outside the span"):
        found.along(np.eye(encoder.feature_dim)[:1])


def test_bad_requests_are_refused(encoder: Encoder, images: ImageSet, directions: np.ndarray) -> None:
    with pytest.raises(McdoError, match=r"shape \[5, 3\]: give \[n, 8\]"):
        measured(encoder, images, directions[:, :3])
    with pytest.raises(McdoError, match="finite"):
        measured(encoder, images, np.full_like(directions, np.nan))
    with pytest.raises(McdoError, match=r"digits/heldout/\d+ are all equal"):
        pass_covariance(encoder, images, Dropout(0.0), directions, T, 1, 42, progress=False)


def test_neither_the_batch_nor_memory_that_runs_out_changes_it(
    encoder: Encoder, images: ImageSet, directions: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(encoder, images, directions)
    same(whole, measured(encoder, images, directions, batch_size=32))
    inner, tried = _Measurement._images, []

    def short(self: _Measurement, tower: Any, start: int, stop: int) -> None:
        tried.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError("out of memory")
        inner(self, tower, start, stop)

    monkeypatch.setattr(_Measurement, "_images", short)
    same(whole, measured(encoder, images, directions, batch_size=16 * N))
    assert tried[0] == N
    assert max(tried[-4:]) <= 3


class Interrupted(BaseException):
    pass


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """First images of the blocks that were begun; None in front: four may finish, and every other is interrupted."""
    inner, seen = _Measurement._images, list[Any]()

    def block(self: _Measurement, tower: Any, start: int, stop: int) -> None:
        if seen[:1] == [None] and len(seen) > 4:
            raise Interrupted
        seen.append(start)
        inner(self, tower, start, stop)

    monkeypatch.setattr(_Measurement, "_images", block)
    return seen


@pytest.mark.parametrize("batch_size", [16 * 2, 16 * 3])
def test_what_a_process_finished_is_not_measured_again(
    encoder: Encoder, images: ImageSet, directions: np.ndarray, tmp_path: Path, begun: list[Any], batch_size: int
) -> None:
    """In blocks of two images as before; in blocks of three those that were cut through are measured whole."""
    whole = measured(encoder, images, directions)
    begun[:] = [None]
    with pytest.raises(Interrupted):
        measured(encoder, images, directions, store=tmp_path, batch_size=16 * 2)
    finished = begun[1:]
    assert len(finished) == 4
    begun.clear()
    same(whole, measured(encoder, images, directions, store=tmp_path, batch_size=batch_size))
    left = {0, 2, 4, 6, 8, 10} - set(finished)
    assert set(begun) == (left if batch_size == 16 * 2 else {0, 3, 6, 9})
    begun.clear()
    same(whole, measured(encoder, images, directions, store=Store(tmp_path)))
    assert not begun, "it is looked up"
