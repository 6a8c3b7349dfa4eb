from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of
from made_up_runs import made_up_run
from numpy.typing import NDArray

from mcdo.encoders.recipe import Recipe, replicate_folder, write_untrained
from mcdo.encoders.registry import REGISTRY
from mcdo.errors import McdoError
from mcdo.experiments.prelim.grid import ENCODERS, SITES
from mcdo.experiments.prelim.replicates import OPTION, Replicates, Training, over_trainings, trainings
from mcdo.harness import Logits, Request, Runner, Session, Settings
from mcdo.stats import ambiguity_targets

SEEDS = 5
FOUND = tuple(Training(made, seed, f"{key}-{seed}") for made, key in ENCODERS.items() for seed in range(SEEDS))


def grid(of_loss: float, of_training: float, seed: int = 0) -> NDArray[np.float64]:
    """A figure [E, sites, 1 + R]: the sigmoid loss adds ``of_loss``, mlp sites take .2, trainings differ at random."""
    rng = np.random.default_rng(seed)
    sigmoid = np.array([each.made[0] == "sigmoid" for each in FOUND])
    mlp = np.array([site == "mlp" for site in SITES])
    own = of_loss * sigmoid[:, None] - 0.2 * mlp + of_training * rng.normal(size=(len(FOUND), 1))
    return np.repeat(own[:, :, None], 6, axis=2)


def test_a_loss_is_tested_against_the_trainings() -> None:
    figure = grid(0.3, 0.1)
    found = over_trainings(FOUND, figure, 100)
    marginal = figure[:, :, 0].mean(axis=1).reshape(4, SEEDS)
    losses = [made[0] for made in ENCODERS]
    expected = (
        marginal[[i for i, loss in enumerate(losses) if loss == "sigmoid"]].mean()
        - marginal[[i for i, loss in enumerate(losses) if loss == "softmax"]].mean()
    )
    loss = found.between["loss: sigmoid - softmax"]
    sd = math.sqrt(marginal.var(axis=1, ddof=1).mean())
    assert loss.estimate.value == pytest.approx(expected)
    assert loss.p_holm == pytest.approx(3 * loss.p_value), "the smallest of three"
    assert loss.estimate.high - expected == pytest.approx(
        scipy.stats.t.isf(0.025, 16) * sd * math.sqrt(1 / 10 + 1 / 10)
    )
    assert found.training_sd.value == pytest.approx(sd)
    ends = [sd * math.sqrt(16 / scipy.stats.chi2.isf(share, 16)) for share in (0.025, 0.975)]
    assert [found.training_sd.low, found.training_sd.high] == pytest.approx(ends)
    assert found.within["site: mlp - all"].estimate.value == pytest.approx(-0.2)
    assert found.within["site: mlp - all"].p_holm < 1e-9, "no training differs in it"


def test_contrasts_have_their_sign_and_the_number_of_originals() -> None:
    figure = grid(0.3, 0.1)
    found = over_trainings(FOUND, figure, 100)
    cell = dict(zip(ENCODERS, figure[:, :, 0].mean(axis=1).reshape(4, SEEDS).mean(axis=1), strict=True))
    timm, mha = ({loss: cell[loss, tower] for loss in ("sigmoid", "softmax")} for tower in ("timm", "mha"))
    tower, both = found.between["tower: timm - mha"].estimate, found.between["loss x tower"].estimate
    assert tower.value == pytest.approx(sum(timm.values()) / 2 - sum(mha.values()) / 2)
    crossed = (timm["sigmoid"] - timm["softmax"]) / 2 - (mha["sigmoid"] - mha["softmax"]) / 2
    assert both.value == pytest.approx(crossed)
    assert {each.estimate.n for each in (*found.between.values(), *found.within.values())} == {100}
    assert found.training_sd.n == len(FOUND)


def test_noise_of_the_images_that_all_trainings_see_is_in_the_interval() -> None:
    """Trainings that do not differ, and resamples in which each has the same difference of sites and of losses."""
    of_site, of_loss = np.random.default_rng(0).normal(0, [[0.05], [0.1]], (2, 400))
    figure = np.zeros((len(FOUND), len(SITES), 401))
    figure[:, list(SITES).index("mlp"), 1:] = of_site
    figure[[each.made[0] == "sigmoid" for each in FOUND], :, 1:] += of_loss
    found = over_trainings(FOUND, figure, 100)
    for drawn, contrast in (
        (of_site, found.within["site: mlp - all"]),
        (of_loss, found.between["loss: sigmoid - softmax"]),
    ):
        arm = 1.959964 * drawn.std(ddof=1)
        assert (contrast.estimate.low, contrast.estimate.high) == pytest.approx((-arm, arm))


