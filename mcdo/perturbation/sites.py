"""Sites: every linear map of an image tower, with a stable name, a role and a size.

They are found twice. A traced forward pass shows every map that is carried out, watched or not (:mod:`.trace`); the
module tree shows every map that its author declared. A map that cannot be disturbed is a site too, with the obstacle
in words, and whoever asks for it gets an error.
"""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError, SiteWarning, nearest
from mcdo.perturbation.flow import BATCH
from mcdo.perturbation.intercept import MapKey, map_key
from mcdo.perturbation.kinds import Perturbation
from mcdo.perturbation.roles import GROUPS, Role, role_of, roles, wrapped
from mcdo.perturbation.trace import SeenMap, Trace, trace

_ROLE_NAMES = frozenset(role.value for role in Role)


@dataclass(frozen=True)
class Site:
    """One linear map.

    Attributes:
        name: dotted name of the weight in the model, without the word "weight"; a part of a packed weight adds ``.q``
            or ``.kv``.
        role: what it does.
        units: number of outputs per image and pass (tokens × features).
        calls: 1, or 0 where no forward pass carries it out. A weight that is used again is a further site, ``name#2``.
        shape: of its output for one image: (tokens, features), or (channels, height, width) of a convolution; where
            the first axis holds several windows of an image, their number comes first.
        input_shape: of its input for one image; empty where the input does not hold image after image.
        convolution: features are the third axis from the end, not the last.
        obstacle: why it cannot be disturbed; empty where it can.

    An attention's probabilities are a site too, for :class:`~mcdo.perturbation.AttentionDropout` only: its output is
    (heads, queries, keys).

    """

    name: str
    role: Role
    units: int
    calls: int
    shape: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()
    convolution: bool = False
    obstacle: str = ""

    def layout(self, kind: Perturbation) -> tuple[int, int, int]:
        """(outer, units, inner) of what ``kind`` acts on for one image: a unit is disturbed over all of the others."""
        shape = self.input_shape if kind.where == "input" else self.shape
        size = math.prod(shape)
        if kind.together == "element":
            return 1, size, 1
        if kind.together == "branch":
            return 1, 1, size
        features, inner = (shape[-3], math.prod(shape[-2:])) if self.convolution else (shape[-1], 1)
        return size // (features * inner), features, inner


