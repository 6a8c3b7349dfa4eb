"""Training of one network: Adam, early stopping, and a checkpoint from which it goes on bit for bit.

Every random number of an epoch follows from (seed, epoch), so a checkpoint is weights, Adam's moments and the history.
It lies in the store under a key of all that decides the result, the very arrays included; a finished network lies
there too, and is not trained again. The store writes whole files or none, so a kill leaves the one before.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from mcdo.errors import McdoError
from mcdo.store import Store, UnsavedResultWarning
from mcdo.store.fingerprint import code_fingerprint
from mcdo.studies.subtasks.config import Architecture, Training
from mcdo.studies.subtasks.network import Perceptron, generator
from mcdo.threads import one_thread

CHECKPOINT_EVERY_S = 5.0
_ROWS = 4096
State = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Examples:
    """``x`` float32 [N, inputs] and ``y`` int64 [N]."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """Mean training loss of an epoch, and the validation accuracy after it."""

    loss: float
    accuracy: float


@dataclass(frozen=True, eq=False)
class Trained:
    """The network at its best epoch (1 is the first), and the history up to where training stopped."""

    network: Perceptron
    best_epoch: int
    history: tuple[Epoch, ...]


@dataclass(frozen=True)
class Job:
    """What is to be trained: a network for ``outputs`` classes, how, and from which seed; ``name`` is for progress."""

    name: str
    outputs: int
    architecture: Architecture
    training: Training
    seed: int

    def key(self, train: Examples, validation: Examples, device: torch.device) -> str:
        """Of everything that decides the result; the name is only a name."""
        facts = {k: v for k, v in asdict(self).items() if k != "name"}
        arrays = [_digest(each) for each in (train.x, train.y, validation.x, validation.y)]
        code = code_fingerprint(__name__, Perceptron.__module__)
        facts |= {"kind": "subtasks network", "code": code, "arrays": arrays}
        facts |= {"torch": torch.__version__, "device": device.type}
        return Store.key(facts)


def _digest(array: NDArray[Any]) -> str:
    head = f"{array.dtype}{array.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def train(
    job: Job,
    train: Examples,
    validation: Examples,
    *,
    device: torch.device | str = "cpu",
    store: Store | None = None,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
    after_epoch: Callable[[int], None] | None = None,
) -> Trained:
    """Train until validation accuracy has not risen for ``patience`` epochs, and return the best epoch's network.

    Args:
        job: what and how.
        train: examples to learn from.
        validation: examples that choose the epoch.
        device: where.
        store: where checkpoints and the result are kept; None keeps nothing.
        checkpoint_every_s: seconds between checkpoints; 0 writes one after each epoch.
        after_epoch: called with the number of each finished epoch, after its checkpoint.

    Raises:
        McdoError: when the loss is not finite, or there are fewer than two examples.

    """
    if len(train.x) < 2 or not len(validation.x):
        raise McdoError(f"{job.name}: {len(train.x)} training and {len(validation.x)} validation examples are too few")
    where = torch.device(device)
    key = job.key(train, validation, where) if store is not None else ""
    run = _Run(job, train, validation, where)
    finished = store is not None and run.restore(store.get(key))
    saved = time.monotonic()
    with one_thread(), tqdm(total=job.training.max_epochs, initial=len(run.history), desc=job.name, unit="epoch",
                            disable=None, leave=False) as bar:  # fmt: skip
        while not finished and not run.done:
            run.epoch()
            bar.update()
            due = time.monotonic() - saved >= checkpoint_every_s
            if store is not None and (due or run.done):
                _keep(store, key, *run.checkpoint())
                saved = time.monotonic()
            if after_epoch is not None:
                after_epoch(len(run.history))
    return run.result()


def _keep(store: Store, key: str, arrays: dict[str, NDArray[Any]], facts: dict[str, Any]) -> None:
    """Put a checkpoint into the store; a full disk costs a warning, not the training."""
    try:
        store.put(key, arrays, facts)
    except McdoError as error:
        warnings.warn(f"a network of the subtasks study is not kept: {error}", UnsavedResultWarning, stacklevel=3)


class _Run:
    """A training in progress."""

    def __init__(self, job: Job, train: Examples, validation: Examples, device: torch.device) -> None:
        self.job, self.device = job, device
        self.network = Perceptron(train.x.shape[1], job.outputs, job.architecture, job.seed).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=job.training.lr)
        self.x, self.y = torch.tensor(train.x, device=device), torch.tensor(train.y, device=device)
        self.validation = validation
        self.history: list[Epoch] = []
        self.best_epoch = 0
        self.best: State = {}

    @property
    def done(self) -> bool:
        waited = len(self.history) - self.best_epoch
        return len(self.history) >= self.job.training.max_epochs or waited >= self.job.training.patience

    def epoch(self) -> None:
        number = len(self.history) + 1
        loss = self._learn(generator(self.job.seed, 1, number))
        if not np.isfinite(loss):
            raise McdoError(f"{self.job.name}: the loss of epoch {number} is {loss}; lower the learning rate")
        predicted = logits(self.network, self.validation.x).argmax(axis=1)
        self.history.append(Epoch(loss, float((predicted == self.validation.y).mean())))
        if self.best_epoch == 0 or self.history[-1].accuracy > self.history[self.best_epoch - 1].accuracy:
            self.best_epoch = number
            self.best = {name: value.clone() for name, value in self.network.state_dict().items()}

    def _learn(self, source: torch.Generator) -> float:
        self.network.train()
        total = 0.0
        for rows in _batches(len(self.x), self.job.training.batch, source):
            masks = self.network.draw_masks(len(rows), source)
            moved = None if masks is None else [mask.to(self.device) for mask in masks]
            index = rows.to(self.device)
            loss = functional.cross_entropy(self.network(self.x[index], moved), self.y[index])
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += float(loss.detach()) * len(rows)
        return total / len(self.x)

    def checkpoint(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        arrays = {f"best/{name}": value for name, value in self.best.items()}
        if not self.done:
            arrays |= {f"now/{name}": value for name, value in self.network.state_dict().items()}
            for i, moments in self.optimizer.state_dict()["state"].items():
                arrays |= {f"adam/{i}/{name}": value for name, value in moments.items()}
        facts = {"best_epoch": self.best_epoch, "history": [[e.loss, e.accuracy] for e in self.history]}
        return {name: value.detach().cpu().numpy() for name, value in arrays.items()}, facts

    def restore(self, found: tuple[dict[str, NDArray[Any]], dict[str, Any]] | None) -> bool:
        """Go on from a checkpoint, if there is one; True when it is a finished network."""
        if found is None:
            return False
        arrays, facts = found
        self.history = [Epoch(*each) for each in facts["history"]]
        self.best_epoch = facts["best_epoch"]
        self.best = self._state(arrays, "best/")
        if self.done:
            return True
        self.network.load_state_dict(self._state(arrays, "now/"))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, array in arrays.items():
            if name.startswith("adam/"):
                _, i, what = name.split("/")
                moments.setdefault(int(i), {})[what] = torch.from_numpy(array.copy()).reshape(
                    () if what == "step" else array.shape
                )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        return False

    def _state(self, arrays: dict[str, NDArray[Any]], prefix: str) -> State:
        like = self.network.state_dict()
        return {
            name.removeprefix(prefix): torch.from_numpy(array.copy()).reshape(like[name.removeprefix(prefix)].shape)
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    def result(self) -> Trained:
        self.network.load_state_dict(self.best)
        self.network.eval()
        return Trained(self.network, self.best_epoch, tuple(self.history))


def _batches(n: int, size: int, source: torch.Generator) -> list[Tensor]:
    """A seeded order in pieces of ``size``; a last piece of one joins the one before, since BatchNorm needs two."""
    pieces = list(torch.randperm(n, generator=source).split(size))  # type: ignore[no-untyped-call]
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def logits(network: Perceptron, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Deterministic logits float64 [N, outputs]: no dropout, BatchNorm by its running statistics."""
    network.eval()
    device = next(network.parameters()).device
    with torch.inference_mode():
        blocks = [network(torch.from_numpy(x[i : i + _ROWS]).to(device)).cpu() for i in range(0, len(x), _ROWS)]
    return torch.cat(blocks).double().numpy()
