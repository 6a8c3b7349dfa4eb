"""Arrays by image are kept as they come: what a process that was ended has measured is not measured again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_tower import tiny_encoder
from torch import Tensor

import mcdo
import mcdo.estimators.resumption
from mcdo.encoders import Encoder
from mcdo.estimators.blocks import BlockLoop, prepared
from mcdo.estimators.by_image import of_every_image, of_passes
from mcdo.estimators.probes import CALIBRATION_PASSES, noise_basis
from mcdo.harness import Images, Session, Settings
from mcdo.harness.requests import Features, TextFeatures
from mcdo.images import Pixels, load_images
from mcdo.perturbation import Dropout, PerturbedTower, deterministic_features
from mcdo.store import Store, Unfinished

N, BATCH = 24, 4


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return tiny_encoder()


@pytest.fixture(scope="module")
def pixels(encoder: Encoder) -> Pixels:
    return prepared(encoder, load_images("digits", n=N))


@pytest.fixture(autouse=True)
def saved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcdo.estimators.resumption, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(mcdo.estimators.resumption, "COST", np.inf)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def parts(store: Path) -> Unfinished:
    """As another process would see them."""
    return Store(store).unfinished("ab" * 32)


def test_blocks_that_were_finished_are_not_measured_again(encoder: Encoder, pixels: Pixels, tmp_path: Path) -> None:
    seen = [0]

    def look(batch: Tensor, most: int) -> tuple[Tensor, Tensor]:
        if seen[0] >= most:
            raise KeyboardInterrupt
        seen[0] += len(batch)
        features = deterministic_features(encoder, batch)
        return features, features.argmax(dim=1)

    whole = of_every_image(encoder, pixels, lambda batch: look(batch, N), BATCH, progress=False)
    seen[0] = 0
    with pytest.raises(KeyboardInterrupt):
        of_every_image(encoder, pixels, lambda batch: look(batch, 3 * BATCH), BATCH, False, parts(tmp_path))
    seen[0] = 0
    again = of_every_image(encoder, pixels, lambda batch: look(batch, N), BATCH, False, parts(tmp_path))
    assert seen[0] == N - 3 * BATCH
    assert all(np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(whole, again, strict=True))


def test_a_part_of_other_images_is_not_taken(encoder: Encoder, pixels: Pixels, tmp_path: Path) -> None:

    def ones(part: slice, loop: BlockLoop) -> list[NDArray[np.float64]]:
        return [np.ones(part.stop - part.start)]

    parts(tmp_path).add({"columns": np.array([N]), "0": np.zeros((1, 3))}, {"label": {}})
    with pytest.warns(Warning, match="other images"):
        (found,) = of_passes(encoder, N, ones, 1, "ones", 64, False, parts(tmp_path))
    assert found.tolist() == [1.0] * N


REQUESTS = {
    "images": Features("clip_tiny", Images(N)),
    "text": TextFeatures("clip_tiny", tuple(f"a photo of {i} things" for i in range(N))),
}


@pytest.mark.parametrize("request_of", list(REQUESTS))
def test_features_go_on_where_a_process_was_ended_and_leave_nothing(
    request_of: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, most = [0], [3]

    def counting(encoder: Encoder, batch: Tensor) -> Tensor:
        counted[0] += 1
        if counted[0] > most[0]:
            raise KeyboardInterrupt
        return deterministic_features(encoder, batch)

    monkeypatch.setattr("mcdo.harness.requests.deterministic_features", counting)
    request = REQUESTS[request_of]
    session = Session(Settings(("clip_tiny",), store=tmp_path, batch_size=BATCH))
    with pytest.raises(KeyboardInterrupt):
        session.measure(request)
    assert list(tmp_path.rglob("*.parts"))
    counted[0], most[0] = 0, N
    found = session.measure(request)["features"]
    assert counted[0] == N // BATCH - 3
    assert not list(tmp_path.rglob("*.parts"))
    afresh = Session(Settings(("clip_tiny",), batch_size=BATCH)).measure(request)["features"]
    np.testing.assert_array_equal(found, afresh)


class Counted:
    """Calls of a method of the perturbed tower, of which only so many are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.most, carry_out = 0, 10**9, PerturbedTower.__call__

        def counting(tower: PerturbedTower, *arguments: Any) -> Tensor:
            self.calls += 1
            if self.calls > self.most:
                raise KeyboardInterrupt
            return carry_out(tower, *arguments)

        monkeypatch.setattr(PerturbedTower, "__call__", counting)

    def of(self, do: Callable[[], Any], most: int = 10**9) -> Any:
        self.calls, self.most = 0, most
        return do()


@pytest.mark.parametrize("most", [1, 3])
def test_the_noise_basis_goes_on_within_an_input_to_the_same_bits(
    most: int, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two inputs of four batches of passes each."""
    monkeypatch.setattr("mcdo.estimators.probes.CALIBRATION_IMAGES", 2)
    monkeypatch.setattr("mcdo.estimators.probes.BATCH", 16)
    monkeypatch.setattr("mcdo.estimators.probes.MOST_HELD", 0)
    counted = Counted(monkeypatch)
    whole = counted.of(lambda: noise_basis(encoder, Dropout()))
    assert counted.calls == 2 * CALIBRATION_PASSES // 16
    with pytest.raises(KeyboardInterrupt):
        counted.of(lambda: noise_basis(encoder, Dropout(), store=tmp_path), most)
    again = counted.of(lambda: noise_basis(encoder, Dropout(), store=tmp_path))
    assert counted.calls == 2 * CALIBRATION_PASSES // 16 - most
    np.testing.assert_array_equal(again, whole)
    assert not list(tmp_path.rglob("*.parts"))


def test_a_census_goes_on_where_it_was_and_is_kept(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, dropout, counted = (
        load_images("digits", n=8),
        Dropout(0.05, ["qkv", "mlp.0", "mlp.2"]),
        Counted(monkeypatch),
    )
    whole = counted.of(lambda: mcdo.census(encoder, images, dropout, progress=False))
    each = counted.calls // len(whole)
    with pytest.raises(KeyboardInterrupt):
        counted.of(lambda: mcdo.census(encoder, images, dropout, store=tmp_path, progress=False), 2 * each)
    assert counted.of(lambda: mcdo.census(encoder, images, dropout, store=tmp_path, progress=False)) == whole
    assert counted.calls == (len(whole) - 2) * each
    assert counted.of(lambda: mcdo.census(encoder, images, dropout, store=tmp_path, progress=False)) == whole
    assert counted.calls == 0


@pytest.mark.parametrize("most", [1, 20])
def test_a_census_of_many_passes_goes_on_within_a_site_to_the_same_bits(
    most: int, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 passes of each of two sites, 16 at once."""
    images, counted = load_images("digits", n=2), Counted(monkeypatch)
    rare = Dropout(1e-5, ["mlp.0", "mlp.2"])
    whole = counted.of(lambda: mcdo.census(encoder, images, rare, progress=False))
    assert counted.calls == 2 * 256 // 16
    with pytest.raises(KeyboardInterrupt):
        counted.of(lambda: mcdo.census(encoder, images, rare, store=tmp_path, progress=False), most)
    again = counted.of(lambda: mcdo.census(encoder, images, rare, store=tmp_path, progress=False))
    assert again == whole
    assert counted.calls == 2 * 256 // 16 - most
