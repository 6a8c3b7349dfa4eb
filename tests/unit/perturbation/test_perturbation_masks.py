"""The masks against the Bernoulli distribution, and against the law that their key alone decides them.

Each test of the distribution raises a false alarm in one of 10 000 choices of the seed; the seeds are fixed.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mcdo.perturbation import PASS_BLOCK, KeyedMasks, MaskedSite, image_keys
from mcdo.perturbation.masks import _GAMMA, _mix, _mix_, _signed, zero_units_

FALSE_ALARM = 1e-4
PUBLISHED = (0.0005, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1)
PROBABILITIES = (*PUBLISHED, 0.3, 0.5, 0.9)
OF_ALL_SIZES = (0.0005, 0.01, 0.1, 0.5, 0.9)
REFERENCE_SEED = 1234567
REFERENCE = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)
law = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def ids(n: int, prefix: str = "image") -> list[str]:
    return [f"{prefix} {i}" for i in range(n)]


def dropped(
    names: Sequence[str],
    p: float,
    units: int,
    *,
    seed: int = 1,
    trial: int = 0,
    block: int = 0,
    site: str = "fc1",
    first: int = 0,
    last: int = PASS_BLOCK,
) -> NDArray[np.bool_]:
    """``[images, passes, units]``, by the CPU's kernel."""
    y = torch.ones(len(names), last - first, units)
    KeyedMasks([MaskedSite(site, units, p)], seed).zero_(y, 0, trial, block, image_keys(names), first, last)
    mask: NDArray[np.bool_] = y.numpy() == 0
    return mask


def drawn(positions: Tensor, width: int) -> list[list[int]]:
    """Positions inside the wanted passes, for each image."""
    return [[int(at) for at in row if 0 <= at < width] for row in positions.tolist()]


