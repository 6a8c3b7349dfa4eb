"""Files that people write and models that people bring, damaged at random: each is read, or refused by name.

``make test`` injects a few of each kind; with the mark ``faults`` it is thousands.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import shutil
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mcdo.cluster.work import Plan
from mcdo.encoders import load_encoder
from mcdo.encoders.spec import MODELS_DIR
from mcdo.errors import McdoError
from mcdo.experiments.rivals.score_files import read_scores
from mcdo.harness.decision import Verdict
from mcdo.harness.negatives import KnownNegatives
from mcdo.harness.offline import OfflineEncoder
from mcdo.images import load_images, read_manifest
from mcdo.images.decode import decode
from mcdo.images.retrieval import read_items as read_retrieval
from mcdo.recipes.file import SEAL, UnsealedRecipeWarning
from mcdo.recipes.scoring import equivalents, load_recipe, quantile_within
from mcdo.report.compare import compare
from mcdo.report.files import read_npz, write_npz
from mcdo.report.page import rendered
from mcdo.report.results import Reports
from mcdo.schema import checked
from mcdo.store import Store
from mcdo.studies.backbones.config import BackbonesConfig, load_config
from mcdo.studies.backbones.plants import load_plants
from mcdo.studies.connector.llava_json import read_items as read_captions
from mcdo.studies.subtasks.cifar10 import read_batch

Held = Callable[[str, int, str], None]
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 5.0
"""Of the processor, in which a file is refused: all take far less, but for the first, which imports a library."""


def counts(few: int, many: int) -> pytest.MarkDecorator:
    marks = [pytest.mark.slow, pytest.mark.faults]
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=marks)], ids=["few", "many"])


# ---- damage

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", " ", "\0",
    "\ud800", "x" * 10_000, "../../etc/passwd", "hf-hub:owner/name", "\x1b[2J", "a\nGO: fine", "=1+1", [], {}, [[]],
    [None] * 50, {"": None}, {"auto_map": {"AutoTokenizer": "x.y"}}, {"trust_remote_code": True},
)  # fmt: skip
NUMBERS = (b"-1", b"1e400", b"NaN", b"-Infinity", b"9" * 400, b"9" * 5000, b"0x10", b"1_0", b"01", b"true", b"''")


def nested(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def damaged_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Content with one thing wrong that an editor, a disk or somebody hostile may do."""
    at, end = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
    digits = [i for i in range(len(content)) if content[i : i + 1].isdigit()]
    number = digits[int(rng.integers(len(digits)))] if digits else at
    lines = content.split(b"\n")
    line = int(rng.integers(len(lines)))
    kinds: tuple[Callable[[], bytes], ...] = (
        lambda: content[:at],
        lambda: content[:at] + content[end:],
        lambda: content[:end] + content[at:],
        lambda: content[:at] + bytes(rng.integers(0, 256, 4, dtype=np.uint8)) + content[at:],
        lambda: content[:at] + b"\0" + content[at:],
        lambda: content[:at] + b"[" * 50_000 + content[at:],
        lambda: content[:at] + b"\\u0000\\ud800" + content[at:],
        lambda: content[:number] + NUMBERS[int(rng.integers(len(NUMBERS)))] + content[number + 1 :],
        lambda: b"\n".join([*lines[:line], lines[line], *lines[line:]]),
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
        lambda: content.decode("utf-8", "replace").encode("utf-32-le"),
        lambda: b"&a [*a, *a]\n" + content,
        lambda: b"",
        lambda: content * 2,
    )
    return kinds[int(rng.integers(len(kinds)))]()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from places(value[key], (*at, key))


def damaged_json(value: Any, rng: np.random.Generator) -> bytes:
    """A value in JSON with another at one place, a key too few, or one twice."""
    found = json.loads(json.dumps(value))
    where = list(places(found))
    *way, last = where[int(rng.integers(1, len(where)))]
    inner = found
    for key in way:
        inner = inner[key]
    kind = int(rng.integers(10))
    if kind == 0:
        del inner[last]
    elif kind == 1 and isinstance(inner, dict):
        inner[f"{last}x"] = inner.pop(last)
    elif kind == 2 and isinstance(inner, dict):
        inner[f"twice {last}"] = inner[last]
        return json.dumps(found).replace(f"twice {last}", str(last)).encode()
    elif kind == 3:
        inner[last] = nested(int(rng.choice([50, 900])))
    else:
        inner[last] = ODD[int(rng.integers(len(ODD)))]
    return json.dumps(found).encode("utf-8", "surrogatepass")


