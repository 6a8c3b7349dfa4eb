"""Sites of a tower as a map: blocks by number, thirds of its depth, and the groups of sites that recipes are made of.

Sites come in the order of execution, and that is their depth. A block is a number, never text: names sorted as text
put block 10 after block 1.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.perturbation import GROUPS

Mask = NDArray[np.bool_]
THIRDS = ("first third", "middle third", "last third")
ALL = "all"
_CONTAINER = re.compile(r"(?:.*\.)?(?:\w*(?:blocks|layers?|stages)|h)[._](?:\w*_)?\d+(?=\.|$)")
_NUMBER = re.compile(r".*?\.\d+(?=\.)")


def block_of(name: str) -> str:
    """The part of a site's name that names its block, down to the last container of blocks; "" outside of any."""
    found = _CONTAINER.match(name) or _NUMBER.match(name)
    return found[0] if found else ""


@dataclass(frozen=True)
class Tower:
    """S sites in the order of execution.

    Attributes:
        names: of the sites.
        roles: of the sites.
        blocks: number of each site's block, counted from 0 in the order of execution; None outside of any.

    """

    names: tuple[str, ...]
    roles: tuple[str, ...]
    blocks: tuple[int | None, ...]

    @classmethod
    def of(cls, sites: Sequence[tuple[str, str]]) -> Tower:
        """From (name, role) as a run has them.

        Raises:
            McdoError: if block numbers in the names fall (sites that were sorted as text).

        """
        prefixes = [block_of(name) for name, _ in sites]
        order = {prefix: i for i, prefix in enumerate(dict.fromkeys(filter(None, prefixes)))}
        stems: dict[str, int] = {}
        for prefix in order:
            stem, number = re.fullmatch(r"(.*?)(\d+)", prefix).groups()  # type: ignore[union-attr]
            if int(number) < stems.get(stem, -1):
                raise McdoError(f"{prefix} comes after block {stems[stem]}: sites are not in the order of execution")
            stems[stem] = int(number)
        blocks = tuple(order[prefix] if prefix else None for prefix in prefixes)
        return cls(tuple(name for name, _ in sites), tuple(role for _, role in sites), blocks)

    @property
    def depth(self) -> int:
        return max((block + 1 for block in self.blocks if block is not None), default=0)

    @property
    def thirds(self) -> tuple[int, ...]:
        """0, 1 or 2 for each site: by its block, or by its place where it belongs to none."""
        S, B = len(self.names), self.depth
        return tuple(3 * i // S if block is None else 3 * block // B for i, block in enumerate(self.blocks))

    def with_role(self, *roles: str) -> Mask:
        return np.array([role in roles for role in self.roles])

    def between(self, first: int, last: int) -> Mask:
        """Sites of blocks ``first`` to ``last``, both included."""
        return np.array([block is not None and first <= block <= last for block in self.blocks])

    def groups(self) -> dict[str, Mask]:
        """All; each role; each third; each role in each third; each block: masks [S] by name, none of them empty."""
        roles, thirds = tuple(dict.fromkeys(self.roles)), np.array(self.thirds)
        by_third = {name: thirds == i for i, name in enumerate(THIRDS)}
        found = {ALL: np.ones(len(self.names), dtype=bool)}
        found |= {role: self.with_role(role) for role in roles}
        found |= by_third
        found |= {f"{role}, {third}": self.with_role(role) & mask for role in roles for third, mask in by_third.items()}
        found |= {f"block {i}": self.between(i, i) for i in range(self.depth)}
        return {name: mask for name, mask in found.items() if mask.any()}

    def published(self) -> dict[str, Mask]:
        """Recipes of the public record, and groups that others have tried, as far as this tower has them."""
        fc2 = np.flatnonzero(self.with_role("fc2"))
        found = {
            "fc2": self.with_role("fc2"),
            "mlp": self.with_role(*(role.value for role in GROUPS["mlp"])),
            "attention": self.with_role(*(role.value for role in GROUPS["attention"])),
            "last fc2": self._only(fc2[-1:]),
            "last three fc2": self._only(fc2[-3:]),
        }
        if self.depth >= 6:
            found["first three blocks"] = self.between(0, 2)
        if self.depth >= 12:  # in blocks of twelve, as published; the same share of a deeper tower
            first, last = 7 * self.depth // 12, 10 * self.depth // 12 - 1
            found[f"blocks {first} to {last}, fc2"] = self.between(first, last) & self.with_role("fc2")
        return {name: mask for name, mask in found.items() if mask.any()}

    def _only(self, places: NDArray[np.intp]) -> Mask:
        return np.isin(np.arange(len(self.names)), places)

    def candidates(self) -> dict[str, Mask]:
        """All, published recipes, roles, thirds and their products, and every range of blocks; each set of sites once.

        Sites outside of blocks (pooling head, final projection) have a role, and are in no range.
        """
        ranges = {f"blocks {a} to {b}": self.between(a, b) for a, b in self._ranges()}
        named = {**self.groups(), **self.published(), **ranges}
        kept: dict[bytes, str] = {}
        for name, mask in named.items():
            kept.setdefault(mask.tobytes(), name)
        return {name: named[name] for name in kept.values()}

    def _ranges(self) -> Iterator[tuple[int, int]]:
        return itertools.combinations(range(self.depth), 2)

    def reach(self, weights: NDArray[np.floating]) -> float:
        """Share of the sites that a gradient passes on its way to the first of those with weight."""
        S = len(self.names)
        return (S - int(np.flatnonzero(weights)[0])) / S

    def chosen(self, weights: NDArray[np.floating]) -> Mapping[str, float]:
        """Weights by site, of those that have any."""
        return {name: float(w) for name, w in zip(self.names, weights, strict=True) if w > 0}
