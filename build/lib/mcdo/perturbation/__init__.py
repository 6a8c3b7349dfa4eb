"""Perturbation: which linear maps are disturbed (sites), how (kinds), with which random numbers (masks)."""

from mcdo.perturbation.census import SiteRecord, check_alive
from mcdo.perturbation.context import PerturbedTower, deterministic_features, perturbed
from mcdo.perturbation.kinds import (
    KINDS,
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    Rademacher,
    StochasticDepth,
    TiedDropout,
    kind_name,
    parse_perturbation,
    register_kind,
)
from mcdo.perturbation.linear import LinearPart
from mcdo.perturbation.masks import PASS_BLOCK, SCHEME, KeyedMasks, MaskedSite, image_keys
from mcdo.perturbation.roles import GROUPS, Role, role_of
from mcdo.perturbation.sites import Site, SiteTable, check_comparable, count_by_role, find_sites, matched_roles

__all__ = [
    "GROUPS",
    "KINDS",
    "PASS_BLOCK",
    "SCHEME",
    "AttentionDropout",
    "Dropout",
    "Gaussian",
    "HiddenDropout",
    "KeyedMasks",
    "LinearPart",
    "MaskedSite",
    "Multiplicative",
    "Perturbation",
    "PerturbedTower",
    "Rademacher",
    "Role",
    "Site",
    "SiteRecord",
    "SiteTable",
    "StochasticDepth",
    "TiedDropout",
    "check_alive",
    "check_comparable",
    "count_by_role",
    "deterministic_features",
    "find_sites",
    "image_keys",
    "kind_name",
    "matched_roles",
    "parse_perturbation",
    "perturbed",
    "register_kind",
    "role_of",
]
