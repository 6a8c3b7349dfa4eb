from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mcdo.rivals.scorer
from mcdo.encoders import Encoder
from mcdo.encoders.spec import MODELS_DIR
from mcdo.errors import McdoError
from mcdo.estimators import prepared
from mcdo.experiments.rivals.requests import Head, OwnScores, Views, Votes, check_unseen, votes
from mcdo.experiments.rivals.score_files import read_scores, without_copies
from mcdo.experiments.rivals.table import ENSEMBLE, RivalsResult, RivalsTable
from mcdo.harness import Completed, Images, Runner, Session, Settings, Subject, View
from mcdo.images import ImageSet
from mcdo.rivals import SCORERS, register_scorer, scorer_named
from mcdo.rivals.scorer import held_by

IDS = ("a.png", "b.png", "c.png")
OWN = '''
import numpy as np

class Brightness:
    """Images of unusual brightness are uncertain."""

    name, cost, stochastic = "brightness", 0.0, False

    def fit(self, encoder, images):
        self.fitted_on = set(images.origins)
        self.usual = np.mean([np.asarray(image).mean() for image in images])

    def score(self, encoder, images, trial):
        assert not self.fitted_on & set(images.origins), "scored what it was fitted on"
        return [abs(np.asarray(image).mean() - self.usual) for image in images]
'''


def test_votes_by_hand() -> None:
    logits = np.log(np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]]]))
    found = votes(logits, np.array([0]))
    assert found["variation_ratio"] == pytest.approx([0.25])
    assert found["vote_share"] == pytest.approx([-0.75])
    mean = np.array([0.6, 0.4])
    total = -(mean * np.log(mean)).sum()
    within = np.mean([-(p * np.log(p)).sum() for p in np.exp(logits[0])])
    assert found["predictive_entropy"] == pytest.approx([total])
    assert found["mutual_information"] == pytest.approx([total - within])


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(Settings(("clip_tiny",), protocol="quick"))


def test_votes_and_views_do_not_depend_on_the_batch(session: Session) -> None:
    from mcdo.estimators import MonteCarloConfig
    from mcdo.perturbation import Dropout

    images = Images(12)
    classes = session.image_set(images).class_names
    for request in (
        Votes("clip_tiny", images, classes, MonteCarloConfig(Dropout(0.05), (8,), 2, 1)),
        Views("clip_tiny", images, 4, 2, 1),
    ):
        small = Session(replace(session.settings, batch_size=5))
        for name, values in request.measure(session).items():
            np.testing.assert_allclose(request.measure(small)[name], values, atol=1e-6)
            assert not np.allclose(values[0], values[1]), "two trials are two draws"