@dataclass(frozen=True)
class SiteTable:
    """All sites of one encoder, in the order of a forward pass, and the way from a weight to its site.

    ``attentions`` are its attentions' probabilities, in the same order; ``probabilities`` says for each call of a
    handler of probabilities which of them it is, or None. ``made`` counts the calls with a weight that is no Parameter.
    The table holds its Parameters (``weights``), so that an id cannot come to mean another. ``unplaced`` are the sites
    that are not watched and whose role is unknown: they may belong to any group. ``by_hand`` names, for each attention
    whose probabilities cannot be reached, the maps before it; ``wrapped`` the ends of branches that are parts of one
    layer; ``added`` the maps whose output is added to other activations; ``added_behind`` those of which that is added
    which a norm or a nonlinearity made of their output; ``fixed`` those whose weight is no Parameter. ``written`` is
    for who takes derivatives: names of sites into whose output the tower was seen to write.
    """

    sites: tuple[Site, ...]
    by_key: dict[MapKey, Site]
    weights: tuple[nn.Parameter, ...]
    attentions: tuple[Site, ...]
    probabilities: tuple[Site | None, ...]
    made: int = 0
    unplaced: tuple[Site, ...] = ()
    by_hand: tuple[str, ...] = ()
    wrapped: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    added_behind: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    written: set[str] = field(default_factory=set)

    def at(self, weight: Tensor, part: str) -> Site | None:
        """The site that a handler is called for; None for what is no site."""
        return self.by_key.get(map_key(weight, part))

    def select_for(self, kind: Perturbation) -> tuple[Site, ...]:
        """The sites that ``kind`` asks for; see :meth:`select`."""
        if kind.residual:
            return tuple(site for site in self._branches(kind) if self._residual(site, kind.sites))
        if kind.where != "probabilities":
            return self.select(kind.sites)
        if kind.sites == "all":
            return self.attentions
        return tuple(site for site in self.attentions if site.name in kind.sites)

    def select(self, wanted: str | Sequence[str]) -> tuple[Site, ...]:
        """The sites that ``wanted`` names, in forward order.

        A word is a group, a role, or a name, in which ``*`` stands for anything. With a minus before it, it leaves
        out: ``("all", "-visual.head.proj")``.

        Raises:
            McdoError: for an unknown name, or a role or group of which the tower has no site.

        """
        words = (wanted,) if isinstance(wanted, str) else tuple(wanted)
        chosen = self._named(word for word in words if not word.startswith("-"))
        left_out = self._named(word[1:] for word in words if word.startswith("-"))
        if not chosen:
            raise McdoError(f"sites {words} only leave out: say of what, such as ('all', {words[0]!r})")
        return tuple(site for site in self.sites if site.name in chosen - left_out)

    def _branches(self, kind: Perturbation) -> tuple[Site, ...]:
        try:
            return self.select(kind.sites)
        except McdoError as error:
            added = {site.role.value for site in self.sites if site.name in self.added}
            left, name = [word for word in kind.sites if word in added], type(kind).__name__
            way = f"at the branches that it has: {name}({kind.p}).at({left[0]!r})" if left else "for another kind"
            raise McdoError(f"{name} of {error}. Ask {way}") from error

    def _residual(self, site: Site, wanted: str | Sequence[str]) -> bool:
        """Whether a site ends a residual branch, alone or as a part of it, or was asked for by its own name."""
        by_name = site.name in ((wanted,) if isinstance(wanted, str) else wanted)
        return by_name or site.name in self.added | self.added_behind | self.wrapped or not site.calls

    def hindered(self, kind: Perturbation) -> tuple[Site, ...]:
        """The sites that ``kind`` asks for, or may ask for, and that cannot be disturbed."""
        chosen = self.select_for(kind)
        words = (kind.sites,) if isinstance(kind.sites, str) else kind.sites
        by_group = any(word in GROUPS or word in _ROLE_NAMES for word in words)
        if kind.where != "probabilities" and by_group:
            left_out = self._named(word[1:] for word in words if word.startswith("-"))
            chosen += tuple(site for site in self.unplaced if site.name not in left_out and site not in chosen)
        return tuple(site for site in chosen if site.obstacle)

    def leaving_out(self, names: Sequence[str]) -> str:
        """How to leave out sites of these names, in words: a part of the model at once where it holds no other site."""
        others = [site.name for site in self.sites if site.name not in names]

        def word(name: str) -> str:
            parts = name.split(".")
            heads = (f"{'.'.join(parts[:depth])}." for depth in range(1, len(parts)))
            return next(
                (f"-{head}*" for head in heads if not any(each.startswith(head) for each in others)), f"-{name}"
            )

        words = dict.fromkeys(("all", *(map(word, names) if len(names) > 1 else (f"-{name}" for name in names))))
        return f"sites={tuple(words)} in Python, --sites={','.join(words)} for pytest"

    def _named(self, words: Iterable[str]) -> set[str]:
        named: set[str] = set()
        for word in words:
            found = {site.name for site in self.sites if self._means(word, site)}
            if not found:
                raise McdoError(self._unknown(word))
            named |= found
        return named

    @staticmethod
    def _means(word: str, site: Site) -> bool:
        if "*" in word:
            return fnmatchcase(site.name, word)
        return word == site.name or word == site.role.value or site.role in GROUPS.get(word, ())

    def _unknown(self, word: str) -> str:
        present = sorted({site.role.value for site in self.sites})
        if word in GROUPS or word in _ROLE_NAMES:
            return f"sites {word!r}: this tower has none; it has {', '.join(present) or 'no linear map'}"
        known = [*GROUPS, *present, *(site.name for site in self.sites)]
        if "," in word:
            return f"unknown site {word!r}: several are a list, {[part.strip() for part in word.split(',')]}"
        return f"unknown site {word!r}: did you mean {nearest(word, known)}?"


@dataclass(frozen=True)
class _Looked:
    """A table, and the modules, the parameters and the hashes of the state that it is of."""

    table: SiteTable
    parts: tuple[nn.Module | nn.Parameter, ...]
    state: tuple[str, str]


