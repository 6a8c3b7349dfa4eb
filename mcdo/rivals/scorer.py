"""Scores of one's own: an object with a name and ``score(encoder, images, trial)``, judged by the same table."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.registration import Table

if TYPE_CHECKING:
    from mcdo.encoders import Encoder
    from mcdo.images import ImageSet

PREFIX = "python:"


@runtime_checkable
class Scorer(Protocol):
    """A score of one's own. ``fit(encoder, images)`` is called first where it is there, on images not scored later.

    A scorer with ``by_image = True`` scores an image from that image alone, so it is given batches of them; else each
    call gets all images of a trial. What calls returned is kept when the process is killed, so a score must follow from
    the images and the trial's number, not from earlier calls.

    Attributes:
        name: in tables and reports.
        cost: in forwards of the encoder for one image and trial.
        stochastic: whether another trial gives another score.

    """

    name: str
    cost: float
    stochastic: bool

    def score(self, encoder: Encoder, images: ImageSet, trial: int) -> ArrayLike:
        """The score of each image, [N]; larger means more uncertain."""
        ...


def _accepted(name: str, found: object) -> Scorer:
    made = found() if isinstance(found, type) or (callable(found) and not isinstance(found, Scorer)) else found
    missing = [what for what in ("name", "cost", "stochastic", "score") if not hasattr(made, what)]
    if missing:
        raise McdoError(f"the scorer {name!r} lacks {', '.join(missing)}; see mcdo.rivals.Scorer")
    return made  # type: ignore[return-value]


SCORERS: Table[Scorer] = Table("scorer", "mcdo.scorers", _accepted)
"""Scorers by name: what was registered, and what installed packages offer."""


def register_scorer(name: str, scorer: Scorer | Callable[[], Scorer]) -> None:
    """Make ``--scorers=name`` judge a scorer, or what its class or factory makes.

    Raises:
        McdoError: for a name that is taken, or something that is no scorer.

    """
    SCORERS.add(name, _accepted(name, scorer))


@cache
def scorer_named(name: str) -> Scorer:
    """A registered scorer, or that of ``python:PACKAGE.MODULE:NAME``.

    Raises:
        McdoError: for an unknown name, or a module that cannot be imported.

    """
    if not name.startswith(PREFIX):
        return SCORERS.find(name)
    module, _, attribute = name.removeprefix(PREFIX).partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module of the user's may raise anything
        raise McdoError(
            f"--scorers={name}: cannot be imported ({type(error).__name__}: {error}); it is python:PACKAGE.MODULE:NAME"
        ) from error
    return _accepted(name, found)


@cache
def held_by(name: str) -> str:
    """Digest of all that a scorer holds, weights of modules too, as it was first asked for: a fit may change it."""
    from torch import nn
    from torch.utils._pytree import tree_leaves

    from mcdo.encoders.architecture import fingerprint

    scorer = scorer_named(name)
    modules = (each for each in (scorer, *tree_leaves(getattr(scorer, "__dict__", {}))) if isinstance(each, nn.Module))
    return fingerprint(scorer, [each.state_dict() for each in modules])
