"""What is known of an encoder before it is loaded: one frozen record per key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from mcdo import arguments
from mcdo.errors import McdoError

Family = str
Backend = Literal["open_clip", "hf", "own"]
Loss = Literal["softmax", "sigmoid"]
Precision = Literal["float32", "bfloat16", "float16"]

MODELS_DIR = Path(__file__).resolve().parents[1] / "data" / "models"


def check_precision(given: object) -> None:
    """Raise McdoError for what is no precision, naming those that are."""
    if given not in get_args(Precision):
        raise McdoError(f"precision={given!r}: say {', '.join(get_args(Precision))}")


@dataclass(frozen=True)
class EncoderSpec:
    """One encoder: where its architecture and weights come from, and what they must turn out to be.

    ``family`` is the kind of image tower (and the pytest mark): "clip" has a class token and a final projection,
    "siglip" an attention pooling head, "dinov2" no text; any other word is a family of one's own. ``loss`` is what it
    was trained with: "sigmoid" models have a logit bias.
    ``name`` is an open_clip model name, a ``local-dir:`` or ``hf-hub:`` identifier, or for the backend "hf" a
    checkpoint's id or path; an embedded model's is its folder under ``mcdo/data/models``. ``pretrained`` is the
    open_clip tag. ``hf_id`` is the same model's HuggingFace checkpoint, loaded when asked for with ``backend="hf"``.
    ``quick_gelu`` says whether the weights were trained with QuickGELU (None: the configuration beside them decides).
    ``default`` marks the embedded encoders that run when no model is named.
    """

    key: str
    family: Family
    backend: Backend
    name: str
    resolution: int
    feature_dim: int
    loss: Loss
    pretrained: str | None = None
    hf_id: str | None = None
    quick_gelu: bool | None = None
    embedded: bool = False
    default: bool = False

    @property
    def source(self) -> str:
        """What the backend is asked for: ``name``, or the ``local-dir:`` of an embedded encoder."""
        return f"local-dir:{MODELS_DIR / self.name}" if self.embedded else self.name


def square_side(where: object, size: Any) -> int:
    """The side of a square image, given as 32 or [32, 32]. Raises McdoError for any other size."""
    sides = set(arguments.wholes(f"{where}: image_size", size))
    if len(sides) != 1 or min(sides) < 1:
        raise McdoError(f"{where}: image_size = {size}: only square images are shown to an encoder here; give one side")
    return sides.pop()
