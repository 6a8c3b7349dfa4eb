"""Kinds of perturbation: what is done where to the numbers inside a tower, as frozen configuration.

A kind says three things: *where* it acts (the output of a linear map, its input, or attention probabilities), what is
disturbed together (each *element*, each *feature* over all tokens, or the whole *branch* of an image), and the *noise*
(a Bernoulli mask, a normal factor, a normal addend, or a factor of two values). All are parametrized by a drop
probability p and matched: the variance that one injects relative to the signal is p / (1 - p), so kinds at the same p
can be compared.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, TypeVar

from mcdo.arguments import number
from mcdo.errors import McdoError
from mcdo.registration import Table
from mcdo.store.own_code import is_outside, own_code

Where = Literal["output", "input", "probabilities"]
Together = Literal["element", "feature", "branch"]
Noise = Literal["bernoulli", "multiplicative", "additive", "signs"]


@dataclass(frozen=True, init=False)
class Perturbation:
    """A kind of perturbation; use one of its subclasses.

    Args:
        p: probability that a unit is zeroed, in [0, 1). The published value is 0.01. Kinds with normal noise have the
            variance of a dropout with this p.
        sites: ``"all"``, a group (``"mlp"``, ``"attention"``, ``"projection"``), a role (``"qkv"``, ...), a site name
            in which ``*`` stands for anything, or a sequence of these; one with a minus before it is left out.
            ``"all"`` is without the patch embedding, which must be asked for, and without maps that see no image.

    Raises:
        McdoError: if ``p`` is not a number in [0, 1), or ``sites`` is empty.

    """

    where: ClassVar[Where] = "output"
    together: ClassVar[Together] = "element"
    noise: ClassVar[Noise] = "bernoulli"
    residual: ClassVar[bool] = False
    """It acts on what is added to other activations, so on no other map of the roles that it names."""

    p: float = 0.01
    sites: str | tuple[str, ...] = "all"

    def __init__(self, p: float = 0.01, sites: str | Sequence[str] = "all") -> None:
        object.__setattr__(self, "p", _probability(type(self).__name__, p))
        object.__setattr__(self, "sites", _sites(type(self).__name__, sites))

    @property
    def mask_name(self) -> str:
        """Names the random streams of the kind: kinds that draw different things share none."""
        return f"{self.where} {self.together} {self.noise}"

    @property
    def variance(self) -> float:
        """Variance of what a unit is multiplied with: p / (1 - p)."""
        return self.p / (1.0 - self.p)

    @property
    def scale(self) -> float:
        """What kept units are multiplied by, so that the mean is unchanged."""
        return 1.0 / (1.0 - self.p) if self.noise == "bernoulli" else 1.0

    @property
    def rescaling(self) -> float:
        """What the deviation of a pass from the deterministic feature is multiplied by afterwards."""
        return 1.0

    @property
    def shared_by_images(self) -> bool:
        """Whether all images of a pass have the same noise, which no interval over images can see."""
        return False

    def at(self, *sites: str) -> Perturbation:
        """The same perturbation at these sites only."""
        other = copy.copy(self)
        object.__setattr__(other, "sites", sites)
        return other

    def with_p(self, p: float) -> Perturbation:
        """The same perturbation with another drop probability."""
        other = copy.copy(self)
        object.__setattr__(other, "p", Dropout(p).p)
        return other

    def as_dict(self) -> dict[str, Any]:
        """JSON-able form, with the name of the kind: part of the key of whatever was measured under it.

        A kind from outside of mcdo comes with a fingerprint of its code.
        """
        code = {"code": own_code(type(self))} if is_outside(type(self)) else {}
        return {"kind": type(self).__name__, **asdict(self), **code}


def kind_name(kind: type[Perturbation]) -> str:
    """What ``--perturbation`` calls a kind: ``tied_dropout`` for TiedDropout."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind.__name__).lower()


def _accepted(name: str, found: object) -> type[Perturbation]:
    if not (isinstance(found, type) and issubclass(found, Perturbation) and kind_name(found) == name):
        raise McdoError(
            f"the entry point {name!r} of mcdo.kinds names {found!r}, and no subclass of mcdo.Perturbation of that name"
        )
    return found


KINDS: Table[type[Perturbation]] = Table("kind of perturbation", "mcdo.kinds", _accepted)
"""All kinds by name: those below, then what was registered and what installed packages offer."""
Kind = TypeVar("Kind", bound=type[Perturbation])


def register_kind(kind: Kind) -> Kind:
    """Decorates a subclass of :class:`Perturbation`, which ``--perturbation`` then knows by :func:`kind_name`.

    Raises:
        McdoError: for a name that is taken.

    """
    KINDS.add(kind_name(kind), kind)
    return kind


def parse_perturbation(text: str) -> Perturbation:
    """A perturbation as ``KIND[:p][@sites]``, such as ``gaussian:0.05@fc1,fc2``; 0.01 and "all" where left out.

    Raises:
        McdoError: for an unknown kind, a p that is no number in [0, 1), or sites of a kind that has its own.

    """
    head, at, places = text.partition("@")
    name, colon, p = head.partition(":")
    kind, given = KINDS.find(name.strip()), {}
    if colon:
        try:
            given["p"] = float(p)
        except ValueError:
            raise McdoError(f"{text!r}: p = {p!r} is no number; write KIND[:p][@sites], such as {name}:0.01") from None
    if at and "sites" not in inspect.signature(kind).parameters:
        raise McdoError(f"{text!r}: {name} acts at places of its own, so leave out @{places}")
    return kind(**given, **({"sites": _words(text, places)} if at else {}))  # type: ignore[arg-type]


