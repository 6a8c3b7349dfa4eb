"""Frames of a tracking sequence: what they hold, and how they are read from JSON.

A frame has tracks, detections, and two cost matrices (tracks × detections): how far each detection is from where the
track should be (motion), and how unlike the track it looks (appearance). Detections may carry uncertainties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcdo.errors import McdoError
from mcdo.schema import LIST_LIMIT, NotNegative, OpenRecord, Positive, checked, read_json

Array = NDArray[np.float64]
Identity = str | int | None
ADAPTIVE, SUFFIX = "adaptive", "_uncertainty"


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
    held = read_json(Path(path), list[Any] | dict[str, Any], "a tracking file is a list of frames", limit=LIST_LIMIT)
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


class _Known(OpenRecord, frozen=True):
    """A track or a detection: its id, and the object's identity where that is known."""

    id: str | int
    gt_id: str | int | None = None


class _Stated(OpenRecord, frozen=True):
    """A frame as JSON has it."""

    frame_id: str | int
    tracks: tuple[_Known, ...]
    detections: tuple[dict[str, Any], ...]
    motion_cost: tuple[tuple[NotNegative, ...], ...]
    appearance_cost: tuple[tuple[NotNegative, ...], ...]


def _frame(frame: Any, where: str) -> Frame:
    stated: _Stated = checked(frame, _Stated, where)
    found: tuple[_Known, ...] = checked(frame["detections"], tuple[_Known, ...], f"{where}: detections")
    for name, entries in (("tracks", stated.tracks), ("detections", found)):
        twice = [each for each, count in Counter(entry.id for entry in entries).items() if count > 1]
        if twice:
            raise McdoError(f"{where}: the id {twice[0]!r} occurs twice among its {name}")
    shape = len(stated.tracks), len(found)
    return Frame(
        frame_id=stated.frame_id,
        tracks=tuple(each.id for each in stated.tracks),
        track_truth=tuple(each.gt_id for each in stated.tracks),
        detections=tuple(each.id for each in found),
        truth=tuple(each.gt_id for each in found),
        motion=_cost(stated.motion_cost, shape, f"{where}: motion_cost"),
        appearance=_cost(stated.appearance_cost, shape, f"{where}: appearance_cost"),
        uncertainty=_uncertainties(frame["detections"], where),
    )


def _cost(rows: tuple[tuple[float, ...], ...], shape: tuple[int, int], where: str) -> Array:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        widths = " or ".join(str(width) for width in sorted({len(row) for row in rows})) or "0"
        raise McdoError(f"{where} must be {shape[0]} tracks x {shape[1]} detections; it is {len(rows)} x {widths}")
    cost = np.array(rows, dtype=np.float64).reshape(shape)
    if not np.isfinite(cost).all():
        track, detection = np.argwhere(~np.isfinite(cost))[0]
        raise McdoError(f"{where} holds {cost[track, detection]} at track {track}, detection {detection}")
    return cost


def _uncertainties(detections: list[dict[str, Any]], where: str) -> dict[str, Array]:
    keys = dict.fromkeys(k for d in detections for k in d if k == SUFFIX[1:] or k.endswith(SUFFIX))
    return {
        key.removesuffix(SUFFIX) if key.endswith(SUFFIX) else ADAPTIVE: _column(detections, key, where) for key in keys
    }


def _column(detections: list[dict[str, Any]], key: str, where: str) -> Array:
    """Given to all detections or to none; a variance of zero would mean that nothing was perturbed."""
    for detection in detections:
        checked(detection.get(key), Positive, f"{where}: {key} of detection {detection['id']!r}")
    return np.array([detection[key] for detection in detections], dtype=np.float64)
