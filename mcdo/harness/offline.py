"""An encoder that is not loaded: what is needed to find its results in the store, and nothing more."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mcdo import arguments
from mcdo.encoders import REGISTRY, Encoder
from mcdo.errors import McdoError
from mcdo.harness.settings import Settings
from mcdo.names import file_name, from_path
from mcdo.schema import read_json
from mcdo.store import Store, canonical_json

_PIECES, _PIECE = 64, 2**12


@dataclass(frozen=True)
class OfflineEncoder:
    """Stands in for an :class:`~mcdo.encoders.Encoder` wherever only its identity is asked for."""

    key: str
    weights_hash: str
    architecture: str
    probe: str
    text: str | None
    preprocess_id: str
    random_weights: bool
    resolution: int
    feature_dim: int
    device_type: str
    dtype: str
    has_text: bool = True

    @property
    def device(self) -> torch.device:
        """Where the results were measured."""
        return torch.device(self.device_type)

    @property
    def text_identity(self) -> str:
        """Of the tokenizer and the text tower. Raises McdoError where no session has looked at them yet."""
        if self.text is None:
            self.__getattr__("text_identity")
        return str(self.text)

    def probe_of(self, now: tuple[str, str]) -> str:
        """As an encoder's, whose weights and architecture nobody can have changed here."""
        return self.probe

    def text_identity_of(self, now: tuple[str, str]) -> str:
        """Likewise."""
        return self.text_identity

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise McdoError(
            f"{self.key}: something that is to be computed is not in the store, and --from-store loads no model "
            f"(it asked for the encoder's {name}); run once without --from-store"
        )

    @classmethod
    def of(cls, encoder: Encoder, text: str | None = None) -> OfflineEncoder:
        """The identity of a loaded encoder; ``text`` is its :attr:`~mcdo.encoders.Encoder.text_identity`, if known."""
        return cls(
            encoder.key,
            encoder.weights_hash,
            encoder.architecture,
            encoder.probe,
            text,
            encoder.preprocess_id,
            encoder.random_weights,
            encoder.resolution,
            encoder.feature_dim,
            encoder.device.type,
            encoder.dtype,
            encoder.has_text,
        )

    def write(self, path: Path) -> None:
        """As JSON; what an earlier session knew of the text tower of the same encoder is kept."""
        if self.text is None:
            with suppress(McdoError):
                known = OfflineEncoder.read(path)
                if replace(known, text=None) == self:
                    return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}.{path.name}")
        part.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> OfflineEncoder:
        """The identity that an earlier session wrote.

        Raises:
            McdoError: if the store knows nothing of this encoder.

        """
        found: OfflineEncoder = read_json(path, cls, "--from-store needs it: run once without --from-store")
        return found


def card(store: Store, settings: Settings, model: str) -> Path:
    """Where the identity of ``model`` under these settings stands in the store."""
    weights = f"random {settings.seed}" if model in settings.random_weights else "pretrained"
    device = settings.device.partition(":")[0]  # cuda:1 measures what cuda does
    name = f"{_absolute(model)} {weights} {device} {settings.precision}"
    return store.root / "encoders" / f"{file_name(name)}.json"


def _absolute(model: str) -> str:
    """A model's key for a store that several folders and machines share, in which the same path holds other files."""
    spec = REGISTRY.get(model)
    kind, colon, place = (model if spec is None or not spec.embedded else spec.source).partition(":")
    folder = arguments.path(place)
    if not colon or not folder.is_dir():
        return model
    files = [(path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    held = canonical_json([(from_path(f.name), stat.st_size, stat.st_mtime_ns, _glimpse(f)) for f, stat in files])
    where = str(folder.resolve()) if spec is None else model
    return f"{kind}:{where} {hashlib.sha256(held.encode()).hexdigest()}"


def _glimpse(path: Path) -> str:
    """Digest of pieces from all over a file: in archives and images of containers all files may be of one time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        last = max(0, path.stat().st_size - _PIECE)
        for i in range(_PIECES):
            file.seek(last * i // (_PIECES - 1))
            digest.update(file.read(_PIECE))
    return digest.hexdigest()
