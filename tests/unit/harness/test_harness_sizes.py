from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from mcdo.errors import McdoError
from mcdo.experiments.phase1.convergence_sweep import ConvergenceSweep
from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.experiments.phase1.exp5_subset_ambiguity import SubsetAmbiguity
from mcdo.experiments.phase4.exp10_text_tower.experiment import TextTowerDropout
from mcdo.experiments.prelim.angles import Angles
from mcdo.harness import Experiment, Session, Settings, Sizes, Subject
from mcdo.harness.budget import seconds_of, set_sizes
from mcdo.harness.catalogue import experiments_of, phases
from mcdo.pytest_plugin.options import protocol_of, sizes_of
from mcdo.stats.planning import UNKNOWN, AssumedForecast, Size, chance_judged


def settings(protocol: str = "full", **sizes: Any) -> Settings:
    return Settings(("clip_tiny",), protocol=cast("Any", protocol), sizes=Sizes(**sizes))


def test_without_sizes_the_protocol_is_as_published() -> None:
    assert NestedPasses.configured(settings()) == NestedPasses()
    assert NestedPasses.configured(settings()).less_than_published() == ()


def test_sizes_take_the_place_of_the_protocol_s_in_the_configuration() -> None:
    found = NestedPasses.configured(settings("quick", num_images=30, passes=(4, 16, 64), trials=3))
    assert (found.n, found.passes, found.trials) == (30, (4, 16, 64), 3)
    config = found.as_dict()
    assert (config["n"], config["passes"], config["trials"]) == (30, (4, 16, 64), 3)
    assert found.less_than_published() == ("30 of 500 images", "64 of 256 passes", "3 of 10 trials")
    larger = NestedPasses.configured(settings(num_images=5000, passes=(4, 512), trials=20))
    assert larger.less_than_published() == ()


def test_one_number_of_passes_keeps_the_smaller_ones() -> None:
    assert NestedPasses.configured(settings(passes=(64,))).passes == (4, 8, 16, 32, 64)
    assert NestedPasses.configured(settings(passes=(20,))).passes == (4, 8, 16, 20)
    assert NestedPasses.configured(settings(passes=(4,))).passes == (2, 4)
    assert SubsetAmbiguity.configured(settings(passes=(4, 16))).passes == 16


def test_an_experiment_of_one_trial_stays_one() -> None:
    assert SubsetAmbiguity.configured(settings(trials=5)).trials == 1


def test_parts_of_an_image_set_follow_it_and_prompts_do_not() -> None:
    assert FirstOrderReliability.configured(settings(num_images=30)).subset == 30
    assert FirstOrderReliability.configured(settings(num_images=3000)).subset == 100
    angles = Angles.configured(settings(num_images=800))
    assert (angles.angle1, angles.angle2, angles.angle3) == (500, 800, 800)
    assert TextTowerDropout.configured(settings(num_images=30)).n == TextTowerDropout().n


@pytest.mark.parametrize(("passes", "start"), [((4, 16, 64), 16), ((64,), 32), ((128, 256), 128), ((4,), 2)])
def test_the_sweep_predicts_from_a_t_that_is_measured(passes: tuple[int, ...], start: int) -> None:
    sweep = ConvergenceSweep.configured(settings(passes=passes))
    assert sweep.predict_from == start
    assert start in sweep.passes
    assert sweep.claims(), "and there is a larger one to predict"


EVERY = [kind for phase in phases() if phase != "cost" for kind in experiments_of(phase)]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_experiment_takes_sizes_and_states_its_claims(kind: type[Experiment[Any]]) -> None:
    small = kind.configured(settings(num_images=20, passes=(4, 8), trials=2))
    assert set(kind.sized) & {"n", "passes", "trials"} <= set(Experiment.sized)
    for name in kind.sized:
        if name in small.as_dict():
            held = getattr(small, name)
            assert (max(held) if isinstance(held, tuple) else held) <= 20
    small.claims()


def options(**given: Any) -> Any:
    held = {"--at-most": False, "--num-images": None, "--passes": None, "--trials": None, **given}
    by_dest = {name.replace("--", "mcdo_").replace("-", "_"): value for name, value in held.items()}
    return SimpleNamespace(getoption=lambda name, default=None: by_dest.get(name, default))


def test_options_become_sizes() -> None:
    assert sizes_of(options()) == Sizes()
    given = options(**{"--num-images": 200, "--passes": "4, 16,64", "--trials": 5})
    assert sizes_of(given) == Sizes(200, (4, 16, 64), 5)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--num-images", 2), ("--trials", 1), *(("--passes", text) for text in ("", "3", "x", "16,4", "4,4", "1,8", "²"))],
)
def test_sizes_that_measure_nothing_are_refused(option: str, value: Any) -> None:
    with pytest.raises(McdoError, match=option):
        sizes_of(options(**{option: value}))


