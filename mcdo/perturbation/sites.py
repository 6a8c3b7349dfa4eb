"""Sites: every linear map of an image tower, with a stable name, a role and a size.

They are found twice. A traced forward pass shows every map that is carried out with a Parameter, however it is
written; the module tree shows every map that its author declared. A map that is declared and never carried out is kept
with ``calls = 0``, and whoever asks for it gets an error.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError, nearest
from mcdo.perturbation.intercept import Compute, LinearMaps
from mcdo.perturbation.kinds import Perturbation


class Role(str, Enum):
    """What a linear map does in its tower."""

    QKV = "qkv"
    ATTENTION_OUTPUT = "attention_output"
    FC1 = "fc1"
    FC2 = "fc2"
    POOLING_HEAD = "pooling_head"
    FINAL_PROJECTION = "final_projection"
    PATCH_EMBEDDING = "patch_embedding"
    ATTENTION_PROBABILITIES = "attention_probabilities"
    OTHER = "other"


GROUPS: dict[str, tuple[Role, ...]] = {
    "all": tuple(role for role in Role if role not in (Role.PATCH_EMBEDDING, Role.ATTENTION_PROBABILITIES)),
    "mlp": (Role.FC1, Role.FC2),
    "attention": (Role.QKV, Role.ATTENTION_OUTPUT),
    "projection": (Role.FINAL_PROJECTION,),
}
"""Shorthands for ``sites=``."""

# First match wins. The names are those of open_clip, timm and transformers.
_ROLE_PATTERNS: tuple[tuple[str, Role], ...] = (
    (r"(^|\.)(patch_embed|patch_embedding|conv1)(\.|$)", Role.PATCH_EMBEDDING),
    (
        r"(^|\.)(visual\.proj|visual\.head\.(proj|mlp\.fc[12])|visual_projection|text_projection|text_model\.head)$",
        Role.FINAL_PROJECTION,
    ),
    (r"(^|\.)(attn_pool|head\.(attention|mlp))(\.|$)", Role.POOLING_HEAD),
    (r"\.(attn|self_attn)\.(in_proj|qkv|[qkv]_proj|[qkv])(\.|$)", Role.QKV),
    (r"\.(attn|self_attn)\.(out_proj|proj)$", Role.ATTENTION_OUTPUT),
    (r"\.mlp\.(c_fc|fc1)$", Role.FC1),
    (r"\.mlp\.(c_proj|fc2)$", Role.FC2),
)


def role_of(name: str) -> Role:
    """The role that a site's name tells; :attr:`Role.OTHER` when it tells none."""
    return next((role for pattern, role in _ROLE_PATTERNS if re.search(pattern, name)), Role.OTHER)


@dataclass(frozen=True)
class Site:
    """One linear map.

    Attributes:
        name: dotted name of the weight in the model, without the word "weight"; a part of a packed weight adds ``.q``
            or ``.kv``.
        role: what it does.
        units: number of outputs per image and pass (tokens × features).
        calls: how often one forward pass carries it out.
        shape: of its output for one image: (tokens, features), or (channels, height, width) of a convolution.
        input_shape: of its input for one image.

    An attention's probabilities are a site too, for :class:`~mcdo.perturbation.AttentionDropout` only: its output is
    (heads, queries, keys).

    """

    name: str
    role: Role
    units: int
    calls: int
    shape: tuple[int, ...] = ()
    input_shape: tuple[int, ...] = ()

    def layout(self, kind: Perturbation) -> tuple[int, int, int]:
        """(outer, units, inner) of what ``kind`` acts on for one image: a unit is disturbed over all of the others."""
        shape = self.input_shape if kind.where == "input" else self.shape
        size = math.prod(shape)
        if kind.together == "element":
            return 1, size, 1
        if kind.together == "branch":
            return 1, 1, size
        if self.role is Role.PATCH_EMBEDDING and len(shape) == 3:
            return 1, shape[0], size // shape[0]
        return size // shape[-1], shape[-1], 1


SiteKey = tuple[int, str]
"""(id of the Parameter, part). The table that uses it holds the Parameter too, so an id cannot come to mean another."""


