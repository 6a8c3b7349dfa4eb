"""The study: connectors trained on each encoder, or a LLaVA checkpoint of one's own, and what their ablation says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.harness import Claim, Experiment, Files, Inputs, Request, Settings, Subject, View
from mcdo.report.panels import interval_panel
from mcdo.studies.connector import published
from mcdo.studies.connector.ablation import Ablation, Comparison, compare, lower_loss
from mcdo.studies.connector.arms import ARMS, CORRECT
from mcdo.studies.connector.coverage import Coverage
from mcdo.studies.connector.data import Source, load_data, load_held_out
from mcdo.studies.connector.report import differences_panel, table
from mcdo.studies.connector.requests import CheckpointLosses, Connector, Losses
from mcdo.studies.connector.tiny import TinyConfig
from mcdo.studies.connector.training import TrainingConfig

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mcdo.report.figures import Panel


@dataclass(frozen=True, eq=False)
class ConnectorResult:
    """The connectors by seed, each beside its comparisons with the correct arm.

    Attributes:
        subject: the encoder's key, or the checkpoint's folder.
        connectors: by the seed of their training.
        compared: the arms of each, by the same seeds.
        control: shuffled against correct where "correct" pictures are those of other items; None for a checkpoint.
        data: names, sizes and fingerprint of what was trained on and held out.

    """

    subject: str
    connectors: Mapping[int, Connector]
    compared: Mapping[int, Mapping[str, Comparison]]
    control: Comparison | None
    data: Mapping[str, Any]

    @property
    def seed(self) -> int:
        """The first."""
        return next(iter(self.connectors))

    @property
    def coverage(self) -> Coverage:
        """Of the items that were trained on; the same for all connectors."""
        return self.connectors[self.seed].coverage

    @property
    def ablations(self) -> Mapping[int, Ablation]:
        return {seed: connector.ablation for seed, connector in self.connectors.items()}


@dataclass(frozen=True)
class ConnectorStudy(Experiment[ConnectorResult]):
    """S4: does the language model use its visual tokens?

    ``connectors`` have the seeds seed, seed + 1, …; ``train`` caps the training items of a file.
    """

    key = "connector"
    name = "connector"
    phase = "connector"
    folder = "studies"
    perturbs = False
    files = Files(summary="{}/ablation.json", figure="{}/ablation.png")
    quick = {
        "held_out": 64,
        "connectors": 1,
        "training": TrainingConfig(language_epochs=2, connector_epochs=2, warmup=10),
    }

    held_out: int = 256
    connectors: int = 3
    train: int = 4900
    tiny: TinyConfig = field(default_factory=TinyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    json: str = ""
    image_root: str = ""
    checkpoint: str = ""
    skip_unreadable: bool = False

    @classmethod
    def options(cls, settings: Settings) -> Mapping[str, Any]:
        json, root, checkpoint = (
            settings.own_data.get(option, "") for option in ("--llava-json", "--image-root", "--connector-model")
        )
        if bool(json) != bool(root):
            raise McdoError("--llava-json and --image-root belong together: the file, and where its images lie")
        if checkpoint and not json:
            raise McdoError("--connector-model needs --llava-json and --image-root: held-out items to judge it on")
        length = settings.own_data.get("--max-seq-len", "512")
        if not length.isdigit() or not int(length):
            raise McdoError(f"--max-seq-len {length!r}; give a whole number of tokens, such as 512")
        return {
            "json": json,
            "image_root": root,
            "checkpoint": checkpoint,
            "tiny": TinyConfig(max_seq_len=int(length)),
            "skip_unreadable": settings.skip_unreadable,
            **({"connectors": 1} if checkpoint else {}),
        }

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return (Subject("checkpoint", ()),) if cls.options(settings)["checkpoint"] else super().subjects(settings)

    @property
    def source(self) -> Source:
        return Source(self.held_out, self.train, self.seed, self.json, self.image_root, self.skip_unreadable)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the connectors."""
        return tuple(self.seed + i for i in range(self.connectors))

    def requests(self, about: View) -> Iterable[Request[Any]]:
        if self.checkpoint:
            return (CheckpointLosses("", self.source, self.checkpoint, self.tiny.max_seq_len),)
        return (*(self._losses(about, seed) for seed in self.seeds), self._losses(about, self.seed, dealt=True))

    def _losses(self, about: View, seed: int, *, dealt: bool = False) -> Losses:
        return Losses(about.model, self.source, self.tiny, self.training, seed, dealt)

    def compute(self, inputs: Inputs) -> ConnectorResult:
        source, found = self.source, [inputs[request] for request in inputs.requests]
        held_out = load_held_out(source) if self.checkpoint else load_data(source).held_out
        train = held_out if self.checkpoint else load_data(source).train
        connectors = [Connector.of(arrays, held_out) for arrays in found]
        own = dict(zip(self.seeds, connectors, strict=False))  # the last may be the control
        compared = compare([each.ablation for each in own.values()], self.seed)
        control = None if self.checkpoint else compare([connectors[-1].ablation], self.seed)[0]["shuffled"]
        skipped = dict.fromkeys((*train.skipped, *held_out.skipped))
        return ConnectorResult(
            subject=self.checkpoint or inputs.model,
            connectors=own,
            compared=dict(zip(own, compared, strict=True)),
            control=control,
            data={
                "train": {"name": train.name, "items": len(train)},
                "held_out": {"name": held_out.name, "items": len(held_out), "sha256": held_out.fingerprint},
                "skipped": [asdict(each) for each in skipped],
            },
        )

    def claims(self) -> Sequence[Claim[ConnectorResult]]:
        """That the loss with the correct image is lower than under each other arm, for every connector."""
        beside = (
            "; where it is not lower the connector is not used: look for placeholders that are not replaced, labels "
            "that are masked wrongly, and image tokens that are not put in"
        )

        def of(result: ConnectorResult, seed: int, arm: str) -> Comparison:
            return result.compared[seed][arm]

        return [
            lower_loss(f"lower_loss/{arm}/seed={seed}", partial(of, seed=seed, arm=arm), beside)
            for seed in self.seeds
            for arm in ARMS
            if arm != CORRECT
        ]

    def summary(self, result: ConnectorResult) -> Mapping[str, Any]:
        language, projector = result.connectors[result.seed].parameters
        return {
            "subject": result.subject,
            "items": len(result.ablations[result.seed].ids),
            "connectors": [
                {
                    "seed": seed,
                    CORRECT: ablation.mean(CORRECT, result.seed),
                    "arms": result.compared[seed],
                    "mean_over_label_tokens": {arm: ablation.token_mean(arm) for arm in ablation.losses},
                }
                for seed, ablation in result.ablations.items()
            ],
            "holm": "over all arms of all connectors",
            "control": result.control,
            "published": published.as_dict(),
            "data": result.data,
            "parameters": {"language": language, "projector": projector} if result.control is not None else None,
        }

    def arrays(self, inputs: Inputs, result: ConnectorResult) -> Mapping[str, Mapping[str, ArrayLike]]:
        ablations = list(result.ablations.values())
        losses = {arm: np.stack([each.losses[arm] for each in ablations]) for arm in ARMS}
        facts: dict[str, ArrayLike] = {
            "ids": ablations[0].ids,
            "seeds": self.seeds,
            "label_tokens": ablations[0].label_tokens,
        }
        return {"{}/losses.npz": {**facts, **losses}}

    def documents(self, inputs: Inputs, result: ConnectorResult) -> Mapping[str, Any]:
        coverage = {
            "subject": result.subject,
            **result.coverage.as_dict(),
            "epochs": {
                str(seed): [progress.as_dict() for progress in connector.history]
                for seed, connector in result.connectors.items()
            },
            "published": dict(published.COVERAGE),
        }
        text = table(result.subject, result.ablations, result.compared, result.coverage)
        return {"{}/ablation.md": text, "{}/coverage.json": coverage}

    def title(self) -> str:
        return f"loss by arm, {self.held_out} held-out items"

    def panels(self, inputs: Inputs, result: ConnectorResult) -> Sequence[Panel]:
        """Loss by arm, and the paired difference of every item."""
        series = {
            f"seed {seed}": {
                CORRECT: ablation.mean(CORRECT, result.seed),
                **{arm: comparison.loss for arm, comparison in result.compared[seed].items()},
            }
            for seed, ablation in result.ablations.items()
        }

        def losses(axes: Axes) -> None:
            interval_panel(axes, series, None, "loss per label token, nats (mean over items, 95 %)")

        return losses, partial(differences_panel, ablations=result.ablations, compared=result.compared)
