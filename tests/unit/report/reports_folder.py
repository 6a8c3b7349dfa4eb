"""A folder of reports as experiments write it, made by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mcdo.names import file_name
from mcdo.report.figures import draw, save_figure
from mcdo.report.files import write_json
from mcdo.report.judgement import Judgement, Outcome
from mcdo.stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = "exp_norms"


def judgement(claim: str, outcome: Outcome, value: float, low: float, high: float, bar: float = 0.3) -> Judgement:
    return Judgement(claim, outcome, Estimate(value, low, high, 120), f"> {bar:g}", "beside it", None, (bar,))


JUDGEMENTS = (
    judgement("follows/trace_pre", "met", 0.5, 0.4, 0.6),
    judgement("follows/trace_post", "not met", 0.1, 0.05, 0.15),
    judgement("beyond/trace_post", "undecided", 0.3, 0.2, 0.4),
    Judgement("beyond/other", "not applicable", None, "> 0.3", "no labels", None, (0.3,)),
)


def summary(model: str = "clip_tiny", **changed: Any) -> dict[str, Any]:
    return {
        "model": model,
        "accuracy": Estimate(0.975, 0.96, 0.985, 120).as_dict(),
        "rho": 0.5,
        "rho_ci": [0.4, 0.6],
        "n": 120,
        "claims": [each.as_dict() for each in JUDGEMENTS],
        "config": {"seed": 42, "dropout": {"kind": "Dropout", "p": 0.01, "sites": "all"}},
        "num_images": 500,
        "num_origins": 120,
        "sites": {"requested": "all", "live": ["a", "b"], "roles": ["fc1", "fc2"]},
        "provenance": {"encoder": model, "random_weights": False, "device": "cpu", "versions": {"torch": "2"}},
        "experiment": {
            "key": "norms",
            "name": NAME,
            "phase": "phase1",
            "question": "Does the score follow the norm?",
            "reading": "It is read in :mod:`mcdo.some.where`.\n\nTwice.",
        },
        "files": {"folder": f"phase1/{NAME}", "figure": "norms.png", "arrays": ["norms.npz"]},
        "made": {"time": "2026-01-02T03:04:05+00:00", "mcdo": "0.1.0", "python": "3.11.7", "commit": "abc"},
        **changed,
    }


VERDICT: dict[str, Any] = {
    "decision": "GO",
    "reason": "usable from T=64 on",
    "published": "GO",
    "statements": ["clip_tiny trace_pre: reliable from T=64 on, not valid"],
    "cells": [
        {
            "model": "clip_tiny", "score": "trace_pre", "passes": 64, "estimator": "mc", "n_images": 500,
            "n_trials": 10, "status": "usable", "p_usable": 0.001, "usable": "met",
            **{name: Estimate(0.9, 0.85, 0.95, 120).as_dict() for name in ("spearman", "snr", "icc")},
        }
    ],
    "models": ["clip_tiny"], "images": "digits", "originals": 120, "protocol": "quick", "dropout": 0.01,
    "sites": "all", "own_gates": {"a": "passed", "b": "skipped"},
}  # fmt: skip


RATE: dict[str, Any] = {
    "model": "clip_tiny", "passes": 8_930_400, "seconds": 892.0, "device": "cpu", "threads": 2, "machine": "x86_64",
    "made": {"time": "2026-01-02T03:04:05+00:00", "mcdo": "0.1.0", "python": "3.11.7", "commit": "abc"},
}  # fmt: skip


def png() -> str:
    held = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode("ascii")


def panel(axes: Axes) -> None:
    axes.plot([1, 2], [0.4, 0.6], label="a line")
    axes.set(xlim=(0.9, 2.1), xlabel="passes T", ylabel="ρ [95 %]")
    axes.legend()


@cache
def figure() -> Mapping[str, bytes]:
    """The files of a figure of two panels by their names, drawn once: that takes longer than all else here."""
    with TemporaryDirectory() as folder:
        save_figure(draw([panel, panel], "norms"), Path(folder) / "norms.png")
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def write(folder: Path, model: str = "clip_tiny", **changed: Any) -> Path:
    """One experiment with its figure and a contact sheet, and a verdict."""
    place = folder / "phase1" / NAME
    write_json(place / f"{file_name(model)}_summary.json", summary(model, **changed))
    for name, content in figure().items():
        (place / name).write_bytes(content)
    tiles = [{"id": f"image {i}", "class": "seven", "caption": f"trace_pre {i}", "png": png()} for i in range(12)]
    sheets = {"model": model, "sheets": [{"title": "most uncertain by trace_pre", "tiles": tiles}]}
    write_json(place / f"{file_name(model)}_sheets.json", sheets)
    write_json(folder / "phase1" / "verdict.json", VERDICT)
    return folder
