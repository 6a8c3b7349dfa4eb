from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from looked_at import looked_at
from tiny_tower import tiny_encoder

import mcdo.estimators.resumption
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.estimators import first_order, monte_carlo
from mcdo.estimators.jacobian import SiteGraph
from mcdo.estimators.measurement import Measurement
from mcdo.estimators.pass_covariance import pass_covariance
from mcdo.estimators.progress import Silent
from mcdo.estimators.resumption import COST, MOST_COST, MOST_S, SAVE_EVERY_S, Keeper, interrupted_by_signals
from mcdo.images import load_images
from mcdo.perturbation import Dropout, PerturbedTower
from mcdo.perturbation.intercept import LinearMaps
from mcdo.store import Arrays, DamagedResultWarning, Store, UnsavedResultWarning
from mcdo.threads import one_thread

KEY = "ab" * 32


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


class Parts:
    """Parts in memory; a save takes ``cost`` seconds, and fails while ``full``."""

    def __init__(self, clock: Clock, cost: float = 0.0) -> None:
        self.clock, self.cost, self.full, self.tries = clock, cost, False, 0
        self.saved: list[list[int]] = []

    def add(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        self.tries += 1
        self.clock.now += self.cost
        if self.full:
            raise McdoError("the store is full")
        assert arrays["x"].tolist() == (2 * arrays["columns"]).tolist()
        self.saved.append(arrays["columns"].tolist())


def keeper_of(parts: Any) -> Keeper:
    return Keeper(parts, lambda columns: {"x": 2 * columns}, {})


def test_blocks_are_saved_once_each_and_not_more_often_than_the_interval(clock: Clock) -> None:
    parts = Parts(clock)
    keeper = keeper_of(parts)
    for start in (4, 0, 2, 6):
        keeper.add(start, start + 2)
        clock.now += SAVE_EVERY_S / 2
    assert parts.saved == [[0, 1, 2, 3, 4, 5]]
    keeper.save()
    keeper.save()
    assert parts.saved == [[0, 1, 2, 3, 4, 5], [6, 7]]


def test_blocks_that_take_longer_than_the_interval_are_saved_each(clock: Clock) -> None:
    parts = Parts(clock)
    keeper = keeper_of(parts)
    for start in range(3):
        clock.now += 10 * SAVE_EVERY_S
        keeper.add(start, start + 1)
    assert parts.saved == [[0], [1], [2]]


@pytest.mark.parametrize(("cost", "share", "apart"), [(0.04, COST, 4.0), (0.3, 0.06, MOST_S), (3.0, MOST_COST, 30.0)])
def test_saving_takes_no_more_than_its_share_of_the_time(cost: float, share: float, apart: float, clock: Clock) -> None:
    """And saves are no further apart than MOST_S, unless a save takes long."""
    parts = Parts(clock, cost=cost)
    keeper = keeper_of(parts)
    began = clock.now
    for start in range(5000):
        clock.now += 1
        keeper.add(start, start + 1)
    assert parts.tries * parts.cost <= 1.01 * share * (clock.now - began) + parts.cost
    assert parts.tries >= 5000 / (apart + 1) - 1


def test_what_cannot_be_saved_is_warned_of_once_and_tried_again(clock: Clock) -> None:
    parts = Parts(clock)
    keeper = keeper_of(parts)
    parts.full = True
    clock.now += 2 * SAVE_EVERY_S
    with pytest.warns(UnsavedResultWarning, match="parts of the run are not kept: the store is full"):
        keeper.add(0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in (1, 2, 3):
            clock.now += 2 * SAVE_EVERY_S
            keeper.add(start, start + 1)
    assert (parts.tries, parts.saved) == (4, [])
    parts.full = False
    keeper.save()
    assert parts.saved == [[0, 1, 2, 3]]


def test_without_a_store_nothing_is_read_to_be_kept(clock: Clock) -> None:
    keeper = Keeper(None, lambda columns: pytest.fail("it was read"), {})
    clock.now += 10 * SAVE_EVERY_S
    keeper.add(0, 2)
    keeper.save()


# ---- a run that ends early, in this process


class Interrupted(BaseException):
    pass


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The images of every block that is begun; a number put in front lets that many finish and then interrupts."""
    images, seen = Measurement._images, list[Any]()

    def block(self: Measurement, tower: Any, start: int, stop: int) -> None:
        if seen and isinstance(seen[0], int):
            if seen[0] == 0:
                raise Interrupted
            seen[0] -= 1
        seen.append((start, stop))
        images(self, tower, start, stop)

    monkeypatch.setattr(Measurement, "_images", block)
    monkeypatch.setattr(mcdo.estimators.resumption, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(mcdo.estimators.resumption, "COST", np.inf)
    with one_thread():
        yield seen


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return looked_at(tiny_encoder())


def measure(encoder: Encoder, store: Path | None, **options: Any) -> Any:
    protocol: dict[str, Any] = {"passes": (4, 16), "trials": 2, "batch_size": 32, "progress": False}
    return monte_carlo(encoder, load_images("digits", n=10), Dropout(0.1), store=store, **protocol | options)


@pytest.fixture(scope="module")
def whole(encoder: Encoder) -> Any:
    """Measured in one go, without a store."""
    with one_thread():
        return measure(encoder, None)


def same(one: Any, other: Any) -> bool:
    a, b = one.arrays(), other.arrays()
    return a.keys() == b.keys() and all(np.array_equal(a[k].view(np.uint8), b[k].view(np.uint8)) for k in a)


def stored(root: Path) -> list[str]:
    return sorted(path.suffix for path in root.rglob("*.*"))


@pytest.mark.parametrize("threads", [1, 4])
def test_an_interrupted_run_goes_on_where_it_was_on_any_number_of_threads(
    threads: int, encoder: Encoder, whole: Any, blocks: list[Any], tmp_path: Path
) -> None:
    blocks[:] = [3]
    with pytest.raises(Interrupted):
        measure(encoder, tmp_path)
    done = blocks[1:]
    assert stored(tmp_path) == [".parts"] + [".safetensors"] * 3
    blocks.clear()
    torch.set_num_threads(threads)
    run = measure(encoder, tmp_path)
    assert sorted(done + blocks) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert same(run, whole)
    assert stored(tmp_path) == [".safetensors"]
    blocks.clear()
    assert same(run, measure(encoder, tmp_path))
    assert blocks == []


def test_another_batch_size_uses_the_parts_that_fill_its_blocks(
    encoder: Encoder, whole: Any, blocks: list[Any], tmp_path: Path
) -> None:
    blocks[:] = [3]
    with pytest.raises(Interrupted):
        measure(encoder, tmp_path)
    blocks.clear()
    run = measure(encoder, tmp_path, batch_size=64)
    assert blocks[:2] == [(4, 8), (8, 10)]
    np.testing.assert_allclose(run.scores("trace_pre"), whole.scores("trace_pre"), rtol=1e-5)


def test_parts_of_another_protocol_are_not_taken(encoder: Encoder, blocks: list[Any], tmp_path: Path) -> None:
    blocks[:] = [3]
    with pytest.raises(Interrupted):
        measure(encoder, tmp_path)
    blocks.clear()
    assert same(measure(encoder, tmp_path, seed=1), measure(encoder, None, seed=1))
    assert len(blocks) == 10


def test_a_damaged_part_is_set_aside_and_measured_again(
    encoder: Encoder, whole: Any, blocks: list[Any], tmp_path: Path
) -> None:
    blocks[:] = [3]
    with pytest.raises(Interrupted):
        measure(encoder, tmp_path)
    part = min(tmp_path.rglob("*.safetensors"))
    part.write_bytes(part.read_bytes()[:-3])
    blocks.clear()
    with pytest.warns(DamagedResultWarning, match=f"{part.name} is damaged"):
        run = measure(encoder, tmp_path)
    assert len(blocks) == 3
    assert same(run, whole)
    assert stored(tmp_path) == [".safetensors"]


def test_all_parts_without_the_whole_are_put_together(
    encoder: Encoder, blocks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", failing)
        with pytest.warns(UnsavedResultWarning, match="the run is not kept"):
            run = measure(encoder, tmp_path)
    blocks.clear()
    assert same(run, measure(encoder, tmp_path))
    assert blocks == []
    assert stored(tmp_path) == [".safetensors"]


def failing(*_: Any) -> None:
    raise McdoError("the store is full")


def test_a_resumed_run_says_so_and_counts_what_is_left(encoder: Encoder, blocks: list[Any], tmp_path: Path) -> None:
    totals = []

    class Counting(Silent):
        def __init__(self, total: int, what: str, unit: str) -> None:
            super().__init__()
            totals.append((total, what))

    blocks[:] = [3]
    with pytest.raises(Interrupted):
        measure(encoder, tmp_path, progress=Counting)
    blocks.clear()
    measure(encoder, tmp_path, progress=Counting)
    assert totals == [(320, "tiny on digits"), (128, "tiny on digits (resumed, 4 images left)")]


# ---- a block that ends early


class Batches:
    """Counts the batches of passes, and interrupts before number ``last``."""

    def __init__(self, last: int = -1) -> None:
        self.last, self.begun = last, 0

    def __call__(self, tower: Any, *arguments: Any, **options: Any) -> Any:
        if self.begun == self.last:
            raise Interrupted
        self.begun += 1
        return PASS(tower, *arguments, **options)

    @staticmethod
    def of(tower: Any, counting: Batches, *arguments: Any, **options: Any) -> Any:
        return counting(tower, *arguments, **options)


PASS = PerturbedTower.__call__
DIRECTIONS = np.eye(3, 8)


def covariance(encoder: Encoder, store: Path | None) -> dict[str, Any]:
    found = pass_covariance(
        encoder, load_images("digits", n=6), Dropout(0.1), DIRECTIONS, 32, 2, batch_size=32, store=store, progress=False
    )
    return dict(vars(found))


def scores(encoder: Encoder, store: Path | None) -> dict[str, Any]:
    return dict(measure(encoder, store, passes=(4, 20, 36), geometry=(4, 20)).arrays())


@pytest.mark.parametrize(("method", "batches"), [(scores, 30), (covariance, 12)])
def test_passes_of_a_block_that_was_interrupted_are_not_carried_out_again(
    method: Callable[..., dict[str, Any]], batches: int, encoder: Encoder, blocks: list[Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    expected, spent = method(encoder, None), 0
    for last in (1, 3, 2, 1, 1, 1, -1):
        counting = Batches(last)
        monkeypatch.setattr(
            PerturbedTower, "__call__", lambda tower, *a, counting=counting, **o: counting(tower, *a, **o)
        )
        with pytest.raises(Interrupted) if last > 0 else contextlib.nullcontext():
            found = method(encoder, tmp_path)
        spent += counting.begun
    assert spent == batches
    assert all(np.array_equal(found[name], value, equal_nan=True) for name, value in expected.items())
    assert stored(tmp_path) == [".safetensors"]


def test_products_of_a_block_that_was_interrupted_are_not_carried_out_again(
    encoder: Encoder, blocks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(store: Path | None) -> Any:
        images = load_images("digits", n=6)
        return first_order(encoder, images, Dropout(0.1), 4, 2, batch_size=3, store=store, progress=False).arrays()

    terms, expected, spent = SiteGraph.terms, run(None), list[int]()
    for last in (2, 3, 1, 4, 1, -1):
        begun: list[int] = []

        def counted(self: SiteGraph, *arguments: Any, begun: list[int] = begun, last: int = last) -> Any:
            if len(begun) == last:
                raise Interrupted
            begun.append(1)
            return terms(self, *arguments)

        monkeypatch.setattr(SiteGraph, "terms", counted)
        with pytest.raises(Interrupted) if last > 0 else contextlib.nullcontext():
            found = run(tmp_path)
        spent += begun
    assert len(spent) == 2 * 7
    assert all(np.array_equal(found[name], value) for name, value in expected.items())


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_within_one_map_and_keeps_the_passes(
    encoder: Encoder, whole: Any, blocks: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not within a batch: the thread that carries it out is told in the middle."""
    carried, maps = LinearMaps._map, list[int]()

    def slow(self: LinearMaps, *arguments: Any) -> Any:
        if not maps and list(tmp_path.rglob("partial-*.safetensors")):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            time.sleep(0.5)
        maps.extend([1] * (len(maps) > 0 or bool(list(tmp_path.rglob("partial-*.safetensors")))))
        return carried(self, *arguments)

    monkeypatch.setattr(LinearMaps, "_map", slow)
    torch.set_num_threads(1)
    with pytest.raises(KeyboardInterrupt):
        measure(encoder, tmp_path)
    assert 0 < len(maps) < 5
    monkeypatch.undo()
    assert any(path.name.startswith("partial-") for path in tmp_path.rglob("*.safetensors"))
    assert same(measure(encoder, tmp_path), whole)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_process_interrupt_it_inside_and_end_it_outside(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_DFL)
        with pytest.raises(KeyboardInterrupt, match=name), interrupted_by_signals():
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does
        with interrupted_by_signals():
            os.kill(os.getpid(), number)
    finally:
        signal.signal(number, before)
