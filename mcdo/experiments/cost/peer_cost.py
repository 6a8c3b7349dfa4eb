"""The same job done by other libraries, where they are installed: ``pip install -e ".[peers]"``.

They need dropout modules in the model, so one is put behind every ``nn.Linear`` that is called as a module. In CLIP's
tower attention is not (trap 1): there they disturb fewer sites, and the number stands beside the time.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from mcdo.encoders.zero_shot import class_prompts
from mcdo.estimators import Laplace, ZeroShot
from mcdo.experiments.cost.pass_cost import (
    DETERMINISTIC,
    SPARSE,
    Cost,
    Way,
    deterministic,
    keyed,
    machine,
    small_subjects,
    timed,
)
from mcdo.harness import Claim, Experiment, Features, Files, Images, Inputs, Request, Settings, Subject, View
from mcdo.harness.requests import Arrays, StoredArrays
from mcdo.harness.session import Session
from mcdo.perturbation import PASS_BLOCK, Dropout
from mcdo.perturbation.sites import find_sites
from mcdo.stats import Estimate

OURS, THEIRS = "mcdo", "laplace-torch"
LAPLACE_CEILING = 1.5
"""Times the peer's cost: it gives one variance in float32, ours two in float64."""


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
"""By the name of the module that has to be installed."""


@dataclass(frozen=True)
class _Times(StoredArrays):
    """``seconds`` [ways, rounds] of one image-pass."""

    rounds: int

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {"rounds": self.rounds, "machine": machine(session.encoder(self.model).device)}


@dataclass(frozen=True)
class DropoutTimes(_Times):
    """Of the deterministic pass, keyed masks and ``peers``; ``sites`` [peers + 1] is how many are disturbed."""

    what = "times of peers"

    peers: tuple[str, ...]
    p: float

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {**super().identity(session), "peers": self.peers, "p": self.p}

    def compute(self, session: Session) -> Arrays:
        encoder = session.encoder(self.model)
        shape = (64, 3, encoder.resolution, encoder.resolution)
        pixels = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(encoder.device)
        methods: dict[str, Way] = {
            DETERMINISTIC: deterministic(encoder, pixels, PASS_BLOCK),
            SPARSE: keyed(encoder, pixels, PASS_BLOCK, Dropout(self.p)),
        }
        sites = [len(find_sites(encoder).select("all"))]
        for peer in self.peers:
            tower, count = with_dropout(encoder.image_modules[0][1], self.p)
            methods[peer] = _called(PEERS[peer](tower, PASS_BLOCK), pixels)
            sites.append(count)
        return {"seconds": timed(methods, self.rounds, encoder.device), "sites": np.array(sites)}


def _called(wrapped: nn.Module, pixels: Tensor) -> Way:
    def run() -> int:
        with torch.inference_mode():
            wrapped(pixels)
        return len(pixels) * PASS_BLOCK

    return run


@dataclass(frozen=True)
class LaplaceTimes(_Times):
    """Of the deterministic pass, and of it with the scores of ``n`` images by this posterior and by laplace-torch's.

    The posterior over the class weights is fitted on ``n`` images and read on as many others, the same for both.
    """

    what = "times of Laplace peers"

    n: int

    def identity(self, session: Session) -> Mapping[str, Any]:
        return {**super().identity(session), "images": session.image_set(Images(2 * self.n)).fingerprint}

    def compute(self, session: Session) -> Arrays:
        encoder, n = session.encoder(self.model), self.n
        images = session.image_set(Images(2 * n))
        pixels = session.pixels(self.model, Images(2 * n)).batch(slice(n, None))
        features = session.measure(Features(self.model, Images(2 * n)))["features"]
        fitted, new, ids = features[:n], features[n:], images.ids
        prompts = class_prompts(encoder, images)[: len(images.class_names)]
        head = replace(ZeroShot.of(encoder, encoder.encode_text(prompts).cpu()), likelihood="softmax")
        ours = Laplace.last_layer(head, fitted, ids[:n])
        layer = nn.Linear(encoder.feature_dim, len(head.weights), bias=False)
        layer.weight.data = torch.from_numpy(head.weights).float()
        labels, unit = torch.from_numpy(head.logits(fitted).argmax(1)), functional.normalize(torch.from_numpy(features))
        made = importlib.import_module("laplace").Laplace
        theirs = made(layer, "classification", subset_of_weights="all", hessian_structure="full")
        theirs.fit(DataLoader(TensorDataset(unit[:n], labels), batch_size=n))
        plain = deterministic(encoder, pixels, 1)

        def after(score: Callable[[], object]) -> Way:
            def run() -> int:
                score()
                return plain()

            return run

        methods = {
            DETERMINISTIC: plain,
            OURS: after(lambda: ours.scores(ids[n:], new)),
            THEIRS: after(lambda: theirs(unit[n:], pred_type="glm", link_approx="probit")),
        }
        return {"seconds": timed(methods, self.rounds, encoder.device)}


