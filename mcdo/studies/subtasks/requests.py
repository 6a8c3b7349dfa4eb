"""What the study measures: images seen through the encoder, networks trained on that, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
import scipy
from numpy.typing import NDArray

from mcdo.harness import Request, Session, StoredArrays
from mcdo.harness.requests import Arrays
from mcdo.studies.subtasks.config import HEAD, META, Inputs, Source, Training
from mcdo.studies.subtasks.dropout import mc_logits
from mcdo.studies.subtasks.labels import META_SUBTASKS, SIZE, make_splits
from mcdo.studies.subtasks.observe import Observed, observe
from mcdo.studies.subtasks.splits import Split, Splits
from mcdo.studies.subtasks.task import SplitName, load_task
from mcdo.studies.subtasks.training import Examples, Job, Trained, logits, train

CLASS = "class"
"""Target of the meta-learner; heads have a subtask's."""
_CODE = "mcdo.studies.subtasks"
Value = TypeVar("Value")


@dataclass(frozen=True)
class ObservedSplit(StoredArrays):
    """Of one split: ``features`` float32 [N, D], and ``grey``, ``variance`` and ``edges`` [N]."""

    what = "subtasks observed"
    code = _CODE
    text = False

    source: Source
    edge_threshold: int
    split: SplitName

    def identity(self, session: Session) -> Mapping[str, Any]:
        task = load_task(self.source)
        images = [task.images[self.split].fingerprint, task.shown[self.split].fingerprint]
        return {"images": images, "edge_threshold": self.edge_threshold, "pillow": version("pillow")}

    def compute(self, session: Session) -> Arrays:
        task, encoder = load_task(self.source), session.encoder(self.model)
        images, shown = task.images[self.split], task.shown[self.split]
        with session.unmuted():
            seen = observe(
                encoder, images, shown, self.edge_threshold,
                session.settings.batch_size, session.progress(self), session.parts,
            )  # fmt: skip
        return dict(vars(seen))


@dataclass(frozen=True)
class Observations(Request[Arrays]):
    """Of every split: ``SPLIT/features`` float32 [N, D], and ``SPLIT/grey``, ``variance`` and ``edges`` [N]."""

    source: Source
    edge_threshold: int

    def split(self, name: SplitName) -> ObservedSplit:
        """What is measured of it."""
        return ObservedSplit(self.model, self.source, self.edge_threshold, name)

    def identity(self, session: Session) -> Mapping[str, Any]:
        """What decides the arrays, beside the encoder."""
        return {name: dict(self.split(name).identity(session)) for name in load_task(self.source).images}

    def measure(self, session: Session) -> Arrays:
        return {
            f"{name}/{what}": array
            for name in load_task(self.source).images
            for what, array in session.measure(self.split(name)).items()
        }


@dataclass(frozen=True)
class SeenSplits(Request[Splits]):
    """The four splits, from what was observed."""

    source: Source
    edge_threshold: int

    @property
    def observations(self) -> Observations:
        return Observations(self.model, self.source, self.edge_threshold)

    def measure(self, session: Session) -> Splits:
        task, arrays = load_task(self.source), session.measure(self.observations)
        parts = ("features", "grey", "variance", "edges")
        return make_splits(
            task, {name: Observed(*(arrays[f"{name}/{part}"] for part in parts)) for name in task.images}
        )


