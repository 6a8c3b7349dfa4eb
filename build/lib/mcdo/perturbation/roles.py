"""Roles: what a linear map does in its tower, by what it reads and what reads it, and after that by its name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum


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
    CONVOLUTION = "convolution"
    CONSTANT = "constant"
    OTHER = "other"


_LEFT_OUT = (Role.PATCH_EMBEDDING, Role.ATTENTION_PROBABILITIES, Role.CONSTANT)

GROUPS: dict[str, tuple[Role, ...]] = {
    "all": tuple(role for role in Role if role not in _LEFT_OUT),
    "mlp": (Role.FC1, Role.FC2),
    "attention": (Role.QKV, Role.ATTENTION_OUTPUT),
    "projection": (Role.FINAL_PROJECTION,),
}
"""Shorthands for ``sites=``. "all" leaves out the map that sees the pixels, and maps that see no image at all."""

# First match wins. The names are those of open_clip, timm and transformers; what stands below a named layer (the parts
# of an adapter around it) has its role.
_ROLE_PATTERNS: tuple[tuple[str, Role], ...] = (
    (r"(^|\.)(patch_embed|patch_embeddings?|visual\.conv1)(\.|$)", Role.PATCH_EMBEDDING),
    (
        r"(^|\.)(visual\.proj|visual\.head\.(proj|mlp\.fc[12])|visual_projection|text_projection|text_model\.head)(\.|$)",
        Role.FINAL_PROJECTION,
    ),
    (r"(^|\.)(attn_?pool|attn_pool_contrastive|head\.(attention|mlp))(\.|$)", Role.POOLING_HEAD),
    (r"\.(attn|self_attn|attention)\.(in_proj|qkv|[qkv]_proj|[qkv]|query|key|value)(\.|$)", Role.QKV),
    (r"\.(attn|self_attn|attention)\.(out_proj|proj|o_proj|output)(\.|$)", Role.ATTENTION_OUTPUT),
    (r"\.mlp\.(c_fc|fc1)(\.|$)", Role.FC1),
    (r"\.mlp\.(c_proj|fc2)(\.|$)", Role.FC2),
)


def role_of(name: str) -> Role:
    """The role that a site's name says; :attr:`Role.OTHER` when it says none."""
    plain = name.partition("#")[0]  # a map that is carried out again
    return next((role for pattern, role in _ROLE_PATTERNS if re.search(pattern, plain)), Role.OTHER)


@dataclass(frozen=True)
class Place:
    """Where a map stands in the pass.

    Attributes:
        image: its output depends on the image.
        pixels: it sees the pixels themselves, with no other weight in between.
        reads: names of the maps and attentions (``attention 1``, ...) that put out what it reads.
        bent: a nonlinearity lies in between.
        convolution: it is one.

    """

    image: bool
    pixels: bool
    reads: frozenset[str]
    bent: bool
    convolution: bool


def roles(places: Mapping[str, Place], feeding: Collection[str], last: Collection[str]) -> dict[str, Role]:
    """The role of every map.

    Args:
        places: of each map, by name, in the order of the pass.
        feeding: maps whose output is a query, key or value.
        last: what put out the features.

    """
    found = {name: _role(name, place, feeding) for name, place in places.items()}
    for name, place in places.items():  # an MLP whose layers have names of their own
        rows = [reads for reads in place.reads if found.get(reads) in (Role.OTHER, Role.FC1)]
        if found[name] is Role.OTHER and place.bent and rows and len(rows) == len(place.reads):
            found.update(dict.fromkeys(rows, Role.FC1) | {name: Role.FC2})
    for name in last:
        if found.get(name) is Role.OTHER and len(last) == 1:
            found[name] = Role.FINAL_PROJECTION
    return found


def _role(name: str, place: Place, feeding: Collection[str]) -> Role:
    said = role_of(name)
    if place.pixels:
        return Role.PATCH_EMBEDDING
    if said in (Role.POOLING_HEAD, Role.FINAL_PROJECTION, Role.FC1, Role.FC2):
        return said
    if said is not Role.QKV and place.reads and all(reads.startswith("attention ") for reads in place.reads):
        return Role.ATTENTION_OUTPUT
    if name in feeding:
        return Role.QKV
    if said not in (Role.OTHER, Role.PATCH_EMBEDDING):
        return said
    return Role.CONVOLUTION if place.convolution else Role.OTHER


def wrapped(places: Mapping[str, Place], found: Mapping[str, Role]) -> frozenset[str]:
    """Ends of a residual branch (attention output, fc2) that share what they read: parts of one layer, as of LoRA."""
    ends = [(name, place.reads) for name, place in places.items() if found[name] in (Role.ATTENTION_OUTPUT, Role.FC2)]
    return frozenset(name for name, reads in ends if reads and sum(other == reads for _, other in ends) > 1)
