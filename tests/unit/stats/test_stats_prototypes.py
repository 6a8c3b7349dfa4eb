from __future__ import annotations

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.stats import above_chance
from mcdo.stats.prototypes import NEIGHBOURS, TEMPERATURE, _halves, class_heads, why_no_prototypes

C, EACH, D = 4, 20, 12


def made(spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features around a direction of each class, labels, and origins of two images each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(C, D))
    labels = np.repeat(np.arange(C), EACH)
    features = centres[labels] + spread * rng.normal(size=(C * EACH, D))
    return features * rng.uniform(1, 9, (C * EACH, 1)), labels, [f"o{i // 2}" for i in range(C * EACH)]


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_halves_share_no_origin_and_both_hold_every_class() -> None:
    _, labels, origins = made(1.0)
    units = np.unique(origins, return_inverse=True)[1]
    for seed in range(5):
        second = _halves(labels, units, seed)
        assert not {*units[second]} & {*units[~second]}
        assert {*labels[second]} == {*labels[~second]} == set(range(C))


def test_logits_are_scaled_cosines_with_the_mean_of_the_other_half() -> None:
    features, labels, origins = made(1.0)
    heads = class_heads(features, labels, origins, seed=3)
    second = _halves(labels, np.unique(origins, return_inverse=True)[1], 3)
    for part in (second, ~second):
        other = unit(features[~part])
        means = unit(np.stack([other[labels[~part] == c].mean(axis=0) for c in range(C)]))
        cosines = unit(features[part]) @ means.T
        scale = heads.prototypes[part] / cosines
        assert np.allclose(scale, scale[0, 0])
        assert 1 <= scale[0, 0] <= 1000


def test_the_scale_is_that_of_the_largest_likelihood_with_each_origin_left_out() -> None:
    """By a grid, and by means that are made anew for every origin."""
    features, labels, origins = made(1.5)
    origins_ = np.array(origins)
    second = _halves(labels, np.unique(origins, return_inverse=True)[1], 0)
    held, of, whose = unit(features[~second]), labels[~second], origins_[~second]
    rows = []
    for i in range(len(held)):
        means = []
        for c in range(C):
            keep = (of == c) & ((whose != whose[i]) | (of[i] != c))
            means.append(unit(held[keep].sum(axis=0)))
        rows.append(np.stack(means) @ held[i])
    cosines = np.array(rows)
    grid = np.geomspace(1, 1000, 2000)
    losses = [-scipy.special.log_softmax(s * cosines, axis=1)[np.arange(len(of)), of].mean() for s in grid]
    heads = class_heads(features, labels, origins, seed=0)
    ours = unit(np.stack([held[of == c].mean(axis=0) for c in range(C)]))
    scale = (heads.prototypes[second] / (unit(features[second]) @ ours.T))[0, 0]
    assert scale == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)


