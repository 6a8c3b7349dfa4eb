"""The backbones by name: what is read from each, how long its feature must be, and where its weights come from.

``random:KEY`` is the same architecture with random weights, the only way to get them. Any encoder of
:func:`mcdo.load_encoder` is a backbone too. Weights are looked for on this disk only; what is missing is an error with
the command that gets it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image, ImageStat
from torch import Tensor

from mcdo.encoders import REGISTRY as ENCODERS
from mcdo.encoders import Encoder, find_spec, load_encoder
from mcdo.encoders.architecture import fingerprint
from mcdo.encoders.spec import EncoderSpec
from mcdo.encoders.state import unsaved_buffers
from mcdo.errors import McdoError, nearest

RANDOM = "random:"
_OWN = ("local-dir:", "hf-hub:", "hf:")


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone: ``prepare`` makes a picture a tensor on the CPU, ``forward`` a stack of them [B, D].

    ``weights`` and ``architecture`` are digests of what the model holds and of what it does with it.
    """

    name: str
    feature_size: int
    batch_size: int
    random_weights: bool
    weights: str
    architecture: str
    preprocessing: str
    prepare: Callable[[Image.Image], Tensor]
    forward: Callable[[Tensor], Tensor]

    def features(self, pictures: list[Image.Image]) -> Tensor:
        """Of pictures (mode RGB): float32 [B, D] on the CPU, without gradient.

        Raises:
            McdoError: if what comes out is not [B, D] with the stated D.

        """
        with torch.inference_mode():
            found = self.forward(torch.stack([self.prepare(picture) for picture in pictures])).float().cpu()
        if found.shape != (len(pictures), self.feature_size):
            raise McdoError(
                f"{self.name} gives features of {tuple(found.shape[1:])}, but ({self.feature_size},) is stated in its "
                "entry; nothing is written. Read another layer, or correct the entry"
            )
        return found


@dataclass(frozen=True)
class BackboneSpec:
    """An entry: ``reads`` says what the feature is, ``build(spec, random, seed, device)`` loads it."""

    key: str
    feature_size: int
    reads: str
    build: Callable[[BackboneSpec, bool, int, str], Backbone]
    source: str = ""
    batch_size: int = 64


def load_backbone(name: str, device: str = "cpu", seed: int = 0) -> Backbone:
    """Load a backbone and make sure, on one black picture, that its features have the size that its entry states.

    Raises:
        McdoError: for an unknown name (with the nearest), weights that are not on this disk (with the command that
            gets them), or features of another size.

    """
    spec = find_backbone(name)
    backbone = spec.build(spec, name.startswith(RANDOM), seed, device)
    backbone.features([Image.new("RGB", (64, 64))])
    return backbone


def find_backbone(name: str) -> BackboneSpec:
    """The entry of a name, without loading anything but, for an encoder of one's own, its configuration."""
    key = name.removeprefix(RANDOM)
    if key in BACKBONES:
        return BACKBONES[key]
    if key in ENCODERS or key.startswith(_OWN):
        return BackboneSpec(key, find_spec(key).feature_dim, "pre-norm image features", _from_encoder, key)
    raise McdoError(
        f"unknown backbone {name!r}; the nearest: {nearest(key, {*BACKBONES, *ENCODERS})}. "
        f"Random weights are asked for as {RANDOM}KEY; an encoder of one's own is local-dir:PATH, hf-hub:ID or hf:ID"
    )


def _of_encoder(spec: BackboneSpec, encoder: Encoder, weights: str) -> Backbone:
    return Backbone(
        name=(RANDOM if encoder.random_weights else "") + spec.key,
        feature_size=spec.feature_size,
        batch_size=spec.batch_size,
        random_weights=encoder.random_weights,
        weights=weights,
        architecture=encoder.architecture,
        preprocessing=f"{encoder.preprocess_id}; {spec.reads}",
        prepare=encoder.to_uint8,
        forward=lambda pixels: encoder.forward_image(encoder.normalise(pixels)),
    )


def _from_encoder(spec: BackboneSpec, random: bool, seed: int, device: str) -> Backbone:
    """An encoder as :func:`mcdo.load_encoder` gives it."""
    encoder = load_encoder(spec.source, device, weights="random" if random else "pretrained", seed=seed)
    return _of_encoder(spec, encoder, encoder.weights_hash)


