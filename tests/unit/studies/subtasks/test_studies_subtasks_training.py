from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import begin
from torch import nn

from mcdo.errors import McdoError
from mcdo.store import DamagedResultWarning, Store
from mcdo.studies.subtasks.config import META, Architecture, Training
from mcdo.studies.subtasks.network import Perceptron, generator
from mcdo.studies.subtasks.training import Examples, Job, Trained, _batches, logits, train

SMALL = Architecture(hidden=(16, 16), batchnorm=True, dropout=0.3)
JOB = Job("small", 3, SMALL, Training(batch=16, lr=3e-3, patience=4, max_epochs=12), seed=7)


def examples(seed: int, n: int = 97) -> Examples:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return Examples((rng.standard_normal((n, 4)) + 1.2 * np.eye(4)[y]).astype(np.float32), y)


SEEN, HELD_OUT = examples(0), examples(1)


@pytest.fixture(scope="module")
def whole() -> Trained:
    """Undisturbed."""
    return train(JOB, SEEN, HELD_OUT)


class KilledError(Exception):
    pass


def killed_after(epoch: int, store: Store) -> None:
    def kill(number: int) -> None:
        if number == epoch:
            raise KilledError

    with pytest.raises(KilledError):
        train(JOB, SEEN, HELD_OUT, store=store, checkpoint_every_s=0, after_epoch=kill)


def assert_same(one: Trained, other: Trained) -> None:
    assert (one.best_epoch, one.history) == (other.best_epoch, other.history)
    mine, its = one.network.state_dict(), other.network.state_dict()
    assert mine.keys() == its.keys()
    for name in mine:
        assert torch.equal(mine[name], its[name]), name


@pytest.mark.parametrize("epoch", [1, 3])
def test_interrupted_and_resumed_equals_undisturbed_bit_for_bit(whole: Trained, tmp_path: Path, epoch: int) -> None:
    assert len(whole.history) > 3
    killed_after(epoch, Store(tmp_path))
    continued: list[int] = []
    resumed = train(JOB, SEEN, HELD_OUT, store=Store(tmp_path), after_epoch=continued.append)
    assert continued[0] == epoch + 1
    assert_same(whole, resumed)


def stopping(store: Path) -> None:
    """Stops for good in the third epoch."""

    def wait(epoch: int) -> None:
        if epoch == 2:
            (store / "two").touch()
            time.sleep(600)

    train(JOB, SEEN, HELD_OUT, store=Store(store), checkpoint_every_s=0, after_epoch=wait)


def test_a_killed_process_loses_at_most_the_epoch_it_was_in(whole: Trained, tmp_path: Path) -> None:
    child = begin(stopping, tmp_path)
    while not (tmp_path / "two").exists():
        assert child.exitcode is None, "the process ended by itself"
        time.sleep(0.02)
    child.kill()
    child.join()
    continued: list[int] = []
    resumed = train(JOB, SEEN, HELD_OUT, store=Store(tmp_path), after_epoch=continued.append)
    assert continued[0] == 3
    assert_same(whole, resumed)


def test_a_finished_network_is_not_trained_again(tmp_path: Path) -> None:
    first = train(JOB, SEEN, HELD_OUT, store=Store(tmp_path))
    again: list[int] = []
    assert_same(first, train(JOB, SEEN, HELD_OUT, store=Store(tmp_path), after_epoch=again.append))
    assert not again


def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(whole: Trained, tmp_path: Path) -> None:
    killed_after(2, Store(tmp_path))
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    started: list[int] = []
    with pytest.warns(DamagedResultWarning):
        found = train(JOB, SEEN, HELD_OUT, store=Store(tmp_path), after_epoch=started.append)
    assert started[0] == 1
    assert_same(whole, found)


def test_whatever_changes_the_result_changes_the_key_and_the_name_does_not() -> None:
    device, a, b = torch.device("cpu"), SEEN, HELD_OUT
    key = JOB.key(a, b, device)
    assert replace(JOB, name="other").key(a, b, device) == key
    others = [
        replace(JOB, seed=8).key(a, b, device),
        replace(JOB, training=replace(JOB.training, lr=1e-3)).key(a, b, device),
        replace(JOB, architecture=replace(SMALL, dropout=0.2)).key(a, b, device),
        JOB.key(b, a, device),
        JOB.key(replace(a, y=(a.y + 1) % 3), b, device),
    ]
    assert len({key, *others}) == 6


