from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
import torch

from mcdo.errors import McdoError
from mcdo.studies.subtasks.config import Architecture
from mcdo.studies.subtasks.dropout import CLASSES, Reading, keyed_keeps, mc_logits, triage, uncertainty
from mcdo.studies.subtasks.network import Perceptron
from mcdo.studies.subtasks.splits import Split

SMALL = Architecture(hidden=(24, 24), batchnorm=True, dropout=0.3)
X = np.random.default_rng(5).standard_normal((150, 6)).astype(np.float32)
IDS = tuple(f"image/{i}" for i in range(len(X)))
SPLIT = Split(IDS, IDS, X, np.zeros(len(X), np.int64))


def network(architecture: Architecture = SMALL) -> Perceptron:
    made = Perceptron(6, 4, architecture, 1)
    with torch.no_grad():
        for norm in made.norms:  # as after some training: statistics that differ from a batch's own
            norm.running_mean.fill_(0.3)  # type: ignore[operator]
            norm.running_var.fill_(2.0)  # type: ignore[operator]
    return made


def part(rows: slice) -> Split:
    return Split(IDS[rows], IDS[rows], X[rows], np.zeros(len(IDS[rows]), np.int64))


def test_neither_the_batch_nor_its_order_changes_a_pass() -> None:
    whole = mc_logits(network(), SPLIT, X, 5, seed=3)
    some = slice(140, 60, -7)
    np.testing.assert_allclose(mc_logits(network(), part(some), X[some], 5, seed=3), whole[:, some], atol=1e-5)


def test_more_passes_leave_the_first_ones_as_they_were() -> None:
    np.testing.assert_allclose(
        mc_logits(network(), SPLIT, X, 9, seed=3)[:4], mc_logits(network(), SPLIT, X, 4, seed=3), atol=1e-5
    )


def test_seeds_and_passes_and_images_have_masks_of_their_own() -> None:
    keeps = keyed_keeps(network(), "a", 2, 0)
    others = [keeps[1], keyed_keeps(network(), "b", 2, 0)[0], keyed_keeps(network(), "a", 2, 1)[0]]
    for other in others:
        assert (keeps[0] != other).any()
    kept = np.mean([keyed_keeps(network(), image_id, 25, 0).mean() for image_id in IDS])
    n = len(IDS) * 25 * 48
    assert abs(kept - 0.7) < 5 * math.sqrt(0.21 / n)


def test_a_pass_is_the_network_with_the_units_of_its_mask_removed() -> None:
    made = network().eval()
    keeps = torch.from_numpy(keyed_keeps(made, IDS[0], 2, 3))[1] / 0.7
    with torch.inference_mode():
        h = torch.from_numpy(X[:1])
        for i in range(2):
            h = torch.relu(made.norms[i](made.linears[i](h))) * keeps[24 * i : 24 * (i + 1)]
        expected = made.linears[2](h)
    np.testing.assert_allclose(mc_logits(made, SPLIT, X, 2, seed=3)[1, :1], expected.numpy(), atol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    state = torch.random.get_rng_state()
    mc_logits(made, SPLIT, X, 3)
    for name, value in made.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_documents_train_mode_would_change_the_network_and_mix_the_images_of_a_batch() -> None:
    """The fault that ``mc_logits`` avoids, injected."""
    made = network()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    made.train()
    with torch.no_grad():
        whole, half = made(torch.from_numpy(X)), made(torch.from_numpy(X[:50]))
    assert float((whole[:50] - half).abs().max()) > 0.01
    assert not torch.equal(before["norms.0.running_mean"], made.state_dict()["norms.0.running_mean"])


def test_a_network_without_dropout_and_a_single_pass_are_refused() -> None:
    with pytest.raises(McdoError, match="needs dropout"):
        mc_logits(network(Architecture((8,), True, 0.0)), SPLIT, X)
    with pytest.raises(McdoError, match="passes 1"):
        mc_logits(network(), SPLIT, X, 1)


@pytest.mark.parametrize("reading", ["probability", "calibrated", "logit"])
def test_uncertainty_matches_the_loop(reading: Reading) -> None:
    samples = np.random.default_rng(0).normal(0, 2, (7, 5, 3))
    found = uncertainty(samples, reading, temperature=1.7)
    t = 1.7 if reading == "calibrated" else 1.0
    for i in range(5):
        p = np.array([scipy.special.softmax(samples[k, i] / t) for k in range(7)])
        c = int(p.mean(axis=0).argmax())
        values = samples[:, i, c] if reading == "logit" else p[:, c]
        assert found.predicted[i] == c
        assert found.confidence[i] == pytest.approx(p[:, c].mean())
        assert found.std[i] == pytest.approx(torch.std(torch.from_numpy(values)).item())


def test_triage_at_its_edges() -> None:
    cases = {
        (0.99, 0.36): "review",
        (0.99, 0.35): "spot_check",  # not above .35, not below .25
        (0.50, 0.36): "review",
        (0.91, 0.24): "accept",
        (0.91, 0.25): "spot_check",
        (0.90, 0.10): "spot_check",
        (1.00, 0.00): "accept",
    }
    confidence, std = zip(*cases, strict=True)
    assert [CLASSES[i] for i in triage(confidence, std)] == list(cases.values())
