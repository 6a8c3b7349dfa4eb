from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from looked_at import looked_at
from numpy.typing import NDArray
from reports_folder import NAME, RATE, VERDICT, summary, write

from mcdo.cli import main
from mcdo.report.compare import _score, compare, compare_runs
from mcdo.report.judgement import Judgement, Outcome
from mcdo.report.per_image import PerImage
from mcdo.report.results import RUN, Reports
from mcdo.report.stored_runs import StoredRun
from mcdo.stats import Estimate, mean, spearman

REPETITIONS = 100


def reports(
    folder: Path, rng: np.random.Generator, ids: Sequence[int], truth: NDArray[np.float64], scale: float = 1.0
) -> Reports:
    """Three trials of a score of the images ``ids``, whose noise is this run's own, and claims about it."""
    scores = scale * truth[ids] * rng.lognormal(0, 0.3, (3, len(ids)))
    target = np.log(truth[ids]) + rng.normal(0, 1, len(ids))
    estimates = {
        "follows": (spearman(scores.mean(axis=0), target, resamples=100), 0.1),
        "large": (mean(scores.mean(axis=0), resamples=100), 0.5),
    }
    claims = [
        Judgement(name, e.outcome(bar, ">"), e, f"> {bar}", at=(bar,)).as_dict() for name, (e, bar) in estimates.items()
    ]
    place = folder / "phase1" / NAME
    place.mkdir(parents=True)
    np.savez(place / "norms.npz", paths=np.array([f"image {i}" for i in ids]), trial_pre=scores)
    (place / "summary.json").write_text(json.dumps(summary(claims=claims)))
    return Reports.read(folder)


def share_that_differ(tmp_path: Path, scale: float, common: bool, repetitions: int = REPETITIONS) -> float:
    found = []
    for seed in range(repetitions):
        rng = np.random.default_rng(seed)
        truth = rng.lognormal(0, 0.5, 400)
        others = range(200) if common else range(200, 400)
        first = reports(tmp_path / f"{seed}-{scale}-a", rng, range(200), truth)
        second = reports(tmp_path / f"{seed}-{scale}-b", rng, others, truth, scale)
        found.append(bool(compare(first, second).beyond_noise))
    return float(np.mean(found))


@pytest.mark.parametrize("common", [True, False], ids=["same images", "other images"])
def test_two_seeds_show_no_difference_beyond_noise(tmp_path: Path, common: bool) -> None:
    false = share_that_differ(tmp_path, 1.0, common)
    # 95 % of the repetitions, and three standard errors of so many
    assert false <= 0.05 + 3 * (0.05 * 0.95 / REPETITIONS) ** 0.5


@pytest.mark.parametrize("common", [True, False], ids=["same images", "other images"])
def test_five_times_the_score_is_found(tmp_path: Path, common: bool) -> None:
    assert share_that_differ(tmp_path, 5.0, common, repetitions=10) == 1


@pytest.mark.parametrize("trials", [(5, 5), (5, 8)])
@pytest.mark.parametrize("common", [True, False], ids=["same images", "other images"])
def test_noise_that_images_of_a_trial_share_is_no_difference(trials: tuple[int, int], common: bool) -> None:
    """As of two seeds of probes or common masks: of such runs .9 were told apart, by intervals over images alone."""
    runs, found = 60, 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        sides = []
        for K, start in zip(trials, (0, 0 if common else 100), strict=True):
            ids = np.array([f"image {i}" for i in range(start, start + 100)])
            truth = np.random.default_rng(0).lognormal(0, 0.5, 200)[start : start + 100]
            values = truth * rng.lognormal(0, 0.05, (K, 100)) * rng.lognormal(0, 0.3, (K, 1))
            sides.append(PerImage("x", "m", "f", "s", ids, ids, values))
        change = _score(sides[0], sides[1], seed)
        assert change is not None
        assert (change.p_value < 0.05) == (not change.difference.low < 0 < change.difference.high)
        found += change.p_value < 0.05
    assert found / runs < 0.05 + 3.5 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(("scale", "differ"), [(1 + 1e-8, 0), (1.001, 1)], ids=["rounding", "a thousandth"])
def test_rounding_is_no_difference_and_a_thousandth_of_the_same_scores_is(
    tmp_path: Path, scale: float, differ: int
) -> None:
    truth = np.random.default_rng(0).lognormal(0, 0.5, 200)
    first, second = (
        reports(tmp_path / name, np.random.default_rng(1), range(200), truth, by)
        for name, by in (("a", 1), ("b", scale))
    )
    found = compare(first, second)
    (score,) = [change for change in found.changes if not change.outcomes]
    assert len(found.beyond_noise) == differ
    assert ("rounding" in score.how) is not bool(differ)