def votes(features: np.ndarray, labels: np.ndarray, held: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Shares by scikit-learn, and one neighbour more of no class."""
    from sklearn.neighbors import KNeighborsClassifier

    theirs = KNeighborsClassifier(NEIGHBOURS, metric="cosine", weights=lambda d: np.exp((1 - d) / TEMPERATURE))
    shares = theirs.fit(features[held], labels[held]).predict_proba(features[read])
    return np.asarray((NEIGHBOURS * shares + 1 / len(theirs.classes_)) / (NEIGHBOURS + 1))


def test_neighbours_vote_as_scikit_learn_s_do() -> None:
    features, labels, origins = made(2.0)
    heads = class_heads(features, labels, origins, seed=1)
    second = _halves(labels, np.unique(origins, return_inverse=True)[1], 1)
    assert np.allclose(
        scipy.special.softmax(heads.neighbours[second], axis=1), votes(features, labels, ~second, second)
    )


def test_no_image_is_read_by_itself() -> None:
    """Features that hold nothing of the classes give chance, and not the accuracy of a memory."""
    labels, origins = np.repeat(np.arange(C), 100), [f"o{i // 2}" for i in range(100 * C)]
    right = []
    for seed in range(20):
        features = np.repeat(np.random.default_rng(seed).normal(size=(50 * C, D)), 2, axis=0)  # the two of an origin
        heads = class_heads(features, labels, origins, seed=seed)
        right.append([(each.argmax(axis=1) == labels).mean() for each in (heads.prototypes, heads.neighbours)])
    error = np.std(right, axis=0, ddof=1) / np.sqrt(len(right))
    assert (np.abs(np.mean(right, axis=0) - 1 / C) < 4 * error).all()
    assert (error < 0.02).all()


def test_degraded_images_are_read_by_clean_ones() -> None:
    features, labels, origins = made(0.5)
    noisy = np.random.default_rng(1).normal(size=features.shape)
    clean = class_heads(features, labels, origins)
    read = class_heads(noisy, labels, origins, reference=features)
    ratio = read.prototypes[:, 0] / clean.prototypes[:, 0]
    own = (unit(noisy) * unit(features)).sum(axis=1)
    assert not np.allclose(ratio, own)
    assert (clean.prototypes.argmax(axis=1) == labels).mean() > 0.95 > (read.prototypes.argmax(axis=1) == labels).mean()


def test_classes_of_one_original_have_no_prototype_and_take_part_in_none() -> None:
    features, labels, origins = made(1.0)
    features = np.vstack([features, np.random.default_rng(2).normal(size=(7, D))])
    labels = np.concatenate([labels, [-1, C, C, C + 1, C + 1, C + 1, C + 1]])
    origins += ["alone", "twice", "twice", "a", "a", "b", "b"]  # the last class has one original in each half
    for seed in range(4):
        heads = class_heads(features, labels, origins, seed=seed)
        assert heads.classes.tolist() == [*range(C), C + 1]
        _, inverse = np.unique(labels, return_inverse=True)
        second = _halves(inverse, np.unique(origins, return_inverse=True)[1], seed)
        for part in (second, ~second):
            held, of = unit(features[~part]), labels[~part]
            means = unit(np.stack([held[of == c].mean(axis=0) for c in heads.classes]))
            scale = heads.prototypes[part] / (unit(features[part]) @ means.T)
            assert np.allclose(scale, scale[0, 0])
            rest = ~part & np.isin(labels, heads.classes)
            assert np.allclose(np.exp(heads.neighbours[part]), votes(features, labels, rest, part))


@pytest.mark.parametrize(
    ("labels", "origins", "said"),
    [
        (None, ["a", "b"], "the images have no labels"),
        ([1, 1, 1], ["a", "b", "c"], "the images are of one class"),
        ([0, 0, 1], ["a", "b", "c"], "1 of 2 classes have one original"),
        ([0, 0, 1, 1], ["a", "b", "c", "c"], "1 of 2 classes have one original"),
        ([0, 0, 1, 1], ["a", "b", "c", "d"], "no class has 4 originals"),
        ([0, 0, 0, 0, 1, 1], list("abcdef"), ""),
        ([0] * 10 + [1] * 9 + [2], [str(i) for i in range(20)], ""),
        ([0] * 10 + [1] * 8 + [2], [str(i) for i in range(19)], "1 of 3 classes have one original"),
    ],
)
def test_images_that_make_no_prototypes_say_why(labels: list[int] | None, origins: list[str], said: str) -> None:
    assert why_no_prototypes(labels, origins).startswith(said)
    assert bool(why_no_prototypes(labels, origins)) == bool(said)
    if said and labels is not None:
        with pytest.raises(McdoError, match=said):
            class_heads(np.eye(len(labels)), labels, origins)


def test_a_head_is_compared_with_the_largest_class_in_pairs() -> None:
    labels = np.array([0] * 60 + [1] * 40)
    constant = above_chance(labels == 0, labels)
    assert (constant.value, constant.low > 0) == (0.0, False)
    rng = np.random.default_rng(0)
    guessed = above_chance(rng.integers(0, 2, 100) == labels, labels)
    assert guessed.low <= 0
    good = above_chance(rng.random(100) < 0.9, labels)
    assert good.value == pytest.approx(0.3, abs=0.1)
    assert good.low > 0