# The same architecture and preprocessing by an open_clip name and tag, so that random weights need nothing from a hub.
_ARCHITECTURES = {
    "clip_b16": EncoderSpec(
        "clip_b16", "clip", "open_clip", "ViT-B-16-quickgelu", 224, 512, "softmax", pretrained="openai", quick_gelu=True
    ),
    "bioclip": EncoderSpec(
        "bioclip", "clip", "open_clip", "ViT-B-16", 224, 512, "softmax", pretrained="laion2b_s34b_b88k"
    ),
    "bioclip2": EncoderSpec(
        "bioclip2", "clip", "open_clip", "ViT-L-14", 224, 768, "softmax", pretrained="laion2b_s32b_b82k"
    ),
}
BEFORE_PROJECTION = "class token after ln_post, before the projection"
AFTER_PROJECTION = "encode_image, after the projection, not normalised"


def _open_clip(spec: BackboneSpec, random: bool, seed: int, device: str) -> Backbone:
    """A CLIP tower of open_clip, read before or after its projection as the entry says."""
    from mcdo.encoders import open_clip_backend

    if spec.source.startswith("hf-hub:") and not random:
        encoder = load_encoder(spec.source, device)
    else:
        encoder = open_clip_backend.load(
            _ARCHITECTURES[spec.key], random=random, seed=seed, device=torch.device(device)
        )
    weights = encoder.weights_hash  # of the whole model, before the projection is taken off
    if spec.reads == BEFORE_PROJECTION:
        visual = encoder.model.get_submodule("visual")
        encoder.feature_dim = visual.get_parameter("proj").shape[0]  # [width, projected]
        visual.register_parameter("proj", None)
    return _of_encoder(spec, encoder, weights)


def _dinov2(spec: BackboneSpec, random: bool, seed: int, device: str) -> Backbone:
    from mcdo.studies.backbones import dinov2

    model, weights = dinov2.load(spec.source, random, seed, device)
    return Backbone(
        name=(RANDOM if random else "") + spec.key,
        feature_size=spec.feature_size,
        batch_size=spec.batch_size,
        random_weights=random,
        weights=weights,
        architecture=fingerprint(model, dinov2.to_uint8, unsaved_buffers(model)),
        preprocessing=f"{dinov2.PREPROCESSING}; {spec.reads}",
        prepare=dinov2.to_uint8,
        forward=lambda pixels: dinov2.class_token(model, pixels.to(device)),
    )


def _mean_colour(image: Image.Image) -> Tensor:
    """Red, green and blue over all pixels, 0 to 1: of the picture as it is, because resizing rounds, and upwards."""
    return torch.tensor(ImageStat.Stat(image.convert("RGB")).mean, dtype=torch.float64) / 255


def _without_weights(measure: Callable[[Image.Image], Tensor]) -> Callable[[BackboneSpec, bool, int, str], Backbone]:
    """A baseline that is a function of the picture."""

    def build(spec: BackboneSpec, random: bool, seed: int, device: str) -> Backbone:
        if random:
            raise McdoError(f"{RANDOM}{spec.key}: {spec.key} has no weights that could be random; leave {RANDOM} out")
        nothing = hashlib.sha256(b"").hexdigest()
        size, batch = spec.feature_size, spec.batch_size
        did = fingerprint(measure)
        return Backbone(spec.key, size, batch, False, nothing, did, spec.reads, measure, torch.Tensor.float)

    return build


_SPECS = (
    BackboneSpec("dinov2", 768, "class token after the final norm", _dinov2, "facebook/dinov2-base"),
    BackboneSpec("clip_b16", 768, BEFORE_PROJECTION, _open_clip, "ViT-B-16-quickgelu/openai"),
    BackboneSpec("bioclip", 768, BEFORE_PROJECTION, _open_clip, "hf-hub:imageomics/bioclip"),
    BackboneSpec("bioclip2", 768, AFTER_PROJECTION, _open_clip, "hf-hub:imageomics/bioclip-2", batch_size=32),
    BackboneSpec("mean_colour", 3, "mean red, green and blue", _without_weights(_mean_colour), batch_size=256),
    BackboneSpec(
        "round_only",
        1,
        "nothing: a zero, so that only the round's number is left",
        _without_weights(lambda _: torch.zeros(1)),
        batch_size=256,
    ),
)

BACKBONES: dict[str, BackboneSpec] = {spec.key: spec for spec in _SPECS}
