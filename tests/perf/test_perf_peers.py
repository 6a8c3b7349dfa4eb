"""The same job done by other libraries, where they are installed: ``pip install -e ".[peers]"``.

They need dropout modules in the model, so one is put behind every ``nn.Linear`` that is called as a module. In CLIP's
tower attention is not (trap 1): there they disturb fewer sites, and the number stands beside the time.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from mcdo.encoders.zero_shot import TEMPLATES
from mcdo.estimators import Laplace, ZeroShot
from mcdo.experiments.cost import pass_cost
from mcdo.harness import Features, Images, Session
from mcdo.perturbation import Dropout, find_sites
from mcdo.threads import one_thread

pytestmark = pytest.mark.perf


def with_dropout(tower: nn.Module, p: float) -> tuple[nn.Module, int]:
    """A copy of a tower with a dropout behind each linear module outside nn.MultiheadAttention, and how many."""
    tower, count = copy.deepcopy(tower), 0
    for module in list(tower.modules()):
        if isinstance(module, nn.MultiheadAttention):
            continue
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, nn.Sequential(child, nn.Dropout(p)))
                count += 1
    return tower, count


def torch_uncertainty(tower: nn.Module, passes: int) -> nn.Module:
    """Its wrapper repeats the batch and leaves dropout on."""
    wrapper = importlib.import_module("torch_uncertainty.methods.mc_dropout").mc_dropout
    wrapped: nn.Module = wrapper(tower, num_estimators=passes, task="classification", on_batch=True)
    return wrapped.eval()


def baal(tower: nn.Module, passes: int) -> nn.Module:
    """Its dropout modules stay on in eval mode; passes are rows of the batch, as everywhere here."""
    patch = importlib.import_module("baal.bayesian.dropout").patch_module
    return Repeated(patch(tower, inplace=True), passes)


class Repeated(nn.Module):
    """Calls a tower on ``passes`` rows of each image."""

    def __init__(self, tower: nn.Module, passes: int) -> None:
        super().__init__()
        self.tower, self.passes = tower, passes

    def forward(self, pixels: Tensor) -> Any:
        return self.tower(pixels.repeat_interleave(self.passes, dim=0))


PEERS = {"torch_uncertainty": torch_uncertainty, "baal": baal}


@pytest.mark.parametrize("peer", list(PEERS))
def test_keyed_masks_are_not_dearer_than_a_peer(
    model: str, peer: str, session: Session, record_property: Callable[[str, object], None]
) -> None:
    pytest.importorskip(peer, reason=f'{peer} is not installed: pip install -e ".[peers]"')
    encoder, p, passes = session.encoder(model), session.settings.dropout.p, 16
    if encoder.resolution > 64:
        pytest.skip("the embedded encoders show it")
    pixels = torch.randn(64, 3, encoder.resolution, encoder.resolution, generator=torch.Generator().manual_seed(0))
    tower, count = with_dropout(encoder.image_modules[0][1], p)
    wrapped = PEERS[peer](tower, passes)

    def theirs() -> int:
        with torch.inference_mode():
            wrapped(pixels)
        return len(pixels) * passes

    methods = {
        pass_cost.DETERMINISTIC: pass_cost.deterministic(encoder, pixels, passes),
        "sparse": pass_cost.monte_carlo(encoder, pixels, passes, Dropout(p)),
        peer: theirs,
    }
    with one_thread():
        found = pass_cost.compare(methods, 9, encoder.device)
    ours = len(find_sites(encoder).select("all"))
    record_property(peer, f"{found[peer]} forwards at {count} sites; keyed masks {found['sparse']} at {ours}")
    print(f"\n{model}: {peer} {found[peer]} forwards at {count} sites, keyed masks {found['sparse']} at {ours}")
    assert found["sparse"].q25 <= found[peer].q75


LAPLACE_CEILING = 1.5
"""Times the peer's cost: it gives one variance in float32, ours two in float64."""


def test_laplace_of_the_last_layer_costs_about_what_a_peer_s_does(
    model: str, session: Session, record_property: Callable[[str, object], None]
) -> None:
    """The posterior over the class weights, fitted on the same features and read on the same others."""
    peer = pytest.importorskip("laplace", reason='laplace-torch is not installed: pip install -e ".[peers]"')
    encoder, n = session.encoder(model), 256
    if encoder.resolution > 64:
        pytest.skip("the embedded encoders show it")
    images, pixels = session.image_set(Images(2 * n)), session.pixels(model, Images(2 * n)).batch(slice(n, None))
    features = session.measure(Features(model, Images(2 * n)))["features"]
    fitted, new, ids = features[:n], features[n:], images.ids
    head = replace(ZeroShot.of(encoder, images.class_names, TEMPLATES[0]), likelihood="softmax")
    ours = Laplace.last_layer(head, fitted, ids[:n])
    layer = nn.Linear(encoder.feature_dim, len(head.weights), bias=False)
    layer.weight.data = torch.from_numpy(head.weights).float()
    labels = torch.from_numpy(head.logits(fitted).argmax(1))
    unit = functional.normalize(torch.from_numpy(features))
    theirs = peer.Laplace(layer, "classification", subset_of_weights="all", hessian_structure="full")
    theirs.fit(DataLoader(TensorDataset(unit[:n], labels), batch_size=n))
    plain = pass_cost.deterministic(encoder, pixels, 1)

    def by_ours() -> int:
        ours.scores(ids[n:], new)
        return plain()

    def by_theirs() -> int:
        theirs(unit[n:], pred_type="glm", link_approx="probit")
        return plain()

    methods = {pass_cost.DETERMINISTIC: plain, "mcdo": by_ours, "laplace-torch": by_theirs}
    with one_thread():
        found = pass_cost.compare(methods, 9, encoder.device)
    said = f"laplace-torch {found['laplace-torch']} forwards, mcdo {found['mcdo']}"
    record_property("Laplace of the last layer", said)
    print(f"\n{model}: Laplace of the last layer with its forward: {said}")
    assert found["mcdo"].q25 <= LAPLACE_CEILING * found["laplace-torch"].q75
