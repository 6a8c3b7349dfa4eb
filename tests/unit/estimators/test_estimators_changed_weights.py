"""Weights and layers that change between two runs: neither variance zero nor the store's old numbers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_tower import tiny_encoder
from torch import Tensor, nn

import mcdo
from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation import Dropout

PROJECTION = "mlp.2"

pytestmark = pytest.mark.filterwarnings("ignore::mcdo.errors.SiteWarning")  # of the role of an adapter's half


class Adapter(nn.Module):
    """A LoRA layer that can be merged into its base, or switched off, as peft's can."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.base_layer, self.merged, self.off = base, False, False
        self.lora_A, self.lora_B = (
            nn.Linear(base.in_features, 2, bias=False),
            nn.Linear(2, base.out_features, bias=False),
        )
        for layer in (self.lora_A, self.lora_B):
            nn.init.normal_(layer.weight, std=0.3, generator=generator)

    def merge(self) -> None:
        self.base_layer.weight.data += self.lora_B.weight @ self.lora_A.weight
        self.merged = True

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x)
        return y if self.merged or self.off else y + self.lora_B(self.lora_A(x))


@cache
def images() -> mcdo.ImageSet:
    return mcdo.load_images("synthetic:noise:32", n=2)


def layer(encoder: Encoder) -> Any:
    return encoder.model.get_submodule(PROJECTION)


def put(encoder: Encoder, module: nn.Module, name: str = PROJECTION) -> None:
    encoder.model.set_submodule(name, module.eval().requires_grad_(False))


def assign_the_same(encoder: Encoder) -> None:
    held = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    encoder.model.load_state_dict(held, assign=True)
    encoder.model.requires_grad_(False)


def assign_others(encoder: Encoder) -> None:
    held = {name: value * 1.1 for name, value in encoder.model.state_dict().items()}
    encoder.model.load_state_dict(held, assign=True)  # as a checkpoint comes: it would take a gradient


def step(encoder: Encoder) -> None:
    parameters = [p.requires_grad_() for p in encoder.model.parameters()]
    optimiser = torch.optim.SGD(parameters, lr=0.05)
    torch.autograd.backward(encoder.forward_image(encoder.calibration_inputs(2)).square().sum())
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    encoder.model.requires_grad_(False)


def write_to_data(encoder: Encoder) -> None:
    layer(encoder).weight.data.mul_(1.3)


def replace_data(encoder: Encoder) -> None:
    layer(encoder).weight.data = layer(encoder).weight.data * 1.3


def replace_layer(encoder: Encoder) -> None:
    old = layer(encoder)
    new = nn.Linear(old.in_features, old.out_features)
    nn.init.normal_(new.weight, std=0.2, generator=torch.Generator().manual_seed(3))
    nn.init.zeros_(new.bias)
    put(encoder, new)


def wrap_layer(encoder: Encoder) -> None:
    put(encoder, Adapter(layer(encoder)))


def another_activation(encoder: Encoder) -> None:
    put(encoder, nn.Tanh(), "mlp.1")


CHANGES: tuple[Callable[[Encoder], None], ...] = (
    assign_others, step, write_to_data, replace_data, replace_layer, wrap_layer, another_activation,
)  # fmt: skip


