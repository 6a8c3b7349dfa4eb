"""Perturbation: which linear maps are disturbed (sites), how (kinds), with which random numbers (masks)."""

from mcdo.perturbation.census import SiteRecord, check_alive, site_variance
from mcdo.perturbation.context import PerturbedTower, deterministic_features, perturbed
from mcdo.perturbation.kinds import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
)
from mcdo.perturbation.masks import PASS_BLOCK, SCHEME, KeyedMasks, MaskedSite, image_keys
from mcdo.perturbation.roles import GROUPS, Role, role_of
from mcdo.perturbation.sites import Site, SiteTable, check_comparable, count_by_role, find_sites, matched_roles

__all__ = [
    "GROUPS",
    "PASS_BLOCK",
    "SCHEME",
    "AttentionDropout",
    "Dropout",
    "Gaussian",
    "HiddenDropout",
    "KeyedMasks",
    "MaskedSite",
    "Multiplicative",
    "Perturbation",
    "PerturbedTower",
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
    "matched_roles",
    "perturbed",
    "role_of",
    "site_variance",
]