def is_read_or_refused(read: Callable[[], object], named: str, damage: bytes | str) -> bool:
    """Whether it is read. Anything but that or an error that names the file, within seconds, fails the test."""
    start = time.process_time()
    try:
        read()
        said = None
    except McdoError as error:
        said = str(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error}, of {damage[:300]!r}") from error
    assert time.process_time() - start < SECONDS, damage[:200]
    if said is None:
        return True
    assert named in said, (said[:300], damage[:200])
    assert not any(line.startswith("GO") for line in said.split("\n"))
    assert "\x1b" not in said
    return False


# ---- files

CELL = {
    **{"model": "m", "score": "s", "passes": 4, "estimator": "mc", "n_images": 9, "n_trials": 2, "status": "usable"},
    **{name: {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9} for name in ("spearman", "snr", "icc")},
    **{"p_usable": 0.5, "usable": "met"},
}


@dataclass(frozen=True)
class Kind:
    """A file as it should be, and what reads it."""

    name: str
    content: bytes
    read: Callable[[Path], object]
    value: Any = None


def kinds(folder: Path) -> tuple[Kind, ...]:
    """One good file of each kind."""

    def in_json(name: str, value: Any, read: Callable[[Path], object]) -> Kind:
        return Kind(name, json.dumps(value).encode(), read, value)

    images = load_images("digits", 3)
    images.write_manifest(folder / "good.json")
    for i, image in enumerate(images):
        image.save(folder / f"{i}.png")
    items = [{"image_path": f"{i}.png", "captions": ["a", "b"], "correct_index": 0} for i in range(3)]
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "that"}]
    frame = {
        **{"frame_id": 0, "tracks": [{"id": 0, "gt_id": 1}], "detections": [{"id": 0, "gt_id": 1, "uncertainty": 0.5}]},
        **{"motion_cost": [[1.0]], "appearance_cost": [[0.5]]},
    }
    card = OfflineEncoder("m", "w", "a", "p", None, "i", False, 32, 48, "cpu", "float32")
    verdict = {
        **{"decision": "GO", "reason": "r", "published": "GO", "statements": ["s"], "cells": [CELL], "validity": []},
        **{"models": ["m"], "images": "digits", "originals": 9, "protocol": "full", "dropout": 0.01, "sites": "all"},
        **{"seed": 42, "session": "x", "own_gates": {"g": "passed"}},
    }
    checked(verdict, Verdict, "here").write(folder)
    sealed = json.loads((folder / "verdict.json").read_text())
    config = asdict(BackbonesConfig())
    findings = (ROOT / "mcdo" / "data" / "findings.toml").read_bytes()[:2000].rpartition(b"[[finding]]")[0]
    table = b"plant,group,round,day,view,path,onset_day\np,g,0,1.5,top,0.png,3\np,g,1,2,top,1.png,3\n"
    task = {"what": "w", "key": "a" * 64, "ends": [1, 5], "owner": 0, "served": False, "passes": 3}
    plan = {"shares": 2, "tasks": [task], "final": True, "errors": {"x": "y"}}
    unsealed = json.loads((MODELS_DIR / "clip_tiny" / "recipe.json").read_text())
    del unsealed[SEAL]  # which would refuse every damage before what is behind it is asked
    (folder / "classes.txt").write_text("cat\ndog\n")
    listed = b"path,label,origin,split\n0.png,0,a,val\n1.png,1,b,val\n2.png,1,b,val\n"
    scores = b"id,mine,note\na,1,x\nb,2.5,y\n"
    prompts = "".join(f"simple\ta {word}\n" for word in ("one", "two", "three", "four", "five", "six"))
    return (
        in_json("manifest.json", json.loads((folder / "good.json").read_text()), read_manifest),
        in_json("retrieval.json", items, read_retrieval),
        in_json("captions.json", [{"id": i, "image": f"{i}.png", "conversations": turns} for i in range(3)], captions),
        in_json("tracking.json", {"frames": [frame]}, sequence),
        in_json("card.json", asdict(card), OfflineEncoder.read),
        in_json("verdict.json", sealed, lambda path: Verdict.read(path.parent)),
        in_json("config.yaml", json.loads(json.dumps(config)), load_config),
        in_json("recipe.json", unsealed, recipe),
        in_json("plan.json", plan, planned),
        Kind("images.csv", listed, lambda path: load_images(f"csv:{path}")),
        Kind("scores.csv", scores, lambda path: read_scores(path, ("a", "b"))),
        Kind("findings.toml", findings, KnownNegatives.load),
        Kind("plants.csv", table, plants),
        Kind("prompts.tsv", prompts.encode(), lambda path: prompt_bank().read_prompts(path, "clip_tiny")),
    )  # fmt: skip


