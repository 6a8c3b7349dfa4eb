"""Shares and processes, against one process alone: to the bit, in any order, after kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from cluster_child import MODELS, Toy, alone, bits, settings, shares, work
from forked import begin
from pytest_child import ROOT, run_mcdo, run_pytest

from mcdo.cli.measure import measure_share
from mcdo.cluster import workers
from mcdo.cluster.estimate import Estimates
from mcdo.cluster.shares import Share
from mcdo.cluster.work import Plan
from mcdo.encoders import load_encoder
from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.errors import McdoError
from mcdo.experiments.phase1.harness_checks import HarnessChecks
from mcdo.harness import Features, Images, Logits, Passes, Runner, Session, Subject, TextFeatures
from mcdo.perturbation import Dropout, find_sites
from mcdo.store import Store

PATIENCE_S = 120


@pytest.fixture(autouse=True, scope="module")
def loaded_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcdo.harness.session.load_encoder", cache(load_encoder))
        yield


@pytest.fixture(scope="module")
def measured_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("alone")
    alone(store)
    return store


@pytest.fixture(scope="module")
def expected(measured_alone: Path) -> dict[str, str]:
    return bits(measured_alone)


def the_same(store: Path, expected: dict[str, str]) -> bool:
    """Arrays and facts are the same bytes under the same keys, and nothing else is there."""
    found = bits(store)
    left = [path for path in store.rglob("*.*") if path.suffix in (".parts", ".lock", ".part", ".damaged")]
    return found == expected and not left


def test_shares_in_any_order_are_one_process_and_the_store_alone_gives_what_they_measured(
    measured_alone: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    store, order = tmp_path / "store", [2, 3, 1]
    said = [measure_share(work(store), Share(number, 3), "plan.json") for number in order]
    assert said == [0] * 3
    assert Plan.read(store / "plans" / "plan.json").final, "the last share knows what follows"
    for number in order:  # what follows is measured in a second round
        measure_share(work(store), Share(number, 3), "plan.json")
    assert the_same(store, expected)
    assert Plan.read(store / "plans" / "plan.json").missing(Store(store)) == {}
    offline = Runner(Session(settings(store, from_store=True)))
    results = [offline.run(Toy(), Subject(model, (model,))).result for model in MODELS]
    assert not offline.session.loads
    whole = Runner(Session(settings(measured_alone)))
    assert results == [whole.run(Toy(), Subject(model, (model,))).result for model in MODELS]


def test_who_looks_on_knows_which_shares_are_missing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    measure_share(work(store), Share(2, 3), "plan.json")
    plan = Plan.read(store / "plans" / "plan.json")
    assert plan.missing(Store(store)).keys() == {0, 2}
    assert not plan.final
    measure_share(work(store), Share(3, 3), "plan.json")
    assert Plan.read(store / "plans" / "plan.json").missing(Store(store)).keys() == {0}


def test_shares_on_three_processes_are_one_process_also_after_kills(expected: dict[str, str], tmp_path: Path) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    processes = [begin(shares, store, numbers, 7, log) for numbers in ([1, 4, 7], [2, 5], [3, 6])]
    until = time.monotonic() + PATIENCE_S
    while not any(store.rglob("*.parts")) and time.monotonic() < until:  # the first of them has begun
        time.sleep(0.001)
    processes[1].kill()
    again = [begin(shares, store, [5, 2, 7], 7, log)]
    for process in (*processes, *again):
        process.join(PATIENCE_S)
    assert [process.exitcode for process in (*processes, *again)] == [0, -signal.SIGKILL, 0, 0]
    found = work(store)
    found.first()
    assert found.left == (), "all of the first stage is there"
    alone(store)
    assert the_same(store, expected)


def test_two_arrays_share_the_work(expected: dict[str, str], tmp_path: Path) -> None:
    """Of the same shares, and of other ones."""
    store, log = tmp_path / "store", tmp_path / "log"
    processes = [begin(shares, store, [1, 2], of, log) for of in (2, 2, 3)]
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    alone(store)
    assert the_same(store, expected)


def test_what_cannot_be_measured_is_named_and_the_rest_is(tmp_path: Path) -> None:
    found = work(tmp_path / "store")
    found.selected = [*found.selected, (Toy(n=2), Subject("clip_tiny", ("clip_tiny",)))]
    found.first()
    found.measure()
    assert len(found.refused.errors) == 2, "passes and first order"
    assert all("2 images are too few" in error for error in found.refused.errors.values())
    assert found.left == ()
    assert len(found.whole) == 4, "and the features of the two, which are no statistic"


def test_a_plan_tells_time_and_size_of_what_is_left(tmp_path: Path) -> None:
    found = work(tmp_path / "store")
    found.first()
    rows = {request: Estimates(found).of(request) for request in found.session.planned}
    assert {row.state for row in rows.values()} == {"to do"}
    assert all(row.seconds is not None and row.seconds > 0 for row in rows.values())
    found.measure()
    assert all(Estimates(found).of(request).seconds == 0 for request in found.session.planned)
    store = Store(tmp_path / "store")
    for request, row in rows.items():
        if isinstance(request, Passes):
            size = store.path(found.keys[request]).stat().st_size
            assert row.size is not None
            assert 0.9 * row.size < size < 1.1 * row.size


def test_what_follows_from_the_encoder_is_in_the_plan(tmp_path: Path) -> None:
    """Passes of each site and prompt, which nobody knows without it."""
    found = work(tmp_path / "store")
    checks, images = HarnessChecks(n=10), Images(10)
    prompts = TextFeatures("clip_tiny", tuple("abc"))
    session = found.session
    sites = find_sites(session.encoder("clip_tiny")).select(checks.dropout.sites)
    alone = 4 * (len(sites) - 1) + 17  # passes until 8 images drop 64 units, which are few in the last projection
    tower = checks.tower("clip_tiny").passes_beside(session)
    threads = torch.get_num_threads()
    assert tower == 8 * len(sites) + 3 * 8 + 4 * 16 + 8 * alone + threads * (5 * 8 + 3) * 16
    without = replace(checks, dropout=Dropout(0.0)).tower("clip_tiny")
    assert without.passes_beside(session) == tower - 8 * alone
    assert prompts.passes_beside(session) == 3
    logits = Logits("clip_tiny", images)
    assert logits.passes_beside(session) == 0, "nobody looked at the images"
    session.image_set(images)
    assert logits.passes_beside(session) == 10 * len(TEMPLATES)
    assert Features("clip_tiny", images).passes_beside(session) == 0
    session.plan([prompts])
    found.first()
    row = Estimates(found).of(prompts)
    assert (row.passes, row.state) == (3, "to do")
    assert row.seconds


def test_a_measurement_that_was_begun_is_estimated_by_what_is_left(tmp_path: Path) -> None:
    measure_share(work(tmp_path / "store"), Share(1, 4), "plan.json")
    found = work(tmp_path / "store")
    found.first()
    states = [Estimates(found).of(request).state for request in found.left if isinstance(request, Passes)]
    assert states == ["12 of 40 images"], "3 of 10 blocks of 4"


def test_a_plan_on_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(McdoError, match="run mcdo measure with the same arguments once more"):
        Plan.read(path)
    path.write_bytes(msgspec.json.encode(Plan(2, [], True, {})))
    assert Plan.read(path).missing(Store(tmp_path)) == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": "../../etc/passwd"}, r"tasks\[0\]\.key"),
        ({"key": ""}, r"tasks\[0\]\.key"),
        ({"ends": [5, 1]}, r"tasks\[0\]: ends must ascend"),
        ({"ends": [-1]}, r"tasks\[0\]\.ends\[0\]"),
        ({"passes": -1}, r"tasks\[0\]\.passes"),
        ({"kye": 1}, "kye"),
    ],
)
def test_a_plan_that_somebody_changed_is_refused_by_its_place(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    path, task = tmp_path / "plan.json", {"what": "x", "key": "a" * 64, "ends": [1, 5], "passes": 3}
    whole = {"shares": 2, "tasks": [task], "final": True, "errors": {}}
    path.write_text(json.dumps(whole))
    assert Plan.read(path).missing(Store(tmp_path)) == {0: 1, 1: 4}
    path.write_text(json.dumps({**whole, "tasks": [{**task, **change}]}))
    with pytest.raises(McdoError, match=said):
        Plan.read(path)


def test_what_another_array_holds_is_waited_for_at_the_end(tmp_path: Path) -> None:
    """Such as first order's basis, which every share of it needs: it does not cost this one its share."""
    found, held = work(tmp_path / "store"), Store(tmp_path / "store")
    left = found.first()
    owners = found.divided(1)
    features = next(request for request in left if isinstance(request, Features))
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool, held.unfinished(found.keys[features]).held(said.append):
        measuring = pool.submit(found.measure, Share(1, 1), owners)
        deadline = time.monotonic() + PATIENCE_S
        while len(found.left) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert not measuring.done()
    assert found.left == ()


