"""What a session is asked to do: the command line's options, in one frozen object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcdo.encoders import find_spec
from mcdo.encoders.spec import Precision
from mcdo.errors import McdoError
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
        at_most: no size becomes larger than the protocol has it.

    """

    num_images: int | None = None
    passes: tuple[int, ...] | None = None
    trials: int | None = None
    at_most: bool = False

    def of(self, what: SizeName, held: Any) -> Any:
        """What takes the place of a size that the protocol ``held``: a number, or a ladder of T."""
        given = {"passes": self.passes, "trials": self.trials}.get(what, self.num_images)
        if given is None or (what == "trials" and held == 1):
            return held
        if isinstance(given, tuple):
            return self._ladder(held, given) if isinstance(held, tuple) else self._number(held, given[-1])
        return min(held, given) if what == "images_at_most" else self._number(held, given)

    def _number(self, held: int, given: int) -> int:
        return min(held, given) if self.at_most else given

    def _ladder(self, held: tuple[int, ...], given: tuple[int, ...]) -> tuple[int, ...]:
        if self.at_most:
            return tuple(t for t in held if t <= given[-1]) or held[:1]
        if len(given) > 1:
            return given
        below = tuple(t for t in held if t < given[0])
        return (*(below or (given[0] // 2,)), *given)

    def as_dict(self) -> dict[str, Any]:
        """Those that are given, JSON-able."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}

    def __str__(self) -> str:
        """As options of the command line."""
        given = self.as_dict() | ({} if self.passes is None else {"passes": ",".join(map(str, self.passes))})
        named = {f"--{name.replace('_', '-')}": value for name, value in given.items()}
        return " ".join(name if value is True else f"{name}={value}" for name, value in named.items())


@dataclass(frozen=True)
class Settings:
    """What the command line decides.

    Attributes:
        models: keys of the encoders.
        images: specification of the image set, as :func:`mcdo.load_images` takes it.
        device: a torch device.
        protocol: sizes.
        sizes: those that take the place of the protocol's.
        budget: the time that ``sizes`` were chosen for, such as "30min"; "" where they were not.
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
        figures: write figures.
        vector_figures: as SVG and PDF beside PNG.
        own_data: files of the user's by option name, such as ``{"--tracking": "a.json"}``; absent where not given.

    """

    models: tuple[str, ...]
    images: str = "digits"
    device: str = "cpu"
    protocol: ProtocolName = "full"
    sizes: Sizes = field(default_factory=Sizes)
    budget: str = ""
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
    figures: bool = True
    vector_figures: bool = True
    own_data: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise McdoError for a model named twice: it would agree with itself, and be corrected for twice."""
        twice = sorted({model for model in self.models if self.models.count(model) > 1})
        if twice:
            raise McdoError(f"--models names {', '.join(twice)} twice; name each encoder once")


def first_model(models: tuple[str, ...]) -> str:
    """The model of experiments that run on one only: the first of the family clip, or the first."""
    return next((model for model in models if find_spec(model).family == "clip"), models[0])
