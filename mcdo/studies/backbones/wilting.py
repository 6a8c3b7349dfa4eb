"""The embedded data: small seeded image series of potted plants, half of which wilt from a known day on.

A plant is a stem with curved leaves in three dimensions, seen from two sides and from above, so that all views show the
same posture. Wilting is drawn as what it is, a loss of turgor: leaves sink, bend and roll, and the stem leans; the
colour changes only a little. What must not decide varies on its own: light and its colour in every image, what lies
behind the plant, the place and zoom of the camera, posture from day to day, and per accession the number, size,
colour and natural angle of the leaves. Everything grows and ages, watered plants too.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mcdo.errors import McdoError, nearest
from mcdo.studies.backbones.plants import Plant, PlantImages, View

# Part of every content hash: to be changed with anything below that changes a pixel.
_RECIPE = "wilting 1"
_VIEWS = {"side_000": 0.0, "side_120": 120.0, "top": None}
_OVERSAMPLING = 2
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Wilting:
    """What is drawn: ``groups`` accessions, of each one plant that wilts and (``controls``) one that is watered.

    Rounds are ``days_per_round`` apart and begin on ``first_day``; a round of a plant is missing with probability
    ``missing``, but never its first, its onset or its last. The onset round is uniform from the fourth to the
    last but two. ``size`` is in pixels.
    """

    groups: int = 44
    rounds: int = 12
    controls: bool = True
    size: int = 48
    first_day: float = 4.0
    days_per_round: float = 3.0
    missing: float = 0.1
    seed: int = 42

    def __post_init__(self) -> None:
        if self.groups < 1 or self.rounds < 6 or not 0 <= self.missing < 1 or not 32 <= self.size <= 64:
            raise McdoError(
                f"{self}: there must be at least 1 group and 6 rounds, missing in [0, 1) and size from 32 to 64 pixels"
            )


@dataclass(frozen=True)
class _Accession:
    """What the two plants of a group share."""

    leaves: int
    length: float
    width: float
    elevation: float  # natural angle of the leaves above the horizontal, degrees
    stem: float
    colour: Vector


@dataclass(frozen=True)
class _Pot:
    """One plant: when it wilts, how fast, and its own growth."""

    onset: int | None
    ramp: float
    vigour: float
    azimuth: Vector
    heights: Vector


def _rng(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(json.dumps([_RECIPE, *key]).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


@lru_cache(maxsize=4096)
def _accession(seed: int, group: int) -> _Accession:
    rng = _rng(seed, group)
    return _Accession(
        leaves=int(rng.integers(6, 11)),
        length=float(rng.uniform(0.30, 0.46)),
        width=float(rng.uniform(0.07, 0.12)),
        elevation=float(rng.uniform(20, 50)),
        stem=float(rng.uniform(0.5, 0.8)),
        colour=np.array([90, 165, 70]) + rng.normal(0, [14, 16, 12]),
    )


@lru_cache(maxsize=4096)
def _pot(recipe: Wilting, group: int, watered: bool) -> _Pot:
    rng, leaves = _rng(recipe.seed, group, watered), _accession(recipe.seed, group).leaves
    onset = int(rng.integers(3, recipe.rounds - 2))
    return _Pot(
        onset=None if watered else onset,
        ramp=float(rng.uniform(2.5, 4.5)),
        vigour=float(rng.uniform(0.85, 1.15)),
        azimuth=np.arange(leaves) * 137.5 + rng.normal(0, 15, leaves),
        heights=np.linspace(0.25, 1.0, leaves) + rng.normal(0, 0.03, leaves),
    )


def severity(onset: int | None, ramp: float, number: int) -> float:
    """How far wilting has gone in round ``number`` (0-based): 0 before the onset round, 1 when complete."""
    return 0.0 if onset is None else float(np.clip((number - onset + 1) / ramp, 0, 1))


def _midribs(base: Vector, azimuth: Vector, elevation: Vector, bend: Vector, length: float) -> Vector:
    """Of L leaves, float64 [L, 8, 3]: each leaves the stem at its elevation and turns down by ``bend`` to the tip."""
    angle = np.radians(elevation[:, None] - bend[:, None] * np.linspace(0, 1, 8))[:, :-1]
    steps = np.stack([np.cos(angle), np.sin(angle)], axis=2) * length / 7
    out, up = np.moveaxis(np.pad(np.cumsum(steps, axis=1), ((0, 0), (1, 0), (0, 0))), 2, 0)
    turn = np.radians(azimuth)[:, None]
    return np.asarray(base[:, None] + np.stack([out * np.cos(turn), out * np.sin(turn), up], axis=2))


@lru_cache(maxsize=256)
def _posture(recipe: Wilting, group: int, watered: bool, number: int) -> tuple[Vector, Vector, float]:
    """The stem [2, 3], the midribs of the leaves [L, 8, 3] and their width; one unit is a tall plant's full height."""
    kind, pot = _accession(recipe.seed, group), _pot(recipe, group, watered)
    rng, n = _rng(recipe.seed, group, watered, number), kind.leaves
    wilt, age = severity(pot.onset, pot.ramp, number), number / (recipe.rounds - 1)
    growth = pot.vigour * (0.6 + 0.4 * age)
    today = kind.elevation + rng.normal(0, 6)  # leaves move over the day, watered ones too
    lean = rng.normal(0, 0.05, 2) + wilt * 0.25 * np.array([math.cos(group), math.sin(group)])
    top = np.array([*lean, kind.stem]) * growth
    oldest_first = 1 - np.arange(n) / n  # the lowest leaves are the oldest, and sink with age
    sag = 75 * wilt * rng.uniform(0.8, 1.2, n) + 15 * age * oldest_first
    bend = 25 + 55 * wilt + rng.normal(0, 6, n)
    midribs = _midribs(
        top * pot.heights[:, None], pot.azimuth, today - sag + rng.normal(0, 5, n), bend, kind.length * growth
    )
    return np.stack([np.zeros(3), top]), midribs, kind.width * growth * (1 - 0.4 * wilt)