ESTIMATE = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "level": 0.95}
EXPERIMENT = {"key": "e", "name": "of", "phase": "phase1", "question": "Is it?", "reading": "So. ``x``"}
SUMMARY = {
    **{
        "experiment": EXPERIMENT,
        "model": "m",
        "config": {"p": 0.01, "passes": [4, 8]},
        "rho": 0.3,
        "rho_ci": [0.1, 0.5],
    },
    "claims": [
        {"claim": "c", "outcome": "met", "bar": "> 0", "beside": "", "p_holm": 0.01, "at": [0.0], "estimate": ESTIMATE}
    ],
    "provenance": {"encoder": "m", "device": "cpu", "versions": {"torch": "2"}, "random_weights": False},
    "files": {"folder": "phase1/of", "summary": "summary.json", "figure": "of.png", "arrays": ["of.npz"]},
    "made": {"time": "2026-11-27T08:07:47+00:00", "mcdo": "0.1.0"},
    "sites": {"requested": "all", "live": ["fc1"]},
    **{"scores": {"s": ESTIMATE}, "n": 9, "num_images": 9, "num_origins": 9},
}
TILES = [{"id": "0.png", "class": "cat", "png": "aGVs", "caption": "0.5"}]


@pytest.mark.parametrize("name", ["phase1/verdict.json", "phase1/of/summary.json", "phase1/of/m_sheets.json"])
@counts(40, 400)
def test_a_damaged_report_is_shown_or_refused(name: str, count: int, tmp_path: Path, held: Held) -> None:
    rng, shown = np.random.default_rng(6), 0
    kinds(tmp_path)  # writes a verdict
    made = {
        "phase1/verdict.json": json.loads((tmp_path / "verdict.json").read_text()),
        "phase1/of/summary.json": SUMMARY,
        "phase1/of/m_sheets.json": {"model": "m", "sheets": [{"title": "largest", "tiles": TILES}]},
    }
    for each, value in made.items():
        (tmp_path / "r" / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "r" / each).write_text(json.dumps(value))
    path = tmp_path / "r" / name

    def show() -> None:
        reports = Reports.read(tmp_path / "r")
        text = rendered(reports)
        assert "GO: fine" not in text.splitlines()
        compare(reports, reports)

    assert is_read_or_refused(show, path.name, "as it should be")
    for i in range(count):
        good = json.dumps(made[name]).encode()
        damage = damaged_bytes(good, rng) if i % 3 == 0 else damaged_json(made[name], rng)
        path.write_bytes(damage)
        shown += is_read_or_refused(show, path.name, damage)
    what = path.stem.rpartition("_")[2]
    held(f"a report's {what}, damaged", count, f"{shown} shown, the others refused by name")


def captions(path: Path) -> object:
    return read_captions(path), read_captions(path, skip_bad=True)


def sequence(path: Path) -> object:
    from mcdo.experiments.phase3.exp9_tracking.frames import read_sequence

    return read_sequence(path)


def recipe(path: Path) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnsealedRecipeWarning)
        applied = load_recipe(path)
    seen = np.array([0.1, 0.0, np.nan, 1e300])
    quantile_within(seen, np.array(applied.recipe.calibration.quantiles))
    return applied.recipe.perturbation, [equivalents(each, seen, seen[::-1], 2) for each in applied.recipe.responses]


def planned(path: Path) -> object:
    found, store = Plan.read(path), Store(path.parent / "store")
    return found.done(store), found.missing(store)


