from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from looked_at import looked_at

import mcdo
from mcdo.cli import main
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.harness import Images, Passes, Session, Settings
from mcdo.harness.expense import expense
from mcdo.harness.pilot import Planned
from mcdo.harness.settings import Sizes
from mcdo.perturbation import Dropout
from mcdo.stats import Estimate
from mcdo.stats.planning import Need, Size
from mcdo.store import Store

SIZES = ["--num-images=80", "--trials=5", "--passes=8,32"]
SMALL, SMALLER = Sizes(40, (4, 16), 4), ["--num-images=40", "--trials=4", "--passes=4,16"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pilot of exp0 alone, of the sizes of ``SIZES``."""
    place = tmp_path_factory.mktemp("store")
    settings = Settings(("siglip_tiny",), store=place, sizes=Sizes(80, (8, 32), 5))
    Session(settings).measure(NestedPasses.configured(settings).run("siglip_tiny"))
    return place


def test_a_plan_says_what_decides_each_claim_and_what_it_takes(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    command = ["plan", "--models=siglip_tiny", "--device=cpu", f"--store={store}", f"--out={out}", *SIZES]
    assert main([*command, "--rate=1000"]) == 0
    said = capsys.readouterr().out
    usable = next(line for line in said.splitlines() if "phase1/usable/trace_post at T=32" in line).split()
    assert usable[usable.index("usable") + 1 : usable.index("usable") + 4] == ["to", "be", "met"]
    assert "exp0/more_passes_less_noise/trace_pre" in said
    assert "at 1,000 passes a second" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("5,000  10  256"))
    assert row[3:8] == ["12,800,000", "3", "h", "33", "min"]  # at 1000 a second
    entries = {entry["claim"]: entry for entry in json.loads(out.read_text())}
    size = entries["usable/trace_post at T=32"]["need"]["size"]
    assert size["images"] * size["trials"] * size["passes"] > 80 * 5 * 32
    assert f"--num-images={max(e['need']['size']['images'] for n, e in entries.items() if 'usable' in n)}" in said
    assert "No pilot in" in said  # of exp5, say


def test_a_pilot_is_found_whatever_is_asked_for_before_it(store: Path) -> None:
    """What other experiments ask for, and is not there, is not merged with what is."""
    from mcdo.harness.pilot import Missing, planned

    settings = Settings(("siglip_tiny",), store=store, sizes=Sizes(80, (8, 32), 5), from_store=True)
    session, own = Session(settings), NestedPasses.configured(settings).run("siglip_tiny")
    with pytest.raises(mcdo.McdoError, match="not in the store"):
        session.measure(Passes("siglip_tiny", Images(80), _more_trials(own)))
    assert session.afresh().measure(own).config.trials == 5
    found = list(planned(settings, ("phase1",)))
    assert any(not isinstance(each, Missing) and each.experiment == "exp0" for each in found)


def _more_trials(request: Passes) -> MonteCarloConfig:
    return replace(request.config, trials=9)


def test_without_a_pilot_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "store").mkdir()
    for place in (tmp_path / "none", tmp_path / "store"):
        assert main(["plan", "--models=clip_tiny", "--device=cpu", f"--store={place}"]) == 2
        said = capsys.readouterr().err
        assert "there is no pilot of clip_tiny on digits" in said
        assert f"pytest -m phase1 --models=clip_tiny --store={place} --device=cpu --protocol=quick" in said


def test_the_command_of_a_plan_runs_what_the_pilot_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its perturbation or seed it would measure something else than what the plan speaks of."""
    other = Dropout(0.05, "mlp")
    settings = Settings(("siglip_tiny",), store=tmp_path, sizes=SMALL, seed=7, dropout=other)
    Session(settings).measure(NestedPasses.configured(settings).run("siglip_tiny"))
    given = ["--device=cpu", "--perturbation=dropout:0.05@mlp", "--seed=7"]
    assert main(["plan", "--models=siglip_tiny", f"--store={tmp_path}", *given, *SMALLER, "--rate=1000"]) == 0
    (last,) = (line for line in capsys.readouterr().out.splitlines() if "--num-images=" in line)
    assert set(given) < set(shlex.split(last))
    assert main(["plan", "--models=siglip_tiny", "--images=folder:/my photos", "--seed=7"]) == 2
    assert "'--images=folder:/my photos' --seed=7 --protocol=quick, or" in capsys.readouterr().err


def test_a_pilot_in_another_precision_is_another_pilot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Passes in half precision are measurements of their own: without the option there was no pilot of them."""
    settings = Settings(("siglip_tiny",), store=tmp_path, sizes=SMALL, precision="bfloat16")
    Session(settings).measure(NestedPasses.configured(settings).run("siglip_tiny"))
    asked = ["plan", "--models=siglip_tiny", "--device=cpu", f"--store={tmp_path}", *SMALLER, "--rate=1000"]
    assert main([*asked, "--precision=bfloat16"]) == 0
    (last,) = (line for line in capsys.readouterr().out.splitlines() if "--num-images=" in line)
    assert "--precision=bfloat16" in shlex.split(last)
    assert main(asked) == 2
    assert "there is no pilot of siglip_tiny" in capsys.readouterr().err


def test_assumptions_take_the_place_of_a_pilot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assumed = "--assume=spearman=0.7,passes=64,raised=0.85,rho_entropy=0.3,auroc_high_entropy=0.7"
    assert main(["plan", "--models=clip_tiny", "--device=cpu", assumed, "--rate=100"]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("assumed ")}
    assert "to be met" in rows["T=64/spearman"]
    assert "0.85 (assumed)" in rows["T=64/raised"]
    assert "out of reach" in rows["T=64/rho_entropy"]  # it lies at its bar
    # a share of .85 against .75: ((1.96 · √(.75 · .25) + 1.04 · √(.85 · .15))/.1)² = 149 originals, by hand
    assert 145 <= int(rows["T=64/raised"].split("to be met")[1].split()[0]) <= 152


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--assume=spaerman=0.7"], "'spaerman' cannot be assumed; the nearest: spearman"),
        (["--assume=spearman=high"], "write NAME=NUMBER"),
        (["--assume=passes=64"], "names no figure"),
        (["--assume=raised=1.2"], "strictly between 0 and 1"),
        (["--assume=spearman=0.7", "--power=1"], "power 1.0"),
        (["--assume=spearman=0.7", "--rate=0"], "--rate=0"),
        (["--assume=spearman=0.7", "--rate=inf"], "--rate=inf"),
        (["--assume=spearman=0.7,spearman=0.5"], "spearman is assumed twice"),
        (["--assume=spearman=0.7,passes=16.5"], "passes = 16.5: it must be a whole number"),
        (["--assume=raised=0.8,passes=inf"], "passes = inf: it must be a whole number"),
        (["--assume=raised=0.8,passes=1"], "it must be at least 2"),
        (["--assume=spearman=0.7", "--most=0"], "--most = 0: it must be at least 4"),
        (["--passes=many"], "give whole numbers"),
        (["--precision=int8"], "say float32, bfloat16, float16"),
        (["--models=clip_tyni"], "clip_tiny"),
    ],
)
def test_what_is_wrong_is_named(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--models=clip_tiny", "--device=cpu", *options]) == 2
    assert said in capsys.readouterr().err


def test_room_in_the_store_is_as_expected(tmp_path: Path) -> None:
    encoder, images = looked_at("clip_tiny", device="cpu"), mcdo.load_images("digits", n=60, seed=0)
    config = MonteCarloConfig(mcdo.Dropout(0.01), (4, 8, 16), 3, geometry=(8,))
    mcdo.monte_carlo(
        encoder, images, config.dropout, (4, 8), 3, geometry=8, store=Store(tmp_path), scores=(), progress=False
    )
    (file,) = tmp_path.rglob("*.safetensors")
    foreseen = expense(encoder, Size(60, 3, 8), config, 0.001)
    assert foreseen.stored == pytest.approx(file.stat().st_size, rel=0.05)
    assert foreseen.seconds == pytest.approx(60 * 3 * 8 / 1000)
    assert foreseen.memory == foreseen.stored + 60 * 3 * encoder.resolution**2


def test_of_two_pilots_the_published_one_speaks_and_one_run_serves_every_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an experiment that has no full pilot the quick one does; N, K and T of the command are the most of each."""
    found = {
        "full": [_plan("exp0", "trace_pre", Size(500, 5, 64)), _plan("exp0", "trace_post", Size(200, 10, 32))],
        "quick": [_plan("exp0", "trace_pre", Size(900, 20, 128)), _plan("exp5", "rho_entropy", Size(300, 1, 64))],
    }
    monkeypatch.setattr("mcdo.harness.pilot.planned", lambda settings, **_: iter(found[settings.protocol]))
    assert main(["plan", "--models=clip_tiny", "--device=cpu", f"--store={tmp_path}", "--rate=100"]) == 0
    said = capsys.readouterr().out
    rows = [" ".join(line.split()) for line in said.splitlines() if line.startswith("clip_tiny ")]
    assert [row.split()[1] for row in rows] == ["exp0/trace_pre", "exp0/trace_post", "exp5/rho_entropy"]
    assert "500 5 64 27 min" in rows[0]  # 160,000 passes at 100 a second
    assert "--num-images=500 --trials=10 --passes=64" in said


def _plan(experiment: str, claim: str, size: Size) -> Planned:
    need = Need("attainable", "met", size, 0.85, 0.1)
    bar = "usable" if experiment == "exp0" else "> 0.3"
    return Planned("clip_tiny", experiment, claim, Estimate(0.4, 0.3, 0.5, 100), bar, need)