def _project(points: Vector, view: float | None) -> Vector:
    """Orthographic, [..., 3] to [..., 2], y upwards; ``view`` is the camera's azimuth in degrees, None from above."""
    if view is None:
        return points[..., :2]
    turn = math.radians(view)
    across = points[..., 0] * math.cos(turn) + points[..., 1] * math.sin(turn)
    return np.stack([across, points[..., 2]], axis=-1)


def _blades(midribs: Vector, width: float) -> Vector:
    """The outlines [L, 16, 2] of leaves around their projected midribs [L, 8, 2]."""
    along = np.gradient(midribs, axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-9)
    half = width * np.sin(np.linspace(0.15, math.pi, 8))[:, None] / 2
    side = np.stack([-along[..., 1], along[..., 0]], axis=2) * half
    return np.concatenate([midribs + side, (midribs - side)[:, ::-1]], axis=1)


def draw(recipe: Wilting, group: int, watered: bool, number: int, view: str) -> Image.Image:
    """A plant in a round, mode RGB, ``recipe.size`` pixels square."""
    from PIL import ImageDraw

    kind, pot = _accession(recipe.seed, group), _pot(recipe, group, watered)
    rng = _rng(recipe.seed, group, watered, number, view)
    stem, midribs, width = _posture(recipe, group, watered, number)
    wilt, age = severity(pot.onset, pot.ramp, number), number / (recipe.rounds - 1)
    side, azimuth = recipe.size * _OVERSAMPLING, _VIEWS[view]
    zoom = side * 0.75 * rng.uniform(0.92, 1.08)
    origin = np.array([0.5, 0.5 if azimuth is None else 0.8]) * side + rng.normal(0, 0.03, 2) * side

    def pixels(points: Vector) -> list[tuple[float, float]]:
        return [(x, y) for x, y in (origin + points * [zoom, -zoom]).tolist()]

    image = Image.fromarray(_background(rng, side))
    pen = ImageDraw.Draw(image)
    pot_colour = tuple(int(c) for c in np.clip(rng.uniform(50, 90) * np.array([1.1, 0.9, 0.8]), 0, 255))
    if azimuth is None:
        pen.ellipse([*(origin - 0.2 * zoom), *(origin + 0.2 * zoom)], fill=pot_colour)
    else:
        pen.polygon(pixels(np.array([[-0.16, 0.0], [0.16, 0.0], [0.12, -0.28], [-0.12, -0.28]])), fill=pot_colour)
    green = kind.colour + wilt * np.array([14, -10, 4]) + age * np.array([8, -4, 0])
    pen.line(pixels(_project(stem, azimuth)), fill=_rgb(green * 0.8), width=max(1, round(0.03 * zoom)))
    for blade, shade in zip(
        _blades(_project(midribs, azimuth), width), rng.uniform(0.8, 1.1, kind.leaves), strict=True
    ):
        pen.polygon(pixels(blade), fill=_rgb(green * shade))
    return _photograph(rng, image, recipe.size)