def test_training_stops_when_the_validation_accuracy_has_not_risen_for_four_epochs(whole: Trained) -> None:
    accuracy = [epoch.accuracy for epoch in whole.history]
    assert whole.best_epoch == 1 + int(np.argmax(accuracy))  # the first of equals
    assert len(accuracy) == min(whole.best_epoch + 4, 12)
    predicted = logits(whole.network, HELD_OUT.x).argmax(axis=1)
    assert (predicted == HELD_OUT.y).mean() == max(accuracy)


def test_training_learns_what_there_is_to_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    seen, held_out = examples(0, 600), examples(1, 600)
    found = train(replace(JOB, training=Training(32, 3e-3, 12, 12)), seen, held_out)
    probe = LogisticRegression().fit(seen.x, seen.y).score(held_out.x, held_out.y)
    assert max(epoch.accuracy for epoch in found.history) > probe - 0.05


def test_the_process_wide_generators_are_left_alone(whole: Trained) -> None:
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    torch.rand(5)
    advanced = torch.random.get_rng_state()
    assert_same(whole, train(JOB, SEEN, HELD_OUT))
    assert torch.equal(torch.random.get_rng_state(), advanced)
    numpy_after = np.random.get_state(legacy=False)  # noqa: NPY002
    np.testing.assert_equal(dict(numpy_after), dict(numpy_before))
    torch.random.set_rng_state(before)


def test_seeds_differ(whole: Trained) -> None:
    assert train(replace(JOB, seed=8), SEEN, HELD_OUT).history != whole.history


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    bad = Examples(np.full((20, 4), np.inf, np.float32), np.zeros(20, np.int64))
    with pytest.raises(McdoError, match="small: the loss of epoch 1 is nan"):
        train(JOB, bad, HELD_OUT)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(McdoError, match="too few"):
        train(JOB, examples(0, 1), HELD_OUT)


@pytest.mark.parametrize("n", [1, 2, 16, 17, 33])
def test_every_example_is_seen_once_and_none_alone(n: int) -> None:
    pieces = _batches(n, 16, generator(0))
    assert sorted(torch.cat(pieces).tolist()) == list(range(n))
    assert n == 1 or min(len(piece) for piece in pieces) > 1


def test_the_architecture_is_s2s() -> None:
    network = Perceptron(515, 10, META, 0)
    assert [tuple(m.weight.shape) for m in network.linears if isinstance(m, nn.Linear)] == [
        (384, 515), (384, 384), (384, 384), (384, 384), (10, 384),
    ]  # fmt: skip
    assert len(network.norms) == 4
    x = torch.randn(6, 515, generator=generator(1))
    reference = nn.Sequential(
        *(layer for i in range(4) for layer in (network.linears[i], network.norms[i], nn.ReLU())), network.linears[4]
    ).eval()
    assert torch.equal(network.eval()(x), reference(x))


def test_masks_drop_the_stated_share_and_keep_the_mean() -> None:
    masks = Perceptron(4, 3, SMALL, 0).draw_masks(20_000, generator(0))
    assert masks is not None
    assert [tuple(mask.shape) for mask in masks] == [(20_000, 16), (20_000, 16)]
    values = torch.cat(masks)
    assert set(np.unique(values.numpy()).tolist()) == {0.0, float(torch.tensor(1.0) / 0.7)}
    n, p = values.numel(), 0.3
    assert abs(float((values == 0).float().mean()) - p) < 5 * np.sqrt(p * (1 - p) / n)
    assert Perceptron(4, 3, replace(SMALL, dropout=0.0), 0).draw_masks(5, generator(0)) is None


def first_weight(network: Perceptron) -> torch.Tensor:
    return dict(network.named_parameters())["linears.0.weight"].detach()


def test_initialisation_is_torchs_default_in_distribution() -> None:
    wide = Architecture((400,), batchnorm=False, dropout=0.0)
    weight = first_weight(Perceptron(100, 2, wide, 3))
    assert float(weight.abs().max()) <= 0.1
    assert float(weight.std()) == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert not torch.equal(weight, first_weight(Perceptron(100, 2, wide, 4)))
