"""Encoders: one registry entry per key, one file per backend, and the embedded models."""

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.load import find_spec, load_encoder
from mcdo.encoders.registered import register_encoder
from mcdo.encoders.registry import REGISTRY
from mcdo.encoders.spec import EncoderSpec
from mcdo.encoders.text_tower import Prompts, TextTower, Tokens

__all__ = [
    "REGISTRY",
    "Encoder",
    "EncoderSpec",
    "Prompts",
    "TextTower",
    "Tokens",
    "find_spec",
    "load_encoder",
    "register_encoder",
]
