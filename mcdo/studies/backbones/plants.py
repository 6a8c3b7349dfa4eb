"""Image series of plants: which plant was photographed in which round from which side, and on what day it wilted.

From one CSV with a line per image, or from the two metadata tables of the published study. Nothing is decoded here.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from PIL import Image, UnidentifiedImageError

from mcdo.errors import McdoError, nearest

COLUMNS = ("plant", "group", "round", "day", "view", "path", "onset_day")


@dataclass(frozen=True, order=True)
class View:
    """One image: plant, round and view; its address in a feature file is ``/plant/round/view``."""

    plant: str
    round: int
    view: str

    @property
    def address(self) -> str:
        """``plant/round/view``."""
        return f"{self.plant}/{self.round}/{self.view}"


@dataclass(frozen=True)
class Plant:
    """A plant, the group (accession) that it is left out with, and the day on which it began to wilt, if it did."""

    name: str
    group: str
    onset_day: float | None


class PlantSource(Protocol):
    """Where pictures come from. Both methods raise McdoError naming the image that is missing or unreadable."""

    def load(self, view: View) -> tuple[Image.Image, str]:
        """The picture (mode RGB) and the hash of what it was decoded from."""
        ...

    def content_hash(self, view: View) -> str:
        """The same hash without decoding."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Pictures in files, by image."""

    paths: Mapping[View, Path]

    def load(self, view: View) -> tuple[Image.Image, str]:
        """Transparent pixels become black, as in the published study, whose images have the background masked away."""
        content = self._bytes(view)
        try:
            with Image.open(io.BytesIO(content)) as picture:
                rgba = picture.convert("RGBA")
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise McdoError(f"{self.paths[view]} ({view.address}) is not a readable image: {error}") from error
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB"), hashlib.sha256(content).hexdigest()

    def content_hash(self, view: View) -> str:
        """Of the file's bytes."""
        return hashlib.sha256(self._bytes(view)).hexdigest()

    def _bytes(self, view: View) -> bytes:
        try:
            return self.paths[view].read_bytes()
        except OSError as error:
            raise McdoError(f"{view.address}: {self.paths[view]} cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class PlantImages:
    """Plants in order, the day of every round number, and the images in the order in which they are extracted."""

    name: str
    plants: tuple[Plant, ...]
    days: tuple[float, ...]
    views: tuple[View, ...]
    source: PlantSource

    def __post_init__(self) -> None:
        if len(set(self.views)) != len(self.views):
            twice = next(v for i, v in enumerate(self.views) if v in self.views[:i])
            raise McdoError(f"{self.name}: the image {twice.address} occurs twice; every plant/round/view is one image")
        for view in self.views:
            if not view.plant or not view.view or set("/.") & {*view.plant, *view.view}:
                raise McdoError(f"{self.name}: {view.address!r}: names of plants and views must hold neither / nor .")
            if not 0 <= view.round < len(self.days):
                raise McdoError(f"{self.name}: {view.address}: rounds are numbered 0 to {len(self.days) - 1}")

    @cached_property
    def by_name(self) -> dict[str, Plant]:
        """The plants by name."""
        return {plant.name: plant for plant in self.plants}

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups in order of first appearance: one fold each."""
        return tuple(dict.fromkeys(plant.group for plant in self.plants))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the addresses and what is known of the plants; not over pixels, which are hashed one by one."""
        known = [[p.name, p.group, p.onset_day] for p in self.plants]
        return hashlib.sha256(json.dumps([known, self.days, [v.address for v in self.views]]).encode()).hexdigest()

    def first(self, groups: int) -> PlantImages:
        """The series of the first ``groups`` groups."""
        kept = set(self.groups[:groups])
        plants = tuple(plant for plant in self.plants if plant.group in kept)
        names = {plant.name for plant in plants}
        views = tuple(view for view in self.views if view.plant in names)
        return PlantImages(f"{self.name}, first {groups}", plants, self.days, views, self.source)


def load_plants(spec: str) -> PlantImages:
    """``"wilting"`` (embedded), ``"wilting:G"`` (its first G groups), a CSV of images, or a study's folder.

    A folder holds ``plant_metadata.csv`` and ``timepoint_metadata.csv`` as the published study has them.
    """
    name, _, count = spec.partition(":")
    if name == "wilting":
        from mcdo.studies.backbones.wilting import wilting_plants

        if count and not count.isdigit():
            raise McdoError(f"plants {spec!r}: give wilting or wilting:G with a number of groups G")
        return wilting_plants().first(int(count)) if count else wilting_plants()
    path = Path(spec).expanduser()
    if path.is_dir():
        return read_study(path)
    if path.is_file():
        return read_csv(path)
    raise McdoError(
        f"plants {spec!r} are neither 'wilting' nor a CSV nor a folder; {', '.join(COLUMNS)} are its columns"
    )


def read_csv(path: Path) -> PlantImages:
    """A line per image with :data:`COLUMNS`; ``onset_day`` is empty for a plant that never wilted.

    Paths are relative to the CSV. Rounds may be any integers; they are numbered anew in order.
    """
    lines = _table(path, COLUMNS)
    plants: dict[str, Plant] = {}
    days: dict[int, float] = {}
    paths: dict[View, Path] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}, line {number}"
        onset = _number(where, "onset_day", line["onset_day"]) if line["onset_day"].strip() else None
        plant = Plant(line["plant"], line["group"], onset)
        if plants.setdefault(plant.name, plant) != plant:
            raise McdoError(f"{where}: {plant.name} has another group or onset_day than before")
        at, day = int(_number(where, "round", line["round"])), _number(where, "day", line["day"])
        if days.setdefault(at, day) != day:
            raise McdoError(f"{where}: round {at} is on day {day}, but was on day {days[at]}; a round has one day")
        view = View(plant.name, at, line["view"])
        if view in paths:
            raise McdoError(f"{where}: the image {view.address} occurs twice; every plant/round/view is one image")
        paths[view] = path.parent / line["path"]
    return _series(str(path), plants, days, paths)