# Several backbones look at the same pictures, and drawing one takes longer than reading it.
_drawn = lru_cache(maxsize=8192)(draw)


def _rgb(colour: Vector) -> tuple[int, int, int]:
    red, green, blue = np.clip(colour, 0, 255)
    return int(red), int(green), int(blue)


def _background(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """Dark, as images with the background masked away are, but not evenly so: a slope of some level and hue."""
    level, hue = rng.uniform(0, 45), rng.uniform(0.7, 1.3, 3)
    slope = np.linspace(rng.uniform(0.5, 1.5), rng.uniform(0.5, 1.5), side)[:, None, None]
    return np.clip(np.broadcast_to(level * hue * slope, (side, side, 3)), 0, 255).astype(np.uint8)


def _photograph(rng: np.random.Generator, image: Image.Image, size: int) -> Image.Image:
    """Light, its colour and sensor noise, at the final size."""
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    light = math.exp(rng.normal(0, 0.2)) * np.exp(rng.normal(0, 0.1, 3))
    noisy = pixels * light + rng.normal(0, 4, pixels.shape)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class WiltingSource:
    """Draws the images of a recipe on demand."""

    recipe: Wilting

    def load(self, view: View) -> tuple[Image.Image, str]:
        """The picture (mode RGB) and its content hash."""
        group, watered = _parse(view.plant)
        if view.view not in _VIEWS:
            raise McdoError(
                f"{view.address}: there is no view {view.view!r}; the nearest: {nearest(view.view, _VIEWS)}"
            )
        return _drawn(self.recipe, group, watered, view.round, view.view).copy(), self.content_hash(view)

    def content_hash(self, view: View) -> str:
        """Over the recipe and not the pixels, so it is the same on every platform."""
        what = json.dumps([_RECIPE, asdict(self.recipe), view.plant, view.round, view.view], sort_keys=True)
        return hashlib.sha256(what.encode()).hexdigest()


def wilting_plants(recipe: Wilting | None = None) -> PlantImages:
    """The image series of ``recipe`` (default: :class:`Wilting` as it stands); nothing is drawn yet."""
    recipe = Wilting() if recipe is None else recipe
    kinds = (False, True) if recipe.controls else (False,)
    pots = [(group, watered) for group in range(recipe.groups) for watered in kinds]
    days = [recipe.first_day + recipe.days_per_round * number for number in range(recipe.rounds)]
    plants = [_plant(recipe, group, watered, days) for group, watered in pots]
    views = [
        View(p.name, r, v) for p, pot in zip(plants, pots, strict=True) for r in _seen(recipe, *pot) for v in _VIEWS
    ]
    return PlantImages(
        f"wilting ({recipe.groups} groups)", tuple(plants), tuple(days), tuple(views), WiltingSource(recipe)
    )


def _plant(recipe: Wilting, group: int, watered: bool, days: list[float]) -> Plant:
    onset = _pot(recipe, group, watered).onset
    return Plant(_name(group, watered), f"accession_{group:02d}", None if onset is None else days[onset])


def _seen(recipe: Wilting, group: int, watered: bool) -> list[int]:
    """The rounds in which a plant was photographed."""
    kept = _rng(recipe.seed, group, watered, "rounds").uniform(size=recipe.rounds) >= recipe.missing
    kept[[0, -1]] = True
    onset = _pot(recipe, group, watered).onset
    if onset is not None:
        kept[onset] = True
    return [int(number) for number in np.flatnonzero(kept)]


def _name(group: int, watered: bool) -> str:
    return f"{group:02d}_{'watered' if watered else 'dry'}"


def _parse(name: str) -> tuple[int, bool]:
    group, _, kind = name.partition("_")
    if not group.isdigit() or kind not in ("watered", "dry"):
        raise McdoError(f"there is no plant {name!r} among the wilting plants; names look like 07_dry, 07_watered")
    return int(group), kind == "watered"
