"""What a pass costs, in forward equivalents: multiples of the deterministic forward pass of one image.

Absolute times of a shared machine mean little, so every way is timed in turn with the deterministic pass, round by
round, and the ratio is taken inside each round. An operation has one thread, as the pass loop gives it.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from mcdo.encoders import Encoder, find_spec
from mcdo.estimators.jacobian import SiteGraph
from mcdo.estimators.rows import pixel_rows
from mcdo.harness import Claim, Experiment, Files, Inputs, Request, Settings, Subject, View
from mcdo.harness.requests import Arrays, StoredArrays
from mcdo.harness.session import Session
from mcdo.perturbation import (
    PASS_BLOCK,
    Dropout,
    LinearPart,
    Perturbation,
    Rademacher,
    TiedDropout,
    check_alive,
    find_sites,
    perturbed,
)
from mcdo.perturbation.context import active
from mcdo.perturbation.intercept import Compute, LinearMaps, carry_out
from mcdo.perturbation.masks import image_keys
from mcdo.perturbation.stages import StagedTower
from mcdo.report.figures import Panel
from mcdo.report.panels import interval_panel
from mcdo.stats import Estimate
from mcdo.threads import one_thread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DETERMINISTIC = "deterministic"
NATIVE, SPARSE, TIED, TIED_OVER_IMAGES = "native", "sparse", "tied over tokens", "tied over tokens and images"
SIGNS, LINEAR = "signs", "linear part"
FIRST_ORDER = "first order"
DIFFERENCES = "forward differences"
SMALL_PX = 64
"""Inputs up to this side are timed in batches of as many images, larger ones one by one."""
CEILINGS = {"embedded": 1.15, "large": 1.03, "cuda": 1.05}
"""Forward equivalents that a keyed pass may cost at p <= 0.05: with inputs up to 64 px on a CPU, larger ones, a GPU."""
FIRST_ORDER_CEILING = 10.0
"""Forward equivalents of a first-order score with eight probes."""
MEMORY_CEILING = 3.0
"""Peak memory of a keyed pass on CUDA, in that of the deterministic pass."""

Way = Callable[[], int]
"""Carries out some image-passes, and returns how many."""


def takes_small_inputs(model: str) -> bool:
    """Whether an encoder is known, before it is loaded, to take inputs of at most ``SMALL_PX``; a factory's is not."""
    spec = find_spec(model)
    return spec.backend != "own" and spec.resolution <= SMALL_PX


def with_probes(count: int) -> str:
    """Name of first order with ``count`` probes among the ways."""
    return f"{FIRST_ORDER} R={count}"


def within(forwards: int) -> str:
    """Name of forward differences at a nominal cost among the ways."""
    return f"{DIFFERENCES} within {forwards}"


# ---- the ways


def deterministic(encoder: Encoder, pixels: Tensor, passes: int) -> Way:
    """The model's own forward pass, with nothing of ours around it."""
    rows = pixels.repeat_interleave(passes, dim=0)

    def run() -> int:
        with torch.inference_mode():
            encoder.forward_image(rows)
        return len(rows)

    return run


def convolved_once(encoder: Encoder, pixels: Tensor, passes: int) -> Way:
    """The deterministic pass with a patch embedding once an image, as keyed passes have it: what masks cost beside."""
    rows = pixels.repeat_interleave(passes, dim=0)

    def run() -> int:
        with torch.inference_mode(), LinearMaps(carry_out, rows, passes):
            encoder.forward_image(rows)
        return len(rows)

    return run


def native(encoder: Encoder, pixels: Tensor, passes: int, kind: Perturbation) -> Way:
    """Torch's own dropout at the same sites."""
    rows = pixels.repeat_interleave(passes, dim=0)
    table, sites = find_sites(encoder), set(find_sites(encoder).select_for(kind))

    def drop(weight: Tensor, part: str, compute: Compute) -> Tensor:
        y = compute()
        wanted = table.at(weight, part) in sites
        return functional.dropout(y, kind.p, training=True) if wanted else y

    def run() -> int:
        with torch.inference_mode(), LinearMaps(drop):
            encoder.forward_image(rows)
        return len(rows)

    return run