_TABLES: WeakKeyDictionary[Encoder, _Looked] = WeakKeyDictionary()


def find_sites(encoder: Encoder, *, verify: bool = False) -> SiteTable:
    """Every linear map of the encoder's image tower.

    Traced once per encoder, and again when one of its modules or parameters is not the one that was looked at.

    Args:
        encoder: whose image tower is looked at.
        verify: look again also where a weight was written to, because merging an adapter changes which maps are
            carried out. This reads all weights once, so it is for the start of a run.

    Raises:
        McdoError: if the features are no pre-norm features (their norm is constant), or not finite.

    """
    parts: tuple[nn.Module | nn.Parameter, ...] = (*encoder.model.modules(), *encoder.model.parameters())
    held = _TABLES.get(encoder)
    same = held is not None and len(held.parts) == len(parts) and all(map(operator.is_, held.parts, parts))
    if held is None or not same or (verify and held.state != _state(encoder)):
        held = _TABLES[encoder] = _Looked(_table(encoder), parts, _state(encoder))
        _warn(encoder, held.table)
    return held.table


def _state(encoder: Encoder) -> tuple[str, str]:
    return encoder.weights_hash, encoder.architecture


def forget_sites(encoder: Encoder) -> None:
    """Look anew when the sites are wanted next, because the tower has changed."""
    _TABLES.pop(encoder, None)


def _site_name(parameter: str, part: str) -> str:
    name = re.sub(r"[._]weight$", "", parameter.replace("_orig_mod.", ""))  # torch.compile's wrapper
    return f"{name}{'' if part.startswith('#') else '.'}{part}" if part else name


def _idle(encoder: Encoder, seen: Trace) -> set[str]:
    """Names of the tower's parameters that are a map's by the look of them, and of no map that is carried out.

    These are the weights of ``nn.Linear``, ``nn.Conv2d`` and ``nn.MultiheadAttention``, and whatever else has rows and
    columns and takes part in nothing.
    """
    carried = {key for key, _ in seen.keys} | seen.made_of
    names = set()
    for prefix, root in encoder.image_modules:
        for name, module in root.named_modules(prefix=prefix):
            packed = isinstance(module, nn.MultiheadAttention)
            weight = getattr(module, "in_proj_weight" if packed else "weight", None)
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)) and isinstance(weight, nn.Parameter):
                names |= {f"{name}.{'in_proj_weight' if packed else 'weight'}"} if id(weight) not in carried else set()
        for name, parameter in root.named_parameters(prefix=prefix):
            if sum(size > 1 for size in parameter.shape) > 1 and id(parameter) not in seen.touched:
                names.add(name)
    return {_site_name(name, "") for name in names}


_NEVER = "the tower declares it and never carries it out, so dropout there would do nothing"


def _table(encoder: Encoder) -> SiteTable:
    seen = trace(encoder, _site_name)
    found = roles({name: each.place for name, each in seen.maps.items()}, seen.feeding, seen.last)
    missed = {_site_name(name, ""): op for name, op in sorted(seen.missed.items())}
    unseen = missed.keys() | {name for name, each in seen.maps.items() if not each.registered}
    sites = [_site(name, each, found[name], missed.get(name, "")) for name, each in seen.maps.items()]
    hidden = {name: _hidden(op) for name, op in missed.items() if name not in seen.maps}
    idle = dict.fromkeys(sorted(_idle(encoder, seen) - hidden.keys()), _NEVER)
    sites += [Site(name, role_of(name), 0, 0, obstacle=obstacle) for name, obstacle in (hidden | idle).items()]
    by_name = {site.name: site for site in sites}
    attentions = {name: _site(name, each, Role.ATTENTION_PROBABILITIES, "") for name, each in seen.attentions.items()}
    return SiteTable(
        sites=tuple(sites),
        by_key={key: by_name[name] for key, name in seen.keys.items()},
        weights=tuple(seen.held),
        attentions=tuple(attentions.values()),
        probabilities=tuple(attentions.get(name) for name in seen.probabilities),
        made=seen.made,
        unplaced=tuple(site for site in sites if site.name in unseen and site.role is Role.OTHER),
        by_hand=tuple(", ".join(sorted(before)) or "the input" for before in seen.by_hand),
        wrapped=wrapped({name: each.place for name, each in seen.maps.items()}, found),
        added=seen.added,
        added_behind=seen.added_behind,
        fixed=frozenset(name for name, each in seen.maps.items() if each.fixed),
    )


