"""Which passes rank images best: chosen on images that are not scored, and kept for every later run.

What a pass of common signs says of an image is its trace and an error, and errors of passes that are chosen together
cancel, on other images too. So of several times as many candidates each stage takes those whose mean follows the mean
of all candidates most closely. Weights near one, fitted by ridge regression, then bring the sum over all stages closer
to that of all candidates, and each stage's level is set to that of all. The store keeps the choice by what the encoder
does, the sites, the images that it was made on, seed and trial: it serves every p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.estimators.blocks import prepared
from mcdo.estimators.by_image import of_every_image
from mcdo.estimators.overflow import check_features
from mcdo.estimators.provenance import identity
from mcdo.estimators.resumption import measured_once
from mcdo.estimators.shown import Shown
from mcdo.perturbation.stages import StagedTower
from mcdo.store import Arrays, Store, Unfinished, check_shapes

CANDIDATES = 8
"""So many times the passes are looked at."""
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""How strongly weights are held near one, in units of a pass's mean square: as leaving out each image says best."""


@dataclass(frozen=True, eq=False)
class ChosenPasses:
    """Of one trial.

    Attributes:
        numbers: of each stage's passes.
        weights: float32 ``[2, passes]``, stage after stage: by what the variances of a pass along and across the
            feature are multiplied before those of a stage are averaged.

    """

    numbers: Sequence[Sequence[int]]
    weights: NDArray[np.float32]

    @classmethod
    def first(cls, counts: Sequence[int]) -> ChosenPasses:
        """The first of each stage, as they are."""
        return cls([range(count) for count in counts], np.ones((2, sum(counts)), dtype=np.float32))

    def terms(self, tower: StagedTower, pixels: Tensor, trial: int) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``[B, D]``, and the variance along and across them by stage, ``[B, G]``, for p / (1 - p) = 1."""
        features, *by_pass = _by_pass(*tower(pixels, self.numbers, trial))
        counts = [len(stage) for stage in self.numbers]
        weights = torch.split(torch.from_numpy(self.weights).to(features.device), counts, dim=1)
        along, across = (
            torch.stack([(part * weight[i]).mean(1) for part, weight in zip(terms, weights, strict=True)], -1)
            for i, terms in enumerate(by_pass)
        )
        return features, along, across


def chosen_passes(
    tower: StagedTower,
    calibration: Shown,
    counts: Sequence[int],
    trial: int,
    *,
    batch_size: int,
    store: Store | Path | str | None,
    progress: bool,
) -> ChosenPasses:
    """``counts`` passes of each stage, by the images of ``calibration``; at ``CANDIDATES`` times the cost of these.

    Args:
        tower: whose signs they have.
        calibration: images that are not scored.
        counts: of each stage.
        trial: number of the trial.
        batch_size: images at once.
        store: where the choice is kept; None makes it anew.
        progress: report progress.

    Raises:
        McdoError: for features that are zero or not finite, or a store that cannot be written.

    """
    encoder, every = tower.encoder, [CANDIDATES * count for count in counts]
    signs = {"sites": [site.name for site in tower.sites], "seed": tower.seed, "trial": trial}
    protocol = {**signs, "passes": [*counts], "of": every}

    def key() -> str:
        family = {"method": "chosen passes", "protocol": protocol, **identity(encoder, calibration)}
        return Store.key(family, {"images": calibration.fingerprint})

    def fits(arrays: Arrays, facts: Mapping[str, Any]) -> None:
        check_shapes(arrays, {"numbers": (sum(counts),), "weights": (2, sum(counts))})

    def find(opened: Store, name: str) -> ChosenPasses | None:
        held = opened.get(name, fits)
        if held is None:
            return None
        numbers = np.split(held[0]["numbers"], np.cumsum(counts)[:-1])
        return ChosenPasses([stage.tolist() for stage in numbers], held[0]["weights"])

    def measure(parts: Unfinished | None) -> ChosenPasses:
        def look(rows: Tensor) -> list[Tensor]:
            features, along, across = _by_pass(*tower(rows, [range(count) for count in every], trial))
            return [features.square().sum(-1), torch.cat(along, 1), torch.cat(across, 1)]

        shown = prepared(encoder, calibration)
        squares, *variances = of_every_image(encoder, shown, look, batch_size, progress, parts)
        along, across = (np.split(each.astype(np.float64), np.cumsum(every)[:-1], axis=1) for each in variances)
        check_features(encoder, np.isfinite(variances[1]).all(axis=1) & (squares > 0), calibration.ids)
        relative = [candidates / squares[:, None] for candidates in across]
        numbers = [following(candidates, count) for candidates, count in zip(relative, counts, strict=True)]
        columns = [
            candidates[:, taken] * (_level(candidates, candidates[:, taken]) / len(taken))
            for candidates, taken in zip(relative, numbers, strict=True)
        ]
        goal = np.sum([candidates.mean(axis=1) for candidates in relative], axis=0)
        near = np.split(near_one(np.concatenate(columns, axis=1), goal), np.cumsum(counts)[:-1])
        weights = [
            [w * _level(c, c[:, taken] * w) for c, taken, w in zip(each, numbers, near, strict=True)]
            for each in (along, across)
        ]
        return ChosenPasses(numbers, np.array([np.concatenate(each) for each in weights], dtype=np.float32))

    def packed(chosen: ChosenPasses) -> tuple[Arrays, Mapping[str, Any]]:
        said = f"{sum(counts)} of {sum(every)} passes chosen, trial {trial}"
        label = {"encoder": encoder.key, "images": f"{calibration.name}, {len(calibration)}", "protocol": said}
        return {"numbers": np.concatenate(chosen.numbers), "weights": chosen.weights}, {"label": label}

    return measured_once(store, key, find, measure, packed, progress=progress)


def following(candidates: NDArray[np.float64], count: int) -> list[int]:
    """Columns of ``candidates`` [N, C] whose mean is most correlated with the mean of all, taken one by one."""
    centred = candidates - candidates.mean(axis=0)
    target, total, taken = centred.mean(axis=1), np.zeros(len(centred)), list[int]()
    for _ in range(count):
        tried = total[:, None] + centred
        along, lengths = target @ tried, np.linalg.norm(tried, axis=0)
        score = np.divide(along, lengths, out=np.zeros_like(along), where=lengths > 0)
        score[taken] = -np.inf
        taken.append(int(score.argmax()))
        total += centred[:, taken[-1]]
    return taken


def near_one(columns: NDArray[np.float64], goal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [C], at least 0, under which the sum of ``columns`` [N, C] follows ``goal`` [N] up to a constant.

    Ridge regression of what the plain sum leaves, with the one of ``RIDGES`` that does best on images left out.
    """
    X = columns - columns.mean(axis=0)
    left = goal - goal.mean() - X.sum(axis=1)
    N, C = X.shape
    gram = X.T @ X
    unit = np.trace(gram) / C
    if unit == 0:
        return np.ones(C)
    found = []
    for ridge in RIDGES:
        solved = np.linalg.solve(gram + ridge * unit * np.eye(C), X.T)
        leverage = np.einsum("nc,cn->n", X, solved) + 1 / N
        change = solved @ left
        error = np.square((left - X @ change) / (1 - leverage)).mean()
        found.append((error, np.maximum(1 + change, 0)))
    return np.asarray(min(found, key=lambda each: each[0])[1])


def _level(candidates: NDArray[np.float64], taken: NDArray[np.float64]) -> float:
    """The mean of all candidates in that of those taken."""
    return float(candidates.mean() / taken.mean()) if taken.any() else 1.0


def _by_pass(features: Tensor, moved: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Features ``[B, D]``, and the variance along and across them of every pass, ``[B, T]`` by stage."""
    unit = features / features.norm(dim=-1, keepdim=True)
    along = [torch.einsum("btd,bd->bt", piece, unit).square() for piece in moved]
    return features, along, [piece.square().sum(-1) - part for piece, part in zip(moved, along, strict=True)]
