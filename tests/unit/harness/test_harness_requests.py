from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcdo
from mcdo.errors import NoTextTowerError, UntrainedHeadError
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import (
    Experiment,
    Features,
    FirstOrder,
    Images,
    Inputs,
    Logits,
    Passes,
    Request,
    Runner,
    Session,
    Settings,
    StoredArrays,
    Subject,
    View,
)
from mcdo.harness.heads import ReadHead
from mcdo.harness.requests import Arrays, merged
from mcdo.images.sampling import second_half
from mcdo.perturbation import Dropout
from mcdo.stats import Estimate
from mcdo.store.upkeep import entries


def _passes(model: str, n: int, passes: tuple[int, ...], trials: int, p: float, damage: str | None) -> Passes:
    config = MonteCarloConfig(Dropout(p), passes, trials, 42, geometry=passes[:1])
    return Passes(model, Images(n, degradation=damage), config)


runs = st.builds(
    _passes,
    st.sampled_from("ab"),
    st.sampled_from([5, 6]),
    st.sets(st.integers(2, 9), min_size=1).map(lambda s: tuple(sorted(s))),
    st.integers(1, 5),
    st.sampled_from([0.01, 0.02]),
    st.sampled_from([None, "blur:5"]),
)
others: Any = st.one_of(
    st.builds(Features, st.sampled_from("ab"), st.builds(Images, st.sampled_from([5, 6]))),
    st.builds(Logits, st.sampled_from("ab"), st.builds(Images, st.sampled_from([5, 6]))),
    st.builds(lambda m, r: FirstOrder(m, Images(5), Dropout(0.01), r), st.sampled_from("ab"), st.integers(2, 4)),
)


@given(st.lists(runs | others, max_size=8))
def test_every_request_is_served_by_exactly_one_of_the_plan(asked: list[Request[Any]]) -> None:
    plan = merged(asked)
    for request in asked:
        (planned,) = [each for each in plan if each.union(request) == each]
        if isinstance(request, Passes):
            assert isinstance(planned, Passes)
            assert set(request.config.passes) <= set(planned.config.passes)
            assert set(request.config.geometry) <= set(planned.config.geometry)
            assert request.config.trials <= planned.config.trials
    for i, one in enumerate(plan):
        assert all(one.union(other) is None for other in plan[i + 1 :]), "two that one run could serve"


