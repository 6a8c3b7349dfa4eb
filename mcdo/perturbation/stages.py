"""Passes that begin where their noise does: a tower whose batch grows from stage to stage.

A pass that disturbs late sites alone is deterministic before them, so it need not be carried out there. The tower runs
once; where a stage begins (a block, or the pooling head), rows that repeat the deterministic row of each image join the
batch, and only the sites of that stage are disturbed in them. So a pass costs what is left of the tower, and noise of
one stage does not stand in the way of another's. Where a row can join is tried and not assumed: undisturbed, it must
give the features of its image.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mcdo.encoders import Encoder
from mcdo.errors import McdoError
from mcdo.perturbation.intercept import Compute, LinearMaps
from mcdo.perturbation.kinds import Rademacher
from mcdo.perturbation.masks import MaskedSite
from mcdo.perturbation.signs import KeyedSigns
from mcdo.perturbation.sites import Site, find_sites, forget_sites

STEP = 0.1
"""Standard deviation of the factors inside the tower: small, so that it stays straight."""
TRIED_INPUTS, PILOT_INPUTS, PILOT_PASSES = 2, 8, 8
CLOSE = 1e-4
"""Of the features' norm, by which rows of one image may differ: batches of another size are multiplied otherwise."""
_NUMBER = re.compile(r"\.\d+(?=\.|$)")


@dataclass(frozen=True)
class Stage:
    """A part of the tower.

    Attributes:
        start: name of the module that it begins with; "" where it begins with the pixels.
        sites: numbers of its sites.
        cost: of the tower from here on, as a share of all products of all linear maps.

    """

    start: str
    sites: tuple[int, ...]
    cost: float


class _NoStartError(Exception):
    """Rows cannot join the batch at this module."""


@dataclass
class _Pass:
    """One run of the tower: how many images, and the rows of each stage that has begun."""

    images: int
    rows: int
    begun: dict[int, slice] = field(default_factory=dict)