def _hidden(op: str) -> str:
    return (
        f"its weight takes part in a product ({op}) in a way that is not watched, so dropout would never act there. "
        "Watched are F.linear, conv2d, x @ weight, addmm of a bias and multi-head attention, none with out=: write it "
        "so, undo TorchScript, and multiply weights with each other before (merge an adapter)"
    )


def _site(name: str, seen: SeenMap, role: Role, missed: str) -> Site:
    obstacle, output = "", seen.output
    if not seen.registered:
        obstacle = (
            f"its weight of shape {seen.weight} is held by no module of encoder.model, so a change of it would not be "
            "noticed; make it a Parameter or a buffer"
        )
    elif missed:
        obstacle = _hidden(missed)
    elif seen.complex:
        obstacle = "its output is complex, for which neither noise nor a derivative is defined here"
    elif seen.shape is None and not seen.place.image:
        role = Role.CONSTANT if role is not Role.ATTENTION_PROBABILITIES else role
        obstacle = f"its output {output} is the same whatever the image, so that no image's masks fit it"
    elif seen.shape is None:
        obstacle = f"it has output {output}, without images in its first axis, so that masks cannot be keyed by image"
        if output and output[0] < BATCH:
            obstacle += f" (where the tower takes a batch, here of {BATCH}, in pieces: let it take it whole)"
    shape = output[1:] if seen.shape is None else seen.shape
    input_shape = seen.input_shape or ()
    return Site(name, role, math.prod(shape), 1, shape, input_shape, seen.place.convolution, obstacle)


def _warn(encoder: Encoder, table: SiteTable) -> None:
    """Say what a reader of numbers "at all sites" or "at the MLPs" would not expect."""
    said = {
        Role.OTHER: "their role is not known, so no group but 'all' takes these maps",
        Role.CONSTANT: "they see no image, so not even 'all' takes these maps",
    }
    for role, what in said.items():
        names = [site.name for site in table.sites if site.role is role and site.calls]
        if names:
            warnings.warn(f"{encoder.key}: {what}: {', '.join(names)}", SiteWarning, stacklevel=3)
    names = [site.name for site in table.sites if site.name in table.fixed and site.role in GROUPS["all"]]
    if names:
        warnings.warn(
            f"{encoder.key}: their weights are no Parameters, so these may be filters that nobody learned, such as a "
            f"blur's, and 'all' takes them all the same: {', '.join(names)}. To leave them out: "
            f"{table.leaving_out(names)}",
            SiteWarning,
            stacklevel=3,
        )


def count_by_role(sites: Sequence[Site]) -> dict[str, int]:
    """Number of sites of each role, in the order of :class:`Role`."""
    counts = Counter(site.role for site in sites)
    return {role.value: counts[role] for role in Role if counts[role]}


def matched_roles(*encoders: Encoder) -> tuple[str, ...]:
    """The roles (patch embedding apart) that every one of these towers has: ``sites=`` for a fair comparison."""
    shared = set(GROUPS["all"])
    for encoder in encoders:
        shared &= {site.role for site in find_sites(encoder).sites if site.calls}
    return tuple(role.value for role in Role if role in shared)


def check_comparable(roles: Mapping[str, Sequence[str]], *, allow_different: bool = False) -> None:
    """Refuse a comparison of models that were perturbed at different roles.

    Args:
        roles: for each model, the roles at which it was perturbed.
        allow_different: compare them all the same.

    Raises:
        McdoError: naming the roles of each model.

    """
    if len({frozenset(r) for r in roles.values()}) > 1 and not allow_different:
        lines = "; ".join(f"{model}: {', '.join(sorted(set(r)))}" for model, r in roles.items())
        raise McdoError(
            f"different perturbations cannot be compared ({lines}). "
            f"Perturb the roles they share (matched_roles), or ask for it with allow_different=True"
        )