def _words(text: str, sites: str) -> str | tuple[str, ...]:
    names = tuple(word.strip() for word in sites.split(",") if word.strip())
    if not names:
        raise McdoError(f"{text!r}: no sites after the @; name at least one, or leave it out for all")
    return names[0] if len(names) == 1 else names


def _probability(kind: str, p: object) -> float:
    found = number(p)
    if found is None or not 0 <= found < 1:
        raise McdoError(f"{kind} p = {p!r}: it must be a number in [0, 1); the published value is 0.01")
    return float(found)


def _sites(kind: str, sites: Any) -> str | tuple[str, ...]:
    if isinstance(sites, str) and sites:
        return sites
    several = isinstance(sites, Iterable) and not isinstance(sites, (str, bytes))
    names = tuple(sorted(sites, key=str) if isinstance(sites, Set) else sites) if several else (sites,)
    wrong = [name for name in names if not isinstance(name, str) or not name]
    if wrong or not names:
        what = "empty" if not sites else repr(wrong[0])
        raise McdoError(f"{kind} sites are {what}: name at least one, or say sites='all'")
    return names


@register_kind
@dataclass(frozen=True, init=False)
class Dropout(Perturbation):
    """Dropout on the output of linear maps: inverted scaling, every unit of every token on its own."""


@register_kind
@dataclass(frozen=True, init=False)
class TiedDropout(Perturbation):
    """Dropout of output features, one mask over all tokens: rows of the weight matrix drop out.

    This is the Bayesian reading of dropout, in which a pass is one posterior sample of the weights. With
    ``over_images`` that sample is the same for every image too.
    """

    together: ClassVar[Together] = "feature"

    over_images: bool = False

    def __init__(self, p: float = 0.01, sites: str | Sequence[str] = "all", over_images: bool = False) -> None:
        super().__init__(p, sites)
        object.__setattr__(self, "over_images", bool(over_images))

    @property
    def shared_by_images(self) -> bool:
        """As :attr:`over_images` says."""
        return self.over_images


@register_kind
@dataclass(frozen=True, init=False)
class Multiplicative(Perturbation):
    """Outputs times 1 + sqrt(p / (1 - p)) · N(0, 1), each on its own: Gaussian dropout (Srivastava et al. 2014)."""

    noise: ClassVar[Noise] = "multiplicative"


@register_kind
@dataclass(frozen=True, init=False)
class Gaussian(Perturbation):
    """Outputs plus sqrt(p / (1 - p)) · r · N(0, 1), with r the root mean square of that image's own output."""

    noise: ClassVar[Noise] = "additive"


@register_kind
@dataclass(frozen=True, init=False)
class Rademacher(Perturbation):
    """Outputs times 1 ± sqrt(p / (1 - p)), with signs that all images of a pass have in common.

    Where dropout moves one unit in a hundred, signs move every one a little, so few passes see all of the tower; and
    what the choice of signs does to all images alike cancels where images are ranked. No gradient is needed.

    Args:
        p: as for every kind.
        sites: as for every kind.
        step: the share of sqrt(p / (1 - p)) that is taken inside the tower, in [0.01, 1]; what moves is divided by it
            afterwards. The limit of small steps is first order. Passes with a step below 1 are carried out in float32
            whatever the encoder's precision.

    """

    noise: ClassVar[Noise] = "signs"

    step: float = 1.0

    def __init__(self, p: float = 0.01, sites: str | Sequence[str] = "all", step: float = 1.0) -> None:
        super().__init__(p, sites)
        found = number(step)
        if found is None or not 0.01 <= found <= 1:
            raise McdoError(f"Rademacher step = {step!r}: it must be a number in [0.01, 1]; rounding drowns less")
        object.__setattr__(self, "step", float(found))

    @property
    def rescaling(self) -> float:
        """1 / :attr:`step`."""
        return 1.0 / self.step

    @property
    def shared_by_images(self) -> bool:
        """Always: signs of an image's own would not cancel."""
        return True


@register_kind
@dataclass(frozen=True, init=False)
class AttentionDropout(Perturbation):
    """Dropout of attention probabilities, after the softmax, in every attention of the tower."""

    where: ClassVar[Where] = "probabilities"

    def __init__(self, p: float = 0.01) -> None:
        super().__init__(p, "all")


@register_kind
@dataclass(frozen=True, init=False)
class HiddenDropout(Perturbation):
    """Dropout of an MLP's hidden activation, after the nonlinearity: the input of fc2."""

    where: ClassVar[Where] = "input"

    def __init__(self, p: float = 0.01) -> None:
        super().__init__(p, "fc2")


@register_kind
@dataclass(frozen=True, init=False)
class StochasticDepth(Perturbation):
    """Residual branches (attention and MLP) dropped whole, image by image, and rescaled (Huang et al. 2016).

    A branch is dropped where its last map puts it out, so a tower that normalises branches before it adds them is
    refused; an MLP that is no branch, such as a projection head, is left alone.
    """

    together: ClassVar[Together] = "branch"
    residual: ClassVar[bool] = True

    def __init__(self, p: float = 0.01) -> None:
        super().__init__(p, ("attention_output", "fc2"))
