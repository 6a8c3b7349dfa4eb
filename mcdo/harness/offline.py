"""An encoder that is not loaded: what is needed to find its results in the store, and nothing more."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.harness.settings import Settings
from mcdo.names import file_name
from mcdo.store import Store


@dataclass(frozen=True)
class OfflineEncoder:
    """Stands in for an :class:`~mcdo.encoders.Encoder` wherever only its identity is asked for."""

    key: str
    weights_hash: str
    modules_hash: str
    preprocess_id: str
    random_weights: bool
    resolution: int
    feature_dim: int
    device_type: str
    dtype: str

    @property
    def device(self) -> torch.device:
        """Where the results were measured."""
        return torch.device(self.device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise McdoError(
            f"{self.key}: something that is to be computed is not in the store, and --from-store loads no model "
            f"(it asked for the encoder's {name}); run once without --from-store"
        )

    @classmethod
    def of(cls, encoder: Encoder) -> OfflineEncoder:
        """The identity of a loaded encoder."""
        return cls(
            encoder.key,
            encoder.weights_hash,
            encoder.modules_hash,
            encoder.preprocess_id,
            encoder.random_weights,
            encoder.resolution,
            encoder.feature_dim,
            encoder.device.type,
            encoder.dtype,
        )

    def write(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> OfflineEncoder:
        """The identity that an earlier session wrote.

        Raises:
            McdoError: if the store knows nothing of this encoder.

        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise McdoError(f"--from-store: {path} cannot be read ({error}); run once without --from-store") from error


def card(store: Store, settings: Settings, model: str) -> Path:
    """Where the identity of ``model`` under these settings stands in the store."""
    weights = f"random {settings.seed}" if model in settings.random_weights else "pretrained"
    name = f"{_absolute(model)} {weights} {settings.device} {settings.precision}"
    return store.root / "encoders" / f"{file_name(name)}.json"


def _absolute(model: str) -> str:
    """A model's key for a store that several folders share: ``local-dir:last`` is another model in each of them."""
    kind, colon, place = model.partition(":")
    return f"{kind}:{Path(place).expanduser().resolve()}" if colon and Path(place).expanduser().is_dir() else model