@dataclass(frozen=True)
class Network(Request[Trained]):
    """A trained network: a head for a subtask, from features, or the meta-learner, which ``inputs`` describes.

    Epochs are kept in the store, so what was killed goes on.
    """

    seen: SeenSplits
    target: str
    inputs: Inputs
    training: Training
    seed: int

    @property
    def heads(self) -> tuple[Network, ...]:
        """The heads whose outputs it is given, trained as it is."""
        if self.inputs not in ("labels", "probabilities"):
            return ()
        return tuple(replace(self, target=name, inputs="none") for name in META_SUBTASKS)

    def measure(self, session: Session) -> Trained:
        splits, x = session.measure(self.seen), self.inputs_of(session.measure)
        outputs = len(load_task(self.seen.source).class_names) if self.target == CLASS else SIZE[self.target]
        name = (
            f"{self.target} from {self.inputs}, batch {self.training.batch}, lr {self.training.lr:g}, seed {self.seed}"
        )
        job = Job(name, outputs, META if self.target == CLASS else HEAD, self.training, self.seed)
        device = session.encoder(self.model).device
        examples = (Examples(x[name], self._targets(split)) for name, split in _each(splits) if name in LEARNT_FROM)
        with session.unmuted():
            return train(job, *examples, device=device, store=session.store)

    def _targets(self, split: Split) -> NDArray[np.int64]:
        return split.labels if self.target == CLASS else split.subtasks[self.target]

    def inputs_of(self, value_of: Callable[[Request[Any]], Any]) -> dict[str, NDArray[np.float32]]:
        """What it sees of each split: the feature, and whatever ``inputs`` adds, float32 [N, D + extra]."""
        splits: Splits = value_of(self.seen)
        said: list[Arrays] = [value_of(Outputs(self.model, head)) for head in self.heads]

        def extra(name: str, split: Split) -> list[NDArray[Any]]:
            if self.inputs == "oracle":
                return [split.subtasks[subtask][:, None] for subtask in META_SUBTASKS]
            return [encode_outputs(arrays[f"logits/{name}"], self.inputs) for arrays in said]

        return {
            name: np.concatenate([split.features, *extra(name, split)], axis=1, dtype=np.float32)
            for name, split in _each(splits)
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What decides it beside what was observed."""
        return {"target": self.target, "inputs": self.inputs, "training": asdict(self.training), "seed": self.seed}


LEARNT_FROM = ("train", "validation")


def _each(splits: Splits) -> list[tuple[str, Split]]:
    return [(name, split) for name, split in vars(splits).items() if isinstance(split, Split)]


def encode_outputs(head_logits: NDArray[Any], inputs: Inputs) -> NDArray[Any]:
    """A head's output as input of the meta-learner: one number, the label [N, 1], or probabilities [N, k]."""
    found = head_logits.astype(np.float64)
    return np.asarray(found.argmax(axis=1)[:, None] if inputs == "labels" else scipy.special.softmax(found, axis=1))


@dataclass(frozen=True)
class _Of(StoredArrays):
    """What a network says."""

    code = _CODE

    network: Network

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"observed": dict(self.network.seen.observations.identity(session)), **self.network.identity}


@dataclass(frozen=True)
class Outputs(_Of):
    """``logits/SPLIT`` float32 [N, outputs] without dropout, ``history`` [epochs, 2] and ``best_epoch`` [1]."""

    what = "subtasks outputs"

    def compute(self, session: Session) -> Arrays:
        trained, x = session.measure(self.network), self.network.inputs_of(session.measure)
        return {
            **{f"logits/{name}": logits(trained.network, each).astype(np.float32) for name, each in x.items()},
            "history": np.array([[epoch.loss, epoch.accuracy] for epoch in trained.history]),
            "best_epoch": np.array([trained.best_epoch]),
        }


@dataclass(frozen=True)
class DropoutPasses(_Of):
    """``logits`` float32 [passes, N, C] of the test split under dropout."""

    what = "subtasks passes"

    passes: int

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {**super().identity(session), "passes": self.passes}

    def compute(self, session: Session) -> Arrays:
        network, test = self.network, session.measure(self.network.seen).test
        x, trained = network.inputs_of(session.measure)["test"], session.measure(network)
        return {"logits": mc_logits(trained.network, test, x, self.passes, network.seed).astype(np.float32)}


@dataclass(frozen=True)
class LinearProbe(StoredArrays):
    """``logits/SPLIT`` of multinomial logistic regression on the embedding alone (L2, C = 1)."""

    what = "subtasks linear probe"
    code = _CODE

    seen: SeenSplits

    def identity(self, session: Session) -> Mapping[str, Any]:
        observed = dict(self.seen.observations.identity(session))
        return {"observed": observed, "libraries": {name: version(name) for name in ("scikit-learn", "scipy")}}

    def compute(self, session: Session) -> Arrays:
        from sklearn.linear_model import LogisticRegression

        splits = session.measure(self.seen)
        probe = LogisticRegression(max_iter=5000).fit(splits.train.features, splits.train.labels)
        return {
            f"logits/{name}": np.asarray(probe.decision_function(split.features))
            for name, split in _each(splits)
            if name not in LEARNT_FROM
        }
