"""Training: folds do not leak, and do not depend on what is trained beside them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from studies_backbones_data import oracle_series, relabelled_series

from mcdo.errors import McdoError
from mcdo.names import file_name
from mcdo.studies.backbones.config import BackbonesConfig, ModelConfig, TrainingConfig
from mcdo.studies.backbones.runs import read_runs, run_path, tasks_of, train_tasks
from mcdo.studies.backbones.series import Series
from mcdo.studies.backbones.training import (
    Block,
    Task,
    TemporalClassifier,
    padded,
    split,
    standardisation,
    train,
    warm_cosine,
)

SMALL = BackbonesConfig(
    backbones=("oracle",),
    baseline="oracle",
    seeds=(0,),
    model=ModelConfig(dim=8, layers=1, heads=2, feedforward=8, head=4),
    training=TrainingConfig(learning_rate=1e-2, max_epochs=12, batch_size=4, validation_groups=1),
)


@pytest.fixture
def oracle() -> Series:
    return oracle_series()


@pytest.fixture
def relabelled() -> Series:
    return relabelled_series()


def _tasks(series: Series) -> list[Task]:
    return [Task(0, group) for group in series.folds]


def test_the_three_parts_of_a_split_share_no_group(oracle: Series) -> None:
    groups = np.array(oracle.groups)
    for task in _tasks(oracle):
        parts = split(oracle, task, 2)
        held = [set(groups[part]) for part in (parts.train, parts.validation, parts.test)]
        assert held[2] == {task.group}
        assert [len(part) for part in held] == [1, 2, 1]
        assert set.union(*held) == set(oracle.folds)
        assert sum(len(part) for part in (parts.train, parts.validation, parts.test)) == len(groups)


def test_a_split_follows_from_seed_and_group(oracle: Series) -> None:
    chosen = {tuple(split(oracle, Task(seed, oracle.folds[0]), 1).validation) for seed in range(20)}
    assert len(chosen) == 3  # every other group is drawn by some seed
    task = Task(5, oracle.folds[1])
    assert np.array_equal(split(oracle, task, 1).validation, split(oracle, task, 1).validation)


def test_impossible_splits_are_refused(oracle: Series) -> None:
    with pytest.raises(McdoError, match="no group 'oak'"):
        split(oracle, Task(0, "oak"), 1)
    with pytest.raises(McdoError, match="leave none to train on"):
        split(oracle, Task(0, oracle.folds[0]), 3)


def test_standardisation_comes_from_the_training_plants_alone(oracle: Series, relabelled: Series) -> None:
    task = Task(0, oracle.folds[0])
    parts = split(oracle, task, 1)
    mean, std = standardisation(oracle, [parts.train])
    values = np.concatenate([oracle.features[i][oracle.seen[i]] for i in parts.train])
    assert np.allclose(mean[0], values.mean(axis=0), atol=1e-6)
    assert np.allclose(std[0], values.std(axis=0), atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip((mean, std), standardisation(relabelled, [parts.train]), strict=True))


def test_a_constant_feature_stays_finite(oracle: Series) -> None:
    constant = replace(oracle, features=np.full_like(oracle.features, 7))
    _, std = standardisation(constant, [np.arange(3)])
    assert torch.equal(std, torch.ones_like(std))


def test_nothing_of_the_left_out_group_reaches_its_model(oracle: Series, relabelled: Series) -> None:
    task = Task(0, oracle.folds[0])
    one, two = (train(series, [task], SMALL)[0] for series in (oracle, relabelled))
    assert (one.validation_loss, one.best_epoch) == (two.validation_loss, two.best_epoch)
    assert not np.allclose(one.probability, two.probability, equal_nan=True)  # only what it is asked about differs


def test_a_fold_is_the_same_alone_and_among_others(oracle: Series) -> None:
    together = train(oracle, _tasks(oracle), SMALL)
    for task, found in zip(_tasks(oracle), together, strict=True):
        (alone,) = train(oracle, [task], SMALL)
        assert alone.plants == found.plants
        assert alone.best_epoch == found.best_epoch
        np.testing.assert_allclose(alone.probability, found.probability, atol=1e-4)


def test_a_fold_is_what_a_plain_loop_trains(oracle: Series) -> None:
    """One model without stacking, on features that say little, so that its best epoch is not its last."""
    noise = np.random.default_rng(0).normal(size=oracle.features.shape).astype(np.float32)
    photographed = oracle.seen.copy()
    photographed[::2, 2] = photographed[1::2, 4] = False
    series, task = replace(oracle, features=noise, seen=photographed), Task(3, oracle.folds[0])
    options = TrainingConfig(
        learning_rate=0.03, max_epochs=9, warmup_epochs=2, batch_size=3, gradient_clip=0.1, validation_groups=1
    )
    (found,) = train(series, [task], replace(SMALL, training=options))

    parts, batches = split(series, task, 1), task.rng("batches")
    mean, std = (each[0] for each in standardisation(series, [parts.train]))
    x = (torch.from_numpy(noise) - mean) / std
    y, seen = (torch.from_numpy(each.astype(np.float32)) for each in (series.labels, series.seen))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(task.rng("weights").integers(2**62)))
        model = TemporalClassifier(4, 6, SMALL.model)
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=options.weight_decay)

    def loss(plants: NDArray[np.intp]) -> torch.Tensor:
        shown = seen[plants] == 1
        logits, truth = model(x[plants], seen[plants])[shown], y[plants][shown]
        weight = torch.tensor(options.pos_weight)
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, pos_weight=weight)

    losses, said = [], []
    for epoch in range(9):
        optimiser.param_groups[0]["lr"] = 0.03 * warm_cosine(epoch, options)
        order = batches.permutation(parts.train)
        for start in range(0, len(order), 3):
            optimiser.zero_grad()
            loss(order[start : start + 3]).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimiser.step()
        with torch.no_grad():
            losses.append(float(loss(parts.validation)))
            said.append(torch.sigmoid(model(x[parts.test], seen[parts.test])).numpy())
    best = int(np.argmin(losses))
    assert best < 8
    assert found.best_epoch == best + 1
    assert found.validation_loss == pytest.approx(losses[best], abs=1e-4)
    shown = series.seen[parts.test]
    np.testing.assert_allclose(found.probability[shown], said[best][shown], atol=1e-4)


def test_a_layer_is_torch_s_pre_norm_layer() -> None:
    """With rounds that were not photographed as its padding."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        block, x = Block(SMALL.model).eval(), torch.randn(2, 6, 8)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 8, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    named = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "out.", "linear1.": "fc1.", "linear2.": "fc2."}
    named |= {"norm1.": "norm1.", "norm2.": "norm2."}
    ours = block.state_dict()
    layer.load_state_dict(
        {f"{theirs}{of}": ours[f"{own}{of}"] for theirs, own in named.items() for of in ("weight", "bias")}
    )
    seen = torch.tensor([[1.0, 1, 0, 1, 1, 1], [1, 0, 0, 1, 1, 0]])
    with torch.no_grad():
        torch.testing.assert_close(block(x, seen), layer(x, src_key_padding_mask=seen == 0), atol=1e-5, rtol=1e-5)


