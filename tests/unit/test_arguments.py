from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import mcdo
from mcdo import McdoError, arguments
from mcdo.errors import McdoWarning
from mcdo.estimators import FirstOrderConfig
from mcdo.stats import mean, rank_matrix, trial_drift, trial_spearman


@pytest.mark.parametrize(
    "three", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), np.array(3), torch.tensor(3), torch.tensor(3.0)]
)
def test_natural_whole_numbers_are_accepted(three: Any) -> None:
    found = arguments.whole("trials", three)
    assert found == 3
    assert type(found) is int
    assert arguments.wholes("passes", three) == (3,)


@pytest.mark.parametrize(
    "mistake",
    [True, np.True_, "3", b"3", 2.5, math.nan, math.inf, None, [3], np.array([3]), 3 + 0j, Fraction(3), ...],
    ids=repr,
)
def test_anything_else_is_refused_by_name(mistake: Any) -> None:
    with pytest.raises(McdoError, match=r"trials = .*: it must be a whole number"):
        arguments.whole("trials", mistake)


def test_bounds_of_whole_numbers() -> None:
    assert arguments.whole("n", 1, least=1) == 1
    with pytest.raises(McdoError, match="n = 0: it must be at least 1"):
        arguments.whole("n", 0, least=1)
    assert arguments.seed(2**63 - 1) == 2**63 - 1
    for beyond in (-1, 2**63, 2**65, 1e30):
        with pytest.raises(McdoError, match="seed = "):
            arguments.seed(beyond)


@pytest.mark.parametrize(
    "several", [(4, 16), [4, 16.0], np.array([4, 16]), range(4, 17, 12), iter((4, 16)), torch.tensor([4, 16])]
)
def test_several_whole_numbers_come_in_any_sequence(several: Any) -> None:
    assert arguments.wholes("passes", several) == (4, 16)


@pytest.mark.parametrize("mistake", ["16", b"16", None, (4, "16"), (4, 2.5), (4, True), ((4,), 16)], ids=repr)
def test_several_mistakes_are_refused_by_name(mistake: Any) -> None:
    with pytest.raises(McdoError, match="passes = "):
        arguments.wholes("passes", mistake)


@pytest.mark.parametrize("natural", [0.25, np.float32(0.25), np.float64(0.25), torch.tensor(0.25), np.array(0.25)])
def test_natural_probabilities_are_accepted(natural: Any) -> None:
    kind = mcdo.Dropout(natural)
    assert kind == mcdo.Dropout(0.25)
    assert type(kind.p) is float
    assert hash(kind) == hash(mcdo.Dropout(0.25))


@pytest.mark.parametrize("mistake", ["0.1", True, math.nan, None, 1.0, -0.1, np.array([0.1])], ids=repr)
@pytest.mark.parametrize("kind", [mcdo.Dropout, mcdo.AttentionDropout, mcdo.TiedDropout])
def test_mistaken_probabilities_are_refused(kind: Callable[[Any], object], mistake: Any) -> None:
    with pytest.raises(McdoError, match=r"Dropout p = .*: it must be a number"):
        kind(mistake)


@pytest.mark.parametrize(
    ("sites", "held"),
    [("mlp", "mlp"), (["fc1", "fc2"], ("fc1", "fc2")), ({"fc2", "fc1"}, ("fc1", "fc2")), (iter(["fc1"]), ("fc1",))],
)
def test_sites_come_in_any_collection(sites: Any, held: object) -> None:
    assert mcdo.Dropout(0.01, sites).sites == held


@pytest.mark.parametrize("mistake", [(), [], "", 3, None, ("fc1", 2), ("",), b"mlp"], ids=repr)
def test_mistaken_sites_are_refused(mistake: Any) -> None:
    with pytest.raises(McdoError, match="Dropout sites are"):
        mcdo.Dropout(0.01, mistake)


@pytest.fixture(scope="module")
def encoder() -> mcdo.Encoder:
    return mcdo.load_encoder("clip_tiny")


def test_one_number_of_passes_is_a_run_of_that_many(encoder: mcdo.Encoder) -> None:
    images, dropout = mcdo.load_images("digits", n=3), mcdo.Dropout(0.01)
    natural = mcdo.monte_carlo(encoder, images, dropout, passes=4.0, trials=np.float64(2), seed=np.uint8(1))  # type: ignore[arg-type]
    plain = mcdo.monte_carlo(encoder, images, dropout, passes=(4,), trials=2, seed=1)
    assert natural.config == plain.config
    assert (natural.scores("trace_pre", np.int64(4)) == plain.scores("trace_pre")).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"passes": "16"}, "passes = '16'"),
        ({"passes": 1}, r"passes = \(1,\)"),
        ({"trials": 2.5}, "trials = 2.5"),
        ({"trials": True}, "trials = True"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": 2**64}, "seed = 18446744073709551616"),
        ({"batch_size": 1.5}, "batch_size = 1.5"),
        ({"geometry": "4"}, "geometry = '4'"),
        ({"encoder": "clip_tiny"}, "encoder is 'clip_tiny' .*mcdo.load_encoder"),
        ({"images": "digits"}, "images is 'digits' .*mcdo.load_images"),
        ({"images": np.zeros((3, 8, 8, 3))}, r"images is an array of shape \[3, 8, 8, 3\] .*mcdo.load_images"),
        ({"dropout": mcdo.Dropout(0.01, "all,-fc1")}, r"several are a list, \['all', '-fc1'\]"),
        ({"dropout": 0.01}, "dropout is 0.01 .*mcdo.Dropout"),
    ],
)
def test_monte_carlo_refuses_mistakes_by_name(encoder: mcdo.Encoder, mistake: dict[str, Any], said: str) -> None:
    given = {"encoder": encoder, "images": mcdo.load_images("digits", n=3), "dropout": mcdo.Dropout(0.01)}
    with pytest.raises(McdoError, match=said):
        mcdo.monte_carlo(**{**given, "passes": 4, "trials": 1, **mistake})


