"""The table of rivals: name, meaning, what each needs, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mcdo.errors import McdoError
from mcdo.registration import Table
from mcdo.rivals.seen import Array, Seen

Need = Literal["features", "head", "sigmoid head", "calibration", "labelled calibration"]
"""What of :class:`~mcdo.rivals.seen.Seen` a rival is computed from."""
MISSING: Mapping[Need, str] = {
    "features": "",
    "head": "it needs class prompts and a text tower",
    "sigmoid head": "it needs a head that was trained with the sigmoid loss",
    "calibration": "it needs images to fit on that are not scored",
    "labelled calibration": "it needs labelled images to fit on that are not scored",
}


@dataclass(frozen=True)
class Rival:
    """A score of one deterministic pass, which costs one forward.

    Attributes:
        name: that of its function.
        meaning: the first line of its function's docstring.
        needs: what it is computed from.
        function: of what was seen, to [N]; larger means more uncertain.

    """

    name: str
    meaning: str
    needs: Need
    function: Callable[[Seen], Array]

    def missing(self, seen: Seen) -> str:
        """Why it cannot be computed from ``seen``, or ""."""
        held = seen.calibration
        there = {
            "features": True,
            "head": seen.logits is not None,
            "sigmoid head": seen.logits is not None and seen.loss == "sigmoid",
            "calibration": held is not None,
            "labelled calibration": held is not None and held.labels is not None,
        }[self.needs]
        return "" if there else MISSING[self.needs]

    def __call__(self, seen: Seen) -> Array:
        """The score, float64 [N].

        Raises:
            McdoError: if something that it needs is missing, or what it gives is no finite [N].

        """
        reason = self.missing(seen)
        if reason:
            raise McdoError(f"{self.name} cannot be computed: {reason}")
        score = np.asarray(self.function(seen), dtype=np.float64)
        if score.shape != (len(seen.features),) or not np.isfinite(score).all():
            raise McdoError(f"{self.name} gave {score.shape} for {len(seen.features)} images; finite [N] is wanted")
        return score


def _accepted(name: str, found: object) -> Rival:
    if isinstance(found, Rival):
        return found
    raise McdoError(f"the rival {name!r}: {found!r} is none; decorate a function with @mcdo.rivals.rival(needs)")


RIVALS: Table[Rival] = Table("rival", "mcdo.rivals", _accepted)
"""Rivals by name: mcdo's own, what was registered, and what installed packages offer."""


def rival(needs: Need) -> Callable[[Callable[[Seen], Array]], Rival]:
    """Register the function below as a rival, by its name and the first line of its docstring.

    Raises:
        McdoError: for a name that is taken, or a function without a docstring.

    """

    def register(function: Callable[[Seen], Array]) -> Rival:
        meaning = (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        if not meaning:
            raise McdoError(f"the rival {function.__name__} has no docstring: its first line says what it means")
        made = Rival(function.__name__, meaning, needs, function)
        RIVALS.add(made.name, made)
        return made

    return register


TRIVIAL = ("feature_norm", "sharpness", "grey_entropy")
"""What costs nothing and knows nothing: the norm of the feature, and two figures of the pixels (Laplacian, greys)."""


def built_in() -> tuple[Rival, ...]:
    """Mcdo's own rivals of one pass, and those registered since, in the order of their files."""
    from mcdo.rivals import head, neighbours, norm  # noqa: F401  (each registers what it holds)

    return tuple(RIVALS.registered.values())
