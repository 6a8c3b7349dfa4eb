"""Trains the temporal classifier, many folds and seeds at once.

The models of different (seed, fold) pairs have the same shape and share nothing else, so their parameters are stacked
and one batched pass moves them all. What a task sees follows from its seed and its group's name alone: neither the
other tasks nor their number change its data, and its numbers only in the last bits.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from mcdo.errors import McdoError
from mcdo.studies.backbones.config import BackbonesConfig, ModelConfig, TrainingConfig
from mcdo.studies.backbones.series import Series


@dataclass(frozen=True)
class Task:
    """One training: the group that is left out, under one seed."""

    seed: int
    group: str

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers that follow from seed, group and purpose alone."""
        digest = hashlib.sha256(json.dumps([self.seed, self.group, purpose]).encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@dataclass(frozen=True)
class Split:
    """Numbers of plants: disjoint by group; ``test`` is the task's group."""

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split(series: Series, task: Task, validation_groups: int) -> Split:
    """The group of the task is left out; of the others, ``validation_groups`` drawn by the task decide when to stop.

    Raises:
        McdoError: for a group that is not there, or when no group is left to train on.

    """
    groups = np.array(series.groups)
    others = sorted(set(series.groups) - {task.group})
    if task.group not in series.groups:
        raise McdoError(f"there is no group {task.group!r} among the plants of {series.name}")
    if len(others) <= validation_groups:
        raise McdoError(
            f"{series.name}: {len(others)} groups beside {task.group} leave none to train on after "
            f"training.validation_groups = {validation_groups}; lower it, or give more groups"
        )
    chosen = set(task.rng("validation").choice(others, validation_groups, replace=False).tolist())
    held = np.array([group in chosen for group in series.groups])
    out = groups == task.group
    return Split(np.flatnonzero(~held & ~out), np.flatnonzero(held), np.flatnonzero(out))


class Block(nn.Module):
    """A pre-norm transformer layer over rounds; rounds that were not photographed are not attended to."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.qkv, self.out = nn.Linear(config.dim, 3 * config.dim), nn.Linear(config.dim, config.dim)
        self.fc1, self.fc2 = nn.Linear(config.dim, config.feedforward), nn.Linear(config.feedforward, config.dim)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """``x`` [B, R, dim] and ``seen`` [B, R] to [B, R, dim]."""
        B, R, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(B, R, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weight = q @ k.transpose(-1, -2) / math.sqrt(dim // self.heads) + (seen[:, None, None] - 1) * 1e9
        x = x + self.out((weight.softmax(-1) @ v).transpose(1, 2).reshape(B, R, dim))
        hidden: Tensor = x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        return hidden


class TemporalClassifier(nn.Module):
    """Features of R rounds [B, R, D] and which rounds were photographed [B, R] (1 or 0) to a logit per round [B, R]."""

    def __init__(self, features: int, rounds: int, config: ModelConfig) -> None:
        super().__init__()
        self.project = nn.Linear(features, config.dim)
        self.position = nn.Parameter(torch.randn(rounds, config.dim) * 0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Sequential(nn.Linear(config.dim, config.head), nn.GELU(), nn.Linear(config.head, 1))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Logits."""
        hidden = self.project(x) + self.position
        for block in self.blocks:
            hidden = block(hidden, seen)
        logits: Tensor = self.head(self.norm(hidden)).squeeze(-1)
        return logits


@dataclass(frozen=True)
class Prediction:
    """What a trained task says of the plants it never saw: probability float64 [n, R], NaN where there is no image."""

    task: Task
    plants: tuple[str, ...]
    probability: NDArray[np.float64]
    epochs: int
    best_epoch: int
    validation_loss: float


def train(
    series: Series, tasks: Sequence[Task], config: BackbonesConfig, on_epoch: Callable[[int], object] | None = None
) -> list[Prediction]:
    """Train every task and predict the plants of its group.

    Args:
        series: features and labels of all plants.
        tasks: what to train, at once; a few dozen keep memory small.
        config: model and training.
        on_epoch: called with the number of tasks still running after each epoch.

    """
    if not tasks:
        return []
    if not np.isfinite(series.features).all():
        raise McdoError(f"the features of {series.name} are not finite; extract them anew")
    return _Stack(series, tasks, config).fit(on_epoch)


class _Stack:
    """The models of some tasks, moved together; F tasks, P plants, R rounds, D features."""

    def __init__(self, series: Series, tasks: Sequence[Task], config: BackbonesConfig) -> None:
        self.series, self.tasks, self.config = series, tasks, config.training
        self.splits = [split(series, task, config.training.validation_groups) for task in tasks]
        self.x, self.seen = torch.from_numpy(series.features), torch.from_numpy(series.seen.astype(np.float32))
        self.y = torch.from_numpy(series.labels.astype(np.float32))
        self.mean, self.std = standardisation(series, [each.train for each in self.splits])
        models = [self._initial(task, config.model) for task in tasks]
        self.state, _ = stack_module_state(models)
        self.base = models[0].to("meta")
        self.shuffles = [task.rng("batches") for task in tasks]
        self.pos_weight = torch.tensor(self.config.pos_weight)

    def _initial(self, task: Task, config: ModelConfig) -> TemporalClassifier:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(task.rng("weights").integers(2**62)))
            return TemporalClassifier(self.series.features.shape[2], self.series.features.shape[1], config)

    def _logits(self, state: dict[str, Tensor], index: Tensor) -> Tensor:
        """Of the plants ``index`` [F, B]: [F, B, R]."""
        x = (self.x[index] - self.mean[:, None, None]) / self.std[:, None, None]
        logits: Tensor = vmap(lambda s, a, b: functional_call(self.base, s, (a, b)))(state, x, self.seen[index])
        return logits

    def _loss(self, state: dict[str, Tensor], index: Tensor, real: Tensor) -> Tensor:
        """Mean over photographed rounds of the plants that are ``real`` [F, B] and not padding: [F]."""
        each = functional.binary_cross_entropy_with_logits(
            self._logits(state, index), self.y[index], reduction="none", pos_weight=self.pos_weight
        )
        weight = self.seen[index] * real[..., None]
        return (each * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)

    def _epoch(self) -> tuple[Tensor, Tensor]:
        """The batches of an epoch, [steps, F, B], and which of their entries are not padding."""
        orders = [rng.permutation(each.train) for rng, each in zip(self.shuffles, self.splits, strict=True)]
        index, real = padded(orders, self.config.batch_size)
        F, B = len(orders), self.config.batch_size
        return index.reshape(F, -1, B).transpose(0, 1), real.reshape(F, -1, B).transpose(0, 1)

    def fit(self, on_epoch: Callable[[int], object] | None) -> list[Prediction]:
        optimiser = torch.optim.AdamW(
            self.state.values(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda epoch: warm_cosine(epoch, self.config))
        validation = padded([each.validation for each in self.splits])
        best = {name: value.detach().clone() for name, value in self.state.items()}
        best_loss = torch.full((len(self.tasks),), math.inf)
        best_epoch, epochs = torch.zeros(len(self.tasks)), torch.zeros(len(self.tasks))
        for epoch in range(1, self.config.max_epochs + 1):
            running = epoch - 1 - best_epoch < self.config.patience
            if not running.any():
                break
            for index, real in zip(*self._epoch(), strict=True):
                self._step(optimiser, index, real)
            scheduler.step()
            with torch.no_grad():
                loss = self._loss(self.state, *validation)
            self._refuse_nan(loss)
            better = running & (loss < best_loss)
            for name, value in self.state.items():
                best[name][better] = value.detach()[better]
            best_loss[better], best_epoch[better], epochs[running] = loss[better], float(epoch), float(epoch)
            if on_epoch is not None:
                on_epoch(int(running.sum()))
        return self._predictions(best, epochs, best_epoch, best_loss)

    def _step(self, optimiser: torch.optim.Optimizer, index: Tensor, real: Tensor) -> None:
        optimiser.zero_grad()
        # No task's loss depends on another's parameters, so the gradient of the sum is each task's own.
        torch.autograd.backward(self._loss(self.state, index, real).sum())
        gradients = [value.grad for value in self.state.values() if value.grad is not None]
        norm = torch.stack([each.flatten(1).square().sum(1) for each in gradients]).sum(0).sqrt()
        scale = (self.config.gradient_clip / (norm + 1e-6)).clamp(max=1)
        for each in gradients:
            each.mul_(scale.reshape(-1, *[1] * (each.ndim - 1)))
        optimiser.step()

    def _refuse_nan(self, loss: Tensor) -> None:
        bad = [task for task, value in zip(self.tasks, loss, strict=True) if not torch.isfinite(value)]
        if bad:
            raise McdoError(f"{self.series.name}: the loss of {bad[0]} is not finite; lower training.learning_rate")

    def _predictions(
        self, best: dict[str, Tensor], epochs: Tensor, best_epoch: Tensor, best_loss: Tensor
    ) -> list[Prediction]:
        with torch.no_grad():
            probability = torch.sigmoid(self._logits(best, padded([each.test for each in self.splits])[0])).double()
        found = []
        for i, (task, each) in enumerate(zip(self.tasks, self.splits, strict=True)):
            values = np.where(self.series.seen[each.test], probability[i, : len(each.test)].numpy(), np.nan)
            names = tuple(self.series.plants[place] for place in each.test)
            found.append(Prediction(task, names, values, int(epochs[i]), int(best_epoch[i]), float(best_loss[i])))
        return found


def standardisation(series: Series, train: Sequence[NDArray[np.intp]]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [F, D] over the photographed rounds of each task's training plants, and no others."""
    means, stds = [], []
    for plants in train:
        values = series.features[plants][series.seen[plants]].astype(np.float64)
        std = values.std(axis=0)
        means.append(values.mean(axis=0))
        stds.append(np.where(std > 1e-12, std, 1.0))  # a constant feature stays constant, and finite
    return torch.from_numpy(np.stack(means)).float(), torch.from_numpy(np.stack(stds)).float()


def padded(rows: Sequence[NDArray[np.intp]], multiple: int = 1) -> tuple[Tensor, Tensor]:
    """Rows of unequal length as [F, L], L the longest rounded up to ``multiple``, and 1 where an entry is real."""
    length = -(-max(len(row) for row in rows) // multiple) * multiple
    index, real = np.zeros((len(rows), length), dtype=np.int64), np.zeros((len(rows), length), dtype=np.float32)
    for i, row in enumerate(rows):
        index[i, : len(row)], real[i, : len(row)] = row, 1
    return torch.from_numpy(index), torch.from_numpy(real)


def warm_cosine(epoch: int, config: TrainingConfig) -> float:
    """The factor of the learning rate in an epoch counted from 0: linear over the warm-up, then cosine to zero."""
    if epoch < config.warmup_epochs:
        return (epoch + 1) / config.warmup_epochs
    done = (epoch - config.warmup_epochs) / max(1, config.max_epochs - config.warmup_epochs)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