@dataclass(frozen=True)
class PeerCosts:
    """What an image-pass costs with each library that is installed.

    Attributes:
        dropout: forward equivalents, keyed masks among them.
        sites: how many each disturbs.
        in_keyed: a peer's cost in keyed passes, paired within rounds.
        laplace: forward equivalents of both posteriors; empty where laplace-torch is missing.
        laplace_ratio: ours in theirs, paired.

    """

    dropout: Mapping[str, Cost]
    sites: Mapping[str, int]
    in_keyed: Mapping[str, Cost]
    laplace: Mapping[str, Cost]
    laplace_ratio: Cost | None


@dataclass(frozen=True)
class PeerCost(Experiment[PeerCosts]):
    """Every library in turn with the deterministic pass; Laplace on ``n`` images. Inputs up to 64 px show it."""

    key = "perf"
    name = "peer_cost"
    phase = "perf"
    files = Files(summary="{}.json")
    quick = {"rounds": 3, "n": 60}
    sized = {}

    rounds: int = 9
    n: int = 256

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return small_subjects(settings)

    def dropout_times(self, model: str) -> DropoutTimes:
        """Of the peers that are installed."""
        return DropoutTimes(model, self.rounds, tuple(peer for peer in PEERS if find_spec(peer)), self.dropout.p)

    def laplace_times(self, model: str) -> tuple[LaplaceTimes, ...]:
        """None where laplace-torch is missing."""
        return (LaplaceTimes(model, self.rounds, self.n),) if find_spec("laplace") else ()

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (self.dropout_times(about.model), *self.laplace_times(about.model))

    def compute(self, inputs: Inputs) -> PeerCosts:
        request = self.dropout_times(inputs.model)
        held = inputs[request]
        seconds = dict(zip((DETERMINISTIC, SPARSE, *request.peers), held["seconds"], strict=True))
        laplace = [inputs[each]["seconds"] for each in self.laplace_times(inputs.model)]
        by_library = [dict(zip((DETERMINISTIC, OURS, THEIRS), each, strict=True)) for each in laplace]
        return PeerCosts(
            dropout={name: Cost.of(taken, seconds[DETERMINISTIC]) for name, taken in seconds.items()},
            sites=dict(zip((SPARSE, *request.peers), held["sites"].tolist(), strict=True)),
            in_keyed={peer: Cost.of(seconds[peer], seconds[SPARSE]) for peer in request.peers},
            laplace={name: Cost.of(t, found[DETERMINISTIC]) for found in by_library for name, t in found.items()},
            laplace_ratio=next((Cost.of(found[OURS], found[THEIRS]) for found in by_library), None),
        )

    def claims(self) -> Sequence[Claim[PeerCosts]]:
        laplace = Claim[PeerCosts](
            "laplace_cost",
            lambda r: None if r.laplace_ratio is None else r.laplace_ratio.estimate,
            below=LAPLACE_CEILING,
            beside=lambda r: (
                f"in forwards: {r.laplace[OURS]}, theirs {r.laplace[THEIRS]}" if r.laplace else _missing("laplace")
            ),
        )
        return [*map(self._not_cheaper, PEERS), laplace]

    def _not_cheaper(self, peer: str) -> Claim[PeerCosts]:
        def estimate(result: PeerCosts) -> Estimate | None:
            return result.in_keyed[peer].estimate if peer in result.in_keyed else None

        def beside(result: PeerCosts) -> str:
            if peer not in result.in_keyed:
                return _missing(peer)
            each = (f"{result.dropout[name]} at {result.sites[name]} sites" for name in (peer, SPARSE))
            return "in forwards: {}, keyed masks {}".format(*each)

        return Claim(f"in_keyed_passes/{peer}", estimate, at_least=1.0, beside=beside)

    def summary(self, result: PeerCosts) -> Mapping[str, Any]:
        return {
            "costs": result.dropout,
            "sites_disturbed": dict(result.sites),
            "in_keyed_passes": result.in_keyed,
            "laplace": result.laplace,
        }


def _missing(module: str) -> str:
    return f'{module} is not installed: pip install -e ".[peers]"'
