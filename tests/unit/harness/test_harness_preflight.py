from __future__ import annotations

import time
import warnings
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from mcdo.encoders import Encoder, load_encoder
from mcdo.errors import SiteWarning
from mcdo.estimators import MonteCarloConfig
from mcdo.experiments.phase1.exp0_first_order import FirstOrderReliability
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.experiments.phase1.exp0b_norm_geometry import NormGeometry
from mcdo.experiments.phase1.exp4_subset_recipe import SubsetRecipe
from mcdo.experiments.phase1.exp5_subset_ambiguity import SubsetAmbiguity
from mcdo.experiments.phase1.verdict import Phase1Verdict
from mcdo.harness import ALL_MODELS, Experiment, Runner, Session, Settings, Sizes, Subject
from mcdo.harness import preflight as module
from mcdo.harness.preflight import preflight
from mcdo.harness.remaining import TIMING_S, Timing
from mcdo.harness.requests import Images, Passes
from mcdo.images.folder import FolderSource, listed
from mcdo.perturbation import Dropout, Rademacher, find_sites
from mcdo.perturbation.sites import SiteTable
from mcdo.report.finding import Finding
from mcdo.threads import StoppedError

KINDS: tuple[type[Experiment[Any]], ...] = (NestedPasses, SubsetAmbiguity, Phase1Verdict)
ONE = KINDS[:1]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures of two classes."""
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / "photos" / ("one", "two")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def flat(photos: Path) -> Path:
    """The same, none in a class."""
    there = photos.with_name("flat")
    there.mkdir()
    for path in photos.glob("*/*.png"):
        path.rename(there / path.name)
    return there


Look = Callable[..., list[Finding]]


@pytest.fixture
def look(photos: Path, tmp_path: Path) -> Look:
    """What the pre-flight finds for the photos, or for the folder ``images``."""

    def found(
        models: tuple[str, ...] = ("clip_tiny",),
        images: Path = photos,
        kinds: tuple[type[Experiment[Any]], ...] = KINDS,
        settings: dict[str, Any] | None = None,
        **how: Any,
    ) -> list[Finding]:
        reports = tmp_path / "reports"
        made = Settings(models, images=f"folder:{images}", reports=reports, protocol="quick", **(settings or {}))
        asked: list[tuple[Experiment[Any], Subject]] = []
        for kind in kinds:
            subjects = (Subject(ALL_MODELS, models),) if kind is Phase1Verdict else kind.subjects(made)
            asked += [(kind.configured(made), subject) for subject in subjects]
        told: list[Finding] = []
        return told + preflight(Runner(Session(made)), asked, tell=told.append, **how)

    return found


def said(found: list[Finding], state: str) -> list[str]:
    return [str(each) for each in found if each.state == state]


def test_nothing_is_in_the_way_of_a_small_set_but_its_size_is_said(look: Look) -> None:
    seen = look(decides=True)
    assert not said(seen, "wrong")
    wanted, few = said(seen, "told")
    assert "holds 12, all of which are shown; wanted are: exp0 120, exp5 500" in wanted
    assert "12 originals are too few for one: at least 100" in few


def test_random_weights_are_said_to_decide_nothing(look: Look) -> None:
    random = {"random_weights": frozenset({"clip_tiny"})}
    seen = look(settings=random, decides=True)
    assert "verdict: random weights decide nothing (clip_tiny)" in said(seen, "told")


def test_a_missing_tokenizer_is_said_before_anything_is_loaded(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "PREFLIGHT_S", 0.0)
    monkeypatch.setattr(Session, "encoder", lambda self, model: pytest.fail("nothing may be loaded"))
    random = {"random_weights": frozenset({"siglip2_b16"})}
    seen = said(look(("siglip2_b16",), settings=random), "wrong")
    assert len(seen) == 1
    assert "siglip2_b16: the tokenizer's files of timm/ViT-B-16-SigLIP2 are not on this disk" in seen[0]


def test_without_what_needs_classes_none_are_needed(look: Look, photos: Path) -> None:
    assert not said(look(images=flat(photos), kinds=(NestedPasses, Phase1Verdict)), "wrong")


def test_classes_that_a_tokenizer_cannot_tell_apart_are_named(look: Look, photos: Path) -> None:
    for i in range(2):
        (photos / ("one", "two")[i]).rename(photos / f"unheard {i}")
    (seen,) = said(look(), "wrong")
    assert "'unheard 0' and 'unheard 1' are the same to its tokenizer" in seen


def test_unreadable_images_are_named_and_may_be_left_out(look: Look, photos: Path) -> None:
    (photos / "one" / "bad.jpg").write_text("no picture")
    (photos / "two" / "empty.jpg").touch()
    (seen,) = said(look(), "wrong")
    assert "2 of 14 images cannot be used" in seen
    assert "bad.jpg" in seen
    assert "empty.jpg" in seen
    assert not said(look(settings={"skip_unreadable": True}), "wrong")


def test_a_later_phase_wants_a_go(look: Look) -> None:
    (seen,) = said(look(later=True), "wrong")
    assert "there is no Phase 1 verdict" in seen
    assert not said(look(later=True, decides=True), "wrong"), "it is to be made"


def test_too_little_memory_is_said_with_what_is_wanted(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.harness.remaining.timing", lambda *_: Timing(1e-6, 1000))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    pixels = 12 * 3 * 32 * 32  # of one set: all there are, whatever was wanted
    scores = 12 * 5 * 7 * 12 * 8  # images, trials, T, arrays of each, bytes of a number
    needed = pixels + scores + 3 * 1024 * 1000  # rows of a forward pass, in each of three threads
    monkeypatch.setattr(module, "available_memory", lambda: needed)
    assert not said(look(kinds=ONE), "wrong")
    monkeypatch.setattr(module, "available_memory", lambda: needed - 1)
    (seen,) = said(look(kinds=ONE), "wrong")
    assert "the pixels of 1 sets of images take 36.0 kB, a forward pass 2.9 MB and the scores 39.4 kB" in seen


def test_a_pass_too_slow_to_be_timed_is_said_to_be(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def timing(_: Any, rows: int | None, at_most: float) -> Timing:
        assert at_most <= TIMING_S
        raise StoppedError

    monkeypatch.setattr("mcdo.harness.remaining.timing", timing)
    seen = said(look(kinds=ONE), "told")[-1]
    assert seen.startswith("time: no pass of one image was over in 8 s, and the first is the slowest")
    assert "how long 15,360 of clip_tiny take is said with the first measurement" in seen


def test_what_takes_long_is_said_while_it_does(
    look: Look, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = Session.encoder

    def slowly(self: Session, model: str) -> Any:
        time.sleep(0.2)
        return loaded(self, model)

    monkeypatch.setattr(module, "QUIET_S", 0.05)
    monkeypatch.setattr(Session, "encoder", slowly)
    look(kinds=ONE)
    assert "Pre-flight: loading clip_tiny, 0 s so far" in capsys.readouterr().err


def test_of_a_run_that_cannot_be_no_encoder_is_loaded(
    look: Look, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "encoder", lambda self, model: pytest.fail("nothing may be loaded"))
    seen = look(("clip_tiny", "clip_l14_336"), flat(photos), later=True)
    missing, classless, phase = said(seen, "wrong")
    assert missing.startswith("clip_l14_336: the weights")
    assert "hf download" in missing
    assert "has no classes (there are no directories), which exp5 needs" in classless
    assert "-k 'not exp5'" in classless
    assert "there is no Phase 1 verdict" in phase
    assert "encoders: none was loaded" in said(seen, "told")[-1]


def test_what_an_experiment_finds_wrong_with_data_of_one_s_own_is_said_with_the_rest(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NestedPasses, "obstacles", lambda self, about: ["no such file"])
    seen = said(look(("clip_l14_336", "clip_tiny"), kinds=ONE), "wrong")
    assert len(seen) == 2, "each thing once, whichever models it is asked for"
    assert seen[0].startswith("clip_l14_336: the weights")
    assert seen[1] == "exp0: no such file"


@pytest.mark.parametrize("trials", [4, 5])
def test_too_few_trials_for_shared_noise_are_said_before_any_pass(look: Look, trials: int) -> None:
    kinds = (FirstOrderReliability, NestedPasses, NormGeometry, SubsetRecipe, SubsetAmbiguity)
    said_of = {
        type(kind).__name__: [
            each.split(":")[0]
            for each in said(look(kinds=kinds, settings={"sizes": Sizes(trials=trials), "dropout": kind}), "wrong")
            if "trials are too few" in each
        ]
        for kind in (Rademacher(), Dropout())
    }
    few = {"Rademacher": ["exp0_first_order", "exp0", "exp0b", "exp4"], "Dropout": ["exp0_first_order"]}
    assert said_of == (few if trials < 5 else {"Rademacher": [], "Dropout": []})


@pytest.mark.parametrize("key", ["timm:test_vit", "tv:resnet18"])
def test_what_an_encoder_without_text_does_not_need_is_not_asked_for(
    look: Look, key: str, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_loaded", lambda *_: ([], 0.0))
    random = {"random_weights": frozenset({key})}
    seen = look((key,), flat(photos), settings=random, alone=False)
    assert not said(seen, "wrong")


class Slow(nn.Module):
    """A tower of which a pass takes 10 s."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Identity() for _ in range(200))
        self.first, self.map, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            time.sleep(self.seconds)
        y: Tensor = self.last(self.map(self.first(x.mean((2, 3))).tanh()).tanh())
        return y