@pytest.fixture(autouse=True)
def of_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A basis of first order, which need not be good."""
    monkeypatch.setattr("mcdo.estimators.probes.CALIBRATION_PASSES", 8)


def monte_carlo(encoder: Encoder, store: Path | None) -> np.ndarray[Any, Any]:
    run = mcdo.monte_carlo(encoder, images(), Dropout(), passes=16, trials=1, geometry=(), store=store, progress=False)
    return run.scores("trace_pre")


def first_order(encoder: Encoder, store: Path | None) -> np.ndarray[Any, Any]:
    run = mcdo.first_order(encoder, images(), Dropout(), probes=2, trials=1, store=store, progress=False)
    return run.scores("trace_pre")


@pytest.mark.parametrize(
    ("measure", "change"),
    [*((monte_carlo, change) for change in CHANGES), (first_order, write_to_data), (first_order, another_activation)],
)
def test_a_changed_tower_gives_the_numbers_of_the_changed_tower(
    measure: Callable[..., Any], change: Callable[[Encoder], None], tmp_path: Path
) -> None:
    """Those that a fresh encoder gives which was changed before anything was measured; the reference has no past."""
    used, reference = tiny_encoder(), tiny_encoder()
    before = measure(used, tmp_path)
    change(used)
    change(reference)
    after, expected = measure(used, tmp_path), measure(reference, None)
    np.testing.assert_array_equal(after, expected)
    assert (np.abs(after / before - 1) > 1e-3).all()
    np.testing.assert_array_equal(measure(used, tmp_path), after)


def test_the_same_weights_in_other_parameters_give_the_same_numbers_and_serve_from_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = tiny_encoder()
    before, census = monte_carlo(encoder, tmp_path), mcdo.census(encoder, images(), Dropout())
    assign_the_same(encoder)
    np.testing.assert_array_equal(monte_carlo(encoder, None), before)
    assert mcdo.census(encoder, images(), Dropout()) == census

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(sys.modules["mcdo.estimators.monte_carlo"], "_measure", refuse)
    np.testing.assert_array_equal(monte_carlo(encoder, tmp_path), before)


def adapted() -> Encoder:
    encoder = tiny_encoder()
    wrap_layer(encoder)
    return encoder


def test_an_adapter_that_was_merged_leaves_its_parts_dead_by_name(tmp_path: Path) -> None:
    encoder = adapted()
    before = monte_carlo(encoder, tmp_path)
    layer(encoder).merge()
    with pytest.raises(McdoError, match=rf"dead site {PROJECTION}\.lora_A, dead site {PROJECTION}\.lora_B: "):
        monte_carlo(encoder, tmp_path)
    plain = tiny_encoder()
    layer(plain).weight.data.copy_(layer(encoder).base_layer.weight)
    without = Dropout(sites=("all", "-*.lora_*"))
    run = mcdo.monte_carlo(encoder, images(), without, passes=16, trials=1, geometry=(), store=tmp_path, progress=False)
    assert [name for name, _ in run.sites if "lora" in name] == []
    ratio = run.scores("trace_pre") / monte_carlo(plain, None)
    assert (np.abs(np.log(ratio)) < 1).all()  # one site has another name, so other masks
    assert not np.array_equal(run.scores("trace_pre"), before)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes is nowhere in the model, such as a flag of a library."""
    monkeypatch.setattr(sys.modules["mcdo.perturbation.sites"], "_state", lambda encoder: ("", ""))


def test_an_adapter_that_is_switched_off_is_noticed_before_any_pass() -> None:
    encoder = adapted()
    monte_carlo(encoder, None)
    layer(encoder).off = True
    with pytest.raises(McdoError, match=rf"dead site {PROJECTION}\.lora_A"):
        monte_carlo(encoder, None)


@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize("measure", [monte_carlo, first_order])
def test_an_adapter_that_is_switched_off_between_two_runs_is_noticed_in_the_pass(measure: Callable[..., Any]) -> None:
    """No weight and no module changes; what a pass carries out does."""
    encoder = adapted()
    measure(encoder, None)
    layer(encoder).off = True
    with pytest.raises(McdoError, match=rf"{PROJECTION}\.lora_. was not carried out, unlike when its sites were found"):
        measure(encoder, None)
    with pytest.raises(McdoError, match=rf"dead site {PROJECTION}\.lora_A"):  # looked at anew
        measure(encoder, None)
    layer(encoder).off = False


@pytest.mark.usefixtures("unseen")
def test_an_adapter_that_is_switched_on_between_two_runs_is_noticed_in_the_pass() -> None:
    encoder = adapted()
    layer(encoder).off = True
    some = Dropout(sites=("all", "-*.lora_*"))
    mcdo.monte_carlo(encoder, images(), some, passes=16, trials=1, progress=False)
    layer(encoder).off = False
    with pytest.raises(McdoError, match=r"a map of shape \(2, 24\) was carried out anew"):
        mcdo.monte_carlo(encoder, images(), some, passes=16, trials=1, progress=False)
    assert monte_carlo(encoder, None).min() > 0
