"""Encoders from outside: factories by key, registered in a conftest, offered by a package, or named in place.

A factory is called as ``factory(device=..., precision=...)``, with as much of that as it takes, and returns an
:class:`~mcdo.encoders.Encoder`. What is known before it is called is its key and its family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any

import torch

from mcdo.encoders.encoder import Encoder
from mcdo.encoders.registry import REGISTRY
from mcdo.encoders.spec import EncoderSpec, Precision
from mcdo.errors import McdoError
from mcdo.registration import Table, loaded

PREFIX = "python:"
"""``python:package.module:factory`` names a factory in place."""
FAMILY = "own"
"""Family, and so mark, of an encoder whose factory says no other."""

Factory = Callable[..., Encoder]


@dataclass(frozen=True)
class RegisteredEncoder:
    """A factory, and the family (mark) of the encoder it makes."""

    factory: Factory
    family: str = FAMILY


def _accepted(name: str, found: object) -> RegisteredEncoder:
    if not callable(found):
        raise McdoError(f"the encoder {name!r}: {found!r} is no factory; give a function that returns an mcdo.Encoder")
    return RegisteredEncoder(found, getattr(found, "family", FAMILY))


FACTORIES: Table[RegisteredEncoder] = Table("encoder", "mcdo.encoders", _accepted, REGISTRY)
"""Encoders by key: mcdo's own, then what was registered and what installed packages offer."""


def register_encoder(key: str, factory: Factory, family: str = FAMILY) -> None:
    """Make ``--models=key`` and ``load_encoder(key)`` call ``factory``.

    Args:
        key: name of the encoder in options and reports.
        factory: returns an :class:`~mcdo.encoders.Encoder`; called with ``device=`` and ``precision=`` where it takes
            them.
        family: mark of its tests, such as ``clip``, ``siglip`` or one of your own.

    Raises:
        McdoError: for a key that is taken, or a factory that cannot be called.

    """
    FACTORIES.add(key, replace(_accepted(key, factory), family=family))


def is_registered(key: str) -> bool:
    """Whether a factory makes the encoder of that key."""
    return key.startswith(PREFIX) or (key in FACTORIES and key not in REGISTRY)


def registered(key: str) -> RegisteredEncoder:
    """The factory of a key.

    Raises:
        McdoError: if it cannot be imported, with the reason.

    """
    if not key.startswith(PREFIX):
        return FACTORIES.find(key)
    name = key.removeprefix(PREFIX)
    if name.count(":") != 1:
        raise McdoError(f"{key}: write {PREFIX}PACKAGE.MODULE:FACTORY")
    return _accepted(key, loaded(EntryPoint(key, name, FACTORIES.group), f"the encoder {key!r}"))


class UnloadedSpec(EncoderSpec):
    """What is known of a registered encoder before its factory is called: key and family, and no size."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("resolution", "feature_dim", "loss"):
            key = super().__getattribute__("key")
            raise McdoError(f"{key}: its {name} is known once its factory has made it; ask the loaded encoder")
        return super().__getattribute__(name)

    def __repr__(self) -> str:
        return f"UnloadedSpec({self.key!r}, {self.family!r})"


def unloaded_spec(key: str) -> UnloadedSpec:
    """The specification of a registered encoder that was not made yet."""
    family = registered(key).family
    return UnloadedSpec(key, family, "own", key, 0, 0, "softmax")


def make(key: str, device: torch.device, precision: Precision) -> Encoder:
    """Call the factory of ``key``.

    Raises:
        McdoError: for anything else than an encoder on ``device``, and for an error of the factory, with the reason.

    """
    entry = registered(key)
    offered = {"device": device, "precision": precision}
    given = {name: value for name, value in offered.items() if _takes(entry.factory, name)}
    try:
        encoder = entry.factory(**given)
    except McdoError:
        raise
    except Exception as error:  # a factory may raise anything
        raise McdoError(f"{key}: its factory failed ({type(error).__name__}: {error})") from error
    if not isinstance(encoder, Encoder):
        raise McdoError(f"{key}: its factory returned {type(encoder).__name__}; it must return an mcdo.Encoder")
    if encoder.device.type != device.type:
        raise McdoError(
            f"{key}: its factory made an encoder on {encoder.device}, and {device} was asked for; let it take device="
        )
    encoder.spec, encoder.key = replace(encoder.spec, key=key, family=entry.family), key
    return encoder


def _takes(factory: Factory, name: str) -> bool:
    parameters = inspect.signature(factory).parameters.values()
    return any(p.name == name or p.kind is p.VAR_KEYWORD for p in parameters)
