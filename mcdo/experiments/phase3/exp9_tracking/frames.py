"""Frames of a tracking sequence: what they hold, and how they are read from JSON.

A frame has tracks, detections, and two cost matrices (tracks × detections): how far each detection is from where the
track should be (motion), and how unlike the track it looks (appearance). Detections may carry uncertainties.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError

Array = NDArray[np.float64]
Identity = str | int | None
ADAPTIVE, SUFFIX = "adaptive", "_uncertainty"
_COSTS = ("motion_cost", "appearance_cost")


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: ``n`` tracks and ``m`` detections with what is known of them.

    ``motion`` and ``appearance`` are float64 [n, m], finite and not negative. ``truth`` of a track or a detection is
    the object's identity, or None where nobody labelled it. ``uncertainty`` maps a mode to float64 [m], all positive:
    "adaptive" from the JSON key ``uncertainty``, any other from ``<mode>_uncertainty``.
    """

    frame_id: str | int
    tracks: tuple[str | int, ...]
    track_truth: tuple[Identity, ...]
    detections: tuple[str | int, ...]
    truth: tuple[Identity, ...]
    motion: Array
    appearance: Array
    uncertainty: Mapping[str, Array]


def read_sequence(path: str | Path) -> tuple[Frame, ...]:
    """Frames of a JSON file: a list of frames, or an object with the key ``frames``.

    A frame is {frame_id, tracks: [{id, gt_id}], detections: [{id, gt_id, uncertainty?, <mode>_uncertainty?}],
    motion_cost, appearance_cost}, both costs tracks × detections.

    Raises:
        McdoError: naming the file, the frame's index and what is wrong with it; nothing is left out silently.

    """
    try:
        held = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise McdoError(f"tracking file {path} cannot be read: {error}") from error
    return parse_sequence(held, str(path))


def parse_sequence(held: Any, where: str = "sequence") -> tuple[Frame, ...]:
    """Frames from decoded JSON; errors as :func:`read_sequence`."""
    frames = held.get("frames") if isinstance(held, dict) else held
    if not isinstance(frames, list) or not frames:
        raise McdoError(f"{where}: expected a list of frames, or an object whose 'frames' is one, with at least one")
    parsed = tuple(_frame(frame, f"{where}, frame {i}") for i, frame in enumerate(frames))
    seen: dict[str | int, int] = {}
    for i, frame in enumerate(parsed):
        if frame.frame_id in seen:
            raise McdoError(f"{where}, frame {i}: frame_id {frame.frame_id!r} is that of frame {seen[frame.frame_id]}")
        seen[frame.frame_id] = i
    return parsed


def modes_of(frames: Sequence[Frame]) -> tuple[str, ...]:
    """Modes for which detections carry an uncertainty, in order of appearance.

    Raises:
        McdoError: where some detections have it and others do not: half a mode is none.

    """
    modes = tuple(dict.fromkeys(mode for frame in frames for mode in frame.uncertainty))
    for i, frame in enumerate(frames):
        missing = [mode for mode in modes if mode not in frame.uncertainty]
        if missing and frame.detections:
            raise McdoError(
                f"frame {i} ({frame.frame_id}): its detections lack the uncertainty of mode {missing[0]!r}, which "
                "other frames have; give it to all detections, or to none"
            )
    return modes


def to_json(frames: Sequence[Frame]) -> dict[str, Any]:
    """The sequence as JSON that :func:`parse_sequence` reads back."""
    return {"frames": [_as_json(frame) for frame in frames]}


def _as_json(frame: Frame) -> dict[str, Any]:
    def key(mode: str) -> str:
        return SUFFIX[1:] if mode == ADAPTIVE else mode + SUFFIX

    return {
        "frame_id": frame.frame_id,
        "tracks": [{"id": i, "gt_id": t} for i, t in zip(frame.tracks, frame.track_truth, strict=True)],
        "detections": [
            {"id": i, "gt_id": t, **{key(mode): float(u[j]) for mode, u in frame.uncertainty.items()}}
            for j, (i, t) in enumerate(zip(frame.detections, frame.truth, strict=True))
        ],
        "motion_cost": frame.motion.tolist(),
        "appearance_cost": frame.appearance.tolist(),
    }


def _frame(frame: Any, where: str) -> Frame:
    needed = {"frame_id", "tracks", "detections", *_COSTS}
    missing = sorted(needed - frame.keys()) if isinstance(frame, dict) else sorted(needed)
    if missing:
        raise McdoError(f"{where}: it lacks {', '.join(missing)}")
    (tracks, track_truth), (detections, truth) = (_entries(frame, key, where) for key in ("tracks", "detections"))
    motion, appearance = (_cost(frame, key, (len(tracks), len(detections)), where) for key in _COSTS)
    uncertainty = _uncertainties(frame["detections"], where)
    return Frame(frame["frame_id"], tracks, track_truth, detections, truth, motion, appearance, uncertainty)


def _entries(frame: Mapping[str, Any], key: str, where: str) -> tuple[tuple[str | int, ...], tuple[Identity, ...]]:
    entries = frame[key]
    if not isinstance(entries, list) or not all(isinstance(e, dict) and "id" in e for e in entries):
        raise McdoError(f"{where}: {key} must be a list of objects, each with an 'id' (and a 'gt_id' where known)")
    ids = tuple(e["id"] for e in entries)
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise McdoError(f"{where}: the id {twice!r} occurs twice among its {key}")
    return ids, tuple(e.get("gt_id") for e in entries)


def _cost(frame: Mapping[str, Any], key: str, shape: tuple[int, int], where: str) -> Array:
    stated = f"{where}: {key} must be {shape[0]} tracks x {shape[1]} detections"
    try:
        cost = np.asarray(frame[key], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise McdoError(f"{stated}; it is no rectangular array of numbers") from error
    if cost.size == 0 == shape[0] * shape[1]:
        cost = cost.reshape(shape)
    if cost.shape != shape:
        raise McdoError(f"{stated}; its shape is {' x '.join(map(str, cost.shape)) or 'that of one number'}")
    bad = np.argwhere(~(np.isfinite(cost) & (cost >= 0)))
    if len(bad):
        track, detection = bad[0]
        raise McdoError(
            f"{where}: {key} holds {cost[track, detection]} at track {track}, detection {detection}; costs are finite "
            "and not negative"
        )
    return cost


def _uncertainties(detections: list[dict[str, Any]], where: str) -> dict[str, Array]:
    keys = dict.fromkeys(k for d in detections for k in d if k == SUFFIX[1:] or k.endswith(SUFFIX))
    return {
        key.removesuffix(SUFFIX) if key.endswith(SUFFIX) else ADAPTIVE: _column(detections, key, where) for key in keys
    }


def _column(detections: list[dict[str, Any]], key: str, where: str) -> Array:
    for detection in detections:
        value = detection.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < np.inf:
            raise McdoError(
                f"{where}: {key} of detection {detection['id']!r} is {value!r}; it must be a positive number, given to "
                "all detections or to none (a variance of zero would mean that nothing was perturbed)"
            )
    return np.array([detection[key] for detection in detections], dtype=np.float64)
