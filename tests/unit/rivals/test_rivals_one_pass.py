from __future__ import annotations

import numpy as np
import pytest
import scipy

from mcdo.errors import McdoError
from mcdo.rivals import RIVALS, Calibration, Rival, Seen, rival
from mcdo.rivals.table import built_in

RIVALS_OF_ONE_PASS = {each.name: each for each in built_in()}


def seen(loss: str = "softmax", labels: bool = True) -> Seen:
    rng = np.random.default_rng(0)
    features, held = rng.normal(size=(6, 3)), rng.normal(size=(40, 3))
    logits = rng.normal(size=(6, 4)) * 5
    named = np.repeat(np.arange(4), 10) if labels else None
    return Seen(features, logits, logits / 10, loss, Calibration(held, named))  # type: ignore[arg-type]


def test_scores_of_the_head_by_hand() -> None:
    logits = np.array([[2.0, 0.0], [0.0, 0.0]])
    of = Seen(np.array([[3.0, 4], [0, 1]]), logits, logits / 10)
    e = np.exp(2)
    p = e / (1 + e)
    assert RIVALS_OF_ONE_PASS["msp"](of) == pytest.approx([-p, -0.5])
    assert RIVALS_OF_ONE_PASS["energy"](of) == pytest.approx([-np.log(e + 1), -np.log(2)])
    assert RIVALS_OF_ONE_PASS["mcm"](of) == pytest.approx([-np.exp(0.2) / (1 + np.exp(0.2)), -0.5])
    assert RIVALS_OF_ONE_PASS["max_cosine"](of) == pytest.approx([-0.2, 0])
    assert RIVALS_OF_ONE_PASS["entropy"](of) == pytest.approx([scipy.stats.entropy([p, 1 - p]), np.log(2)])
    assert RIVALS_OF_ONE_PASS["margin"](of) == pytest.approx([-2, 0])
    assert RIVALS_OF_ONE_PASS["feature_norm"](of) == pytest.approx([-5, -1])


def test_distances_against_their_definitions() -> None:
    from sklearn.covariance import LedoitWolf

    of = seen()
    assert of.calibration is not None
    distances = np.linalg.norm(of.unit[:, None] - of.calibration.unit[None], axis=2)
    assert RIVALS_OF_ONE_PASS["knn_distance"](of) == pytest.approx(np.sort(distances, axis=1)[:, 9])
    means = of.calibration.unit.reshape(4, 10, 3).mean(axis=1)
    within = (of.calibration.unit.reshape(4, 10, 3) - means[:, None]).reshape(-1, 3)
    precision = LedoitWolf().fit(within).precision_
    expected = [min((x - m) @ precision @ (x - m) for m in means) for x in of.unit]
    assert RIVALS_OF_ONE_PASS["mahalanobis"](of) == pytest.approx(expected)
    cosines = of.unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    assert RIVALS_OF_ONE_PASS["class_prototypes"](of) == pytest.approx(1 - cosines.max(axis=1))


@pytest.mark.parametrize("name", sorted(RIVALS_OF_ONE_PASS))
def test_images_in_another_order_have_the_same_scores(name: str) -> None:
    of, order = seen("sigmoid"), np.array([3, 1, 5, 0, 2, 4])
    assert of.logits is not None
    assert of.cosines is not None
    turned = Seen(of.features[order], of.logits[order], of.cosines[order], of.loss, of.calibration)
    np.testing.assert_allclose(RIVALS_OF_ONE_PASS[name](turned), RIVALS_OF_ONE_PASS[name](of)[order])


@pytest.mark.parametrize(
    ("name", "of", "reason"),
    [
        ("energy", Seen(np.ones((2, 3))), "class prompts and a text tower"),
        ("sigmoid_entropy", seen("softmax"), "sigmoid loss"),
        ("knn_distance", Seen(np.ones((2, 3))), "images to fit on"),
        ("mahalanobis", seen(labels=False), "labelled images"),
    ],
)
def test_what_is_missing_is_said(name: str, of: Seen, reason: str) -> None:
    assert reason in RIVALS_OF_ONE_PASS[name].missing(of)
    with pytest.raises(McdoError, match=f"{name} cannot be computed"):
        RIVALS_OF_ONE_PASS[name](of)


def test_a_rival_of_ones_own_is_one_function() -> None:
    @rival("features")
    def second_feature(seen: Seen) -> np.ndarray:
        """The second feature."""
        return np.asarray(seen.features[:, 1])

    assert isinstance(RIVALS.find("second_feature"), Rival)
    assert second_feature(seen()).shape == (6,)
    with pytest.raises(McdoError, match="docstring"):
        rival("features")(lambda seen: seen.features[:, 0])
    wrong = Rival("wrong", "wrong", "features", lambda seen: np.array([np.nan]))
    with pytest.raises(McdoError, match=r"finite \[N\] is wanted"):
        wrong(seen())
    del RIVALS._entries["second_feature"]
