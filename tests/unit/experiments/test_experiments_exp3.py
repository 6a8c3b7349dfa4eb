from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy
from made_up_inputs import inputs_of, outcomes_of
from made_up_runs import made_up_run, noisy

from mcdo.errors import McdoError
from mcdo.experiments.phase1.exp5_subset_ambiguity import RHO_ENTROPY_BAR
from mcdo.experiments.phase2.exp3_dropout_types import FOLLOWS, TYPES, DropoutTypes, DropoutTypesResult, least_disturbed
from mcdo.harness import Inputs, Logits, Request, Settings, Subject
from mcdo.perturbation import (
    AttentionDropout,
    Dropout,
    Gaussian,
    HiddenDropout,
    Multiplicative,
    Perturbation,
    StochasticDepth,
    TiedDropout,
)
from mcdo.rivals.logits import entropy

N = 120
EXPERIMENT = DropoutTypes(n=N)


def inputs(model: str = "clip_tiny", variants: int = 1, dead: str = "", unread: str = "") -> Inputs:
    """trace_pre of each type follows the entropy of the logits; type C has a drift, D is noise, G has little.

    trace_post is noise.
    """
    rng = np.random.default_rng(0)
    unreliable = noisy(np.ones(N), 5, np.random.default_rng(1))
    logits = np.repeat(rng.normal(size=(N // variants, 3)) * 3, variants, axis=0)
    ambiguity = entropy(logits)
    origins = tuple(f"digit{i // variants}" for i in range(N))
    norm = 1 + rng.random(N)
    runs: dict[Perturbation, Any] = {}
    for name, kind in EXPERIMENT.kinds(model).items():
        scores = noisy(np.ones(N) if name == "D" else 0.5 + ambiguity, 5, rng, 2000 if name == "G" else 63)
        if name == "C":
            scores *= np.arange(1, 6)[:, None]
        if name == dead:
            scores = np.full((5, N), 9e-17)
        named = {"trace_pre": scores, "trace_post": unreliable}
        runs[kind] = made_up_run(named, encoder=model, kind=kind, norm=norm, origins=origins)

    def value(request: Request[Any]) -> Any:
        return {"logits": np.stack([logits] * 2)} if isinstance(request, Logits) else runs[request.config.dropout]  # type: ignore[attr-defined]

    images = SimpleNamespace(origins=origins, labels=None)
    return inputs_of(value, image_set=images, subject=Subject(model, (model,)), unread=unread)


@pytest.fixture(scope="module")
def clip() -> DropoutTypesResult:
    return EXPERIMENT.compute(inputs())


@pytest.fixture(scope="module")
def siglip() -> DropoutTypesResult:
    """Of three variants of each original."""
    return EXPERIMENT.compute(inputs("siglip_tiny", variants=3))


def test_reliable_valid_and_drifting_types_are_told_apart(clip: DropoutTypesResult) -> None:
    assert clip.validity["trace_pre"]["E"][FOLLOWS].outcome(RHO_ENTROPY_BAR, ">") == "met"
    assert clip.reliability["trace_pre"]["D"].status == "failed"
    assert clip.reliability["trace_pre"]["C"].icc < 0.3, "trials that drift are not exchangeable"
    drifting = [kind for kind, drift in clip.drift.items() if not drift.low <= 0 <= drift.high]
    assert drifting == ["C"]
    assert {drift.level for drift in clip.drift.values()} == {1 - 0.01 / 8}, "no type, of eight, in 99 % of cases"
    assert clip.matrices["trace_pre"].pair("disattenuated", "A", "B").value == pytest.approx(1, abs=0.05)
    ends = outcomes_of(EXPERIMENT, clip)
    assert (ends["rho_entropy/E"], ends["rho_entropy/D"]) == ("met", "not met")
    (plain,) = (claim.judge(clip).estimate for claim in EXPERIMENT.claims() if claim.name == "rho_entropy/E")
    assert plain == clip.validity["trace_pre"]["E"][FOLLOWS], "not given the norm, which stands beside it"
    assert (ends["reliable/G"], ends["reliable/D"]) == ("met", "not met")
    assert set(ends) == {f"{claim}/{kind}" for claim in ("reliable", "rho_entropy") for kind in TYPES}


def test_types_are_those_of_the_plan() -> None:
    kinds = DropoutTypes(dropout=Dropout(0.02, "mlp")).kinds("clip_tiny")
    assert list(kinds) == list(TYPES)
    assert kinds["A"] == AttentionDropout(0.02)
    assert kinds["B"] == HiddenDropout(0.02)
    assert kinds["C"] == StochasticDepth(0.02)
    assert kinds["D"] == Dropout(0.02, "projection"), "the published D was the MLP of block 9"
    assert [type(kinds[kind]) for kind in "EGSW"] == [Dropout, Gaussian, Multiplicative, TiedDropout]
    assert {kind: kinds[kind].sites for kind in "EGSW"} == dict.fromkeys("EGSW", "mlp")
    assert not any(kind.shared_by_images for kind in kinds.values()), "every image has masks of its own"


def test_a_tower_without_a_final_projection_has_no_type_d_and_says_so(siglip: DropoutTypesResult) -> None:
    asked = list(EXPERIMENT.requests(inputs("siglip_tiny")))
    assert len(asked) == 7 + 1
    assert EXPERIMENT.summary(siglip)["left_out"] == ["D"]
    ends = {claim.name: claim.judge(siglip) for claim in EXPERIMENT.claims()}
    assert [name for name, end in ends.items() if end.outcome == "not applicable"] == ["reliable/D", "rho_entropy/D"]
    assert ends["reliable/D"].beside == "this tower has no site for type D (final projection)"


def test_without_classes_types_are_reliable_or_not_all_the_same(clip: DropoutTypesResult) -> None:
    flat = inputs(unread="no classes to read")
    assert not any(isinstance(each, Logits) for each in EXPERIMENT.requests(flat))
    result = EXPERIMENT.compute(flat)
    assert (result.reliability, result.drift, result.matrices) == (clip.reliability, clip.drift, clip.matrices)
    ends = {claim.name: claim.judge(result) for claim in EXPERIMENT.claims()}
    left_out = [name for name, end in ends.items() if end.outcome == "not applicable"]
    assert left_out == [f"rho_entropy/{kind}" for kind in TYPES]
    assert ends["rho_entropy/E"].beside == "no classes to read"
    assert EXPERIMENT.summary(result)["no_classes_read"] == "no classes to read"
    assert len(EXPERIMENT.panels(flat, result)) == len(EXPERIMENT.panels(inputs(), clip)) - 1


def test_only_the_first_clip_model_is_asked() -> None:
    (subject,) = DropoutTypes.subjects(Settings(models=("siglip_tiny", "clip_tiny")))
    assert subject.models == ("clip_tiny",)


def test_the_session_s_own_perturbation_stands_for_the_summary(clip: DropoutTypesResult) -> None:
    first = next(iter(EXPERIMENT.requests(inputs())))
    assert first == EXPERIMENT.at("clip_tiny", EXPERIMENT.dropout)
    summary = EXPERIMENT.summary(clip)
    assert set(summary["results_by_type"]) == set(TYPES)
    assert summary["perturbations"]["G"]["kind"] == "Gaussian"


def test_a_dead_type_is_no_low_score() -> None:
    """Published type A had a trace of 9e-17, which was then ranked."""
    by_trial = np.full((5, N), 0.02) * np.linspace(0.5, 1.5, 5)[:, None]
    alive = made_up_run({"trace_pre": by_trial}, norm=np.full(N, 2.0))
    assert least_disturbed("E", alive) == pytest.approx(0.005)
    many = made_up_run({"trace_pre": np.full((5, N), 0.02)}, 1024, norm=np.full(N, 2.0))
    assert least_disturbed("E", many) == pytest.approx(0.005), "none is untouched, however unlikely one would be"
    with pytest.raises(McdoError, match=r"type A \(attention probabilities\) does nothing to 120 of 120 images"):
        EXPERIMENT.compute(inputs(dead="A"))


def test_an_image_may_get_through_few_passes_with_no_branch_dropped() -> None:
    """Of 13 sites in one trial of 4 passes at p = .01, .59 of the images have none; of 5 trials of 64, none has."""
    few = np.full((1, N), 0.02)
    few[:, : N // 2] = 0
    branches = StochasticDepth(0.01)
    thirteen = [f"role{i}" for i in range(13)]
    assert least_disturbed("C", made_up_run({"trace_pre": few}, 4, kind=branches, roles=thirteen)) == 0
    many = np.repeat(few, 5, axis=0)
    with pytest.raises(McdoError, match="does nothing to 60 of 120 images"):
        least_disturbed("C", made_up_run({"trace_pre": many}, 64, kind=branches, roles=thirteen))
    one = np.full((5, N), 0.02)
    one[:, 0] = 0
    assert least_disturbed("C", made_up_run({"trace_pre": one[:1]}, 64, kind=branches, roles=thirteen)) == 0
    with pytest.raises(McdoError, match="does nothing to 1 of 120 images"):
        least_disturbed("C", made_up_run({"trace_pre": one}, 64, kind=branches, roles=thirteen))


def test_validity_of_the_norm_is_that_of_the_norm(clip: DropoutTypesResult) -> None:
    held = inputs()
    norm, logits = EXPERIMENT.runs(held)["E"].feature_norm, held[EXPERIMENT.logits("clip_tiny")]["logits"][0]
    rho = scipy.stats.spearmanr(norm, entropy(logits)).statistic
    assert clip.norm_validity[FOLLOWS].value == pytest.approx(rho)


def test_the_norm_is_beside_the_mean_of_all_trials(clip: DropoutTypesResult) -> None:
    for kind, run in EXPERIMENT.runs(inputs()).items():
        rho = scipy.stats.spearmanr(run.scores("trace_pre").mean(axis=0), run.feature_norm).statistic
        assert clip.norm[kind].value == pytest.approx(rho)


def test_variants_of_an_original_are_one_draw(siglip: DropoutTypesResult) -> None:
    figures = [*siglip.means.values(), *siglip.drift.values(), *siglip.norm.values()]
    figures += [e for by_kind in siglip.validity.values() for of in by_kind.values() for e in of.values()]
    assert {estimate.n for estimate in figures} == {N // 3}
    assert {r.n_origins for by_kind in siglip.reliability.values() for r in by_kind.values()} == {N // 3}
    assert {e.n for e in siglip.matrices["trace_pre"].raw.values()} == {N // 3}