@pytest.mark.parametrize("form", ["csv", "npz", "parquet"])
def test_scores_from_a_file_are_put_in_order(tmp_path: Path, form: str) -> None:
    if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
        pytest.skip("pyarrow is not installed")
    path = tmp_path / f"mine.{form}"
    names, values = ["c.png", "a.png", "b.png", "more.png"], [3.0, 1.0, 2.0, 9.0]
    if form == "csv":
        rows = "\n".join(f"{name},{value},word" for name, value in zip(names, values, strict=True))
        path.write_text(f"path,mine,note\n{rows}\n")
    elif form == "npz":
        np.savez(path, ids=np.array(names), mine=np.array([values, values]))
    else:
        import pandas as pd

        pd.DataFrame({"id": names, "mine": values}).to_parquet(path)
    found = read_scores(path, IDS)
    assert list(found) == ["mine"]
    assert found["mine"][0].tolist() == [1, 2, 3]
    assert len(found["mine"]) == (2 if form == "npz" else 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('path,a,mine\na.png,1,"0,5"\nb.png,2,"0,7"\nc.png,2,"0,7"\n', "mine of 'a.png' is not a finite number"),
        (
            'path,a,mine\na.png,1,"1,5e-03"\nb.png,2,"2,5e-03"\nc.png,2,"2,1e-03"\n',
            "mine of 'a.png' is not a finite number",
        ),
        *(
            (
                f'path,a,mine\na.png,1,"{many}"\nb.png,2,"{many}"\nc.png,2,"{many}"\n',
                "mine of 'a.png' is not a finite number",
            )
            for many in ("1,234.5", "1.234,5", "1,234,567", "1\u202f234.5", "1'234", "\u22120.5")
        ),
        ("path,mine\na.png,1\nb.png,2\n", "no score for 1 of 3 images, such as 'c.png'"),
        ("path,mine\na.png,1\na.png,2\nb.png,2\nc.png,2\n", "'a.png' occurs twice"),
        ("path,mine\na.png,1\nb.png,nan\nc.png,2\n", "mine of 'b.png' is not a finite number"),
        ("path,mine,a\na.png,1,1\nb.png,n/a,2\nc.png,2,3\n", "mine of 'b.png' is not a finite number"),
        ("path,mine,a\na.png,1,1\nb.png,1_5,2\nc.png,2,3\n", "mine of 'b.png' is not a finite number"),
        ("path,mine\na.png,x\nb.png,y\nc.png,z\n", "no column of numbers"),
        ("name,mine\na.png,1\n", "no column id, path"),
        ("id,mine\n", "no row below its head"),
    ],
)
def test_a_file_that_does_not_match_says_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(McdoError, match=said):
        read_scores(path, IDS)


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", "image_id"])
def test_other_ids_and_the_index_of_pandas_are_no_scores(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text(f"{name},path,mine\n7,a.png,1\n8,b.png,2\n9,c.png,3\n")
    assert list(read_scores(path, IDS)) == ["mine"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"ids": np.array([IDS]), "mine": np.ones(3)}, r"ids have shape \(1, 3\), not \[N\]"),
        ({"ids": np.array(IDS), "mine": np.ones((2, 2, 3))}, r"mine has shape \(2, 2, 3\), not \[N\] or \[K, N\]"),
        ({"ids": np.array(IDS), "mine": np.ones((0, 3))}, r"mine has shape \(0, 3\)"),
        ({"ids": np.array(IDS), "a": np.ones(3), "mine": np.ones((3, 2))}, r"mine has shape \(3, 2\), not .* N = 3"),
        ({"mine": np.ones(3)}, "no array ids among mine"),
    ],
)
def test_arrays_of_another_shape_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    with pytest.raises(McdoError, match=rf"mine\.npz cannot be read.*{said}"):
        read_scores(path, IDS)


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (np.ones(3, dtype=np.complex64), "complex64"),
        (np.array([True, False, True]), "bool"),
        (np.array([b"\x80?", b"\x00@", b"@@"], dtype="V2"), r"\|V2"),  # what np.savez makes of bfloat16
        (np.ones(3, dtype=[("value", float)]), "value"),
    ],
)
def test_an_array_of_another_type_than_numbers_is_not_passed_over(tmp_path: Path, mine: Any, said: str) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, ids=np.array(IDS), other=np.ones(3), mine=mine)
    with pytest.raises(McdoError, match=rf"mine\.npz cannot be read.*its mine is of type.*{said}.*float64"):
        read_scores(path, IDS)