def chi_square(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """p-value, with neighbouring bins merged until each expects at least ten."""
    edges, total = [0], 0.0
    for i, value in enumerate(expected):
        total += value
        if total >= 10:
            edges.append(i + 1)
            total = 0.0
    edges[-1] = len(expected)
    sums = [(observed[a:b].sum(), expected[a:b].sum()) for a, b in itertools.pairwise(edges)]
    seen, hoped = np.array(sums).T
    return float(scipy.stats.chi2.sf(((seen - hoped) ** 2 / hoped).sum(), len(sums) - 1))


# ---- the distribution


@pytest.mark.parametrize("p", OF_ALL_SIZES)
def test_number_of_dropped_units_of_a_pass_is_binomial(p: float) -> None:
    units = 400
    counts = np.concatenate([dropped(ids(400), p, units, block=b).sum(2).ravel() for b in range(2)])
    expected = scipy.stats.binom.pmf(np.arange(units + 1), units, p) * len(counts)
    observed = np.bincount(counts, minlength=units + 1).astype(np.float64)
    assert chi_square(observed, expected) > FALSE_ALARM


@pytest.mark.parametrize("p", OF_ALL_SIZES)
def test_every_unit_of_every_pass_is_dropped_alike(p: float) -> None:
    hits = dropped(ids(1500), p, 100).sum(0).astype(np.float64)  # [passes, units]
    for counts in (hits.sum(0), hits.sum(1), hits.ravel()):
        assert chi_square(counts, np.full(len(counts), 1500 * 1600 * p / len(counts))) > FALSE_ALARM


@pytest.mark.parametrize("p", OF_ALL_SIZES)
def test_gaps_are_geometric(p: float) -> None:
    units = max(64, math.ceil(60 / p / PASS_BLOCK))
    masks = KeyedMasks([MaskedSite("fc1", units, p)], 3)
    positions = masks.draw(0, 0, image_keys(ids(2000 if p < 0.1 else 500)))[0].numpy()
    # of every stream the same number of gaps, wherever they end: dropping the last ones would prefer short gaps
    gaps = np.diff(positions[:, :40], prepend=-1).astype(np.int64).ravel()
    bins = np.unique(scipy.stats.geom.ppf(np.linspace(0.02, 0.98, 40), p))
    observed = np.histogram(gaps, np.concatenate([[0], bins, [np.inf]]) + 0.5)[0].astype(np.float64)
    expected = np.diff(scipy.stats.geom.cdf(np.concatenate([[0], bins, [np.inf]]), p)) * len(gaps)
    assert chi_square(observed, expected) > FALSE_ALARM


@pytest.mark.parametrize("p", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("axis", ["pass", "image", "site", "trial", "seed", "block", "neighbouring unit"])
def test_two_masks_overlap_as_independent_ones_do(axis: str, p: float) -> None:
    names, units = ids(400), 200
    one = dropped(names, p, units)
    others: dict[str, Callable[[], NDArray[np.bool_]]] = {
        "pass": lambda: np.roll(one, 1, axis=1),
        "image": lambda: np.roll(one, 1, axis=0),
        "site": lambda: dropped(names, p, units, site="fc2"),
        "trial": lambda: dropped(names, p, units, trial=1),
        "seed": lambda: dropped(names, p, units, seed=2),
        "block": lambda: dropped(names, p, units, block=1),
        "neighbouring unit": lambda: np.roll(one.reshape(len(names), -1), 1, axis=1).reshape(one.shape),
    }
    other = others[axis]()
    n = one.size
    # given how many each drops, the overlap is hypergeometric
    expected = one.sum() * other.sum() / n
    deviation = math.sqrt(expected * (1 - one.mean()) * (1 - other.mean()))
    z = ((one & other).sum() - expected) / deviation
    assert 2 * scipy.stats.norm.sf(abs(z)) > FALSE_ALARM


def test_pairs_of_images_overlap_as_independent_ones_do() -> None:
    masks = dropped(ids(120), 0.05, 250).reshape(120, -1).astype(np.float64)
    overlaps = (masks @ masks.T)[np.triu_indices(120, 1)]
    observed = np.bincount(overlaps.astype(np.int64), minlength=60).astype(np.float64)
    expected = scipy.stats.binom.pmf(np.arange(len(observed)), 4000, 0.05**2) * len(overlaps)
    assert chi_square(observed, expected) > FALSE_ALARM


@pytest.mark.parametrize("p", [1e-12, 1e-17, 1e-300, 5e-324])
def test_a_vanishing_probability_drops_nothing(p: float) -> None:
    assert not dropped(ids(3), p, 1000).any()
    positions = KeyedMasks([MaskedSite("a", 5, p), MaskedSite("b", 5, p)], 1).draw(0, 0, image_keys(ids(3)))
    assert [drawn(each, 5 * PASS_BLOCK) for each in positions] == [[[], [], []]] * 2


def test_no_uniform_number_lies_where_rounding_could_decide_a_gap() -> None:
    """A gap is ceil(log(u) / log(q)): decided by rounding only if u is within some ulp of a power of q."""
    # log, log1p, reciprocal and product err by some 3 ulp together
    assert {p: closest(p) > 4 for p in PROBABILITIES} == {p: p != 0.5 for p in PROBABILITIES}
    assert closest(0.5) == 0  # its smallest uniform number, 2**-33, is a power of q: one draw in 2**32


def closest(p: float) -> float:
    """Over all gaps k, the least distance of a uniform number from q**k, in ulp of k."""
    with localcontext() as context:
        context.prec = 60
        q, steps = 1 - Decimal(p), Decimal(2) ** 32
        ulp = -q.ln() * Decimal(2) ** -52
        power, k, least = Decimal(1), 0, math.inf
        while power * steps > Decimal("0.25"):
            power, k = power * q, k + 1
            at = power * steps
            number = at.to_integral_value(rounding="ROUND_FLOOR") + Decimal("0.5")
            least = min(least, float(abs(at - number) / at / (k * ulp)))
        return least


# ---- the key


LETTERS = "\0 aZ/é模\U0001f600"  # a few: hypothesis takes a second to list all that UTF-8 can say
masks_of_one = st.fixed_dictionaries(
    {
        "p": st.sampled_from([0.01, 0.1, 0.5, 0.9]),
        "units": st.integers(1, 60),
        "seed": st.integers(-5, 2**64 + 5),
        "trial": st.integers(0, 1000),
        "block": st.integers(0, 1000),
        "site": st.text(LETTERS, max_size=5),
    }
)
some_ids = st.lists(st.text(LETTERS, max_size=6), min_size=1, max_size=6, unique=True)


@law
@given(masks_of_one, some_ids, st.randoms(use_true_random=False))
def test_masks_of_an_image_do_not_depend_on_the_others_nor_on_order(case: dict, names: list[str], random) -> None:  # type: ignore[type-arg,no-untyped-def]
    alone = {name: dropped([name], **case)[0] for name in names}
    chosen = random.sample(names, random.randint(1, len(names)))
    for name, mask in zip(chosen, dropped(chosen, **case), strict=True):
        np.testing.assert_array_equal(mask, alone[name])


@law
@given(masks_of_one, some_ids, st.lists(st.integers(1, PASS_BLOCK - 1), max_size=4, unique=True))
def test_masks_do_not_depend_on_how_passes_are_split(case: dict, names: list[str], cuts: list[int]) -> None:  # type: ignore[type-arg]
    edges = [0, *sorted(cuts), PASS_BLOCK]
    parts = [dropped(names, first=a, last=b, **case) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), dropped(names, **case))


@law
@given(masks_of_one, some_ids, st.data())
def test_kernel_and_device_path_zero_the_same_units(case: dict, names: list[str], data: st.DataObject) -> None:  # type: ignore[type-arg]
    first = data.draw(st.integers(0, PASS_BLOCK - 1))
    last = data.draw(st.integers(first + 1, PASS_BLOCK))
    masks = KeyedMasks([MaskedSite(case["site"], case["units"], case["p"])], case["seed"])
    masks._sigmas = data.draw(st.sampled_from([0.01, 0.5, 4.0, 10.0]))
    keys = image_keys(names)
    y = torch.randn(len(names) * (last - first), case["units"], generator=torch.Generator().manual_seed(0))
    on_device = zero_units_(y.clone(), masks.draw(case["trial"], case["block"], keys, first, last)[0])
    on_cpu = masks.zero_(y.clone(), 0, case["trial"], case["block"], keys, first, last)
    assert torch.equal(on_device.view(torch.int32), on_cpu.view(torch.int32))  # a zero is +0 on both


def test_device_path_keeps_the_units_of_streams_that_drop_nothing() -> None:
    y = torch.tensor([[-1.0, 2.0], [torch.inf, 3.0], [-4.0, 5.0]])
    positions = torch.tensor([[-1.0, 1.0], [1.0, 7.0], [2.0, 9.0]], dtype=torch.float64)
    assert zero_units_(y, positions).tolist() == [[-1, 0], [math.inf, 0], [-4, 5]]


def test_short_streams_are_continued_as_long_ones() -> None:
    sites = [MaskedSite("a", 50, 0.2), MaskedSite("b", 3, 0.9), MaskedSite("c", 20, 0.01)]
    keys = image_keys(ids(40))
    long, short = KeyedMasks(sites, 5), KeyedMasks(sites, 5)
    long._sigmas, short._sigmas = 20.0, 0.01
    pairs = zip(long.draw(2, 3, keys), short.draw(2, 3, keys), sites, strict=True)
    assert all(drawn(a, 16 * s.units) == drawn(b, 16 * s.units) for a, b, s in pairs)
    assert short._sigmas > 0.01
    assert short._laid is not None
    assert long._laid is not None
    assert len(short._laid.counters) < len(long._laid.counters)


def test_masks_of_a_site_do_not_depend_on_the_other_sites() -> None:
    one, two = MaskedSite("a", 50, 0.1), MaskedSite("b", 30, 0.2)
    keys = image_keys(ids(5))
    both = KeyedMasks([two, one], 5).draw(0, 0, keys)
    assert drawn(both[1], 800) == drawn(KeyedMasks([one], 5).draw(0, 0, keys)[0], 800)
    y = torch.ones(5 * 16, 50)
    KeyedMasks([two, one], 5).zero_(y, 1, 0, 0, keys, 0, 16)
    assert [row.nonzero()[0].tolist() for row in (y.view(5, -1).numpy() == 0)] == drawn(both[1], 800)


@pytest.mark.parametrize("change", [{"seed": 2}, {"trial": 1}, {"block": 1}, {"site": "fc2"}, {"prefix": "picture"}])
def test_every_part_of_the_key_changes_the_mask(change: dict[str, object]) -> None:
    def mask(prefix: str = "image", **key: object) -> NDArray[np.bool_]:
        return dropped(ids(4, prefix), 0.1, 100, **key)  # type: ignore[arg-type]

    assert (mask() != mask(**change)).reshape(4, -1).any(1).all()  # type: ignore[arg-type]


def test_a_kernel_never_writes_outside_the_output_it_was_given() -> None:
    masks = KeyedMasks([MaskedSite("a", 10, 0.5)], 0)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        masks.zero_(torch.ones(3, 16, 9), 0, 0, 0, image_keys(ids(3)), 0, 16)


# ---- the generator


def test_generator_is_splitmix64() -> None:
    counters = [REFERENCE_SEED + _GAMMA * (j + 1) for j in range(5)]
    assert tuple(_mix(counter) for counter in counters) == REFERENCE
    words = _mix_(torch.tensor([_signed(counter) for counter in counters]))
    assert tuple(word % 2**64 for word in words.tolist()) == REFERENCE


def finalise(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return z ^ (z >> 31)


def key_of(name: str) -> int:
    return sum(byte << (8 * i) for i, byte in enumerate(hashlib.sha256(name.encode()).digest()[:8]))


def stream(seed: int, trial: int, block: int, image: str, site: str, p: float, end: int) -> list[int]:
    """The scheme from its description, one unit at a time."""
    key = finalise(seed % 2**64)
    for part in (trial, block, key_of(site)):
        key = finalise(key ^ part)
    found: list[int] = []
    counter, at = (key_of(image) + key) % 2**64, -1
    while True:
        counter = (counter + 0x9E3779B97F4A7C15) % 2**64
        word = finalise(counter)
        for half in (word % 2**32, word >> 32):
            signed = half - 2**32 if half >= 2**31 else half
            u = (signed + 2**31 + 0.5) / 2**32
            at += math.ceil(math.log(u) / math.log1p(-p))
            if at >= end:
                return found
            found.append(at)


@pytest.mark.parametrize(
    ("seed", "trial", "block", "image", "site", "p"),
    [
        (42, 0, 0, "digits/heldout/0001", "visual.proj", 0.01),
        (-1, 3, 7, "ünicode", "a.b", 0.2),
        (2**64 - 1, 9, 31, "", "", 0.9),
        (0, 0, 0, "x", "y", 0.0005),
    ],
)
def test_streams_follow_the_description(seed: int, trial: int, block: int, image: str, site: str, p: float) -> None:
    units = 300
    expected = stream(seed, trial, block, image, site, p, PASS_BLOCK * units)
    mask = dropped([image], p, units, seed=seed, trial=trial, block=block, site=site)
    assert mask.ravel().nonzero()[0].tolist() == expected
    positions = KeyedMasks([MaskedSite(site, units, p)], seed).draw(trial, block, image_keys([image]))
    assert drawn(positions[0], PASS_BLOCK * units) == [expected]
