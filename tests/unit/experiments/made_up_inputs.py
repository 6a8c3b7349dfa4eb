"""Inputs of an experiment without a session: the values of its requests, made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from mcdo.harness import Experiment, Images, Inputs, Request, Settings, Subject
from mcdo.images import ImageSet


@dataclass
class MadeUpInputs:
    """Stands in for :class:`~mcdo.harness.Inputs`; ``value`` makes what each request gives.

    ``image_set`` may be a function of the images asked for.
    """

    value: Callable[[Request[Any]], Any]
    image_set: ImageSet | SimpleNamespace | Callable[[Images], Any] | None = None
    settings: Settings = field(default_factory=lambda: Settings(models=("clip_tiny",)))
    subject: Subject = field(default_factory=lambda: Subject("clip_tiny", ("clip_tiny",)))
    encoders: Mapping[str, Any] = field(default_factory=dict)
    requests: tuple[Request[Any], ...] = ()
    unread: str = ""
    """Why nothing reads classes."""

    @property
    def model(self) -> str:
        return self.subject.model

    def __getitem__(self, request: Request[Any]) -> Any:
        return self.value(request)

    def images(self, images: Images) -> Any:
        return self.image_set(images) if callable(self.image_set) else self.image_set

    def why_no_head(self, images: Images) -> str:
        return self.unread

    def why_unread(self, request: Request[Any]) -> str:
        return self.unread

    def encoder(self, model: str | None = None) -> Any:
        return self.encoders[self.model if model is None else model]


def inputs_of(value: Callable[[Request[Any]], Any], **parts: Any) -> Inputs:
    """Typed as the real thing."""
    return cast("Inputs", MadeUpInputs(value, **parts))


def outcomes_of(experiment: Experiment[Any], result: Any) -> dict[str, str]:
    """How the claims end, by name."""
    return {claim.name: claim.judge(result).outcome for claim in experiment.claims()}