@pytest.mark.parametrize(
    ("mistake", "said"),
    [({"probes": "8"}, "probes = '8'"), ({"trials": 1.5}, "trials = 1.5"), ({"batch_size": 0}, "batch_size = 0")],
)
def test_first_order_refuses_mistakes_by_name(encoder: mcdo.Encoder, mistake: dict[str, Any], said: str) -> None:
    images = mcdo.load_images("digits", n=3)
    with pytest.raises(McdoError, match=said):
        mcdo.first_order(encoder, images, mcdo.Dropout(0.01), **mistake)
    natural = mcdo.first_order(encoder, images, mcdo.Dropout(0.01), probes=4.0, trials=1.0)  # type: ignore[arg-type]
    assert natural.config == FirstOrderConfig(mcdo.Dropout(0.01), 4, 1, 42)
    assert natural.scores("trace_pre", np.float32(0.5)).shape == (1, 3)  # type: ignore[arg-type]
    with pytest.raises(McdoError, match=r"p = '0\.5'"):
        natural.scores("trace_pre", "0.5")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: mcdo.load_images("digits", n="10"), "n = '10'"),  # type: ignore[arg-type]
        (lambda: mcdo.load_images("digits", n=2.5), "n = 2.5"),  # type: ignore[arg-type]
        (lambda: mcdo.load_images(3), "images is 3"),  # type: ignore[arg-type]
        (lambda: mcdo.load_images("digits", n=3, seed="a"), "seed = 'a'"),  # type: ignore[arg-type]
        (lambda: mcdo.load_encoder(None), "key is None"),  # type: ignore[arg-type]
        (lambda: mcdo.load_encoder("clip_tiny", weights="random", seed=2**65), "seed = "),
        (lambda: mcdo.load_encoder("clip_tiny", device=None), "unknown device 'None'"),  # type: ignore[arg-type]
        (lambda: mcdo.census(3, 3, 3), "encoder is 3"),  # type: ignore[arg-type]
        (lambda: mcdo.load_recipe("default:clip_tiny").score([]), r"images is \[\] .*mcdo.load_images"),  # type: ignore[arg-type]
        (lambda: mcdo.load_recipe("default:clip_tiny").score([], trials="2"), "trials = '2'"),  # type: ignore[arg-type]
        (lambda: mcdo.reliability(np.ma.masked_less([[1.0, 2, 3], [1, 3, 2]], 2)), "scores holds masked values"),
        (lambda: mcdo.reliability(torch.ones(2, 3, requires_grad=True)), "scores is not an array of real numbers"),
    ],
)
def test_other_public_functions_refuse_mistakes_by_name(call: Callable[[], object], said: str) -> None:
    with pytest.raises(McdoError, match=said):
        call()


@pytest.mark.parametrize(
    "statistic",
    [
        mcdo.reliability,
        trial_drift,
        mean,
        lambda scores: trial_spearman(scores, scores),
        lambda scores: rank_matrix({"a": scores, "b": scores}),
    ],
    ids=["reliability", "drift", "mean", "trial-spearman", "rank-matrix"],
)
def test_scores_that_seem_transposed_are_warned_of(statistic: Callable[[Any], object]) -> None:
    scores = np.random.default_rng(0).normal(size=(6, 21))
    with pytest.warns(McdoWarning, match=r"read as 21 trials of 6 images; transpose") as said:
        statistic(scores.T)
    assert len(said) <= 2, "once for each argument"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: model.half(), r"the weights were converted to torch.float16 \(.*precision='float16'"),
        (lambda model: model.visual.double(), "the weights were converted to torch.float64"),
        (lambda model: model.to("meta"), r"the model was moved to meta \(.*load it anew with device='meta'"),
        (lambda model: model.train(), "is in training mode"),
        (lambda model: model.visual.transformer.train(), "visual.transformer.* is in training mode"),
    ],
    ids=["half", "double", "moved", "training", "training-in-part"],
)
def test_a_model_that_is_no_longer_as_it_was_loaded_is_refused(change: Callable[[Any], object], said: str) -> None:
    encoder, images = mcdo.load_encoder("clip_tiny"), mcdo.load_images("digits", n=3)
    change(encoder.model)
    for measure in (mcdo.monte_carlo, mcdo.first_order, mcdo.census):
        with pytest.raises(McdoError, match=said):
            measure(encoder, images, mcdo.Dropout(0.01))
