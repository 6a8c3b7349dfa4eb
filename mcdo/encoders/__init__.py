"""Encoders: one registry entry per key, one file per backend, and the embedded models."""

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.load import find_spec, load_encoder
from mcdo.encoders.registry import REGISTRY, registered_keys
from mcdo.encoders.spec import EncoderSpec

__all__ = ["REGISTRY", "Encoder", "EncoderSpec", "find_spec", "load_encoder", "registered_keys"]