def test_a_folder_does_not_differ_from_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "reports")
    found = compare(Reports.read(folder), Reports.read(folder))
    assert found.changes
    assert not found.beyond_noise
    assert all(change.p_holm == 1 for change in found.changes)
    assert not found.settings
    assert main(["compare", str(folder), str(folder), "--fail-on=different"]) == 0
    assert "no difference beyond noise" in capsys.readouterr().out


def test_a_worse_claim_and_a_lost_go_end_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = write(tmp_path / "before"), write(tmp_path / "after", config={"seed": 43, "dropout": {"p": 0.05}})
    assert main(["compare", str(before), str(after), "--fail-on=worse"]) == 0
    (after / "phase1" / "verdict.json").write_text(json.dumps({**VERDICT, "decision": "UNDECIDED"}))
    page = tmp_path / "compared.html"
    assert main(["compare", str(before), str(after), "--fail-on=worse", f"--html={page}"]) == 1
    said = capsys.readouterr().out
    assert "verdicts: GO and UNDECIDED" in said
    assert "config.dropout.p" in said
    assert "config.dropout.p" in page.read_text(encoding="utf-8")
    first = json.loads((before / "phase1" / NAME / "clip_tiny_summary.json").read_text())
    first["claims"][0]["estimate"].update(value=0.1, low=0.08, high=0.12)
    first["claims"][0]["outcome"] = "not met"
    (after / "phase1" / NAME / "clip_tiny_summary.json").write_text(json.dumps(first))
    (after / "phase1" / "verdict.json").write_text(json.dumps(VERDICT))
    assert main(["compare", str(before), str(after), "--fail-on=worse"]) == 1
    assert main(["compare", str(after), str(before), "--fail-on=worse"]) == 0, "better is not worse"


