"""Generated tracking sequences with known truth, for exp9.

Objects move on crossing paths, and one that passes behind another may be missed. Their appearance is either synthetic,
with noise of a known variance, so that an oracle exists; or that of images under graded degradation, as an encoder sees
them, so that the encoder's own uncertainty is on trial.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mcdo.experiments.phase3.exp9_tracking.frames import ADAPTIVE, Array, Frame


@dataclass(frozen=True)
class Scene:
    """The moving objects of generated sequences.

    Objects cross a square of side 2 on straight lines that meet near its centre at about mid-sequence. The position of
    a detection, and the prediction of a track, are off by normal noise of sd ``motion_noise``/√2 each, so that
    motion_cost = d²/(2·motion_noise²) is the negative log-likelihood of a pair up to a constant. When two objects are
    nearer than ``occlusion_distance``, the one behind is missed with probability ``missed``.
    """

    objects: int = 8
    frames: int = 30
    motion_noise: float = 0.3
    occlusion_distance: float = 0.1
    missed: float = 0.5


Appearance = Callable[[NDArray[np.int64], int, NDArray[np.bool_]], tuple[Array, Mapping[str, Array]]]
"""(objects detected, frame, which of them are near another) → (appearance cost [objects, detected], uncertainties)."""


def generate(scene: Scene, rng: np.random.Generator, appearance: Appearance) -> tuple[Frame, ...]:
    """One sequence; tracks are given in every frame, one for each object, in a fixed order."""
    paths = _paths(scene, rng)
    names = tuple(f"track{o}" for o in range(scene.objects))
    frames = []
    for t, place in enumerate(paths):
        detected, near = _seen(scene, place, rng)
        sd = scene.motion_noise / np.sqrt(2)
        predicted, observed = (place + rng.normal(0, sd, place.shape) for _ in range(2))
        squared = np.square(predicted[:, None] - observed[None, detected]).sum(-1)
        looks, uncertainty = appearance(detected, t, near[detected])
        found = tuple(f"{t}/{j}" for j in range(len(detected)))
        truth = tuple(map(int, detected))
        motion = squared / (2 * scene.motion_noise**2)
        frames.append(Frame(t, names, tuple(range(scene.objects)), found, truth, motion, looks, uncertainty))
    return tuple(frames)


def _paths(scene: Scene, rng: np.random.Generator) -> Array:
    """True positions ``[frames, objects, 2]``."""
    angle = rng.uniform(0, 2 * np.pi, scene.objects)
    start = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    middle = rng.normal(0, 0.2, start.shape)
    when = rng.uniform(0.35, 0.65, (scene.objects, 1))
    time = np.linspace(0, 1, scene.frames)[:, None, None]
    moving: Array = start + (middle - start) * time / when
    return moving


def _seen(scene: Scene, place: Array, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Objects that are detected, in a random order (the order of detections must say nothing), and who is occluded."""
    gaps = np.linalg.norm(place[:, None] - place[None], axis=-1)
    in_front = np.tril(np.ones_like(gaps, dtype=bool), -1)  # a smaller number is nearer to the camera
    near = ((gaps < scene.occlusion_distance) & in_front).any(axis=1)
    detected = ~near | (rng.random(scene.objects) >= scene.missed)
    return rng.permutation(np.flatnonzero(detected)), near


@dataclass(frozen=True)
class SyntheticLooks:
    """Appearance with known noise: a template per object, seen in ``dim`` dimensions under noise of a known variance.

    A detection's sd is log-uniform in ``sd_range``, and ``occluded_factor`` times as large when the object is partly
    hidden. appearance_cost = d²/(2·m²) with m² the median variance, so that dividing by variance/median gives the
    log-likelihood: the oracle's association is the most likely one, at α = β = 1. The uncertainties: "oracle" is that
    variance; "adaptive" is the oracle times log-normal noise of sd ``blur`` (an estimate that ranks imperfectly);
    "shuffled" is the oracle dealt out anew among the detections of the frame, so it says nothing.
    """

    dim: int = 8
    sd_range: tuple[float, float] = (0.2, 3.0)
    occluded_factor: float = 2.0
    blur: float = 0.7


def synthetic_sequence(scene: Scene, looks: SyntheticLooks, seed: tuple[int, ...]) -> tuple[Frame, ...]:
    """A sequence with known truth and oracle; the same for the same ``seed`` (a tuple of whole numbers >= 0)."""
    rng = np.random.default_rng(seed)
    templates = rng.normal(size=(scene.objects, looks.dim))
    low, high = np.log(looks.sd_range)
    median = np.exp((low + high) / 2) ** 2

    def appearance(detected: NDArray[np.int64], frame: int, near: NDArray[np.bool_]) -> tuple[Array, dict[str, Array]]:
        sd = np.exp(rng.uniform(low, high, len(detected))) * np.where(near, looks.occluded_factor, 1.0)
        seen = templates[detected] + sd[:, None] * rng.normal(size=(len(detected), looks.dim))
        cost = np.square(templates[:, None] - seen[None]).sum(-1) / (2 * median)
        variance = sd**2
        estimate = variance * np.exp(rng.normal(0, looks.blur, len(sd)))
        return cost, {ADAPTIVE: estimate, "oracle": variance, "shuffled": rng.permutation(variance)}

    return generate(scene, rng, appearance)


Group = tuple[NDArray[np.int64], ...]
"""Originals, each with the numbers of its images."""


def dealt(origins: Sequence[str], size: int, seed: tuple[int, ...]) -> list[Group]:
    """All originals dealt into groups of ``size``, at random; those that are left over are in none.

    Sequences of different groups share no original, so a group is what an interval over sequences counts.
    """
    names, members = np.unique(np.asarray(origins), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    images = [np.flatnonzero(members == number) for number in order]
    return [tuple(images[start : start + size]) for start in range(0, len(images) - size + 1, size)]


def image_sequence(
    scene: Scene, templates: Array, seen: Array, known: Mapping[str, Array], group: Group, seed: tuple[int, ...]
) -> tuple[Frame, ...]:
    """A sequence whose objects are images, the same for the same ``seed``.

    A track looks like its clean image; each of its detections is that image at a degradation drawn anew.
    appearance_cost is the cosine distance of their features. Mode "oracle" is the distance of a detection from its own
    clean image, which only the truth knows, and "shuffled" is the oracle dealt out anew in the frame.

    Args:
        scene: the moving objects.
        templates: unit features ``[N, D]`` of the clean images.
        seen: unit features ``[L, N, D]`` at every degradation.
        known: by mode, uncertainties ``[L, N]``, all positive.
        group: an original for each object, of which one image is drawn.
        seed: whole numbers >= 0.

    """
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.choice(group[number]) for number in rng.permutation(len(group))])
    least = np.finfo(np.float32).eps  # of a distance between float32 features; an uncertainty must be positive

    def appearance(detected: NDArray[np.int64], frame: int, near: NDArray[np.bool_]) -> tuple[Array, dict[str, Array]]:
        level, image = rng.integers(0, len(seen), len(detected)), chosen[detected]
        looks = seen[level, image]
        oracle = np.maximum(cosine_distance(templates[image], looks), least)
        cost = cosine_distance(templates[chosen][:, None], looks[None])
        scores = {mode: score[level, image] for mode, score in known.items()}
        return cost, {**scores, "oracle": oracle, "shuffled": rng.permutation(oracle)}

    return generate(scene, rng, appearance)


def cosine_distance(a: Array, b: Array) -> Array:
    """1 − cosine of unit vectors, from the chord: never negative, and exact for near ones."""
    return np.asarray(np.square(a - b).sum(-1) / 2)