def plants(path: Path) -> object:
    return load_plants(str(path))


def prompt_bank() -> Any:
    from mcdo.experiments.phase4.exp10_text_tower import prompt_bank

    return prompt_bank


def test_the_good_files_are_read(tmp_path: Path) -> None:
    for kind in kinds(tmp_path):
        path = tmp_path / kind.name
        path.write_bytes(kind.content)
        assert is_read_or_refused(lambda path=path, read=kind.read: read(path), kind.name, kind.content), kind.name  # type: ignore[misc]


@counts(20, 400)
def test_a_damaged_file_is_read_or_refused_by_name(count: int, tmp_path: Path, held: Held) -> None:
    refused = 0
    for number, kind in enumerate(kinds(tmp_path)):
        rng = np.random.default_rng(number)
        path = tmp_path / kind.name
        for turn in range(count):
            damage = damaged_json(kind.value, rng) if kind.value and turn % 2 else damaged_bytes(kind.content, rng)
            path.write_bytes(damage)
            refused += not is_read_or_refused(lambda path=path, read=kind.read: read(path), path.name, damage)  # type: ignore[misc]
    total = count * (number + 1)
    assert refused > total / 3, "the damage hardly does any"
    held(f"a file of one of {number + 1} kinds that people write, damaged", total,
         f"{refused} refused by the name of the file, the others read")  # fmt: skip


# ---- models


def damaged_model(folder: Path, names: tuple[str, ...], rng: np.random.Generator) -> tuple[str, bytes]:
    name = names[int(rng.integers(len(names)))]
    whole = (folder / name).read_bytes()
    damage = damaged_json(json.loads(whole), rng) if rng.random() < 0.7 else damaged_bytes(whole, rng)
    return name, damage


def hf_checkpoint(folder: Path) -> Path:
    """The tiny checkpoint that the tests of the backend make."""
    path = ROOT / "tests" / "unit" / "encoders" / "test_encoders_hf.py"
    spec = importlib.util.spec_from_file_location("made_checkpoints", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Path(module.make_checkpoint("siglip", folder))


@counts(8, 400)
@pytest.mark.parametrize("backend", ["open_clip", "hf"])
def test_a_model_with_a_damaged_setting_is_loaded_or_refused_and_runs_nothing(
    backend: str, count: int, tmp_path: Path, held: Held
) -> None:
    good = tmp_path / "good"
    names: tuple[str, ...] = ("open_clip_config.json", "tokenizer_config.json", "tokenizer.json")
    if backend == "hf":
        hf_checkpoint(good)
        names = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json")
    else:
        shutil.copytree(MODELS_DIR / "clip_tiny", good)
    (good / "x.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n", encoding="utf-8")
    folder, rng, refused = tmp_path / "model", np.random.default_rng(0), 0
    shutil.copytree(good, folder)
    key = f"{'hf' if backend == 'hf' else 'local-dir'}:{folder}"
    load_encoder(key).tokenize(["one"])
    for _ in range(count):
        name, damage = damaged_model(good, names, rng)
        (folder / name).write_bytes(damage)
        refused += not is_read_or_refused(lambda: load_encoder(key).tokenize(["one"]), str(folder), damage)
        shutil.copy(good / name, folder / name)
    assert not (tmp_path / "ran").exists()
    assert "x" not in sys.modules
    assert refused > count / 4
    held(f"a setting of a model folder ({backend}), damaged or hostile", count,
         f"{refused} refused by the name of the folder, the others loaded; no code ran")  # fmt: skip


# ---- what is no text


@counts(60, 4000)
def test_a_damaged_picture_is_decoded_or_refused(count: int, held: Held) -> None:
    rng, decoded = np.random.default_rng(2), 0
    picture = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    for i in range(count):
        form = ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "TGA")[i % 8]
        written = io.BytesIO()
        picture.save(written, form)
        content = bytearray(written.getvalue())
        for place in rng.integers(0, min(len(content), 200), int(rng.integers(1, 5))):
            content[place] = int(rng.integers(256))
        damage = bytes(content[: int(rng.integers(1, len(content) + 1))] if i % 3 == 0 else content)
        decoded += is_read_or_refused(lambda damage=damage: decode(damage, "picture"), "picture", damage)  # type: ignore[misc]
    held("a picture in one of 8 formats, damaged", count, f"{decoded} decoded, the others refused by name")