def keyed(encoder: Encoder, pixels: Tensor, passes: int, kind: Perturbation) -> Way:
    """The passes of the perturbed tower, as every measurement takes them; another trial at each call."""
    keys = image_keys([f"image {i}" for i in range(len(pixels))], encoder.device)
    trials = iter(range(10**9))
    with perturbed(encoder, kind, seed=0) as tower:  # looked at once, as in the pass loop
        pass

    def run() -> int:
        with active(tower):
            return sum(piece.shape[0] * piece.shape[1] for piece in tower.passes(pixels, keys, next(trials), passes))

    return run


def first_order(encoder: Encoder, pixels: Tensor, probes: int, kind: Perturbation) -> Way:
    """One image's scores from ``probes`` vector-Jacobian products count as one image-pass."""
    sites = check_alive(encoder, pixels[:1], kind)
    directions = torch.randn(probes, encoder.feature_dim, generator=torch.Generator().manual_seed(0))

    def run() -> int:
        graph = SiteGraph(encoder, pixels, kind, sites)
        for i, direction in enumerate(directions.to(encoder.device)):
            graph.terms(direction, last=i == probes - 1)
        return len(pixels)

    return run


def differences(encoder: Encoder, pixels: Tensor, forwards: int, kind: Rademacher) -> Way:
    """One image's scores from passes that begin where their noise does count as one image-pass, as in a run."""
    tower = StagedTower(encoder, kind, check_alive(encoder, pixels[:1], kind), seed=0)
    passes, trials = [range(n) for n in tower.allotted(forwards)], iter(range(10**9))
    at_once = max(1, pixel_rows(encoder, None) // forwards)
    pieces = [pixels[start : start + at_once] for start in range(0, len(pixels), at_once)]

    def run() -> int:
        trial = next(trials)
        for piece in pieces:
            tower(piece, passes, trial)
        return len(pixels)

    return run


def ways(
    encoder: Encoder, p: float, probes: Sequence[int], forwards: Sequence[int] = ()
) -> dict[str, Callable[[], Way]]:
    """How to make each way of a model ready, at the shape of one forward pass of the pass loop."""
    small = encoder.resolution <= SMALL_PX
    images = SMALL_PX if small else 1 if encoder.device.type == "cpu" else PASS_BLOCK
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(images, 3, encoder.resolution, encoder.resolution, generator=generator).to(encoder.device)
    few = pixels.repeat((4 * SMALL_PX if small else PASS_BLOCK) // images, 1, 1, 1)  # whose graph is held at once
    passes = (encoder, pixels, PASS_BLOCK)
    return {
        DETERMINISTIC: partial(deterministic, *passes),
        NATIVE: partial(native, *passes, Dropout(p)),
        SPARSE: partial(keyed, *passes, Dropout(p)),
        TIED: partial(keyed, *passes, TiedDropout(p)),
        TIED_OVER_IMAGES: partial(keyed, *passes, TiedDropout(p, over_images=True)),
        SIGNS: partial(keyed, *passes, Rademacher(p)),
        LINEAR: partial(keyed, *passes, LinearPart(Dropout(p))),
        **{with_probes(r): partial(first_order, encoder, few, r, Dropout(p)) for r in probes},
        **{within(f): partial(differences, encoder, few, f, Rademacher(p)) for f in forwards},
    }


# ---- times


def synchronise(device: torch.device) -> None:
    """Wait for what the device was given, before a clock is read."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    elif device.type == "mps":
        torch.mps.synchronize()


def timed(methods: Mapping[str, Way], rounds: int, device: torch.device) -> NDArray[np.float64]:
    """Seconds of one image-pass ``[methods, rounds]``: in each round every method in turn, after a round to warm up.

    On a CPU these are seconds of this thread, which does all of the work: what others do meanwhile is not counted.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter

    def seconds(method: Way) -> float:
        start = clock()
        passes = method()
        synchronise(device)
        return (clock() - start) / passes

    with one_thread():
        return np.array([[seconds(method) for method in methods.values()] for _ in range(rounds + 1)])[1:].T


@dataclass(frozen=True)
class Cost:
    """Forward equivalents of one image-pass: median over rounds, and the quartiles; ``seconds`` is one image-pass."""

    ratio: float
    q25: float
    q75: float
    seconds: float
    rounds: int

    @classmethod
    def of(cls, seconds: ArrayLike, reference: ArrayLike) -> Cost:
        """From seconds ``[rounds]``, each over the reference's of the same round."""
        taken = np.asarray(seconds, dtype=np.float64)
        q25, median, q75 = np.quantile(taken / np.asarray(reference), [0.25, 0.5, 0.75])
        return cls(float(median), float(q25), float(q75), float(np.median(taken)), len(taken))

    @property
    def estimate(self) -> Estimate:
        """The ratio, with its quartiles over rounds."""
        return Estimate(self.ratio, self.q25, self.q75, self.rounds, level=0.5)

    def __str__(self) -> str:
        return f"{self.ratio:.2f} [{self.q25:.2f}, {self.q75:.2f}]"


def machine(device: torch.device) -> dict[str, Any]:
    """Where times were taken, JSON-able."""
    gpu = device.type == "cuda" and torch.cuda.is_available()
    name = torch.cuda.get_device_name(device) if gpu else platform.processor() or platform.machine()
    python = platform.python_version()
    return {"device": device.type, "name": name, "cores": os.cpu_count(), "python": python, "torch": torch.__version__}


@dataclass(frozen=True)
class Times(StoredArrays):
    """Seconds of one image-pass of each of ``names``: ``seconds`` [ways, rounds].

    ``peak_bytes`` [ways] is the most memory that a call takes on CUDA; NaN elsewhere.
    """

    what = "times of passes"

    names: tuple[str, ...]
    p: float
    rounds: int

    def identity(self, session: Session) -> Mapping[str, Any]:
        here = machine(session.encoder(self.model).device)  # another machine has other ratios too
        return {"ways": self.names, "p": self.p, "rounds": self.rounds, "machine": here}

    def compute(self, session: Session) -> Arrays:
        encoder = session.encoder(self.model)
        probes = [int(name.partition("R=")[2]) for name in self.names if name.startswith(FIRST_ORDER)]
        forwards = [int(name.rpartition(" ")[2]) for name in self.names if name.startswith(DIFFERENCES)]
        made = ways(encoder, self.p, probes, forwards)
        methods = {name: made[name]() for name in self.names}
        return {
            "seconds": timed(methods, self.rounds, encoder.device),
            "peak_bytes": np.array([_peak_bytes(method, encoder.device) for method in methods.values()]),
        }


def _peak_bytes(method: Way, device: torch.device) -> float:
    if device.type != "cuda":
        return float("nan")
    torch.cuda.reset_peak_memory_stats(device)
    method()
    return float(torch.cuda.max_memory_allocated(device))


# ---- the experiment


def ceiling(encoder: Encoder) -> float:
    """Forward equivalents that a keyed pass may cost on this encoder."""
    small = encoder.resolution <= SMALL_PX
    return CEILINGS["cuda" if encoder.device.type != "cpu" else "embedded" if small else "large"]


@dataclass(frozen=True)
class PassCosts:
    """What each way costs.

    Attributes:
        by_way: forward equivalents of one image-pass.
        native_over_keyed: native dropout in keyed passes, paired within rounds.
        memory: peak memory of a keyed pass in that of the deterministic one; None where it is not known.
        ceiling: of a keyed pass here.
        small: whether inputs are small, so that images are timed in batches.
        machine: where it was measured.

    """

    by_way: Mapping[str, Cost]
    native_over_keyed: Cost
    memory: float | None
    ceiling: float
    small: bool
    machine: Mapping[str, Any]


def subject_on(device: str, model: str) -> Subject:
    """A model; findings about cost were measured on a CPU, so another device is named."""
    return Subject(model if device == "cpu" else f"{model} on {device}", (model,))


def small_subjects(settings: Settings) -> tuple[Subject, ...]:
    """The session's models with small inputs: others would take hours."""
    return tuple(subject_on(settings.device, model) for model in settings.models if takes_small_inputs(model))


@dataclass(frozen=True)
class PassCost(Experiment[PassCosts]):
    """Every way in turn with the deterministic pass, ``rounds`` times; fewer for inputs above 64 px."""

    key = "perf"
    name = "pass_cost"
    phase = "perf"
    files = Files(summary="{}.json", overall="passes.json", figure="{}.png")
    quick = {"rounds": 5}

    rounds: int = 15
    rounds_of_large: int = 5
    probes: tuple[int, ...] = (1, 2, 4, 8, 16)
    probes_of_large: tuple[int, ...] = (1, 2, 8)
    forwards: tuple[int, ...] = (8, 10, 12, 20)

    @classmethod
    def subjects(cls, settings: Settings) -> tuple[Subject, ...]:
        return tuple(subject_on(settings.device, model) for model in settings.models)

    def times(self, about: View) -> Times:
        """Seconds of every way, all in the same rounds."""
        small = about.encoder().resolution <= SMALL_PX
        probes, rounds = (self.probes, self.rounds) if small else (self.probes_of_large, self.rounds_of_large)
        names = (DETERMINISTIC, NATIVE, SPARSE, TIED, TIED_OVER_IMAGES, SIGNS, LINEAR, *map(with_probes, probes))
        names += tuple(map(within, self.forwards)) if small else ()
        return Times(about.model, names, self.dropout.p, rounds)

    def requests(self, about: View) -> Iterable[Request[Any]]:
        return (self.times(about),)

    def compute(self, inputs: Inputs) -> PassCosts:
        request, encoder = self.times(inputs), inputs.encoder()
        held = inputs[request]
        seconds = dict(zip(request.names, held["seconds"], strict=True))
        peak = dict(zip(request.names, held["peak_bytes"].tolist(), strict=True))
        known = np.isfinite(held["peak_bytes"]).all()
        return PassCosts(
            by_way={name: Cost.of(taken, seconds[DETERMINISTIC]) for name, taken in seconds.items()},
            native_over_keyed=Cost.of(seconds[NATIVE], seconds[SPARSE]),
            memory=peak[SPARSE] / peak[DETERMINISTIC] if known else None,
            ceiling=ceiling(encoder),
            small=encoder.resolution <= SMALL_PX,
            machine=machine(encoder.device),
        )

    def claims(self) -> Sequence[Claim[PassCosts]]:
        ceilings = ", ".join(f"{ceiling:g} ({kind})" for kind, ceiling in CEILINGS.items())
        return [
            Claim(
                "pass_cost",
                lambda r: r.by_way[SPARSE].estimate,
                rule=(f"< {ceilings}", lambda r: r.by_way[SPARSE].estimate.outcome(r.ceiling, "<")),
                beside=lambda r: f"quartiles over rounds; the ceiling here is {r.ceiling:g}",
            ),
            Claim("native_over_keyed", lambda r: r.native_over_keyed.estimate, above=1.0),
            Claim(
                "first_order_cost",
                lambda r: r.by_way[with_probes(8)].estimate if r.small else None,
                below=FIRST_ORDER_CEILING,
                beside=_about_products,
            ),
            Claim(
                "peak_memory",
                lambda r: None if r.memory is None else Estimate(r.memory, r.memory, r.memory, 1),
                below=MEMORY_CEILING,
                beside=lambda r: "times the deterministic pass" if r.memory is not None else "known on CUDA alone",
            ),
        ]

    def summary(self, result: PassCosts) -> Mapping[str, Any]:
        return {
            "costs": result.by_way,
            "native_over_keyed": result.native_over_keyed,
            "peak_memory": result.memory,
            "machine": dict(result.machine),
        }

    def overall(self, result: PassCosts, summary: Mapping[str, Any]) -> Mapping[str, Any]:
        return {section: summary[section] for section in ("costs", "machine")}

    def title(self) -> str:
        return "what an image-pass costs (quartiles over rounds)"

    def panels(self, inputs: Inputs, result: PassCosts) -> Sequence[Panel]:
        def panel(axes: Axes) -> None:
            costs = {name: cost.estimate for name, cost in result.by_way.items()}
            interval_panel(axes, {"way": costs}, None, "forward passes of one image", "way of a pass")
            axes.axhline(result.ceiling, color="grey", linestyle=":", label="ceiling of a keyed pass")
            axes.set_yscale("log")
            axes.legend()

        return [panel]


def _about_products(result: PassCosts) -> str:
    eight, one = (result.by_way[with_probes(count)].ratio for count in (8, 1))
    return f"each further product {(eight - one) / 7:.2f}" + (
        "" if result.small else f"; the ceiling is for inputs up to {SMALL_PX} px, here {eight:.1f}"
    )
