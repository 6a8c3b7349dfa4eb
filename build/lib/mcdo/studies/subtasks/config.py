"""The protocol of S2: sizes, the two options and their control, networks, bins, passes and triage thresholds.

Where the document leaves something open, the choice made here stands beside it as a comment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Inputs = Literal["labels", "probabilities", "none", "oracle"]
"""What the meta-learner sees beside the embedding: predicted subtask labels, predicted subtask probabilities, nothing,
or the true subtask labels (the positive control: more than any head can add)."""


@dataclass(frozen=True)
class Architecture:
    """A multilayer perceptron: widths of the hidden layers, each followed by BatchNorm (or not), ReLU and dropout."""

    hidden: tuple[int, ...]
    batchnorm: bool
    dropout: float


@dataclass(frozen=True)
class Training:
    """Minibatch training with Adam and early stopping on validation accuracy (S2 names neither the optimiser)."""

    batch: int
    lr: float
    patience: int = 4
    max_epochs: int = 30


@dataclass(frozen=True)
class Arm:
    """One way of training the whole system; ``inputs`` says what reaches the meta-learner."""

    name: str
    batch: int
    lr: float
    inputs: Inputs = "labels"


# 515 = 512 + 3 inputs in the document: one number per subtask, so its reading is the predicted label.
ARMS = (
    Arm("A", 128, 1e-3),
    Arm("B", 256, 2e-3),
    Arm("control", 256, 5e-4),
    Arm("A_probabilities", 128, 1e-3, "probabilities"),
    Arm("A_no_subtasks", 128, 1e-3, "none"),
    Arm("A_true_subtasks", 128, 1e-3, "oracle"),
)
META = Architecture(hidden=(384, 384, 384, 384), batchnorm=True, dropout=0.3)
HEAD = Architecture(hidden=(128,), batchnorm=False, dropout=0.0)  # the document says "5xx to k" and no more


@dataclass(frozen=True)
class Sizes:
    """Images per split; None takes all that are left.

    The document trains on 45 000, and stops early and fits the temperature on one held-out set of 5 000. Here each of
    the two has 5 000 of its own, so that a temperature never sees what chose the epoch.
    """

    train: int | None = None
    validation: int = 5000
    calibration: int = 5000
    test: int = 10000


@dataclass(frozen=True)
class DigitSizes:
    """The embedded data: training images, and how often each of the 600 held-out digits is shown (1 + variants).

    ``noise`` is the standard deviation in grey levels of the noise through which the encoder sees them. Without any, it
    errs on 2 % of them and training stops after an epoch or two; with 60, a linear probe errs on about 5 %, as S2 does.
    """

    train: int = 3591
    rounds: int = 6
    noise: float = 60.0


@dataclass(frozen=True)
class Source:
    """Which images: the digits, or CIFAR-10 where ``folder`` names it, as the folder or its archive."""

    seed: int = 42
    digits: DigitSizes = DigitSizes()
    cifar10: Sizes = Sizes()
    folder: str = ""
    images: str = "digits"
