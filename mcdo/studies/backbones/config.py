"""The protocol of the study as one frozen default, and YAML files that overlay it.

The defaults are the published ones. An overlay may name any of them and nothing else: an unknown key, at any depth, is
an error with the nearest known one, and so is a value of another type.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from mcdo.errors import McdoError, nearest
from mcdo.store import canonical_json

CONFIGS = Path(__file__).parent / "configs"
Section = TypeVar("Section")


@dataclass(frozen=True)
class ModelConfig:
    """The temporal transformer: width, layers, heads, and the width of the feed-forward part and of the head."""

    dim: int = 128
    layers: int = 2
    heads: int = 4
    feedforward: int = 512
    head: int = 64


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW, linear warm-up and cosine to zero, early stopping on the loss of ``validation_groups`` left-out groups."""

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    batch_size: int = 16
    max_epochs: int = 100
    patience: int = 20
    warmup_epochs: int = 5
    gradient_clip: float = 1.0
    pos_weight: float = 1.5
    validation_groups: int = 6


@dataclass(frozen=True)
class BackbonesConfig:
    """The study: which backbones on which plants, which of them is the baseline, how many folds and which seeds.

    ``folds`` is the number of groups that are left out in turn (0: every one); all others are trained on. ``images``
    of extraction are saved ``block`` at a time, by ``shards`` jobs; ``tasks_per_job`` (seed, fold) pairs are one job.
    """

    backbones: tuple[str, ...] = ("dinov2", "clip_b16", "bioclip", "bioclip2")
    baseline: str = "dinov2"
    plants: str = "wilting"
    folds: int = 0
    seeds: tuple[int, ...] = (42, 43, 44)
    shards: int = 4
    block: int = 256
    tasks_per_job: int = 1
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
            "shards, block, tasks_per_job and training.batch_size, max_epochs, patience must be at least 1": min(
                self.shards, self.block, self.tasks_per_job,
                self.training.batch_size, self.training.max_epochs, self.training.patience,
            ) < 1,
            "training.validation_groups must be at least 1": self.training.validation_groups < 1,
            "folds must not be negative": self.folds < 0,
        }.items():  # fmt: skip
            if wrong:
                raise McdoError(f"configuration: {problem}")

    def training_key(self) -> str:
        """SHA-256 of all that decides a trained model, apart from its features, seed and fold."""
        what = {"model": asdict(self.model), "training": asdict(self.training)}
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()


def load_config(overlay: str | Path | None = None) -> BackbonesConfig:
    """The default, or the default under a YAML file: a path, or the name of one in ``configs/`` such as ``embedded``.

    Raises:
        McdoError: for a file that is not there or no mapping, an unknown key, or a value of another type.

    """
    if overlay is None:
        return BackbonesConfig()
    path = Path(overlay) if Path(overlay).suffix else CONFIGS / f"{overlay}.yaml"
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(sorted(each.stem for each in CONFIGS.glob("*.yaml")))
        raise McdoError(f"configuration {path} cannot be read ({error.strerror}); shipped ones: {known}") from error
    except yaml.YAMLError as error:
        raise McdoError(f"{path} is not YAML: {error}") from error
    return overlaid(BackbonesConfig(), {} if contents is None else contents, str(path))


def overlaid(default: Section, overlay: Any, where: str) -> Section:
    """``default`` (a frozen dataclass, possibly of others) with the values that ``overlay`` names."""
    if not isinstance(overlay, dict):
        raise McdoError(f"{where}: {overlay!r} where a mapping was expected")
    assert is_dataclass(default)
    known = {each.name: getattr(default, each.name) for each in fields(default)}
    changed: dict[str, Any] = {}
    for key, value in overlay.items():
        if key not in known:
            raise McdoError(f"{where}: unknown key {key!r}; the nearest: {nearest(str(key), known)}")
        changed[key] = _value(known[key], value, f"{where}: {key}")
    changed_copy: Any = replace(cast("Any", default), **changed)
    return cast("Section", changed_copy)


def _value(default: Any, value: Any, where: str) -> Any:
    """``value`` in the type of ``default``; YAML reads 1e-4 as text, which is taken for the number it is."""
    if is_dataclass(default):
        return overlaid(default, value, where)
    if isinstance(default, tuple):
        if not isinstance(value, list):
            raise McdoError(f"{where} is {value!r}; expected a list")
        return tuple(_value(default[0], each, where) for each in value)
    if isinstance(default, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) is not type(default):
        raise McdoError(f"{where} is {value!r}; expected {type(default).__name__}, such as {default!r}")
    return value