def test_a_slow_tower_takes_no_more_than_the_time_for_it_and_one_that_loads_slowly_says_so(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower, numbers = Slow(), {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 32, "interpolation": "bicubic"}
    encoder = Encoder.of(tower, numbers, name="slow")
    tower.seconds = 0.05
    first = True

    def load(self: Session, model: str) -> Encoder:
        nonlocal first
        time.sleep(0.6 * first)
        first = False
        return encoder

    monkeypatch.setattr(Session, "encoder", load)
    monkeypatch.setattr(module, "PREFLIGHT_S", 0.5)
    monkeypatch.setattr(module, "LEAST_TIMING_S", 0.1)
    monkeypatch.setattr(module, "QUIET_S", 0.5)
    began = time.monotonic()
    seen = said(look(kinds=ONE), "told")
    assert time.monotonic() - began < 0.6 + 0.5 + 0.5  # loading, itself, and what else a busy machine does
    assert "loading: 1 s for clip_tiny" in seen
    assert seen[-1].startswith("time: no pass of one image was over in ")


def test_what_cannot_be_said_of_validity_without_text_is_said_before_any_pass(
    look: Look, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tower = load_encoder("clip_tiny")
    encoder = Encoder.of(tower.image_modules[0][1], tower.preprocessing, name="clip_tiny")
    monkeypatch.setattr(Session, "encoder", lambda self, model: encoder)
    monkeypatch.setattr(module, "reads_prompts", lambda model: None)

    def of(images: Path) -> str:
        seen = look(images=images, kinds=(SubsetAmbiguity,))
        assert not said(seen, "wrong")
        return "\n".join(said(seen, "told"))

    assert "no text" not in of(photos)
    (photos / "alone").mkdir()
    (photos / "one" / "0.png").rename(photos / "alone" / "0.png")
    assert "1 of 3 classes have one image here: alone; clip_tiny has no text and takes two, so nothing is said" in of(
        photos
    )
    assert "they have no labels and clip_tiny has no text, so nothing is said of validity (-m prelim" in of(
        flat(photos)
    )


class Normalised(nn.Module):
    """A tower whose features have one norm, and a map of no known role."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.map(x.mean((2, 3))), dim=-1)


def test_a_tower_that_cannot_be_measured_is_refused_once_and_before_any_pass(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "size": 32, "interpolation": "bicubic"}
    encoder = Encoder.of(Normalised(), numbers, name="clip_tiny")
    monkeypatch.setattr(Session, "encoder", lambda self, model: encoder)
    (seen,) = said(look(kinds=ONE), "wrong")
    assert "clip_tiny: the features of different inputs have one and the same norm" in seen


def test_what_to_know_of_a_tower_s_maps_is_said_before_any_pass(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(encoder: Encoder) -> SiteTable:
        warnings.warn("their role is not known", SiteWarning, stacklevel=2)
        return find_sites(encoder)

    monkeypatch.setattr(module, "find_sites", looked)
    seen = look(kinds=ONE)
    assert not said(seen, "wrong")
    assert "clip_tiny: their role is not known" in said(seen, "told")


def test_passes_that_follow_from_others_are_in_the_time(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.harness.remaining.timing", lambda *_: Timing(1.0, 0))
    following = Passes("clip_tiny", Images(10), MonteCarloConfig(Dropout(), (7,), 3))
    before = said(look(kinds=ONE), "told")[-1]
    monkeypatch.setattr(NestedPasses, "foreseen", lambda self, about: [following, following])
    after = said(look(kinds=ONE), "told")[-1]
    assert "clip_tiny 15,360 passes" in before
    assert f"clip_tiny {15360 + 2 * 10 * 7 * 3:,} passes" in after


def test_passes_that_follow_from_the_encoder_are_in_the_time(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as those of each site: of a large tower and few images they are most of the run."""
    monkeypatch.setattr("mcdo.harness.remaining.timing", lambda *_: Timing(1.0, 0))
    monkeypatch.setattr(Passes, "passes_beside", lambda self, session: 445)
    assert f"clip_tiny {15360 + 445:,} passes" in said(look(kinds=ONE), "told")[-1]
    monkeypatch.setattr("mcdo.harness.remaining.SITES_S", 1.0)
    assert "clip_tiny 15,360 passes" in said(look(kinds=ONE), "told")[-1], "it takes too long to find the sites"


def test_no_image_is_read_to_tell_what_follows_from_the_encoder(
    look: Look, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcdo.harness.remaining.timing", lambda *_: Timing(1.0, 0))
    monkeypatch.setattr(Passes, "passes_beside", lambda self, session: 1000 * session.classes(self.shown))
    monkeypatch.setattr(Session, "_read", lambda self, images: pytest.fail("images were read"))
    assert f"clip_tiny {15360 + 2000:,} passes" in said(look(kinds=ONE), "told")[-1]


def test_too_little_room_on_the_disk_is_said(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(2**40, 2**40, 2**20))
    (seen,) = said(look(settings={"store": tmp_path / "store"}), "wrong")
    assert "0.0 GB free" in seen
    assert "--store" in seen


def test_a_long_run_is_announced_by_a_measured_pass(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcdo.harness.remaining.timing", lambda *_: Timing(0.01, 0))
    seen = said(look(kinds=ONE), "told")[-1]
    passes = 12 * 5 * 256  # images, trials and passes of the quick protocol
    assert f"about 3 min at most (clip_tiny {passes:,} passes of 10 ms" in seen
    assert not any("min at most" in each for each in said(look(alone=False), "told"))


def test_what_takes_too_long_to_decode_is_left_for_later(photos: Path) -> None:
    looked = listed(photos).look(None, 0, seconds=0.0)
    assert (looked.there, looked.chosen, looked.looked_at) == (12, 12, 0)


def test_no_file_is_decoded_twice_while_it_stays_as_it_is(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    load = FolderSource.load

    def counted(self: FolderSource, image_id: str) -> Any:
        loaded.append(image_id)
        return load(self, image_id)

    monkeypatch.setattr(FolderSource, "load", counted)
    looked = listed(photos).look(8, 0, seconds=60.0)
    images = listed(photos).load(10, 0, skip_unreadable=False)
    assert (looked.looked_at, len(images), len(loaded)) == (8, 10, 10)
    (photos / loaded[0]).write_bytes((photos / loaded[1]).read_bytes())
    again = listed(photos).load(10, 0, skip_unreadable=False)
    assert loaded[10:] == [loaded[0]]
    at = again.ids.index(loaded[0])
    assert again.content_hashes[at] == images.content_hashes[images.ids.index(loaded[1])]
