"""What a session is asked to do: the command line's options, in one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcdo.encoders import find_spec
from mcdo.encoders.spec import Precision
from mcdo.perturbation import Dropout, Perturbation

SizeName = Literal["num_images", "images_at_most", "passes", "trials"]
ProtocolName = Literal["full", "quick"]
"""Sizes of a run: as published, or small."""


@dataclass(frozen=True)
class Sizes:
    """Sizes that take the place of the protocol's; None leaves a size as the protocol has it.

    Attributes:
        num_images: N.
        passes: T, ascending; one T alone keeps the protocol's smaller ones, which cost nothing.
        trials: K; an experiment of one trial stays one.

    """

    num_images: int | None = None
    passes: tuple[int, ...] | None = None
    trials: int | None = None

    def of(self, what: SizeName, held: Any) -> Any:
        """What takes the place of a size that the protocol ``held``: a number, or a ladder of T."""
        if what == "num_images":
            return held if self.num_images is None else self.num_images
        if what == "images_at_most":
            return held if self.num_images is None else min(held, self.num_images)
        if what == "trials":
            return held if self.trials is None or held == 1 else self.trials
        if self.passes is None:
            return held
        return self._ladder(held) if isinstance(held, tuple) else self.passes[-1]

    def _ladder(self, held: tuple[int, ...]) -> tuple[int, ...]:
        assert self.passes is not None
        if len(self.passes) > 1:
            return self.passes
        (most,) = self.passes
        below = tuple(t for t in held if t < most)
        return (*(below or (most // 2,)), most)

    def as_dict(self) -> dict[str, Any]:
        """Those that are given, JSON-able."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        words = {"num_images": "N", "passes": "T", "trials": "K"}
        given = {words[name]: value for name, value in self.as_dict().items()}
        return ", ".join(f"{name} = {value}" for name, value in given.items()) or "as the protocol has them"


@dataclass(frozen=True)
class Settings:
    """What the command line decides.

    Attributes:
        models: keys of the encoders.
        images: specification of the image set, as :func:`mcdo.load_images` takes it.
        device: a torch device.
        protocol: sizes.
        sizes: those that take the place of the protocol's.
        seed: of images, masks and intervals.
        dropout: the perturbation.
        reports: folder of the result files.
        store: folder of the measurements; None measures anew.
        batch_size: rows (images × passes) of one forward pass; None: chosen by resolution.
        random_weights: those of ``models`` to load with random weights.
        skip_unreadable: leave out unreadable images, and record them.
        from_store: load no model; what is not in the store is an error.
        precision: of the linear maps.
        estimator: what phase 1 judges: "mc", "first_order" or "both".
        scores: names of scores that experiments report beside the published ones.
        session: an id that all workers of a run share.
        thumbnails: keep pictures of the most telling images beside the results.
        own_data: files of the user's by option name, such as ``{"--tracking": "a.json"}``; absent where not given.

    """

    models: tuple[str, ...]
    images: str = "digits"
    device: str = "cpu"
    protocol: ProtocolName = "full"
    sizes: Sizes = field(default_factory=Sizes)
    seed: int = 42
    dropout: Perturbation = field(default_factory=Dropout)
    reports: Path = Path("reports")
    store: Path | None = None
    batch_size: int | None = None
    random_weights: frozenset[str] = frozenset()
    skip_unreadable: bool = False
    from_store: bool = False
    precision: Precision = "float32"
    estimator: str = "mc"
    scores: tuple[str, ...] = ()
    session: str = ""
    thumbnails: bool = True
    own_data: Mapping[str, str] = field(default_factory=dict)


def first_model(models: tuple[str, ...]) -> str:
    """The model of experiments that run on one only: the first of the family clip, or the first."""
    return next((model for model in models if find_spec(model).family == "clip"), models[0])
