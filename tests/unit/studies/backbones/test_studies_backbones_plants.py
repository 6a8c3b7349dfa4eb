"""Image series from a CSV, from the published study's tables, and the drawn ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studies_backbones_data import small_plants

from mcdo.errors import McdoError
from mcdo.studies.backbones.plants import PlantImages, View, load_plants
from mcdo.studies.backbones.wilting import Wilting, severity, wilting_plants

HEAD = "plant,group,round,day,view,path,onset_day\n"


@pytest.fixture
def plants() -> PlantImages:
    return small_plants()


def _csv(folder: Path, lines: str, head: str = HEAD) -> str:
    (folder / "plants.csv").write_text(head + lines, encoding="utf-8")
    return str(folder / "plants.csv")


def test_a_csv_becomes_a_series_with_rounds_numbered_in_order(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (10, 20, 30)).save(tmp_path / "a.png")
    plants = load_plants(_csv(tmp_path, "p,g,5,9.5,top,a.png,9.5\np,g,2,3,top,a.png,9.5\nq,h,5,9.5,top,a.png,\n"))
    assert plants.days == (3.0, 9.5)
    assert plants.views == (View("p", 0, "top"), View("p", 1, "top"), View("q", 1, "top"))
    assert (plants.by_name["p"].onset_day, plants.by_name["q"].onset_day) == (9.5, None)
    assert plants.groups == ("g", "h")
    picture, content = plants.source.load(plants.views[0])
    assert picture.getpixel((0, 0)) == (10, 20, 30)
    assert content == plants.source.content_hash(plants.views[0])


def test_transparent_pixels_become_black(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 50, 0))
    image.putpixel((1, 0), (200, 100, 50, 255))
    image.save(tmp_path / "a.png")
    plants = load_plants(_csv(tmp_path, "p,g,0,1,top,a.png,\n"))
    picture, _ = plants.source.load(plants.views[0])
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (200, 100, 50)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("p,g,0,1,top,a.png,\np,g,0,1,top,b.png,\n", r"line 3: the image p/0/top occurs twice"),
        ("p,g,0,1,top,a.png,\np,h,1,2,top,a.png,\n", r"line 3: p has another group"),
        ("p,g,0,1,top,a.png,\nq,g,0,2,top,a.png,\n", r"line 3: round 0 is on day 2.0, but was on day 1.0"),
        ("p,g,first,1,top,a.png,\n", r"line 2: round is 'first': Expected int, got str"),
        ("a/b,g,0,1,top,a.png,\n", r"names of plants and views"),
        ("", r"there are no images"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(McdoError, match=message):
        load_plants(_csv(tmp_path, lines))


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match=r"the column onset_day is missing; the nearest there: onset_days"):
        load_plants(_csv(tmp_path, "p,g,0,1,top,a.png,\n", HEAD.replace("onset_day", "onset_days")))


def test_a_missing_or_unreadable_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"no picture")
    plants = load_plants(_csv(tmp_path, "p,g,0,1,top,a.png,\np,g,0,1,side,b.png,\n"))
    with pytest.raises(McdoError, match=r"p/0/top: .*a\.png: cannot be read"):
        plants.source.load(View("p", 0, "top"))
    with pytest.raises(McdoError, match=r"b\.png \(p/0/side\): the content is no image"):
        plants.source.load(View("p", 0, "side"))


def test_the_tables_of_the_published_study_are_read(tmp_path: Path) -> None:
    data = tmp_path / "data"
    side, top = data / "img/side/P1/000", data / "img/top/P1"
    side.mkdir(parents=True)
    top.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(side / "124-3-P1-RGB1-000-FishEyeMasked.png")
    Image.new("RGB", (4, 4)).save(top / "124-4-P1-RGB2-FishEyeMasked.png")
    (data / "timepoint_metadata.csv").write_text("round,dag,date\n3,5,x\n4,6,x\n", encoding="utf-8")
    (data / "plant_metadata.csv").write_text(
        "plant_id,accession,dag_drought_onset,image_side_dir,image_top_dir,available_timepoints\n"
        'P1,Aurora/2,6.0,data/img/side/P1,data/img/top/P1,"[3, 4]"\n',
        encoding="utf-8",
    )
    plants = load_plants(str(data))
    assert plants.views == (View("P1", 0, "side_000"), View("P1", 1, "top"))
    assert (plants.by_name["P1"].group, plants.by_name["P1"].onset_day, plants.days) == ("Aurora/2", 6.0, (5.0, 6.0))


@pytest.mark.parametrize("spec", ["wilting:many", "nowhere.csv"])
def test_an_unknown_series_is_refused(spec: str) -> None:
    with pytest.raises(McdoError, match=r"plants '"):
        load_plants(spec)


def test_the_drawn_series_is_the_same_whenever_it_is_drawn() -> None:
    recipe = Wilting(groups=2, rounds=6)
    one, two = wilting_plants(recipe), wilting_plants(recipe)
    assert one.views == two.views
    for view in one.views[::7]:
        (first, a), (second, b) = one.source.load(view), two.source.load(view)
        assert a == b
        assert np.array_equal(np.asarray(first), np.asarray(second))


def test_a_subset_shows_the_same_pictures() -> None:
    all_of, first = load_plants("wilting"), load_plants("wilting:2")
    assert set(first.views) < set(all_of.views)
    assert all(first.source.content_hash(view) == all_of.source.content_hash(view) for view in first.views)


def test_a_changed_recipe_changes_every_hash() -> None:
    view = View("00_dry", 0, "top")
    recipes = (Wilting(), Wilting(seed=1), Wilting(size=64))
    assert len({wilting_plants(recipe).source.content_hash(view) for recipe in recipes}) == 3


def test_44_plants_wilt_on_a_known_day_beside_44_that_do_not() -> None:
    plants = load_plants("wilting")
    onset = [plant.onset_day for plant in plants.plants]
    assert len(plants.groups) == 44
    assert sum(day is not None for day in onset) == sum(day is None for day in onset) == 44
    assert {plants.days.index(day) for day in onset if day is not None} == set(range(3, 10))
    seen = {(view.plant, plants.days[view.round]) for view in plants.views}
    assert all((plant.name, plant.onset_day) in seen for plant in plants.plants if plant.onset_day is not None)


def test_wilting_starts_at_the_onset_and_completes() -> None:
    assert [severity(3, 2.0, number) for number in range(6)] == [0, 0, 0, 0.5, 1, 1]
    assert severity(None, 2.0, 9) == 0


def test_posture_changes_more_than_colour() -> None:
    """Between the first and the last round, leaves of dry plants sink; the picture of a watered one grows."""
    plants = wilting_plants(Wilting(groups=12))

    def height(name: str) -> float:
        pixels = np.asarray(plants.source.load(View(name, 11, "side_000"))[0], dtype=float)
        green = pixels[..., 1] - pixels[..., [0, 2]].max(axis=-1)
        rows = np.flatnonzero((green > 15).any(axis=1))
        return float(48 - rows.min()) if len(rows) else 0.0

    taller = [height(f"{group:02d}_watered") > height(f"{group:02d}_dry") for group in range(12)]
    assert sum(taller) >= 9, taller


def test_impossible_recipes_and_names_are_refused() -> None:
    with pytest.raises(McdoError, match="at least 1 group"):
        Wilting(rounds=3)
    plants = wilting_plants(Wilting(groups=1))
    with pytest.raises(McdoError, match="no plant 'fern'"):
        plants.source.load(View("fern", 0, "top"))
    with pytest.raises(McdoError, match="no view 'below'; the nearest"):
        plants.source.load(View("00_dry", 0, "below"))


def test_an_address_occurs_once_and_lies_within_the_rounds(plants: PlantImages) -> None:
    with pytest.raises(McdoError, match="occurs twice"):
        replace(plants, views=(*plants.views, plants.views[0]))
    with pytest.raises(McdoError, match="numbered 0 to 5"):
        replace(plants, views=(View("00_dry", 6, "top"),))