@dataclass(frozen=True)
class SiteTable:
    """All sites of one encoder, in the order of a forward pass, and the way from a weight to its site.

    ``attentions`` are its attentions' probabilities, in the same order.
    """

    sites: tuple[Site, ...]
    by_weight: dict[SiteKey, Site]
    weights: tuple[nn.Parameter, ...]
    attentions: tuple[Site, ...]

    def select_for(self, kind: Perturbation) -> tuple[Site, ...]:
        """The sites that ``kind`` asks for; see :meth:`select`."""
        if kind.where != "probabilities":
            return self.select(kind.sites)
        if kind.sites == "all":
            return self.attentions
        return tuple(site for site in self.attentions if site.name in kind.sites)

    def select(self, wanted: str | Sequence[str]) -> tuple[Site, ...]:
        """The sites that ``wanted`` names: groups, roles or names, in forward order.

        Raises:
            McdoError: for an unknown name, or a role or group of which the tower has no site.

        """
        chosen: set[str] = set()
        for word in (wanted,) if isinstance(wanted, str) else wanted:
            found = {site.name for site in self.sites if self._means(word, site)}
            if not found:
                raise McdoError(self._unknown(word))
            chosen |= found
        return tuple(site for site in self.sites if site.name in chosen)

    @staticmethod
    def _means(word: str, site: Site) -> bool:
        return word == site.name or word == site.role.value or site.role in GROUPS.get(word, ())

    def _unknown(self, word: str) -> str:
        present = sorted({site.role.value for site in self.sites})
        if word in GROUPS or word in {role.value for role in Role}:
            return f"sites {word!r}: this tower has none; it has {', '.join(present)}"
        known = [*GROUPS, *present, *(site.name for site in self.sites)]
        return f"unknown site {word!r}: did you mean {nearest(word, known)}?"


_TABLES: WeakKeyDictionary[Encoder, SiteTable] = WeakKeyDictionary()


def find_sites(encoder: Encoder) -> SiteTable:
    """Every linear map of the encoder's image tower (traced once per encoder).

    Raises:
        McdoError: if a map is carried out twice in one pass, or its output does not have images in its first axis:
            masks could not be keyed.

    """
    if encoder not in _TABLES:
        _TABLES[encoder] = _trace(encoder)
    return _TABLES[encoder]


def _site_name(parameter: str, part: str) -> str:
    name = re.sub(r"[._]weight$", "", parameter)
    return f"{name}.{part}" if part else name


def _declared(encoder: Encoder) -> set[str]:
    """Names of the weights that the tower's ``nn.Linear``, ``nn.Conv2d`` and ``nn.MultiheadAttention`` declare."""
    names = set()
    for prefix, root in encoder.image_modules:
        for name, module in root.named_modules(prefix=prefix):
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                names.add(f"{name}.weight")
            elif isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                names.add(f"{name}.in_proj_weight")
    return names


def _trace(encoder: Encoder) -> SiteTable:
    batch = 3
    names = {id(p): name for name, p in encoder.model.named_parameters(remove_duplicate=False)}
    shapes: dict[str, torch.Size] = {}
    inputs: dict[str, torch.Size] = {}
    calls: Counter[str] = Counter()
    keys: dict[SiteKey, str] = {}
    held: list[nn.Parameter] = []
    attentions: list[Site] = []

    def record(weight: nn.Parameter, part: str, compute: Compute) -> Tensor:
        if id(weight) not in names:
            return compute()
        name = _site_name(names[id(weight)], part)

        def look(x: Tensor) -> Tensor:
            inputs[name] = x.shape
            return x

        y = compute(before=look)
        keys[id(weight), part] = name
        shapes[name] = y.shape
        calls[name] += 1
        held.append(weight)
        return y

    def record_attention(probabilities: Tensor) -> Tensor:
        # named after the module whose projections were carried out last
        name = f"{next(reversed(shapes)).rpartition('.')[0]}.probabilities"
        shape = tuple(probabilities.shape[1:])
        attentions.append(Site(name, Role.ATTENTION_PROBABILITIES, math.prod(shape), 1, shape))
        return probabilities

    with torch.inference_mode(), LinearMaps(record, probabilities=record_attention):
        encoder.forward_image(encoder.blank(batch))
    for name, shape in shapes.items():
        if calls[name] > 1:
            raise McdoError(
                f"{encoder.key}: site {name} is carried out {calls[name]} times in one pass; this is not supported"
            )
        if shape[0] != batch:
            raise McdoError(f"{encoder.key}: site {name} has output {tuple(shape)}, without images in its first axis")
    sites = [
        Site(n, role_of(n), s.numel() // batch, calls[n], tuple(s[1:]), tuple(inputs[n][1:])) for n, s in shapes.items()
    ]
    carried = {names[weight] for weight, _ in keys}
    sites += [Site(n, role_of(n), 0, 0) for n in (_site_name(d, "") for d in sorted(_declared(encoder) - carried))]
    by_name = {site.name: site for site in sites}
    by_weight = {key: by_name[name] for key, name in keys.items()}
    return SiteTable(tuple(sites), by_weight, tuple(held), tuple(attentions))


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