def test_training_leaves_the_global_random_state(oracle: Series) -> None:
    before = torch.random.get_rng_state()
    train(oracle, _tasks(oracle)[:1], SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_clear_signal_is_learnt(oracle: Series) -> None:
    config = replace(SMALL, training=replace(SMALL.training, max_epochs=60))
    found = train(oracle, _tasks(oracle), config)
    places = [oracle.plants.index(name) for each in found for name in each.plants]
    probability, seen = np.concatenate([each.probability for each in found]), oracle.seen[places]
    right = (probability > 0.5) == oracle.labels[places]
    assert right[seen].mean() > 0.9
    assert np.isnan(probability[~seen]).all()


def test_training_stops_when_patience_is_spent(oracle: Series) -> None:
    noise = np.random.default_rng(0).normal(size=oracle.features.shape).astype(np.float32)
    config = replace(SMALL, training=replace(SMALL.training, learning_rate=0.05, max_epochs=60, patience=3))
    for found in train(replace(oracle, features=noise), _tasks(oracle), config):
        assert found.epochs == min(60, found.best_epoch + 3)


def test_a_round_without_an_image_changes_no_other(oracle: Series) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = TemporalClassifier(4, 6, SMALL.model).eval()
    x, seen = torch.from_numpy(oracle.features[:2]), torch.ones(2, 6)
    seen[:, 3] = 0
    changed = x.clone()
    changed[:, 3] = 9.0
    with torch.no_grad():
        a, b = model(x, seen), model(changed, seen)
    kept = [0, 1, 2, 4, 5]
    assert torch.allclose(a[:, kept], b[:, kept])
    assert not torch.allclose(a[:, 3], b[:, 3])


def test_padding_repeats_nothing_that_counts() -> None:
    index, real = padded([np.array([4, 5, 6]), np.array([7])], multiple=2)
    assert index.tolist() == [[4, 5, 6, 0], [7, 0, 0, 0]]
    assert real.tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_zero() -> None:
    config = TrainingConfig(warmup_epochs=4, max_epochs=12)
    factors = [warm_cosine(epoch, config) for epoch in range(13)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(9)]


def test_features_and_losses_that_are_not_finite_are_errors(oracle: Series) -> None:
    with pytest.raises(McdoError, match="features of oracle are not finite"):
        train(replace(oracle, features=np.full_like(oracle.features, np.inf)), _tasks(oracle)[:1], SMALL)
    wild = replace(SMALL, training=replace(SMALL.training, learning_rate=1e38))
    with pytest.raises(McdoError, match=r"loss of Task.* is not finite; lower training\.learning_rate"):
        train(oracle, _tasks(oracle)[:1], wild)


def test_runs_are_trained_once_and_again_when_anything_changed(oracle: Series, tmp_path: Path) -> None:
    config = replace(SMALL, training=replace(SMALL.training, max_epochs=2))
    tasks = tasks_of(oracle.folds, config)
    assert train_tasks(oracle, tasks[:1], config, tmp_path) == 1
    with pytest.raises(McdoError, match="is missing"):
        read_runs(oracle, tasks, config, tmp_path)
    assert train_tasks(oracle, tasks, config, tmp_path) == len(tasks) - 1
    assert train_tasks(oracle, tasks, config, tmp_path) == 0
    first = read_runs(oracle, tasks, config, tmp_path)[0]
    (fresh,) = train(oracle, tasks[:1], config)
    np.testing.assert_allclose(first.probability, fresh.probability, atol=1e-4)
    run_path(tmp_path, "oracle", tasks[1]).write_text("{", encoding="utf-8")  # as a full disk would leave it
    assert train_tasks(oracle, tasks, config, tmp_path) == 1
    run = run_path(tmp_path, "oracle", tasks[2])
    held = json.loads(run.read_text())
    run.write_text(json.dumps({**held, "validation_loss": held["validation_loss"] / 2}), encoding="utf-8")
    assert train_tasks(oracle, tasks, config, tmp_path) == 1, "a number that is not as it was written"
    assert json.loads(run.read_text()).keys() == held.keys()
    assert train_tasks(replace(oracle, key="other pictures"), tasks[:1], config, tmp_path) == 1
    other = replace(config, training=replace(config.training, pos_weight=1.0))
    assert train_tasks(oracle, tasks[:1], other, tmp_path) == 1


def test_more_folds_than_groups_are_refused(oracle: Series) -> None:
    with pytest.raises(McdoError, match="9 of 4 groups"):
        tasks_of(oracle.folds, replace(SMALL, folds=9))
    assert [task.group for task in tasks_of(oracle.folds, replace(SMALL, folds=2))] == list(oracle.folds[:2])


def test_different_names_are_different_files() -> None:
    names = ["clip_tiny", "random:clip_tiny", "random/clip_tiny", "local-dir:/a/b", "Aurora/2", "Aurora_2"]
    files = [file_name(name) for name in names]
    assert files[0] == "clip_tiny"
    assert len(set(files)) == len(names)
    assert all(not set("/:") & set(name) for name in files)