# ---- processes of one machine


EXP0 = ("tests/experiments/phase1/test_exp0_nested_mc.py", "-m", "phase1", "--device=cpu", "--protocol=quick",
        "--assert=plain")  # fmt: skip


def test_what_is_in_the_way_is_said_once_before_anything_is_measured(tmp_path: Path) -> None:
    what = (*EXP0, "--models=timm:test_vit@/nowhere", f"--images=folder:{tmp_path}", f"--store={tmp_path / 'store'}")
    done = run_mcdo("measure", *what)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "Pre-flight: 2 things are in the way, and nothing was measured." in done.stdout
    assert "there is no /nowhere" in done.stdout
    assert "holds neither class directories nor images" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("two", ["--workers=2", "--devices=cuda:0,cuda:1"])
def test_two_processes_are_one(two: str, tmp_path: Path) -> None:
    """From the command line, on the published plan of one experiment at its quick sizes."""
    what = ["tests/experiments/phase1/test_exp0_nested_mc.py", "-m", "phase1", "--models=clip_tiny"]
    what += ["--protocol=quick", "--batch-size=128", "-p", "two_cards"]
    said = {}
    for name, options in (("one", ["--device=cuda:0" if "cuda" in two else "--device=cpu"]), ("two", [two])):
        (tmp_path / f"cards of {name}").mkdir()
        environment = {
            **os.environ,
            "MCDO_TEST_CARDS": str(tmp_path / f"cards of {name}"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        command = [sys.executable, "-m", "mcdo", "measure", *options, f"--store={tmp_path / name}", *what]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        assert "measurements are whole" in done.stdout
        said[name] = sorted(path.name.split() for path in (tmp_path / f"cards of {name}").iterdir())
    assert the_same(tmp_path / "two", bits(tmp_path / "one"))
    if "cuda" in two:
        assert [card for card, _ in said["one"]] == ["0"]
        assert [card for card, _ in said["two"]] == ["0", "1"]
        assert len({process for _, process in said["two"]}) == 2


def test_devices_are_processes_and_the_cores_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    monkeypatch.setattr(workers, "cores", lambda: 7)
    own, others = workers.commands(["-m", "phase1"], None, ["cuda:0", "cuda:1", "cpu"])
    assert own == ["-m", "phase1", "--device=cuda:0"]
    assert others == [["-m", "phase1", "--device=cuda:1"], ["-m", "phase1", "--device=cpu"]]
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert workers.commands(["x"], 3, []) == (["x"], [["x"], ["x"]])
    for asked, threads in (("1", "1"), ("5", "2"), ("0", "2"), ("two", "2")):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        workers.commands(["x"], 3, [])
        assert os.environ["OMP_NUM_THREADS"] == threads, "no more threads than were asked for, or than there are cores"
    with pytest.raises(McdoError, match="at least one process"):
        workers.commands([], 0, [])
    with pytest.raises(McdoError, match="name each once"):
        workers.commands([], None, ["cpu", "cpu"])


def test_a_process_that_fails_is_told_and_one_that_works_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\n[ "$4" = --when-told ] && read word && echo "$word" > '
        f"{tmp_path}/$5\n"
        "[ $5 = good ] && exec sleep 60\necho it is broken; exit 3\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    began = time.monotonic()
    with workers.Beside([["bad"], ["good"]]) as beside:
        time.sleep(0.2)
        assert not list(tmp_path.glob("*d")), "nobody begins untold"
        beside.begin()
        deadline = time.monotonic() + 20
        while len(list(tmp_path.glob("*d"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
    assert beside.failed == ["process 2 of 3 ended with status 3: it is broken"]
    assert time.monotonic() - began < 30


def test_who_is_not_told_to_measure_does_not(tmp_path: Path) -> None:
    done = run_mcdo("measure", "--when-told", *EXP0, "--models=clip_tiny", f"--store={tmp_path}")
    assert done.returncode == 1, done.stdout
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    "way",
    [("--cluster=debug", "--shards=2"), ("--shard=1/2",), pytest.param(("--workers=2",), marks=pytest.mark.slow), ()],
    ids=["array", "share", "workers", "pytest"],
)
def test_what_pytest_refuses_is_refused_before_anything_is_measured(way: tuple[str, ...], tmp_path: Path) -> None:
    images = tmp_path / "images" / "a"
    images.mkdir(parents=True)
    for name in "xyz":
        (images / f"{name}.png").write_bytes(b"none")
    what = (*EXP0, "--models=clip_tiny", f"--images=folder:{images.parent}", f"--store={tmp_path / 'store'}",
            f"--reports={tmp_path / 'r'}")  # fmt: skip
    done = run_mcdo("measure", *way, *what) if way else run_pytest(*what)
    assert done.returncode == 4, done.stdout
    assert "in the way, and nothing was measured" in done.stdout
    assert "x.png" in done.stdout
    assert not list((tmp_path / "store").rglob("*.safetensors"))