def test_sizes_at_most_make_nothing_larger() -> None:
    sizes: dict[str, Any] = {"num_images": 300, "passes": (64,), "trials": 5, "at_most": True}
    found = NestedPasses.configured(settings(**sizes))
    assert (found.n, found.passes, found.trials) == (300, (4, 8, 16, 32, 64), 5)
    sweep = ConvergenceSweep.configured(settings(num_images=1000, passes=(1024,), trials=10, at_most=True))
    assert sweep == ConvergenceSweep()
    assert str(Sizes(**sizes)) == "--num-images=300 --passes=64 --trials=5 --at-most"


ASKED = [(NestedPasses(), Subject("clip_tiny", ("clip_tiny",)))]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Session:
    """A pass takes a second."""
    made = Session(settings())
    monkeypatch.setattr(made.remaining, "rate", lambda model: 1.0)
    return made


def test_where_there_is_time_the_protocol_stays_as_published(session: Session) -> None:
    chosen = set_sizes(session, ASKED, 500 * 10 * 256)
    assert session.settings.sizes == Sizes()
    assert chosen.seconds == 500 * 10 * 256
    set_sizes(session, ASKED, 500 * 10 * 256 - 1)
    assert NestedPasses.configured(session.settings).less_than_published()


@pytest.mark.parametrize("seconds", [100 * 3 * 16, 100 * 3 * 64, 100 * 5 * 256, 300 * 5 * 256])
@pytest.mark.parametrize("pilot", [(), (0.6,), (0.75,), (0.95,)])
def test_no_sizes_within_the_time_decide_more(
    seconds: float, pilot: tuple[float, ...], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tuple(AssumedForecast(rho, 64) for rho in pilot)
    monkeypatch.setattr("mcdo.harness.budget._forecasts", lambda _: {"clip_tiny": said} if said else {})
    chosen = set_sizes(session, ASKED, seconds)
    assert chosen.pilots == (("clip_tiny",) if pilot else ())

    def chance(size: Size) -> float:
        how: dict[str, Any] = {"alpha": 0.05 / (1 + max(1, len(said))), "last": size.passes == 256}
        return float(np.mean([chance_judged(each, size, **how) for each in said or UNKNOWN]))

    found = NestedPasses.configured(session.settings)
    size = Size(found.n, found.trials, found.passes[-1])
    assert size.total == chosen.seconds <= seconds
    assert chosen.chance == pytest.approx(chance(size))
    grid = (
        Size(n, k, t) for n in (100, 120, 150, 200, 300, 500) for k in (3, 5, 7, 10) for t in (16, 32, 64, 128, 256)
    )
    assert max(chance(each) for each in grid if each.total <= seconds) <= chance(size) + 0.011


def test_what_follows_from_the_encoder_is_in_the_time(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as passes of each site, which no smaller size makes fewer."""
    whole = 500 * 10 * 256
    monkeypatch.setattr(session.remaining, "passes_beside", lambda request: 1000)
    assert set_sizes(session, ASKED, whole + 1000).seconds == whole + 1000
    assert session.settings.sizes == Sizes()
    assert set_sizes(session, ASKED, whole + 999).seconds < whole
    with pytest.raises(McdoError, match="take about 1 h 37 min of passes"):
        set_sizes(session, ASKED, 100 * 3 * 16 + 999)


def test_a_time_that_no_sizes_fit_is_refused(session: Session) -> None:
    with pytest.raises(McdoError, match="take about 80 min of passes; give more than 60 s"):
        set_sizes(session, ASKED, 60)
    assert session.settings == settings()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30min", 1800), ("2h", 7200)])
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "min", "0s", "-3h", "1.5h", "3days"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(McdoError, match="say 90s, 30min or 2h"):
        seconds_of(text)


def test_auto_is_the_full_protocol_within_a_time() -> None:
    def asked(protocol: str, **more: Any) -> Any:
        return options(**{"--protocol": protocol, "--from-store": False, "numprocesses": None, **more})

    assert protocol_of(asked("quick")) == ("quick", "")
    with pytest.raises(McdoError, match="say full, quick or auto:30min"):
        protocol_of(asked("small"))
    for more, said in (({"--trials": 3}, "leave one out"), ({"--from-store": True}, "loads no model")):
        with pytest.raises(McdoError, match=said):
            protocol_of(asked("auto:30min", **cast("Any", more)))
    with pytest.raises(McdoError, match="leave out -n"):
        protocol_of(asked("auto:30min", numprocesses=2))
    assert protocol_of(SimpleNamespace(getoption=asked("auto:30min").getoption)) == ("full", "30min")  # type: ignore[arg-type]
