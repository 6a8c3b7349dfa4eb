from __future__ import annotations

import time
from collections.abc import Iterator
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcdo.errors import McdoError
from mcdo.images import threads
from mcdo.images.sampling import second_half, spread_order
from mcdo.images.threads import for_each

labellings = st.lists(st.integers(0, 5), min_size=1, max_size=40)


@settings(deadline=None)
@given(labellings, st.integers(0, 2**32))
def test_the_order_is_a_permutation_that_follows_the_seed(labels: list[int], seed: int) -> None:
    order = spread_order(np.array(labels), seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    assert order.tolist() == spread_order(np.array(labels), seed).tolist()


@settings(deadline=None)
@given(labellings, st.integers(0, 2**32), st.data())
def test_classes_with_images_left_differ_by_at_most_one(labels: list[int], seed: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(labels)))
    available = np.bincount(labels)
    taken = np.bincount(np.array(labels)[spread_order(np.array(labels), seed)[:n]], minlength=len(available))
    open_classes = taken[taken < available]
    assert (taken <= available).all()
    assert open_classes.size == 0 or taken.max() - open_classes.min() <= 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), min_size=40, max_size=60), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_halves_cut_no_origin_and_follow_origins_not_their_order(drawn: list[int], seed: int, rng: Random) -> None:
    origins = [f"photo {i}" for i in [*range(10), *drawn]]
    second = second_half(origins, seed)
    parts = [{o for o, take in zip(origins, second, strict=True) if take == which} for which in (False, True)]
    assert not parts[0] & parts[1]
    assert 0 <= len(parts[1]) - len(parts[0]) <= 1
    shuffled = rng.sample(origins, len(origins))
    assert {o for o, take in zip(shuffled, second_half(shuffled, seed), strict=True) if take} == parts[1]


def test_halves_follow_the_seed_and_few_origins_are_refused() -> None:
    origins = [f"photo {i}" for i in range(40)]
    assert (second_half(origins, 1) != second_half(origins, 2)).any()
    with pytest.raises(McdoError, match="9 origins cannot be halved"):
        second_half(origins[:9] * 5, 1)


def test_few_images_of_many_classes_are_not_the_first_classes() -> None:
    labels = np.repeat(np.arange(1000), 5)
    chosen = labels[spread_order(labels, 42)[:100]]
    assert len(set(chosen.tolist())) == 100
    assert np.median(chosen) == pytest.approx(500, abs=150)  # six standard errors of the median


def test_a_class_gives_all_its_origins_before_a_second_image_of_one() -> None:
    labels = np.repeat(np.arange(3), 60)
    origins = [f"photo {i // 3}" for i in range(180)]
    for n in (30, 60, 90, 121):
        taken = [origins[i] for i in spread_order(labels, 42, origins)[:n]]
        assert len(set(taken)) == min(n, 60)
        assert max(map(taken.count, taken)) == -(-n // 60)
    single = [f"photo {i}" for i in range(180)]
    assert spread_order(labels, 42, single).tolist() == spread_order(labels, 42).tolist()


def test_seeds_choose_different_images() -> None:
    labels = np.repeat(np.arange(3), 50)
    assert spread_order(labels, 1)[:30].tolist() != spread_order(labels, 2)[:30].tolist()


def test_results_keep_their_order_and_the_first_error_stops_the_rest() -> None:
    assert for_each(lambda i: i * i, 50, "squaring", workers=4) == [i * i for i in range(50)]
    done: list[int] = []

    def fail_at_three(i: int) -> None:
        if i == 3:
            raise ValueError("three")
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(ValueError, match="three"):
        for_each(fail_at_three, 2000, "failing", workers=1)
    assert len(done) < 1000


def test_an_interrupt_that_comes_between_two_results_stops_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(results: Iterator[None], **_: object) -> Iterator[None]:
        yield next(results)
        raise KeyboardInterrupt  # not in the pool's own code, which would cancel what is left

    monkeypatch.setattr(threads, "tqdm", interrupted)
    done: list[int] = []

    def slow(i: int) -> None:
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        for_each(slow, 2000, "slow", workers=1)
    assert len(done) < 1000
