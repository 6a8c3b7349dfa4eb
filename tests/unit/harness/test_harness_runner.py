from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import ArrayLike

from mcdo.errors import McdoError
from mcdo.harness import (
    Claim,
    Experiment,
    Features,
    Files,
    Images,
    Inputs,
    Request,
    Runner,
    Session,
    Settings,
    Subject,
    View,
)  # fmt: skip
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
    assert json.loads((folder / "norms_overall.json").read_text())["results"]["clip_tiny"] == summary


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