def read_study(folder: Path) -> PlantImages:
    """The published study's own tables: a line per plant with its folders of images, and the day of every round."""
    rounds = _table(folder / "timepoint_metadata.csv", ("round", "dag"))
    days = {int(line["round"]): float(line["dag"]) for line in rounds}
    needed = ("plant_id", "accession", "dag_drought_onset", "image_side_dir", "image_top_dir", "available_timepoints")
    plants, paths = {}, {}
    for line in _table(folder / "plant_metadata.csv", needed):
        name, onset = line["plant_id"], line["dag_drought_onset"]
        plants[name] = Plant(name, line["accession"], float(onset) if onset else None)
        for at in json.loads(line["available_timepoints"]):
            for view, file in _study_files(line, at):
                if (folder.parent / file).is_file():  # as in the study: a view that was not taken is not an error
                    paths[View(name, at, view)] = folder.parent / file
    return _series(str(folder), plants, days, paths)


def _study_files(line: Mapping[str, str], at: int) -> Iterable[tuple[str, Path]]:
    stem = f"124-{at}-{line['plant_id']}"
    for angle in ("000", "120", "240"):
        yield f"side_{angle}", Path(line["image_side_dir"], angle, f"{stem}-RGB1-{angle}-FishEyeMasked.png")
    yield "top", Path(line["image_top_dir"], f"{stem}-RGB2-FishEyeMasked.png")


def _series(
    name: str, plants: Mapping[str, Plant], days: Mapping[int, float], paths: Mapping[View, Path]
) -> PlantImages:
    if not paths:
        raise McdoError(f"{name}: there are no images; check the paths, which are relative to the table")
    order = {at: place for place, at in enumerate(sorted(days))}
    numbered = {View(view.plant, order[view.round], view.view): path for view, path in paths.items()}
    sorted_days = tuple(days[at] for at in sorted(days))
    seen = {view.plant for view in numbered}
    kept = tuple(plant for plant in plants.values() if plant.name in seen)
    return PlantImages(name, kept, sorted_days, tuple(sorted(numbered)), FileSource(numbered))


def _table(path: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
    except OSError as error:
        raise McdoError(f"{path} cannot be read ({error.strerror})") from error
    missing = set(needed) - set(lines[0] if lines else ())
    if missing:
        found = nearest(sorted(missing)[0], lines[0]) if lines else "no line at all"
        raise McdoError(f"{path} lacks the column {', '.join(sorted(missing))}; the nearest there: {found}")
    return lines


def _number(where: str, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise McdoError(f"{where}: {column} is {text!r}, which is not a number") from None