@given(st.lists(runs | others, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_requests_does_not_matter(asked: list[Request[Any]], random: Any) -> None:
    shuffled = list(asked)
    random.shuffle(shuffled)
    assert set(merged(asked)) == set(merged(shuffled))


def test_runs_of_other_masks_images_or_weights_do_not_serve_each_other() -> None:
    one = _passes("a", 5, (4, 8), 2, 0.01, None)
    config = one.config
    for other in (
        replace(one, config=replace(config, seed=7)),
        replace(one, config=replace(config, dropout=Dropout(0.02))),
        replace(one, shown=Images(6)),
        replace(one, calibration=Images(6)),
        replace(one, model="b"),
    ):
        assert one.union(other) is None
        assert merged([one, other]) == [one, other]


def test_a_request_is_given_what_it_alone_would_have_measured() -> None:
    """The same numbers whichever other tests are selected: a larger run is seen as if it had been the smaller one."""
    encoder, images = mcdo.load_encoder("clip_tiny", device="cpu"), mcdo.load_images("digits", 4)

    def run(config: MonteCarloConfig) -> mcdo.MonteCarloRun:
        return mcdo.monte_carlo(
            encoder, images, config.dropout, config.passes, config.trials, config.seed, geometry=config.geometry,
            progress=False,
        )  # fmt: skip

    small = _passes("clip_tiny", 4, (4, 8), 2, 0.01, None)
    other = _passes("clip_tiny", 4, (8, 16), 3, 0.01, None)
    both = small.union(other)
    assert both is not None
    part, alone = small.part_of(run(both.config)), run(small.config)
    assert part.config == alone.config
    assert set(part.score_names) == set(alone.score_names)
    for score in ("trace_pre", "trace_post"):
        for t in (4, 8):
            np.testing.assert_array_equal(part.scores(score, t), alone.scores(score, t))
    np.testing.assert_array_equal(part.scores("angular_var", 4), alone.scores("angular_var", 4))
    np.testing.assert_array_equal(part.eigenvalues(4), alone.eigenvalues(4))


def test_halves_of_images_share_no_origin_and_are_the_whole_between_them() -> None:
    """Degraded images stay in the half of their clean ones: halves are of origins."""
    session = Session(Settings(("clip_tiny",)))
    whole = session.image_set(Images(900))
    first, second = (session.image_set(Images(900, half=(3, which))) for which in (0, 1))
    assert len(set(whole.origins)) < len(whole), "otherwise images would do for origins"
    assert not set(first.origins) & set(second.origins)
    assert sorted([*first.ids, *second.ids]) == sorted(whole.ids)
    assert first.ids == tuple(each for each in whole.ids if each in set(first.ids)), "in the order of the whole"
    assert session.image_set(Images(900, half=(4, 0))).ids != first.ids
    degraded = session.image_set(Images(900, degradation="blur:4%", half=(3, 0)))
    assert degraded.origins == first.origins


@dataclass(frozen=True)
class Doubled(StoredArrays):
    """A measurement that no encoder has a part in."""

    what = "doubled"
    code = "mcdo.names"

    number: int

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"number": self.number}

    def compute(self, session: Session) -> Arrays:
        MADE.append(self.number)
        return {"doubled": np.array([2 * self.number])}


MADE: list[int] = []


def test_the_half_that_is_asked_for_is_the_one_that_experiments_report_on() -> None:
    """They take their own columns by the same halving, so the other half would be other images."""
    session = Session(Settings(("clip_tiny",)))
    whole, half = (session.image_set(Images(20, half=half)) for half in (None, (3, 1)))
    second = second_half(whole.origins, 3)
    assert half.ids == whole.select(np.flatnonzero(second)).ids
    within = session.image_set(Images(20, half=(3, 1), fold=(4, 0)))
    assert within.ids == half.select(np.flatnonzero(~second_half(half.origins, 4))).ids


def test_common_masks_are_those_of_one_name() -> None:
    session = Session(Settings(("clip_tiny",)))
    own, common = (session.image_set(Images(6, common_masks=common)).mask_ids for common in (False, True))
    assert (len(set(own)), len(set(common))) == (6, 1)


def seen_as(fingerprint: str = "f", classes: tuple[str, ...] = ("a", "b")) -> Any:
    """A session whose images all have one name."""
    images = SimpleNamespace(name="digits", fingerprint=fingerprint, class_names=classes)
    return SimpleNamespace(image_set=lambda shown: images)


@pytest.mark.parametrize("request_", [Features("a", Images(5)), Logits("a", Images(5))], ids=["features", "logits"])
def test_what_is_stored_is_of_the_content_of_its_images_and_of_its_classes(request_: Any) -> None:
    held = request_.identity(seen_as())
    assert request_.identity(seen_as()) == held
    assert request_.identity(seen_as(fingerprint="g")) != held
    assert (request_.identity(seen_as(classes=("a", "c"))) != held) is isinstance(request_, Logits)


def test_pixels_are_kept_by_the_content_of_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published cache handed out one set's pixels for another's."""
    monkeypatch.setattr("mcdo.harness.session.prepared", lambda encoder, images: images.fingerprint)
    session: Any = Session(Settings(("clip_tiny",)))
    monkeypatch.setattr(session, "image_set", lambda shown: SimpleNamespace(name="digits", fingerprint=shown.source))
    monkeypatch.setattr(session, "encoder", lambda model: None)
    assert [session.pixels("clip_tiny", Images(5, source)) for source in "aba"] == ["a", "b", "a"]


def test_whether_a_head_reads_is_asked_of_the_images_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Degraded ones may be beyond any head."""
    asked, session = list[Images](), cast("Any", Session(Settings(("clip_tiny",))))
    monkeypatch.setattr("mcdo.harness.heads.read_head", lambda *_: SimpleNamespace(head_reason="why"))
    monkeypatch.setattr(session, "image_set", lambda shown: None)
    monkeypatch.setattr(session, "measure", lambda request: asked.append(request.shown))
    assert session.head_reason(Logits("clip_tiny", Images(5, degradation="blur:50%"))) == "why"
    assert asked == [Images(5)]


@pytest.mark.parametrize(("low", "reads"), [(0.01, True), (-0.01, False)])
def test_a_head_reads_where_its_whole_interval_lies_above_a_constant_answer(low: float, reads: bool) -> None:
    ahead = Estimate(0.05, low, 0.11, 100)
    assert (ReadHead({}, Estimate(0.5, 0.4, 0.6, 100), ahead).head_reason == "") is reads


def test_random_weights_are_those_of_the_session_s_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = list[tuple[int, str]]()
    monkeypatch.setattr(
        "mcdo.harness.session.load_encoder", lambda *_, weights, seed, precision: seeds.append((seed, weights))
    )
    session = Session(Settings(("clip_b32",), random_weights=frozenset({"clip_b32"}), seed=7, store=None))
    session.encoder("clip_b32")
    assert seeds == [(7, "random")]


def test_arrays_of_no_encoder_are_stored_too(tmp_path: Path) -> None:
    MADE.clear()
    for _ in range(2):
        session = Session(Settings((), store=tmp_path))
        assert [session.measure(Doubled("", number))["doubled"].tolist() for number in (1, 2)] == [[2], [4]]
        assert not session.loads
    assert MADE == [1, 2]


class Reviewed(Doubled):
    """As a kind of somebody else's may name what decides it."""

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"number": self.number, "code": "reviewed", "kind": "mine", "provenance": {}}


