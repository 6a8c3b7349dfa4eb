from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pytest
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.estimators import MonteCarloConfig
from mcdo.harness import (
    Claim,
    Experiment,
    Features,
    Files,
    Images,
    Inputs,
    Passes,
    Request,
    Runner,
    Session,
    Settings,
    Subject,
    View,
)  # fmt: skip
from mcdo.harness.sheets import Sheet, Tile
from mcdo.harness.tests import _check_figure
from mcdo.perturbation import Dropout
from mcdo.stats import Estimate, mean

COMPUTED: list[str] = []


@dataclass(frozen=True)
class FeatureNorms(Experiment[Estimate]):
    """The mean feature norm."""

    key = "norms"
    name = "feature_norms"
    phase = "phase2"
    files = Files(summary="{}/norms.json", overall="norms_overall.json", figure="{}/norms.png")
    quick: ClassVar[Mapping[str, Any]] = {"n": 5}

    n: int = 8
    undeclared: bool = False

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (Features(about.model, Images(self.n)),)

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        longest = int(np.linalg.norm(inputs[Features(inputs.model, Images(self.n))]["features"], axis=1).argmax())
        return (Features(inputs.model, Images(longest + 10)),)

    def compute(self, inputs: Inputs) -> Estimate:
        COMPUTED.append(inputs.model)
        if self.undeclared:
            inputs[Features(inputs.model, Images(999))]
        features = inputs[Features(inputs.model, Images(self.n))]["features"]
        return mean(np.linalg.norm(features, axis=1), origins=inputs.images(Images(self.n)).origins)

    def claims(self) -> Sequence[Claim[Estimate]]:
        return (Claim("positive", lambda r: r, above=0.0),)

    def summary(self, result: Estimate) -> Mapping[str, Any]:
        return {"mean_norm": result.as_dict()}

    def arrays(self, inputs: Inputs, result: Estimate) -> Mapping[str, Mapping[str, ArrayLike]]:
        return {"{}/norms.npz": {"paths": np.array(inputs.images(Images(self.n)).ids)}}

    def panels(self, inputs: Inputs, result: Estimate) -> Sequence[Any]:
        return (lambda axes: axes.plot([0], [result.value], "o"),)


MODEL = Subject("clip_tiny", ("clip_tiny",))


def runner(tmp_path: Path, **settings: Any) -> Runner:
    return Runner(Session(Settings(models=("clip_tiny",), reports=tmp_path / "reports", session="s", **settings)))


def test_an_experiment_is_measured_computed_judged_and_written_once(tmp_path: Path) -> None:
    COMPUTED.clear()
    run = runner(tmp_path)
    done = run.run(FeatureNorms(), MODEL)
    assert run.run(FeatureNorms(), MODEL) is done
    assert COMPUTED == ["clip_tiny"]
    assert done.judgements["positive"].outcome == "met"
    assert len(done.inputs.requests) == 2, "what follows from a measured value is requested as well"
    folder = tmp_path / "reports" / "phase2" / "feature_norms"
    assert {path.relative_to(folder).as_posix() for path in done.files} == {
        "clip_tiny/norms.json", "clip_tiny/norms.npz", "clip_tiny/norms.png", "norms_overall.json",
    }  # fmt: skip
    summary = json.loads((folder / "clip_tiny" / "norms.json").read_text())
    assert summary["config"]["n"] == 8
    assert summary["claims"][0]["outcome"] == "met"
    assert "torch" in summary["provenance"]["versions"]
    assert summary["image_set"] == "digits"
    overall = json.loads((folder / "norms_overall.json").read_text())
    assert overall["results"]["clip_tiny"] == summary
    assert overall["provenance"]["clip_tiny"]["made"] == summary["made"]


@dataclass(frozen=True)
class WithPictures(FeatureNorms):
    """One that shows an image, and draws nothing of many."""

    def panels(self, inputs: Inputs, result: Estimate) -> Sequence[Any]:
        return super().panels(inputs, result) if self.n < 10 else ()

    def sheets(self, inputs: Inputs, result: Estimate) -> Sequence[Sheet]:
        return (Sheet("the first", (Tile(Images(self.n), 0, f"of {self.n}"),)),)


def test_no_figure_and_no_picture_of_an_earlier_run_stays_beside_a_later_one(tmp_path: Path) -> None:
    folder, store = tmp_path / "reports" / "phase2" / "feature_norms", tmp_path / "store"
    sheets, figure, earlier = (
        folder / name for name in ("clip_tiny_sheets.json", "clip_tiny/norms.png", "clip_tiny/norms.svg")
    )

    def left(n: int, **settings: Any) -> set[Path]:
        earlier.parent.mkdir(parents=True, exist_ok=True)
        earlier.touch()
        runner(tmp_path, store=store, **settings).run(WithPictures(n=n), MODEL)
        return {path for path in (sheets, figure, earlier) if path.exists()}

    assert left(8, vector_figures=False) == {sheets, figure}
    assert left(8, from_store=True) == {sheets, figure}, "the same images with the same words"
    assert left(9) == {sheets, figure}
    assert left(8, from_store=True) == {figure}, "it was of nine images"
    assert left(10) == {sheets}
    assert left(10, thumbnails=False) == set()
    assert left(8, figures=False) == {sheets}


@pytest.mark.parametrize("figures", [True, False], ids=["saved", "not-saved"])
def test_a_figure_that_hides_something_breaks_the_contract(figures: bool, tmp_path: Path) -> None:
    done = runner(tmp_path, figures=figures).run(FeatureNorms(), MODEL)
    assert any(path.suffix == ".png" for path in done.files) is figures
    with pytest.raises(AssertionError, match="its x axis has no label"):
        _check_figure(done)


