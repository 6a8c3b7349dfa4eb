"""Feature files: /plant/round/view, whole or not there, and never of two backbones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from studies_backbones_data import small_plants

from mcdo.errors import McdoError
from mcdo.studies.backbones.features import Features, Identity, merge, read_features, seal, write_features
from mcdo.studies.backbones.plants import PlantImages, View
from mcdo.studies.backbones.series import series_of

IDENTITY = Identity("some", 3, False, "ab" * 32, "relu", "squash", "torch", "cd" * 32)


@pytest.fixture
def plants() -> PlantImages:
    return small_plants()


def _features(*views: View, identity: Identity = IDENTITY) -> Features:
    vectors = {view: np.arange(3, dtype=np.float32) + view.round for view in views}
    return Features(identity, vectors, {view: f"hash of {view.address}" for view in views})


def test_a_vector_lies_at_plant_round_view_with_its_provenance(tmp_path: Path) -> None:
    import h5py

    path = write_features(tmp_path / "f.h5", _features(View("p", 2, "top")))
    with h5py.File(path, "r") as file:
        held = file["p/2/top"]
        assert (held.shape, held.dtype) == ((3,), np.float32)
        assert held[()].tolist() == [2, 3, 4]
        assert held.attrs["sha256"] == "hash of p/2/top"
        assert file.attrs["backbone"] == "some"
        assert file.attrs["weights"] == "ab" * 32
        assert file.attrs["preprocessing"] == "squash"
        assert "torch" in file.attrs["versions"]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    given = _features(View("p", 2, "top"), View("p", 10, "top"), View("q", 0, "side"))
    found = read_features(write_features(tmp_path / "f.h5", given))
    assert found.identity == given.identity
    assert found.hashes == given.hashes
    assert {view: vector.tolist() for view, vector in found.vectors.items()} == {
        view: vector.tolist() for view, vector in given.vectors.items()
    }


def test_merged_shards_are_byte_for_byte_one_extraction(tmp_path: Path) -> None:
    a, b = View("p", 0, "top"), View("q", 1, "top")
    shards = [write_features(tmp_path / "1.h5", _features(b)), write_features(tmp_path / "2.h5", _features(a))]
    merged = merge(shards, tmp_path / "merged.h5")
    whole = write_features(tmp_path / "whole.h5", _features(a, b))
    assert merged.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("backbone", "other"),
        ("weights", "00"),
        ("architecture", "gelu"),
        ("software", "another torch"),
        ("preprocessing", "crop"),
        ("plants", "1"),
        ("random_weights", True),
    ],
)
def test_mixed_files_do_not_merge(tmp_path: Path, field: str, value: object) -> None:
    one = write_features(tmp_path / "1.h5", _features(View("p", 0, "top")))
    changed = replace(IDENTITY, **{field: value})  # type: ignore[arg-type]
    two = write_features(tmp_path / "2.h5", _features(View("q", 0, "top"), identity=changed))
    with pytest.raises(McdoError, match=rf"2\.h5 has {field} = "):
        merge([one, two], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_an_image_held_twice_or_missing_does_not_merge(tmp_path: Path, plants: PlantImages) -> None:
    one = write_features(tmp_path / "1.h5", _features(View("p", 0, "top")))
    with pytest.raises(McdoError, match="p/0/top, which another piece holds"):
        merge([one, one], tmp_path / "out.h5")
    with pytest.raises(McdoError, match="images are missing, the first 00_dry/0/side_000"):
        merge([one], tmp_path / "out.h5", plants)
    with pytest.raises(McdoError, match="no feature files"):
        merge([], tmp_path / "out.h5")


@pytest.mark.parametrize(
    "vector",
    [np.zeros(2, np.float32), np.zeros(3), np.array([0, np.nan, 0], np.float32)],
    ids=["another-size", "float64", "nan"],
)
def test_a_wrong_vector_leaves_nothing_behind(tmp_path: Path, vector: NDArray[Any]) -> None:
    view = View("p", 0, "top")
    with pytest.raises(McdoError, match="p/0/top"):
        write_features(tmp_path / "f.h5", Features(IDENTITY, {view: vector}, {view: ""}))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_features(tmp_path / "f.h5", _features(View("p", 0, "top")))
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("mcdo.studies.backbones.features._fill", full)
    with pytest.raises(OSError, match="no space"):
        write_features(path, _features(View("q", 0, "top")))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["f.h5"]


def test_damaged_and_foreign_files_are_named(tmp_path: Path) -> None:
    import h5py

    path = write_features(tmp_path / "f.h5", _features(View("p", 0, "top")))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(McdoError, match=r"f\.h5 is damaged"):
        read_features(path)
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file["p/0/top"] = np.zeros(3)
    with pytest.raises(McdoError, match=r"g\.h5 is damaged, or no feature file of this version"):
        read_features(tmp_path / "g.h5")
    with pytest.raises(McdoError, match=r"is not there; run: python -m mcdo\.studies\.backbones extract"):
        read_features(tmp_path / "none.h5")


Change = Callable[[Any, Path], object]


def _replaced(name: str, **how: Any) -> Change:
    def change(file: Any, folder: Path) -> None:
        facts = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, **how).attrs.update(facts)

    return change


def _linked(file: Any, folder: Path) -> None:
    import h5py

    with h5py.File(folder / "other.h5", "w") as other:
        other["vector"] = np.zeros(3, np.float32)
    del file["q/0/top"]
    file["q/0/top"] = h5py.ExternalLink(str(folder / "other.h5"), "vector")


def _outside(file: Any, folder: Path) -> None:
    (folder / "raw").write_bytes(bytes(12))
    _replaced("q/0/top", shape=(3,), dtype=np.float32, external=[(str(folder / "raw"), 0, 12)])(file, folder)


FOREIGN: dict[str, Change] = {
    "an image that was lost": lambda file, folder: file.__delitem__("q/0/top"),
    "another shape": _replaced("q/0/top", data=np.zeros(4, np.float32)),
    "another type": _replaced("q/0/top", data=np.zeros(3)),
    "not finite": _replaced("q/0/top", data=np.array([0, np.nan, 1], np.float32)),
    "a terabyte": _replaced("q/0/top", shape=(2**38,), dtype=np.float32, chunks=(2**16,)),
    "a link": _linked,
    "storage outside": _outside,
    "a group": lambda file, folder: file.create_group("q/0/side"),
    "a data set for a group": lambda file, folder: file.create_dataset("r", data=np.zeros(3, np.float32)),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN)
def test_what_was_not_written_here_is_refused(change: Change, tmp_path: Path) -> None:
    import h5py

    path = write_features(tmp_path / "f.h5", _features(View("p", 0, "top"), View("q", 0, "top")))
    with h5py.File(path, "a") as file:
        change(file, tmp_path)
    with pytest.raises(McdoError, match=r"f\.h5 is damaged \(its checksum is wrong\)"):
        read_features(path)
    seal(path)
    lost = change is FOREIGN["an image that was lost"]
    with pytest.raises(McdoError, match="holds 1 images, but was written with 2" if lost else r"f\.h5 is damaged"):
        read_features(path)


def test_the_key_of_what_is_trained_covers_the_vectors(plants: PlantImages) -> None:
    identity = replace(IDENTITY, plants=plants.fingerprint)
    features = _features(*plants.views, identity=identity)
    first = plants.views[0]
    other = replace(features, vectors={**features.vectors, first: features.vectors[first] + 1})
    assert series_of(plants, features).key == series_of(plants, features).key
    assert series_of(plants, features).key != series_of(plants, other).key


def test_views_are_pooled_by_their_mean_and_rounds_labelled_from_the_onset(plants: PlantImages) -> None:
    identity = replace(IDENTITY, plants=plants.fingerprint)
    value = {"side_000": 0.0, "side_120": 3.0, "top": 6.0}
    vectors = {view: np.full(3, value[view.view] + view.round, np.float32) for view in plants.views}
    series = series_of(plants, Features(identity, vectors, dict.fromkeys(plants.views, "")))
    rounds = np.broadcast_to(np.arange(6), series.seen.shape)
    assert np.array_equal(series.features[..., 0], np.where(series.seen, 3.0 + rounds, 0))
    for i, plant in enumerate(plants.plants):
        truth = [plant.onset_day is not None and day >= plant.onset_day for day in plants.days]
        assert series.labels[i].tolist() == truth
        assert np.array_equal(series.onset[i], np.nan if plant.onset_day is None else plant.onset_day, equal_nan=True)


def test_incomplete_or_foreign_features_are_not_trained_on(plants: PlantImages) -> None:
    identity = replace(IDENTITY, plants=plants.fingerprint)
    with pytest.raises(McdoError, match="of other plants"):
        series_of(plants, _features(View("p", 0, "top")))
    with pytest.raises(McdoError, match=r"lack .* the first 00_dry/0/side_120"):
        series_of(plants, _features(plants.views[0], identity=identity))
