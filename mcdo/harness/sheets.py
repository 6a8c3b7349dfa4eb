"""Contact sheets: which images an experiment wants seen, with the pixels that the encoder saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from mcdo.estimators import prepared
from mcdo.harness.requests import Images

if TYPE_CHECKING:
    from mcdo.harness.session import Session

THUMBNAIL = 96
"""Pixels of a thumbnail's longer side at most."""
EACH = 12
"""Images at each end of a score."""


@dataclass(frozen=True)
class Tile:
    """The image at ``index`` of the images ``shown``, and the words beneath it."""

    shown: Images
    index: int
    caption: str


@dataclass(frozen=True)
class Sheet:
    """Images side by side, under a title."""

    title: str
    tiles: tuple[Tile, ...]


def extremes(shown: Images, name: str, values: ArrayLike, captions: Sequence[str]) -> list[Sheet]:
    """The images with the largest and with the smallest of ``values`` [N], in that order."""
    order = np.argsort(np.asarray(values), kind="stable")
    each = min(EACH, len(order) // 2)
    ends = {"most": order[::-1][:each], "least": order[:each]}
    return [
        Sheet(f"{word} uncertain by {name}", tuple(Tile(shown, int(i), captions[i]) for i in chosen))
        for word, chosen in ends.items()
        if each
    ]


def disagreement(shown: Images, names: tuple[str, str], scores: tuple[ArrayLike, ArrayLike]) -> Sheet:
    """The images whose ranks by two scores [N] differ most; beneath each, what share of the images lies below it."""
    first, second = (np.argsort(np.argsort(score, kind="stable")) / max(1, np.size(score) - 1) for score in scores)
    order = np.argsort(-np.abs(first - second), kind="stable")[:EACH]
    tiles = (Tile(shown, int(i), f"{names[0]} {first[i]:.0%}, {names[1]} {second[i]:.0%}") for i in order)
    return Sheet(f"where {names[0]} and {names[1]} disagree most (shares of the images below)", tuple(tiles))


def drawn(session: Session, model: str, sheets: Iterable[Sheet]) -> list[dict[str, Any]]:
    """Sheets with their pictures as PNG in base64, JSON-able: the pixels as ``model`` is shown them."""
    sheets = list(sheets)
    wanted: dict[Images, set[int]] = {}
    for tile in (tile for sheet in sheets for tile in sheet.tiles):
        wanted.setdefault(tile.shown, set()).add(tile.index)
    pictures = {shown: _pictures(session, model, shown, sorted(indices)) for shown, indices in wanted.items()}
    return [
        {"title": s.title, "tiles": [{**pictures[t.shown][t.index], "caption": t.caption} for t in s.tiles]}
        for s in sheets
    ]


def words(session: Session, sheets: Iterable[Sheet]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Titles of sheets, and the id of each image and the words beneath it: all but the pictures."""
    return [(s.title, [(session.image_set(t.shown).ids[t.index], t.caption) for t in s.tiles]) for s in sheets]


def _pictures(session: Session, model: str, shown: Images, indices: list[int]) -> Mapping[int, dict[str, str]]:
    images = session.image_set(shown)
    chosen = images.select(indices)
    pixels = prepared(session.encoder(model), chosen).data.permute(0, 2, 3, 1).cpu().numpy()
    classes = [""] * len(chosen) if chosen.labels is None else [chosen.class_names[label] for label in chosen.labels]
    return {
        i: {"id": chosen.ids[place], "class": classes[place], "png": _png(pixels[place])}
        for place, i in enumerate(indices)
    }


def _png(pixels: ArrayLike) -> str:
    from PIL import Image

    picture = Image.fromarray(np.asarray(pixels))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    held = io.BytesIO()
    picture.save(held, format="PNG", optimize=True)
    return base64.b64encode(held.getvalue()).decode("ascii")