@counts(60, 4000)
def test_a_damaged_pickle_makes_no_object_and_no_crash(count: int, held: Held) -> None:
    rng, read = np.random.default_rng(3), 0
    good = pickle.dumps({b"data": rng.integers(0, 256, (3, 3072), dtype=np.uint8), b"labels": [1, 2, 3]}, protocol=2)
    head = good.index(b"\xff") if b"\xff" in good[:200] else 150
    for _ in range(count):
        content = bytearray(good)
        for place in (*rng.integers(0, head, 2), *(len(good) - 1 - rng.integers(0, 40, 1))):
            content[int(place)] = int(rng.integers(256))
        damage = bytes(content)
        read += is_read_or_refused(lambda damage=damage: read_batch(damage, "batch"), "batch", damage)  # type: ignore[misc]
    held("a pickle of CIFAR-10, damaged where it says what it holds", count, f"{read} read, the others refused by name")


def data_set(folder: Path, form: str) -> tuple[Path, Callable[[Path], object]]:
    """A good one of the form, and what reads it."""
    path = folder / f"a.{form}"
    pictures = []
    for i in range(4):
        written = io.BytesIO()
        Image.new("RGB", (8, 8), (50 * i, 0, 0)).save(written, "PNG")
        pictures.append(written.getvalue())
    if form == "tar":
        with tarfile.open(path, "w") as archive:
            for i, picture in enumerate(pictures):
                for name, content in ((f"{i}.png", picture), (f"{i}.cls", b"cat" if i % 2 else b"dog")):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        return path, lambda path: load_images(f"webdataset:{path}")
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    if form == "scores.parquet":
        pq.write_table(pa.table({"id": ["a", "b"], "mine": [1.0, 2.0]}), path)
        return path, lambda path: read_scores(path, ("a", "b"))
    cells = pa.array([{"bytes": picture, "path": ""} for picture in pictures])
    table = pa.table({"image": cells, "label": ["cat", "dog", "cat", "dog"], "origin": ["x", "y", "x", "z"]})
    if form == "parquet":
        pq.write_table(table, path)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if form == "zstd.arrow" else None)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as stream:
            stream.write_table(table)
    return path, lambda path: load_images(f"hf-dataset:{path.parent}")


@pytest.mark.parametrize("form", ["tar", "arrow", "zstd.arrow", "parquet", "scores.parquet"])
@counts(25, 1000)
def test_a_damaged_data_set_is_read_or_refused(form: str, count: int, tmp_path: Path, held: Held) -> None:
    rng, read = np.random.default_rng(5), 0
    (folder := tmp_path / f"a.{form}s").mkdir()
    path, load = data_set(folder, form)
    good = path.read_bytes()
    assert is_read_or_refused(lambda: load(path), path.name, good)
    for i in range(count):
        content = bytearray(good)
        for place in rng.integers(0, len(good), int(rng.integers(1, 4))):
            content[int(place)] = int(rng.integers(256))
        damage = bytes(content[: int(rng.integers(len(good)))] if i % 5 == 0 else content)
        path.write_bytes(damage)
        read += is_read_or_refused(lambda: load(path), path.name, damage)
    what = "scores in parquet" if form == "scores.parquet" else f"a data set in {form}"
    held(f"{what}, damaged", count, f"{read} read, the others refused by name")


@counts(60, 2000)
def test_a_damaged_archive_of_arrays_is_read_or_refused(count: int, tmp_path: Path, held: Held) -> None:
    rng, read = np.random.default_rng(4), 0
    path = write_npz(tmp_path / "scores.npz", scores=rng.standard_normal((2, 5)), ids=list("abcde"))
    good = path.read_bytes()
    for _ in range(count):
        content = bytearray(good)
        for place in rng.integers(0, len(good), 3):
            content[int(place)] = int(rng.integers(256))
        path.write_bytes(bytes(content))
        read += is_read_or_refused(lambda: read_npz(path, "again"), "scores.npz", bytes(content))
    held("an archive of arrays, damaged", count, f"{read} read, the others refused by name")
