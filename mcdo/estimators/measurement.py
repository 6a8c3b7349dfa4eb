"""The pass loop: it runs over blocks of images, and for each over trials and blocks of ``PASS_BLOCK`` passes.

One forward pass carries several images times up to ``PASS_BLOCK`` passes. Nothing comes to the host before all trials
of a block of images are done, so that a GPU never waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcdo.encoders import Encoder
from mcdo.estimators.blocks import BlockLoop
from mcdo.estimators.moments import accumulator_dtype
from mcdo.estimators.overflow import check_features, check_finite
from mcdo.estimators.progress import Progress, SoFar
from mcdo.estimators.resumption import Keeper, check_columns
from mcdo.estimators.rounding import check_rounding
from mcdo.estimators.run import MonteCarloConfig, MonteCarloRun, Scores
from mcdo.estimators.score_table import geometry_scores, moment_scores
from mcdo.estimators.scores import EIGENVALUES, DimensionWeights, PassMoments
from mcdo.estimators.shown import Prepared, Shown
from mcdo.perturbation import PASS_BLOCK, PerturbedTower, deterministic_features, image_keys, perturbed
from mcdo.store import Arrays, check_shapes


def check_scores(arrays: Arrays, trials: int, n: int, passes: set[int], geometry: set[int]) -> None:
    """Raise ValueError or KeyError unless there are scores ``[K, N]`` at all T, and eigenvalues where geometry is."""
    _, values, eigenvalues = MonteCarloRun.split_arrays(arrays)
    check_shapes(arrays, {f"{name}@{t}": (trials, n) for name, t in values})
    check_shapes(arrays, {f"eigenvalues@{t}": (trials, n, EIGENVALUES) for t in {*eigenvalues, *geometry}})
    if any({t for each, t in values if each == name} not in (passes, geometry) for name, _ in values) or not values:
        raise ValueError("its scores were taken at other T")


@dataclass(frozen=True)
class Trial:
    """What one trial of B images gives, on the device.

    Attributes:
        scores: ``[B]`` by (name, T), from moments.
        passes: ``[B, T, D]``, as many as geometry needs.
        finite: bool ``[B, T]``, whether each pass is.

    """

    scores: dict[tuple[str, int], Tensor]
    passes: Tensor
    finite: Tensor


class Running:
    """A trial that is under way: how many passes are ``done``, and all that goes on from there."""

    def __init__(self) -> None:
        self.done = 0
        self.moments = PassMoments.empty()
        self.held: list[Tensor] = []
        self.finite: list[Tensor] = []
        self.scores: dict[tuple[str, int], Tensor] = {}


def state_of(trials: Sequence[Trial], running: Running) -> dict[str, NDArray[Any]]:
    """Finished trials and the one under way by flat names, for :func:`resumed`."""
    state: dict[str, Tensor] = {}
    for number, trial in enumerate(trials):
        state |= {f"{number}/score/{name}@{t}": value for (name, t), value in trial.scores.items()}
        state |= {f"{number}/passes": trial.passes, f"{number}/finite": trial.finite}
    if running.done:
        state |= {f"running/score/{name}@{t}": value for (name, t), value in running.scores.items()}
        state |= {f"running/moments/{name}": value for name, value in running.moments.state().items()}
        state |= {"running/done": torch.tensor(running.done), "running/finite": torch.cat(running.finite, dim=1)}
    if running.held:
        state["running/passes"] = torch.cat(running.held, dim=1)
    return {name: value.cpu().numpy() for name, value in state.items()}


def resumed(state: Arrays | None, device: torch.device) -> tuple[list[Trial], Running]:
    """Trials that go on, to the same bits, where :func:`state_of` was taken; of None the first one, at its begin."""
    by_trial: dict[str, dict[str, Tensor]] = {}
    for name, value in (state or {}).items():
        number, slash, rest = name.partition("/")
        if slash:
            by_trial.setdefault(number, {})[rest] = torch.from_numpy(np.array(value)).to(device)
    running, now = Running(), by_trial.pop("running", {})
    if now:
        running.done, running.finite, running.scores = int(now["done"]), [now["finite"]], _scores_in(now)
        running.held = [now["passes"]] if "passes" in now else []
        running.moments = PassMoments.of({n.removeprefix("moments/"): v for n, v in now.items() if "moments/" in n})
    held = [by_trial[str(number)] for number in range(len(by_trial))]
    return [Trial(_scores_in(each), each["passes"], each["finite"]) for each in held], running


def _scores_in(named: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    found = {}
    for name, value in named.items():
        if name.startswith("score/"):
            score, _, t = name.removeprefix("score/").rpartition("@")
            found[score, int(t)] = value
    return found


class Measurement:
    """One run: its inputs, and the arrays that it fills.

    Args:
        encoder: the encoder.
        images: N images.
        config: the protocol.
        pixels: prepared pixels of ``images``.
        weights: for weighted_trace and topk_trace.
        rows: rows (images × passes) of one forward pass; halved when memory runs out.

    """

    def __init__(
        self,
        encoder: Encoder,
        images: Shown,
        config: MonteCarloConfig,
        pixels: Prepared,
        weights: DimensionWeights | None,
        rows: int,
    ) -> None:
        self.encoder, self.images, self.config, self.pixels, self.weights = encoder, images, config, pixels, weights
        self.loop = BlockLoop(encoder, len(images), rows, PASS_BLOCK)
        self.keys = image_keys(images.mask_ids, encoder.device)
        if weights is not None:
            weights.on(encoder.device)  # copied before the loop
        self.features = np.zeros((len(images), encoder.feature_dim), dtype=np.float32)
        self.values: dict[tuple[str, int], Scores] = {}
        self.eigenvalues: dict[int, Scores] = {
            t: np.full((config.trials, len(images), EIGENVALUES), np.nan) for t in config.geometry
        }

    def check_part(self, part: Arrays, facts: Mapping[str, Any]) -> None:
        """Raise ValueError or KeyError unless :meth:`restore` can take over a part."""
        n = check_columns(part["columns"], len(self.images))
        check_shapes(part, {"features": (n, self.encoder.feature_dim)})
        check_scores(part, self.config.trials, n, set(self.config.passes), set(self.config.geometry))

    def restore(self, parts: Iterable[Arrays]) -> None:
        """Take over what :meth:`arrays` gave in an earlier process."""
        for part in parts:
            columns = part["columns"]
            features, values, eigenvalues = MonteCarloRun.split_arrays(part)
            self.features[columns] = features
            for key, value in values.items():
                self._scores(key)[:, columns] = value
            for t, value in eigenvalues.items():
                self.eigenvalues[t][:, columns] = value
            self.loop.restored[columns] = True

    def arrays(self, columns: NDArray[np.int64]) -> dict[str, NDArray[np.floating]]:
        """What was measured of some images, by flat names."""
        part: dict[str, NDArray[np.floating]] = {"features": self.features[columns]}
        part |= {f"{name}@{t}": value[:, columns] for (name, t), value in self.values.items()}
        return part | {f"eigenvalues@{t}": value[:, columns] for t, value in self.eigenvalues.items()}

    def so_far(self) -> SoFar | None:
        """trace_pre at the largest T, of the images that are done."""
        found = self.values.get(("trace_pre", self.config.passes[-1]))
        done = np.flatnonzero(self.loop.restored)
        return None if found is None else (found[:, done], [self.images.origins[i] for i in done])

    def run(self, bar: Progress, keeper: Keeper) -> None:
        """Measure what was not restored.

        Raises:
            McdoError: where rounding is a large part of the variance over passes, or as :meth:`_images`.

        """
        check_rounding(self.encoder, self.config.dropout, self.config.seed, self.pixels, self.keys)
        with perturbed(self.encoder, self.config.dropout, self.config.seed) as tower:
            tower.before_map = self.loop.check_wanted
            passes = self.config.trials * self.config.passes[-1]
            self.loop.run(lambda start, stop: self._images(tower, start, stop), keeper, bar, passes)

    def _images(self, tower: PerturbedTower, start: int, stop: int) -> None:
        """All trials of images ``start:stop``."""
        pixels = self.pixels.batch(slice(start, stop))
        plain = deterministic_features(self.encoder, pixels)
        trials = self._trials(tower, pixels, plain, start, stop)
        self.features[start:stop] = plain.float().cpu().numpy()
        ids = self.images.ids[start:stop]
        good = np.asarray(np.isfinite(self.features[start:stop]).all(axis=1))
        check_features(self.encoder, good, ids, "not finite")
        check_finite(self.encoder, torch.stack([each.finite for each in trials]).cpu(), ids)
        for trial, found in enumerate(trials):
            scores = dict(found.scores)
            for t in self.config.geometry:
                shaped, leading = geometry_scores(found.passes[:, :t], self.config.scores)
                scores |= {(name, t): score for name, score in shaped.items()}
                self.eigenvalues[t][trial, start:stop] = leading.numpy()
            values = _on_host(list(scores.values()))
            for key, value in zip(scores, values, strict=True):
                self._scores(key)[trial, start:stop] = value

    def _scores(self, key: tuple[str, int]) -> Scores:
        """The array of a score at a T, made when it is first wanted."""
        if key not in self.values:
            self.values.setdefault(key, np.full((self.config.trials, len(self.images)), np.nan))
        return self.values[key]

    def _trials(self, tower: PerturbedTower, pixels: Tensor, plain: Tensor, start: int, stop: int) -> list[Trial]:
        """All trials of images ``start:stop``, those passes left out that an earlier process kept."""
        trials, running = resumed(self.loop.begun(start, stop), pixels.device)
        passed = len(trials) * self.config.passes[-1] + running.done
        self.loop.tick(passed * len(pixels))

        def state() -> Arrays:
            return state_of(trials, running)

        while len(trials) < self.config.trials:
            trials.append(self.trial(tower, pixels, plain, start, len(trials), running, state))
            running = Running()
        return trials

    def trial(
        self,
        tower: PerturbedTower,
        pixels: Tensor,
        plain: Tensor,
        start: int,
        trial: int,
        running: Running | None = None,
        state: Callable[[], Arrays] | None = None,
    ) -> Trial:
        """One trial of the images from ``start`` on; ``plain`` holds their deterministic features.

        It goes on where ``running`` is; ``state`` gives what is kept of the block of images after each batch.
        """
        keys = self.keys[start : start + len(pixels)]
        now = Running() if running is None else running
        hold_until = max(self.config.geometry, default=0)
        for features in tower.passes(pixels, keys, trial, self.config.passes[-1], self.loop.rows, now.done):
            now.finite.append(features.isfinite().all(-1))
            for piece in _cut(features, now.done, self.config.passes):
                now.moments.update(piece)
                now.done += piece.shape[1]
                if now.done <= hold_until:
                    now.held.append(piece)
                if now.done in self.config.passes:
                    taken = moment_scores(now.moments.at(plain, self.weights), self.config.scores)
                    now.scores |= {(name, now.done): s for name, s in taken.items()}
            self.loop.tick(features.shape[0] * features.shape[1], state)
        held = torch.cat(now.held, dim=1) if now.held else plain[:, None][:, :0]
        return Trial(now.scores, held, torch.cat(now.finite, dim=1))


def _on_host(scores: Sequence[Tensor]) -> Scores:
    """float64 ``[scores, B]``, in one copy; MPS has what needs float64 on the CPU already."""
    devices = {score.device for score in scores}
    together = scores if len(devices) == 1 else [score.cpu() for score in scores]
    values: Scores = (
        torch.stack([score.to(accumulator_dtype(score.device)) for score in together]).cpu().double().numpy()
    )
    return values


def _cut(features: Tensor, done: int, passes: Sequence[int]) -> list[Tensor]:
    """Split ``[B, P, D]``, which follows ``done`` passes, at every T of ``passes`` that lies inside it."""
    last = done + features.shape[1]
    edges = [done, *(t for t in passes if done < t < last), last]
    return [features[:, a - done : b - done] for a, b in itertools.pairwise(edges)]
