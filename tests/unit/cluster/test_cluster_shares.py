from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from cluster_child import work
from hypothesis import given
from hypothesis import strategies as some

from mcdo.cluster.shares import Share, divided
from mcdo.encoders import load_encoder
from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import Images, Passes, Session
from mcdo.perturbation import Dropout


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "a/b", "1/0", "-1/3", "1/3/5", "1/99999999"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(McdoError, match="write it as i/n, such as 1/6"):
        Share.parse(text)


def test_a_share_is_read_and_said() -> None:
    assert str(Share.parse("2/7")) == "2/7"


class Counted(Session):
    """A session that loads nothing: it says how many images there are, in blocks of 10."""

    def __init__(self) -> None:
        return


class Cut(Passes):
    def divisible(self, session: Session) -> tuple[int, int]:
        assert isinstance(self.shown, Images)
        return self.shown.n or 0, 10

    def expected_passes(self, session: Session) -> int:
        assert isinstance(self.shown, Images)
        return (self.shown.n or 0) * self.config.trials * self.config.passes[-1]


def passes(model: str, n: int, trials: int) -> Cut:
    return Cut(model, Images(n), MonteCarloConfig(Dropout(), (4,), trials))


@given(
    some.lists(
        some.tuples(some.sampled_from("ab"), some.integers(1, 130), some.integers(1, 5)), min_size=1, max_size=6
    ),
    some.integers(1, 9),
)
def test_shares_are_whole_blocks_and_even_in_each_model(sizes: list[tuple[str, int, int]], shares: int) -> None:
    requests = list(dict.fromkeys(passes(*size) for size in sizes))
    owners = divided(Counted(), requests, shares)
    assert owners.keys() == set(requests)
    work: dict[str, Counter[int]] = {model: Counter(dict.fromkeys(range(shares), 0)) for model in "ab"}
    largest = {"a": 0, "b": 0}
    for request in requests:
        by, each = owners[request], request.config.trials * 4
        assert len(by) == request.divisible(Counted())[0]
        assert set(by.tolist()) <= set(range(shares))
        assert all(len(set(by[start : start + 10].tolist())) == 1 for start in range(0, len(by), 10)), "a block is cut"
        assert (np.diff(by) >= 0).all(), "a share is one run of images"
        for share in by[::10].tolist():
            work[request.model][share] += min(10, len(by)) * each
        largest[request.model] = max(largest[request.model], min(10, len(by)) * each)
    for model, found in work.items():
        assert max(found.values()) - min(found.values()) <= largest[model], "a block more or less"


def test_it_follows_from_the_plan_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.harness.session.load_encoder", cache(load_encoder))
    plans = [work(tmp_path / name) for name in "ab"]
    for each in plans:
        each.first()
    plans[0].measure()
    one, other = (each.divided(5) for each in plans)
    assert list(one) == list(other)
    assert all(np.array_equal(one[request], other[request]) for request in one)