def test_an_identity_takes_no_place_of_the_code_that_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MADE.clear()
    for code in ("before", "before", "after"):
        monkeypatch.setattr("mcdo.harness.session.measuring_code", lambda _, code=code: code)
        Session(Settings((), store=tmp_path)).measure(Reviewed("", 1))
    assert MADE == [1, 1], "measured again by other code, and only then"


def test_what_is_stored_is_listed_by_name(tmp_path: Path) -> None:
    session = Session(Settings(("clip_tiny",), store=tmp_path))
    session.measure(Features("clip_tiny", Images(6)))
    session.measure(Doubled("", 1))
    labels = [(entry.label["encoder"], entry.label["protocol"]) for entry in entries(tmp_path)]
    assert sorted(labels) == [("clip_tiny", "features"), ("none", "doubled")]


TEXTLESS = "python:textless:make"


def test_without_a_text_tower_logits_are_those_of_class_prototypes() -> None:
    """They are better than chance, know degraded images by clean ones, and differ from those of a zero-shot head."""
    session = Session(Settings((TEXTLESS, "siglip_tiny")))
    shown, damaged = Images(120), Images(120, degradation="blur:30%")
    labels = session.image_set(shown).labels
    read, blurred = (session.measure(Logits(TEXTLESS, each)) for each in (shown, damaged))
    assert read["logits"].shape == (1, 120, 10)
    for logits in (read["logits"][0], read["neighbours"]):
        assert (logits.argmax(axis=1) == labels).mean() > 0.7
    assert (blurred["logits"][0].argmax(axis=1) == labels).mean() < (read["logits"][0].argmax(axis=1) == labels).mean()
    assert "neighbours" not in session.measure(Logits("siglip_tiny", shown))
    again = Session(Settings((TEXTLESS,))).measure(Logits(TEXTLESS, shown))
    assert np.array_equal(again["logits"], read["logits"])


