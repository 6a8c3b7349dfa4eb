"""Image series of plants: which plant was photographed in which round from which side, and on what day it wilted.

From one CSV with a line per image, or from the two metadata tables of the published study. Nothing is decoded here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from PIL import Image

from mcdo import arguments, schema
from mcdo.errors import McdoError
from mcdo.images.decode import decode, read
from mcdo.schema import OpenRecord, Text, checked, parse_json

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
        image = decode(content, f"{self.paths[view]} ({view.address})", background="black")
        return image, hashlib.sha256(content).hexdigest()

    def content_hash(self, view: View) -> str:
        """Of the file's bytes."""
        return hashlib.sha256(self._bytes(view)).hexdigest()

    def _bytes(self, view: View) -> bytes:
        return read(self.paths[view], f"{view.address}: {self.paths[view]}")


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
    path = arguments.path(spec)
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
    plants: dict[str, Plant] = {}
    days: dict[int, float] = {}
    paths: dict[View, Path] = {}
    for number, line in schema.read_csv(path, _Line, f"{', '.join(COLUMNS)} are the columns"):
        where = f"{path}, line {number}"
        plant = Plant(line.plant, line.group, line.onset_day)
        if plants.setdefault(plant.name, plant) != plant:
            raise McdoError(f"{where}: {plant.name} has another group or onset_day than before")
        if days.setdefault(line.round, line.day) != line.day:
            before = f"was on day {days[line.round]}; a round has one day"
            raise McdoError(f"{where}: round {line.round} is on day {line.day}, but {before}")
        view = View(plant.name, line.round, line.view)
        if view in paths:
            raise McdoError(f"{where}: the image {view.address} occurs twice; every plant/round/view is one image")
        paths[view] = path.parent / line.path
    return _series(str(path), plants, days, paths)


class _Line(OpenRecord, frozen=True):
    plant: Text
    group: Text
    round: int
    day: float
    view: Text
    path: Text
    onset_day: float | None


class _Round(OpenRecord, frozen=True):
    round: int
    dag: float


class _Plant(OpenRecord, frozen=True):
    plant_id: Text
    accession: Text
    dag_drought_onset: float | None
    image_side_dir: Text
    image_top_dir: Text
    available_timepoints: Text


def read_study(folder: Path) -> PlantImages:
    """The published study's own tables: a line per plant with its folders of images, and the day of every round."""
    days = {line.round: line.dag for _, line in schema.read_csv(folder / "timepoint_metadata.csv", _Round)}
    plants, paths = {}, {}
    table = folder / "plant_metadata.csv"
    for number, line in schema.read_csv(table, _Plant):
        where = f"{table}, line {number}: available_timepoints"
        plants[line.plant_id] = Plant(line.plant_id, line.accession, line.dag_drought_onset)
        for at in checked(parse_json(line.available_timepoints, where), tuple[int, ...], where):
            if at not in days:
                raise McdoError(f"{where}: {at} is no round of timepoint_metadata.csv")
            for view, file in _study_files(line, at):
                if os.path.isfile(folder.parent / file):  # as in the study: a view that was not taken is not an error
                    paths[View(line.plant_id, at, view)] = folder.parent / file
    return _series(str(folder), plants, days, paths)


def _study_files(line: _Plant, at: int) -> Iterable[tuple[str, Path]]:
    stem = f"124-{at}-{line.plant_id}"
    for angle in ("000", "120", "240"):
        yield f"side_{angle}", Path(line.image_side_dir, angle, f"{stem}-RGB1-{angle}-FishEyeMasked.png")
    yield "top", Path(line.image_top_dir, f"{stem}-RGB2-FishEyeMasked.png")


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
