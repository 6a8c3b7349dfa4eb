"""Kinds by name: ``KIND[:p][@sites]``, and kinds from outside."""

from __future__ import annotations

import pytest
import torch

import mcdo
from mcdo.errors import McdoError
from mcdo.estimators import monte_carlo
from mcdo.perturbation import KINDS, Perturbation, kind_name, kinds, parse_perturbation, register_kind


@pytest.fixture(autouse=True)
def nothing_stays_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KINDS, "_entries", dict(KINDS.registered))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dropout", mcdo.Dropout()),
        ("dropout:0.02@mlp", mcdo.Dropout(0.02, "mlp")),
        ("gaussian:0.05@fc1,fc2", mcdo.Gaussian(0.05, ("fc1", "fc2"))),
        ("multiplicative@all,-visual.proj", mcdo.Multiplicative(0.01, ("all", "-visual.proj"))),
        ("tied_dropout:5e-2", mcdo.TiedDropout(0.05)),
        ("rademacher:0.02@fc1,fc2", mcdo.Rademacher(0.02, ("fc1", "fc2"))),
        ("attention_dropout:0.1", mcdo.AttentionDropout(0.1)),
        ("stochastic_depth", mcdo.StochasticDepth()),
    ],
)
def test_a_perturbation_is_written_as_kind_p_and_sites(text: str, expected: Perturbation) -> None:
    assert parse_perturbation(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "gausian:0.05",
            "unknown kind of perturbation 'gausian'; the nearest: gaussian.* There are: dropout, ",
        ),
        ("gaussian:five", "p = 'five' is no number; write KIND"),
        ("gaussian:1", r"Gaussian p = 1.0: it must be a number in \[0, 1\)"),
        ("gaussian:nan", "it must be a number in"),
        ("gaussian@", "no sites after the @"),
        ("hidden_dropout:0.1@fc1", "hidden_dropout acts at places of its own, so leave out @fc1"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(text: str, said: str) -> None:
    with pytest.raises(McdoError, match=said):
        parse_perturbation(text)


def test_every_kind_is_known_by_its_class_s_name() -> None:
    held = {KINDS.find(name) for name in KINDS}
    assert held == {kind for kind in vars(kinds).values() if isinstance(kind, type) and Perturbation in kind.__bases__}
    assert [kind_name(kind) for kind in (mcdo.Dropout, mcdo.StochasticDepth)] == ["dropout", "stochastic_depth"]


def test_a_kind_from_outside_acts_and_is_keyed_by_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    @register_kind
    class InputDropout(Perturbation):
        """Dropout of the input of linear maps."""

        where = "input"

    kind = parse_perturbation("input_dropout:0.1@fc1")
    assert kind == InputDropout(0.1, "fc1")
    encoder, images = mcdo.load_encoder("clip_tiny"), mcdo.load_images("digits", n=3)
    own, dropout = (
        monte_carlo(encoder, images, of, 8, 1, progress=False).scores("trace_pre")
        for of in (kind, mcdo.Dropout(0.1, "fc1"))
    )
    assert (own > 0).all()
    assert not torch.equal(torch.from_numpy(own), torch.from_numpy(dropout))
    before = kind.as_dict()["code"]
    monkeypatch.setattr(kinds, "own_code", lambda *things: "other code")
    assert kind.as_dict()["code"] != before
    assert "code" not in mcdo.Gaussian().as_dict()

    with pytest.raises(McdoError, match="the kind of perturbation 'gaussian' is there already"):

        @register_kind
        class Gaussian(Perturbation):
            """Another one."""