def test_images_that_stand_in_for_no_text_tower_say_why(tmp_path: Path) -> None:
    with pytest.raises(
        NoTextTowerError,
        match=r"no text tower, and digits cannot .* for it: \d of 10 classes have one original",
    ):
        Session(Settings((TEXTLESS,))).measure(Logits(TEXTLESS, Images(12)))
    for i, image in enumerate(mcdo.load_images("digits", 8)):
        image.save(tmp_path / f"{i}.png")
    flat = Session(Settings((TEXTLESS,), images=str(tmp_path)))
    with pytest.raises(NoTextTowerError, match="the images have no labels"):
        flat.measure(Logits(TEXTLESS, Images(None)))


def test_a_head_that_knows_nothing_is_no_target_but_for_those_who_say_so(tmp_path: Path) -> None:
    settings = Settings(("clip_tiny",), reports=tmp_path, random_weights=frozenset({"clip_tiny"}))
    subject, shown = Subject("clip_tiny", ("clip_tiny",)), Images(60)
    logits, blurred = Logits("clip_tiny", shown), Logits("clip_tiny", Images(60, degradation="blur:40%"))
    runner = Runner(Session(settings))
    with pytest.raises(UntrainedHeadError, match="more than always naming the largest class, as random weights would"):
        Inputs(runner, subject, (logits,), any_head=False)[logits]
    assert Inputs(runner, subject, (logits,))[logits]["logits"].shape == (3, 60, 10)
    unread = Inputs(runner, subject, (logits,)).why_unread(blurred)
    assert "more than always naming the largest class" in unread
    trained = Runner(Session(replace(settings, random_weights=frozenset())))
    assert Inputs(trained, subject, (logits,)).why_unread(blurred) == ""
    for each in (logits, blurred):  # whatever the head makes of what it can no longer see
        Inputs(trained, subject, (each,), any_head=False)[each]


@pytest.mark.parametrize("model", ["clip_tiny", TEXTLESS])
@pytest.mark.parametrize("labelled", [True, False])
def test_what_reads_classes_is_known_beforehand(model: str, labelled: bool, tmp_path: Path) -> None:
    """Names by a text tower, labels by prototypes; where both are there, or neither is, no encoder is looked at."""
    for i, image in enumerate(mcdo.load_images("digits", 40)):
        folder = tmp_path / ("abcdefghij"[i % 10] if labelled else "")
        folder.mkdir(exist_ok=True)
        image.save(folder / f"{i}.png")
    session = Session(Settings((model,), images=str(tmp_path)))
    about = View(session, Subject(model, (model,)))
    assert bool(about.why_no_head(Images(None))) is not labelled
    assert not session.loads


def test_names_without_labels_are_read_by_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, reason in (("clip_tiny", ""), (TEXTLESS, "the images have no labels")):
        session = Session(Settings((model,)))
        named = replace(mcdo.load_images("digits", 40), labels=None)
        monkeypatch.setattr(session, "image_set", lambda shown, named=named: named)
        assert View(session, Subject(model, (model,))).why_no_head(Images(40)) == reason


class ReachedError(Exception):
    """Something was computed that a head decides."""


@dataclass(frozen=True)
class Costly(Request[None]):
    """What is not to be measured in vain."""

    def measure(self, session: Session) -> None:
        raise ReachedError


@dataclass(frozen=True)
class AboutTheHead(Experiment[None]):
    """One that asks for passes before the logits that it needs."""

    key = name = "about_the_head"
    phase = "phase2"

    def requests(self, about: View) -> Any:
        return (Costly(about.model), Logits(about.model, Images(60)))

    def compute(self, inputs: Inputs) -> None:
        for request in inputs.requests:
            inputs[request]

    def summary(self, result: None) -> dict[str, Any]:
        return {}


def test_a_head_that_knows_nothing_is_found_before_anything_is_spent_on_it(tmp_path: Path) -> None:
    settings = Settings(("clip_tiny",), reports=tmp_path, random_weights=frozenset({"clip_tiny"}))
    subject = Subject("clip_tiny", ("clip_tiny",))
    with pytest.raises(UntrainedHeadError):
        Runner(Session(settings)).run(AboutTheHead(), subject)
    with pytest.raises(ReachedError):
        Runner(Session(replace(settings, random_weights=frozenset()))).run(AboutTheHead(), subject)
