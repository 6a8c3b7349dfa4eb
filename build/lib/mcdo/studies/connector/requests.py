"""What the study measures: connectors trained on an encoder, and losses by arm of these or of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators import prepared
from mcdo.estimators.provenance import encoder_identity
from mcdo.harness import Request, Session, StoredArrays
from mcdo.harness.requests import Arrays
from mcdo.store import Store
from mcdo.studies.connector.ablation import Ablation, ablate
from mcdo.studies.connector.arms import ARMS, CORRECT, derangement
from mcdo.studies.connector.coverage import Coverage
from mcdo.studies.connector.data import Source, load_data, load_held_out
from mcdo.studies.connector.items import Captioned
from mcdo.studies.connector.models import load_llava
from mcdo.studies.connector.samples import Wording
from mcdo.studies.connector.tiny import TinyConfig, TinyConnector
from mcdo.studies.connector.training import STAGES, Epoch, Stage, TrainingConfig, train_stage
from mcdo.studies.connector.words import IMAGE, word_tokenizer

_CHUNK = 256
_TEXTS = 10_000
_CODE = "mcdo.studies.connector"


@dataclass(frozen=True, eq=False)
class Connector:
    """What is known of one connector: its ablation, what each epoch showed, and how many parameters it has.

    ``coverage`` is of the items that were trained on (of the whole file for a checkpoint of one's own).
    """

    ablation: Ablation
    coverage: Coverage
    history: tuple[Epoch, ...] = ()
    parameters: tuple[int, int] = (0, 0)

    def as_arrays(self) -> Arrays:
        """``loss/ARM`` [N], and the rest as numbers."""
        epochs = [(STAGES.index(p.stage), p.epoch, *astuple(p.coverage)) for p in self.history]
        return {
            **{f"loss/{arm}": losses for arm, losses in self.ablation.losses.items()},
            "label_tokens": self.ablation.label_tokens,
            "coverage": np.array(astuple(self.coverage)),
            "epochs": np.array(epochs, dtype=np.int64).reshape(-1, 2 + len(astuple(self.coverage))),
            "epoch_losses": np.array([p.loss for p in self.history]),
            "parameters": np.array(self.parameters),
        }

    @classmethod
    def of(cls, arrays: Arrays, held_out: Captioned) -> Connector:
        """From :meth:`as_arrays`."""
        losses = {arm: arrays[f"loss/{arm}"] for arm in ARMS if f"loss/{arm}" in arrays}
        ids = tuple(item.id for item in held_out.items)
        rows = zip(arrays["epochs"].tolist(), arrays["epoch_losses"].tolist(), strict=True)
        language, projector = arrays["parameters"].tolist()
        return cls(
            Ablation(ids, held_out.origins, losses, arrays["label_tokens"]),
            Coverage(*arrays["coverage"].tolist()),
            tuple(Epoch(STAGES[stage], epoch, loss, Coverage(*shown)) for (stage, epoch, *shown), loss in rows),
            (language, projector),
        )


@dataclass(frozen=True)
class Trained(Request[tuple[TinyConnector, Wording, list[Epoch]]]):
    """A connector of its own ``seed`` trained in two stages, its wording, and what each epoch showed.

    The state after each epoch is kept in the store, so what was killed goes on.
    """

    source: Source
    tiny: TinyConfig
    training: TrainingConfig
    seed: int

    def measure(self, session: Session) -> tuple[TinyConnector, Wording, list[Epoch]]:
        with session.unmuted():
            return trained_connector(
                session.encoder(self.model), load_data(self.source).train, self.tiny, self.training, self.seed,
                session.store,
            )  # fmt: skip


@dataclass(frozen=True)
class Losses(StoredArrays):
    """:meth:`Connector.as_arrays` of a trained connector.

    ``dealt``: a control in which every item has another's picture, also where the correct one should be; its arms are
    correct and shuffled.
    """

    what = "connector losses"
    code = _CODE
    text = False

    source: Source
    tiny: TinyConfig
    training: TrainingConfig
    seed: int
    dealt: bool = False

    def identity(self, session: Session) -> Mapping[str, Any]:
        data = load_data(self.source)
        images = {"train": data.train.fingerprint, "held_out": data.held_out.fingerprint}
        settings = {"tiny": asdict(self.tiny), "training": asdict(self.training), "dealt": self.dealt}
        seeds = {"seed": self.seed, "arms_seed": self.source.seed}
        return {**images, **settings, **seeds, "libraries": _libraries()}

    def compute(self, session: Session) -> Arrays:
        encoder, data = session.encoder(self.model), load_data(self.source)
        trained = Trained(self.model, self.source, self.tiny, self.training, self.seed)
        model, wording, history = session.measure(trained)
        pixels, origins, seed = encoder_pixels(encoder, data.held_out), data.held_out.origins, self.source.seed
        if self.dealt:
            pixels = pixels[derangement(origins, seed + 1)]
        ablation = ablate(
            model, wording, data.held_out.items, pixels, black(encoder), seed=seed, origins=origins,
            arms=(CORRECT, "shuffled") if self.dealt else ARMS,
        )  # fmt: skip
        language, projector = (sum(p.numel() for p in part.parameters()) for part in (model.lm, model.projector))
        coverage = Coverage.of(map(wording.sample, data.train.items), wording.max_seq_len)
        return Connector(ablation, coverage, tuple(history), (language, projector)).as_arrays()


@dataclass(frozen=True)
class CheckpointLosses(StoredArrays):
    """The same of a LLaVA checkpoint in a folder; coverage is counted over all items of the file."""

    what = "connector losses of a checkpoint"
    code = _CODE
    text = False

    source: Source
    folder: str
    max_seq_len: int

    def identity(self, session: Session) -> Mapping[str, Any]:
        held = load_held_out(self.source)  # a bad picture is reported before the checkpoint is read
        texts = Store.key({"items": [[item.prompt, item.answer] for item in self.source.listing.items]})
        facts = {"held_out": held.fingerprint, "texts": texts, "seed": self.source.seed}
        return {**facts, "max_seq_len": self.max_seq_len, "weights": _contents(self.folder), "libraries": _libraries()}

    def compute(self, session: Session) -> Arrays:
        data = load_held_out(self.source)
        with session.unmuted():
            model, tokenizer, processor = load_llava(Path(self.folder), session.settings.device)
            pixels = torch.cat([_processed(processor, data.images.image(int(i)), model.device) for i in data.rows])
            blank = _processed(processor, Image.new("RGB", (pixels.shape[-1], pixels.shape[-2])), model.device)
            with torch.no_grad():
                per_image = model.visual(blank).shape[1]
            wording = Wording(tokenizer, model.image_token_id, per_image, self.max_seq_len)
            ablation = ablate(
                model, wording, data.items, pixels, blank,
                seed=self.source.seed, origins=data.origins, batch_size=8, parts=session.parts,
            )  # fmt: skip
        return Connector(
            ablation, Coverage.of(map(wording.sample, self.source.listing.items), wording.max_seq_len)
        ).as_arrays()


def trained_connector(
    encoder: Encoder, train: Captioned, tiny: TinyConfig, training: TrainingConfig, seed: int, store: Store | None
) -> tuple[TinyConnector, Wording, list[Epoch]]:
    """A connector trained in two stages, with its wording and what each epoch showed."""
    texts = [text for item in train.items[:_TEXTS] for text in (item.prompt, item.answer)]
    tokenizer = word_tokenizer(texts)
    model = TinyConnector(encoder, len(tokenizer), int(tokenizer.convert_tokens_to_ids(IMAGE)), tiny, seed)
    wording = Wording(tokenizer, model.image_token_id, model.tokens_per_image, tiny.max_seq_len)
    samples = [wording.sample(item) for item in train.items]
    language = {
        "texts": Store.key({"items": [[i.prompt, i.answer] for i in train.items]}),
        "tiny": asdict(tiny),
        "tokens_per_image": model.tokens_per_image,
        "torch": torch.__version__,
        "libraries": _libraries(),
        "device": encoder.device.type,
    }
    tower = {"encoder": encoder_identity(encoder), "data": train.fingerprint}

    def tokens() -> Tensor:
        pixels, rows = prepared(encoder, train.images), train.rows
        return torch.cat([model.tower(pixels.batch(rows[i : i + _CHUNK])) for i in range(0, len(rows), _CHUNK)])

    identities: dict[Stage, dict[str, Any]] = {"language": language, "connector": {**language, **tower}}
    history: list[Epoch] = []
    for stage, identity in identities.items():
        history += train_stage(stage, model, samples, tokens, wording, training, seed, store=store, identity=identity)
    return model, wording, history


def encoder_pixels(encoder: Encoder, data: Captioned) -> Tensor:
    """The normalised image of every item, float32 [N, 3, H, W]."""
    return prepared(encoder, data.images).batch(data.rows)


def black(encoder: Encoder) -> Tensor:
    """A black picture as the encoder is shown it, [1, 3, H, W]."""
    return encoder.normalise(torch.zeros(1, 3, encoder.resolution, encoder.resolution, dtype=torch.uint8))


def _processed(processor: Any, image: Image.Image, device: torch.device) -> Tensor:
    pixels: Tensor = processor(images=[image], return_tensors="pt")["pixel_values"]
    return pixels.to(device)


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("transformers", "tokenizers")}


def _contents(folder: str) -> str:
    """SHA-256 over names and contents of a folder's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).glob("*") if path.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