@pytest.mark.parametrize("what", ["no verdict", "interrupted", "errors"])
def test_a_run_that_did_not_end_whole_is_no_better(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it did not measure is that of the run before, and equal to it."""
    before, after = write(tmp_path / "before"), write(tmp_path / "after")
    if what == "no verdict":
        (after / "phase1" / "verdict.json").unlink()
    else:
        ended = {"interrupted": what == "interrupted", "errors": ["test_a"] if what == "errors" else []}
        (after / RUN).write_text(json.dumps({**ended, "made": RATE["made"]}))
    assert main(["compare", str(before), str(after), "--fail-on=worse"]) == 1
    assert ("an earlier run" in capsys.readouterr().err) is (what != "no verdict")
    assert main(["compare", str(after), str(before), "--fail-on=worse"]) == 0


def test_what_stands_in_one_alone_is_named(tmp_path: Path) -> None:
    found = compare(Reports.read(write(tmp_path / "a")), Reports.read(write(tmp_path / "b", "siglip_tiny")))
    assert sorted(found.only) == [(f"phase1/{NAME}", "clip_tiny", "first"), (f"phase1/{NAME}", "siglip_tiny", "second")]


def test_a_claim_that_is_in_one_alone_or_has_no_figure_any_more_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = write(tmp_path / "before"), write(tmp_path / "after")
    held = json.loads((before / "phase1" / NAME / "clip_tiny_summary.json").read_text())
    ended, gone = held["claims"][:2]
    held["claims"] = [{**ended, "outcome": "not applicable", "estimate": None}, *held["claims"][2:]]
    (after / "phase1" / NAME / "clip_tiny_summary.json").write_text(json.dumps(held))
    found = compare(Reports.read(before), Reports.read(after))
    (moved,) = [change for change in found.changes if change.moved]
    assert (moved.figure, moved.outcomes) == (ended["claim"], (ended["outcome"], "not applicable"))
    assert found.only == ((f"phase1/{NAME}", f"clip_tiny {gone['claim']}", "first"),)
    for what in ("different", "worse"):
        assert main(["compare", str(before), str(after), f"--fail-on={what}"]) == 1
        assert main(["compare", str(after), str(before), f"--fail-on={what}"]) == (what == "different")
        capsys.readouterr()
    assert main(["compare", str(before), str(after)]) == 0
    said = capsys.readouterr().out
    assert "1 claims that were met cannot be decided any more" in said
    assert f"{ended['outcome']} → not applicable" in said
    assert gone["claim"] in said
    assert f"({len(found.changes) - 1} compared, 1 claims ended otherwise)" in said, (
        "what has no figure is no comparison"
    )
    assert "nan" not in said


@pytest.mark.parametrize(
    ("before", "after", "worse"),
    [
        (("met", 0.5, 0.4), ("undecided", 0.5, math.nan), True),  # no interval, so nothing decides it
        (("met", 0.5, 0.4), ("not applicable", 0.5, 0.4), True),  # by a rule
        (("met", 0.5, math.nan), ("not met", 0.2, 0.1), True),  # by a rule, and no p says that it is noise
        (("met", 0.5, 0.2), ("undecided", 0.45, 0.1), False),  # within noise
        (("undecided", 0.3, 0.2), ("not applicable", 0.3, 0.2), False),
        (("not applicable", 0.3, 0.2), ("met", 0.5, 0.4), False),
    ],
)
def test_a_claim_that_was_met_is_worse_where_nothing_decides_it_any_more(
    tmp_path: Path, before: tuple[Outcome, float, float], after: tuple[Outcome, float, float], worse: bool
) -> None:
    folders = []
    for name, (outcome, value, low) in (("a", before), ("b", after)):
        claim = Judgement("follows", outcome, Estimate(value, low, 2 * value - low, 100), "> 0.3", at=(0.3,))
        folders.append(Reports.read(write(tmp_path / name, claims=[claim.as_dict()])))
    assert compare(folders[0], folders[1]).worse is worse


def test_a_score_that_is_no_number_any_more_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It had been left out of the comparison, which then found no difference."""
    truth = np.random.default_rng(0).lognormal(0, 0.5, 200)
    for name in "abcd":
        reports(tmp_path / name, np.random.default_rng(1), range(200), truth)
    path = tmp_path / "b" / "phase1" / NAME / "norms.npz"
    arrays = dict(np.load(path))
    arrays["trial_pre"][1, 7] = np.nan
    np.savez(path, **arrays)
    for first, second, where in (("a", "b", "second"), ("b", "a", "first")):
        folders = [str(tmp_path / name) for name in (first, second)]
        assert main(["compare", *folders, "--fail-on=worse"]) == 0
        assert main(["compare", *folders, "--fail-on=different"]) == 1
        said = capsys.readouterr().out
        assert f"not finite for 1 of 200 images in the {where}" in said
        assert "1 scores are not finite on one side" in said
    np.savez(tmp_path / "c" / "phase1" / NAME / "norms.npz", paths=arrays["paths"], other=arrays["trial_pre"][0])
    found = compare(Reports.read(tmp_path / "c"), Reports.read(tmp_path / "d"))
    assert found.only == (
        (f"phase1/{NAME}", "clip_tiny other (norms)", "first"),
        (f"phase1/{NAME}", "clip_tiny trial_pre (norms)", "second"),
    )


def test_runs_of_a_store_are_compared_as_reports_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import mcdo

    encoder, digits = looked_at("clip_tiny"), mcdo.load_images("digits", n=150, seed=1)
    images = replace(digits, origins=tuple(digits.ids[i // 2] for i in range(150)))
    protocol: dict[str, Any] = {"passes": (2,), "trials": 2, "store": tmp_path, "progress": False}
    for p, seed in ((0.01, 1), (0.01, 2), (0.05, 1)):
        mcdo.monte_carlo(encoder, images, mcdo.Dropout(p), seed=seed, **protocol)
    assert main(["store", "list", f"--store={tmp_path}"]) == 0
    one, other, stronger = (line.split()[0] for line in capsys.readouterr().out.splitlines()[1:4])
    assert main(["compare", one, other, f"--store={tmp_path}", "--fail-on=different"]) == 0
    said = capsys.readouterr().out
    assert "no difference beyond noise" in said
    assert "protocol.seed" in said
    assert main(["compare", one, stronger, f"--store={tmp_path}", "--fail-on=different"]) == 1
    said = capsys.readouterr().out
    assert "paired over 150 images" in said
    assert "protocol.dropout.p" in said
    found = compare_runs(StoredRun.find(tmp_path, one), StoredRun.find(tmp_path, stronger))
    assert {change.difference.n for change in found.changes} == {75}, "originals, not variants"
    assert main(["compare", one, "nothing", f"--store={tmp_path}"]) == 2
    assert "holds no run called 'nothing'" in capsys.readouterr().err
    mcdo.first_order(
        encoder,
        mcdo.load_images("digits", n=20),
        mcdo.Dropout(0.01),
        probes=2,
        trials=2,
        store=tmp_path,
        progress=False,
    )
    assert main(["store", "list", f"--store={tmp_path}"]) == 0
    linear = next(line.split()[0] for line in capsys.readouterr().out.splitlines() if "first order" in line)
    assert main(["compare", one, linear, f"--store={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert "first order, R = 2, 2 trials, seed 42) is no Monte Carlo run" in said
    assert "compared as reports" in said