class StagedTower:
    """The encoder's tower with signs at ``sites``, stage by stage.

    Args:
        encoder: the encoder.
        kind: of the signs; its p does not matter, for differences are in proportion.
        sites: alive sites of ``kind``, in forward order.
        seed: of the signs.

    Attributes:
        seed: as given.
        stages: in forward order; none holds ``closed``.
        closed: number of the last site, if what it puts out is the feature itself: what its noise does is known.

    """

    def __init__(self, encoder: Encoder, kind: Rademacher, sites: tuple[Site, ...], seed: int) -> None:
        self.encoder, self.sites, self.seed = encoder, sites, seed
        self._table = find_sites(encoder)
        self._modules = dict(encoder.model.named_modules())
        self._number = {site: i for i, site in enumerate(sites)}
        masked = [MaskedSite(f"{s.name} {kind.mask_name} stages", math.prod(s.shape), kind.p) for s in sites]
        self._signs, self._pilot = KeyedSigns(masked, seed, STEP), KeyedSigns(masked, 0, STEP)
        self._stage_of: dict[int, int] = {}
        self.stages: tuple[Stage, ...] = ()
        self.closed: int | None = None
        self._find()

    # ---- the stages

    def _find(self) -> None:
        self.closed = self._last_site()
        inputs = self.encoder.calibration_inputs(TRIED_INPUTS)
        starts: list[tuple[str, list[int]]] = []
        refused: set[str] = set()  # blocks are alike: what fails in one is not tried in the next
        passed: set[str] = set()
        for i, site in enumerate(self.sites):
            if i == self.closed:
                continue
            around = self._modules_around(site)
            for name in reversed(around):
                if name in passed or _NUMBER.sub(".#", name) in refused:
                    continue
                if self._joins([*starts, (name, [i])], inputs):
                    starts.append((name, [i]))
                    break
                refused.add(_NUMBER.sub(".#", name))
            else:
                if not starts:
                    starts.append(("", []))
                starts[-1][1].append(i)
            passed.update(around)
        if not self._joins(starts, inputs):
            raise McdoError(
                f"{self.encoder.key}: rows that repeat an image do not give its features, so its images are not "
                "independent in a batch; take passes of mcdo.Rademacher with mcdo.monte_carlo"
            )

    def _modules_around(self, site: Site) -> list[str]:
        """Modules that hold a site, the outermost first."""
        parts = site.name.split(".")
        names = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
        return [name for name in names if name in self._modules]

    def _last_site(self) -> int | None:
        """The number of the site whose output is the feature itself."""
        seen: dict[int, Tensor] = {}

        def handle(weight: Tensor, part: str, compute: Compute) -> Tensor:
            y, number = compute(), self._at(weight, part)
            if number is not None:
                seen[number] = y
            return y

        with torch.inference_mode(), LinearMaps(handle):
            features = self.encoder.forward_image(self.encoder.calibration_inputs(TRIED_INPUTS), exact=True)
        last = max(seen)
        alike = seen[last].shape == features.shape and torch.equal(seen[last].float(), features.float())
        return last if alike else None

    def _set(self, starts: list[tuple[str, list[int]]]) -> None:
        weights = [math.prod(site.shape) * (site.input_shape or (1,))[-1] for site in self.sites]
        self.stages = tuple(
            Stage(start, tuple(held), sum(weights[held[0] :]) / sum(weights)) for start, held in starts if held
        )
        self._stage_of = {i: number for number, stage in enumerate(self.stages) for i in stage.sites}

    def _joins(self, starts: list[tuple[str, list[int]]], inputs: Tensor) -> bool:
        """Whether rows can join at every start before the sites of its stage, and give the features of their image."""
        self._set(starts)
        try:
            plain, moved = self._run(inputs, [(0,)] * len(self.stages), None)
        except (_NoStartError, RuntimeError, TypeError):
            return False
        near = CLOSE * plain.norm(dim=-1).max()
        return all(bool(((piece - plain[:, None]).norm(dim=-1) <= near).all()) for piece in moved)

    # ---- passes

    def allotted(self, forwards: float) -> tuple[int, ...]:
        """Passes of each stage, at least one, that cost up to ``forwards`` with the deterministic one.

        As many as are best by Neyman (1934): in proportion to a stage's share of the trace, on the encoder's fixed
        inputs and with fixed signs, over the root of what a pass of it costs.

        Raises:
            McdoError: where not even one of each can be had.

        """
        weights = self._shares() / np.sqrt([stage.cost for stage in self.stages])

        def passes(scale: float) -> tuple[int, ...]:
            return tuple(max(1, int(scale * weight)) for weight in weights)

        def cost(each: tuple[int, ...]) -> float:
            return 1 + sum(n * stage.cost for n, stage in zip(each, self.stages, strict=True))

        if cost(passes(0)) > forwards:
            raise McdoError(
                f"{self.encoder.key} has {len(self.stages)} stages, and a pass of each costs {cost(passes(0)):.1f} "
                f"forwards with the deterministic one: give at least that, not {forwards:g}"
            )
        low, high = 0.0, forwards / float((weights * [stage.cost for stage in self.stages]).sum()) * 2
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if cost(passes(middle)) <= forwards else (low, middle)
        return passes(low)

    def _shares(self) -> NDArray[np.float64]:
        """Of each stage in the variance across the feature, ``[G]``, on a few fixed inputs."""
        inputs = self.encoder.calibration_inputs(PILOT_INPUTS)
        plain, moved = self._run(inputs, [range(PILOT_PASSES)] * len(self.stages), 0, self._pilot)
        unit = plain / plain.norm(dim=-1, keepdim=True)
        found = []
        for piece in moved:
            apart = piece - plain[:, None]
            along = torch.einsum("btd,bd->bt", apart, unit)
            across = (apart.square().sum(-1) - along.square()).mean(1)
            found.append(float((across / plain.square().sum(-1)).mean()))
        shares = np.array(found)
        return np.asarray(shares / shares.sum()) if shares.sum() > 0 else np.full(len(shares), 1 / len(shares))

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, passes: Sequence[Sequence[int]], trial: int) -> tuple[Tensor, list[Tensor]]:
        """Features ``[B, D]``, and of each stage what its signs move them by, ``[B, T, D]``, for p / (1 - p) = 1.

        Args:
            pixels: of B images.
            passes: numbers of each stage's T passes: their signs follow from them.
            trial: number of the trial.

        """
        plain, moved = self._run(pixels, passes, trial, self._signs)
        return plain, [(piece - plain[:, None]) / STEP for piece in moved]

    @torch.inference_mode()
    def _run(
        self, pixels: Tensor, passes: Sequence[Sequence[int]], trial: int | None, signs: KeyedSigns | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        images = len(pixels)
        run = _Pass(images, images)
        numbers = [torch.tensor(tuple(each), dtype=torch.int64, device=pixels.device) for each in passes]

        def join(rows: Tensor, number: int) -> Tensor:
            if len(rows) != run.rows:
                raise _NoStartError
            run.begun[number] = slice(run.rows, run.rows + images * len(passes[number]))
            run.rows = run.begun[number].stop
            return torch.cat((rows, rows[:images].repeat_interleave(len(passes[number]), dim=0)))

        def handle(weight: Tensor, part: str, compute: Compute) -> Tensor:
            y, number = compute(), self._at(weight, part)
            if number is None or number == self.closed or number not in self._stage_of:
                return y
            stage = self._stage_of[number]
            if stage not in run.begun or len(y) % run.rows:
                raise _NoStartError
            if trial is None or signs is None:
                return y
            y, windows = y.contiguous(), len(y) // run.rows
            held = run.begun[stage]
            piece = y[held.start * windows : held.stop * windows]
            signs.disturb_passes_(piece, number, trial, 0, images, numbers[stage])
            return y

        thread = threading.get_ident()

        def hook(number: int) -> Any:  # without keywords: one that another thread takes off meanwhile is given none
            def before(module: nn.Module, args: tuple[Any, ...]) -> Any:
                if threading.get_ident() != thread:  # the module is every thread's, and so are its hooks
                    return None
                if not args or not isinstance(args[0], Tensor) or number in run.begun:
                    raise _NoStartError
                return (join(args[0], number), *args[1:])

            return before

        with ExitStack() as hooks, LinearMaps(handle) as maps:
            for number, stage in enumerate(self.stages):
                if stage.start:
                    hooks.callback(self._modules[stage.start].register_forward_pre_hook(hook(number)).remove)
            rows = pixels if not self.stages or self.stages[0].start else join(pixels, 0)
            features = self.encoder.forward_image(rows, exact=True).float()
        if maps.made != self._table.made:
            forget_sites(self.encoder)
            raise McdoError(f"{self.encoder.key}: the tower has changed since its sites were found. Measure again")
        if len(features) != run.rows or len(run.begun) != len(self.stages):
            raise _NoStartError
        pieces = [features[run.begun[n]].view(images, len(passes[n]), -1) for n in range(len(self.stages))]
        return features[:images], pieces

    def _at(self, weight: Tensor, part: str) -> int | None:
        site = self._table.at(weight, part)
        return None if site is None else self._number.get(site)