def test_figures_are_of_the_own_head_and_intervals_of_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight trainings with three images of each original."""
    found = tuple(each for each in FOUND if each.seed < 2)
    monkeypatch.setattr("mcdo.experiments.prelim.replicates.trainings", lambda folder: found)
    experiment = Replicates(n=60, trials=2, folder_of_trainings="made up", degradations=(), resamples=40)
    rng = np.random.default_rng(0)
    logits, scores = 3 * rng.normal(size=(2, 60, 4)), rng.random((2, 60))
    origins = tuple(f"digit{i // 3}" for i in range(60))
    run = made_up_run({"trace_pre": scores, "trace_post": scores}, norm=1 + rng.random(60), origins=origins)

    def value(request: Request[Any]) -> Any:
        return {"logits": logits} if isinstance(request, Logits) else run

    result = experiment.compute(inputs_of(value, image_set=SimpleNamespace(origins=origins)))
    assert result is not None
    figures = result.figures["trace_pre"]["rho_own_entropy"]
    for training, loss in (("clip_tiny-1", "softmax"), ("clip_tiny_sigmoid-1", "sigmoid")):
        entropy = ambiguity_targets(logits, head=loss).entropy  # type: ignore[arg-type]
        rho = scipy.stats.spearmanr(scores.mean(axis=0), entropy).statistic
        assert figures[f"{training}/mlp"].value == pytest.approx(rho)
    assert {each.n for each in figures.values()} == {20}
    contrasts = result.outcomes["trace_pre"]["rho_entropy"]
    assert {each.estimate.n for each in (*contrasts.between.values(), *contrasts.within.values())} == {20}


def test_trainings_that_differ_at_random_make_no_loss() -> None:
    """Two hundred worlds without any effect, one test each: about 5 % of them find one."""
    wrong = sum(
        over_trainings(FOUND, grid(0.0, 0.1, seed), 100).between["loss: sigmoid - softmax"].p_value < 0.05
        for seed in range(200)
    )
    assert wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_folders_that_are_no_balanced_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(McdoError, match="clip_tiny: none"):
        trainings(tmp_path)
    for key in ENCODERS.values():
        for seed in (1, 2):
            write_untrained(REGISTRY[key], replicate_folder(key, seed, tmp_path))
            (replicate_folder(key, seed, tmp_path) / "card.json").touch()
    for name in ("old", "0x1", "-1", "01", "²", "9" * 200):
        (tmp_path / f"clip_tiny-{name}").mkdir()
        (tmp_path / f"clip_tiny-{name}" / "card.json").write_text("{}")
    assert len(trainings(tmp_path)) == 8, "folders of other names are none of a seed"
    places = (replicate_folder(key, 1, tmp_path) for key in ("clip_tiny", "siglip_tiny"))
    config, other = (place / "open_clip_config.json" for place in places)
    before = config.read_text()
    config.write_text(other.read_text())
    with pytest.raises(McdoError, match="clip_tiny-1 holds an encoder of another loss than softmax"):
        trainings(tmp_path)
    config.write_text(before)
    (replicate_folder("clip_tiny", 2, tmp_path) / "card.json").unlink()
    with pytest.raises(McdoError, match="clip_tiny: 1; clip_tiny_sigmoid: 1, 2"):
        trainings(tmp_path)


@pytest.mark.slow
def test_the_experiment_on_trainings_that_learned_nothing(tmp_path: Path) -> None:
    from mcdo.encoders.train import train

    for key in ENCODERS.values():
        for seed in (1, 2):
            folder = replicate_folder(key, seed, tmp_path)
            train(key, folder, Recipe(seed=seed, steps=2))
            (folder / "card.json").touch()
    settings = Settings(
        ("clip_tiny",), protocol="quick", own_data={OPTION: str(tmp_path)}, reports=tmp_path / "reports"
    )
    experiment = Replicates.configured(settings)
    (subject,) = Replicates.subjects(settings)
    completed = Runner(Session(settings)).run(experiment, subject)
    assert completed.result is not None
    assert len(completed.result.trainings) == 8
    assert set(completed.summary["scores"]["trace_pre"]) == set(experiment.outcomes)
    assert completed.summary["trainings"]["siglip_tiny-2"] == {"made": "sigmoid/timm", "seed": 2}
