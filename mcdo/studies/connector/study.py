"""The study from data to result: a connector trained here, or a LLaVA checkpoint of one's own, and its ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators import prepared
from mcdo.harness.settings import ProtocolName
from mcdo.store import Store
from mcdo.studies.connector.ablation import Ablation, ablate
from mcdo.studies.connector.coverage import Coverage
from mcdo.studies.connector.items import Captioned, Item, digit_items
from mcdo.studies.connector.llava_json import read_items, split, with_images
from mcdo.studies.connector.models import load_llava
from mcdo.studies.connector.samples import Wording
from mcdo.studies.connector.tiny import TinyConfig, TinyConnector
from mcdo.studies.connector.training import Progress, Stage, TrainingConfig, train_stage
from mcdo.studies.connector.words import IMAGE, word_tokenizer

_CHUNK = 256
_TEXTS = 10_000


@dataclass(frozen=True)
class ConnectorConfig:
    """The study. ``connectors`` have the seeds seed, seed + 1, …; ``train`` caps the training items of a JSON."""

    QUICK: ClassVar[Mapping[str, Any]] = {
        "held_out": 128,
        "connectors": 1,
        "training": TrainingConfig(language_epochs=5, connector_epochs=4),
    }

    seed: int = 42
    held_out: int = 256
    connectors: int = 3
    train: int = 4900
    tiny: TinyConfig = field(default_factory=TinyConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @classmethod
    def of(cls, protocol: ProtocolName, seed: int = 42, max_seq_len: int = 512) -> ConnectorConfig:
        """The configuration under a protocol."""
        return cls(**(cls.QUICK if protocol == "quick" else {}), seed=seed, tiny=TinyConfig(max_seq_len=max_seq_len))


@dataclass(frozen=True)
class Data:
    """Items to train on and held-out ones; no image is in both."""

    train: Captioned
    held_out: Captioned


@dataclass(frozen=True, eq=False)
class Result:
    """One ablation per connector, what each epoch of its training showed, and where all of it comes from.

    ``coverage`` is of the items that were trained on (of the whole file for a checkpoint of one's own).
    """

    subject: str
    seeds: tuple[int, ...]
    ablations: tuple[Ablation, ...]
    histories: tuple[tuple[Progress, ...], ...]
    coverage: Coverage
    provenance: Mapping[str, Any]


def digits_data(config: ConnectorConfig) -> Data:
    """All training digits, and held-out ones spread over the classes."""
    return Data(digit_items("digits:train", None, config.seed), digit_items("digits", config.held_out, config.seed))


def json_data(config: ConnectorConfig, path: Path, root: Path, *, skip_bad: bool = False) -> Data:
    """A seeded choice from a LLaVA-Pretrain file; raises as :mod:`mcdo.studies.connector.llava_json` does."""
    listing = read_items(path, skip_bad=skip_bad)
    train, held = split(listing, config.held_out, config.train, config.seed)
    return Data(
        with_images(listing, train, root, skip_bad=skip_bad), with_images(listing, held, root, skip_bad=skip_bad)
    )


def study_encoder(encoder: Encoder, data: Data, config: ConnectorConfig, store: Store | None) -> Result:
    """Train ``config.connectors`` connectors on an encoder and ablate each on the held-out items.

    Raises:
        McdoError: one of ``faults``, or what the data or the encoder refuse.

    """
    connectors = [
        trained_connector(encoder, data.train, config, config.seed + i, store) for i in range(config.connectors)
    ]
    pixels = encoder_pixels(encoder, data.held_out)
    ablations = [
        ablate(model, wording, data.held_out.items, pixels, black(encoder), seed=config.seed)
        for model, wording, _ in connectors
    ]
    wording = connectors[0][1]
    return Result(
        subject=encoder.key,
        seeds=tuple(config.seed + i for i in range(config.connectors)),
        ablations=tuple(ablations),
        histories=tuple(tuple(history) for _, _, history in connectors),
        coverage=Coverage.of(map(wording.sample, data.train.items), wording.max_seq_len),
        provenance={
            **_provenance(data, config, encoder.device),
            "encoder": {"key": encoder.key, "weights": encoder.weights_hash, "random_weights": encoder.random_weights},
            "parameters": {
                "language": sum(p.numel() for p in connectors[0][0].lm.parameters()),
                "projector": sum(p.numel() for p in connectors[0][0].projector.parameters()),
            },
        },
    )


def trained_connector(
    encoder: Encoder, train: Captioned, config: ConnectorConfig, seed: int, store: Store | None
) -> tuple[TinyConnector, Wording, list[Progress]]:
    """A connector trained in two stages, with its wording and what each epoch showed."""
    texts = [text for item in train.items[:_TEXTS] for text in (item.prompt, item.answer)]
    tokenizer = word_tokenizer(texts)
    model = TinyConnector(encoder, len(tokenizer), int(tokenizer.convert_tokens_to_ids(IMAGE)), config.tiny, seed)
    wording = Wording(tokenizer, model.image_token_id, model.tokens_per_image, config.tiny.max_seq_len)
    samples = [wording.sample(item) for item in train.items]
    language = {
        "texts": Store.key({"items": [[i.prompt, i.answer] for i in train.items]}),
        "tiny": asdict(config.tiny),
        "tokens_per_image": model.tokens_per_image,
        "torch": torch.__version__,
        "device": encoder.device.type,
    }
    tower = {"encoder": encoder.weights_hash, "preprocessing": encoder.preprocess_id, "data": train.fingerprint}

    def tokens() -> Tensor:
        pixels, rows = prepared(encoder, train.images), train.rows
        return torch.cat([model.tower(pixels.batch(rows[i : i + _CHUNK])) for i in range(0, len(rows), _CHUNK)])

    identities: dict[Stage, dict[str, Any]] = {"language": language, "connector": {**language, **tower}}
    history: list[Progress] = []
    for stage, identity in identities.items():
        history += train_stage(
            stage, model, samples, tokens, wording, config.training, seed, store=store, identity=identity
        )
    return model, wording, history


def encoder_pixels(encoder: Encoder, data: Captioned) -> Tensor:
    """The normalised image of every item, float32 [N, 3, H, W]."""
    return prepared(encoder, data.images).batch(data.rows)


def black(encoder: Encoder) -> Tensor:
    """A black picture as the encoder is shown it, [1, 3, H, W]."""
    return encoder.normalise(torch.zeros(1, 3, encoder.resolution, encoder.resolution, dtype=torch.uint8))


def study_llava(
    folder: Path, path: Path, root: Path, config: ConnectorConfig, device: str, *, skip_bad: bool = False
) -> Result:
    """Ablate a LLaVA checkpoint on held-out items of a JSON; coverage is counted over all of its items.

    Raises:
        McdoError: as the data, the checkpoint and ``faults`` say, before anything is measured.

    """
    listing = read_items(path, skip_bad=skip_bad)
    _, held = split(listing, config.held_out, 0, config.seed)
    data = with_images(listing, held, root, skip_bad=skip_bad)
    model, tokenizer, processor = load_llava(folder, device)
    pixels = torch.cat([_processed(processor, data.images.image(int(row)), model.device) for row in data.rows])
    blank = _processed(processor, Image.new("RGB", (pixels.shape[-1], pixels.shape[-2])), model.device)
    with torch.no_grad():
        per_image = model.visual(blank).shape[1]
    wording = Wording(tokenizer, model.image_token_id, per_image, config.tiny.max_seq_len)
    ablation = ablate(model, wording, data.items, pixels, blank, seed=config.seed, batch_size=8)
    return Result(
        subject=str(folder),
        seeds=(config.seed,),
        ablations=(ablation,),
        histories=((),),
        coverage=_coverage_of(listing.items, wording),
        provenance={**_provenance(Data(data, data), config, model.device), "checkpoint": str(folder)},
    )


def _processed(processor: Any, image: Image.Image, device: torch.device) -> Tensor:
    pixels: Tensor = processor(images=[image], return_tensors="pt")["pixel_values"]
    return pixels.to(device)


def _coverage_of(items: Sequence[Item], wording: Wording) -> Coverage:
    return Coverage.of((wording.sample(item) for item in items), wording.max_seq_len)


def _provenance(data: Data, config: ConnectorConfig, device: torch.device) -> dict[str, Any]:
    return {
        "config": asdict(config),
        "data": {
            "train": {"name": data.train.name, "items": len(data.train)},
            "held_out": {"name": data.held_out.name, "items": len(data.held_out), "sha256": data.held_out.fingerprint},
            "skipped": [asdict(each) for each in (*data.train.skipped, *data.held_out.skipped)],
        },
        "device": str(device),
        "versions": {name: version(name) for name in ("mcdo", "torch", "transformers", "tokenizers", "numpy")},
    }