def test_every_kind_of_number_is_read_and_text_and_dates_are_no_scores(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    kinds = {"big": ">f8", "half": "f2", "single": "f4", "small": "u1", "whole": "i8", "long": "longdouble"}
    arrays: dict[str, Any] = {name: np.array([2, 0, 1], dtype=kind) for name, kind in kinds.items()}
    arrays["trials"] = np.asfortranarray([[2.0, 0.0, 1.0], [5.0, 3.0, 4.0]])
    beside: dict[str, Any] = {"labels": np.array(["x", "7", "8"]), "taken": np.array(["2026-01-01"] * 3, dtype="M8[D]")}
    np.savez(path, ids=np.array([name.encode() for name in (IDS[2], *IDS[:2])]), **arrays, **beside)
    found = read_scores(path, IDS)
    assert {name: values[0].tolist() for name, values in found.items()} == {name: [0, 1, 2] for name in arrays}
    assert found["trials"][1].tolist() == [3, 4, 5]


def test_ids_in_bytes_are_names_of_files(tmp_path: Path) -> None:
    names = ("ä.png", "b.png")
    np.savez(tmp_path / "mine.npz", ids=np.array([name.encode() for name in reversed(names)]), mine=np.arange(2))
    assert read_scores(tmp_path / "mine.npz", names)["mine"].tolist() == [[1, 0]]


def test_a_column_of_parquet_of_another_type_than_numbers_is_not_passed_over(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "mine.parquet"
    for kind, mine in {"bool": [True, False, True], "list": [[1.0], [2.0], [3.0]]}.items():
        pq.write_table(pa.table({"id": IDS, "other": [1.0, 2.0, 3.0], "mine": mine}), path)
        with pytest.raises(McdoError, match=rf"its mine is of type {kind}.*float64"):
            read_scores(path, IDS)
    words = pa.array(["x", "y", "x"]).dictionary_encode()
    pq.write_table(pa.table({"id": IDS, "other": [1.0, 2.0, 3.0], "word": words, "image": [[1], [2], [3]]}), path)
    assert list(read_scores(path, IDS)) == ["other"]


@pytest.mark.parametrize("name", ["mine.csv", "mine.npz", "mine.parquet"])
def test_scores_are_not_waited_for(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    os.mkfifo(tmp_path / name)
    with pytest.raises(McdoError, match=f"{name} is not a regular file"):
        read_scores(tmp_path / name, IDS)


def test_what_stands_beside_the_columns_of_a_parquet_file_is_not_looked_at(tmp_path: Path) -> None:
    """What pandas notes there of an index, at any depth; and a row without an id has no score."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "mine.parquet"
    table = pa.table({"id": IDS, "mine": [1.0, 2.0, 3.0], "note": ["x", "y", "z"]})
    for noted in ("[" * 100_000, '{"index_columns": 5, "columns": "x"}'):
        pq.write_table(table.replace_schema_metadata({"pandas": noted}), path)
        assert read_scores(path, IDS)["mine"].tolist() == [[1, 2, 3]]
    pq.write_table(pa.table({"id": [*IDS, None], "mine": [1.0, 2.0, 3.0, 4.0]}), path)
    with pytest.raises(McdoError, match="1 rows have no id"):
        read_scores(path, IDS)
    pq.write_table(pa.table({"id": IDS, "mine": [1.0, None, 3.0]}), path)
    with pytest.raises(McdoError, match=f"mine of '{IDS[1]}' is not a finite number"):
        read_scores(path, IDS)


@pytest.mark.parametrize("form", ["csv", "npz", "parquet"])
def test_whole_numbers_that_float64_makes_ties_of_are_ids_and_no_scores(tmp_path: Path, form: str) -> None:
    path, hashes = tmp_path / f"mine.{form}", [2**62, 2**62 + 1, 5]

    def write(numbers: list[int]) -> None:
        if form == "csv":
            path.write_text("id,mine\n" + "".join(f"{name},{n}\n" for name, n in zip(IDS, numbers, strict=True)))
        elif form == "npz":
            np.savez(path, ids=np.array(IDS), mine=np.array(numbers, dtype=np.uint64))
        else:
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            pq.write_table(pa.table({"id": IDS, "mine": numbers}), path)

    write(hashes)
    with pytest.raises(McdoError, match=f"its mine has {2**62} and {2**62 + 1}, which are one number in float64"):
        read_scores(path, IDS)
    write([2**62, 2**62, 5])
    assert read_scores(path, IDS)["mine"].tolist() == [[2.0**62, 2.0**62, 5.0]], "equal numbers are ties anyway"


def test_a_pickle_in_an_npz_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, ids=np.array(IDS), mine=np.array([{}, {}, {}], dtype=object))
    with pytest.raises(McdoError, match="cannot be read"):
        read_scores(path, IDS)


SIZES: dict[str, Any] = {
    "n": 30, "passes": 4, "trials": 2, "fit": 60, "foreign": 30, "views": 2, "resamples": 20, "degradations": (),
}  # fmt: skip


def table(reports: Path, own_data: dict[str, str], **sizes: Any) -> tuple[Runner, RivalsTable]:
    given = {"--ood": "synthetic:noise:32", **own_data}
    settings = Settings(("clip_tiny",), protocol="quick", reports=reports, own_data=given, thumbnails=False)
    return Runner(Session(settings)), RivalsTable(**{**SIZES, **sizes}, **RivalsTable.options(settings))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of clip_tiny's architecture."""
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(MODELS_DIR / "clip_tiny", tmp_path_factory.mktemp("ensemble") / "other")
    weights, rng = load_file(folder / "open_clip_model.safetensors"), np.random.default_rng(0)
    moved = {n: np.asarray(w + 0.05 * rng.standard_normal(w.shape), dtype=w.dtype) for n, w in weights.items()}
    save_file(moved, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture(scope="module")
def judged(other: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Session, Completed[RivalsResult]]:
    """A table with a scorer, a file of scores and an ensemble."""
    folder = tmp_path_factory.mktemp("judged")
    (folder / "brightness_scorer.py").write_text(OWN)
    scores = folder / "mine.csv"
    images = Session(Settings(("clip_tiny",))).image_set(Images(30))
    scores.write_text("id,mine\n" + "".join(f"{name},{i}\n" for i, name in enumerate(images.ids)))
    given = {
        "--scorers": f"python:brightness_scorer:Brightness,file:{scores}",
        "--ensemble": f"{other},siglip_tiny",  # siglip_tiny is of another architecture
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        runner, experiment = table(folder / "reports", given, degradations=("blur:10%",))
        return runner.session, runner.run(experiment, Subject("clip_tiny", ("clip_tiny",)))


def test_a_scorer_of_ones_own_is_judged_by_the_same_table(judged: tuple[Session, Completed[RivalsResult]]) -> None:
    found = judged[1].result
    assert {"brightness", "mine/mine"} <= set(found.rows)
    assert {"auroc_foreign", "raised/blur:10%"} <= set(found.rows["brightness"])
    assert not {"auroc_foreign", "raised/blur:10%"} & set(found.rows["mine/mine"]), "a file holds nothing of others"
    assert "reliability" not in found.rows["brightness"], "a deterministic score is not made reliable by being measured"
    assert found.scores["brightness"].cost == 0


def test_checkpoints_of_one_architecture_vote_together(
    judged: tuple[Session, Completed[RivalsResult]], other: str
) -> None:
    session, completed = judged
    experiment = completed.experiment
    assert isinstance(experiment, RivalsTable)
    classes = experiment.classes(completed.inputs)
    logits = [session.measure(Head(key, experiment.shown, classes))["logits"] for key in ("clip_tiny", other)]
    known = votes(np.stack(logits, axis=1), logits[0].argmax(axis=1))
    for name, vote in ENSEMBLE.items():
        np.testing.assert_array_equal(completed.result.scores[name].values, known[vote][None])
        assert completed.result.scores[name].cost == 2


@pytest.mark.parametrize("folder", ["/data/val/", "val/"])
def test_paths_name_images_by_what_follows_their_folder(tmp_path: Path, folder: str) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("path,mine\n" + "".join(f"{folder}{name},{i}\n" for i, name in enumerate(reversed(IDS))))
    assert read_scores(path, IDS)["mine"].tolist() == [[2, 1, 0]]
    path.write_text(path.read_text() + "elsewhere/d.png,4\n")
    with pytest.raises(McdoError, match=f"no score for 3 of 3 images, such as 'a.png'.*look like '{folder}c.png'"):
        read_scores(path, IDS)


def test_trials_that_are_copies_are_one() -> None:
    scores = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert without_copies(scores).tolist() == [[1, 2]]
    assert len(without_copies(np.array([[1.0, 2.0], [1.0, 2.0 + 1e-12]]))) == 2


class Forwards:
    """Says that it costs nothing, and takes two forwards, one of them with its way back."""

    name, cost, stochastic = "forwards", 0.0, True

    def score(self, encoder: Encoder, images: ImageSet, trial: int) -> Any:
        pixels = prepared(encoder, images).batch(slice(None))
        encoder.forward_image(pixels)
        shown = pixels.clone().requires_grad_()
        features = encoder.forward_image(shown).square().sum()
        torch.autograd.backward(features)
        assert shown.grad is not None
        return shown.grad.flatten(1).norm(dim=1).double().numpy() + trial


def test_the_cost_of_a_scorer_is_counted(session: Session) -> None:
    encoder, before = session.encoder("clip_tiny"), session.encoder("clip_tiny").architecture
    found = OwnScores("clip_tiny", Images(12), Forwards(), "", 3, Images(12), 10).compute(session)
    assert found["forwards"].tolist() == [3.0]
    assert "forward_image" not in vars(encoder)
    assert encoder.architecture == before


def test_a_scorer_scores_no_image_that_it_was_fitted_on(session: Session) -> None:
    images = session.image_set(Images(12))
    with pytest.raises(McdoError, match="mine is fitted on 5 of the 12 images of digits that it would score"):
        check_unseen("mine", images, images.select(slice(0, 5)))
    check_unseen("mine", images.select(slice(5, 12)), images.select(slice(0, 5)))


def obstacles(session: Session, given: dict[str, str]) -> list[str]:
    settings = replace(session.settings, own_data=given)
    return list(RivalsTable.configured(settings).obstacles(View(session, Subject("clip_tiny", ("clip_tiny",)))))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"--scorers": "absent"}, "unknown scorer 'absent'"),
        ({"--scorers": "file:absent.csv"}, "absent.csv: there is no such file of scores"),
        ({"--scorers": "file:mine.txt"}, "mine.txt: scores are read from .csv, .npz, .parquet"),
        ({"--ensemble": "clip_tny"}, "unknown encoder 'clip_tny'"),
        ({"--ood": "folder:/no/such"}, "image folder /no/such does not exist"),
    ],
)
def test_what_is_not_there_is_said_before_anything_is_loaded(
    session: Session, given: dict[str, str], said: str
) -> None:
    (found,) = obstacles(session, given)
    assert said in found
    assert not obstacles(session, {})


def test_scores_of_other_images_are_said_before_anything_is_loaded(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("id,mine\na.png,1\n")
    (found,) = obstacles(session, {"--scorers": f"file:{path}"})
    assert "mine.csv: no score for {0} of {0} images".format(RivalsTable.quick["n"]) in found


def test_no_row_of_the_table_takes_the_place_of_another(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "named_scorers.py").write_text(f"{OWN}\n\nclass Entropy(Brightness):\n    name = 'entropy'\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = "python:named_scorers:Brightness"
    for given, row in ((f"{mine},{mine}", "brightness"), ("python:named_scorers:Entropy", "entropy")):
        (found,) = obstacles(session, {"--scorers": given})
        assert f"the table has {row} already; give it another name" in found


def test_without_text_there_is_a_table_of_distances_and_of_scorers(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "textless_scorer.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    tower = session.encoder("clip_tiny")
    alone = Encoder.of(tower.image_modules[0][1], tower.preprocessing, name="clip_tiny")
    runner, experiment = table(tmp_path / "r", {"--scorers": "python:textless_scorer:Brightness"})
    monkeypatch.setattr(runner.session, "encoder", lambda model: alone)
    found = runner.run(experiment, Subject("clip_tiny", ("clip_tiny",))).result
    assert {"knn_distance", "mahalanobis", "class_prototypes", "brightness"} <= set(found.rows)
    assert {"mcm", "laplace_head"} <= set(found.left_out)
    assert "--ensemble" in found.left_out["ensemble_entropy"]


def test_what_is_no_scorer_is_refused() -> None:
    with pytest.raises(McdoError, match="unknown scorer 'absent'"):
        scorer_named("absent")
    with pytest.raises(McdoError, match="cannot be imported"):
        scorer_named("python:no_such_module:Name")
    with pytest.raises(McdoError, match="lacks name, cost, stochastic, score"):
        register_scorer("mine", object())  # type: ignore[arg-type]
    assert "mine" not in SCORERS.registered


@dataclasses.dataclass
class Holding:
    """A scorer with settings of every kind; as a dataclass with ``==`` it has no hash."""

    weights: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.ones(3))
    options: dict[str, int] = dataclasses.field(default_factory=lambda: {"layer": 1})
    head: torch.nn.Module = dataclasses.field(default_factory=lambda: torch.nn.Linear(2, 1))
    name, cost, stochastic = "holding", 1.0, False

    def score(self, encoder: Encoder, images: ImageSet, trial: int) -> NDArray[np.float64]:
        return np.arange(len(images), dtype=np.float64)


def test_whatever_a_scorer_holds_is_part_of_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for change in ("", "weights", "options", "head", ""):
            torch.default_generator.manual_seed(1 if change == "head" else 0)
            held = Holding()
            monkeypatch.setattr(mcdo.rivals.scorer, "scorer_named", lambda _, held=held: held)
            if change == "weights":
                held.weights[0] = 2
            elif change == "options":
                held.options["layer"] = 2
            request = OwnScores("clip_tiny", Images(12), held, held_by.__wrapped__("it"), 1, Images(12), 10)
            session = Session(Settings(("clip_tiny",), store=None))
            keys.append(request.identity(session)["holds"])
            assert hash(request) is not None
    assert keys[0] == keys[-1]
    assert len(set(keys)) == 4
