"""What decides phase 1, from runs that are made up: exp0's reliability, exp5's validity, and what the verdict takes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of
from made_up_runs import Array, MadeUpFirstOrder, made_up_run, noisy

from mcdo.estimators import MonteCarloConfig, MonteCarloRun
from mcdo.experiments.phase1 import verdict
from mcdo.experiments.phase1.exp0_nested_mc import NestedPasses
from mcdo.experiments.phase1.exp5_subset_ambiguity import BARS, BEYOND_NORM, AmbiguityResult, SubsetAmbiguity
from mcdo.experiments.phase1.verdict import Phase1Verdict
from mcdo.harness import ALL_MODELS, FirstOrder, Inputs, Logits, Request, Settings, Subject
from mcdo.perturbation import Dropout, TiedDropout
from mcdo.stats import Estimate, Reliability, ambiguity_table, ambiguity_targets, rank_matrix, reliability, trial_drift
from mcdo.stats.trials import LEAST_TRIALS

N = 80
NESTED = NestedPasses(n=N, passes=(4, 16, 64), trials=5)
AMBIGUITY = SubsetAmbiguity(n=N, estimator="both")


class Shown(SimpleNamespace):
    """Stands in for an image set of N."""

    def __len__(self) -> int:
        return N


# ---- exp0


def nested() -> MonteCarloRun:
    """Two scores of other images each, less noisy the more passes; the trials of T = 4 grow."""
    rng = np.random.default_rng(0)
    true = {"trace_pre": np.exp(0.5 * rng.normal(size=N)), "trace_post": np.exp(0.5 * rng.normal(size=N))}
    origins = [f"photo{i // 2}" for i in range(N)]
    run = made_up_run({name: noisy(values, 5, rng) for name, values in true.items()}, origins=origins)
    grown = {4: 1 + np.arange(5)[:, None]}
    scores = {
        (name, t): noisy(values, 5, rng, t - 1) * grown.get(t, 1) for name, values in true.items() for t in (4, 16, 64)
    }
    return replace(run, config=MonteCarloConfig(Dropout(), (4, 16, 64), 5), _values=scores)


def test_exp0_says_of_each_t_and_space_what_its_own_trials_do() -> None:
    run = nested()
    found = NESTED.compute(inputs_of(lambda request: run))
    how: dict[str, Any] = {"origins": run.origins, "seed": 42}
    for space, score in {"pre_norm": "trace_pre", "post_norm": "trace_post"}.items():
        for t in (4, 16, 64):
            assert found.reliability[t][space] == reliability(run.scores(score, t), **how)
        ends = rank_matrix({"4": run.scores(score, 4), "64": run.scores(score, 64)}, **how).reliability
        assert found.gain[space].value == pytest.approx(ends["64"].value - ends["4"].value)
        assert found.gain[space].low > 0
        drift = trial_drift(run.scores(score, 64), **how, resamples=50)
        assert found.drift[space].value == pytest.approx(drift.value), "of the largest T"
        assert found.drift[space].level == pytest.approx(1 - 0.01 / 4)
    assert {claim.judge(found).outcome for claim in NESTED.claims()} == {"met"}


# ---- exp5


@pytest.fixture(scope="module")
def world() -> tuple[Inputs, MonteCarloRun, Array, Array]:
    """Inputs, the run of passes, the trials [5, N] of first order, and logits [3, N, 4]."""
    rng = np.random.default_rng(1)
    logits = 2 * rng.normal(size=(N, 4)) + 0.2 * rng.normal(size=(3, N, 4))
    ambiguity = scipy.stats.entropy(scipy.special.softmax(logits[0], axis=1), axis=1)
    norm = np.exp(0.5 * ambiguity + 0.3 * rng.normal(size=N))
    names = ("trace_pre", "trace_post", "trace_pre_relative")
    run = made_up_run({name: ambiguity + (i + 1) * rng.normal(size=(1, N)) for i, name in enumerate(names)}, norm=norm)
    trials = ambiguity + rng.normal(size=N) + 2 * rng.normal(size=(5, 1)) * rng.normal(size=N)

    def value(request: Request[Any]) -> Any:
        linear = MadeUpFirstOrder(lambda name, p: trials, norm)
        return {"logits": logits} if isinstance(request, Logits) else linear if isinstance(request, FirstOrder) else run

    labels = np.where(rng.random(N) < 0.8, logits[0].argmax(axis=1), rng.integers(0, 4, N))
    images = Shown(origins=run.origins, labels=labels, skipped=())
    encoders = {"clip_tiny": SimpleNamespace(feature_dim=512)}
    return inputs_of(value, image_set=images, encoders=encoders), run, trials, logits


def test_exp5_holds_each_score_against_the_softmax_entropy_and_the_norm(world: Any) -> None:
    inputs, run, trials, logits = world
    found, norm = AMBIGUITY.compute(inputs), run.feature_norm
    entropy = scipy.stats.entropy(scipy.special.softmax(logits[0], axis=1), axis=1)
    for score in ("trace_pre", "trace_post"):
        figures, held = found.of(score), run.scores(score)[0]
        assert figures is not None
        plain, with_norm, between = (
            scipy.stats.spearmanr(*pair).statistic for pair in ((held, entropy), (held, norm), (norm, entropy))
        )
        given = (plain - with_norm * between) / np.sqrt((1 - with_norm**2) * (1 - between**2))
        assert figures[BARS["rho_entropy"][0]].value == pytest.approx(plain)
        assert figures[BEYOND_NORM].value == pytest.approx(given)
        row = verdict._row(found, "clip_tiny", score, "mc")
        area = BARS["auroc_high_entropy"][0]
        assert (row.rho, row.rho_given_norm) == (figures[BARS["rho_entropy"][0]], figures[BEYOND_NORM])
        assert (row.auroc, row.auroc_given_norm) == (figures[area], figures[f"{area}_given_norm"])
    targets = ambiguity_targets(logits, inputs.images(None).labels)
    how: dict[str, Any] = {"origins": run.origins, "seed": 42}
    shared = ambiguity_table({"trace_pre": trials}, targets, norm, shared_noise=True, **how)["trace_pre"]
    linear = found.of("trace_pre", "first_order")
    assert linear is not None
    assert linear[BEYOND_NORM] == shared[BEYOND_NORM], "its trials share their probes"


def test_a_kind_whose_noise_images_share_is_measured_in_trials_that_show_it() -> None:
    tied = replace(AMBIGUITY, dropout=TiedDropout(over_images=True))
    assert (AMBIGUITY.run("m").config.trials, tied.run("m").config.trials) == (1, LEAST_TRIALS)


ABOVE, ACROSS, BELOW = (0.35, 0.5), (0.05, 0.35), (0.12, 0.28)
"""Intervals beside the bar 0.3 of ρ; the last two lie above and across the bar 0.1 of ρ given the norm."""


@pytest.mark.parametrize(
    ("plain", "given", "follows", "beyond"),
    [
        (ABOVE, BELOW, "met", "met"),
        (ABOVE, ACROSS, "met", "undecided"),
        (ABOVE, (-0.1, 0.08), "met", "not met"),
        (ACROSS, ABOVE, "undecided", "undecided"),
        (BELOW, ABOVE, "not met", "not met"),
    ],
)
def test_valid_beyond_the_norm_wants_both_bars(
    world: Any, plain: tuple[float, float], given: tuple[float, float], follows: str, beyond: str
) -> None:
    def around(ends: tuple[float, float]) -> Estimate:
        return Estimate(sum(ends) / 2, *ends, N)

    whole: AmbiguityResult = AMBIGUITY.compute(world[0])
    figures = {**whole.figures["trace_pre/softmax"], BARS["rho_entropy"][0]: around(plain), BEYOND_NORM: around(given)}
    found = replace(whole, figures={**whole.figures, "trace_pre/softmax": figures})
    assert (found.follows("trace_pre"), found.beyond_norm("trace_pre")) == (follows, beyond)
    outcomes = {claim.name: claim.judge(found).outcome for claim in AMBIGUITY.claims()}
    assert outcomes["rho_entropy/trace_pre"] == follows
    by_norm = {BELOW: "met", ABOVE: "met", ACROSS: "undecided"}.get(given, "not met")
    assert outcomes["beyond_norm/trace_pre"] == by_norm


# ---- the verdict


def test_models_of_random_weights_take_no_part() -> None:
    settings = Settings(("clip_tiny", "siglip_tiny"), random_weights=frozenset({"siglip_tiny"}))
    about: Any = SimpleNamespace(settings=settings, subject=Subject(ALL_MODELS, settings.models))
    assert verdict._trusted(about) == ("clip_tiny",)


@pytest.mark.parametrize(("ranks", "estimators"), [("met", {"mc", "first_order"}), ("undecided", {"mc"})])
def test_first_order_takes_part_where_it_is_known_to_rank_as_passes_do(ranks: str, estimators: set[str]) -> None:
    found = NESTED.compute(inputs_of(lambda request: nested())).reliability[16]

    def result(kind: type, subject: Subject) -> Any:
        return SimpleNamespace(reliability={8: found}, ranks=lambda score, p: ranks)

    inputs: Any = SimpleNamespace(settings=Settings(("clip_tiny",)), result=result)
    cells = [cell for cell, _ in Phase1Verdict(estimator="both")._cells(inputs, Subject("a", ("a",)))]
    assert {cell.estimator for cell in cells} == estimators
    assert {cell.score: cell.spearman for cell in cells} == {
        score: found[space].estimate("spearman") for space, score in NESTED.spaces.items()
    }


def trials_of(rho: float, seed: int) -> Reliability:
    rng = np.random.default_rng(seed)
    return reliability(rng.normal(size=300) + np.sqrt(1 / rho - 1) * rng.normal(size=(5, 300)), resamples=200)


def test_the_sweep_is_decided_together_with_the_cells_that_it_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone it would have all of the error to itself, after others were looked at."""
    weak, near = (
        trials_of(0.7, 0),
        next(r for r in (trials_of(0.86, i) for i in range(99)) if 0.02 < r.p_usable < 0.049),
    )
    spaces = dict.fromkeys(NESTED.spaces, weak)
    results: dict[str, dict[str, Any]] = {
        "exp0": {"reliability": {64: spaces}},
        "convergence": {"score": "trace_pre", "measured": {512: near}},
    }
    inputs: Any = SimpleNamespace(
        settings=Settings(("a",)),
        subject=Subject(ALL_MODELS, ("a",)),
        requests=(),
        result=lambda kind, subject: SimpleNamespace(**results[kind.key]),
        images=lambda shown: Shown(),
        of=lambda subject: None,
    )
    monkeypatch.setattr(verdict, "identity_of", lambda *_: {})
    monkeypatch.setattr(verdict, "_without_targets", lambda about: "nobody asks")
    found = Phase1Verdict().compute(inputs)
    assert [(cell.score, cell.passes, cell.usable) for cell in found.cells] == [
        ("trace_pre", 64, "not met"), ("trace_post", 64, "not met"), ("trace_pre", 512, "undecided"),
    ]  # fmt: skip
    assert (found.decision, found.originals) == ("UNDECIDED", 300)
