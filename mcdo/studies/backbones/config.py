"""The protocol of the study as one frozen default, and YAML files that overlay it.

The defaults are the published ones. An overlay may name any of them and nothing else: an unknown key, at any depth, is
an error with the nearest known one, and so is a value of another type.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from mcdo.errors import McdoError
from mcdo.schema import Count, NotNegative, Positive, Size, Text, read_yaml
from mcdo.store import digest

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class ModelConfig:
    """The temporal transformer: width, layers, heads, and the width of the feed-forward part and of the head."""

    dim: Size = 128
    layers: Size = 2
    heads: Size = 4
    feedforward: Size = 512
    head: Size = 64


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW, linear warm-up and cosine to zero, early stopping on the loss of ``validation_groups`` left-out groups."""

    learning_rate: Positive = 1e-4
    weight_decay: NotNegative = 0.01
    batch_size: Size = 16
    max_epochs: Size = 100
    patience: Size = 20
    warmup_epochs: Count = 5
    gradient_clip: Positive = 1.0
    pos_weight: Positive = 1.5
    validation_groups: Size = 6


@dataclass(frozen=True)
class BackbonesConfig:
    """The study: which backbones on which plants, which of them is the baseline, how many folds and which seeds.

    ``folds`` is the number of groups that are left out in turn (0: every one); all others are trained on. ``images``
    of extraction are saved ``block`` at a time, by ``shards`` jobs; ``tasks_per_job`` (seed, fold) pairs are one job.
    """

    backbones: tuple[Text, ...] = ("dinov2", "clip_b16", "bioclip", "bioclip2")
    baseline: str = "dinov2"
    plants: str = "wilting"
    folds: Count = 0
    seeds: tuple[Count, ...] = (42, 43, 44)
    shards: Size = 4
    block: Size = 256
    tasks_per_job: Size = 1
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for problem, wrong in {
            f"baseline {self.baseline!r} is not among backbones {list(self.backbones)}": (
                self.baseline not in self.backbones
            ),
            "a backbone or a seed is named twice, or there is none": not (
                0 < len(set(self.backbones)) == len(self.backbones) and 0 < len(set(self.seeds)) == len(self.seeds)
            ),
            "model.dim must be a multiple of model.heads": self.model.dim % self.model.heads != 0,
        }.items():  # fmt: skip
            if wrong:
                raise McdoError(f"configuration: {problem}")

    def training_key(self) -> str:
        """SHA-256 of all that decides a trained model, apart from its features, seed and fold."""
        what = {"model": asdict(self.model), "training": asdict(self.training)}
        return digest(what)


def load_config(overlay: str | Path | None = None) -> BackbonesConfig:
    """The default, or the default under a YAML file: a path, or the name of one in ``configs/`` such as ``embedded``.

    Raises:
        McdoError: for a file that is not there or no mapping, an unknown key, or a value of another type.

    """
    if overlay is None:
        return BackbonesConfig()
    path = Path(overlay) if Path(overlay).suffix else CONFIGS / f"{overlay}.yaml"
    known = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
    found: BackbonesConfig = read_yaml(path, BackbonesConfig, f"shipped ones: {known}")
    return found