@dataclass(frozen=True)
class OfTheFirst(FeatureNorms):
    """About the first model, in files of one name."""

    files = Files(summary="norms.json", figure="norms.png")
    of_one_model = True


def test_what_another_experiment_asks_about_a_further_model_leaves_the_files_about_the_first_alone(
    tmp_path: Path,
) -> None:
    run, folder = runner(tmp_path), tmp_path / "reports" / "phase2" / "feature_norms"
    first, other = (run.run(OfTheFirst(), Subject(m, (m,))) for m in ("clip_tiny", "siglip_tiny"))
    assert json.loads((folder / "norms.json").read_text())["model"] == "clip_tiny"
    assert first.files
    assert not other.files
    assert other.result.value != first.result.value


def test_what_was_not_requested_is_refused(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="was computed with but not requested"):
        runner(tmp_path).run(FeatureNorms(undeclared=True), MODEL)


def test_the_store_alone_gives_the_same_result(tmp_path: Path) -> None:
    store = tmp_path / "store"
    measured = runner(tmp_path, store=store).run(FeatureNorms(), MODEL)
    offline = runner(tmp_path, store=store, from_store=True)
    assert offline.run(FeatureNorms(), MODEL).result == measured.result
    assert not offline.session.loads, "no model was loaded"
    with pytest.raises(McdoError, match="--from-store loads no model"):
        offline.run(FeatureNorms(n=6), MODEL)


def test_a_configuration_follows_the_session(tmp_path: Path) -> None:
    settings = runner(tmp_path, protocol="quick", seed=7).session.settings
    assert FeatureNorms.configured(settings) == FeatureNorms(seed=7, n=5)


def test_a_subject_of_several_models_has_no_model_of_its_own() -> None:
    with pytest.raises(McdoError, match="about 2 models"):
        _ = Subject("both", ("a", "b")).model


@dataclass(frozen=True)
class SeveralModels(FeatureNorms):
    """Passes of each model, of the first under two sets of sites."""

    name = "several_models"

    def requests(self, about: View) -> Iterable[Request[Any]]:
        first = self.run(about.subject.models[0], "all"), self.run(about.subject.models[0], "mlp")
        return (*first, *(self.run(model, "mlp") for model in about.subject.models[1:]))

    def run(self, model: str, sites: str) -> Passes:
        return Passes(model, Images(self.n), MonteCarloConfig(Dropout(0.01, sites), (2,), 1, self.seed))

    def follow_up(self, inputs: Inputs) -> Iterable[Request[Any]]:
        return ()

    def compute(self, inputs: Inputs) -> Estimate:
        return mean(inputs[inputs.requests[0]].scores("trace_pre", passes=2)[0])

    def arrays(self, inputs: Inputs, result: Estimate) -> Mapping[str, Mapping[str, ArrayLike]]:
        return {}


def test_a_summary_over_several_models_says_the_sites_of_each(tmp_path: Path) -> None:
    models = ("clip_tiny", "siglip_tiny")
    settings = Settings(models=models, reports=tmp_path / "reports", session="s")
    run = Runner(Session(settings))
    both = run.run(SeveralModels(), Subject("both", models)).summary
    alone = {model: run.run(SeveralModels(), Subject(model, (model,))).summary for model in models}
    assert both["sites"] == {"clip_tiny": alone["clip_tiny"]["sites"], "siglip_tiny": alone["siglip_tiny"]["sites"][1]}
    assert [each["requested"] for each in both["sites"]["clip_tiny"]] == ["all", "mlp"]
    assert set(both["sites"]["siglip_tiny"]["live"]).isdisjoint(both["sites"]["clip_tiny"][0]["live"])
    assert both["provenance"] == {
        "versions": alone["clip_tiny"]["provenance"]["versions"],
        "models": {model: summary["provenance"] for model, summary in alone.items()},
    }


@dataclass(frozen=True)
class Unperturbed(FeatureNorms):
    """One that perturbs nothing, writes text, and lies elsewhere."""

    name = "unperturbed"
    folder = "elsewhere"
    perturbs = False

    def documents(self, inputs: Inputs, result: Estimate) -> Mapping[str, Any]:
        return {"{}/table.md": "| a |\n", "{}/facts.json": ["a"]}


def test_what_is_not_perturbed_has_no_sites_and_text_is_written_as_it_is(tmp_path: Path) -> None:
    done = runner(tmp_path).run(Unperturbed(), MODEL)
    assert done.summary["sites"] is None
    assert done.summary["provenance"]["weights"] == done.inputs.encoder().weights_hash
    assert done.summary["provenance"]["random_weights"] is False
    assert "dropout" not in done.summary["config"]
    folder = tmp_path / "reports" / "elsewhere" / "unperturbed" / "clip_tiny"
    assert (folder / "table.md").read_text() == "| a |\n"
    assert json.loads((folder / "facts.json").read_text()) == ["a"]


@dataclass(frozen=True)
class Following(FeatureNorms):
    """One whose second stage is foreseen as a hundred thousand passes."""

    name = "following"

    def foreseen(self, about: View) -> Iterable[Request[Any]]:
        many = MonteCarloConfig(Dropout(0.01), (1000,), 1)
        return (Passes(about.model, Images(100), many),)


def test_the_time_left_counts_what_will_follow_until_it_is_measured(tmp_path: Path) -> None:
    session = runner(tmp_path).session
    run = Runner(session)
    run.plan(Following(), MODEL)

    def others() -> int:
        made = cast("Any", session.progress(Features("clip_tiny", Images(8))))
        return sum(each.expected_passes(session) for each in made._left()[0])

    assert others() == 0, "no encoder is loaded for this"
    session.encoder("clip_tiny")
    assert others() == 100_000
    run.run(Following(), MODEL)
    assert others() < 100, "its second stage is measured"
